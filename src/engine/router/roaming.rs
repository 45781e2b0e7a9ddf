//! A peer's address changes, or there may be a better way to it: NATs are
//! pierced, UDP is left for TCP and taken again, and a peer that moves is
//! followed, all with the sessions there are.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use proto::{
    Endpoint, PeerId,
    message::{CAN_MEET, PathMessage},
};
use rand::Rng;

use super::{
    super::{
        output::Origin,
        peers::{Direct, Peer},
        scout::Verdict,
        timing::{DIRECT_RETRY, TCP_COURTESY, TCP_HANDICAP},
    },
    Event, Router,
};

/// Endpoints of a peer that are probed at once.
const MAX_SOUGHT: usize = 16;
/// Addresses of a silent neighbour that are tried over TCP at once.
const MAX_TCP: usize = 4;
/// Between two attempts over TCP.
const TCP_RETRY: Duration = Duration::from_millis(500);

/// What a link over an endpoint costs beside its round-trip time.
pub(super) fn handicap(endpoint: Endpoint) -> Duration {
    if endpoint.is_tcp() {
        TCP_HANDICAP
    } else {
        Duration::ZERO
    }
}

impl Router {
    /// Looks for a direct path by UDP, and has the peer do the same: each lets
    /// the other's probes through the NAT that it is behind.
    pub(super) fn seek_direct(&mut self, id: PeerId, now: Instant) {
        let Some(peer) = self.peers.get(&id) else {
            return;
        };
        let asked = peer.capabilities & CAN_MEET != 0 && self.config.mesh.discovery;
        let sought = self.udp_ways(id, &[]);
        if sought.is_empty() && !asked {
            return;
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.scout.search(sought, asked, now);
            self.scout(id, now);
        }
    }

    fn ask_to_meet(&mut self, id: PeerId) {
        let endpoints = self.announced_endpoints();
        self.send_path_message(id, None, None, &PathMessage::Meet { endpoints });
    }

    /// The peer seeks a direct path right now.
    pub(super) fn handle_meet(
        &mut self,
        id: PeerId,
        endpoints: &[SocketAddr],
        origin: Origin,
        now: Instant,
    ) {
        let discovery = self.config.mesh.discovery;
        let Some(peer) = self.peers.get_mut(&id).filter(|_| discovery) else {
            return;
        };
        // It does not ask while its own way works, and this end may have nothing to
        // send that would show it. By TCP it asks though that works, and along it.
        let is_doubtful = |d: &&mut Direct| !d.suspect && Origin::Direct(d.address) != origin;
        let doubted = peer.direct.as_mut().filter(is_doubtful);
        let doubted = doubted.map(|direct| {
            direct.suspect = true;
            direct.address
        });
        if let Some(here) = doubted {
            self.dirty.paths = true;
            self.send_probe(id, here, 0, now);
        }
        let sought = self.udp_ways(id, endpoints);
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        if peer.scout.met_until.is_some_and(|until| now < until) {
            return;
        }
        // Whoever is named is probed, and need not be a peer at all: no member, nor
        // many together, may have this one send much to others.
        if !self.named.take(now, sought.len() as u64) {
            return;
        }
        peer.scout.met_until = Some(now + DIRECT_RETRY / 2);
        // Each end has its rounds: one search at a time is enough.
        peer.direct_retry_at = now + DIRECT_RETRY;
        peer.scout.search(sought, false, now);
        self.scout(id, now);
    }

    /// Where the peer may be reached by UDP: as it says itself, by gossip and
    /// just now, and where it was last.
    fn udp_ways(&self, id: PeerId, said: &[SocketAddr]) -> Vec<Endpoint> {
        let last = self.peers.get(&id).and_then(|peer| peer.scout.udp);
        let known = self.addresses_of(id);
        let mut ways: Vec<Endpoint> = Vec::new();
        for address in last.iter().chain(said).chain(&known) {
            let way = Endpoint::Udp(*address);
            if !ways.contains(&way) && self.is_elsewhere(address) {
                ways.push(way);
            }
        }
        ways.truncate(MAX_SOUGHT);
        ways
    }

