//! A daemon as the kernel sees it: a process that is ended, and what /proc
//! says about it. Must not know the operator's contract.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};

use super::log::Log;
use super::wait::{eventually, secs};

/// Memory is searched in pieces of this many bytes.
const PIECE: usize = 1 << 20;

/// A running daemon; dropping it kills it.
pub(crate) struct Daemon {
    child: Child,
}

impl Daemon {
    /// Spawns it; what it prints goes to `log`.
    pub(super) fn spawn(mut command: Command, log: &Arc<Log>) -> Self {
        let spawned = command.spawn();
        let mut child = spawned.unwrap_or_else(|e| panic!("{command:?} does not start: {e}"));
        log.collect(child.stdout.take().expect("stdout is a pipe"));
        log.collect(child.stderr.take().expect("stderr is a pipe"));
        Self { child }
    }

    /// Sends SIGTERM and waits for the end.
    pub(super) fn terminate(mut self) -> ExitStatus {
        kill(self.pid(), Signal::SIGTERM).expect("the child is not reaped yet");
        eventually(secs(60), "the daemon obeys SIGTERM", || {
            self.exited().ok_or_else(|| "it runs".to_owned())
        })
    }

    /// How it ended, if it did.
    pub(super) fn exited(&mut self) -> Option<ExitStatus> {
        self.child
            .try_wait()
            .expect("our own child can be waited for")
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory.
    pub(crate) fn rss_bytes(&self) -> u64 {
        let status = self.read("status");
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().nth(1));
        let kib: u64 = number
            .and_then(|n| n.parse().ok())
            .expect("VmRSS is a number");
        kib * 1024
    }

    /// Processor time used, in user and kernel mode.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let stat = self.read("stat");
        // The name, which is in parentheses, may hold spaces.
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let fields = after_name.split_whitespace().skip(11).take(2);
        let ticks: f64 = fields.filter_map(|f| f.parse::<f64>().ok()).sum();
        let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
        ticks / per_second as f64
    }

    /// Whether its memory holds `pattern`, anywhere that can be read.
    pub(crate) fn memory_holds(&self, pattern: &[u8]) -> bool {
        let path = format!("/proc/{}/mem", self.child.id());
        let memory = File::open(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let maps = self.read("maps");
        let mut regions = maps.lines().filter_map(readable_region);
        regions.any(|(start, end)| region_holds(&memory, start, end, pattern))
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    fn read(&self, file: &str) -> String {
        let path = format!("/proc/{}/{file}", self.child.id());
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Fails only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn readable_region(line: &str) -> Option<(u64, u64)> {
    let (range, rest) = line.split_once(' ')?;
    if !rest.starts_with('r') || rest.contains("[v") {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some((number(start)?, number(end)?))
}

fn region_holds(memory: &File, start: u64, end: u64, pattern: &[u8]) -> bool {
    let mut buffer = vec![0; PIECE + pattern.len()];
    let mut at = start;
    while at < end {
        let length = buffer.len().min((end - at) as usize);
        // A region may have gone since the list was made.
        let Ok(read) = memory.read_at(&mut buffer[..length], at) else {
            return false;
        };
        if read == 0 {
            return false;
        }
        if holds(&buffer[..read], pattern) {
            return true;
        }
        // Pieces overlap, so that a pattern on their border is found.
        let step = if at + read as u64 == end {
            read
        } else {
            read.saturating_sub(pattern.len())
        };
        at += step.max(1) as u64;
    }
    false
}

fn holds(bytes: &[u8], pattern: &[u8]) -> bool {
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == pattern[0]) {
        if rest[at..].starts_with(pattern) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

#[test]
fn own_memory_holds_what_is_in_it() {
    let memory = File::open("/proc/self/mem").unwrap();
    let canary = b"a canary of the laboratory".to_vec();
    let start = canary.as_ptr() as u64;
    let end = start + canary.len() as u64;
    assert!(region_holds(&memory, start, end, &canary));
    assert!(!region_holds(&memory, start, end - 1, &canary));
}
