//! Telling a burst from a queue that stands: a reader that never finds its
//! device empty works behind a queue which only makes everything later. Then
//! one flow after the other is told to slow down, ever sooner while it lasts
//! (the control law of CoDel, RFC 8289, with emptiness in place of a target:
//! a device does not say how long a frame has waited).

use std::time::{Duration, Instant};

/// How long a queue stands at least before the first flow is told: several
/// round trips between two hosts of one network.
const LEAST: Duration = Duration::from_millis(2);
/// And at most.
const MOST: Duration = Duration::from_millis(20);

/// Watches one device.
#[derive(Debug, Default)]
pub struct Standing {
    /// The last read since the device was empty.
    read: Option<Instant>,
    /// When the next flow is to be told.
    due: Option<Instant>,
    told: u32,
    /// The longest time between two reads, of late: how long the processor was
    /// somebody else's. What came meanwhile is a burst that nobody could have
    /// helped, and a flow needs as much under way.
    away: Duration,
}

impl Standing {
    /// The device was found empty.
    pub fn emptied(&mut self) {
        (self.read, self.due) = (None, None);
        // Flows that grow again are told sooner than at first.
        self.told /= 2;
    }

    /// Something was read. True when a flow shall be told.
    pub fn read(&mut self, now: Instant) -> bool {
        let before = self.read.replace(now).unwrap_or(now);
        let away = now.saturating_duration_since(before);
        self.away -= self.away / 1024;
        // A little longer than usual is no absence.
        if away > 2 * self.away {
            self.due = None;
        }
        self.away = self.away.max(away);
        let patience = (2 * self.away).clamp(LEAST, MOST);
        let due = *self.due.get_or_insert(now + patience);
        if now < due {
            return false;
        }
        self.told = self.told.saturating_add(1);
        self.due = Some(now + patience.div_f64(f64::from(self.told).sqrt()));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads every 100 microseconds, save when away; gives when a flow was told.
    fn told(standing: &mut Standing, from: u64, to: u64, start: Instant) -> Vec<u64> {
        (from..to)
            .step_by(100)
            .filter(|&us| standing.read(start + Duration::from_micros(us)))
            .collect()
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
        assert!(told(&mut standing, 0, 2000, start).is_empty());
        standing.emptied();
        let told = told(&mut standing, 3000, 12_000, start);
        assert_eq!(told[..3], [5000, 7000, 8500]);
        assert!(told.len() > 4);
    }

    #[test]
    fn who_has_no_processor_is_patient() {
        let (mut standing, start) = (Standing::default(), start());
        standing.read(start);
        // Nine milliseconds later it goes on.
        let told = told(&mut standing, 9000, 40_000, start);
        assert!(told[0] > 17_000, "{told:?}");
    }
}
