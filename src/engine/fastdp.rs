//! The kernel fast path to one peer: offered, proven, used, left, tried again.
//!
//! Both ends offer: each chooses an identifier (VNI) for the other and tells
//! it over the session. What one end sends is proven by probes of full size
//! through the VXLAN device itself, answered the same way; so each end decides
//! for its own direction, and knows that both work. Probes are sealed, so
//! nobody else can answer them. Where frames are encrypted, VXLAN goes inside
//! ESP ([`super::esp`]), the probes with it; nothing here depends on that but
//! what is said.
//!
//! ```text
//!          allowed             offer heard           probes answered
//!  Barred ────────▶ Offering ─────────────▶ Proving ────────────────▶ Up
//!    ▲               │    ▲                  ▲   │ silence             │ silence
//!    │       decline │    │ (own offers go   │   ▼                     │
//!    │               ▼    │  on, rarely)     └─ Resting ◀──────────────┘
//!    │            Declined ┘             rested, or a new offer
//!    └─ from anywhere: not allowed any more; the identifier is never used again
//! ```
//!
//! Going up breaks nothing, for the other end receives before it offers. Knows
//! no sockets and no kernel: the router sends what [`FastPath::tick`] asks for.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use proto::message::{Decline, VxlanOffer};

/// Probes of an active path, and of one that is used by nobody just now.
const ACTIVE_PROBE: Duration = Duration::from_millis(250);
const IDLE_PROBE: Duration = Duration::from_secs(1);
/// A probe that is not answered after this long, and twice the round-trip
/// time, is followed by others at once.
const LATE: Duration = Duration::from_millis(90);
/// Unanswered probes that end a path, over at least this time and twice the
/// round-trip time: a late answer or a busy host must not.
const LOST: u32 = 4;
const SILENCE: Duration = Duration::from_millis(400);
/// The same for a path that is not in use yet.
const PROVING: Duration = Duration::from_secs(1);
/// Answers that prove a path; more after each fall, up to `MOST_ANSWERS`.
const ANSWERS: u32 = 2;
const MOST_ANSWERS: u32 = 10;
/// A path that stood this long is trusted as at first.
const STEADY: Duration = Duration::from_secs(60);
/// Pauses after a failure: the first, and the longest while frames flow or not.
const REST: Duration = Duration::from_secs(1);
const REST_ACTIVE: Duration = Duration::from_secs(3);
const REST_IDLE: Duration = Duration::from_secs(15);
/// How long frames in clear are still taken under an identifier that was left:
/// the peer sends under it until it hears of that.
const LINGER: Duration = Duration::from_secs(2);
/// Identifiers that linger at once.
const MOST_LEFT: usize = 4;
/// An offer that shows no effect is repeated after this long, then ever later.
const OFFER: Duration = Duration::from_millis(300);

/// Why this end wants no fast path with the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bar {
    /// There is none on this host; why, in words, and whether its operator said so.
    Host {
        /// The reason.
        why: String,
        /// Whether it was switched off.
        disabled: bool,
    },
    /// The peer's version does not know of it.
    Old,
    /// Frames to it are encrypted, and the kernel cannot do that; why, in words.
    Encrypted(String),
    /// It is not reached directly.
    Indirect,
}

/// How far the path has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Barred,
    Offering,
    Declined,
    Proving,
    Up,
    Resting,
}

/// What can happen to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    /// This end wants it no more.
    Bar,
    /// This end wants it.
    Allow,
    /// The peer gave an identifier that is new.
    Offer,
    /// The peer refused.
    Decline,
    /// Enough probes were answered in a row.
    Proven,
    /// Probes stayed unanswered for too long.
    Silent,
    /// The pause is over.
    Rested,
}

