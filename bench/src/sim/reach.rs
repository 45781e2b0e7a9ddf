//! Who reaches whom, for many peers at once.

use super::world::World;

/// A set of peers by number.
pub(crate) struct Numbers {
    bits: Vec<u64>,
    len: usize,
}

impl Numbers {
    pub(crate) fn new(numbers: &[u32]) -> Self {
        let words = numbers
            .iter()
            .max()
            .map_or(0, |most| *most as usize / 64 + 1);
        let mut bits = vec![0; words];
        for number in numbers {
            bits[*number as usize / 64] |= 1 << (number % 64);
        }
        Self {
            bits,
            len: numbers.len(),
        }
    }

    pub(crate) fn contains(&self, number: u32) -> bool {
        let word = self.bits.get(number as usize / 64);
        word.is_some_and(|word| word >> (number % 64) & 1 == 1)
    }
}

impl World {
    /// Whether all of some peers have routes to all of a set that they are in.
    /// Looks at the last culprit first: mostly it lags still.
    pub(crate) fn all_reach(&self, peers: &[u32], set: &Numbers, suspect: &mut usize) -> bool {
        for turn in 0..peers.len() {
            let at = (*suspect + turn) % peers.len();
            if !self.reaches_set(peers[at], set) {
                *suspect = at;
                return false;
            }
        }
        true
    }

    fn reaches_set(&self, peer: u32, set: &Numbers) -> bool {
        let Some(view) = self.view(peer) else {
            return false;
        };
        if view.reachable_count() + 1 < set.len {
            return false;
        }
        let reached = view.reached().into_iter();
        let reached = reached.filter(|other| set.contains(*other));
        reached.count() + usize::from(set.contains(peer)) == set.len
    }
}
