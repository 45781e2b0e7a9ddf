//! Waiting for what must come true, with a generous limit, and saying what was
//! missing together with the daemons' last words.

use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use super::log;

/// How often a condition is tried.
const PAUSE: Duration = Duration::from_millis(50);

static PATIENCE: LazyLock<u32> = LazyLock::new(|| {
    let Ok(text) = std::env::var("WOVE_PATIENCE") else {
        return 1;
    };
    text.parse().expect("WOVE_PATIENCE is a whole number")
});

/// Tries until `attempt` is Ok; after `limit` panics with its last error and
/// the tail of every log.
pub(crate) fn eventually<T>(
    limit: Duration,
    what: &str,
    mut attempt: impl FnMut() -> Result<T, String>,
) -> T {
    let started = Instant::now();
    loop {
        let error = match attempt() {
            Ok(value) => return value,
            Err(error) => error,
        };
        if started.elapsed() >= limit {
            panic!("not within {limit:?}: {what}: {error}\n{}", log::tails());
        }
        thread::sleep(PAUSE);
    }
}

/// As `eventually`, for a condition without a value.
pub(crate) fn until(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    eventually(limit, what, || {
        if holds() {
            return Ok(());
        }
        Err("still not so".to_owned())
    });
}

/// Panics with the tail of every log unless `holds`.
#[track_caller]
pub(crate) fn ensure(holds: bool, what: impl std::fmt::Display) {
    assert!(holds, "{what}\n{}", log::tails());
}

/// Seconds, for limits that read well: `WOVE_PATIENCE` times as many where all
/// is slower, as in a virtual machine.
pub(crate) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds) * *PATIENCE
}
