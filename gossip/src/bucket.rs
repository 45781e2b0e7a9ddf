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
        self.take_many(1, burst, per_second, now)
    }

    /// Takes so many tokens, or says there are too few and takes none.
    pub fn take_many(&mut self, count: u32, burst: u32, per_second: u32, now: Instant) -> bool {
        self.refill(burst, per_second, now);
        let count = count as f32;
        if self.tokens < count {
            return false;
        }
        self.tokens -= count;
        true
    }

    /// Takes so many tokens, or all there are. Says how many there were.
    pub fn drain(&mut self, count: u32, burst: u32, per_second: u32, now: Instant) -> u32 {
        self.refill(burst, per_second, now);
        let level = self.tokens;
        self.tokens = (level - count as f32).max(0.0);
        level as u32
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
        let later = start + Duration::from_secs(9);
        assert!(!bucket.take_many(4, 3, 2, later));
        assert!(bucket.take_many(3, 3, 2, later) && !bucket.take(3, 2, later));
        let later = later + Duration::from_secs(1);
        assert_eq!(
            (bucket.drain(9, 3, 2, later), bucket.drain(9, 3, 2, later)),
            (2, 0)
        );
    }
}
