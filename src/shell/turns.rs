//! Which thread reads the TAP: while little happens that of the datagrams, which
//! then hands nothing over to another thread, for every such hand-over takes as
//! long as an idle processor takes to wake; while much happens one of its own.
//!
//! ```text
//!            a read gave much
//!  together ------------------> apart
//!           <------------------
//!            none did for QUIET
//! ```

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// Bytes, and frames or datagrams, of one read that are much: more than waits when
/// the reader keeps up.
const BYTES: usize = 16 << 10;
const MANY: usize = 16;
/// Without such a read for so long, little happens.
pub(super) const QUIET: Duration = Duration::from_millis(100);

/// Whose turn it is. Shared by both threads.
#[derive(Debug)]
pub(super) struct Turns {
    start: Instant,
    apart: AtomicBool,
    /// When much happened last, in milliseconds after the start.
    busy: AtomicU64,
}

impl Turns {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            start: now,
            apart: AtomicBool::new(false),
            busy: AtomicU64::new(0),
        }
    }

    /// Whether the TAP has a thread of its own now.
    pub(super) fn are_apart(&self) -> bool {
        self.apart.load(Ordering::Relaxed)
    }

    /// A read gave so much. True when the threads part by that: the other one is to
    /// be woken.
    pub(super) fn part_if_busy(&self, count: usize, bytes: usize, now: Instant) -> bool {
        if count < MANY && bytes < BYTES {
            return false;
        }
        self.busy.store(self.millis(now), Ordering::Relaxed);
        !self.are_apart() && !self.apart.swap(true, Ordering::Relaxed)
    }

    /// True when the threads join by this: the other one is to be woken.
    pub(super) fn join_if_quiet(&self, now: Instant) -> bool {
        let busy = self.busy.load(Ordering::Relaxed);
        let quiet = self.millis(now).saturating_sub(busy) >= QUIET.as_millis() as u64;
        quiet && self.apart.swap(false, Ordering::Relaxed)
    }

    fn millis(&self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.start).as_millis();
        u64::try_from(passed).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "an origin for the test's own clock"
)]
mod tests {
    use super::*;

    #[test]
    fn threads_part_once_when_much_comes_and_join_when_it_is_over() {
        let start = Instant::now();
        let (turns, at) = (Turns::new(start), |ms| start + Duration::from_millis(ms));
        assert!(!turns.part_if_busy(MANY - 1, BYTES - 1, at(1)));
        assert!(!turns.are_apart() && !turns.join_if_quiet(at(500)));
        assert!(turns.part_if_busy(1, BYTES, at(1000)));
        assert!(turns.are_apart() && !turns.part_if_busy(MANY, 0, at(1050)));
        assert!(!turns.join_if_quiet(at(1149)) && turns.join_if_quiet(at(1150)));
        assert!(!turns.are_apart() && !turns.join_if_quiet(at(2000)));
    }
}
