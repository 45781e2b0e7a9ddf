//! How a data thread blocks: on its descriptors, on a waker, or until a deadline.
//!
//! It knows descriptors only; what is behind them is the caller's.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, ppoll},
    sys::{
        eventfd::{EfdFlags, EventFd},
        time::TimeSpec,
    },
};

/// The most descriptors that [`wait`] takes.
pub const SOURCES: usize = 15;

/// Wakes a thread that blocks in [`wait`]. Calls add up to one wake-up.
#[derive(Debug)]
pub struct Waker(EventFd);

impl Waker {
    /// Makes a waker; the error is `EMFILE` or the like.
    pub fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self(EventFd::from_flags(flags)?))
    }

    /// Wakes the thread now, or as soon as it waits.
    pub fn wake(&self) {
        // The only failure is a full counter, and that is awake already.
        let _ = self.0.write(1);
    }

    fn reset(&self) {
        let _ = self.0.read();
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Why [`wait`] came back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    sources: u16,
    woken: bool,
}

impl Ready {
    /// Whether the descriptor of that index can be read, or has an error to read.
    pub fn source(self, index: usize) -> bool {
        index < SOURCES && self.sources & (1 << index) != 0
    }

    /// Whether the waker was used.
    pub fn woken(self) -> bool {
        self.woken
    }

    /// Whether the time ran out (or a signal came) with nothing to do.
    pub fn is_idle(self) -> bool {
        !self.woken && self.sources == 0
    }
}

/// Blocks until a source can be read, the waker is used, or `timeout` is over
/// (`None`: no limit). A signal ends the wait early, as idle.
///
/// # Errors
/// `InvalidInput` for more than [`SOURCES`] descriptors, else what poll(2) says.
pub fn wait(
    sources: &[BorrowedFd<'_>],
    waker: &Waker,
    timeout: Option<Duration>,
) -> io::Result<Ready> {
    if sources.len() > SOURCES {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut polled: [PollFd<'_>; SOURCES + 1] =
        std::array::from_fn(|_| PollFd::new(waker.as_fd(), PollFlags::POLLIN));
    for (slot, &source) in polled[1..].iter_mut().zip(sources) {
        *slot = PollFd::new(source, PollFlags::POLLIN);
    }
    let polled = &mut polled[..=sources.len()];
    match ppoll(polled, timeout.map(TimeSpec::from_duration), None) {
        Ok(_) => Ok(collect(polled, waker)),
        Err(Errno::EINTR) => Ok(Ready::default()),
        Err(error) => Err(error.into()),
    }
}

fn collect(polled: &[PollFd<'_>], waker: &Waker) -> Ready {
    let called = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
    let mut ready = Ready {
        sources: 0,
        woken: called(&polled[0]),
    };
    if ready.woken {
        waker.reset();
    }
    for (index, fd) in polled[1..].iter().enumerate() {
        if called(fd) {
            ready.sources |= 1 << index;
        }
    }
    ready
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wake_before_the_wait_is_kept_and_used_once() {
        let waker = Waker::new().unwrap();
        waker.wake();
        waker.wake();
        assert!(wait(&[], &waker, None).unwrap().woken());
        assert!(wait(&[], &waker, Some(Duration::ZERO)).unwrap().is_idle());
    }

    #[test]
    fn a_source_is_told_by_its_index() {
        let waker = Waker::new().unwrap();
        let (quiet, ringing) = (Waker::new().unwrap(), Waker::new().unwrap());
        ringing.wake();
        let ready = wait(&[quiet.as_fd(), ringing.as_fd()], &waker, None).unwrap();
        assert!(!ready.source(0) && ready.source(1) && !ready.woken());
        assert!(!ready.source(99));
    }

    #[test]
    fn too_many_sources_are_refused() {
        let waker = Waker::new().unwrap();
        assert!(wait(&[waker.as_fd(); SOURCES + 1], &waker, Some(Duration::ZERO)).is_err());
    }
}
