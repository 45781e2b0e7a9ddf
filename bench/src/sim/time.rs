//! Virtual time: nanoseconds since the simulation began, and the instants that
//! the cores are shown for them.

use std::{
    ops::{Add, AddAssign, Sub},
    time::{Duration, Instant},
};

/// A moment of virtual time, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time(pub(crate) u64);

/// Later than everything that happens.
pub(crate) const NEVER: Time = Time(u64::MAX);

/// How far all shards run before they exchange what crosses. No datagram is
/// faster (see [`super::wan::FASTEST`]), so none arrives within the window in
/// which it was sent.
pub(crate) const WINDOW: Duration = Duration::from_millis(10);

const WINDOW_NANOS: u64 = nanos(WINDOW);

/// Nanoseconds of a duration below 584 years.
pub(crate) const fn nanos(duration: Duration) -> u64 {
    duration.as_secs() * 1_000_000_000 + duration.subsec_nanos() as u64
}

/// How many windows a duration takes, rounded up.
pub(crate) fn windows(duration: Duration) -> u64 {
    nanos(duration).div_ceil(WINDOW_NANOS)
}

impl Time {
    /// The window this moment is in.
    pub(crate) fn window(self) -> u64 {
        self.0 / WINDOW_NANOS
    }

    /// When a window begins.
    pub(crate) fn of_window(window: u64) -> Self {
        Self(window * WINDOW_NANOS)
    }

    /// The time since an earlier moment; zero if it is later.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Seconds since the beginning.
    pub(crate) fn seconds(self) -> f64 {
        self.0 as f64 / 1e9
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }
}

impl AddAssign<Duration> for Time {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Sub for Time {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.since(earlier)
    }
}

/// Translates between virtual time and the instants a mesh is given.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    #[expect(
        clippy::disallowed_methods,
        reason = "virtual time has to start somewhere; only differences matter"
    )]
    pub(crate) fn new() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn instant(self, time: Time) -> Instant {
        self.0 + Duration::from_nanos(time.0)
    }

    pub(crate) fn time(self, instant: Instant) -> Time {
        Time(nanos(instant.saturating_duration_since(self.0)))
    }
}

/// Wall time, for how fast the simulator is; nothing simulated depends on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    #[expect(clippy::disallowed_methods, reason = "measures the simulator itself")]
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Seconds of wall time since the start.
    pub(crate) fn seconds(self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }
}
