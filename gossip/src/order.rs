//! Owners in the order of their ids.
//!
//! Ids are hashes, so each of as many equal parts of their space as there are
//! sums has few: a search begins in the right part and touches no other.

use std::ops::Range;

use proto::PeerId;

use crate::replica::Slot;

/// The space of ids is kept in 2^9 equal parts.
pub(crate) const PART_BITS: u32 = 9;

/// Slots, sorted by the ids of those who have them; only their keeper knows these.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    slots: Vec<Slot>,
    /// Where each part ends.
    ends: Box<[u32]>,
}

impl Order {
    /// Nobody.
    pub(crate) fn new() -> Self {
        Self {
            slots: Vec::new(),
            ends: vec![0; 1 << PART_BITS].into(),
        }
    }

    /// All, by id.
    pub(crate) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// How many have a lower id. `id_of` says who has a slot.
    pub(crate) fn place(&self, id: &PeerId, id_of: impl Fn(Slot) -> PeerId) -> usize {
        let Range { start, end } = self.range(part(id));
        start + self.slots[start..end].partition_point(|slot| id_of(*slot) < *id)
    }

    /// Takes somebody in, at its place.
    pub(crate) fn insert(&mut self, id: &PeerId, slot: Slot, id_of: impl Fn(Slot) -> PeerId) {
        let place = self.place(id, id_of);
        self.slots.insert(place, slot);
        self.ends[part(id)..].iter_mut().for_each(|end| *end += 1);
    }

    /// Leaves somebody out who had this id.
    pub(crate) fn remove(&mut self, id: &PeerId, slot: Slot) {
        let Range { start, end } = self.range(part(id));
        let Some(at) = self.slots[start..end].iter().position(|s| *s == slot) else {
            return;
        };
        self.slots.remove(start + at);
        self.ends[part(id)..].iter_mut().for_each(|end| *end -= 1);
    }

    fn range(&self, part: usize) -> Range<usize> {
        let start = part.checked_sub(1).map_or(0, |before| self.ends[before]);
        start as usize..self.ends[part] as usize
    }
}

fn part(id: &PeerId) -> usize {
    let first = u64::from_be_bytes(id.short_id().0);
    (first >> (u64::BITS - PART_BITS)) as usize
}
