//! Spreads many small items over numbered records of limited size, so that a
//! change of one item changes one record.

use std::collections::{BTreeMap, BTreeSet};

/// Which item is in which part, and which parts have changed.
#[derive(Clone, Debug)]
pub(crate) struct Parts<K> {
    capacity: usize,
    limit: usize,
    parts: Vec<Part<K>>,
    places: BTreeMap<K, usize>,
    dirty: BTreeSet<usize>,
}

#[derive(Clone, Debug)]
struct Part<K> {
    items: BTreeMap<K, usize>,
    used: usize,
}

impl<K: Ord + Clone> Parts<K> {
    /// At most `limit` parts of `capacity` each.
    pub(crate) fn new(capacity: usize, limit: usize) -> Self {
        Self {
            capacity,
            limit,
            parts: Vec::new(),
            places: BTreeMap::new(),
            dirty: BTreeSet::new(),
        }
    }

    /// Gives the item a place and marks its part as changed. False if there is no room.
    pub(crate) fn put(&mut self, key: K, size: usize) -> bool {
        let fits =
            |part: &Part<K>| part.used - part.items.get(&key).unwrap_or(&0) + size <= self.capacity;
        if self
            .places
            .get(&key)
            .is_some_and(|place| !fits(&self.parts[*place]))
        {
            self.remove(&key);
        }
        let fits =
            |part: &Part<K>| part.used - part.items.get(&key).unwrap_or(&0) + size <= self.capacity;
        let place = self
            .places
            .get(&key)
            .copied()
            .or_else(|| self.parts.iter().position(fits));
        let place = match place {
            Some(place) => place,
            None if self.parts.len() < self.limit && size <= self.capacity => {
                self.parts.push(Part {
                    items: BTreeMap::new(),
                    used: 0,
                });
                self.parts.len() - 1
            }
            None => return false,
        };
        let part = &mut self.parts[place];
        part.used += size;
        part.used -= part.items.insert(key.clone(), size).unwrap_or(0);
        self.places.insert(key, place);
        self.dirty.insert(place);
        true
    }

    /// Takes the item out and marks its part as changed.
    pub(crate) fn remove(&mut self, key: &K) -> bool {
        let Some(place) = self.places.remove(key) else {
            return false;
        };
        let part = &mut self.parts[place];
        part.used -= part.items.remove(key).unwrap_or(0);
        self.dirty.insert(place);
        true
    }

    /// Marks all parts as changed, and at least the first `count`.
    pub(crate) fn touch_all(&mut self, count: usize) {
        self.dirty.extend(0..self.parts.len().max(count));
    }

    /// Whether any part has changed.
    pub(crate) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// The parts that changed since the last call.
    pub(crate) fn take_dirty(&mut self) -> BTreeSet<usize> {
        std::mem::take(&mut self.dirty)
    }

    /// The parts that changed since the last call, each as `render` makes it.
    pub(crate) fn take_changed<T>(&mut self, render: impl Fn(&Self, usize) -> T) -> Vec<(u16, T)> {
        let dirty = self.take_dirty();
        let number = |part| u16::try_from(part).ok();
        dirty
            .into_iter()
            .filter_map(|part| Some((number(part)?, render(self, part))))
            .collect()
    }

    /// What is in a part; nothing if there is no such part.
    pub(crate) fn items(&self, part: usize) -> impl Iterator<Item = &K> {
        self.parts
            .get(part)
            .into_iter()
            .flat_map(|part| part.items.keys())
    }

    /// All items.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.places.keys()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn adding_one_item_changes_one_part() {
        let mut parts = Parts::new(100, 10);
        (0..30).for_each(|key| assert!(parts.put(key, 20)));
        assert_eq!(parts.take_dirty().len(), 6);
        assert!(parts.put(99, 20));
        assert_eq!(parts.take_dirty(), BTreeSet::from([6]));
    }

    proptest! {
        #[test]
        fn no_part_overflows_and_no_item_is_lost(steps in prop::collection::vec((0u8..40, 0usize..60), 0..200)) {
            let mut parts = Parts::new(100, 8);
            let mut model = BTreeMap::new();
            for (key, size) in steps {
                if size == 0 {
                    prop_assert_eq!(parts.remove(&key), model.remove(&key).is_some());
                } else if parts.put(key, size) {
                    model.insert(key, size);
                } else {
                    model.remove(&key);
                }
                for part in 0..8 {
                    prop_assert!(parts.items(part).map(|key| model[key]).sum::<usize>() <= 100);
                }
                prop_assert!(parts.keys().eq(model.keys()));
            }
        }
    }
}
