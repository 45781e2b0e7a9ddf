//! One handshake under way, on the side that began it.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crypto::Initiator;
use proto::datagram::{Cookie, RejectReason};

use super::{
    super::{output::Origin, timing::REJECT_GRACE},
    outcome::{Later, Outcome, Purpose},
};

/// A handshake that this peer began.
pub(super) struct Attempt {
    pub(super) initiator: Initiator,
    pub(super) purpose: Purpose,
    pub(super) ways: Ways,
    /// Whether this very peer was met on one of the ways.
    pub(super) ourselves: bool,
    pub(super) secret: usize,
    pub(super) cookie: Option<Cookie>,
    pub(super) phase: Phase,
    pub(super) started: Instant,
    pub(super) repeat_at: Instant,
    /// Between the next repetition and the one after it.
    pub(super) interval: Duration,
    /// What was said in the peer's name, while a better answer or its confirmation is awaited.
    pub(super) rejected: Option<RejectReason>,
}

/// Where an attempt leads.
#[derive(Default)]
pub(super) struct Ways {
    /// All at once.
    pub(super) first: Vec<Origin>,
    pub(super) later: Option<Later>,
    /// Left out since another was answered: tried if that comes to nothing.
    pub(super) spare: Vec<Origin>,
}

impl Ways {
    /// On along the one that was answered, with the others for later.
    pub(super) fn narrowed(self, way: Origin) -> Self {
        let others = self.first.into_iter().filter(|other| *other != way);
        Self {
            first: vec![way],
            later: None,
            spare: self.spare.into_iter().chain(others).collect(),
        }
    }
}

/// How far it has come.
pub(super) enum Phase {
    AwaitingResponse,
    AwaitingConfirm { way: Origin, completion: Vec<u8> },
}

impl Attempt {
    /// Says why it is refused. Until it is given up for that, better may come.
    pub(super) fn reject(&mut self, reason: RejectReason, now: Instant) {
        if self.rejected.is_none() {
            self.rejected = Some(reason);
            self.repeat_at = now + REJECT_GRACE;
        }
    }

    pub(super) fn repeat(&self, outcomes: &mut VecDeque<Outcome>) {
        match &self.phase {
            Phase::AwaitingResponse => {
                let datagram = self.first_message();
                for way in &self.ways.first {
                    outcomes.push_back(Outcome::Send {
                        way: *way,
                        datagram: datagram.clone(),
                    });
                }
            }
            Phase::AwaitingConfirm { way, completion } => {
                outcomes.push_back(Outcome::Send {
                    way: *way,
                    datagram: completion.clone(),
                });
            }
        }
    }

    pub(super) fn first_message(&self) -> Vec<u8> {
        match self.cookie {
            Some(cookie) => self.initiator.with_cookie(&cookie),
            None => self.initiator.datagram().to_vec(),
        }
    }

    pub(super) fn silence(&self) -> String {
        match self.phase {
            Phase::AwaitingResponse => {
                "no answer: is wove running there, and does its UDP port pass the firewalls?"
                    .to_owned()
            }
            Phase::AwaitingConfirm { .. } => {
                "the handshake was not confirmed: datagrams get lost on the way".to_owned()
            }
        }
    }
}
