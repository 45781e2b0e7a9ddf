//! What daemons print, kept in bounded memory and found again by every failure.

use std::collections::VecDeque;
use std::fmt::Write;
use std::io::{BufRead, BufReader, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use super::wait::eventually;

/// Lines kept per host.
const LINES: usize = 5000;
/// Bytes kept of one line.
const WIDTH: u64 = 2000;
/// Lines shown per host when a test fails.
const TAIL: usize = 40;

static ALL: Mutex<Vec<Weak<Log>>> = Mutex::new(Vec::new());
/// Whether the last failure has shown the logs.
static SHOWN: AtomicBool = AtomicBool::new(false);

/// The output of one host's daemons.
pub(crate) struct Log {
    name: String,
    lines: Mutex<VecDeque<String>>,
}

impl Log {
    /// An empty log that failures will show under `name`.
    pub(crate) fn new(name: &str) -> Arc<Self> {
        let log = Arc::new(Self {
            name: name.to_owned(),
            lines: Mutex::default(),
        });
        let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|other| other.strong_count() > 0);
        all.push(Arc::downgrade(&log));
        log
    }

    /// Collects what comes from a pipe, on a thread that ends with it.
    pub(crate) fn collect(self: &Arc<Self>, pipe: impl Read + Send + 'static) {
        let log = self.clone();
        thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            loop {
                let mut line = Vec::new();
                let read = pipe.by_ref().take(WIDTH).read_until(b'\n', &mut line);
                if !matches!(read, Ok(1..)) {
                    return;
                }
                log.push(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
        });
    }

    /// How many lines hold `pattern`, among those still kept.
    pub(crate) fn count(&self, pattern: &str) -> usize {
        self.lines().iter().filter(|l| l.contains(pattern)).count()
    }

    /// The lines that hold `pattern`, among those still kept.
    pub(crate) fn matching(&self, pattern: &str) -> Vec<String> {
        let lines = self.lines();
        let found = lines.iter().filter(|line| line.contains(pattern));
        found.cloned().collect()
    }

    /// Waits for a line that holds `pattern`, in any case, and returns it.
    pub(crate) fn wait_for(&self, limit: Duration, pattern: &str) -> String {
        let what = format!("{} logs {pattern:?}", self.name);
        let wanted = pattern.to_lowercase();
        eventually(limit, &what, || {
            let lines = self.lines();
            let found = lines.iter().find(|l| l.to_lowercase().contains(&wanted));
            found.cloned().ok_or_else(|| "no such line".to_owned())
        })
    }

    fn push(&self, line: String) {
        let mut lines = self.lines();
        if lines.len() == LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    fn lines(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As `tails`, but nothing if they were shown since the last call of this.
pub(crate) fn tails_once() -> String {
    let shown = SHOWN.swap(false, Ordering::Relaxed);
    if shown { String::new() } else { tails() }
}

/// The last lines of every log.
pub(crate) fn tails() -> String {
    SHOWN.store(true, Ordering::Relaxed);
    let all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    let mut text = String::new();
    for log in all.iter().filter_map(Weak::upgrade) {
        let lines = log.lines();
        if lines.is_empty() {
            continue;
        }
        let _ = writeln!(text, "--- {} ---", log.name);
        for line in lines.iter().skip(lines.len().saturating_sub(TAIL)) {
            let _ = writeln!(text, "{line}");
        }
    }
    text
}
