//! Keys of the kernel's ESP to one peer: which the kernel shall have, and when.
//!
//! Each direction of a session has a security association of its own. Its index
//! (SPI) is chosen by the receiver, and its key follows from session and index
//! ([`EspKey`]). One of them, at either end:
//!
//! ```text
//!  receiver                                     sender
//!  Installing
//!     │ the kernel has it
//!  Waiting  ──────────── offer, repeated ────▶  Installing
//!     │                                            │ the kernel has it
//!     │                                         Waiting
//!     │                                            │ the policy names it
//!  Used     ◀─────────── taken ───────────────  Used
//!     │ a later one is used                        │ a later one is used
//!  Retiring                                     Retiring
//!     │ LINGER                                     │ LINGER
//!  Gone                                         Gone
//! ```
//!
//! So the receiver can read whatever the sender may send, before, during and
//! after a change of keys: nothing is lost. Before the first key and after the
//! last nothing passes at all, for the policies come first and go last. An index
//! is never used twice in a session, for its key would encrypt two packets with
//! the same number; what the kernel lost is replaced under a new one.
//!
//! It sends nothing and knows no kernel: the caller does what
//! [`Esp::poll_action`] says, and tells what came of it.

mod association;
mod key;

use std::{
    collections::VecDeque,
    ops::Range,
    time::{Duration, Instant},
};

use association::{Association, Input, Phase, Reminder};
pub use key::EspKey;
pub use proto::message::EspNotice as Notice;

/// Indexes that a receiver may choose (RFC 4303, section 2.1).
pub const SPIS: Range<u32> = 256..u32::MAX;
/// How long a key is kept that a later one has replaced: packets under it wait
/// in queues, here and on the way.
pub const LINGER: Duration = Duration::from_secs(10);
/// Sessions whose keys are known at once: a rekey has two.
const SESSIONS: usize = 4;
/// Indexes of one session and direction: replacing more is up to the next rekey.
const INDEXES: u32 = 64;

/// Which way packets go, seen from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// From the peer.
    In,
    /// To the peer.
    Out,
}

/// What the caller has to do, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Policies: what comes must have come through ESP, and nothing leaves.
    Guard,
    /// Give the kernel this key, and tell [`Esp::installed`] or [`Esp::failed`].
    Install {
        /// Received or sent under it.
        direction: Direction,
        /// The session it follows from.
        session: u32,
        /// Its index.
        spi: u32,
    },
    /// Policy: what leaves goes under this key. Then tell [`Esp::directed`].
    Direct {
        /// Its index.
        spi: u32,
    },
    /// Policy: nothing leaves any more.
    Block,
    /// Take this key from the kernel.
    Remove {
        /// Received or sent under it.
        direction: Direction,
        /// Its index.
        spi: u32,
    },
    /// Take the policies from the kernel.
    Unguard,
    /// Choose another index for this session, and call [`Esp::begin`].
    Renew {
        /// The session.
        session: u32,
    },
    /// Tell the peer something, over this session.
    Tell {
        /// The session.
        session: u32,
        /// What.
        notice: Notice,
    },
}

/// A session whose keys may be used.
#[derive(Debug)]
struct Known {
    session: u32,
    /// Indexes begun, per direction.
    begun: [u32; 2],
}

/// A key that our kernel does not have, so that the peer must offer another.
#[derive(Debug)]
struct Lost {
    session: u32,
    spi: u32,
    reminder: Reminder,
}

/// ESP to and from one peer at one address. A new address is a new one of this.
#[derive(Debug)]
pub struct Esp {
    /// Oldest first; so are those below.
    sessions: VecDeque<Known>,
    inbound: Vec<Association>,
    outbound: Vec<Association>,
    /// The last one to send under, until there is another.
    lost: Option<Lost>,
    actions: VecDeque<Action>,
    fault: Option<String>,
}

impl Default for Esp {
    fn default() -> Self {
        Self::new()
    }
}

impl Esp {
    /// Nothing passes yet. Do the first action before the path exists.
    pub fn new() -> Self {
        Self {
            sessions: VecDeque::new(),
            inbound: Vec::new(),
            outbound: Vec::new(),
            lost: None,
            actions: VecDeque::from([Action::Guard]),
            fault: None,
        }
    }

