//! From a TAP to another: what goes in as super-frames and bursts comes out as
//! the frames they consist of, whatever the path and the peer are like.
#![expect(
    clippy::disallowed_methods,
    reason = "an origin for the tests' own clock"
)]

use std::{collections::HashMap, sync::Arc, time::Instant};

use crypto::{Established, Hello, Identity, Initiator, Responder, Secret};
use proto::{
    Endpoint, MacAddr,
    datagram::{Datagram, Handshake},
    vnet::VnetHeader,
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::engine::{
    DropReason, Effects, Egress, Ingress, Snapshot,
    offload_testing::{Shape, reference, super_frame},
    snapshot::StationMap,
};

const NEAR: &str = "192.0.2.1:6783";
const FAR: &str = "192.0.2.2:6783";
/// The station of all frames here.
const MAC: MacAddr = MacAddr([2; 6]);

/// Two peers with a session.
struct Pair {
    near: Snapshot,
    far: Snapshot,
}

impl Pair {
    /// On a path of `datagram` bytes, to a peer that understands shared frames or not.
    fn new(datagram: usize, shares: bool) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let (a, b) = (Identity::generate(&mut rng), Identity::generate(&mut rng));
        let secret = Secret::generate(&mut rng);
        let hello = |instance| Hello::new(1, instance, "test");
        let (mut initiator, first) = Initiator::start(&a, &hello(1), 1, &mut rng).unwrap();
        let (mut responder, second) =
            Responder::accept(&b, &hello(2), 2, &handshake(&first), &mut rng).unwrap();
        let (ours, third) = initiator
            .read_response(&handshake(&second), &secret)
            .unwrap();
        let theirs = responder
            .complete(&handshake(&third), std::slice::from_ref(&secret))
            .unwrap();
        let stations = Arc::new(StationMap {
            macs: HashMap::from([(MAC, b.id())]),
            ips: HashMap::new(),
        });
        let see = |local, established: Established, address: &str, peer| {
            let session = (peer, established.session);
            let address = address.parse().unwrap();
            let mut snapshot = Snapshot::of_pair(local, session, address, (datagram, shares));
            snapshot.stations = Arc::clone(&stations);
            snapshot
        };
        Self {
            near: see(a.id(), ours, FAR, b.id()),
            far: see(b.id(), theirs, NEAR, a.id()),
        }
    }

    /// What comes out at the far end, and in how many datagrams.
    fn carry(&self, egress: &mut Egress, loads: &[(VnetHeader, Vec<u8>)]) -> (Vec<Vec<u8>>, usize) {
        let (mut sent, mut got) = (Effects::default(), Effects::default());
        let (mut ingress, now) = (Ingress::new(), Instant::now());
        for (header, frame) in loads {
            egress.handle_offloaded(&self.near, header, &mut frame.clone(), now, &mut sent);
        }
        egress.flush(&self.near, &mut sent);
        let count = sent.datagrams.len();
        for (_, mut datagram) in sent.datagrams {
            let from = Endpoint::Udp(NEAR.parse().unwrap());
            ingress.handle_datagram(&self.far, &mut datagram, from, now, &mut got);
        }
        (got.frames, count)
    }

    fn drops(&self, reason: DropReason) -> u64 {
        self.near.shared.counters.drops(reason)
    }
}

fn handshake(bytes: &[u8]) -> Handshake<'_> {
    match Datagram::parse(bytes) {
        Ok(Datagram::Handshake(message)) => message,
        other => panic!("not a handshake: {other:?}"),
    }
}

fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    for (tcp, v6) in [(true, false), (true, true), (false, false), (false, true)] {
        for (payload, size) in [(20_000, 1300), (1300, 1300), (5000, 60)] {
            shapes.push(Shape {
                tcp,
                v6,
                payload,
                size,
                flags: 0x18,
                ..Shape::default()
            });
        }
    }
    shapes
}

#[test]
fn super_frames_arrive_as_their_segments() {
    for (datagram, shares) in [(1472, true), (1472, false), (900, true), (900, false)] {
        let pair = Pair::new(datagram, shares);
        for shape in shapes() {
            let load = super_frame(&shape);
            let (frames, _) = pair.carry(&mut Egress::new(), &[load]);
            // A segment of TCP is cut to the path, a datagram of UDP into fragments.
            let size = if datagram == 900 && shape.tcp && shape.size > 900 {
                900 - 32 - 1 - headers(&shape)
            } else {
                shape.size
            };
            let expected = reference(&Shape { size, ..shape });
            assert!(frames == expected, "{datagram} {shares} {shape:?}");
        }
    }
}

fn headers(shape: &Shape) -> usize {
    super_frame(shape).1.len() - shape.payload
}

#[test]
fn a_super_frame_for_everybody_is_cut_and_complete() {
    let mut pair = Pair::new(1472, true);
    pair.near.stations = Arc::default();
    for shape in shapes() {
        let (frames, _) = pair.carry(&mut Egress::new(), &[super_frame(&shape)]);
        assert!(frames == reference(&shape), "{shape:?}");
    }
}

#[test]
fn small_frames_of_a_burst_share_datagrams() {
    let small = |n: u32| {
        let shape = Shape {
            sequence: n,
            payload: 30,
            size: 30,
            ..Shape::default()
        };
        reference(&shape).remove(0)
    };
    let frames: Vec<_> = (0..40).map(small).collect();
    let loads: Vec<_> = frames
        .iter()
        .map(|frame| (VnetHeader::COMPLETE, frame.clone()))
        .collect();
    let alike = Pair::new(1472, true).carry(&mut Egress::new(), &loads);
    assert_eq!(alike, (frames.clone(), 3));
    let old = Pair::new(1472, false).carry(&mut Egress::new(), &loads);
    assert_eq!(old, (frames.clone(), 40));
    // A longer frame between them keeps its place.
    let bulk = Shape {
        payload: 3000,
        size: 1000,
        ..Shape::default()
    };
    let mut mixed = loads.clone();
    mixed.insert(20, super_frame(&bulk));
    let expected = [&frames[..20], &reference(&bulk), &frames[20..]].concat();
    let (frames, _) = Pair::new(1472, true).carry(&mut Egress::new(), &mixed);
    assert!(frames == expected);
}

#[test]
fn a_congested_flow_misses_one_segment_or_is_marked() {
    let pair = Pair::new(1472, true);
    let mut egress = Egress::new();
    let bulk = |tcp, ecn| Shape {
        tcp,
        ecn,
        payload: 5000,
        size: 1000,
        ..Shape::default()
    };
    egress.set_congested(true);
    let udp = bulk(false, 0);
    let (frames, _) = pair.carry(&mut egress, &[super_frame(&udp)]);
    assert!(frames == reference(&udp), "UDP would not notice");
    let marked = Shape {
        ecn: 3,
        ..bulk(true, 0)
    };
    let (frames, _) = pair.carry(&mut egress, &[super_frame(&bulk(true, 2))]);
    assert!(frames == reference(&marked));
    egress.set_congested(true);
    let deaf = bulk(true, 0);
    let (frames, _) = pair.carry(&mut egress, &[super_frame(&deaf), super_frame(&deaf)]);
    let all = reference(&deaf);
    assert!(frames == [&all[1..], &all].concat());
    assert_eq!(pair.drops(DropReason::Congestion), 1);
}
