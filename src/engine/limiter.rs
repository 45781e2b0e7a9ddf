//! A token bucket: so much per second, and so much at once.
//!
//! For broadcast storms, log lines, handshakes. Reads no clock.

use std::time::Instant;

/// Parts of a token; with nanosecond steps a rate is exact.
const SCALE: u128 = 1_000_000_000;

/// A token bucket. It starts full.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    rate_per_s: u64,
    burst: u64,
    /// In units of 1 / [`SCALE`] token.
    level: u128,
    filled_at: Option<Instant>,
}

impl TokenBucket {
    /// A full bucket of `burst` tokens that gains `rate_per_s` a second.
    pub fn new(rate_per_s: u64, burst: u64) -> Self {
        Self {
            rate_per_s,
            burst,
            level: u128::from(burst) * SCALE,
            filled_at: None,
        }
    }

    /// Takes `n` tokens, or none if there are fewer.
    pub fn take(&mut self, now: Instant, n: u64) -> bool {
        self.fill(now);
        let wanted = u128::from(n) * SCALE;
        if self.level < wanted {
            return false;
        }
        self.level -= wanted;
        true
    }

    /// Whole tokens in the bucket.
    pub fn available(&mut self, now: Instant) -> u64 {
        self.fill(now);
        u64::try_from(self.level / SCALE).unwrap_or(u64::MAX)
    }

    fn fill(&mut self, now: Instant) {
        let last = *self.filled_at.get_or_insert(now);
        // A `now` of the past (threads disagree by a little) must not be
        // remembered, or the time since would be counted twice.
        let Some(passed) = now.checked_duration_since(last) else {
            return;
        };
        self.filled_at = Some(now);
        let gained = passed
            .as_nanos()
            .saturating_mul(u128::from(self.rate_per_s));
        self.level = self
            .level
            .saturating_add(gained)
            .min(u128::from(self.burst) * SCALE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn start() -> Instant {
        #[expect(
            clippy::disallowed_methods,
            reason = "an origin for the test's own clock"
        )]
        Instant::now()
    }

    #[test]
    fn a_burst_passes_then_the_rate() {
        let t = start();
        let mut bucket = TokenBucket::new(10, 3);
        let passed = |bucket: &mut TokenBucket, at: Duration| {
            (0..100).filter(|_| bucket.take(t + at, 1)).count()
        };
        assert_eq!(passed(&mut bucket, Duration::ZERO), 3);
        assert_eq!(passed(&mut bucket, Duration::from_millis(99)), 0);
        assert_eq!(passed(&mut bucket, Duration::from_millis(100)), 1);
        assert_eq!(passed(&mut bucket, Duration::from_secs(3600)), 3);
    }

    #[test]
    fn a_clock_that_steps_back_gives_nothing() {
        let t = start() + Duration::from_secs(10);
        let mut bucket = TokenBucket::new(1, 1);
        assert!(bucket.take(t, 1));
        assert!(!bucket.take(t - Duration::from_secs(5), 1));
        assert!(!bucket.take(t, 1));
        assert!(bucket.take(t + Duration::from_secs(1), 1));
    }

    #[test]
    fn extremes_do_not_overflow() {
        let t = start();
        let mut bucket = TokenBucket::new(u64::MAX, u64::MAX);
        assert!(bucket.take(t, u64::MAX));
        assert!(bucket.take(t + Duration::from_secs(1 << 30), u64::MAX));
        assert!(!TokenBucket::new(0, 0).take(t, 1));
        assert!(TokenBucket::new(0, 0).take(t, 0));
    }

    proptest! {
        #[test]
        fn never_more_than_burst_and_rate(
            rate in 0u64..1000, burst in 0u64..100,
            steps in prop::collection::vec((0u64..50_000, 0u64..20), 1..200),
        ) {
            let t = start();
            let mut bucket = TokenBucket::new(rate, burst);
            let (mut micros, mut taken) = (0, 0);
            for (step, n) in steps {
                micros += step;
                if bucket.take(t + Duration::from_micros(micros), n) {
                    taken += n;
                }
                prop_assert!(taken <= burst + rate * micros / 1_000_000);
            }
        }
    }
}
