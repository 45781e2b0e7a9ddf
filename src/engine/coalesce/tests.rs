//! What is joined and cut again is what came in, whatever is mixed with it.

use proptest::prelude::*;

use super::*;
use crate::engine::{
    layers,
    offload_testing::{Shape, is_valid, reference},
    segment::{self, Load, examine},
};

const ALL: Joins = Joins {
    tcp: true,
    udp: true,
};

#[derive(Default)]
struct Tap {
    delivered: Vec<(VnetHeader, Vec<u8>)>,
}

impl Tap {
    fn through(frames: &[Vec<u8>], sum: Sum, joins: Joins) -> Self {
        let (mut tap, mut coalescer) = (Self::default(), Coalescer::new(joins));
        for frame in frames {
            tap.push(&mut coalescer, frame, sum);
        }
        coalescer.flush(|header, frame| tap.delivered.push((*header, frame.to_vec())));
        tap
    }

    fn push(&mut self, coalescer: &mut Coalescer, frame: &[u8], sum: Sum) {
        coalescer.push(frame, None, sum, |header, frame| {
            self.delivered.push((*header, frame.to_vec()));
        });
    }

    /// Everything as frames with complete checksums.
    fn frames(&self) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        for (header, frame) in &self.delivered {
            let mut frame = frame.clone();
            match examine(header, &mut frame).unwrap() {
                Load::Frame(Sum::Complete) => out.push(frame),
                Load::Frame(Sum::Left) => {
                    segment::complete(&mut frame);
                    out.push(frame);
                }
                Load::Super(parts) => {
                    let _: Result<(), ()> = parts.cut(&frame, Sum::Complete, |headers, payload| {
                        out.push([headers, payload].concat());
                        Ok(())
                    });
                }
            }
        }
        out
    }
}

/// The same frames with the checksum left.
fn unsummed(frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut frames = frames.to_vec();
    for frame in &mut frames {
        let layers = Layers::find(frame).unwrap();
        let left = layers
            .pseudo(frame, layers.end - layers.transport)
            .partial();
        put(frame, layers.checksum(), left);
    }
    frames
}

/// A flow: shape of its frames, and of which of several flows it is.
fn of_flow(mut frames: Vec<Vec<u8>>, flow: u8) -> Vec<Vec<u8>> {
    for frame in &mut frames {
        let layers = Layers::find(frame).unwrap();
        frame[layers.transport + 1] = flow;
        put(frame, layers.checksum(), 0);
        let at = layers.transport;
        let sum = layers
            .pseudo(frame, frame.len() - at)
            .bytes(&frame[at..])
            .finish();
        put(
            frame,
            layers.checksum(),
            if sum == 0 { u16::MAX } else { sum },
        );
    }
    frames
}

fn flow_of(frame: &[u8]) -> u8 {
    frame[Layers::find(frame).unwrap().transport + 1]
}

proptest! {
    #[test]
    fn joined_and_cut_again_is_what_came_in(shape in Shape::any()) {
        let frames = reference(&shape);
        for (given, sum) in [(frames.clone(), Sum::Complete), (unsummed(&frames), Sum::Left)] {
            for joins in [ALL, Joins::default()] {
                let tap = Tap::through(&given, sum, joins);
                prop_assert_eq!(&tap.frames(), &frames);
            }
        }
    }

    #[test]
    fn flows_keep_their_order_and_lose_nothing(
        shapes in prop::collection::vec(Shape::any(), 1..12), order in prop::collection::vec(0usize..12, 0..200),
    ) {
        let mut flows: Vec<std::collections::VecDeque<Vec<u8>>> = (0u8..)
            .zip(&shapes)
            .map(|(flow, shape)| of_flow(reference(shape), flow).into())
            .collect();
        let mut given = Vec::new();
        for at in order.into_iter().cycle().take(2000) {
            let at = at % flows.len();
            given.extend(flows[at].pop_front());
        }
        let tap = Tap::through(&given, Sum::Complete, ALL);
        let frames = tap.frames();
        prop_assert!(frames.iter().all(|frame| is_valid(frame)));
        for flow in (0u8..).take(shapes.len()) {
            let of = |all: &[Vec<u8>]| -> Vec<Vec<u8>> {
                all.iter().filter(|f| flow_of(f) == flow).cloned().collect()
            };
            prop_assert_eq!(of(&frames), of(&given));
        }
    }

    #[test]
    fn damaged_frames_come_out_as_they_are(
        shape in Shape::any(), damage in prop::collection::vec((0usize..12, 0usize..90, 1u8..), 0..6),
    ) {
        let mut given = reference(&shape);
        for (which, at, with) in damage {
            let count = given.len();
            if let Some(byte) = given[which % count].get_mut(at) {
                *byte ^= with;
            }
        }
        let tap = Tap::through(&given, Sum::Complete, ALL);
        let (mut came, mut went) = (tap.frames(), given);
        for frames in [&mut came, &mut went] {
            frames.iter_mut().for_each(|frame| forget_identification(frame));
            frames.sort();
        }
        prop_assert_eq!(came, went);
    }
}

