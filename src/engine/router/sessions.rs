//! From handshakes to sessions.

use std::{net::SocketAddr, time::Instant};

use crypto::{Established, Rekey};
use gossip::{DialId, DialTarget, Scope, SessionInfo, Target};
use proto::{
    Endpoint, PeerId,
    datagram::{self, Datagram, Protection, SessionIndex},
    message::PathMessage,
};

use super::{
    super::{
        handshakes::{Later, Outcome, Purpose},
        output::Origin,
        peers::{Direct, Held, Peer},
        timing::{RETRANSMIT, TCP_DELAY},
        warnings::Recurrence,
    },
    Event, Router,
    roaming::handicap,
};

impl Router {
    pub(super) fn handle_handshake(&mut self, bytes: &[u8], origin: Origin, now: Instant) {
        self.control_rx += bytes.len() as u64;
        if let Ok(Datagram::NoSession { receiver, counter }) = Datagram::parse(bytes) {
            self.handle_no_session(receiver, counter, origin, now);
        } else {
            self.handshakes.handle_datagram(bytes, origin, now);
        }
    }

    /// A datagram for a session that does not exist: this peer was restarted,
    /// perhaps, and the sender should know. The notice is shorter than what it
    /// answers.
    pub(super) fn handle_unknown(
        &mut self,
        receiver: SessionIndex,
        counter: u64,
        from: Endpoint,
        now: Instant,
    ) {
        if self.notices.take(now, 1) {
            let datagram = datagram::emit_no_session(receiver, counter);
            self.transmit(from, datagram, false);
        }
    }

    /// The other side says that it does not know a session. Anybody who saw a
    /// datagram can say so; all it costs is a handshake now and then.
    fn handle_no_session(
        &mut self,
        receiver: SessionIndex,
        counter: u64,
        origin: Origin,
        now: Instant,
    ) {
        let meant = self.peers.iter_mut().find(|(_, peer)| {
            peer.sending()
                .is_some_and(|h| h.session.remote() == receiver && counter < h.session.sent())
        });
        let Some((id, peer)) = meant else { return };
        let purpose = Purpose::Session(*id);
        if now >= peer.notice_at && !self.handshakes.is_under_way(purpose) {
            peer.notice_at = now + RETRANSMIT * 2;
            // Where its path leads, too: what a stranger began must serve the peer.
            let path = peer.direct.as_ref().map(|d| Origin::Direct(d.address));
            let path = path.filter(|path| *path != origin);
            let ways = std::iter::once(origin).chain(path).collect();
            self.handshakes.begin(purpose, ways, now);
        }
    }

    pub(super) fn handle_outcome(&mut self, outcome: Outcome, now: Instant) {
        match outcome {
            Outcome::Send { way, datagram } => self.send_raw(way, datagram),
            Outcome::Established {
                established,
                way,
                outbound,
            } => self.establish(*established, way, outbound, now),
            Outcome::Reconfirm { session } => self.send_confirm(session),
            Outcome::Abandoned { session } => {
                let session_peer = self.by_index.get(&session).copied();
                if let Some(peer) = self
                    .by_index
                    .get(&session)
                    .and_then(|id| self.peers.get_mut(id))
                {
                    peer.abandon(session);
                }
                self.release(&[session]);
                self.forget_stranger(session_peer);
            }
            Outcome::Failed {
                purpose,
                reason,
                refused,
            } => self.handle_failed(purpose, reason, refused, now),
            Outcome::Ourselves { dial } => self.meet_ourselves(dial, now),
            Outcome::Refused { way, reason } => {
                let from = match way {
                    Origin::Direct(address) => address.ip().to_string(),
                    Origin::Relayed(peer) => peer.short(),
                    Origin::Tunnel(_) => "the fast path".to_owned(),
                };
                let text = format!("refused a handshake from {from}: {reason}");
                self.warn(text, Recurrence::Stranger, now);
            }
        }
    }

    /// Forgets a peer that never proved to be a member.
    fn forget_stranger(&mut self, id: Option<PeerId>) {
        let Some(id) = id else { return };
        let unproven = self
            .peers
            .get(&id)
            .is_some_and(|p| p.sessions.is_empty() && !p.announced);
        if unproven && self.mesh.node(&id).is_none() {
            self.peers.remove(&id);
        }
    }