    /// What is due for the scout of one peer.
    pub(super) fn scout(&mut self, id: PeerId, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        peer.scout.forget(now);
        if let Some(round) = peer.scout.round(now) {
            if round.asks {
                self.ask_to_meet(id);
            }
            for endpoint in round.endpoints {
                self.send_scout(id, endpoint, now);
            }
        }
        self.follow(id, now);
        self.leave_udp(id, now);
    }

    fn send_scout(&mut self, id: PeerId, to: Endpoint, now: Instant) {
        let token = self.rng.random();
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        peer.scout.sent(token, to, now);
        let padding = Default::default();
        let message = PathMessage::Probe { token, padding };
        self.send_path_message(id, None, Some(to), &message);
    }

    /// A peer was heard from another address than its path's.
    pub(super) fn handle_moved(&mut self, id: PeerId, from: Endpoint, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        if peer.sending().is_none() {
            return;
        }
        let rtt = match &peer.direct {
            Some(direct) if direct.address == from => return,
            Some(direct) => direct.rtt,
            None => Duration::ZERO,
        };
        if !peer.scout.sighted(from, rtt, now) {
            return;
        }
        let here = peer.direct.as_ref().map(|d| d.address);
        self.send_scout(id, from, now);
        if let Some(here) = here {
            self.send_probe(id, here, 0, now);
        }
        self.hasten(now);
    }

