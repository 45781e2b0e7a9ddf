//! Segments against a segmenter that is written for being right only, and
//! crafted headers.

use proptest::prelude::*;
use proto::{
    ip::Checksum,
    vnet::{PartialChecksum, SegmentKind, Segments, VnetHeader},
};

use super::*;
use crate::engine::offload_testing::{Shape, is_valid, reference, super_frame};

fn header(kind: SegmentKind, size: u16, start: u16, offset: u16) -> VnetHeader {
    VnetHeader {
        checksum: Some(PartialChecksum { start, offset }),
        segments: Some(Segments {
            kind,
            size,
            headers: 0,
            ecn: false,
        }),
    }
}

fn cut(header: &VnetHeader, frame: &mut [u8], sum: Sum) -> Vec<Vec<u8>> {
    let Ok(Load::Super(parts)) = examine(header, frame) else {
        panic!("no super-frame: {header:?}");
    };
    let mut out = Vec::new();
    let done: Result<(), ()> = parts.cut(frame, sum, |headers, payload| {
        out.push([headers, payload].concat());
        Ok(())
    });
    done.unwrap();
    assert_eq!(out.len(), parts.count());
    out
}

proptest! {
    #[test]
    fn segments_are_those_of_the_reference(shape in Shape::any()) {
        let (vnet, frame) = super_frame(&shape);
        let segments = cut(&vnet, &mut frame.clone(), Sum::Complete);
        prop_assert_eq!(&segments, &reference(&shape));
        prop_assert!(segments.iter().all(|segment| is_valid(segment)));
    }

    #[test]
    fn a_sum_that_is_left_completes_to_the_same(shape in Shape::any()) {
        let (vnet, frame) = super_frame(&shape);
        let mut left = cut(&vnet, &mut frame.clone(), Sum::Left);
        for segment in &mut left {
            let left = checksum_left(segment).unwrap();
            prop_assert!(usize::from(left.start + left.offset) < segment.len());
            prop_assert!(complete(segment));
        }
        prop_assert_eq!(left, reference(&shape));
    }

    #[test]
    fn a_narrow_path_gets_shorter_segments_of_tcp_only(shape in Shape::any(), longest in 0usize..2000) {
        let (vnet, mut frame) = super_frame(&shape);
        let Ok(Load::Super(mut parts)) = examine(&vnet, &mut frame) else {
            return Err(TestCaseError::fail("no super-frame"));
        };
        let before = parts;
        parts.keep_within(longest);
        if parts == before {
            let size = longest.saturating_sub(before.layers.payload);
            prop_assert!(!shape.tcp || size < 536 || before.longest() <= longest || before.size <= size);
        } else {
            prop_assert!(shape.tcp && parts.longest() <= longest);
            let narrower = Shape { size: parts.size, ..shape };
            let cut = cut(&super_frame(&narrower).0, &mut frame, Sum::Complete);
            prop_assert_eq!(cut, reference(&narrower));
        }
    }

    #[test]
    fn nothing_a_container_can_say_makes_it_panic(
        shape in Shape::any(), vnet: [u8; 12], keep in 0usize..200, flip in 0usize..200, with: u8,
    ) {
        let Ok(header) = VnetHeader::parse(&vnet) else { return Ok(()) };
        let (good, mut frame) = super_frame(&shape);
        let cut_short = frame.len().saturating_sub(keep);
        if let Some(byte) = frame.get_mut(flip) {
            *byte ^= with;
        }
        for header in [header, good] {
            for len in [frame.len(), cut_short, keep.min(frame.len())] {
                let mut frame = frame[..len].to_vec();
                if let Ok(Load::Super(parts)) = examine(&header, &mut frame) {
                    prop_assert!(parts.count() <= MAX_SEGMENTS);
                    let _: Result<(), ()> = parts.cut(&frame, Sum::Complete, |_, _| Ok(()));
                    let _ = parts.mark(&mut frame);
                }
            }
        }
    }
}

fn tcp4(payload: usize, size: usize) -> Shape {
    Shape {
        tcp: true,
        payload,
        size,
        ..Shape::default()
    }
}

#[test]
fn frame_and_header_must_agree() {
    let shape = tcp4(5000, 1000);
    let (good, frame) = super_frame(&shape);
    let start = good.checksum.unwrap().start;
    let others = [
        header(SegmentKind::TcpV6, 1000, start, 16),
        header(SegmentKind::Udp, 1000, start, 16),
        header(SegmentKind::TcpV4, 0, start, 16),
        header(SegmentKind::TcpV4, 1000, start + 2, 16),
        header(SegmentKind::TcpV4, 1000, start, 6),
        header(SegmentKind::TcpV4, 1000, u16::MAX, u16::MAX),
        header(SegmentKind::TcpV4, 1, start, 16),
    ];
    for bad in others {
        let examined = examine(&bad, &mut frame.clone());
        assert_eq!(examined, Err(DropReason::Malformed), "{bad:?}");
    }
}

#[test]
fn a_super_frame_with_a_sum_of_the_whole_is_cut_as_well() {
    let shape = tcp4(5000, 1000);
    let (good, mut frame) = super_frame(&shape);
    complete(&mut frame);
    let summed = VnetHeader {
        checksum: None,
        ..good
    };
    assert_eq!(cut(&summed, &mut frame, Sum::Complete), reference(&shape));
}

#[test]
fn a_sum_left_inside_a_tunnel_is_completed() {
    // A datagram whose payload happens to be summed from its fourth byte on.
    let shape = Shape {
        tcp: false,
        payload: 100,
        size: 100,
        ..Shape::default()
    };
    let mut frame = reference(&shape).remove(0);
    let start = frame.len() - 96;
    frame[start + 6..start + 8].fill(0);
    let vnet = VnetHeader {
        checksum: Some(PartialChecksum {
            start: u16::try_from(start).unwrap(),
            offset: 6,
        }),
        segments: None,
    };
    assert_eq!(examine(&vnet, &mut frame), Ok(Load::Frame(Sum::Complete)));
    assert!(Checksum::new().bytes(&frame[start..]).is_valid());
}

#[test]
fn congestion_is_marked_where_that_is_understood() {
    for (ecn, marked) in [(0, false), (1, true), (2, true), (3, true)] {
        for v6 in [false, true] {
            let shape = Shape {
                v6,
                ecn,
                ..tcp4(3000, 1000)
            };
            let (vnet, mut frame) = super_frame(&shape);
            let Ok(Load::Super(parts)) = examine(&vnet, &mut frame) else {
                panic!("no super-frame");
            };
            assert_eq!(parts.mark(&mut frame), marked);
            let ecn = if marked { 3 } else { 0 };
            let expected = reference(&Shape { ecn, ..shape });
            assert_eq!(cut(&vnet, &mut frame, Sum::Complete), expected);
        }
    }
}
