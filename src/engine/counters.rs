//! What the data path counts: drops by reason, and frames by peer.
//!
//! Plain relaxed atomics, so that any thread may count and any may read. Knows
//! nothing of what is done with the figures.

use std::{
    collections::BTreeMap,
    fmt,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

/// Why a frame or a datagram went no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DropReason {
    /// Its bytes are not what the format says.
    Malformed,
    /// Its session index is unknown here.
    NoSession,
    /// Its seal does not hold.
    Auth,
    /// Its counter was seen before, or is too old.
    Replay,
    /// No route leads to its destination.
    NoRoute,
    /// It took as many hops as it may.
    HopLimit,
    /// It claims a source that is no member of the mesh.
    UnknownSource,
    /// It came from a direction that its tree or route does not have.
    Loop,
    /// Broadcasts exceed the rate that is let through.
    Storm,
    /// It is larger than any path to its destination, or than the format allows.
    TooLarge,
    /// The queue or socket buffer in front of it is full.
    QueueFull,
    /// Left out to slow a flow of TCP down, because a queue stands.
    Congestion,
    /// A content was never completed from its pieces.
    Fragment,
    /// It is addressed to another peer.
    NotOurs,
    /// The mesh returned a frame that claims a MAC address of this host.
    OwnMac,
    /// It is bridge-local (spanning tree, pause, LLDP): a bridge must not forward it.
    Stp,
    /// A broadcast that was delivered before.
    Duplicate,
    /// A VXLAN datagram with an identifier that was given to nobody.
    ForeignVni,
    /// A VXLAN datagram whose outer source is not whom its identifier was given to.
    ForeignSource,
    /// A handshake message beyond the rate that is answered.
    HandshakeRate,
    /// The network device refused it.
    Device,
}

impl DropReason {
    /// Every reason, in the order of declaration.
    pub const ALL: [Self; 21] = [
        Self::Malformed,
        Self::NoSession,
        Self::Auth,
        Self::Replay,
        Self::NoRoute,
        Self::HopLimit,
        Self::UnknownSource,
        Self::Loop,
        Self::Storm,
        Self::TooLarge,
        Self::QueueFull,
        Self::Congestion,
        Self::Fragment,
        Self::NotOurs,
        Self::OwnMac,
        Self::Stp,
        Self::Duplicate,
        Self::ForeignVni,
        Self::ForeignSource,
        Self::HandshakeRate,
        Self::Device,
    ];

    /// The stable name in logs, metrics and `status`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::NoSession => "no_session",
            Self::Auth => "auth",
            Self::Replay => "replay",
            Self::NoRoute => "no_route",
            Self::HopLimit => "hop_limit",
            Self::UnknownSource => "unknown_source",
            Self::Loop => "loop",
            Self::Storm => "storm",
            Self::TooLarge => "too_large",
            Self::QueueFull => "queue_full",
            Self::Congestion => "congestion",
            Self::Fragment => "fragment",
            Self::NotOurs => "not_ours",
            Self::OwnMac => "own_mac",
            Self::Stp => "stp",
            Self::Duplicate => "duplicate",
            Self::ForeignVni => "foreign_vni",
            Self::ForeignSource => "foreign_source",
            Self::HandshakeRate => "handshake_rate",
            Self::Device => "device",
        }
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Drops since launch, by reason.
#[derive(Debug, Default)]
pub struct Counters {
    drops: [AtomicU64; DropReason::ALL.len()],
}

impl Counters {
    /// Counts one drop.
    pub fn count(&self, reason: DropReason) {
        self.add(reason, 1);
    }

    /// Counts `n` drops.
    pub fn add(&self, reason: DropReason, n: u64) {
        self.drops[reason as usize].fetch_add(n, Ordering::Relaxed);
    }

    /// How many drops there were for this reason.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize].load(Ordering::Relaxed)
    }

    /// The drops by name; reasons that never occurred are absent.
    pub fn snapshot(&self) -> BTreeMap<String, u64> {
        let all = DropReason::ALL
            .iter()
            .map(|&reason| (reason.name().to_owned(), self.drops(reason)));
        all.filter(|&(_, n)| n > 0).collect()
    }
}

/// Frames carried from and to one peer.
#[derive(Debug, Default)]
pub struct PeerCounters {
    received: Lane,
    sent: Lane,
    kernel_received: Lane,
    kernel_sent: Lane,
    /// Whether the peer was handed something for others of late.
    relayed: AtomicBool,
}

/// One direction, on a cache line of its own: another thread counts the other.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Lane {
    bytes: AtomicU64,
    frames: AtomicU64,
}