    /// A probe was answered from where it had been sent.
    pub(super) fn handle_scout_ack(
        &mut self,
        id: PeerId,
        (from, sent): (Endpoint, Instant),
        now: Instant,
    ) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        if let Some(direct) = peer.direct.as_mut().filter(|d| d.address == from) {
            self.dirty.paths |= direct.suspect;
            return direct.answered(now);
        }
        let silent = |d: &Direct| d.suspect || d.is_silent(now, Duration::ZERO);
        let take = match &peer.direct {
            None => true,
            Some(direct) => match (direct.address.is_tcp(), from.is_tcp()) {
                (true, false) => true,
                (false, true) => silent(direct),
                (false, false) | (true, true) => direct.suspect,
            },
        };
        if take {
            self.go_over(id, from, now.duration_since(sent), now);
        } else {
            self.follow(id, now);
        }
    }

    /// Goes where a peer has moved to. If it can be reached at both places, the
    /// choice of the peer with the lower id holds, so that both use one path.
    fn follow(&mut self, id: PeerId, now: Instant) {
        let local = self.local;
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let Some(direct) = &peer.direct else { return };
        let (here, rtt) = (direct.address, direct.rtt);
        let ask_again = direct.is_to_be_asked_again(now);
        let to = match peer.scout.judge(direct.answered_at, now) {
            Verdict::Moved(to) => Some(to),
            Verdict::Both(to) => (id < local && (here.is_tcp() || !to.is_tcp())).then_some(to),
            Verdict::Wait | Verdict::Nothing(_) => None,
        };
        match to {
            Some(to) => self.go_over(id, to, rtt, now),
            // Asked again, for one datagram may get lost.
            None if ask_again && peer.scout.is_judging() => self.send_probe(id, here, 0, now),
            None => {}
        }
    }

    /// Takes a path that was just proven, make before break: the link stays.
    fn go_over(&mut self, id: PeerId, to: Endpoint, rtt: Duration, now: Instant) {
        let limit = self.limit_of(to);
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let outbound = match (&peer.direct, peer.sending()) {
            (Some(direct), _) => direct.outbound,
            (None, Some(held)) => held.outbound,
            (None, None) => true,
        };
        let before = peer.direct.replace(Direct::new(to, outbound, limit, now));
        if let Some(direct) = &mut peer.direct {
            direct.measure(rtt);
        }
        tracing::debug!(peer = %id.short(), to = %to, from = ?before.map(|d| d.address), "path");
        peer.scout.moved();
        peer.scout.udp = to.udp().or(peer.scout.udp);
        peer.direct_retry_at = now + DIRECT_RETRY;
        self.dirty.paths = true;
        self.moved(id, now);
        self.announce(id, None, now);
        self.tend_fast(id, now);
    }

    /// Tells the mesh that a session it knows of goes on over another path.
    pub(super) fn moved(&mut self, id: PeerId, now: Instant) {
        let Some(peer) = self.peers.get(&id).filter(|peer| peer.announced) else {
            return;
        };
        if let Some(direct) = &peer.direct {
            let (address, handicap) = (direct.address.address(), handicap(direct.address));
            self.mesh.session_moved(id, address, handicap, now);
        }
    }

    /// A neighbour whose UDP has fallen silent is tried over TCP.
    fn leave_udp(&mut self, id: PeerId, now: Instant) {
        let courtesy = if self.local < id {
            Duration::ZERO
        } else {
            TCP_COURTESY
        };
        let Some(peer) = self.peers.get(&id).filter(|p| p.link) else {
            return;
        };
        let Some(direct) = peer.direct.as_ref().filter(|d| !d.address.is_tcp()) else {
            return;
        };
        let silent =
            direct.is_silent(now, courtesy) || direct.suspect && direct.is_late(now, courtesy);
        if !silent
            || peer.sending().is_none()
            || peer.scout.tcp_at.is_some_and(|at| now < at)
            || self.is_bypassed(id, peer)
        {
            return;
        }
        let mut ways = vec![direct.address.address()];
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.scout.tcp_at = Some(now + TCP_RETRY);
        }
        for address in self.addresses_of(id) {
            if !ways.contains(&address) {
                ways.push(address);
            }
        }
        ways.truncate(MAX_TCP);
        for address in ways {
            self.send_scout(id, Endpoint::Tcp(address), now);
        }
    }

    /// The path may have broken, be it direct or through relays. If this host's own
    /// address changed, as others see it, the neighbour that frames go through then
    /// is to know by then.
    pub(super) fn warm_detour(&mut self, id: PeerId, now: Instant) {
        let routes = self.mesh.routes();
        let relay = routes.next_hop(&id).filter(|hop| hop.next != id);
        let Some(hop) = relay.or_else(|| routes.detour(&id)) else {
            return;
        };
        let next = self.peers.get(&hop.next);
        if let Some(address) = next.and_then(|p| p.direct.as_ref()).map(|d| d.address) {
            self.send_probe(hop.next, address, 0, now);
        }
    }

    /// A connection that carried datagrams is no more.
    pub fn handle_hang_up(&mut self, address: SocketAddr, now: Instant) {
        let lost: Vec<PeerId> = self
            .peers
            .iter()
            .filter(|(_, peer)| leads_to(peer, Endpoint::Tcp(address)))
            .map(|(id, _)| *id)
            .collect();
        for id in lost {
            self.lose_direct(id, now);
        }
        self.drain(now);
    }

    /// This host's addresses changed: whom it talks to hears it now, and not
    /// only when there is something to say.
    pub(super) fn show_everybody(&mut self, now: Instant) {
        let direct = |(id, peer): (&PeerId, &Peer)| {
            let used = peer.link || peer.is_active(now);
            let direct = peer.direct.as_ref().filter(|_| used)?;
            Some((*id, direct.address))
        };
        let shown: Vec<(PeerId, Endpoint)> = self.peers.iter().filter_map(direct).collect();
        for (id, address) in shown {
            self.send_probe(id, address, 0, now);
        }
    }

    /// The largest datagram that the local underlay carries towards an endpoint.
    pub(super) fn limit_of(&self, endpoint: Endpoint) -> usize {
        let more = endpoint.headers() - 28;
        self.config.datagram_limit.saturating_sub(more)
    }

    /// Ends the connection of a path that is not used any more.
    pub(super) fn hang_up(&mut self, endpoint: Endpoint) {
        if let Endpoint::Tcp(address) = endpoint {
            self.events.push_back(Event::HangUp(address));
        }
    }
}

/// Whether a peer can be at an address: others are named by mistake or in malice.
pub(super) fn is_worth_a_probe(address: &SocketAddr) -> bool {
    let nowhere = match address.ip().to_canonical() {
        IpAddr::V4(ip) => {
            ip.octets()[0] == 0 || ip.is_loopback() || ip.is_multicast() || ip.is_broadcast()
        }
        IpAddr::V6(ip) => ip.is_unspecified() || ip.is_loopback() || ip.is_multicast(),
    };
    address.port() != 0 && !nowhere
}

fn leads_to(peer: &Peer, endpoint: Endpoint) -> bool {
    peer.direct.as_ref().is_some_and(|d| d.address == endpoint)
}
