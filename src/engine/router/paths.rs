//! Keeping the way to each peer: probes, path MTU, rekeying, and finding a
//! direct path where frames are relayed.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use crypto::Session;
use proto::{
    Endpoint, PeerId,
    datagram::{SessionIndex, TRANSPORT_OVERHEAD},
    message::{Message, Padding, PathMessage},
};
use rand::Rng;

use super::{
    super::{
        counters::DropReason,
        handshakes::Purpose,
        output::Origin,
        peers::{Direct, Peer},
        timing::{DIRECT_RETRY, HUSH, IDLE, MEET_AGAIN, PROBE, URGENT},
    },
    Router,
    roaming::is_worth_a_probe,
};

/// What the tick found to do for one peer.
#[derive(Default)]
struct Chores {
    retired: Vec<SessionIndex>,
    probes: Vec<(Endpoint, usize)>,
    rekey: bool,
    dead: bool,
    /// The path broke, or may have: the way round it is to be ready.
    warm: bool,
    suspect: bool,
    stale: bool,
    seek_direct: bool,
    idle: bool,
}

impl Router {
    /// Looks at every peer; called each [`super::TICK`].
    pub(super) fn tick(&mut self, now: Instant) {
        self.end_lingering();
        self.end_wanted(now);
        self.end_doubts(now);
        let ids: Vec<PeerId> = self.peers.keys().copied().collect();
        for id in ids {
            self.tend(id, now);
        }
        self.end_forgotten_esp(now);
        self.announce_observed(now);
        let counters = &self.snapshot.shared.counters;
        let unanswered = self.handshakes.take_over_rate();
        counters.add(DropReason::HandshakeRate, unanswered);
    }

    fn tend(&mut self, id: PeerId, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let chores = peer.chores(now);
        if !chores.retired.is_empty() {
            self.release(&chores.retired);
        }
        for (address, size) in chores.probes {
            self.send_probe(id, address, size, now);
        }
        self.dirty.paths |= chores.suspect;
        if chores.warm {
            self.warm_detour(id, now);
        }
        if chores.dead
            || (chores.stale
                && self
                    .mesh
                    .routes()
                    .next_hop(&id)
                    .is_some_and(|hop| hop.next != id))
        {
            self.lose_direct(id, now);
        }
        if chores.rekey {
            self.rekey(id, now);
        }
        if chores.seek_direct {
            self.seek_direct(id, now);
        }
        self.scout(id, now);
        self.tend_fast(id, now);
        if chores.idle {
            self.forget_peer(id);
        }
    }

    fn rekey(&mut self, id: PeerId, now: Instant) {
        let purpose = Purpose::Session(id);
        if self.handshakes.is_under_way(purpose) {
            return;
        }
        let way = match self.peers.get(&id).and_then(|p| p.direct.as_ref()) {
            Some(direct) => Origin::Direct(direct.address),
            None => Origin::Relayed(id),
        };
        self.handshakes.begin(purpose, vec![way], now);
    }

    fn forget_peer(&mut self, id: PeerId) {
        self.send_path_message(id, None, None, &PathMessage::Close);
        if let Some(mut peer) = self.peers.remove(&id) {
            let gone = peer.restart();
            self.release(&gone);
        }
    }

    /// Sends a probe whose UDP payload is `size` bytes.
    pub(super) fn send_probe(&mut self, id: PeerId, address: Endpoint, size: usize, now: Instant) {
        let token = self.rng.random();
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let Some(direct) = peer.direct.as_mut() else {
            return;
        };
        direct.probes.insert(token, (now, address));
        if size > 0 {
            direct.pmtu.sent(token, size);
        }
        let asks = address == direct.address && size <= direct.pmtu.datagram();
        if asks {
            direct.unanswered_since.get_or_insert(now);
            direct.asked_at = now;
        }
        let message = PathMessage::Probe {
            token,
            padding: padding(token, size),
        };
        self.send_path_message(id, None, Some(address), &message);
        if asks {
            self.hasten(now);
        }
    }

