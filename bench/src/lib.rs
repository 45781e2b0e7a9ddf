//! Measuring wove: a pair of peers that share a session, for benchmarks of the
//! data plane without any socket; [`sim`], whole
//! meshes in virtual time; and [`compare`], real daemons beside others.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use crypto::{Established, Hello, Identity, Initiator, Responder, Secret};
use proto::{
    Endpoint, MacAddr, PeerId,
    datagram::Datagram,
    vnet::{PartialChecksum, SegmentKind, Segments, VnetHeader},
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use wove::engine::{
    Coalescer, Output, Snapshot, Upcall, coalesce::Joins, layers::Layers, segment::Sum,
    snapshot::StationMap,
};

#[expect(
    clippy::disallowed_methods,
    reason = "it measures real time with real processes"
)]
pub mod compare;
pub mod sim;

/// The largest UDP payload of a 1500-byte path.
pub const DATAGRAM: usize = 1472;

/// Two peers with a session, as their data planes see each other.
pub struct Pair {
    /// The peer behind which the sending station lives.
    pub near: Snapshot,
    /// The peer behind which the receiving station lives.
    pub far: Snapshot,
}

/// The sending station.
pub const NEAR_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
/// The receiving station.
pub const FAR_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
/// The underlay address of the near peer.
pub const NEAR_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 6783);
const FAR_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)), 6783);

/// Runs one whole handshake.
///
/// # Panics
/// If the handshake fails, which would be a defect.
pub fn handshake(
    near: &Identity,
    far: &Identity,
    secret: &Secret,
    rng: &mut ChaCha8Rng,
) -> (Established, Established) {
    let hello = |instance| Hello::new(1, instance, "bench");
    let (mut initiator, initiation) =
        Initiator::start(near, &hello(1), 1, rng).expect("a short hello fits");
    let message = parse(&initiation);
    let (mut responder, response) =
        Responder::accept(far, &hello(2), 2, &message, rng).expect("it is well-formed");
    let (ours, completion) = initiator
        .read_response(&parse(&response), secret)
        .expect("it is genuine");
    let theirs = responder
        .complete(&parse(&completion), std::slice::from_ref(secret))
        .expect("the secret is shared");
    (ours, theirs)
}

fn parse(bytes: &[u8]) -> proto::datagram::Handshake<'_> {
    match Datagram::parse(bytes) {
        Ok(Datagram::Handshake(message)) => message,
        other => panic!("not a handshake: {other:?}"),
    }
}

impl Pair {
    /// A pair whose paths carry [`DATAGRAM`] bytes.
    pub fn new() -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let (a, b) = (Identity::generate(&mut rng), Identity::generate(&mut rng));
        let secret = Secret::generate(&mut rng);
        let (ours, theirs) = handshake(&a, &b, &secret, &mut rng);
        let see =
            |local, other, address| Snapshot::of_pair(local, other, address, (DATAGRAM, true));
        Self {
            near: see(a.id(), (b.id(), ours.session), FAR_ADDRESS),
            far: see(b.id(), (a.id(), theirs.session), NEAR_ADDRESS),
        }
        .with_stations(a.id(), b.id())
    }

    fn with_stations(mut self, near: PeerId, far: PeerId) -> Self {
        let macs = HashMap::from([(NEAR_MAC, near), (FAR_MAC, far)]);
        let stations = Arc::new(StationMap {
            macs,
            ips: HashMap::new(),
        });
        self.near.stations = Arc::clone(&stations);
        self.far.stations = stations;
        self
    }
}

impl Default for Pair {
    fn default() -> Self {
        Self::new()
    }
}

/// An IPv4 frame of `len` bytes from the near to the far station.
pub fn frame(len: usize) -> Vec<u8> {
    let mut frame = vec![0; len.max(34)];
    frame[..6].copy_from_slice(&FAR_MAC.0);
    frame[6..12].copy_from_slice(&NEAR_MAC.0);
    frame[12..15].copy_from_slice(&[0x08, 0x00, 0x45]);
    let total = u16::try_from(frame.len() - 14).unwrap_or(u16::MAX);
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    frame[22..24].copy_from_slice(&[64, 17]);
    frame
}

