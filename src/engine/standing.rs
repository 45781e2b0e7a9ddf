//! Telling a burst from a queue that stands: a reader that never finds its
//! device empty works behind a queue which only makes everything later. Then
//! one flow after the other is told to slow down, ever sooner while it lasts
//! (the control law of CoDel, RFC 8289, with emptiness in place of a target:
//! a device does not say how long a frame has waited).

use std::time::{Duration, Instant};

/// How long a queue stands before the first flow is told: many times what a
/// flow takes to notice, and less than anybody notices.
const INTERVAL: Duration = Duration::from_millis(20);

/// Watches one device.
#[derive(Debug, Default)]
pub struct Standing {
    /// When the next flow is to be told; none while the device is empty at times.
    due: Option<Instant>,
    told: u32,
}

impl Standing {
    /// The device was found empty.
    pub fn emptied(&mut self) {
        self.due = None;
        // Flows that grow again are told sooner than at first.
        self.told /= 2;
    }

    /// Something was read. True when a flow shall be told.
    pub fn read(&mut self, now: Instant) -> bool {
        let due = *self.due.get_or_insert(now + INTERVAL);
        if now < due {
            return false;
        }
        self.told = self.told.saturating_add(1);
        self.due = Some(now + INTERVAL.div_f64(f64::from(self.told).sqrt()));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "an origin for the test's own clock"
    )]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_burst_is_let_through_and_a_queue_is_told_ever_sooner() {
        let (mut standing, start) = (Standing::default(), start());
        assert!(!standing.read(start));
        assert!(!standing.read(start + millis(19)));
        standing.emptied();
        assert!(!standing.read(start + millis(30)), "a new burst");
        let told: Vec<u64> = (30..120)
            .filter(|&ms| standing.read(start + millis(ms)))
            .collect();
        assert_eq!(told[..3], [50, 70, 85]);
        assert!(told.len() > 5);
    }
}