    /// What is to be done next.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// A session came to be, or [`Action::Renew`] asked for it: receive under
    /// its keys, with this index. Sessions are begun in the order they are made.
    pub fn begin(&mut self, session: u32, spi: u32, now: Instant) {
        if !self.sessions.iter().any(|known| known.session == session) {
            self.sessions.push_back(Known {
                session,
                begun: [0; 2],
            });
            if self.sessions.len() > SESSIONS {
                self.sessions.pop_front();
            }
        }
        self.start(Direction::In, session, spi, now);
    }

    /// The peer told something over this session.
    pub fn told(&mut self, session: u32, notice: Notice, now: Instant) {
        match notice {
            Notice::Offer(spi) => self.offered(session, spi, now),
            Notice::Taken(spi) => match self.find(Direction::In, spi).map(|a| a.session) {
                Some(of) if of == session => self.used(Direction::In, spi, now),
                Some(_) => {}
                // An offer of before this began, which came late: it needs another.
                None => self.renew(session),
            },
            Notice::Lost(spi) => {
                let Some(lost) = self.find(Direction::In, spi) else {
                    return;
                };
                if lost.session == session && lost.phase != Phase::Retiring {
                    // Not gone at once: packets may be under way.
                    lost.step(Input::Superseded, now);
                    self.renew(session);
                }
            }
        }
    }

    /// Nothing that is sent seems to arrive: tells the peer again by which key
    /// that is, for it may not have it.
    pub fn remind(&mut self) {
        let used = self.outbound.iter().find(|a| a.phase == Phase::Used);
        if let Some(&Association { session, spi, .. }) = used {
            self.tell(session, Notice::Taken(spi));
        }
    }

    /// The peer begins anew, and has none of the keys by which it sent: it needs
    /// others. It tells by itself what it can receive.
    pub fn renew_inbound(&mut self, now: Instant) {
        for association in &mut self.inbound {
            // Not gone at once: packets may be under way.
            association.step(Input::Superseded, now);
        }
        if let Some(session) = self.sessions.back().map(|known| known.session) {
            self.renew(session);
        }
    }

    /// The kernel has the key.
    pub fn installed(&mut self, direction: Direction, spi: u32, now: Instant) {
        let Some(association) = self.find(direction, spi) else {
            return;
        };
        association.step(Input::Installed, now);
        if direction == Direction::Out && association.phase == Phase::Waiting {
            self.actions.push_back(Action::Direct { spi });
        }
        self.tick(now);
    }

    /// What leaves goes under this key.
    pub fn directed(&mut self, spi: u32, now: Instant) {
        self.used(Direction::Out, spi, now);
        let Some(&Association { session, phase, .. }) = self.find(Direction::Out, spi).as_deref()
        else {
            return;
        };
        if phase == Phase::Used {
            self.fault = None;
            self.tell(session, Notice::Taken(spi));
        }
    }

    /// The kernel did not take the key, or was seen not to have it any more.
    pub fn failed(&mut self, direction: Direction, spi: u32, why: String, now: Instant) {
        let Some(association) = self.find(direction, spi) else {
            return;
        };
        let (session, before) = (association.session, association.phase);
        association.step(Input::Lost, now);
        self.forget_gone();
        if before == Phase::Retiring {
            return;
        }
        self.fault = Some(why);
        match direction {
            Direction::In => self.renew(session),
            Direction::Out => {
                if !self.is_up() {
                    self.actions.push_back(Action::Block);
                }
                let reminder = Reminder::new(now);
                self.lost = Some(Lost {
                    session,
                    spi,
                    reminder,
                });
                self.tell_lost(now);
            }
        }
    }

    /// What time brings.
    pub fn tick(&mut self, now: Instant) {
        for (direction, associations) in [
            (Direction::In, &mut self.inbound),
            (Direction::Out, &mut self.outbound),
        ] {
            for association in associations {
                let &mut Association { session, spi, .. } = association;
                if direction == Direction::In && association.offer_due(now) {
                    let notice = Notice::Offer(spi);
                    self.actions.push_back(Action::Tell { session, notice });
                }
                if association.phase == Phase::Retiring && now >= association.since + LINGER {
                    association.step(Input::Lingered, now);
                    self.actions.push_back(Action::Remove { direction, spi });
                }
            }
        }
        self.forget_gone();
        self.remind_of_lost(now);
    }

    /// The path is not wanted any more, and nothing is sent through it by now:
    /// all goes, the policies last.
    pub fn end(&mut self) {
        self.actions.push_back(Action::Block);
        for (direction, associations) in [
            (Direction::In, &mut self.inbound),
            (Direction::Out, &mut self.outbound),
        ] {
            for Association { spi, .. } in associations.drain(..) {
                self.actions.push_back(Action::Remove { direction, spi });
            }
        }
        self.sessions.clear();
        self.lost = None;
        self.actions.push_back(Action::Unguard);
    }

