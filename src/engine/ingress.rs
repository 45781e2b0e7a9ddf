//! A datagram from the underlay, on its way to a frame, a relay or the control
//! thread.
//!
//! 1. handshakes go to the control thread unread
//! 2. the receiver index finds the session; open in place, then the replay
//!    window, so that a forgery cannot move it
//! 3. by content: deliver, pass on, spread along the source's tree, rebuild
//!    from fragments, or hand to the control thread
//!
//! Exactly one `Ingress` opens with a given session: it owns the replay
//! window, and nothing here is locked.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crypto::ReplayWindow;
use proto::{
    Endpoint, PeerId,
    content::{BroadcastHeader, Content, FragmentHeader, Frames, RelayHeader},
    datagram::{Datagram, Protection, SessionIndex, Stage, TransportHeader},
    ethernet::EthernetFrame,
};

use super::{
    counters::DropReason,
    dedup::BroadcastFilter,
    egress::send_broadcast,
    fragment::{Limits, Reassembler},
    layers::Layers,
    neighbour,
    output::{Origin, Output, Upcall},
    seal::send_relay,
    segment::Sum,
    snapshot::{Incoming, Route, Snapshot},
};

/// How often the control thread hears that a peer moved.
const MOVED_EVERY: Duration = Duration::from_millis(100);

/// The state of one reader of the UDP socket.
pub struct Ingress {
    generation: u64,
    /// The session of the last datagram that came from where its peer is.
    settled: Option<(SessionIndex, Endpoint)>,
    windows: HashMap<SessionIndex, Window>,
    filter: BroadcastFilter,
    reassembler: Reassembler,
    /// Where a rebuilt content is opened in place.
    rebuilt: Vec<u8>,
}

#[derive(Default)]
struct Window {
    replay: ReplayWindow,
    moved: Option<Instant>,
}

/// Who sealed what is being handled, and how it came.
#[derive(Clone, Copy)]
struct Arrival {
    peer: PeerId,
    session: SessionIndex,
    protection: Protection,
    origin: Origin,
}

impl Default for Ingress {
    fn default() -> Self {
        Self::new()
    }
}

impl Ingress {
    /// A reader that has seen nothing.
    pub fn new() -> Self {
        Self {
            generation: 0,
            settled: None,
            windows: HashMap::new(),
            filter: BroadcastFilter::default(),
            reassembler: Reassembler::new(Limits::default()),
            rebuilt: Vec::new(),
        }
    }

    /// Handles one datagram, which is opened in place.
    pub fn handle_datagram(
        &mut self,
        snapshot: &Snapshot,
        datagram: &mut [u8],
        from: Endpoint,
        now: Instant,
        out: &mut impl Output,
    ) {
        self.forget_retired(snapshot);
        if let Err(reason) = self.receive(snapshot, datagram, Origin::Direct(from), now, out) {
            snapshot.shared.counters.count(reason);
        }
    }

    /// Handles a datagram that came as a frame out of VXLAN. Such are probes of
    /// the fast path, and nothing else may come that way.
    pub fn handle_tunnelled(
        &mut self,
        snapshot: &Snapshot,
        datagram: &mut [u8],
        index: u32,
        now: Instant,
        out: &mut impl Output,
    ) {
        self.forget_retired(snapshot);
        if let Err(reason) = self.receive(snapshot, datagram, Origin::Tunnel(index), now, out) {
            snapshot.shared.counters.count(reason);
        }
    }

    fn forget_retired(&mut self, snapshot: &Snapshot) {
        if self.generation == snapshot.generation {
            return;
        }
        self.generation = snapshot.generation;
        self.settled = None;
        self.windows
            .retain(|index, _| snapshot.sessions.contains_key(index));
    }

