//! Exponential back-off with jitter.

use std::time::Duration;

use rand::Rng;

/// Pauses that double from attempt to attempt.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pause after another failure: doubling from `min` to `max`, times a
    /// factor in [0.5, 1.5) so that peers do not retry in step.
    pub fn next(&mut self, min: Duration, max: Duration, rng: &mut impl Rng) -> Duration {
        let pause = min.saturating_mul(1 << self.failures.min(16)).min(max);
        self.failures = self.failures.saturating_add(1);
        pause.mul_f64(rng.random_range(0.5..1.5))
    }

    /// Goes to the longest pause: trying sooner would not help.
    pub fn exhaust(&mut self) {
        self.failures = 16;
    }

    /// Starts from the shortest pause again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn pauses_double_up_to_the_limit_and_are_jittered() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let mut backoff = Backoff::default();
        for expected in [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0] {
            let pause = backoff.next(Duration::from_secs(1), Duration::from_secs(60), &mut rng);
            assert!(
                (0.5..1.5).contains(&(pause.as_secs_f64() / expected)),
                "{pause:?} for {expected}"
            );
        }
        backoff.reset();
        assert!(
            backoff.next(Duration::from_secs(1), Duration::from_secs(60), &mut rng)
                < Duration::from_secs(2)
        );
    }
}