    fn handle_failed(&mut self, purpose: Purpose, reason: String, refused: bool, now: Instant) {
        let Some(dial) = purpose.dial() else {
            tracing::debug!(?purpose, reason, "no session");
            return;
        };
        if let Some(target) = self.dials.remove(&dial)
            && refused
        {
            let text = format!("{target} refused the connection: {reason}");
            self.warn(text, Recurrence::Again, now);
        }
        self.mesh.dial_failed(dial, reason, refused, now);
    }

    fn meet_ourselves(&mut self, dial: DialId, now: Instant) {
        self.dials.remove(&dial);
        self.mesh.dial_answered(dial, self.local, now);
    }

    /// What the mesh's dialer wants.
    pub(super) fn handle_dial(&mut self, dial: DialId, target: DialTarget, now: Instant) {
        match target {
            DialTarget::Name(target) => {
                self.dials.insert(dial, target.clone());
                self.events.push_back(Event::Resolve { dial, target });
            }
            DialTarget::Peer { peer, addresses } => self.dial_peer(dial, peer, addresses, now),
        }
    }

    /// Dials what a target's name stands for: by TCP alone if the operator said
    /// so, else by TCP too if UDP stays silent. Where a name stands for all hosts, one of
    /// its addresses is our own.
    pub(super) fn dial_target(
        &mut self,
        dial: DialId,
        mut addresses: Vec<SocketAddr>,
        now: Instant,
    ) {
        let found = !addresses.is_empty();
        addresses.retain(|address| !self.endpoints.contains(address));
        if found && addresses.is_empty() {
            return self.meet_ourselves(dial, now);
        }
        let tcp = self.dials.get(&dial).is_some_and(Target::is_tcp);
        let by_tcp = ways(&addresses, Endpoint::Tcp);
        let purpose = Purpose::Dial(dial);
        if tcp {
            return self.handshakes.begin(purpose, by_tcp, now);
        }
        let later = Later {
            ways: by_tcp,
            at: now + TCP_DELAY,
            unless: None,
        };
        let by_udp = ways(&addresses, Endpoint::Udp);
        self.handshakes
            .begin_with_others(purpose, by_udp, Some(later), now);
    }

    /// Dials a peer that gossip told of, at what it says are its addresses. One that we
    /// have, too (many hosts have the same on a bridge for containers) leads nowhere but
    /// here. TCP is worth it only if frames cannot be relayed to it.
    fn dial_peer(
        &mut self,
        dial: DialId,
        peer: PeerId,
        mut addresses: Vec<SocketAddr>,
        now: Instant,
    ) {
        addresses.retain(|address| self.is_elsewhere(address));
        let later = Later {
            ways: ways(&addresses, Endpoint::Tcp),
            at: now + TCP_DELAY,
            unless: Some(peer),
        };
        let by_udp = ways(&addresses, Endpoint::Udp);
        self.handshakes
            .begin_with_others(Purpose::Seek(dial, peer), by_udp, Some(later), now);
    }

    fn establish(&mut self, established: Established, way: Origin, outbound: bool, now: Instant) {
        let Established {
            peer: id,
            hello,
            cipher,
            encrypt,
            session,
            ..
        } = established;
        let index = session.local();
        if !self.admit_launch(id, &hello, now) {
            self.release(&[index]);
            return;
        }
        let limit = match way {
            Origin::Direct(endpoint) => self.limit_of(endpoint),
            Origin::Relayed(_) | Origin::Tunnel(_) => self.config.datagram_limit,
        };
        let peer = self.peers.entry(id).or_insert_with(|| Peer::new(now));
        peer.used_at = now;
        let protection = if encrypt {
            Protection::Sealed
        } else {
            Protection::Clear
        };
        let held = Held {
            session: session.into(),
            rekey: Rekey::new(outbound, self.config.rekey_after, now),
            since: now,
            outbound,
            confirmed: false,
            retire_at: None,
            protection,
            cipher,
        };
        let dropped = peer.hold(held);
        let better = |d: &Direct, to: Endpoint| d.address.is_tcp() && !to.is_tcp();
        let mut moved = None;
        if let Origin::Direct(to) = way
            && !(peer.is_fresh(now) && peer.direct.as_ref().is_some_and(|d| !better(d, to)))
        {
            let former = peer.direct.as_ref().map(|d| d.address);
            moved = former.filter(|former| *former != to);
            peer.scout.moved();
            peer.scout.udp = to.udp().or(peer.scout.udp);
            peer.direct = Some(Direct::new(to, outbound, limit, now));
        }
        self.by_index.insert(index, id);
        if moved.is_some() {
            self.moved(id, now);
        }
        self.release(&dropped);
        (self.dirty.sessions, self.dirty.paths) = (true, true);
        if !outbound {
            self.publish();
            self.send_confirm(index);
            // With a session that works, the initiator's word is awaited: it
            // may never hear the confirmation.
            if self
                .peers
                .get(&id)
                .is_none_or(|peer| peer.sending().is_none())
            {
                self.confirm(id, index, None, now);
            }
        }
    }