/// The values of [`PeerCounters`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerTotals {
    /// Bytes of frames received.
    pub rx_bytes: u64,
    /// Bytes of frames sent.
    pub tx_bytes: u64,
    /// Frames received.
    pub rx_frames: u64,
    /// Frames sent.
    pub tx_frames: u64,
}

impl PeerCounters {
    /// Counts a frame of so many bytes from the peer. Of one thread alone: what
    /// two count at once may be counted once.
    pub fn received(&self, bytes: usize) {
        self.received.grow_alone(bytes as u64, 1);
    }

    /// Counts a frame of so many bytes to the peer.
    pub fn sent(&self, bytes: usize) {
        self.sent_together(bytes, 1);
    }

    /// Counts so many frames to the peer, with their bytes together.
    pub fn sent_together(&self, bytes: usize, frames: usize) {
        self.sent.grow(bytes as u64, frames as u64);
    }

    /// Notes that the peer is handed datagrams for others.
    pub fn relays(&self) {
        // Mostly it is noted already, and then nothing is written that others read.
        if !self.relayed.load(Ordering::Relaxed) {
            self.relayed.store(true, Ordering::Relaxed);
        }
    }

    /// Whether it was since the last call.
    pub fn take_relayed(&self) -> bool {
        self.relayed.swap(false, Ordering::Relaxed)
    }

    /// Counts what the kernel carried since the last call.
    pub fn carried_by_kernel(&self, more: PeerTotals) {
        self.kernel_received.grow(more.rx_bytes, more.rx_frames);
        self.kernel_sent.grow(more.tx_bytes, more.tx_frames);
    }

    /// What the kernel carried; part of [`PeerCounters::totals`].
    pub fn kernel(&self) -> PeerTotals {
        PeerTotals::of(&self.kernel_received, &self.kernel_sent)
    }

    /// The values now, by whichever path.
    pub fn totals(&self) -> PeerTotals {
        let (own, kernel) = (PeerTotals::of(&self.received, &self.sent), self.kernel());
        PeerTotals {
            rx_bytes: own.rx_bytes + kernel.rx_bytes,
            tx_bytes: own.tx_bytes + kernel.tx_bytes,
            rx_frames: own.rx_frames + kernel.rx_frames,
            tx_frames: own.tx_frames + kernel.tx_frames,
        }
    }
}

impl PeerTotals {
    fn of(received: &Lane, sent: &Lane) -> Self {
        Self {
            rx_bytes: received.bytes.load(Ordering::Relaxed),
            tx_bytes: sent.bytes.load(Ordering::Relaxed),
            rx_frames: received.frames.load(Ordering::Relaxed),
            tx_frames: sent.frames.load(Ordering::Relaxed),
        }
    }
}

impl Lane {
    /// Without a locked instruction, which waits for all that was written before:
    /// a datagram, each time.
    fn grow_alone(&self, bytes: u64, frames: u64) {
        for (total, more) in [(&self.bytes, bytes), (&self.frames, frames)] {
            let sum = total.load(Ordering::Relaxed).wrapping_add(more);
            total.store(sum, Ordering::Relaxed);
        }
    }

    fn grow(&self, bytes: u64, frames: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.frames.fetch_add(frames, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_place_and_name() {
        for (i, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, i, "{reason}");
            let name = reason.name();
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{name}"
            );
        }
        let names: std::collections::BTreeSet<_> = DropReason::ALL.map(DropReason::name).into();
        assert_eq!(names.len(), DropReason::ALL.len());
        assert_eq!(DropReason::ALL.len(), DropReason::Device as usize + 1);
    }

    #[test]
    fn a_snapshot_holds_what_was_counted_and_nothing_else() {
        let counters = Counters::default();
        counters.count(DropReason::Replay);
        counters.add(DropReason::Storm, 41);
        counters.count(DropReason::Storm);
        let expected = BTreeMap::from([("replay".to_owned(), 1), ("storm".to_owned(), 42)]);
        assert_eq!(counters.snapshot(), expected);
    }

    #[test]
    fn directions_are_counted_apart() {
        let peer = PeerCounters::default();
        peer.received(100);
        peer.received(50);
        peer.sent(7);
        let expected = PeerTotals {
            rx_bytes: 150,
            tx_bytes: 7,
            rx_frames: 2,
            tx_frames: 1,
        };
        assert_eq!(peer.totals(), expected);

        peer.carried_by_kernel(expected);
        assert_eq!((peer.kernel(), peer.totals().rx_bytes), (expected, 300));
    }
}
