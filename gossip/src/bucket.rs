//! A token bucket: so many at once, so many per second thereafter.

use std::time::Instant;

/// Tokens that come back with time.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    tokens: f32,
    at: Instant,
}

impl TokenBucket {
    /// A full bucket.
    pub fn full(burst: u32, now: Instant) -> Self {
        Self {
            tokens: burst as f32,
            at: now,
        }
    }

    /// Takes a token, or says there is none.
    pub fn take(&mut self, burst: u32, per_second: u32, now: Instant) -> bool {
        self.refill(burst, per_second, now);
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }

    /// Whether the bucket has been left alone for long enough to be full.
    pub fn is_full(&mut self, burst: u32, per_second: u32, now: Instant) -> bool {
        self.refill(burst, per_second, now);
        self.tokens >= burst as f32
    }

    fn refill(&mut self, burst: u32, per_second: u32, now: Instant) {
        let gained = now.saturating_duration_since(self.at).as_secs_f32() * per_second as f32;
        self.tokens = (self.tokens + gained).min(burst as f32);
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some instant to count from"
)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate_counts() {
        let start = Instant::now();
        let mut bucket = TokenBucket::full(3, start);
        let taken = (0..10).filter(|_| bucket.take(3, 2, start)).count();
        assert_eq!(taken, 3);
        assert!(bucket.take(3, 2, start + Duration::from_millis(500)));
        assert!(!bucket.take(3, 2, start + Duration::from_millis(500)));
        assert!(bucket.is_full(3, 2, start + Duration::from_secs(9)));
    }
}