    /// Whether frames can be sent.
    pub fn is_up(&self) -> bool {
        self.outbound.iter().any(|a| a.phase == Phase::Used)
    }

    /// Why they cannot, in words; none if they can.
    pub fn reason(&self) -> Option<String> {
        if self.is_up() {
            return None;
        }
        let waiting = || "the peer has offered no key for ESP yet".to_owned();
        Some(self.fault.clone().unwrap_or_else(waiting))
    }

    /// The peer may not have heard it, and offers nothing while it takes the key
    /// for used.
    fn remind_of_lost(&mut self, now: Instant) {
        let has_another = self.outbound.iter().any(|a| a.phase != Phase::Retiring);
        let sessions = &self.sessions;
        let is_known = |lost: &Lost| sessions.iter().any(|k| k.session == lost.session);
        self.lost = self.lost.take().filter(|l| !has_another && is_known(l));
        self.tell_lost(now);
    }

    fn tell_lost(&mut self, now: Instant) {
        if let Some(lost) = &mut self.lost
            && lost.reminder.due(now)
        {
            let (session, notice) = (lost.session, Notice::Lost(lost.spi));
            self.tell(session, notice);
        }
    }

    fn offered(&mut self, session: u32, spi: u32, now: Instant) {
        if let Some(&Association {
            session: of, phase, ..
        }) = self.find(Direction::Out, spi).as_deref()
        {
            // The peer has not heard that it is used.
            if of == session && phase == Phase::Used {
                self.tell(session, Notice::Taken(spi));
            }
            return;
        }
        // A late offer must not bring back the keys of a session that is over.
        let rank = |session| self.sessions.iter().position(|k| k.session == session);
        let newest = self.outbound.iter().filter_map(|a| rank(a.session)).max();
        let fresh = rank(session).is_some_and(|rank| newest.is_none_or(|newest| rank >= newest));
        if fresh && SPIS.contains(&spi) {
            self.start(Direction::Out, session, spi, now);
        }
    }

    fn start(&mut self, direction: Direction, session: u32, spi: u32, now: Instant) {
        let known = self.sessions.iter_mut().find(|k| k.session == session);
        let Some(begun) = known.map(|known| match direction {
            Direction::In => &mut known.begun[0],
            Direction::Out => &mut known.begun[1],
        }) else {
            return;
        };
        if *begun >= INDEXES {
            return;
        }
        *begun += 1;
        self.associations(direction)
            .push(Association::new(session, spi, now));
        self.actions.push_back(Action::Install {
            direction,
            session,
            spi,
        });
    }

    /// It is used, so those before it are not any more.
    fn used(&mut self, direction: Direction, spi: u32, now: Instant) {
        let associations = self.associations(direction);
        let Some(at) = associations.iter().position(|a| a.spi == spi) else {
            return;
        };
        associations[at].step(Input::Taken, now);
        if associations[at].phase == Phase::Used {
            for older in &mut associations[..at] {
                older.step(Input::Superseded, now);
            }
        }
    }

    fn renew(&mut self, session: u32) {
        let known = self.sessions.iter().find(|known| known.session == session);
        let on_its_way = self.inbound.iter().any(|association| {
            association.session == session
                && matches!(association.phase, Phase::Installing | Phase::Waiting)
        });
        if !on_its_way && known.is_some_and(|known| known.begun[0] < INDEXES) {
            self.actions.push_back(Action::Renew { session });
        }
    }

    fn tell(&mut self, session: u32, notice: Notice) {
        self.actions.push_back(Action::Tell { session, notice });
    }

    fn find(&mut self, direction: Direction, spi: u32) -> Option<&mut Association> {
        self.associations(direction)
            .iter_mut()
            .find(|a| a.spi == spi)
    }

    fn associations(&mut self, direction: Direction) -> &mut Vec<Association> {
        match direction {
            Direction::In => &mut self.inbound,
            Direction::Out => &mut self.outbound,
        }
    }

    fn forget_gone(&mut self) {
        self.inbound.retain(|a| a.phase != Phase::Gone);
        self.outbound.retain(|a| a.phase != Phase::Gone);
    }
}

#[cfg(test)]
pub(super) mod tests;
