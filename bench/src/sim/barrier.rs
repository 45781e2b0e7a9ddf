//! Where the threads of a simulation meet after each window. A window takes a
//! millisecond or less, so waiting is spinning at first; then a thread sleeps, for
//! one that only yields has whatever else runs here hold up the next window.

use std::{
    hint,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

/// Turns to spin before the processor is left to others.
const SPINS: u32 = 10_000;

/// A barrier that can be used again and again.
pub(crate) struct Barrier {
    threads: usize,
    arrived: AtomicUsize,
    round: AtomicUsize,
    /// A thread panicked: the others must not wait for it.
    broken: AtomicBool,
    /// How many sleep.
    asleep: Mutex<usize>,
    moved: Condvar,
}

impl Barrier {
    pub(crate) fn new(threads: usize) -> Self {
        Self {
            threads,
            arrived: AtomicUsize::new(0),
            round: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
            asleep: Mutex::new(0),
            moved: Condvar::new(),
        }
    }

    /// Waits until all threads are here. Says whether all are still well.
    pub(crate) fn wait(&self) -> bool {
        let round = self.round.load(Ordering::Acquire);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.threads {
            self.arrived.store(0, Ordering::Release);
            self.round.store(round + 1, Ordering::Release);
            self.wake();
        }
        for _ in 0..SPINS {
            if !self.is_waiting(round) {
                return !self.broken.load(Ordering::Acquire);
            }
            hint::spin_loop();
        }
        self.sleep(round);
        !self.broken.load(Ordering::Acquire)
    }

    fn is_waiting(&self, round: usize) -> bool {
        self.round.load(Ordering::Acquire) == round && !self.broken.load(Ordering::Acquire)
    }

    fn sleep(&self, round: usize) {
        let mut asleep = self.asleep();
        *asleep += 1;
        while self.is_waiting(round) {
            let woken = self.moved.wait(asleep);
            asleep = woken.unwrap_or_else(PoisonError::into_inner);
        }
        *asleep -= 1;
    }

    /// Whoever sleeps by now has looked at the round with the lock held, and whoever is
    /// about to will see the new one.
    fn wake(&self) {
        if *self.asleep() > 0 {
            self.moved.notify_all();
        }
    }

    fn asleep(&self) -> MutexGuard<'_, usize> {
        self.asleep.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Breaks a barrier if the thread that holds it panics.
pub(crate) struct Guard<'a>(pub(crate) &'a Barrier);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.broken.store(true, Ordering::Release);
            self.0.wake();
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "one thread is late on purpose")]
mod tests {
    use std::{panic, time::Duration};

    use super::*;

    #[test]
    fn all_threads_meet_also_those_that_fell_asleep() {
        const ROUNDS: usize = 50;
        let (barrier, total) = (Barrier::new(3), AtomicUsize::new(0));
        thread::scope(|scope| {
            for late in 0..3 {
                let (barrier, total) = (&barrier, &total);
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        if round % 3 == late {
                            thread::sleep(Duration::from_millis(5));
                        }
                        total.fetch_add(1, Ordering::AcqRel);
                        assert!(barrier.wait());
                        assert_eq!(total.load(Ordering::Acquire), 3 * (round + 1));
                        assert!(barrier.wait());
                    }
                });
            }
        });
    }

    #[test]
    fn nobody_waits_for_one_that_panicked() {
        let barrier = Barrier::new(2);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| barrier.wait());
            let failing = scope.spawn(|| {
                let _guard = Guard(&barrier);
                thread::sleep(Duration::from_millis(20));
                panic::resume_unwind(Box::new("on purpose"));
            });
            assert!(!waiting.join().unwrap());
            assert!(failing.join().is_err());
        });
    }
}
