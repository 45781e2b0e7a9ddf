//! The address space: one range, shared out by the peers themselves.
//!
//! An owner signs what it owns ([`proto::space::Space`]) and gives out addresses
//! of it without asking anyone. It names up to seven *guards*, other peers that
//! keep its latest record in mind, say so (*acks*), and decide by Paxos, one
//! decision for each *life* of the owner, what becomes of its space should it be
//! dead. Nobody speaks for another: every vote is in its voter's own record, and
//! all of it travels by gossip.
//!
//! ```text
//!              founded or gift taken up                silent for long, or gone
//!   nothing ───────────────────────────▶ owner (life n) ─────────────────────▶ vote (n)
//!                                          ▲    ▲                                │  │
//!                                          │    └───────── Lives: life n+1 ──────┘  │
//!                                          └─ keeps what it held ◀── Inherits ──────┘
//! ```
//!
//! **What is assumed.** A peer saves its state before what follows from it is sent, and
//! is launched with what it saved last. State that is older (a backup, a snapshot of a
//! disk) is brought back only where somebody who knows what this peer knew runs, and is
//! heard first; else the state is deleted, and the peer is a new one. Without that,
//! nothing can be promised: when a gift is known to its giver and half of the giver's
//! guards, and just those forget it, nobody is left who could tell. If all who know were
//! launched anew since they heard it, they say that there were later words, but do not
//! have them: the peer then uses nothing, for ever. And an operator who says that a peer
//! is gone is right, and its containers are gone, too; or it was only down, and is launched
//! where those who were told so can be reached, and most of its guards never went. Messages
//! may be lost and late, and peers cut off, for as long as they like.
//!
//! **Why two live containers never hold one address.** An address is given out
//! by the peer that has it in a *held* block, once. So it is to be shown that no
//! address is in held blocks of two peers that may use them:
//!
//! 1. *Division.* One value is decided among the founders (Paxos); shares are disjoint.
//!    Nobody takes part in the space before it knows that value, so nobody overlooks
//!    a share of its own.
//! 2. *Gift.* The giver takes the run out of its blocks, saves that, and only then
//!    publishes it. The receiver uses it once half of the giver's guards, rounded
//!    up, say that they know of the gift, and never takes it up from a dead giver.
//! 3. *Holding more.* Of what it owns, a peer uses only held blocks, and a block
//!    that becomes held only once as many guards say that they know.
//! 4. *Takeover by time* gives the heir what the owner did **not** hold by the record
//!    that the verdict names; the heir kept that record. A majority of guards and owner
//!    decides, none of which accepts a verdict that is older than what it knows, nor
//!    acknowledges anything newer in that life once it has accepted one. Any such
//!    majority shares a guard with those of 2 and 3; so whatever was given away or
//!    used is known to the verdict, and is not taken. No clock enters this
//!    argument: time only says when a vote begins. An owner that is cut off goes
//!    on with what it holds, for as long as it likes, and nobody else ever has that.
//! 5. *Takeover by an operator's word* (`rmpeer`) gives the heir everything. A majority
//!    of all the guards decides, those that are gone included: it shares one with any
//!    half, so that gifts are known. If it is forced on a peer that can be reached, the
//!    rest of 4 applies, and the owner, once it has agreed, gives nothing away and puts
//!    nothing more to use until the vote is over.
//! 6. *Gone guards.* If more are gone than a majority can do without, the living decide:
//!    each of those whom any of them ever met, and who is not gone. About a living owner
//!    they vote together (`vote`); what the dead had is counted (`census`). Whoever
//!    knows of a gift or a verdict by which it gained is among them, and does not agree.
//!    A peer that none of the living ever met is not among them: what the dead gave to
//!    it is lost to it, if the operator's word comes before it does. Who gave all back
//!    and left is gone, too, by its own word, and takes that back for what was still on
//!    its way to it. Who is gone may have voted before, so it is left in when the halves
//!    of 2, 3 and 7 are counted.
//! 7. *Restart.* A peer uses nothing until half of its guards have answered its new
//!    launch. A guard that knows of another life says so, and one that knows a later
//!    record makes it wait until it has that back. So what was decided about it is known
//!    to it: more than half of the guards decided, and half of them answered. What was
//!    counted is said with the answer (`counted`), and a guard that agreed to a census or to
//!    a takeover does not answer before it knows what came of it.
//!
//! The receiver has a new, higher *epoch* for every run. Whoever sees that
//! another owns a run of its own with a higher epoch stops using it at once; what
//! is in use there is a *claim*: shown, left alone by others, and it keeps its
//! traffic. That is the net below, for when an assumption was wrong. An address that
//! a station elsewhere uses, or that is claimed, is not given out, whoever owns it.
//!
//! **Why nothing is lost.** Every run has an owner, is in a gift that its giver tells of
//! until the receiver owns it, or was taken over: then the heir says what exactly it
//! took, the former owner reminds it until it does, and has the rest back. What only the
//! dead had, or an heir that died before it told of it, comes back by the census, once all
//! who live are there; so does what a census left behind that was given up. Half of a small share and an eighth of a large one is held from the
//! start (see `span::held_share`), so a takeover by time brings back most of what a dead
//! peer did not use, and `rmpeer` the rest.
//!
//! `model` goes through all interleavings of a few steps, `schedules` through random
//! ones; both run this code, and assume what is assumed above, no more.

