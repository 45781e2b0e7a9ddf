//! What is asked of the address space as a whole: that it be divided, that others
//! be taken over, and that this peer give back what it owns.

use std::{
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use proto::ShortId;
use tokio::sync::oneshot;

use super::{
    Daemon, Ending,
    ipam::{PATIENCE, refusal},
    work::{Answer, Done, failure},
};
use crate::engine::{Reply, TakenOver};

/// How long a client waits for a takeover.
const TAKEOVER: Duration = Duration::from_secs(8);
/// How long leaving for good may take.
const LEAVE: Duration = Duration::from_secs(10);
/// How long the others have to hear that all was given back.
const FAREWELL: Duration = Duration::from_millis(300);

/// Everybody who waits for the space.
#[derive(Default)]
pub(super) struct Waiting {
    takeovers: Vec<Takeover>,
    primes: Vec<(Instant, oneshot::Sender<Answer>)>,
    leaving: Option<(Instant, oneshot::Sender<Answer>)>,
    /// All was given back.
    left: bool,
}

/// A client that waits for takeovers.
struct Takeover {
    /// Who, by what name, and how many addresses were theirs.
    peers: Vec<(String, ShortId, u32)>,
    until: Instant,
    reply: oneshot::Sender<Answer>,
}

impl Daemon {
    pub(super) fn prime(&mut self, reply: oneshot::Sender<Answer>) {
        if self.router.ranges().is_none() {
            let _ = reply.send(refusal("this peer was launched without an address range"));
            return;
        }
        if let Some(why) = &self.waiting.overlap {
            let _ = reply.send(refusal(why));
            return;
        }
        let now = Instant::now();
        self.router.prime(now);
        self.space.primes.push((now + PATIENCE, reply));
    }

    pub(super) fn take_over(
        &mut self,
        peers: Vec<String>,
        force: bool,
        reply: oneshot::Sender<Answer>,
    ) {
        let now = Instant::now();
        let mut taken = Vec::new();
        for name in peers {
            match self.router.take_over(&name, force, now) {
                Ok(peer) => taken.push((name, peer, self.router.owned_by(peer))),
                Err(why) => {
                    let _ = reply.send(refusal(why));
                    return;
                }
            }
        }
        self.space.takeovers.push(Takeover {
            peers: taken,
            until: now + TAKEOVER,
            reply,
        });
    }

    /// Takes everything from the containers, gives back what this peer owns, then ends.
    pub(super) fn leave_for_good(&mut self, reply: oneshot::Sender<Answer>) {
        let (host, done) = (Arc::clone(&self.host), self.done_tx.clone());
        let files = self.all_files();
        self.beside.spawn(async move {
            files.restore_all().await;
            let result = host.empty().await;
            let _ = done.send(Done::Emptied { result, reply }).await;
        });
    }

    /// Nobody here has an address any more: others may give them out.
    pub(super) fn handle_emptied(&mut self, result: Result<()>, reply: oneshot::Sender<Answer>) {
        if let Err(error) = result {
            let error = error.context("nothing was given back");
            let _ = reply.send(Err(failure(&error)));
            return;
        }
        let now = Instant::now();
        if self.router.leave_space(now) {
            self.space.leaving = Some((now + LEAVE, reply));
        } else {
            self.ending = Some((Ending::Reset, Some(reply)));
        }
    }

    /// Answers those whose time has come.
    pub(super) fn look_after_space(&mut self) {
        let now = Instant::now();
        self.look_after_primes(now);
        self.look_after_takeovers(now);
        self.look_after_leaving(now);
    }

    fn look_after_primes(&mut self, now: Instant) {
        let ready = self.router.is_primed();
        for (until, reply) in mem::take(&mut self.space.primes) {
            if ready {
                let _ = reply.send(Ok(Reply::Done));
            } else if until <= now {
                let state = self.space_state();
                let _ = reply.send(refusal(format!("the range is not divided yet: {state}")));
            } else {
                self.space.primes.push((until, reply));
            }
        }
    }

    fn look_after_takeovers(&mut self, now: Instant) {
        for takeover in mem::take(&mut self.space.takeovers) {
            let left = |peer: ShortId| self.router.owned_by(peer);
            let mut peers = takeover.peers.iter();
            let done = peers.all(|(_, peer, before)| *before == 0 || left(*peer) < *before);
            if !done && now < takeover.until {
                self.space.takeovers.push(takeover);
                continue;
            }
            let taken = takeover.peers.iter().map(|(name, peer, before)| TakenOver {
                peer: name.clone(),
                addresses: before.saturating_sub(left(*peer)),
            });
            let taken = taken.collect();
            let _ = takeover.reply.send(match done {
                true => Ok(Reply::TakenOver { taken }),
                false => refusal(
                    "not enough of the peers that decide have agreed yet: it goes on; see `wove status ipam`",
                ),
            });
        }
    }

    fn look_after_leaving(&mut self, now: Instant) {
        let Some((mut until, reply)) = self.space.leaving.take() else {
            return;
        };
        if until <= now {
            self.ending = Some((Ending::Reset, Some(reply)));
            return;
        }
        // The farewell goes out before the daemon ends.
        if self.router.has_left_space() && !self.space.left {
            self.space.left = true;
            until = until.min(now + FAREWELL);
        }
        self.space.leaving = Some((until, reply));
    }
}