impl Phase {
    fn next(self, input: Input) -> Self {
        match (self, input) {
            (
                Self::Barred
                | Self::Offering
                | Self::Declined
                | Self::Proving
                | Self::Up
                | Self::Resting,
                Input::Bar,
            ) => Self::Barred,
            (Self::Barred, Input::Allow) => Self::Offering,
            (
                Self::Offering | Self::Declined | Self::Proving | Self::Up | Self::Resting,
                Input::Allow,
            ) => self,
            // What the old identifier proved does not hold for the new one.
            (
                Self::Offering | Self::Declined | Self::Proving | Self::Up | Self::Resting,
                Input::Offer,
            ) => Self::Proving,
            (
                Self::Offering | Self::Declined | Self::Proving | Self::Up | Self::Resting,
                Input::Decline,
            ) => Self::Declined,
            (Self::Proving, Input::Proven) => Self::Up,
            (Self::Proving | Self::Up, Input::Silent) => Self::Resting,
            (Self::Resting, Input::Rested) => Self::Proving,
            // Leftovers of a phase that is over.
            (
                Self::Barred,
                Input::Offer | Input::Decline | Input::Proven | Input::Silent | Input::Rested,
            )
            | (Self::Offering | Self::Declined, Input::Proven | Input::Silent | Input::Rested)
            | (Self::Proving, Input::Rested)
            | (Self::Up, Input::Proven | Input::Rested)
            | (Self::Resting, Input::Proven | Input::Silent) => self,
        }
    }
}

/// What is to be sent now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chores {
    /// Our offer, over the session.
    pub offer: bool,
    /// A probe through the tunnel.
    pub probe: Option<Probe>,
}

/// How large a probe is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// As the largest frame.
    Full,
    /// Enough to see that the path lives.
    Small,
}

/// What this end wants, until it wants it no more or something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The identifier it chose.
    pub index: u32,
    /// The peer's address.
    pub address: IpAddr,
    /// Whether frames are inside ESP.
    pub esp: bool,
}

/// What the kernel has to know; none while the path is barred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What this end wants.
    pub wish: Wish,
    /// Where it sends from.
    pub source: Option<IpAddr>,
    /// The identifier the peer chose.
    pub vni: Option<u32>,
    /// Whether frames are sent this way.
    pub up: bool,
}

/// The fast path to one peer.
#[derive(Debug)]
pub struct FastPath {
    phase: Phase,
    since: Instant,
    bar: Bar,
    ours: Option<Wish>,
    /// The peer's offer, and where it came from: the peer may send from another
    /// address than it is reached at.
    theirs: Option<(VxlanOffer, IpAddr)>,
    /// Where the peer was seen last, be the path wanted or not.
    place: Option<IpAddr>,
    /// What was left, and until when it is taken from.
    left: Vec<(Entry, Instant)>,
    declined: Decline,
    offer_at: Instant,
    offers: u32,
    /// Whether the peer used our identifier: it has our offer.
    heard: bool,
    probes: BTreeMap<u64, Instant>,
    probe_at: Instant,
    unanswered: u32,
    unanswered_since: Instant,
    answers: u32,
    rtt: Duration,
    rests: u32,
    falls: u32,
}

impl FastPath {
    /// A path that is not wanted yet.
    pub fn new(now: Instant) -> Self {
        Self {
            phase: Phase::Barred,
            since: now,
            bar: Bar::Indirect,
            ours: None,
            theirs: None,
            place: None,
            left: Vec::new(),
            declined: Decline::Other,
            offer_at: now,
            offers: 0,
            heard: false,
            probes: BTreeMap::new(),
            probe_at: now,
            unanswered: 0,
            unanswered_since: now,
            answers: 0,
            rtt: Duration::ZERO,
            rests: 0,
            falls: 0,
        }
    }