mod allot;
mod census;
mod concern;
mod counted;
mod divide;
mod give;
mod hear;
mod inherit;
mod keep;
mod saved;
mod say;
mod settle;
pub(crate) mod span;
mod view;
mod vote;

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod model;
#[cfg(test)]
mod schedules;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use proto::{
    ShortId,
    space::{self as wire, Guard, Ring},
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

pub use allot::{Grant, Outcome};
use concern::Concern;
pub use span::Span;
pub use view::{OwnerView, SpaceView};
use vote::Attempt;

/// While something is awaited, everything is looked at so often.
const BUSY: Duration = Duration::from_millis(250);
/// And otherwise, while there is a ring.
const CALM: Duration = Duration::from_secs(5);

/// How the range is divided at first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Init {
    /// By consensus of so many peers.
    Consensus(usize),
    /// Among these, without a vote; the same list on all peers.
    Seeds(Vec<ShortId>),
    /// By others.
    Observer,
}

/// How the space is set up.
#[derive(Clone, Debug)]
pub struct SpaceConfig {
    /// The range's first address.
    pub base: Ipv4Addr,
    /// Its prefix length, 8 to 30.
    pub prefix: u8,
    /// The IPv6 range beside it.
    pub range6: Option<wire::Range6>,
    /// How it is divided first.
    pub init: Init,
    /// An owner that is silent for so long is dead, if a majority agrees.
    pub dead_after: Duration,
}

/// What the space needs to know of the mesh.
pub trait Peers {
    /// Whether there is a way to a peer.
    fn reaches(&self, peer: ShortId) -> bool;
    /// The start of a peer's instance: which launch of it was heard of.
    fn instance(&self, peer: ShortId) -> Option<u32>;
    /// The others that can be reached and understand all this.
    fn candidates(&self) -> Vec<ShortId>;
    /// Whether somebody elsewhere has been seen to use an address.
    fn is_seen(&self, address: Ipv4Addr) -> bool;
}

/// What survives a restart.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Saved {
    /// The range.
    pub base: u32,
    /// The range.
    pub prefix: u8,
    ring: Option<Ring>,
    mine: Mine,
    division: Option<wire::Division>,
    wards: Vec<(ShortId, Entry)>,
    guard: Guard,
    roll: BTreeSet<ShortId>,
    census: Option<wire::Census>,
    counted: Vec<(Span, u32)>,
    #[serde(default)]
    farewells: BTreeSet<ShortId>,
}

/// What we own, and how far others know.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Mine {
    founded: bool,
    life: u32,
    serial: u64,
    guards: Vec<ShortId>,
    former: Vec<ShortId>,
    blocks: Vec<wire::Block>,
    gifts: Vec<wire::Gift>,
    taken: Vec<wire::Taken>,
    lost: Vec<wire::Lost>,
    /// What may be given out now: held, and enough guards know.
    usable: Vec<Span>,
    /// The serial of what was last put to use or given away; none if it is not known any
    /// more. A takeover that knows it overlooks nothing of ours.
    #[serde(default)]
    effective: Option<u64>,
    /// Held from these serials on, not yet known to enough guards.
    pending: Vec<(u64, Span)>,
    /// What became ours with these serials, not yet known to enough guards.
    gains: Vec<(u64, Span)>,
    /// What heirs may have taken over in one of our lives, and have not told of yet; it
    /// is ours again if they say that they did not.
    ceded: Vec<(ShortId, u32, wire::Block)>,
    /// What was usable before it was given away, and the serials of the gifts.
    from_held: Vec<(u64, Span)>,
    /// Gifts that were taken up and are still told of: giver, offset, epoch.
    received: BTreeSet<(ShortId, u32, u32)>,
}