    fn receive(
        &mut self,
        snapshot: &Snapshot,
        datagram: &mut [u8],
        origin: Origin,
        now: Instant,
        out: &mut impl Output,
    ) -> Result<(), DropReason> {
        let header = match Datagram::parse(datagram).map_err(|_| DropReason::Malformed)? {
            Datagram::Transport(header) => header,
            _ if matches!(origin, Origin::Tunnel(_)) => return Err(DropReason::Malformed),
            other @ (Datagram::Handshake(_)
            | Datagram::CookieReply { .. }
            | Datagram::Reject { .. }
            | Datagram::NoSession { .. }) => {
                let begins =
                    matches!(&other, Datagram::Handshake(step) if step.stage == Stage::Initiation);
                out.upcall(Upcall::Handshake {
                    datagram: datagram.to_vec(),
                    begins,
                    origin,
                });
                return Ok(());
            }
        };
        let Some(incoming) = snapshot.sessions.get(&header.receiver) else {
            if let Origin::Direct(from) = origin {
                out.upcall(Upcall::UnknownSession {
                    receiver: header.receiver,
                    counter: header.counter,
                    from,
                });
            }
            return Err(DropReason::NoSession);
        };
        let plaintext = self.open(incoming, &header, datagram)?;
        self.note_move(snapshot, incoming, &header, origin, now, out);
        let arrival = Arrival {
            peer: incoming.peer,
            session: header.receiver,
            protection: header.protection,
            origin,
        };
        self.dispatch(snapshot, (arrival, incoming), plaintext, now, out)
    }

    fn open<'a>(
        &mut self,
        incoming: &Incoming,
        header: &TransportHeader,
        datagram: &'a mut [u8],
    ) -> Result<&'a mut [u8], DropReason> {
        let window = self.windows.entry(header.receiver).or_default();
        if !window.replay.check(header.counter) {
            return Err(DropReason::Replay);
        }
        let plaintext = incoming
            .session
            .open(header, datagram)
            .map_err(|_| DropReason::Auth)?;
        if !window.replay.accept(header.counter) {
            return Err(DropReason::Replay);
        }
        Ok(plaintext)
    }

    fn note_move(
        &mut self,
        snapshot: &Snapshot,
        incoming: &Incoming,
        header: &TransportHeader,
        origin: Origin,
        now: Instant,
        out: &mut impl Output,
    ) {
        let Origin::Direct(from) = origin else { return };
        if self.settled == Some((header.receiver, from)) {
            return;
        }
        let route = snapshot.paths.get(&incoming.peer).map(|p| p.route);
        if matches!(route, Some(Route::Direct(straight)) if straight.address == from) {
            self.settled = Some((header.receiver, from));
            return;
        }
        let Some(window) = self.windows.get_mut(&header.receiver) else {
            return;
        };
        // A copy that was held back says nothing of where the peer is now.
        if !window.replay.is_newest(header.counter) {
            return;
        }
        if window
            .moved
            .is_none_or(|last| now.duration_since(last) >= MOVED_EVERY)
        {
            window.moved = Some(now);
            out.upcall(Upcall::Moved {
                peer: incoming.peer,
                from,
            });
        }
    }

    fn dispatch(
        &mut self,
        snapshot: &Snapshot,
        (arrival, incoming): (Arrival, &Incoming),
        plaintext: &mut [u8],
        now: Instant,
        out: &mut impl Output,
    ) -> Result<(), DropReason> {
        match Content::parse(plaintext).map_err(|_| DropReason::Malformed)? {
            Content::Control(message) => control(arrival, message, out),
            _ if matches!(arrival.origin, Origin::Tunnel(_)) => Err(DropReason::Malformed),
            Content::Frame(frame) => deliver(incoming, frame, Sum::Complete, out),
            Content::Unsummed(frame) => deliver(incoming, frame, Sum::Left, out),
            Content::Frames(frames) => deliver_all(snapshot, incoming, frames, out),
            Content::Relay(header, inner) => {
                let len = inner.len();
                let start = plaintext.len() - len;
                self.relay(snapshot, arrival, header, &mut plaintext[start..], now, out)
            }
            Content::Broadcast(header, frame) => {
                self.spread(snapshot, (arrival, incoming), header, frame, out)
            }
            Content::Fragment(header, part) => {
                self.rebuild(snapshot, (arrival, incoming), header, part, now, out)
            }
        }
    }

    fn relay(
        &mut self,
        snapshot: &Snapshot,
        arrival: Arrival,
        mut header: RelayHeader,
        inner: &mut [u8],
        now: Instant,
        out: &mut impl Output,
    ) -> Result<(), DropReason> {
        let Origin::Direct(_) = arrival.origin else {
            return Err(DropReason::Malformed);
        };
        if header.source == snapshot.shared.local {
            return Err(DropReason::Loop);
        }
        if header.destination == snapshot.shared.local {
            return self.receive(snapshot, inner, Origin::Relayed(header.source), now, out);
        }
        header.hops = spend(header.hops, 1)?;
        send_relay(snapshot, Some(arrival.peer), header, inner, out)?;
        Ok(())
    }

    fn spread(
        &mut self,
        snapshot: &Snapshot,
        (arrival, incoming): (Arrival, &Incoming),
        mut header: BroadcastHeader,
        frame: &[u8],
        out: &mut impl Output,
    ) -> Result<(), DropReason> {
        if header.source == snapshot.shared.local {
            return Err(DropReason::Loop);
        }
        if !snapshot.paths.contains_key(&header.source) {
            return Err(DropReason::UnknownSource);
        }
        if !self.filter.accept(header.source, header.sequence, frame) {
            return Err(DropReason::Duplicate);
        }
        doubt(snapshot, frame, out);
        deliver(incoming, frame, Sum::Complete, out)?;
        header.hops = spend(header.hops, 1)?;
        send_broadcast(snapshot, header, frame, Some(arrival.peer), out);
        Ok(())
    }

    fn rebuild(
        &mut self,
        snapshot: &Snapshot,
        (arrival, incoming): (Arrival, &Incoming),
        header: FragmentHeader,
        part: &[u8],
        now: Instant,
        out: &mut impl Output,
    ) -> Result<(), DropReason> {
        let Some(content) =
            self.reassembler
                .insert((arrival.session, header.id), header, part, now)
        else {
            return Ok(());
        };
        if matches!(Content::parse(content), Ok(Content::Fragment(..))) {
            return Err(DropReason::Malformed);
        }
        let mut rebuilt = std::mem::take(&mut self.rebuilt);
        rebuilt.clear();
        rebuilt.extend_from_slice(content);
        let done = self.dispatch(snapshot, (arrival, incoming), &mut rebuilt, now, out);
        self.rebuilt = rebuilt;
        done
    }
}

