//! How much memory the simulation holds: an allocator that counts, and what the
//! kernel says.
//!
//! Counting costs next to nothing: each thread counts for itself and tells the
//! rest only every 64 KiB, so live and peak bytes are exact to that.

#![expect(
    unsafe_code,
    reason = "an allocator is an unsafe trait; this one only counts and passes on"
)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::atomic::{AtomicI64, Ordering},
};

/// What a thread may have counted and not told.
const UNTOLD: i64 = 64 * 1024;
/// What the allocator of the C library adds to each piece, and its granularity.
const OVERHEAD: usize = 8;
const GRAIN: usize = 16;
const SMALLEST: usize = 32;

static LIVE: AtomicI64 = AtomicI64::new(0);
static PEAK: AtomicI64 = AtomicI64::new(0);

thread_local! {
    static COUNTED: Cell<i64> = const { Cell::new(0) };
}

/// Counts what it hands out, rounded as the system's allocator does.
pub struct CountingAllocator;

// SAFETY: everything is passed on unchanged to the system's allocator, which
// keeps the contract; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(rounded(layout.size()));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(rounded(layout.size()));
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-rounded(layout.size()));
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(rounded(size) - rounded(layout.size()));
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

fn rounded(size: usize) -> i64 {
    (size + OVERHEAD).next_multiple_of(GRAIN).max(SMALLEST) as i64
}

fn count(bytes: i64) {
    // A thread that is being torn down has nothing left to count with.
    let _ = COUNTED.try_with(|counted| {
        let now = counted.get() + bytes;
        counted.set(now);
        if now.abs() >= UNTOLD {
            tell(counted);
        }
    });
}

fn tell(counted: &Cell<i64>) {
    let told = counted.take();
    let live = LIVE.fetch_add(told, Ordering::Relaxed) + told;
    PEAK.fetch_max(live, Ordering::Relaxed);
}

/// Tells what this thread counted; a thread should before it ends.
pub(crate) fn settle() {
    let _ = COUNTED.try_with(tell);
}

/// Bytes that are allocated; zero in a process without the allocator.
pub(crate) fn live() -> i64 {
    settle();
    LIVE.load(Ordering::Relaxed)
}

/// The most bytes allocated at once since [`reset_peak`].
pub(crate) fn peak() -> i64 {
    PEAK.load(Ordering::Relaxed).max(live())
}

/// Forgets earlier peaks.
pub(crate) fn reset_peak() {
    PEAK.store(live(), Ordering::Relaxed);
}

/// The largest resident size of this process so far, in MiB.
pub(crate) fn peak_rss_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| {
        line.trim()
            .trim_end_matches("kB")
            .trim()
            .parse::<f64>()
            .ok()
    });
    kib.unwrap_or_default() / 1024.0
}