/// What another peer owns, as far as we heard.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    space: wire::Space,
    /// How its present life began, if by a takeover.
    began: Option<wire::Began>,
    /// The heir of that takeover has told of it.
    inherited: bool,
    /// What the owner had in an earlier life, if we may be its heir.
    estate: Option<Estate>,
    /// What it had in this life, by its serial, when we proposed to take it over.
    bids: Vec<(u64, Vec<wire::Block>)>,
}

/// What a peer owned in a life that may have ended with a takeover by us.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Estate {
    life: u32,
    guards: Vec<ShortId>,
    former: Vec<ShortId>,
    blocks: Vec<wire::Block>,
    bids: Vec<(u64, Vec<wire::Block>)>,
}

/// The address space as one peer sees it, and its own part in it.
#[derive(Clone, Debug)]
pub struct Space {
    me: ShortId,
    instance: u32,
    config: SpaceConfig,
    rng: ChaCha8Rng,
    ring: Option<Ring>,
    mine: Mine,
    /// Whether what we own may be used in this launch.
    recovered: bool,
    /// Guards know a later record of ours than we do.
    behind: bool,
    ask: Option<(wire::Ask, Instant)>,
    /// No owner gave a claimed address away: asked again then.
    claims_at: Option<Instant>,
    /// How often all donors were asked in vain, and since when.
    rounds: u32,
    asking_since: Option<Instant>,
    /// Donors asked in vain since something was last given to us.
    tried: BTreeSet<ShortId>,
    table: BTreeMap<ShortId, Entry>,
    /// What was heard before we knew our own share.
    early: BTreeMap<ShortId, wire::Space>,
    /// Whom we guard.
    wards: BTreeSet<ShortId>,
    /// Who speaks in a life that has ended, and whom it takes for its guards.
    misled: BTreeMap<ShortId, Vec<ShortId>>,
    heard: BTreeMap<ShortId, Guard>,
    concern: Concern,
    guard: Guard,
    /// What we keep in mind is said again then.
    acks_at: Option<Instant>,
    /// Who is gone by an operator's word, ours or another's, or by its own.
    gone: BTreeSet<ShortId>,
    /// Those of the roll who gave everything back and said farewell.
    farewells: BTreeSet<ShortId>,
    division: Option<wire::Division>,
    divisions: BTreeMap<ShortId, wire::Division>,
    /// Everybody we ever met or heard of.
    roll: BTreeSet<ShortId>,
    /// What we agree that nobody owns, or propose.
    census: Option<wire::Census>,
    /// What we ever agreed on, or took so, and with which epoch.
    counted: Vec<(Span, u32)>,
    founding: Option<Attempt>,
    attempts: BTreeMap<ShortId, Attempt>,
    /// Takeovers that the operator wants, by force or not.
    ordered: BTreeMap<ShortId, bool>,
    /// Somebody told of a later life of ours.
    life_told: bool,
    /// Since when there is a vote about us.
    accused: Option<Instant>,
    /// Since when owners and guards cannot be reached.
    absent: BTreeMap<ShortId, Instant>,
    /// Addresses in use here.
    used: BTreeSet<u32>,
    requests: VecDeque<allot::Request>,
    outcomes: VecDeque<Outcome>,
    primed: bool,
    leaving: bool,
    /// What we own or ask for changed and has no serial yet.
    changed: bool,
    dirty: Dirty,
    stale: bool,
    due: Option<Instant>,
    warnings: VecDeque<String>,
    foreign: BTreeSet<ShortId>,
}

/// What is to be published or saved.
#[derive(Clone, Copy, Debug, Default)]
struct Dirty {
    space: bool,
    guard: bool,
    division: bool,
    saved: bool,
}

impl Space {
    /// The part of peer `me`, with what the launch before saved.
    pub fn new(
        me: ShortId,
        instance: u32,
        config: SpaceConfig,
        saved: Option<Saved>,
        seed: u64,
    ) -> Self {
        let mut space = Self {
            me,
            instance,
            config,
            rng: ChaCha8Rng::seed_from_u64(seed),
            ring: None,
            mine: Mine::default(),
            recovered: false,
            behind: false,
            ask: None,
            claims_at: None,
            rounds: 0,
            asking_since: None,
            tried: BTreeSet::new(),
            table: BTreeMap::new(),
            early: BTreeMap::new(),
            wards: BTreeSet::new(),
            misled: BTreeMap::new(),
            heard: BTreeMap::new(),
            concern: Concern::default(),
            guard: Guard::default(),
            acks_at: None,
            gone: BTreeSet::new(),
            farewells: BTreeSet::new(),
            division: None,
            divisions: BTreeMap::new(),
            roll: BTreeSet::new(),
            census: None,
            counted: Vec::new(),
            founding: None,
            attempts: BTreeMap::new(),
            ordered: BTreeMap::new(),
            life_told: true,
            accused: None,
            absent: BTreeMap::new(),
            used: BTreeSet::new(),
            requests: VecDeque::new(),
            outcomes: VecDeque::new(),
            primed: false,
            leaving: false,
            changed: false,
            dirty: Dirty::default(),
            stale: true,
            due: None,
            warnings: VecDeque::new(),
            foreign: BTreeSet::new(),
        };
        if let Some(saved) = saved {
            space.restore(saved);
        }
        space
    }

