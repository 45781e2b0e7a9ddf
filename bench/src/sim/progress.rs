//! A line on standard error every few seconds of wall time, for long runs.

use std::io::Write;

use super::time::{Stopwatch, Time};

/// Seconds of wall time between two lines.
const EVERY: f64 = 2.0;

/// Where a run has got to.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    shown: bool,
    wall: Stopwatch,
    phase: String,
    told_at: f64,
    told_steps: u64,
    told_time: Time,
}

impl Progress {
    pub(crate) fn new(shown: bool) -> Self {
        Self {
            shown,
            wall: Stopwatch::start(),
            phase: String::new(),
            told_at: 0.0,
            told_steps: 0,
            told_time: Time::default(),
        }
    }

    /// What is being done from here on.
    pub(crate) fn phase(&mut self, phase: impl Into<String>) {
        self.phase = phase.into();
    }

    /// Says where the run is, if it is time to.
    pub(crate) fn tell(&mut self, now: Time, steps: u64) {
        if !self.shown {
            return;
        }
        let wall = self.wall.seconds();
        let passed = wall - self.told_at;
        if passed < EVERY {
            return;
        }
        let rate = steps.saturating_sub(self.told_steps) as f64 / passed / 1e6;
        let speed = now.since(self.told_time).as_secs_f64() / passed;
        let line = format!(
            "{wall:7.1} s  {}: {:.1} s of virtual time, {speed:.2} times as fast as real, {rate:.2} M events/s\n",
            self.phase,
            now.seconds(),
        );
        // Nobody is hurt if nobody reads it.
        let _ = std::io::stderr().write_all(line.as_bytes());
        (self.told_at, self.told_steps, self.told_time) = (wall, steps, now);
    }
}
