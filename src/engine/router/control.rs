//! Control messages: what arrives, and how this peer's own leave.

use std::{sync::Arc, time::Instant};

use crypto::Session;
use gossip::{DownReason, Event as MeshEvent};
use proto::{
    Endpoint, PeerId,
    content::{self, HOP_LIMIT, RelayHeader},
    datagram::{Datagram, Protection, SessionIndex, Stage},
    message::{GossipMessage, Message, PathMessage},
};

use super::{
    super::{
        counters::DropReason,
        handshakes::Purpose,
        output::Origin,
        seal::{send_content, send_relay},
        snapshot::{Path, Route, Straight},
        warnings::Recurrence,
    },
    Event, Queue, Router, Transmit,
};

impl Router {
    pub(super) fn handle_control(
        &mut self,
        peer: PeerId,
        session: SessionIndex,
        bytes: &[u8],
        origin: Origin,
        now: Instant,
    ) {
        self.control_rx += bytes.len() as u64;
        if let Some(purpose) = self.handshakes.confirmed(session) {
            self.confirm(peer, session, Some(purpose), now);
            self.send_confirm(session);
        } else if self.is_unconfirmed(peer, session) {
            self.confirm(peer, session, None, now);
        }
        let Ok(message) = Message::decode(bytes) else {
            self.snapshot.shared.counters.count(DropReason::Malformed);
            return;
        };
        if let Origin::Tunnel(index) = origin {
            match message {
                Message::Path(message) if self.is_tunnel_of(peer, index) => {
                    self.handle_tunnelled(peer, message, now);
                }
                Message::Path(_) | Message::Gossip(_) => {
                    let counters = &self.snapshot.shared.counters;
                    counters.count(DropReason::ForeignVni);
                }
            }
            return;
        }
        match message {
            Message::Gossip(message) => self.handle_gossip(peer, message, origin, now),
            Message::Path(message) => self.handle_path_message(peer, session, message, origin, now),
        }
    }

    /// Gossip belongs on a direct session; what comes otherwise is a leftover
    /// of a path that just changed.
    fn handle_gossip(&mut self, id: PeerId, message: GossipMessage, origin: Origin, now: Instant) {
        let Origin::Direct(address) = origin else {
            return;
        };
        if let Some(direct) = self.peers.get_mut(&id).and_then(|p| p.direct.as_mut())
            && direct.address == address
            && is_answer(&message)
        {
            self.dirty.paths |= direct.suspect;
            direct.answered(now);
        }
        self.announce(id, None, now);
        self.mesh.handle_message(id, message, now);
    }

