//! One key in the kernel: the phases it goes through, drawn in [`super`].

use std::time::{Duration, Instant};

/// What was told and shows no effect is repeated after this long, then ever later.
pub(super) const OFFER: Duration = Duration::from_millis(300);
const OFFER_MOST: Duration = Duration::from_secs(5);

/// When to tell the peer something, again and again.
#[derive(Debug)]
pub(super) struct Reminder {
    told: u32,
    at: Instant,
}

impl Reminder {
    /// Due at once.
    pub(super) fn new(now: Instant) -> Self {
        Self { told: 0, at: now }
    }

    /// Whether it is to be told now.
    pub(super) fn due(&mut self, now: Instant) -> bool {
        if now < self.at {
            return false;
        }
        self.at = now + (OFFER * (1 << self.told.min(6))).min(OFFER_MOST);
        self.told += 1;
        true
    }
}

/// How far an association has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Installing,
    Waiting,
    Used,
    Retiring,
    Gone,
}

/// What can happen to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// The kernel has it.
    Installed,
    /// The sender sends under it.
    Taken,
    /// The sender sends under a later one.
    Superseded,
    /// Nothing can be under way any more.
    Lingered,
    /// The kernel does not have it.
    Lost,
}

impl Phase {
    /// What follows.
    pub(super) fn next(self, input: Input) -> Self {
        match (self, input) {
            (Self::Installing, Input::Installed) => Self::Waiting,
            (Self::Waiting, Input::Taken) => Self::Used,
            // While installing too: the kernel may have it by now.
            (Self::Installing | Self::Waiting | Self::Used, Input::Superseded) => Self::Retiring,
            (Self::Retiring, Input::Lingered) => Self::Gone,
            (Self::Installing | Self::Waiting | Self::Used | Self::Retiring, Input::Lost) => {
                Self::Gone
            }
            // Repeated, late, or of no concern to this phase.
            (Self::Installing, Input::Taken | Input::Lingered)
            | (Self::Waiting, Input::Installed | Input::Lingered)
            | (Self::Used, Input::Installed | Input::Taken | Input::Lingered)
            | (Self::Retiring, Input::Installed | Input::Taken | Input::Superseded)
            | (
                Self::Gone,
                Input::Installed | Input::Taken | Input::Superseded | Input::Lingered | Input::Lost,
            ) => self,
        }
    }
}

/// One key in the kernel.
#[derive(Debug)]
pub(super) struct Association {
    pub(super) session: u32,
    pub(super) spi: u32,
    pub(super) phase: Phase,
    pub(super) since: Instant,
    offer: Reminder,
}

impl Association {
    /// The kernel does not have it yet.
    pub(super) fn new(session: u32, spi: u32, now: Instant) -> Self {
        Self {
            session,
            spi,
            phase: Phase::Installing,
            since: now,
            offer: Reminder::new(now),
        }
    }

    /// Something happened to it.
    pub(super) fn step(&mut self, input: Input, now: Instant) {
        let before = self.phase;
        self.phase = before.next(input);
        if self.phase != before {
            self.since = now;
        }
    }

    /// Whether it is to be offered now.
    pub(super) fn offer_due(&mut self, now: Instant) -> bool {
        self.phase == Phase::Waiting && self.offer.due(now)
    }
}