    /// How it was set up.
    pub fn config(&self) -> &SpaceConfig {
        &self.config
    }

    /// The division that it takes part in; none before the first.
    pub fn ring(&self) -> Option<Ring> {
        self.ring
    }

    /// The whole range.
    pub fn range(&self) -> Span {
        Span::new(0, 1 << (32 - u32::from(self.config.prefix.clamp(1, 32))))
    }

    /// The address at an offset.
    pub fn address(&self, at: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.config.base.to_bits().wrapping_add(at))
    }

    /// The offset of an address; none outside the range.
    pub fn offset(&self, address: Ipv4Addr) -> Option<u32> {
        let at = address.to_bits().checked_sub(self.config.base.to_bits())?;
        self.range().contains(at).then_some(at)
    }

    /// Something that matters may have changed.
    pub fn touch(&mut self) {
        self.stale = true;
    }

    /// Whether there is anything to do or to look after.
    fn is_awake(&self) -> bool {
        self.ring.is_some()
            || self.division.is_some()
            || !self.divisions.is_empty()
            || !self.requests.is_empty()
            || self.primed
    }

    /// When [`Space::run`] is to be called next.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let due = if self.stale { Some(now) } else { self.due };
        due.filter(|_| self.is_awake())
    }

    /// Does what is due. Afterwards take what is to be saved, then what is to be
    /// published, then the outcomes.
    pub fn run(&mut self, peers: &impl Peers, now: Instant) {
        self.meet(peers);
        if !self.is_awake() || !(self.stale || self.due.is_some_and(|due| due <= now)) {
            return;
        }
        self.stale = false;
        self.note_absent(peers, now);
        self.divide(peers, now);
        if self.ring.is_some() {
            // Our own words may have told which ring is ours.
            for (from, said) in std::mem::take(&mut self.early) {
                self.hear_space(from, &said);
            }
            self.learn_of_losses();
            self.reclaim();
            self.recover();
            self.settle();
            let fresh = std::mem::take(&mut self.concern.fresh);
            self.take_up_gifts(&fresh);
            self.yield_to_others(&fresh);
            self.serve(peers, now);
            self.answer_asks(peers);
            self.give_all_away(peers);
            // Who asks for the first time names them with that.
            self.choose_guards(peers, now);
            self.vote(peers, now);
            self.keep_in_mind(peers, now);
            self.count(peers);
            self.say_farewell();
        }
        self.fit_blocks();
        self.call();
        self.number();
        let due = now + if self.is_busy() { BUSY } else { CALM };
        self.due = Some(self.acks_at.map_or(due, |at| at.min(due)));
    }

    /// Whether something is awaited that is not heard of.
    fn is_busy(&self) -> bool {
        !self.requests.is_empty()
            || (self.ring.is_none() && (self.primed || self.founding.is_some()))
            || !self.mine.pending.is_empty()
            || !self.guard.votes.is_empty()
            || self.accused.is_some()
            || self.census.is_some()
            || !self.attempts.is_empty()
            || !self.ordered.is_empty()
            || (!self.recovered && !self.mine.blocks.is_empty())
            || self.leaving
            || self.stale
    }

    /// Gives changes of ours their serial.
    fn number(&mut self) {
        if std::mem::take(&mut self.changed) {
            self.mine.serial += 1;
            self.dirty.space = true;
            self.dirty.saved = true;
        }
    }

    /// The next address that was given, or refused.
    pub fn poll_outcome(&mut self) -> Option<Outcome> {
        self.outcomes.pop_front()
    }

    /// The next thing for a person.
    pub fn poll_warning(&mut self) -> Option<String> {
        self.warnings.pop_front()
    }

    fn warn(&mut self, text: String) {
        if self.warnings.len() < 64 {
            self.warnings.push_back(text);
        }
    }
}