    fn handle_path_message(
        &mut self,
        id: PeerId,
        session: SessionIndex,
        message: PathMessage,
        origin: Origin,
        now: Instant,
    ) {
        match message {
            PathMessage::Confirm => {}
            PathMessage::Probe { token, .. } => {
                let (back, observed) = match origin {
                    Origin::Direct(endpoint) => (Some(endpoint), endpoint.udp()),
                    Origin::Relayed(_) | Origin::Tunnel(_) => (None, None),
                };
                let ack = PathMessage::Ack { token, observed };
                self.send_path_message(id, None, back, &ack);
            }
            PathMessage::Ack { token, observed } => {
                self.handle_ack(id, token, observed, origin, now)
            }
            PathMessage::Offer(offer) => self.handle_offer(id, (offer, false), origin, now),
            PathMessage::OfferEsp(offer) => self.handle_offer(id, (offer, true), origin, now),
            PathMessage::Esp(notice) => self.handle_esp_notice(id, session, notice, origin, now),
            PathMessage::Decline(code) => self.handle_decline(id, code, now),
            PathMessage::Meet { endpoints } => self.handle_meet(id, &endpoints, origin, now),
            PathMessage::Close => {
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.abandon(session);
                    self.release(&[session]);
                }
            }
        }
    }

    /// What the mesh has to say.
    pub(super) fn handle_mesh_event(&mut self, event: MeshEvent, now: Instant) {
        match event {
            MeshEvent::Dial { dial, target } => self.handle_dial(dial, target, now),
            MeshEvent::LinkUp(peer) => self.link_changed(peer, true, String::new(), now),
            MeshEvent::LinkDown { peer, reason } => {
                let lost = reason != DownReason::Pruned && reason != DownReason::Full;
                self.link_changed(peer, false, reason.to_string(), now);
                if lost {
                    self.lose_direct(peer, now);
                }
            }
            MeshEvent::RoutesChanged => (self.dirty.paths, self.dirty.trees) = (true, true),
            MeshEvent::StationsChanged => self.dirty.stations = true,
            MeshEvent::NamesChanged => self.dirty.names = true,
            MeshEvent::TargetsChanged => self.events.push_back(Event::TargetsChanged),
            MeshEvent::Warning(warning) => self.warn(warning.to_string(), Recurrence::Once, now),
            MeshEvent::PeerRestarted { peer } => self.heed_restart(peer, now),
            MeshEvent::Space(outcome) => self.handle_outcome_of_space(outcome),
            MeshEvent::SpaceWarning(text) => self.warn(text, Recurrence::Once, now),
            MeshEvent::PeerAppeared(_) => {}
            MeshEvent::CloseSession(peer) => self.lose_direct(peer, now),
        }
    }

    /// Gossip says that a peer was launched again: what was agreed with the
    /// launch before leads nowhere, and the next frame must not find that out.
    /// A path that answers refutes it (the record is old, or a clone's).
    fn heed_restart(&mut self, id: PeerId, now: Instant) {
        let Some(instance) = self.mesh.node(&id).map(|node| node.instance) else {
            return;
        };
        let Some(peer) = self.peers.get(&id) else {
            return;
        };
        if peer.link || peer.instance == instance || peer.is_fresh(now) {
            return;
        }
        self.lose_direct(id, now);
        let gone = self
            .peers
            .get_mut(&id)
            .map(super::Peer::restart)
            .unwrap_or_default();
        self.release(&gone);
    }

    fn link_changed(&mut self, id: PeerId, up: bool, reason: String, now: Instant) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.link = up;
            peer.used_at = now;
        }
        self.dirty.trees = true;
        let nickname = self.nickname(id);
        self.events.push_back(Event::Link {
            peer: id,
            nickname,
            up,
            reason,
        });
    }

    pub(super) fn send_gossip(&mut self, peer: PeerId, message: GossipMessage) {
        // It is about this link, however frames travel.
        let direct = self.peers.get(&peer).and_then(|p| p.direct.as_ref());
        let way = direct.map(|d| Route::Direct(Straight::of(d)));
        self.send_message(peer, None, way, &Message::Gossip(message));
    }

    /// Sends a message about the path: with a given session or the current one,
    /// to a given address or along the current route.
    pub(super) fn send_path_message(
        &mut self,
        peer: PeerId,
        session: Option<Arc<Session>>,
        address: Option<Endpoint>,
        message: &PathMessage,
    ) {
        let way = address.map(|address| Route::Direct(Straight::uncut(address)));
        self.send_message(peer, session, way, &Message::Path(message.clone()));
    }

    fn send_message(
        &mut self,
        id: PeerId,
        session: Option<Arc<Session>>,
        way: Option<Route>,
        message: &Message,
    ) {
        self.publish();
        let snapshot = Arc::clone(&self.snapshot);
        let Some(path) = snapshot.paths.get(&id) else {
            return;
        };
        let mut path = Path::clone(path);
        if session.is_some() {
            path.session = session;
        }
        if let Some(way) = way {
            path.route = way;
        }
        // A probe may be the first datagram on a way by TCP.
        let probe = matches!(message, Message::Path(PathMessage::Probe { .. }));
        let mut queue = Queue {
            transmits: &mut self.transmits,
            bytes: &mut self.control_tx,
            connect: probe && way.is_some(),
        };
        let body = message.encode();
        let sent = send_content(
            &snapshot,
            (id, &path),
            Protection::Sealed,
            (&content::CONTROL, &body),
            &mut queue,
        );
        if let Err(reason) = sent {
            snapshot.shared.counters.count(reason);
        }
    }

    /// Sends a handshake datagram, which needs no session with its receiver. An
    /// initiation is worth a connection.
    pub(super) fn send_raw(&mut self, way: Origin, datagram: Vec<u8>) {
        let destination = match way {
            Origin::Direct(endpoint) => {
                let connect = endpoint.is_tcp() && is_initiation(&datagram);
                return self.transmit(endpoint, datagram, connect);
            }
            Origin::Relayed(destination) => destination,
            // Probes alone go there.
            Origin::Tunnel(_) => return,
        };
        self.publish();
        let snapshot = Arc::clone(&self.snapshot);
        let header = RelayHeader {
            hops: HOP_LIMIT,
            distance: u32::MAX,
            source: self.local,
            destination,
        };
        let mut queue = Queue {
            transmits: &mut self.transmits,
            bytes: &mut self.control_tx,
            connect: false,
        };
        if let Err(reason) = send_relay(&snapshot, None, header, &datagram, &mut queue) {
            snapshot.shared.counters.count(reason);
        }
    }

    pub(super) fn transmit(&mut self, to: Endpoint, datagram: Vec<u8>, connect: bool) {
        self.control_tx += datagram.len() as u64;
        self.transmits.push_back(Transmit {
            to,
            datagram,
            connect,
        });
    }

    /// A frame came before its session.
    pub(super) fn handle_pending(&mut self, id: PeerId, frame: Vec<u8>, now: Instant) {
        if self.mesh.routes().next_hop(&id).is_none() {
            self.snapshot.shared.counters.count(DropReason::NoRoute);
            return;
        }
        let peer = self
            .peers
            .entry(id)
            .or_insert_with(|| super::Peer::new(now));
        peer.wait(frame, now);
        if peer.sending().is_some() {
            return self.flush_pending(id, now);
        }
        if !self.handshakes.is_under_way(Purpose::Session(id)) {
            let mut ways = vec![Origin::Relayed(id)];
            let known = self.addresses_of(id).into_iter();
            ways.extend(known.map(|address| Origin::Direct(Endpoint::Udp(address))));
            self.handshakes.begin(Purpose::Session(id), ways, now);
        }
    }

    /// Sends the frames that waited for a session.
    pub(super) fn flush_pending(&mut self, id: PeerId, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        if peer.sending().is_none() {
            return;
        }
        let frames = peer.take_pending(now);
        if frames.is_empty() {
            return;
        }
        self.publish();
        let snapshot = Arc::clone(&self.snapshot);
        let Some(path) = snapshot.paths.get(&id) else {
            return;
        };
        let mut sent_bytes = 0;
        let mut queue = Queue {
            transmits: &mut self.transmits,
            bytes: &mut sent_bytes,
            connect: false,
        };
        for frame in frames {
            match send_content(
                &snapshot,
                (id, path),
                path.protection,
                (&content::FRAME, &frame),
                &mut queue,
            ) {
                Ok(()) => path.counters.sent(frame.len()),
                Err(reason) => snapshot.shared.counters.count(reason),
            }
        }
    }
}

/// Whether a datagram begins a handshake.
fn is_initiation(datagram: &[u8]) -> bool {
    matches!(Datagram::parse(datagram), Ok(Datagram::Handshake(h)) if h.stage == Stage::Initiation)
}

/// Whether a message shows that the path carries datagrams there and back.
fn is_answer(message: &GossipMessage) -> bool {
    match message {
        GossipMessage::Pong { .. } => true,
        GossipMessage::Ping { answered, .. } => answered.is_some(),
        _ => false,
    }
}
