//! Behaviour of cutting and rebuilding, under order and under malice.

use super::*;
use proptest::prelude::*;

fn start() -> Instant {
    #[expect(
        clippy::disallowed_methods,
        reason = "an origin for the test's own clock"
    )]
    Instant::now()
}

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 % 251) as u8).collect()
}

fn header(id: u32, index: usize, count: usize) -> FragmentHeader {
    FragmentHeader {
        id,
        index: index as u8,
        count: count as u8,
    }
}

fn cut(content: &[u8], room: usize) -> Vec<&[u8]> {
    pieces(content.len(), room)
        .unwrap()
        .map(|range| &content[range])
        .collect()
}

#[test]
fn pieces_are_few_nearly_equal_and_whole() {
    for (len, room, count) in [
        (1, 1, 1),
        (1400, 1400, 1),
        (1401, 1400, 2),
        (1500, 1400, 2),
        (65_600, 1400, 47),
        (255, 1, 255),
        (65_600, 258, 255),
    ] {
        let ranges: Vec<_> = pieces(len, room).unwrap().collect();
        assert_eq!(ranges.len(), count);
        assert_eq!((ranges[0].start, ranges[count - 1].end), (0, len));
        assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
        let sizes = ranges.iter().map(ExactSizeIterator::len);
        let (least, most) = (sizes.clone().min().unwrap(), sizes.max().unwrap());
        assert!(most <= room && most - least <= 1, "{len} in {room}");
    }
}

#[test]
fn what_the_format_cannot_carry_is_not_cut() {
    assert!(pieces(0, 100).is_none());
    assert!(pieces(100, 0).is_none());
    assert!(pieces(256, 1).is_none());
    assert!(pieces(MAX_CONTENT + 1, 60_000).is_none());
    assert!(pieces(usize::MAX, usize::MAX).is_none());
}

#[test]
fn a_content_comes_back_once() {
    let (content, now) = (content(9000), start());
    let parts = cut(&content, 1400);
    let mut reassembler = Reassembler::new(Limits::default());
    for turn in 0..2 {
        for (i, part) in parts.iter().enumerate() {
            let got = reassembler.insert((1, 7), header(7, i, parts.len()), part, now);
            let expected = (turn == 0 && i + 1 == parts.len()).then_some(&content[..]);
            assert_eq!(got, expected, "turn {turn}, piece {i}");
        }
    }
    assert_eq!(reassembler.abandoned(), 0);
}

#[test]
fn a_steady_stream_needs_no_more_memory_than_its_first_contents() {
    let (content, now) = (content(64_000), start());
    let parts = cut(&content, 1400);
    let mut reassembler = Reassembler::new(Limits::default());
    let mut sizes = Vec::new();
    for id in 0..50 {
        for (i, part) in parts.iter().enumerate() {
            reassembler.insert((1, id), header(id, i, parts.len()), part, now);
        }
        sizes.push(reassembler.memory());
    }
    assert_eq!(sizes[2], sizes[49]);
}

#[test]
fn contents_and_sessions_are_kept_apart() {
    let now = start();
    let mut reassembler = Reassembler::new(Limits::default());
    assert_eq!(reassembler.insert((1, 1), header(1, 0, 2), b"a", now), None);
    assert_eq!(reassembler.insert((2, 1), header(1, 1, 2), b"y", now), None);
    assert_eq!(reassembler.insert((1, 2), header(2, 1, 2), b"z", now), None);
    assert_eq!(
        reassembler.insert((1, 1), header(1, 1, 2), b"b", now),
        Some(&b"ab"[..])
    );
    assert_eq!(
        reassembler.insert((2, 1), header(1, 0, 2), b"x", now),
        Some(&b"xy"[..])
    );
}

#[test]
fn contradictions_change_nothing() {
    let now = start();
    let mut reassembler = Reassembler::new(Limits::default());
    let mut insert = |index, count, part: &[u8]| {
        reassembler
            .insert((1, 1), header(1, index, count), part, now)
            .map(<[u8]>::to_vec)
    };
    assert_eq!(insert(0, 3, b"a"), None);
    assert_eq!(insert(1, 2, b"other count"), None);
    assert_eq!(insert(0, 3, b"again"), None);
    for (index, count) in [(0, 0), (0, 1), (3, 3), (255, 3), (255, 255)] {
        assert_eq!(insert(index, count, b"absurd"), None);
    }
    assert_eq!(insert(2, 3, b"c"), None);
    assert_eq!(insert(1, 3, b""), Some(b"ac".to_vec()));
}

#[test]
fn what_stays_incomplete_expires() {
    let now = start();
    let mut reassembler = Reassembler::new(Limits::default());
    reassembler.insert((1, 1), header(1, 0, 2), b"a", now);
    let later = now + Duration::from_secs(1);
    assert_eq!(
        reassembler.insert((1, 1), header(1, 1, 2), b"b", later),
        None
    );
    assert_eq!(reassembler.abandoned(), 1);
    assert_eq!(
        reassembler.insert((1, 1), header(1, 0, 2), b"a", later),
        Some(&b"ab"[..])
    );
}

