//! Which broadcasts were seen before (design D8): peers that disagree about a
//! source's tree may send one twice or in a circle, and it must arrive once.
//!
//! Knows sources and sequence numbers, nothing of trees, links or frames.

use std::collections::BTreeMap;

use proto::PeerId;

/// Sources that are remembered; the one that was quiet longest makes room.
const SOURCES: usize = 20_000;

/// Sequence numbers below the highest that are still told apart.
pub const WINDOW: u64 = 1984;

/// Lets each broadcast of each source pass once.
#[derive(Debug)]
pub struct BroadcastFilter {
    slots: BTreeMap<PeerId, usize>,
    /// A list by last use is threaded through these: no work per broadcast
    /// grows with the number of sources but the look-up.
    sources: Vec<Source>,
    newest: usize,
    oldest: usize,
    capacity: usize,
}

#[derive(Debug)]
struct Source {
    peer: PeerId,
    window: Window,
    newer: usize,
    older: usize,
}

/// The end of the list.
const NONE: usize = usize::MAX;

impl Default for BroadcastFilter {
    fn default() -> Self {
        Self::with_capacity(SOURCES)
    }
}

impl BroadcastFilter {
    /// A filter for at most `capacity` sources (one at least).
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            slots: BTreeMap::new(),
            sources: Vec::new(),
            newest: NONE,
            oldest: NONE,
            capacity: capacity.max(1),
        }
    }

    /// Whether this is the first time for the source's `sequence`. What is
    /// [`WINDOW`] or more below the highest seen counts as seen.
    pub fn accept(&mut self, source: PeerId, sequence: u64) -> bool {
        let slot = match self.slots.get(&source) {
            Some(&slot) => {
                self.unlink(slot);
                slot
            }
            None => self.admit(source, sequence),
        };
        self.link_newest(slot);
        self.sources[slot].window.accept(sequence)
    }

    /// How many sources are remembered.
    pub fn len(&self) -> usize {
        self.sources.len()
    }

    /// Whether no source is remembered.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// A slot for a new source, not yet in the list.
    fn admit(&mut self, peer: PeerId, sequence: u64) -> usize {
        let source = Source {
            peer,
            window: Window::starting_at(sequence),
            newer: NONE,
            older: NONE,
        };
        let slot = if self.sources.len() < self.capacity {
            self.sources.push(source);
            self.sources.len() - 1
        } else {
            let slot = self.oldest;
            self.unlink(slot);
            self.slots.remove(&self.sources[slot].peer);
            self.sources[slot] = source;
            slot
        };
        self.slots.insert(peer, slot);
        slot
    }

    fn unlink(&mut self, slot: usize) {
        let Source { newer, older, .. } = self.sources[slot];
        match newer {
            NONE => self.newest = older,
            newer => self.sources[newer].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.sources[older].newer = newer,
        }
    }

    fn link_newest(&mut self, slot: usize) {
        let before = self.newest;
        self.sources[slot].newer = NONE;
        self.sources[slot].older = before;
        match before {
            NONE => self.oldest = slot,
            before => self.sources[before].newer = slot,
        }
        self.newest = slot;
    }
}

/// A ring of bits, one per sequence number up to the highest seen (the layout
/// of RFC 6479: moving on clears whole words and shifts nothing).
#[derive(Debug)]
struct Window {
    highest: u64,
    bits: [u64; WORDS],
}

/// One word more than the window, so that the word being filled never holds
/// numbers that are still in the window from the turn before.
const WORDS: usize = 32;
const _: () = assert!(WORDS as u64 * 64 == WINDOW + 64 && WORDS.is_power_of_two());

impl Window {
    fn starting_at(sequence: u64) -> Self {
        Self {
            highest: sequence,
            bits: [0; WORDS],
        }
    }