    /// Decides between two launches of one identity. A later launch replaces
    /// an earlier one; an earlier one may return only when the later is silent.
    fn admit_launch(&mut self, id: PeerId, hello: &crypto::Hello, now: Instant) -> bool {
        let Some(peer) = self.peers.get_mut(&id) else {
            let mut peer = Peer::new(now);
            (peer.instance, peer.epoch) = (hello.instance, hello.epoch);
            peer.capabilities = hello.capabilities;
            self.peers.insert(id, peer);
            return true;
        };
        if peer.instance == hello.instance {
            peer.capabilities = hello.capabilities;
            return true;
        }
        if hello.epoch <= peer.epoch && peer.is_fresh(now) {
            let name = self.nickname(id);
            let text = format!(
                "two daemons use the identity {} ({name}): a state directory was copied; \
                 stop the copy, and delete its state directory as a whole",
                id.short()
            );
            self.warn(text, Recurrence::Again, now);
            return false;
        }
        (peer.instance, peer.epoch) = (hello.instance, hello.epoch);
        peer.capabilities = hello.capabilities;
        let gone = peer.restart();
        tracing::debug!(peer = %id, sessions = gone.len(), "peer restarted");
        self.mesh.session_restarted(id, now);
        self.release(&gone);
        true
    }

    /// A session works both ways.
    pub(super) fn confirm(
        &mut self,
        id: PeerId,
        index: SessionIndex,
        purpose: Option<Purpose>,
        now: Instant,
    ) {
        let lower = self.local < id;
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        if peer.confirm(index, lower, now) {
            self.dirty.paths = true;
            self.handshakes_done += 1;
        }
        let dial = purpose.and_then(Purpose::dial);
        if let Some(dial) = dial {
            self.dials.remove(&dial);
            self.mesh.dial_answered(dial, id, now);
        }
        self.announce(id, dial, now);
        self.flush_pending(id, now);
        self.tend_fast(id, now);
    }

    /// Tells the mesh of a direct session, once per path.
    pub(super) fn announce(&mut self, id: PeerId, dial: Option<DialId>, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let Some(direct) = &peer.direct else { return };
        if peer.announced && dial.is_none() {
            return;
        }
        peer.announced = true;
        let info = SessionInfo {
            address: direct.address.address(),
            outbound: direct.outbound,
            dial,
            scope: Scope::of(peer.capabilities),
            handicap: handicap(direct.address),
        };
        self.mesh.session_opened(id, info, now);
    }

    pub(super) fn send_confirm(&mut self, index: SessionIndex) {
        let Some(id) = self.by_index.get(&index).copied() else {
            return;
        };
        let Some(session) = self.session(id, index) else {
            return;
        };
        self.send_path_message(id, Some(session), None, &PathMessage::Confirm);
    }

    /// Forgets session indices.
    pub(super) fn release(&mut self, indices: &[SessionIndex]) {
        for index in indices {
            self.by_index.remove(index);
            self.handshakes.release(*index);
            self.dirty.sessions = true;
            self.dirty.paths = true;
        }
    }
}

fn ways(addresses: &[SocketAddr], by: fn(SocketAddr) -> Endpoint) -> Vec<Origin> {
    let endpoints = addresses.iter().map(|address| by(*address));
    endpoints.map(Origin::Direct).collect()
}