#[test]
fn a_session_pushes_out_its_own_contents_only() {
    let now = start();
    let mut reassembler = Reassembler::new(Limits::default());
    reassembler.insert((1, 0), header(0, 0, 2), &[1; 1000], now);
    for id in 0..1000 {
        reassembler.insert((2, id), header(id, 0, 2), &[2; 1000], now);
    }
    assert!(reassembler.session_cost(2) <= Limits::default().per_session);
    assert!(reassembler.abandoned() > 800);
    assert!(
        reassembler
            .insert((1, 0), header(0, 1, 2), &[1; 1000], now)
            .is_some()
    );
    assert!(
        reassembler
            .insert((2, 999), header(999, 1, 2), &[2; 1000], now)
            .is_some()
    );
}

#[test]
fn a_session_that_ended_leaves_nothing() {
    let now = start();
    let mut reassembler = Reassembler::new(Limits::default());
    for session in [1, 2] {
        for id in 0..9 {
            reassembler.insert((session, id), header(id, 0, 2), b"a", now);
        }
    }
    reassembler.forget_session(1);
    assert_eq!(
        (reassembler.session_cost(1), reassembler.partial.len()),
        (0, 9)
    );
}

#[test]
fn a_content_that_outgrows_the_format_is_given_up() {
    let now = start();
    let mut reassembler = Reassembler::new(Limits::default());
    reassembler.insert((1, 1), header(1, 0, 3), &[0; 40_000], now);
    reassembler.insert((1, 1), header(1, 1, 3), &[0; 40_000], now);
    assert_eq!((reassembler.abandoned(), reassembler.partial.len()), (1, 0));
}

/// One hostile step: session, id, index, count, length, milliseconds passed.
type Step = (u32, u32, usize, usize, usize, u64);

proptest! {
    #[test]
    fn any_order_with_duplicates_rebuilds_once(
        len in 2usize..20_000, room in 100usize..3000, order in any::<prop::sample::Index>(),
        swaps in prop::collection::vec(any::<(prop::sample::Index, prop::sample::Index)>(), 0..60),
        again in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
    ) {
        let (content, now) = (content(len), start());
        let parts = cut(&content, room.min(len - 1));
        let mut order: Vec<usize> = {
            let mut first: Vec<_> = (0..parts.len()).collect();
            first.rotate_left(order.index(parts.len()));
            first
        };
        order.extend(again.iter().map(|i| i.index(parts.len())));
        for (a, b) in swaps {
            let (a, b) = (a.index(order.len()), b.index(order.len()));
            order.swap(a, b);
        }
        let mut reassembler = Reassembler::new(Limits::default());
        let mut rebuilt = 0;
        for i in order {
            if let Some(got) = reassembler.insert((1, 1), header(1, i, parts.len()), parts[i], now) {
                prop_assert_eq!(got, &content[..]);
                rebuilt += 1;
            }
        }
        prop_assert_eq!(rebuilt, 1);
        prop_assert_eq!((reassembler.cost, reassembler.by_age.len()), (0, 0));
    }

    #[test]
    fn uneven_parts_are_concatenated(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..500), 2..40)) {
        let now = start();
        let mut reassembler = Reassembler::new(Limits::default());
        for (i, part) in parts.iter().enumerate().skip(1).rev() {
            prop_assert!(reassembler.insert((1, 1), header(1, i, parts.len()), part, now).is_none());
        }
        let got = reassembler.insert((1, 1), header(1, 0, parts.len()), &parts[0], now);
        prop_assert_eq!(got.unwrap(), parts.concat());
    }

    #[test]
    fn memory_stays_bounded_whatever_arrives(
        steps in prop::collection::vec(any::<Step>().prop_map(|(s, id, index, count, len, ms)| {
            (s % 40, id % 50, index % 256, count % 256, len % 70_000, ms % 3)
        }), 1..400),
    ) {
        let limits = Limits { total: 1 << 20, ..Limits::default() };
        let bytes = vec![0; 70_000];
        let (mut reassembler, mut now) = (Reassembler::new(limits), start());
        for (session, id, index, count, len, ms) in steps {
            now += Duration::from_millis(ms);
            // Every other piece is small, so that many contents are open at once.
            let len = if id % 2 == 0 { len % 1500 } else { len };
            reassembler.insert((session, id), header(id, index, count), &bytes[..len], now);
            prop_assert!(reassembler.memory() <= limits.total + MAX_CONTENT);
            prop_assert!(reassembler.session_cost(session) <= limits.per_session);
            let sum: usize = reassembler.partial.values().map(Partial::cost).sum();
            prop_assert_eq!(reassembler.cost, sum);
            prop_assert_eq!(reassembler.by_age.len(), reassembler.partial.len());
        }
    }
}
