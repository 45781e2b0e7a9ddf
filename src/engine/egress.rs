//! A frame of a local container, on its way to a datagram.
//!
//! 1. check it, and drop what a bridge must not forward
//! 2. learn its source, tell the control thread what is new
//! 3. answer ARP and neighbour discovery here when the answer is known
//! 4. find the peer behind the destination; else, and for groups, everybody
//! 5. hand it to the [`Sender`], which cuts, joins and seals
//!
//! A super-frame goes through all this once, and is cut last.

use std::{
    cell::Cell,
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use proto::{
    MacAddr, PeerId,
    content::{BroadcastHeader, HOP_LIMIT},
    ethernet::EthernetFrame,
    vnet::VnetHeader,
};

use super::{
    counters::DropReason,
    limiter::TokenBucket,
    neighbour,
    output::{Output, Upcall},
    seal::send_content,
    segment::{Load, Sum, complete, examine},
    sender::Sender,
    snapshot::Snapshot,
};

/// How often a station that keeps talking is reported again.
const REFRESH: Duration = Duration::from_secs(60);
/// How often one that is not known yet is reported again.
const AGAIN: Duration = Duration::from_millis(100);
/// A question repeated within this time was not served by the answer.
const ASKED_AGAIN: Duration = Duration::from_secs(5);
/// How many local stations are remembered before the memory starts afresh.
const REMEMBERED: usize = 8192;
/// Broadcasts per second that local containers may send on average, and at once.
const STORM_RATE: u64 = 20_000;
const STORM_BURST: u64 = 10_000;

/// The state of one TAP reader.
pub struct Egress {
    seen: HashMap<MacAddr, Sighted>,
    storm: TokenBucket,
    /// When a question of a station was last answered here.
    answered: HashMap<(MacAddr, IpAddr), Instant>,
    reply: Vec<u8>,
    sender: Sender,
    /// Where a segment is written that does not travel as such.
    scratch: Vec<u8>,
}

struct Sighted {
    reported: Instant,
    ips: Vec<IpAddr>,
}

impl Default for Egress {
    fn default() -> Self {
        Self::new()
    }
}

impl Egress {
    /// A reader that has seen nobody.
    pub fn new() -> Self {
        Self {
            seen: HashMap::new(),
            storm: TokenBucket::new(STORM_RATE, STORM_BURST),
            answered: HashMap::new(),
            reply: Vec::new(),
            sender: Sender::default(),
            scratch: Vec::new(),
        }
    }

    /// Handles one frame from the bridge, with which everything is done.
    /// `frame` may be rewritten in place.
    pub fn handle_frame(
        &mut self,
        snapshot: &Snapshot,
        frame: &mut [u8],
        now: Instant,
        out: &mut impl Output,
    ) {
        self.handle_offloaded(snapshot, &VnetHeader::COMPLETE, frame, now, out);
        self.flush(snapshot, out);
    }

    /// Handles one frame of a burst, as a TAP with offloads gives it. A small
    /// one may wait for the next, until [`Self::flush`].
    pub fn handle_offloaded(
        &mut self,
        snapshot: &Snapshot,
        header: &VnetHeader,
        frame: &mut [u8],
        now: Instant,
        out: &mut impl Output,
    ) {
        if let Err(reason) = self.forward(snapshot, header, frame, now, out) {
            snapshot.shared.counters.count(reason);
        }
    }

    /// Whether the queue in front of here stands, and a flow shall slow down.
    pub fn set_congested(&mut self, congested: bool) {
        self.sender.set_congested(congested);
    }

    /// Ends a burst: what waits for the next frame leaves.
    pub fn flush(&mut self, snapshot: &Snapshot, out: &mut impl Output) {
        self.sender.flush(snapshot, out);
    }

    fn forward(
        &mut self,
        snapshot: &Snapshot,
        offloaded: &VnetHeader,
        frame: &mut [u8],
        now: Instant,
        out: &mut impl Output,
    ) -> Result<(), DropReason> {
        let header = EthernetFrame::new_checked(&*frame).map_err(|_| DropReason::Malformed)?;
        let (source, destination) = (header.source(), header.destination());
        if source.is_multicast() {
            return Err(DropReason::Malformed);
        }
        if destination.is_link_local_group() {
            return Err(DropReason::Stp);
        }
        let load = examine(offloaded, frame)?;
        // A question that also tells others something new has to reach them.
        let news = self.learn(snapshot, frame, source, now, out);
        if !news && self.answer(snapshot, frame, source, now, out) {
            return Ok(());
        }
        let home = snapshot.stations.macs.get(&destination);
        match home {
            _ if destination.is_multicast() => self.broadcast(snapshot, (load, frame), now, out),
            Some(peer) if *peer == snapshot.shared.local => Err(DropReason::NotOurs),
            Some(peer) => self.unicast(snapshot, *peer, (load, frame), out),
            None => self.broadcast(snapshot, (load, frame), now, out),
        }
    }

    /// Sends a frame to the peer behind which its destination lives.
    fn unicast(
        &mut self,
        snapshot: &Snapshot,
        peer: PeerId,
        (load, frame): (Load, &mut [u8]),
        out: &mut impl Output,
    ) -> Result<(), DropReason> {
        let path = snapshot.paths.get(&peer).ok_or(DropReason::NoRoute)?;
        if path.session.is_some() {
            return self.sender.send(snapshot, (peer, path), load, frame, out);
        }
        each_complete(&mut self.scratch, load, frame, |frame| {
            out.upcall(Upcall::Pending {
                peer,
                frame: frame.to_vec(),
            });
            Ok(())
        })
    }

    /// Tells the control thread of a station that is new or spoke after a
    /// while. Returns whether the frame shows an address that the mesh does not
    /// know to be this station's.
    fn learn(
        &mut self,
        snapshot: &Snapshot,
        frame: &[u8],
        source: MacAddr,
        now: Instant,
        out: &mut impl Output,
    ) -> bool {
        let sighting = neighbour::learn(frame);
        let ips = || sighting.iter().flat_map(|s| s.ips());
        let stations = &snapshot.stations;
        let ours = stations.macs.get(&source) == Some(&snapshot.shared.local);
        let news = !ours || ips().any(|ip| stations.ips.get(&ip) != Some(&source));
        let wait = if news { AGAIN } else { REFRESH };
        if let Some(seen) = self.seen.get(&source)
            && now.duration_since(seen.reported) < wait
            && ips().all(|ip| seen.ips.contains(&ip))
        {
            return news;
        }
        if self.seen.len() >= REMEMBERED {
            self.seen.clear();
        }
        let seen = self.seen.entry(source).or_insert_with(|| Sighted {
            reported: now,
            ips: Vec::new(),
        });
        seen.reported = now;
        if seen.ips.len() > 16 {
            seen.ips.clear();
        }
        seen.ips.extend(ips());
        out.upcall(Upcall::Station {
            mac: source,
            ips: ips().collect(),
        });
        news
    }

    /// Answers a question from what is known. One that is asked again at once
    /// goes out to everybody: the answer did not help.
    fn answer(
        &mut self,
        snapshot: &Snapshot,
        frame: &[u8],
        source: MacAddr,
        now: Instant,
        out: &mut impl Output,
    ) -> bool {
        let stations = &snapshot.stations;
        let asked = Cell::new(None);
        let remote = |ip: IpAddr| {
            asked.set(Some(ip));
            let mac = stations.ips.get(&ip)?;
            (stations.macs.get(mac)? != &snapshot.shared.local).then_some(*mac)
        };
        self.reply.clear();
        if !neighbour::answer(frame, remote, &mut self.reply) {
            return false;
        }
        if let Some(ip) = asked.get() {
            if self.answered.len() >= REMEMBERED {
                self.answered.clear();
            }
            let before = self.answered.insert((source, ip), now);
            if before.is_some_and(|at| now.duration_since(at) < ASKED_AGAIN) {
                return false;
            }
        }
        out.frame(&self.reply);
        true
    }

    fn broadcast(
        &mut self,
        snapshot: &Snapshot,
        (load, frame): (Load, &mut [u8]),
        now: Instant,
        out: &mut impl Output,
    ) -> Result<(), DropReason> {
        let (shared, storm) = (&snapshot.shared, &mut self.storm);
        each_complete(&mut self.scratch, load, frame, |frame| {
            if !storm.take(now, 1) {
                return Err(DropReason::Storm);
            }
            let header = BroadcastHeader {
                hops: HOP_LIMIT,
                source: shared.local,
                sequence: shared.next_broadcast(),
            };
            send_broadcast(snapshot, header, frame, None, out);
            Ok(())
        })
    }
}

/// Calls `each` with every frame that a load consists of, checksums complete.
fn each_complete(
    scratch: &mut Vec<u8>,
    load: Load,
    frame: &mut [u8],
    mut each: impl FnMut(&[u8]) -> Result<(), DropReason>,
) -> Result<(), DropReason> {
    match load {
        Load::Frame(Sum::Complete) => each(frame),
        Load::Frame(Sum::Left) => {
            complete(frame);
            each(frame)
        }
        Load::Super(parts) => parts.cut(frame, Sum::Complete, |headers, payload| {
            scratch.clear();
            scratch.extend_from_slice(headers);
            scratch.extend_from_slice(payload);
            each(scratch)
        }),
    }
}

/// Sends a broadcast on to this peer's children in its source's tree, except
/// back to where it came from. A child that cannot be reached is counted and
/// does not hinder the others.
pub fn send_broadcast(
    snapshot: &Snapshot,
    header: BroadcastHeader,
    frame: &[u8],
    from: Option<PeerId>,
    out: &mut impl Output,
) {
    // Until the tree is known the frame floods; the receivers' filters keep
    // that exact.
    let children = snapshot.trees.get(&header.source).unwrap_or_else(|| {
        out.upcall(Upcall::TreeWanted {
            source: header.source,
        });
        &snapshot.neighbours
    });
    for child in children.iter().filter(|c| Some(**c) != from) {
        let sent = snapshot
            .paths
            .get(child)
            .ok_or(DropReason::NoRoute)
            .and_then(|path| {
                send_content(
                    snapshot,
                    (*child, path),
                    path.protection,
                    (&header.emit(), frame),
                    out,
                )?;
                path.counters.sent(frame.len());
                Ok(())
            });
        if let Err(reason) = sent {
            snapshot.shared.counters.count(reason);
        }
    }
}