    /// A path is in doubt: it is looked at before the next tick.
    pub(super) fn hasten(&mut self, now: Instant) {
        self.urgent_at.get_or_insert(now + URGENT);
    }

    /// Looks at the peers whose paths are in doubt; called each [`URGENT`] while
    /// there are any.
    pub(super) fn tend_urgent(&mut self, now: Instant) {
        let urgent = |(id, peer): (&PeerId, &Peer)| peer.is_urgent(now).then_some(*id);
        let urgent: Vec<PeerId> = self.peers.iter().filter_map(urgent).collect();
        self.urgent_at = (!urgent.is_empty()).then_some(now + URGENT);
        for id in urgent {
            self.tend(id, now);
        }
    }

    pub(super) fn handle_ack(
        &mut self,
        id: PeerId,
        token: u64,
        observed: Option<SocketAddr>,
        origin: Origin,
        now: Instant,
    ) {
        let Origin::Direct(from) = origin else { return };
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let direct = peer.direct.as_mut();
        if let Some((direct, (sent, address))) = direct.and_then(|direct| {
            let probe = direct.probes.remove(&token)?;
            Some((direct, probe))
        }) {
            if address != from || from != direct.address {
                return;
            }
            self.dirty.paths |= direct.suspect;
            direct.answered(now);
            direct.measure(now.duration_since(sent));
            if direct.pmtu.acked(token, now) {
                self.dirty.paths = true;
            }
        } else if let Some(sent) = peer.scout.answered(token, from) {
            self.handle_scout_ack(id, (from, sent), now);
        } else {
            return;
        }
        if let Some(observed) = observed {
            self.note_observed(id, observed, now);
        }
    }

    /// Another peer sees this one at an address: it may be dialled there.
    fn note_observed(&mut self, by: PeerId, address: SocketAddr, now: Instant) {
        if is_worth_a_probe(&address) && self.observed.report(by, address, now) {
            self.announce_observed(now);
        }
    }

    fn announce_observed(&mut self, now: Instant) {
        if self.observed.update(now) {
            self.announce_endpoints(now);
        }
    }

    /// The direct path is no more; the session lives on.
    pub(super) fn lose_direct(&mut self, id: PeerId, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let Some(lost) = peer.direct.take() else {
            return;
        };
        peer.announced = false;
        peer.scout.moved();
        peer.fast.leave(now);
        peer.direct_retry_at = now + DIRECT_RETRY;
        self.dirty.paths = true;
        self.hang_up(lost.address);
        self.mesh.session_closed(id, now);
    }

    pub(super) fn is_unconfirmed(&self, id: PeerId, index: SessionIndex) -> bool {
        let sessions = self.peers.get(&id).map(|peer| &peer.sessions);
        sessions.is_some_and(|held| {
            held.iter()
                .any(|h| h.session.local() == index && !h.confirmed)
        })
    }

    pub(super) fn session(&self, id: PeerId, index: SessionIndex) -> Option<Arc<Session>> {
        let held = self
            .peers
            .get(&id)?
            .sessions
            .iter()
            .find(|h| h.session.local() == index)?;
        Some(Arc::clone(&held.session))
    }
}

impl Peer {
    fn chores(&mut self, now: Instant) -> Chores {
        self.observe(now);
        let mut chores = Chores {
            retired: self.retire(now),
            ..Chores::default()
        };
        let active = self.is_active(now);
        let rekey = self
            .sending()
            .is_some_and(|h| h.rekey.due(now, h.session.sent()));
        chores.rekey = rekey && (self.link || active);
        let (link, wanted) = (self.link, active && self.current.is_some());
        let fast = self.fast.is_up();
        let sign = match (self.falls_quiet(now), self.is_hushed(now)) {
            (true, _) if !fast => Sign::Quiet,
            (false, true) if !fast => Sign::Hushed,
            (true, _) | (false, _) => Sign::None,
        };
        let ready = self.current.is_some();
        match self.direct.as_mut().filter(|_| ready) {
            Some(direct) => {
                direct.chores(link, active, now, &mut chores);
                if link || active {
                    direct.watch(sign, now, &mut chores);
                }
            }
            // The next hop may not know where this host is now.
            None => chores.warm = sign == Sign::Quiet,
        }
        if chores.suspect {
            self.hurry_meeting(now);
        }
        let better = match &self.direct {
            Some(direct) => {
                (direct.address.is_tcp() || direct.suspect) && ready && (link || active)
            }
            None => wanted,
        };
        if better && now >= self.direct_retry_at {
            self.direct_retry_at = now + DIRECT_RETRY;
            chores.seek_direct = true;
        }
        chores.idle = !self.link && now.duration_since(self.used_at) >= IDLE;
        if self.link {
            self.used_at = now;
        }
        chores
    }