/// Announcements go to everybody; what contradicts the snapshot must not be
/// answered from it any more.
fn doubt(snapshot: &Snapshot, frame: &[u8], out: &mut impl Output) {
    let Some(sighting) = neighbour::learn(frame) else {
        return;
    };
    for ip in sighting.ips() {
        if snapshot
            .stations
            .ips
            .get(&ip)
            .is_some_and(|mac| *mac != sighting.mac)
        {
            out.upcall(Upcall::Doubt { ip });
        }
    }
}

/// Takes hops off a limit; one must be left for the next peer.
fn spend(hops: u8, cost: u8) -> Result<u8, DropReason> {
    hops.checked_sub(cost)
        .filter(|left| *left > 0)
        .ok_or(DropReason::HopLimit)
}

/// Control is always sealed: a clear datagram that claims to be control is not
/// what its sender meant.
fn control(arrival: Arrival, message: &[u8], out: &mut impl Output) -> Result<(), DropReason> {
    if arrival.protection != Protection::Sealed {
        return Err(DropReason::Malformed);
    }
    out.upcall(Upcall::Control {
        peer: arrival.peer,
        session: arrival.session,
        message: message.to_vec(),
        origin: arrival.origin,
    });
    Ok(())
}

/// Delivers frames that shared a datagram; a bad one costs only itself.
fn deliver_all(
    snapshot: &Snapshot,
    incoming: &Incoming,
    frames: Frames<'_>,
    out: &mut impl Output,
) -> Result<(), DropReason> {
    for frame in frames {
        let frame = frame.map_err(|_| DropReason::Malformed)?;
        let sum = if frame.unsummed {
            Sum::Left
        } else {
            Sum::Complete
        };
        if let Err(reason) = deliver(incoming, frame.bytes, sum, out) {
            snapshot.shared.counters.count(reason);
        }
    }
    Ok(())
}

fn deliver(
    incoming: &Incoming,
    frame: &[u8],
    sum: Sum,
    out: &mut impl Output,
) -> Result<(), DropReason> {
    let header = EthernetFrame::new_checked(frame).map_err(|_| DropReason::Malformed)?;
    if header.source().is_multicast() {
        return Err(DropReason::Malformed);
    }
    match sum {
        Sum::Complete => out.frame(frame),
        Sum::Left => {
            let layers = Layers::find(frame).ok_or(DropReason::Malformed)?;
            out.unsummed_frame(frame, &layers);
        }
    }
    incoming.counters.received(frame.len());
    Ok(())
}
