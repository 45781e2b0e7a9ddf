//! Handshakes under way, on both sides.
//!
//! ```text
//! initiator   AwaitingResponse ──response──▶ AwaitingConfirm ──confirm──▶ done
//!                  │    ▲                         │
//!                  │    └── reject: next secret ──┘
//!                  └────── 4 s, or no secret left ──▶ failed
//! responder   initiation ─▶ Answered ──completion──▶ Established ──5 s──▶ gone
//! ```
//!
//! The initiator repeats its message until the next step arrives. It sends
//! frames only once the responder has confirmed, since a frame that overtakes
//! the completion would be lost.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Instant,
};

use crypto::{CookieJar, HandshakeLimiter, Hello, Identity, Initiator, Responder, Secret};
use proto::{
    PeerId,
    datagram::{
        self, Cookie, Datagram, HANDSHAKE_HEADER, Handshake, RejectReason, SessionIndex, Stage,
    },
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;

use super::{
    output::Origin,
    timing::{HANDSHAKE_PATIENCE, RESPONSE_AGE, RETRANSMIT},
};

mod attempt;
mod outcome;

use attempt::{Attempt, Phase, Ways};
pub use outcome::{Later, Outcome, Purpose};

/// Handshakes a responder remembers at most.
const MAX_RESPONSES: usize = 1024;
/// Handshakes an initiator has under way at most.
const MAX_ATTEMPTS: usize = 512;
/// Handshakes per second, and at once, that are answered without asking for a
/// proof of address.
const HANDSHAKE_RATE: u32 = 200;
const HANDSHAKE_BURST: u32 = 400;
/// The same beyond that, for those who proved their address: enough for a large mesh
/// that is launched all at once, and little work.
const PROVEN_RATE: u32 = 800;
const PROVEN_BURST: u32 = 1600;
/// Addresses one attempt tries at once.
const MAX_WAYS: usize = 16;
/// Completions with a wrong secret that are tried for one response. Somebody on the way
/// may have spoilt a copy of the right one and have it arrive first.
const MAX_COMPLETIONS: usize = 4;

/// All handshakes of a peer.
pub struct Handshakes {
    identity: Arc<Identity>,
    hello: Hello,
    secrets: Vec<Secret>,
    attempts: BTreeMap<SessionIndex, Attempt>,
    responses: BTreeMap<SessionIndex, Response>,
    used: BTreeSet<SessionIndex>,
    jar: CookieJar,
    limiter: HandshakeLimiter,
    /// For what the first does not admit.
    proven: HandshakeLimiter,
    /// Initiations beyond both rates, not yet counted elsewhere.
    over_rate: u64,
    /// All ephemeral keys come from it.
    rng: ChaCha20Rng,
    outcomes: VecDeque<Outcome>,
}

struct Response {
    responder: Responder,
    way: Origin,
    end: End,
    since: Instant,
}

/// How far an answered handshake came.
enum End {
    Open,
    Established,
    /// With the datagram that says so, for whoever asks again, and what was tried: to try
    /// the secrets is work that a stranger could have us do without end.
    Refused {
        reject: Vec<u8>,
        tried: Vec<Vec<u8>>,
    },
}

impl Handshakes {
    /// For a peer with this identity, greeting and network secrets, the
    /// preferred first.
    pub fn new(
        identity: Arc<Identity>,
        hello: Hello,
        secrets: Vec<Secret>,
        seed: [u8; 32],
        now: Instant,
    ) -> Self {
        let mut rng = ChaCha20Rng::from_seed(seed);
        Self {
            identity,
            hello,
            secrets,
            attempts: BTreeMap::new(),
            responses: BTreeMap::new(),
            used: BTreeSet::new(),
            jar: CookieJar::new(&mut rng, now),
            limiter: HandshakeLimiter::new(HANDSHAKE_RATE, HANDSHAKE_BURST, now),
            proven: HandshakeLimiter::new(PROVEN_RATE, PROVEN_BURST, now),
            over_rate: 0,
            rng,
            outcomes: VecDeque::new(),
        }
    }

    /// Replaces the accepted secrets, the preferred first.
    pub fn set_secrets(&mut self, secrets: Vec<Secret>) {
        self.secrets = secrets;
    }

    /// Begins a handshake along all `ways` at once; the first answer wins.
    pub fn begin(&mut self, purpose: Purpose, ways: Vec<Origin>, now: Instant) {
        self.begin_with_others(purpose, ways, None, now);
    }

    /// The same, with other ways for later.
    pub fn begin_with_others(
        &mut self,
        purpose: Purpose,
        mut ways: Vec<Origin>,
        later: Option<Later>,
        now: Instant,
    ) {
        ways.truncate(MAX_WAYS);
        if ways.is_empty() || self.attempts.len() >= MAX_ATTEMPTS {
            let reason = if ways.is_empty() {
                "no address is known"
            } else {
                "too many handshakes are under way"
            };
            self.fail(purpose, reason.to_owned(), false);
            return;
        }
        let ways = Ways {
            first: ways,
            later,
            spare: Vec::new(),
        };
        self.begin_with(purpose, ways, 0, now);
    }

    fn begin_with(&mut self, purpose: Purpose, ways: Ways, secret: usize, now: Instant) {
        let (index, mut drawn) = (self.fresh_index(), self.draw());
        let (mut initiator, datagram) =
            match Initiator::start(&self.identity, &self.hello, index, &mut drawn) {
                Ok(started) => started,
                Err(error) => {
                    self.release(index);
                    return self.fail(purpose, error.to_string(), true);
                }
            };
        if let Some(peer) = purpose.peer() {
            initiator.expect(peer);
        }
        for way in &ways.first {
            self.outcomes.push_back(Outcome::Send {
                way: *way,
                datagram: datagram.clone(),
            });
        }
        let attempt = Attempt {
            initiator,
            purpose,
            ways,
            secret,
            cookie: None,
            phase: Phase::AwaitingResponse,
            started: now,
            repeat_at: now + RETRANSMIT,
            interval: RETRANSMIT,
            rejected: None,
            ourselves: false,
        };
        self.attempts.insert(index, attempt);
    }

    /// Whether an attempt for this purpose is under way.
    pub fn is_under_way(&self, purpose: Purpose) -> bool {
        self.attempts.values().any(|a| a.purpose == purpose)
    }

    /// A sealed message arrived on a session: the responder has the keys.
    /// Returns why the attempt was made if this is news.
    pub fn confirmed(&mut self, session: SessionIndex) -> Option<Purpose> {
        self.attempts.remove(&session).map(|a| a.purpose)
    }

    /// A session index is free again.
    pub fn release(&mut self, index: SessionIndex) {
        self.used.remove(&index);
    }

    /// Handles a handshake, cookie or reject datagram.
    pub fn handle_datagram(&mut self, bytes: &[u8], way: Origin, now: Instant) {
        match Datagram::parse(bytes) {
            Ok(Datagram::Handshake(message)) => match message.stage {
                Stage::Initiation => self.handle_initiation(&message, way, now),
                Stage::Response => self.handle_response(&message, way, now),
                Stage::Completion => self.handle_completion(&message, way),
            },
            Ok(Datagram::CookieReply { receiver, cookie }) => {
                self.handle_cookie(receiver, cookie, way)
            }
            Ok(Datagram::Reject { receiver, reason }) => self.handle_reject(receiver, reason, now),
            Ok(Datagram::Transport(_) | Datagram::NoSession { .. }) | Err(_) => {}
        }
    }

    fn handle_initiation(&mut self, message: &Handshake<'_>, way: Origin, now: Instant) {
        // Another way may lead to somebody else, and whoever sees the datagrams can send
        // one back: so the attempt goes on.
        if let Some(attempt) = self.own_attempt(message) {
            attempt.ourselves = true;
            return;
        }
        let admitted = self.limiter.admit(now);
        if !admitted && !self.proves_address(message, way, now) {
            return;
        }
        let known = self
            .responses
            .values()
            .find(|r| r.way == way && r.responder.answers(message));
        if let Some(response) = known {
            self.outcomes.push_back(Outcome::Send {
                way,
                datagram: response.responder.datagram().to_vec(),
            });
            return;
        }
        // The same answer again is no work, so only now.
        if !admitted && !self.proven.admit(now) {
            self.over_rate += 1;
            return;
        }
        self.make_room(now);
        let (index, mut drawn) = (self.fresh_index(), self.draw());
        match Responder::accept(&self.identity, &self.hello, index, message, &mut drawn) {
            Ok((responder, answer)) => {
                self.outcomes.push_back(Outcome::Send {
                    way,
                    datagram: answer,
                });
                self.responses.insert(
                    index,
                    Response {
                        responder,
                        way,
                        end: End::Open,
                        since: now,
                    },
                );
            }
            Err(_) => self.release(index),
        }
    }

    /// Which attempt of this very peer an initiation is from, if any.
    fn own_attempt(&mut self, message: &Handshake<'_>) -> Option<&mut Attempt> {
        let attempt = self.attempts.get_mut(&message.sender)?;
        let ours = attempt.initiator.datagram().get(HANDSHAKE_HEADER..);
        (ours == Some(message.noise)).then_some(attempt)
    }

    /// Under load, an initiator first shows that it receives at its address.
    fn proves_address(&mut self, message: &Handshake<'_>, way: Origin, now: Instant) -> bool {
        let Origin::Direct(address) = way else {
            return true;
        };
        let text = address.to_string();
        if self.jar.verify(text.as_bytes(), &message.cookie, now) {
            return true;
        }
        let cookie = self.jar.cookie(text.as_bytes(), now);
        let datagram = datagram::emit_cookie_reply(message.sender, &cookie);
        self.outcomes.push_back(Outcome::Send { way, datagram });
        false
    }

    fn make_room(&mut self, now: Instant) {
        let old: Vec<SessionIndex> = self
            .responses
            .iter()
            .filter(|(_, r)| now > r.since + RESPONSE_AGE)
            .map(|(i, _)| *i)
            .collect();
        for index in old {
            self.forget_response(index);
        }
        if self.responses.len() >= MAX_RESPONSES
            && let Some((index, _)) = self
                .responses
                .iter()
                .min_by_key(|(_, r)| r.since)
                .map(|(i, r)| (*i, r.since))
        {
            self.forget_response(index);
        }
    }

    fn forget_response(&mut self, index: SessionIndex) {
        if let Some(response) = self.responses.remove(&index)
            && !matches!(response.end, End::Established)
        {
            self.release(index);
        }
    }

    fn handle_response(&mut self, message: &Handshake<'_>, way: Origin, now: Instant) {
        let Some(attempt) = self.attempts.get_mut(&message.receiver) else {
            return;
        };
        let Some(secret) = self.secrets.get(attempt.secret) else {
            return;
        };
        let Phase::AwaitingResponse = attempt.phase else {
            return;
        };
        match attempt.initiator.read_response(message, secret) {
            Ok((established, completion)) => {
                attempt.rejected = None;
                attempt.phase = Phase::AwaitingConfirm {
                    way,
                    completion: completion.clone(),
                };
                attempt.interval = RETRANSMIT;
                attempt.repeat_at = now + RETRANSMIT;
                let established = Box::new(established);
                self.outcomes.push_back(Outcome::Established {
                    established,
                    way,
                    outbound: true,
                });
                self.outcomes.push_back(Outcome::Send {
                    way,
                    datagram: completion,
                });
            }
            // Who answers first need not be who is meant.
            Err(error) => {
                if let Some(reason) = error.reject_reason() {
                    attempt.reject(reason, now);
                }
            }
        }
    }

    fn handle_completion(&mut self, message: &Handshake<'_>, way: Origin) {
        let Some(response) = self.responses.get_mut(&message.receiver) else {
            return;
        };
        match &response.end {
            End::Open => {}
            End::Established => {
                self.outcomes.push_back(Outcome::Reconfirm {
                    session: message.receiver,
                });
                return;
            }
            End::Refused { reject, tried } => {
                let again = tried.iter().any(|tried| tried == message.noise);
                if again || tried.len() >= MAX_COMPLETIONS {
                    let datagram = reject.clone();
                    self.outcomes.push_back(Outcome::Send { way, datagram });
                    return;
                }
            }
        }
        match response.responder.complete(message, &self.secrets) {
            Ok(established) => {
                response.end = End::Established;
                let established = Box::new(established);
                self.outcomes.push_back(Outcome::Established {
                    established,
                    way,
                    outbound: false,
                });
            }
            Err(error) => {
                let Some(reason) = error.reject_reason() else {
                    return;
                };
                let reject = datagram::emit_reject(response.responder.remote(), reason);
                let datagram = reject.clone();
                self.outcomes.push_back(Outcome::Send { way, datagram });
                if let End::Refused { tried, .. } = &mut response.end {
                    tried.push(message.noise.to_vec());
                    return;
                }
                response.end = End::Refused {
                    reject,
                    tried: vec![message.noise.to_vec()],
                };
                self.outcomes.push_back(Outcome::Refused {
                    way,
                    reason: error.to_string(),
                });
            }
        }
    }

    fn handle_cookie(&mut self, receiver: SessionIndex, cookie: Cookie, way: Origin) {
        let Some(attempt) = self.attempts.get_mut(&receiver) else {
            return;
        };
        if attempt.cookie.replace(cookie).is_none() {
            let datagram = attempt.initiator.with_cookie(&cookie);
            self.outcomes.push_back(Outcome::Send { way, datagram });
        }
    }

    /// Anybody who saw the handshake can say so, and it answers a completion alone: who
    /// confirms in the meantime is believed.
    fn handle_reject(&mut self, receiver: SessionIndex, reason: RejectReason, now: Instant) {
        let Some(attempt) = self.attempts.get_mut(&receiver) else {
            return;
        };
        if let Phase::AwaitingConfirm { .. } = attempt.phase {
            attempt.reject(reason, now);
        }
    }

    fn give_up(&mut self, index: SessionIndex, reason: RejectReason, now: Instant) {
        let Some(attempt) = self.end(index) else {
            return;
        };
        let ways = match attempt.phase {
            Phase::AwaitingConfirm { way, .. } => attempt.ways.narrowed(way),
            Phase::AwaitingResponse => attempt.ways,
        };
        let next = attempt.secret + 1;
        if reason == RejectReason::Secret && next < self.secrets.len() {
            return self.begin_with(attempt.purpose, ways, next, now);
        }
        // Somebody of another network was nearer.
        if attempt.purpose.peer().is_none() && !ways.spare.is_empty() {
            let ways = Ways {
                first: ways.spare,
                ..Ways::default()
            };
            return self.begin_with(attempt.purpose, ways, 0, now);
        }
        let text = match reason {
            RejectReason::Secret => {
                "the network secrets differ: check the token or password on both hosts"
            }
            RejectReason::Version => "no protocol version in common: upgrade the older of the two",
            RejectReason::Limit => "the peer keeps no more links (its --conn-limit)",
            RejectReason::Identity => {
                "the peer has the same identity: one state directory was copied from the other"
            }
        };
        self.fail(attempt.purpose, text.to_owned(), true);
    }

    fn fail(&mut self, purpose: Purpose, reason: String, refused: bool) {
        self.outcomes.push_back(Outcome::Failed {
            purpose,
            reason,
            refused,
        });
    }

    /// Takes an attempt out, and gives up its session if it came that far.
    fn end(&mut self, index: SessionIndex) -> Option<Attempt> {
        let attempt = self.attempts.remove(&index)?;
        match attempt.phase {
            Phase::AwaitingResponse => self.release(index),
            Phase::AwaitingConfirm { .. } => self
                .outcomes
                .push_back(Outcome::Abandoned { session: index }),
        }
        Some(attempt)
    }

    /// Repeats what was not answered, and gives up what is too old.
    pub fn handle_timeout(&mut self, now: Instant) {
        let due: Vec<SessionIndex> = self
            .attempts
            .iter()
            .filter(|(_, a)| now >= a.repeat_at)
            .map(|(i, _)| *i)
            .collect();
        for index in due {
            let Some(attempt) = self.attempts.get_mut(&index) else {
                continue;
            };
            if let Some(reason) = attempt.rejected {
                self.give_up(index, reason, now);
                continue;
            }
            let end = attempt.started + HANDSHAKE_PATIENCE;
            if now < end {
                attempt.repeat_at = (now + attempt.interval).min(end);
                attempt.interval *= 2;
                attempt.repeat(&mut self.outcomes);
                continue;
            }
            let (purpose, reason) = (attempt.purpose, attempt.silence());
            let ourselves = attempt.ourselves && matches!(attempt.phase, Phase::AwaitingResponse);
            self.end(index);
            match purpose {
                Purpose::Dial(dial) if ourselves => {
                    self.outcomes.push_back(Outcome::Ourselves { dial });
                }
                _ => self.fail(purpose, reason, false),
            }
        }
        self.make_room(now);
    }

    /// Tries the other ways where the first have been silent for long enough.
    /// `is_reached` says whether frames are relayed to a peer.
    pub fn widen(&mut self, now: Instant, is_reached: impl Fn(&PeerId) -> bool) {
        for attempt in self.attempts.values_mut() {
            let due = attempt.ways.later.take_if(|later| {
                now >= later.at && !later.unless.as_ref().is_some_and(&is_reached)
            });
            if let (Some(later), Phase::AwaitingResponse) = (due, &attempt.phase) {
                let datagram = attempt.first_message();
                for way in later.ways.into_iter().take(MAX_WAYS) {
                    attempt.ways.first.push(way);
                    self.outcomes.push_back(Outcome::Send {
                        way,
                        datagram: datagram.clone(),
                    });
                }
            }
        }
    }

    /// What came of the last step.
    pub fn poll_outcome(&mut self) -> Option<Outcome> {
        self.outcomes.pop_front()
    }

    /// Randomness for one handshake. What is left here afterwards does not tell it: who
    /// takes over this host later must not open what was recorded before.
    fn draw(&mut self) -> ChaCha20Rng {
        let drawn = ChaCha20Rng::from_rng(&mut self.rng);
        self.rng = ChaCha20Rng::from_rng(&mut self.rng);
        drawn
    }

    /// Initiations that went unanswered since the last call, being beyond the rate
    /// ([`super::counters::DropReason::HandshakeRate`]).
    pub fn take_over_rate(&mut self) -> u64 {
        std::mem::take(&mut self.over_rate)
    }

    fn fresh_index(&mut self) -> SessionIndex {
        loop {
            let index = self.rng.random();
            if index != 0 && self.used.insert(index) {
                return index;
            }
        }
    }
}

#[cfg(test)]
mod tests;
