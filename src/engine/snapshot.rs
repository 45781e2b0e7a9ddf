//! What the data path needs to know, as one immutable value.
//!
//! The control thread builds a [`Snapshot`] whenever something changes and
//! publishes it whole; the data threads read it without a lock. Parts that did
//! not change are shared with the snapshot before.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use crypto::Session;
use proto::{
    Endpoint, MacAddr, PeerId,
    content::{FRAME_HEADER, RELAY_HEADER},
    datagram::{Protection, SessionIndex, TRANSPORT_OVERHEAD},
    ethernet,
};

use super::{
    counters::{Counters, PeerCounters},
    dns::NameMap,
    peers::Direct,
    pmtu::SMALLEST,
};

/// The forwarding view of one moment.
#[derive(Clone)]
pub struct Snapshot {
    /// Rises with every snapshot.
    pub generation: u64,
    /// What the data threads share over all snapshots.
    pub shared: Arc<Shared>,
    /// Sessions by our own index: what can be opened.
    pub sessions: Arc<HashMap<SessionIndex, Incoming>>,
    /// How to reach each peer.
    pub paths: Arc<HashMap<PeerId, Arc<Path>>>,
    /// Where MAC addresses live.
    pub stations: Arc<StationMap>,
    /// To which neighbours a source's broadcasts go on from here.
    pub trees: Arc<HashMap<PeerId, Vec<PeerId>>>,
    /// The peers this one has links with.
    pub neighbours: Arc<Vec<PeerId>>,
    /// Whom the kernel may carry frames to and from.
    pub fast: Arc<FastTable>,
    /// Which names have which addresses.
    pub names: Arc<NameMap>,
}

/// Fast paths by index: the VXLAN identifier that this peer chose for the other.
pub type FastTable = BTreeMap<u32, FastPeer>;

/// What the kernel has to know of one peer.
#[derive(Clone, Debug)]
pub struct FastPeer {
    /// Who it is.
    pub peer: PeerId,
    /// Where its frames go to.
    pub address: IpAddr,
    /// Where its frames have to come from, once it told.
    pub source: Option<IpAddr>,
    /// The identifier it chose for this peer, once it told.
    pub vni: Option<u32>,
    /// Whether frames are sent this way; they are received in any case.
    pub up: bool,
    /// Whether they are inside ESP.
    pub esp: bool,
    /// Where its frames are counted.
    pub counters: Arc<PeerCounters>,
}

impl PartialEq for FastPeer {
    fn eq(&self, other: &Self) -> bool {
        let key = |p: &Self| (p.peer, p.address, p.source, p.vni, p.up, p.esp);
        key(self) == key(other) && Arc::ptr_eq(&self.counters, &other.counters)
    }
}

/// What outlives snapshots.
pub struct Shared {
    /// This peer.
    pub local: PeerId,
    /// Numbers this peer's broadcasts; the launch epoch in the high bits makes
    /// it rise over restarts.
    pub broadcast_sequence: AtomicU64,
    /// Numbers contents that are cut into fragments.
    pub fragment_id: AtomicU32,
    /// Counters of the data path.
    pub counters: Counters,
}

impl Shared {
    /// The state at launch number `epoch`.
    pub fn new(local: PeerId, epoch: u64) -> Self {
        Self {
            local,
            broadcast_sequence: AtomicU64::new(epoch << 40),
            fragment_id: AtomicU32::new(0),
            counters: Counters::default(),
        }
    }

    /// The next number for a broadcast of this peer.
    pub fn next_broadcast(&self) -> u64 {
        self.broadcast_sequence.fetch_add(1, Ordering::Relaxed)
    }
}

/// A session datagrams arrive with.
#[derive(Clone)]
pub struct Incoming {
    /// The peer at the other end.
    pub peer: PeerId,
    /// Its keys.
    pub session: Arc<Session>,
    /// Where its frames are counted.
    pub counters: Arc<PeerCounters>,
}

/// How to reach a peer.
#[derive(Clone)]
pub struct Path {
    /// The session to seal with; none while a handshake is still to be made.
    pub session: Option<Arc<Session>>,
    /// How frames are protected; control is always sealed.
    pub protection: Protection,
    /// Which way datagrams go.
    pub route: Route,
    /// Its direct path, if it has one: what it relays goes along that, also while its
    /// own datagrams go round it.
    pub straight: Option<Straight>,
    /// Whether it understands frames with the checksum left, and several frames
    /// in one content.
    pub shares: bool,
    /// Where its frames are counted.
    pub counters: Arc<PeerCounters>,
}