/// Where DF is set, an identification means nothing, and cutting writes it anew.
fn forget_identification(frame: &mut [u8]) {
    if let Some(layers) = Layers::find(frame)
        && layers.version == Version::V4
        && frame[layers.network + 6] & 0x40 != 0
    {
        put(frame, layers.network + 4, 0);
        put(frame, layers.network + 10, 0);
    }
}

fn bulk(segments: usize) -> Vec<Vec<u8>> {
    reference(&Shape {
        payload: segments * 1000,
        ..Shape::default()
    })
}

fn delivered(frames: &[Vec<u8>]) -> usize {
    Tap::through(frames, Sum::Complete, ALL).delivered.len()
}

#[test]
fn a_train_of_segments_is_one_super_frame() {
    let tap = Tap::through(&bulk(40), Sum::Complete, ALL);
    let [(header, frame)] = tap.delivered.as_slice() else {
        panic!("{} frames", tap.delivered.len());
    };
    let segments = header.segments.unwrap();
    assert_eq!((segments.size, segments.headers), (1000, 66));
    assert_eq!(frame.len(), 66 + 40_000);
    assert_eq!(delivered(&bulk(130)), 2, "64 KiB is the most");
    assert_eq!(delivered(&bulk(131)), 3);
}

#[test]
fn what_must_not_be_joined_is_not() {
    let change = |at: usize, with: u8| {
        let mut frames = bulk(3);
        frames[1][at] ^= with;
        let layers = Layers::find(&frames[1]).unwrap();
        let frame = &mut frames[1];
        put(frame, 24, 0);
        let ip = Checksum::new().bytes(&frame[14..34]).finish();
        put(frame, 24, ip);
        put(frame, layers.checksum(), 0);
        let sum = layers
            .pseudo(frame, frame.len() - 34)
            .bytes(&frame[34..])
            .finish();
        put(frame, layers.checksum(), sum);
        delivered(&frames)
    };
    for (what, at, with) in [
        ("TOS", 15, 4),
        ("TTL", 22, 1),
        ("DF", 20, 0x40),
        ("ACK number", 45, 1),
        ("window", 49, 1),
        ("SYN", 47, 2),
        ("RST", 47, 4),
        ("URG", 47, 0x20),
        ("CWR", 47, 0x80),
        ("ECE", 47, 0x40),
        ("options", 60, 2),
        ("sequence", 41, 1),
    ] {
        assert_eq!(change(at, with), 3, "{what}");
    }
    assert_eq!(change(18, 1), 1, "an identification of what has DF");
    assert_eq!(change(47, 8), 2, "PSH ends a super-frame");
    let mut bad_sum = bulk(3);
    bad_sum[1][70] ^= 1;
    assert_eq!(delivered(&bad_sum), 3);
}

#[test]
fn the_kernel_is_told_of_a_single_frame_whose_sum_is_left() {
    let frames = unsummed(&bulk(1));
    let tap = Tap::through(&frames, Sum::Left, ALL);
    let (header, frame) = &tap.delivered[0];
    let left = header.checksum.unwrap();
    assert_eq!((left.start, left.offset, header.segments), (34, 16, None));
    let mut frame = frame.clone();
    layers::complete(&mut frame, 34, 50);
    assert!(is_valid(&frame));
}
