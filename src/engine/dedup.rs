//! Which broadcasts were seen before (design D8): peers that disagree about a
//! source's tree may send one twice or in a circle, and it must arrive once.
//!
//! What was seen is told by source, sequence number and frame alone, and by no
//! order of the numbers: whoever passes a broadcast on can put any number into
//! it, and must not be able to make those of its source look old or seen.
//! Knows nothing of trees, links or hops.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    mem,
};

use proto::PeerId;

/// Broadcasts that are remembered at least, of all sources together; at most twice as
/// many. One peer makes 20,000 a second at most: then these are three seconds, and a
/// broadcast is at its last hop by then. A table of 64 Ki places holds so many.
pub const REMEMBERED: usize = 7 << 13;

/// Lets each broadcast of each source pass once.
#[derive(Debug)]
pub struct BroadcastFilter {
    /// Keyed, so that nobody can choose what looks alike.
    keys: RandomState,
    recent: HashSet<u64>,
    /// Those before, as many as fit; looked up until the recent ones are as many.
    older: HashSet<u64>,
    capacity: usize,
}

impl Default for BroadcastFilter {
    fn default() -> Self {
        Self::with_capacity(REMEMBERED)
    }
}

impl BroadcastFilter {
    /// A filter that remembers `capacity` broadcasts at least (one at least).
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            keys: RandomState::new(),
            recent: HashSet::new(),
            older: HashSet::new(),
            capacity: capacity.max(1),
        }
    }

    /// Whether this is the first time for this frame of the source with this `sequence`,
    /// as far as is remembered.
    pub fn accept(&mut self, source: PeerId, sequence: u64, frame: &[u8]) -> bool {
        let seen = self.keys.hash_one((source, sequence, frame));
        if self.older.contains(&seen) || !self.recent.insert(seen) {
            return false;
        }
        if self.recent.len() >= self.capacity {
            mem::swap(&mut self.recent, &mut self.older);
            self.recent.clear();
        }
        true
    }

    /// How many broadcasts are remembered.
    pub fn len(&self) -> usize {
        self.recent.len() + self.older.len()
    }

    /// Whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.recent.is_empty() && self.older.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn peer(n: u32) -> PeerId {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&n.to_be_bytes());
        PeerId(id)
    }

    #[test]
    fn each_passes_once_in_any_order() {
        let mut filter = BroadcastFilter::default();
        for sequence in [5000, 5001, 4000, 0, u64::MAX, 1, u64::MAX - 1] {
            assert!(filter.accept(peer(1), sequence, b"a"), "{sequence}");
            assert!(!filter.accept(peer(1), sequence, b"a"), "{sequence} again");
        }
        assert!(filter.accept(peer(2), 5000, b"a"), "sources are told apart");
    }

    /// A member that passes broadcasts on can make some up in another's name.
    #[test]
    fn what_is_made_up_keeps_no_later_one_out() {
        let mut filter = BroadcastFilter::default();
        assert!(filter.accept(peer(1), 7, b"who has"));
        for made_up in [u64::MAX, 8, 9, 1 << 40, 2000] {
            assert!(filter.accept(peer(1), made_up, b"made up"));
        }
        for sequence in [8, 9, 10] {
            assert!(filter.accept(peer(1), sequence, b"who has"), "{sequence}");
        }
    }

    #[test]
    fn a_flood_stays_within_bounds() {
        let mut filter = BroadcastFilter::with_capacity(100);
        for n in 0..10_000 {
            assert!(filter.accept(peer(n), 1, &[]));
            assert!(filter.len() <= 200);
        }
    }

    proptest! {
        #[test]
        fn the_last_ones_are_remembered(
            capacity in 1usize..6,
            broadcasts in prop::collection::vec((0u32..3, 0u64..4, 0u8..2), 1..200),
        ) {
            let mut filter = BroadcastFilter::with_capacity(capacity);
            let mut passed = Vec::new();
            for broadcast in broadcasts {
                let (source, sequence, byte) = broadcast;
                let fresh = filter.accept(peer(source), sequence, &[byte]);
                let at = passed.iter().rev().position(|before| *before == broadcast);
                match at {
                    Some(at) if at < capacity => prop_assert!(!fresh),
                    Some(at) if at >= 2 * capacity => prop_assert!(fresh),
                    Some(_) => {}
                    None => prop_assert!(fresh),
                }
                if fresh {
                    passed.push(broadcast);
                }
            }
        }
    }
}
