//! Finds owners by the first half of their ids: a hash table with open
//! addressing whose cells are four bytes, so that a search reads one line of
//! memory here, and another where the owner is.

use crate::replica::Slot;

/// A cell holds a slot in these bits, and above them some of the hash: most
/// others that are found at the same place are told apart by that.
const SLOT_BITS: u32 = 24;
const SLOT: u32 = (1 << SLOT_BITS) - 1;
const EMPTY: u32 = u32::MAX;
const SMALLEST: usize = 16;

/// Slots by hash; only their keeper knows who has which, and what its hash is.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    /// A power of two of them, of which a quarter at least are empty.
    cells: Box<[u32]>,
    len: usize,
}

impl Index {
    /// More slots than this cannot be told apart.
    pub(crate) const LIMIT: usize = SLOT as usize;

    /// Of nobody.
    pub(crate) fn new() -> Self {
        Self {
            cells: vec![EMPTY; SMALLEST].into(),
            len: 0,
        }
    }

    /// The slot with this hash that is the one sought; the first to come, if several are.
    pub(crate) fn find(&self, hash: u64, is_sought: impl Fn(Slot) -> bool) -> Option<Slot> {
        let mut place = self.home(hash);
        loop {
            let cell = self.cells[place];
            if cell == EMPTY {
                return None;
            }
            let slot = Slot(cell & SLOT);
            if cell & !SLOT == tag(hash) && is_sought(slot) {
                return Some(slot);
            }
            place = self.next(place);
        }
    }

    /// Adds a slot. `hash_of` says the hash of each.
    pub(crate) fn insert(&mut self, slot: Slot, hash_of: impl Fn(Slot) -> u64) {
        if (self.len + 1) * 4 > self.cells.len() * 3 {
            let cells = vec![EMPTY; self.cells.len() * 2].into();
            let old = std::mem::replace(&mut self.cells, cells);
            // From the end of a run on, so that who came first stays first.
            let gap = old.iter().position(|cell| *cell == EMPTY).unwrap_or(0);
            let (before, after) = old.split_at(gap);
            let held = after.iter().chain(before).filter(|cell| **cell != EMPTY);
            held.for_each(|cell| self.put(Slot(cell & SLOT), hash_of(Slot(cell & SLOT))));
        }
        self.len += 1;
        self.put(slot, hash_of(slot));
    }

    /// Takes a slot out, and closes the gap.
    pub(crate) fn remove(&mut self, slot: Slot, hash_of: impl Fn(Slot) -> u64) {
        let mut gap = self.home(hash_of(slot));
        while self.cells[gap] & SLOT != slot.0 {
            if self.cells[gap] == EMPTY {
                return;
            }
            gap = self.next(gap);
        }
        self.len -= 1;
        let mut place = gap;
        loop {
            place = self.next(place);
            let cell = self.cells[place];
            if cell == EMPTY {
                break;
            }
            // What lies between its home and its place may not go before its home.
            let home = self.home(hash_of(Slot(cell & SLOT)));
            let mask = self.cells.len() - 1;
            if place.wrapping_sub(home) & mask >= place.wrapping_sub(gap) & mask {
                self.cells[gap] = cell;
                gap = place;
            }
        }
        self.cells[gap] = EMPTY;
    }

    fn put(&mut self, slot: Slot, hash: u64) {
        let mut place = self.home(hash);
        while self.cells[place] != EMPTY {
            place = self.next(place);
        }
        self.cells[place] = tag(hash) | slot.0;
    }

    fn home(&self, hash: u64) -> usize {
        hash as usize & (self.cells.len() - 1)
    }

    fn next(&self, place: usize) -> usize {
        (place + 1) & (self.cells.len() - 1)
    }
}

fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32 & !SLOT
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn who_was_added_and_not_removed_is_found(
            steps in prop::collection::vec((0u32..40, any::<bool>()), 1..300),
            spread in prop_oneof![Just(0u64), Just(1), Just(0x9e37_79b9_7f4a_7c15)],
        ) {
            let hash_of = |slot: Slot| u64::from(slot.0 / 2).wrapping_mul(spread);
            let mut index = Index::new();
            let mut model = BTreeSet::new();
            for (number, add) in steps {
                let slot = Slot(number);
                match (add, model.contains(&number)) {
                    (true, false) => {
                        model.insert(number);
                        index.insert(slot, hash_of);
                    }
                    (false, true) => {
                        model.remove(&number);
                        index.remove(slot, hash_of);
                    }
                    (true, true) | (false, false) => {}
                }
                for number in 0..40 {
                    let found = index.find(hash_of(Slot(number)), |slot| slot.0 == number);
                    prop_assert_eq!(found.is_some(), model.contains(&number));
                }
                prop_assert_eq!(index.len, model.len());
            }
        }
    }
}
