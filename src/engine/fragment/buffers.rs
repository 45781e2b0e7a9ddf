//! Buffers that go round between contents, so that rebuilding a steady stream
//! of them allocates nothing. Knows sizes only.

use super::MAX_CONTENT;

/// How many idle buffers are kept.
const KEPT: usize = 8;

/// Sizes are rounded up to this, so that buffers suit more than one content.
const STEP: usize = 512;

/// Idle buffers.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    idle: Vec<Vec<u8>>,
}

impl Buffers {
    /// An empty buffer for `expected` bytes. A kept one is taken only if it is
    /// not much too large, because its whole capacity is charged to its user.
    pub(super) fn lend(&mut self, expected: usize) -> Vec<u8> {
        let suits = |buffer: &Vec<u8>| {
            (expected..=expected.saturating_mul(2) + STEP).contains(&buffer.capacity())
        };
        match self.idle.iter().position(suits) {
            Some(at) => self.idle.swap_remove(at),
            None => Vec::with_capacity(expected.next_multiple_of(STEP)),
        }
    }

    /// Makes room for `needed` bytes in all, doubling as long as that is sensible.
    pub(super) fn grow(&mut self, buffer: &mut Vec<u8>, needed: usize) {
        if needed <= buffer.capacity() {
            return;
        }
        let wanted = (buffer.capacity() * 2).min(MAX_CONTENT).max(needed);
        let mut larger = self.lend(wanted);
        larger.extend_from_slice(buffer);
        self.take_back(std::mem::replace(buffer, larger));
    }

    /// Keeps a buffer, or drops it if enough are kept.
    pub(super) fn take_back(&mut self, mut buffer: Vec<u8>) {
        if self.idle.len() < KEPT && buffer.capacity() > 0 {
            buffer.clear();
            self.idle.push(buffer);
        }
    }

    /// Frees one idle buffer; false if there is none.
    pub(super) fn drop_one(&mut self) -> bool {
        self.idle.pop().is_some()
    }

    /// Bytes of memory held.
    pub(super) fn memory(&self) -> usize {
        self.idle.iter().map(Vec::capacity).sum()
    }
}