/// Keeps what the data plane puts out, in reused memory.
#[derive(Default)]
pub struct Sink {
    /// The last datagram.
    pub datagram: Vec<u8>,
    /// The last frame.
    pub frame: Vec<u8>,
    /// How many datagrams there were.
    pub datagrams: u64,
    /// How many frames there were.
    pub frames: u64,
}

impl Output for Sink {
    fn datagram(&mut self, _to: Endpoint, len: usize, fill: impl FnOnce(&mut [u8]) -> bool) {
        self.datagram.resize(len, 0);
        if fill(&mut self.datagram) {
            self.datagrams += 1;
        }
    }

    fn frame(&mut self, frame: &[u8]) {
        self.frame.clear();
        self.frame.extend_from_slice(frame);
        self.frames += 1;
    }

    fn upcall(&mut self, _upcall: Upcall) {}
}

/// A super-frame of TCP from the near to the far station: 45 segments of 1,348 bytes.
pub fn super_frame() -> (VnetHeader, Vec<u8>) {
    const SEGMENT: u16 = 1348;
    const HEADERS: usize = 66;
    let mut frame = vec![0; HEADERS + 45 * usize::from(SEGMENT)];
    frame[..6].copy_from_slice(&FAR_MAC.0);
    frame[6..12].copy_from_slice(&NEAR_MAC.0);
    frame[12..15].copy_from_slice(&[0x08, 0x00, 0x45]);
    let total = u16::try_from(frame.len() - 14).unwrap_or(u16::MAX);
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    frame[20..24].copy_from_slice(&[0x40, 0, 64, 6]);
    frame[46..48].copy_from_slice(&[0x80, 0x10]);
    let header = VnetHeader {
        checksum: Some(PartialChecksum {
            start: 34,
            offset: 16,
        }),
        segments: Some(Segments {
            kind: SegmentKind::TcpV4,
            size: SEGMENT,
            headers: 66,
            ecn: false,
        }),
    };
    (header, frame)
}

/// Keeps all datagrams and joins frames as a TAP's sink does, in reused memory.
pub struct Train {
    bytes: Vec<u8>,
    used: usize,
    lens: Vec<usize>,
    coalescer: Coalescer,
    /// How many frames, joined ones as one, there were.
    pub joined: u64,
}

impl Default for Train {
    fn default() -> Self {
        let all = Joins {
            tcp: true,
            udp: true,
        };
        Self {
            bytes: Vec::new(),
            used: 0,
            lens: Vec::new(),
            coalescer: Coalescer::new(all),
            joined: 0,
        }
    }
}

impl Train {
    /// The datagrams since the last [`Self::clear`].
    pub fn datagrams(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let mut rest = self.bytes.as_mut_slice();
        self.lens.iter().map(move |&len| {
            let (datagram, others) = std::mem::take(&mut rest).split_at_mut(len);
            rest = others;
            datagram
        })
    }

    /// Forgets the datagrams.
    pub fn clear(&mut self) {
        self.used = 0;
        self.lens.clear();
    }

    /// Delivers what waits to be joined.
    pub fn flush(&mut self) {
        self.coalescer.flush(|_, _| self.joined += 1);
    }
}

impl Output for Train {
    fn datagram(&mut self, _to: Endpoint, len: usize, fill: impl FnOnce(&mut [u8]) -> bool) {
        let start = self.used;
        self.used += len;
        if self.bytes.len() < self.used {
            self.bytes.resize(self.used, 0);
        }
        if fill(&mut self.bytes[start..self.used]) {
            self.lens.push(len);
        }
    }

    fn frame(&mut self, frame: &[u8]) {
        let joined = &mut self.joined;
        self.coalescer
            .push(frame, None, Sum::Complete, |_, _| *joined += 1);
    }

    fn unsummed_frame(&mut self, frame: &[u8], layers: &Layers) {
        let joined = &mut self.joined;
        self.coalescer
            .push(frame, Some(layers), Sum::Left, |_, _| *joined += 1);
    }

    fn upcall(&mut self, _upcall: Upcall) {}
}

/// Any instant: benchmarks of pure code need only one.
#[expect(clippy::disallowed_methods, reason = "benchmarks are no core")]
pub fn now() -> Instant {
    Instant::now()
}
