//! The window that refuses a counter seen before (RFC 6479).
//!
//! A ring of blocks of bits; moving on clears whole blocks instead of shifting
//! bits. Pure bookkeeping: it must be asked only for datagrams that opened.

/// Remembers which of the last counters were accepted. 1 KiB.
///
/// Invariant: bit `c` of the ring says whether counter `c` was accepted, for
/// every `c` in the [`ReplayWindow::SIZE`] counters up to and including the
/// highest one accepted. Older counters count as seen.
#[derive(Clone, Debug)]
pub struct ReplayWindow {
    blocks: [u64; BLOCKS],
    /// One more than the highest accepted counter.
    next: u64,
}

const BLOCKS: usize = 256;
const BLOCK_BITS: u64 = u64::BITS as u64;

impl ReplayWindow {
    /// Counters behind the highest one that may still arrive. One block short
    /// of the ring, because the newest block is only partly in use.
    pub const SIZE: u64 = (BLOCKS as u64 - 1) * BLOCK_BITS;

    /// A window that has seen nothing.
    pub fn new() -> Self {
        Self {
            blocks: [0; BLOCKS],
            next: 0,
        }
    }

    /// Whether this counter is neither seen nor too old. Changes nothing, so
    /// it may be asked before the datagram is opened, to save the work.
    pub fn check(&self, counter: u64) -> bool {
        if counter >= self.next {
            return counter != u64::MAX;
        }
        self.next - counter <= Self::SIZE && self.blocks[block(counter)] & bit(counter) == 0
    }

    /// Takes a counter in, after its datagram opened. False if it is a replay
    /// or too old: then the datagram must be dropped.
    pub fn accept(&mut self, counter: u64) -> bool {
        if !self.check(counter) {
            return false;
        }
        if counter >= self.next {
            self.advance(counter);
        }
        self.blocks[block(counter)] |= bit(counter);
        true
    }

    /// Whether no higher counter was accepted than this.
    pub fn is_newest(&self, counter: u64) -> bool {
        counter + 1 >= self.next
    }

    /// Moves the front to `counter`, clearing the blocks it enters.
    fn advance(&mut self, counter: u64) {
        let (first, last) = (self.next.div_ceil(BLOCK_BITS), counter / BLOCK_BITS);
        // Entering as many blocks as there are clears the whole ring.
        let entered = (last + 1).saturating_sub(first).min(BLOCKS as u64);
        for i in 0..entered {
            self.blocks[slot(last - i)] = 0;
        }
        self.next = counter + 1;
    }
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self::new()
    }
}

fn block(counter: u64) -> usize {
    slot(counter / BLOCK_BITS)
}

fn slot(number: u64) -> usize {
    (number % BLOCKS as u64) as usize
}

fn bit(counter: u64) -> u64 {
    1 << (counter % BLOCK_BITS)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const SIZE: u64 = ReplayWindow::SIZE;

    #[test]
    fn the_window_is_as_large_as_promised() {
        const { assert!(SIZE >= 8192) };
        let mut w = ReplayWindow::new();
        assert!(w.accept(SIZE));
        assert!(w.accept(1));
        assert!(!w.check(0));
    }

    #[test]
    fn each_counter_is_accepted_once() {
        let mut w = ReplayWindow::new();
        for c in [0, 1, 63, 64, 5, 10_000, 9_999, 200] {
            assert!(w.check(c));
            assert!(w.accept(c), "{c}");
            assert!(!w.check(c));
            assert!(!w.accept(c), "{c}");
        }
    }

    #[test]
    fn a_jump_forgets_what_lies_behind() {
        let mut w = ReplayWindow::new();
        for c in 0..100 {
            assert!(w.accept(c));
        }
        assert!(w.accept(1 << 40));
        assert!(!w.accept(99));
        assert!(w.accept((1 << 40) - SIZE + 1));
        assert!(!w.accept((1 << 40) - SIZE));
    }

    #[test]
    fn the_last_counters_do_not_overflow() {
        let mut w = ReplayWindow::new();
        assert!(!w.accept(u64::MAX));
        assert!(w.accept(u64::MAX - 1));
        assert!(!w.accept(u64::MAX - 1));
        assert!(!w.accept(u64::MAX));
        assert!(w.accept(u64::MAX - 2));
    }

    /// Jumps of every magnitude, forward and back, around the edges.
    fn steps() -> impl Strategy<Value = Vec<(bool, u64)>> {
        let size = prop_oneof![0_u64..4, 0_u64..200, SIZE - 70..SIZE + 70, 0_u64..40_000];
        prop::collection::vec((prop::bool::weighted(0.6), size), 1..400)
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_set(steps in steps(), start in prop_oneof![Just(0_u64), any::<u32>().prop_map(u64::from)]) {
            let (mut window, mut seen) = (ReplayWindow::new(), BTreeSet::new());
            let mut at = start;
            for (forward, step) in steps {
                at = if forward { at + step } else { at.saturating_sub(step) };
                let highest = seen.last().copied();
                let fresh = !seen.contains(&at) && highest.is_none_or(|h: u64| at + SIZE > h);
                prop_assert_eq!(window.check(at), fresh);
                prop_assert_eq!(window.accept(at), fresh);
                if fresh {
                    seen.insert(at);
                }
            }
        }
    }
}