    fn accept(&mut self, sequence: u64) -> bool {
        if sequence > self.highest {
            self.advance(sequence);
        } else if self.highest - sequence >= WINDOW {
            return false;
        }
        let (word, bit) = (Self::word(sequence / 64), 1 << (sequence % 64));
        let new = self.bits[word] & bit == 0;
        self.bits[word] |= bit;
        new
    }

    fn advance(&mut self, sequence: u64) {
        let (from, to) = (self.highest / 64, sequence / 64);
        let stale = (to - from).min(WORDS as u64);
        for block in 0..stale {
            self.bits[Self::word(to - block)] = 0;
        }
        self.highest = sequence;
    }

    fn word(block: u64) -> usize {
        // Masked first, so the cast loses nothing.
        (block & (WORDS as u64 - 1)) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn peer(n: u32) -> PeerId {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&n.to_be_bytes());
        PeerId(id)
    }

    #[test]
    fn each_passes_once_in_any_order_within_the_window() {
        let mut filter = BroadcastFilter::default();
        for sequence in [5000, 5001, 4000, 4999, 5000 - 1022] {
            assert!(filter.accept(peer(1), sequence), "{sequence}");
            assert!(!filter.accept(peer(1), sequence), "{sequence} again");
        }
        assert!(!filter.accept(peer(1), 5001 - WINDOW), "too old");
        assert!(filter.accept(peer(2), 5000), "sources are told apart");
    }

    #[test]
    fn the_ends_of_the_number_space_are_ordinary() {
        let mut filter = BroadcastFilter::default();
        assert!(filter.accept(peer(1), 0));
        assert!(filter.accept(peer(1), u64::MAX));
        assert!(!filter.accept(peer(1), u64::MAX));
        assert!(filter.accept(peer(1), u64::MAX - WINDOW + 1));
        assert!(!filter.accept(peer(1), 0));
    }

    #[test]
    fn the_source_quiet_longest_makes_room() {
        let mut filter = BroadcastFilter::with_capacity(3);
        for n in [1, 2, 3, 1, 4] {
            filter.accept(peer(n), u64::from(n));
        }
        assert_eq!(filter.len(), 3);
        assert!(!filter.accept(peer(1), 1), "used lately, so remembered");
        assert!(!filter.accept(peer(3), 3));
        assert!(filter.accept(peer(2), 2), "forgotten");
        assert!(filter.accept(peer(4), 4), "made room for 2");
    }

    #[test]
    fn a_flood_of_sources_stays_within_bounds() {
        let mut filter = BroadcastFilter::with_capacity(100);
        for n in 0..10_000 {
            assert!(filter.accept(peer(n), 1));
        }
        assert_eq!((filter.len(), filter.slots.len()), (100, 100));
    }

    proptest! {
        #[test]
        fn the_window_agrees_with_a_set(
            start in prop::sample::select(vec![0, 5_000, u64::MAX - 6_000]),
            steps in prop::collection::vec(0u64..4_000, 1..300),
        ) {
            let mut filter = BroadcastFilter::with_capacity(1);
            let (mut seen, mut highest) = (BTreeSet::new(), 0);
            for sequence in steps.iter().map(|step| start + step) {
                let fresh = highest < sequence || highest - sequence < WINDOW;
                highest = highest.max(sequence);
                prop_assert_eq!(filter.accept(peer(1), sequence), fresh & seen.insert(sequence));
            }
        }

        #[test]
        fn the_filter_agrees_with_a_list(capacity in 1usize..6, sources in prop::collection::vec(0u32..9, 1..200)) {
            let mut filter = BroadcastFilter::with_capacity(capacity);
            let mut recent: Vec<u32> = Vec::new();
            for source in sources {
                let known = recent.iter().position(|&r| r == source).map(|at| recent.remove(at));
                recent.truncate(capacity - usize::from(known.is_none()));
                recent.insert(0, source);
                prop_assert_eq!(filter.accept(peer(source), 7), known.is_none());
            }
        }
    }
}
