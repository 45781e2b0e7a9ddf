//! Waiting for what must come true, with a generous limit, and saying what was
//! missing together with the daemons' last words.

use std::str::FromStr;
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use std::{env, thread};

use super::log;

/// How often a condition is tried.
const PAUSE: Duration = Duration::from_millis(50);

static PATIENCE: LazyLock<u32> = LazyLock::new(|| asked_for("WOVE_PATIENCE", 1));

/// What the environment asks for, or what is usual: how long, how often, how much.
pub(crate) fn asked_for<T: FromStr>(variable: &str, usual: T) -> T {
    let Ok(text) = env::var(variable) else {
        return usual;
    };
    let number = text.parse();
    number.unwrap_or_else(|_| panic!("{variable} wants a whole number, not {text:?}"))
}

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