/// A direct path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Straight {
    /// The proven address of the peer.
    pub address: Endpoint,
    /// The largest UDP payload proven to arrive, in bytes.
    pub datagram: usize,
}

impl Straight {
    /// As far as it is measured.
    pub(super) fn of(direct: &Direct) -> Self {
        Self {
            address: direct.address,
            datagram: direct.pmtu.datagram(),
        }
    }

    /// For probes, which are as large as what they prove: nothing is cut.
    pub(super) fn uncut(address: Endpoint) -> Self {
        Self {
            address,
            datagram: usize::from(u16::MAX),
        }
    }
}

/// Which way datagrams for a peer go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Straight to it.
    Direct(Straight),
    /// Through a neighbour.
    Relay {
        /// The neighbour.
        next: PeerId,
        /// How far the peer is from here, in microseconds as routes count.
        distance: u32,
        /// How far it is from the neighbour, as far as is known here.
        rest: u32,
    },
    /// No way is known.
    None,
}

/// Where MAC addresses live, and which MAC answers for an IP address.
#[derive(Clone, Debug, Default)]
pub struct StationMap {
    /// The peer behind which a MAC lives.
    pub macs: HashMap<MacAddr, PeerId>,
    /// The MAC that holds an IP address.
    pub ips: HashMap<IpAddr, MacAddr>,
}

impl Snapshot {
    /// A snapshot of a peer that knows nobody.
    pub fn empty(shared: Arc<Shared>) -> Self {
        Self {
            generation: 0,
            shared,
            sessions: Arc::default(),
            paths: Arc::default(),
            stations: Arc::default(),
            trees: Arc::default(),
            neighbours: Arc::default(),
            fast: Arc::default(),
            names: Arc::default(),
        }
    }

    /// The view of a peer that has a session with one other, at `address`, which
    /// is its neighbour: for tests and benchmarks of the data path.
    pub fn of_pair(
        local: PeerId,
        (peer, session): (PeerId, Session),
        address: SocketAddr,
        (datagram, shares): (usize, bool),
    ) -> Self {
        let session = Arc::new(session);
        let incoming = Incoming {
            peer,
            session: Arc::clone(&session),
            counters: Arc::default(),
        };
        let index = session.local();
        let straight = Straight {
            address: Endpoint::Udp(address),
            datagram,
        };
        let path = Path {
            session: Some(session),
            protection: Protection::Sealed,
            route: Route::Direct(straight),
            straight: Some(straight),
            shares,
            counters: Arc::default(),
        };
        let mut snapshot = Self::empty(Arc::new(Shared::new(local, 1)));
        snapshot.sessions = Arc::new(HashMap::from([(index, incoming)]));
        snapshot.paths = Arc::new(HashMap::from([(peer, Arc::new(path))]));
        snapshot.neighbours = Arc::new(vec![peer]);
        snapshot
    }

    /// The largest content that reaches `path` in one datagram, in bytes.
    pub fn room(&self, path: &Path) -> Option<usize> {
        match path.route {
            Route::Direct(straight) => straight.datagram.checked_sub(TRANSPORT_OVERHEAD),
            Route::Relay { next, .. } => {
                let datagram = self.paths.get(&next)?.straight?.datagram;
                datagram.checked_sub(2 * TRANSPORT_OVERHEAD + RELAY_HEADER)
            }
            Route::None => None,
        }
    }

    /// The largest IP packet that reaches `path` uncut, in bytes; none while that is
    /// not measured, for a connection keeps what it agrees on at its beginning.
    pub fn packet_room(&self, path: &Path) -> Option<usize> {
        let first = match path.route {
            Route::Direct(straight) => straight,
            Route::Relay { next, .. } => self.paths.get(&next)?.straight?,
            Route::None => return None,
        };
        let room = self.room(path).filter(|_| first.datagram > SMALLEST)?;
        room.checked_sub(FRAME_HEADER + ethernet::HEADER)
    }
}
