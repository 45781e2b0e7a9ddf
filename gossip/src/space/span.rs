//! Arithmetic on parts of the range: runs of addresses, and blocks of them.

use proto::space::Block;
use serde::{Deserialize, Serialize};

/// A run of addresses, as offsets; the end is not part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Span {
    /// The first.
    pub start: u32,
    /// One more than the last.
    pub end: u32,
}

impl Span {
    /// So many addresses from `start` on; cut at the end of all numbers.
    pub fn new(start: u32, len: u32) -> Self {
        let end = start.saturating_add(len);
        Self { start, end }
    }

    /// What a block covers.
    pub fn of(block: &Block) -> Self {
        Self::new(block.start, block.len)
    }

    /// How many addresses.
    pub fn len(&self) -> u32 {
        self.end.saturating_sub(self.start)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.end <= self.start
    }

    /// Whether an address is in it.
    pub fn contains(&self, at: u32) -> bool {
        self.start <= at && at < self.end
    }

    /// What both have.
    pub fn meet(&self, other: Self) -> Option<Self> {
        let both = Self {
            start: self.start.max(other.start),
            end: self.end.min(other.end),
        };
        (!both.is_empty()).then_some(both)
    }

    /// What is left of it on either side of another.
    pub fn minus(self, other: Self) -> impl Iterator<Item = Self> {
        let before = Self {
            start: self.start,
            end: self.end.min(other.start),
        };
        let after = Self {
            start: self.start.max(other.end),
            end: self.end,
        };
        let parts = match self.meet(other) {
            None => [self, Self { start: 0, end: 0 }],
            Some(_) => [before, after],
        };
        parts.into_iter().filter(|part| !part.is_empty())
    }
}

/// Takes a run out of sorted spans.
pub(crate) fn remove(spans: &mut Vec<Span>, gone: Span) {
    if spans.iter().any(|span| span.meet(gone).is_some()) {
        *spans = spans.iter().flat_map(|span| span.minus(gone)).collect();
    }
}

/// Adds a run to sorted spans, and joins what touches.
pub(crate) fn insert(spans: &mut Vec<Span>, new: Span) {
    if new.is_empty() {
        return;
    }
    remove(spans, new);
    let at = spans.partition_point(|span| span.start < new.start);
    spans.insert(at, new);
    spans.dedup_by(|next, before| {
        let touch = before.end == next.start;
        if touch {
            before.end = next.end;
        }
        touch
    });
}

/// Takes a run out of blocks, and gives what was taken.
pub(crate) fn cut(blocks: &mut Vec<Block>, gone: Span) -> Vec<Block> {
    let part = |block: &Block, span: Span| Block {
        start: span.start,
        len: span.len(),
        ..*block
    };
    let taken = blocks
        .iter()
        .filter_map(|block| Some(part(block, Span::of(block).meet(gone)?)))
        .collect();
    *blocks = blocks
        .iter()
        .flat_map(|block| Span::of(block).minus(gone).map(|span| part(block, span)))
        .collect();
    taken
}

/// Adds a block in place of what was there, and joins neighbours of one kind:
/// to raise an epoch is an owner's right.
pub(crate) fn put(blocks: &mut Vec<Block>, new: Block) {
    if new.len == 0 {
        return;
    }
    cut(blocks, Span::of(&new));
    let at = blocks.partition_point(|block| block.start < new.start);
    blocks.insert(at, new);
    blocks.dedup_by(|next, before| {
        let touch = Span::of(before).end == next.start && before.held == next.held;
        if touch {
            before.len += next.len;
            before.epoch = before.epoch.max(next.epoch);
        }
        touch
    });
}

/// How much of a new run its owner may use without asking: half, or less of a
/// large one. The rest can be taken over by time when the owner is silent.
pub(crate) fn held_share(len: u32) -> u32 {
    match len {
        0..=128 => len.div_ceil(2),
        _ => (len / 8).max(64),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block(start: u32, len: u32, epoch: u32, held: bool) -> Block {
        Block {
            start,
            len,
            epoch,
            held,
        }
    }

    #[test]
    fn neighbours_of_one_kind_are_joined() {
        let mut blocks = vec![block(0, 4, 1, true), block(8, 4, 1, false)];
        put(&mut blocks, block(4, 4, 3, true));
        assert_eq!(blocks, [block(0, 8, 3, true), block(8, 4, 1, false)]);
    }

    proptest! {
        #[test]
        fn what_is_cut_and_what_is_left_are_the_whole(parts in prop::collection::vec((0u32..60, 1u32..9, any::<bool>()), 0..12), start in 0u32..60, len in 0u32..20) {
            let mut blocks = Vec::new();
            for (start, len, held) in parts {
                put(&mut blocks, block(start, len, 1, held));
            }
            let of = |blocks: &[Block]| blocks.iter().flat_map(|b| (b.start..b.start + b.len).map(move |at| (at, b.held))).collect::<Vec<_>>();
            let all = of(&blocks);
            prop_assert!(blocks.is_sorted_by(|a, b| a.start + a.len <= b.start));
            let taken = cut(&mut blocks, Span::new(start, len));
            let mut both = [of(&blocks), of(&taken)].concat();
            both.sort_unstable();
            prop_assert_eq!(both, all);
            let outside = blocks.iter().all(|b| Span::of(b).meet(Span::new(start, len)).is_none());
            prop_assert!(outside);
        }

        #[test]
        fn spans_are_sets(steps in prop::collection::vec((any::<bool>(), 0u32..60, 0u32..12), 0..20)) {
            let (mut spans, mut model) = (Vec::new(), std::collections::BTreeSet::new());
            for (add, start, len) in steps {
                let span = Span::new(start, len);
                if add { insert(&mut spans, span) } else { remove(&mut spans, span) }
                for at in span.start..span.end {
                    if add { model.insert(at); } else { model.remove(&at); }
                }
            }
            let all: Vec<u32> = spans.iter().flat_map(|s| s.start..s.end).collect();
            prop_assert_eq!(all, model.into_iter().collect::<Vec<_>>());
        }
    }
}