    /// What the kernel has to know, of what was left, too.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        self.entry()
            .into_iter()
            .chain(self.left.iter().map(|(entry, _)| *entry))
    }

    /// What the kernel has to know.
    pub fn entry(&self) -> Option<Entry> {
        Some(Entry {
            wish: self.ours?,
            source: self.theirs.map(|(_, source)| source),
            vni: self.theirs.map(|(offer, _)| offer.vni),
            up: self.is_up(),
        })
    }

    /// Whether frames are sent this way.
    pub fn is_up(&self) -> bool {
        self.phase == Phase::Up
    }

    /// What this end wants, while it does.
    pub fn wish(&self) -> Option<Wish> {
        self.ours
    }

    /// The identifier this end chose, while it is in use.
    pub fn index(&self) -> Option<u32> {
        self.ours.map(|wish| wish.index)
    }

    /// The peer is seen at an address. Returns whether it was at another before.
    pub fn moves_to(&mut self, address: IpAddr) -> bool {
        self.place
            .replace(address)
            .is_some_and(|was| was != address)
    }

    /// Whether something can be sent through the tunnel.
    pub fn can_send(&self) -> bool {
        self.ours.is_some() && self.is_offered()
    }

    /// The way to the peer is another, or none: what was agreed is over, but what
    /// the peer has sent by then is still let in. Inside ESP nothing is: its keys
    /// and policies go.
    pub fn leave(&mut self, now: Instant) {
        if let Some(entry) = self.entry()
            && !entry.wish.esp
            && entry.source.is_some()
        {
            let receiving = Entry {
                vni: None,
                up: false,
                ..entry
            };
            self.left.push((receiving, now + LINGER));
            let surplus = self.left.len().saturating_sub(MOST_LEFT);
            self.left.drain(..surplus);
        }
        self.bar(Bar::Indirect);
    }

    /// Nothing of what was left is let in any more.
    pub fn forget_left(&mut self) {
        self.left.clear();
    }

    /// This end does not want the path: what was agreed is over.
    pub fn bar(&mut self, bar: Bar) {
        self.phase = self.phase.next(Input::Bar);
        self.bar = bar;
        self.ours = None;
        self.theirs = None;
        self.probes.clear();
    }

    /// This end wants the path, under a new identifier.
    pub fn allow(&mut self, wish: Wish, now: Instant) {
        self.ours = Some(wish);
        self.heard = false;
        self.offers = 0;
        self.offer_at = now;
        self.rests = 0;
        self.step(Input::Allow, now);
    }

    /// The peer's offer came. Returns whether it is new: then it may lack ours.
    pub fn offered(&mut self, offer: VxlanOffer, source: IpAddr, now: Instant) -> bool {
        if self.ours.is_none() {
            return false;
        }
        // Whoever offers may lack our offer: it is due until the peer uses it again.
        self.heard = false;
        if self.theirs == Some((offer, source)) {
            return false;
        }
        self.theirs = Some((offer, source));
        self.offers = 0;
        self.step(Input::Offer, now);
        self.offer_at = now + OFFER;
        true
    }

    /// How often it failed since it was agreed on.
    pub fn failures(&self) -> u32 {
        self.rests
    }

    /// Whether the peer's offer is known.
    pub fn is_offered(&self) -> bool {
        self.theirs.is_some()
    }

    /// The peer does not want the path.
    pub fn declined(&mut self, decline: Decline, now: Instant) {
        self.declined = decline;
        self.theirs = None;
        self.step(Input::Decline, now);
    }

    /// What encrypts the path is gone: nothing passes until there is something new.
    pub fn unprotected(&mut self, now: Instant) {
        if self.is_up() {
            self.step(Input::Silent, now);
        }
    }

    /// The peer used our identifier.
    pub fn heard(&mut self) {
        self.heard = true;
    }

    /// A probe left.
    pub fn probed(&mut self, token: u64, now: Instant) {
        if self.unanswered == 0 {
            self.unanswered_since = now;
        }
        self.unanswered += 1;
        self.probes.insert(token, now);
        while self.probes.len() > 64 {
            self.probes.pop_first();
        }
    }

    /// A probe was answered, through the tunnel.
    pub fn answered(&mut self, token: u64, now: Instant) {
        let Some(sent) = self.probes.remove(&token) else {
            return;
        };
        self.probes.retain(|_, at| *at > sent);
        self.unanswered = u32::try_from(self.probes.len()).unwrap_or(u32::MAX);
        self.unanswered_since = self.probes.values().min().copied().unwrap_or(now);
        self.rtt = now.duration_since(sent);
        self.answers += 1;
        let needed = (ANSWERS + 2 * self.falls).min(MOST_ANSWERS);
        if self.phase == Phase::Proving && self.answers >= needed {
            self.step(Input::Proven, now);
        }
    }

    /// What is due; `active` says whether frames flow.
    pub fn tick(&mut self, active: bool, now: Instant) -> Chores {
        self.left.retain(|(_, until)| now < *until);
        if self.is_silent(now) {
            self.step(Input::Silent, now);
        }
        if self.phase == Phase::Resting && now >= self.since + self.pause(active) {
            self.step(Input::Rested, now);
        }
        let steady = now.duration_since(self.since) >= STEADY;
        match self.phase {
            Phase::Barred => Chores::default(),
            Phase::Offering | Phase::Declined | Phase::Resting => Chores {
                offer: self.offer_due(active, now),
                probe: None,
            },
            Phase::Proving => Chores {
                offer: self.offer_due(active, now),
                probe: Some(Probe::Full),
            },
            Phase::Up => {
                if steady {
                    (self.falls, self.rests) = (0, 0);
                }
                let probe = self.probe_due(active, now);
                Chores {
                    offer: false,
                    probe: probe.then_some(if active { Probe::Full } else { Probe::Small }),
                }
            }
        }
    }

    /// Whether an answer is late while frames are sent this way: they may be lost.
    pub fn is_late(&self, now: Instant) -> bool {
        let late = LATE + self.rtt * 2;
        self.is_up() && self.unanswered > 0 && now.duration_since(self.unanswered_since) >= late
    }

    /// Why frames do not go this way, in words; none while they do. `path` is
    /// the packet size that the path carries, and `needed` what VXLAN takes.
    pub fn reason(&self, path: usize, needed: usize) -> Option<String> {
        let text = match self.phase {
            Phase::Up => return None,
            Phase::Barred => match &self.bar {
                Bar::Host { why, .. } => return Some(why.clone()),
                Bar::Encrypted(why) => return Some(format!("frames are encrypted, and {why}")),
                Bar::Old => "the peer's version has no fast path",
                Bar::Indirect => "no direct path",
            },
            Phase::Offering => "the peer has not answered the offer of a fast path",
            Phase::Declined => match self.declined {
                Decline::Disabled => "the peer has --no-fastdp",
                Decline::Kernel => "the peer's kernel has no fast path",
                Decline::Encrypted => {
                    "the peer encrypts, and cannot by ESP: its own status says why"
                }
                Decline::Other => "the peer wants no fast path",
            },
            Phase::Proving if self.rests == 0 => "the fast path is being proven",
            Phase::Proving | Phase::Resting if path < needed => {
                return Some(format!("path MTU {path} < {needed}"));
            }
            Phase::Proving | Phase::Resting if self.ours.is_some_and(|wish| wish.esp) => {
                "ESP probe unanswered: IP protocol 50 blocked?"
            }
            Phase::Proving | Phase::Resting => "VXLAN probe unanswered: UDP 6784 blocked?",
        };
        Some(text.to_owned())
    }

    /// Why an offer of the peer is refused; none if it is not.
    pub fn refusal(&self) -> Option<Decline> {
        let barred = self.phase == Phase::Barred;
        barred.then_some(match self.bar {
            Bar::Host { disabled: true, .. } => Decline::Disabled,
            Bar::Host { .. } => Decline::Kernel,
            Bar::Encrypted(_) => Decline::Encrypted,
            Bar::Old | Bar::Indirect => Decline::Other,
        })
    }

    fn step(&mut self, input: Input, now: Instant) {
        let before = self.phase;
        self.phase = before.next(input);
        if self.phase == before && input != Input::Offer {
            return;
        }
        self.since = now;
        match self.phase {
            Phase::Proving => {
                self.answers = 0;
                self.forget_probes(now);
            }
            Phase::Resting => {
                self.rests += 1;
                self.falls += u32::from(before == Phase::Up);
                self.forget_probes(now);
            }
            Phase::Barred | Phase::Offering | Phase::Declined | Phase::Up => {}
        }
    }

    fn forget_probes(&mut self, now: Instant) {
        self.probes.clear();
        self.unanswered = 0;
        self.probe_at = now;
    }

    fn is_silent(&self, now: Instant) -> bool {
        let least = match self.phase {
            Phase::Up => SILENCE,
            Phase::Proving => PROVING,
            Phase::Barred | Phase::Offering | Phase::Declined | Phase::Resting => return false,
        };
        self.unanswered >= LOST && now.duration_since(self.unanswered_since) >= least + self.rtt * 2
    }

    fn pause(&self, active: bool) -> Duration {
        let most = if active { REST_ACTIVE } else { REST_IDLE };
        (REST * self.rests.clamp(1, 16)).min(most)
    }

    fn offer_due(&mut self, active: bool, now: Instant) -> bool {
        if (self.heard && self.is_offered()) || now < self.offer_at {
            return false;
        }
        let most = if active { REST_ACTIVE } else { REST_IDLE };
        self.offer_at = now + (OFFER * (1 << self.offers.min(6))).min(most);
        self.offers += 1;
        true
    }

    fn probe_due(&mut self, active: bool, now: Instant) -> bool {
        let every = if active { ACTIVE_PROBE } else { IDLE_PROBE };
        let late = self.is_late(now);
        // Frames began to flow: the next probe is due earlier than it was.
        self.probe_at = self.probe_at.min(now + every);
        if !late && now < self.probe_at {
            return false;
        }
        self.probe_at = now + every;
        true
    }
}

#[cfg(test)]
pub(super) mod tests;