    /// The path has just become suspect, and the peer may have no sign of it: the
    /// pause after the last attempt is cut short.
    fn hurry_meeting(&mut self, now: Instant) {
        let earliest = self.direct_retry_at.checked_sub(DIRECT_RETRY - MEET_AGAIN);
        let earliest = earliest.map_or(now, |at| at.max(now));
        self.direct_retry_at = self.direct_retry_at.min(earliest);
    }
}

/// What frames tell of a path without any probe.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sign {
    None,
    /// They go out and none come in. It is so of many that need no answer, too.
    Hushed,
    /// They came in steadily, and stay away.
    Quiet,
}

impl Direct {
    fn chores(&mut self, link: bool, active: bool, now: Instant, chores: &mut Chores) {
        self.forget_probes(now);
        let address = self.address;
        // Most sessions end as they began, as those with a target that is full: only
        // a path that is used is worth the search.
        if link || active {
            let sizes = self.pmtu.probes(now, self.rtt, active);
            let probes = sizes.into_iter().map(|size| (address, size));
            chores.probes.extend(probes);
        }
        if !link && active && now >= self.probe_at {
            self.probe_at = now + PROBE;
            chores.probes.push((address, 0));
        }
        // Gossip watches over links; other paths are watched here.
        chores.dead = !link && self.is_dead(now);
        chores.stale = !link && !active && self.is_stale(now);
    }
}

impl Direct {
    /// Sees at once that a path breaks while it is used. A datagram that got
    /// lost is no reason to leave it: it is asked several times.
    fn watch(&mut self, sign: Sign, now: Instant, chores: &mut Chores) {
        let silent = now.duration_since(self.answered_at) >= HUSH;
        let ask = match (self.unanswered_since, sign) {
            (None, Sign::None) => false,
            (None, Sign::Hushed) => silent,
            (_, Sign::Quiet) => true,
            (Some(_), Sign::None | Sign::Hushed) => self.is_to_be_asked_again(now),
        };
        if ask {
            chores.probes.push((self.address, 0));
            chores.warm = self.unanswered_since.is_some() || sign == Sign::Quiet;
        }
        if !self.suspect && self.is_late(now, Duration::ZERO) {
            (self.suspect, chores.suspect) = (true, true);
        }
    }
}

/// The padding that makes a probe's datagram `size` bytes long.
pub(super) fn padding(token: u64, size: usize) -> Padding {
    let bare = Message::Path(PathMessage::Probe {
        token,
        padding: Padding(0),
    })
    .encode()
    .len();
    let rest = size.saturating_sub(TRANSPORT_OVERHEAD + 1 + bare);
    // The length itself takes one byte per seven bits (LEB128); the first is in `bare`.
    let extra = match rest {
        0..=127 => 0,
        128..=16_384 => 1,
        _ => 2,
    };
    Padding(u16::try_from(rest - extra.min(rest)).unwrap_or(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_is_as_large_as_it_claims() {
        for size in [
            100, 159, 160, 161, 162, 163, 508, 1200, 1472, 8952, 16_440, 16_441, 16_442, 60_000,
        ] {
            let message = Message::Path(PathMessage::Probe {
                token: 7,
                padding: padding(7, size),
            });
            let len = message.encode().len() + 1 + TRANSPORT_OVERHEAD;
            assert!(len <= size && len + 1 >= size, "{size}: {len}");
        }
    }
}
