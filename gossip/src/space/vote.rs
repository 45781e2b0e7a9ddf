//! Votes about the space of those who may be dead: one decision for each life of
//! an owner, by Paxos among its guards, each vote in its voter's own record.
//!
//! ```text
//! proposer   promised b ───────────────┐ enough promised b:            enough accepted b:
//! guards       (see b) promised b ─────┴─▶ accepted (b, verdict) ──▶ accepted ─▶ decided
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use proto::{
    ShortId,
    space::{self as wire, Ballot, Began, Block, Cause, Gift, Taken, Verdict, Vote},
};
use rand::Rng;

use super::{
    Entry, Peers, Space,
    divide::ATTEMPT,
    give::GIFT_STEP,
    settle::weight,
    span::{self, Span},
};

/// A vote about a peer that lives is ended by it after so long.
const STALE: Duration = Duration::from_secs(5);

/// Our own attempt to decide.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) ballot: Ballot,
    /// When another is begun.
    pub(super) until: Instant,
}

impl Attempt {
    pub(super) fn new(ballot: Ballot, until: Instant) -> Self {
        Self { ballot, until }
    }
}

fn cause_of(verdict: &Verdict) -> Option<Cause> {
    match verdict {
        Verdict::Lives => None,
        Verdict::Inherits { cause, .. } => Some(*cause),
    }
}

impl Entry {
    /// What the owner can lose.
    pub(super) fn spare(&self) -> impl Iterator<Item = &Block> {
        self.space.blocks.iter().filter(|block| !block.held)
    }

    fn is_guard(&self, peer: ShortId) -> bool {
        self.space.guards.contains(&peer) || self.space.former.contains(&peer)
    }

    /// A verdict was carried out: another life begins.
    pub(super) fn bury(&mut self, began: Option<Began>, life: u32) {
        self.space.life = life;
        self.inherited = began.is_none();
        self.began = began;
    }

    /// The heir told of it.
    pub(super) fn strip(&mut self, gone: bool) {
        self.inherited = true;
        self.space.blocks.retain(|block| block.held && !gone);
        self.space.ask = None;
    }
}

impl Space {
    /// The operator wants the space of a peer. By force, also that of one that lives.
    pub fn take_over(&mut self, peer: ShortId, force: bool, peers: &impl Peers) {
        if !peers.reaches(peer) && !self.guard.gone.contains(&peer) {
            if self.guard.gone.len() >= wire::GONE {
                self.guard.gone.remove(0);
            }
            self.guard.gone.push(peer);
            (self.dirty.guard, self.dirty.saved) = (true, true);
        }
        self.ordered.insert(peer, force && peers.reaches(peer));
        self.stale = true;
    }

    /// Keeps track of whom we guard.
    pub(super) fn note_ward(&mut self, ward: ShortId) {
        let ours = self
            .table
            .get(&ward)
            .is_some_and(|entry| entry.is_guard(self.me));
        if ours {
            self.wards.insert(ward);
        } else {
            self.wards.remove(&ward);
        }
        self.dirty.saved |= ours;
    }

    /// An heir tells of its takeover.
    pub(super) fn hear_of_takeover(&mut self, heir: ShortId, taken: &Taken) {
        let Some(entry) = self.table.get_mut(&taken.peer) else {
            return;
        };
        let began = Began {
            serial: taken.serial,
            heir,
            gone: taken.gone,
        };
        if entry.space.life == taken.life {
            entry.bury(Some(began), taken.life + 1);
        }
        let same = entry.space.life == taken.life + 1 && entry.began == Some(began);
        if same && !entry.inherited {
            entry.strip(taken.gone);
            self.dirty.saved = true;
        }
    }

    /// Others tell that we lost something, or that a vote about us is over.
    pub(super) fn learn_of_losses(&mut self) {
        let me = self.me;
        let life = self.mine.life;
        let from_guards = self.heard.values().flat_map(|guard| &guard.acks);
        let from_guards = from_guards
            .filter(|ack| ack.ward == me && ack.life > life)
            .map(|ack| (ack.life, ack.began));
        let from_heirs = self.table.iter().flat_map(|(heir, entry)| {
            let taken = entry.space.taken.iter().filter(|taken| taken.peer == me);
            taken.map(|taken| {
                let began = Began {
                    serial: taken.serial,
                    heir: *heir,
                    gone: taken.gone,
                };
                (taken.life + 1, Some(began))
            })
        });
        let from_heirs = from_heirs.filter(|(next, _)| *next > life);
        let Some((next, began)) = from_guards.chain(from_heirs).max_by_key(|(life, _)| *life)
        else {
            return;
        };
        self.live_on(next, began);
    }

    /// Begins another life with what is left to us.
    fn live_on(&mut self, life: u32, began: Option<Began>) {
        self.mine.life = life;
        self.changed = true;
        self.stale = true;
        self.behind = false;
        self.attempts.remove(&self.me);
        let Some(began) = began else {
            return;
        };
        let lost: Vec<Span> = self
            .mine
            .blocks
            .iter()
            .filter(|block| began.gone || !block.held)
            .map(Span::of)
            .collect();
        // What was held without enough guards knowing is spare to them.
        let pending = self.mine.pending.iter();
        let unknown: Vec<Span> = pending
            .filter(|(serial, _)| *serial > began.serial)
            .map(|(_, span)| *span)
            .collect();
        // What became ours later is not known to those who decided.
        let mut lost: Vec<Span> = lost.into_iter().chain(unknown).collect();
        for (serial, span) in &self.mine.gains {
            if *serial > began.serial {
                lost = lost
                    .into_iter()
                    .flat_map(|lost| lost.minus(*span))
                    .collect();
            }
        }
        let mut count = 0;
        for span in lost {
            count += span.len();
            self.lose(span);
        }
        self.take_back_gifts(began);
        self.warn(format!(
            "peer {:?} took over {count} addresses of this peer's space, by vote: this peer {}; it asks for space when it needs some",
            began.heir,
            if began.gone { "was said to be gone" } else { "could not be reached for long, or was forced to give way" }
        ));
        self.tried.clear();
    }

    /// Gifts that those who decided did not know of do not count. What was spare
    /// before has another owner now; what was held is ours as before.
    fn take_back_gifts(&mut self, began: Began) {
        let gifts = std::mem::take(&mut self.mine.gifts);
        let (known, void): (Vec<Gift>, Vec<Gift>) = gifts
            .into_iter()
            .partition(|gift| gift.since <= began.serial);
        self.mine.gifts = known;
        for gift in void.iter().filter(|_| !began.gone) {
            if self.mine.from_held.contains(&(gift.since, gift.start)) {
                let block = Block {
                    start: gift.start,
                    len: gift.len,
                    epoch: gift.epoch.saturating_sub(GIFT_STEP),
                    held: true,
                };
                span::put(&mut self.mine.blocks, block);
                span::insert(&mut self.mine.usable, Span::of(&block));
            }
        }
    }

    /// What was said in the votes about one life of an owner.
    fn ballots(&self, ward: ShortId, life: u32) -> BTreeMap<ShortId, Vote> {
        let own = self.guard.votes.iter().map(|vote| (self.me, vote));
        let others = self
            .heard
            .iter()
            .flat_map(|(peer, guard)| guard.votes.iter().map(|vote| (*peer, vote)));
        own.chain(others)
            .filter(|(_, vote)| vote.ward == ward && vote.life == life)
            .map(|(peer, vote)| (peer, *vote))
            .collect()
    }

    /// Takes part in all votes.
    pub(super) fn vote(&mut self, peers: &impl Peers, now: Instant) {
        self.learn_from_guards();
        self.claim_estates();
        self.take_orphans(peers);
        let mut wards: Vec<ShortId> = self.wards.iter().copied().collect();
        if !self.mine.guards.is_empty() {
            wards.push(self.me);
        }
        for ward in wards {
            self.vote_on(ward, peers, now);
        }
        let lives = |space: &Self, ward: ShortId| match ward == space.me {
            // Without guards there is nobody to decide.
            true => Some(space.mine.life).filter(|_| !space.mine.guards.is_empty()),
            false => space.table.get(&ward).map(|entry| entry.space.life),
        };
        let before = self.guard.votes.len();
        let votes = std::mem::take(&mut self.guard.votes);
        let keep = votes
            .into_iter()
            .filter(|vote| lives(self, vote.ward) == Some(vote.life));
        self.guard.votes = keep.collect();
        self.dirty.guard |= self.guard.votes.len() != before;
        self.carry_out_orders(peers);
    }

    fn carry_out_orders(&mut self, peers: &impl Peers) {
        let done: Vec<ShortId> = self
            .ordered
            .iter()
            .filter(|(peer, force)| {
                let entry = self.table.get(peer);
                entry.is_none_or(|entry| {
                    if **force {
                        entry.spare().next().is_none()
                    } else {
                        entry.space.blocks.is_empty() || peers.reaches(**peer)
                    }
                })
            })
            .map(|(peer, _)| *peer)
            .collect();
        for peer in done {
            self.ordered.remove(&peer);
        }
        // Who is back is not gone.
        let before = self.guard.gone.len();
        self.guard.gone.retain(|peer| !peers.reaches(*peer));
        if self.guard.gone.len() != before {
            (self.dirty.guard, self.dirty.saved) = (true, true);
        }
    }

    /// Other guards of a ward are a life ahead.
    fn learn_from_guards(&mut self) {
        let mut ahead = Vec::new();
        for ward in &self.wards {
            let Some(entry) = self.table.get(ward) else {
                continue;
            };
            let acks = self.heard.iter().filter(|(peer, _)| entry.is_guard(**peer));
            let acks = acks.flat_map(|(_, guard)| &guard.acks);
            let latest = acks
                .filter(|ack| ack.ward == *ward && ack.life > entry.space.life)
                .max_by_key(|ack| ack.life);
            ahead.extend(latest.copied());
        }
        for ack in ahead {
            self.bury(ack.ward, ack.life, ack.began);
        }
    }

    /// Whether we may be the heir of a peer in one of its lives and do not know yet.
    pub(super) fn may_inherit(&self, ward: ShortId, life: u32) -> bool {
        let votes = self.guard.votes.iter();
        let mut of = votes.filter(|vote| vote.ward == ward && vote.life == life);
        of.any(|vote| {
            matches!(vote.accepted, Some((_, Verdict::Inherits { heir, .. })) if heir == self.me)
        })
    }

    /// A peer came back before we knew that we were its heir.
    fn claim_estates(&mut self) {
        let estates = self.table.iter().filter_map(|(ward, entry)| {
            let estate = entry.estate.as_ref()?;
            let acks = self.heard.values().flat_map(|guard| &guard.acks);
            let mut of = acks.filter(|ack| ack.ward == *ward && ack.life == estate.life + 1);
            let began = of.find_map(|ack| ack.began)?;
            Some((*ward, estate.life, began))
        });
        let known: Vec<_> = estates.collect();
        for (ward, life, began) in known {
            let estate = self
                .table
                .get_mut(&ward)
                .and_then(|entry| entry.estate.take());
            if began.heir == self.me
                && let Some(estate) = estate
            {
                let blocks = self.bequest(ward, &estate.blocks, began.gone);
                self.take(ward, life, began, blocks);
            }
        }
    }

    /// Who is gone with all of its guards, by the operator's word, leaves nobody
    /// to vote: one of those who are left takes over.
    fn take_orphans(&mut self, peers: &impl Peers) {
        let gone: Vec<ShortId> = self
            .table
            .iter()
            .filter(|(peer, entry)| {
                let space = &entry.space;
                let mut guards = space.guards.iter().chain(&space.former);
                let dead = |peer: ShortId| self.is_gone(peer) && !peers.reaches(peer);
                !space.blocks.is_empty() && dead(**peer) && guards.all(|guard| dead(*guard))
            })
            .map(|(peer, _)| *peer)
            .collect();
        for peer in gone {
            let others = peers.candidates().into_iter().chain([self.me]);
            let heir = others.min_by_key(|other| (weight(peer, *other), *other));
            let Some(entry) = self.table.get(&peer).filter(|_| heir == Some(self.me)) else {
                continue;
            };
            let began = Began {
                serial: entry.space.serial,
                heir: self.me,
                gone: true,
            };
            let life = entry.space.life + 1;
            self.bury(peer, life, Some(began));
        }
    }

    fn bury(&mut self, ward: ShortId, life: u32, began: Option<Began>) {
        if let Some(entry) = self.table.get_mut(&ward) {
            entry.bury(began, life);
            (self.dirty.saved, self.stale) = (true, true);
        }
        self.attempts.remove(&ward);
        if began.is_some_and(|began| began.heir == self.me) {
            self.inherit(ward);
        }
    }

    fn vote_on(&mut self, ward: ShortId, peers: &impl Peers, now: Instant) {
        let Some((life, guards, former)) = self.voters(ward) else {
            return;
        };
        let ballots = self.ballots(ward, life);
        if ward == self.me {
            self.accused = match ballots.is_empty() {
                true => None,
                false => self.accused.or(Some(now)),
            };
        }
        if let Some(verdict) = self.verdict(&ballots, &guards, &former) {
            return self.conclude(ward, life, verdict);
        }
        let voter = guards.contains(&self.me) || former.contains(&self.me);
        if voter {
            self.respond(ward, life, &ballots, peers, now);
        }
        let Some(wish) = self.wish(ward, &ballots, peers, now) else {
            self.attempts.remove(&ward);
            return;
        };
        let ballots = self.ballots(ward, life);
        self.attempt(ward, life, wish, &ballots, (&guards, &former), (peers, now));
    }

    fn voters(&self, ward: ShortId) -> Option<(u32, Vec<ShortId>, Vec<ShortId>)> {
        if ward == self.me {
            let mine = &self.mine;
            return Some((mine.life, mine.guards.clone(), mine.former.clone()));
        }
        let space = &self.table.get(&ward)?.space;
        Some((space.life, space.guards.clone(), space.former.clone()))
    }

    /// Whether those for whom `has` holds are enough in each set of guards.
    fn carries(
        &self,
        sets: (&[ShortId], &[ShortId]),
        cause: Option<Cause>,
        has: impl Fn(ShortId) -> bool,
    ) -> bool {
        let of = |set: &[ShortId]| {
            let alive = set.iter().filter(|peer| !self.is_gone(**peer)).count();
            let needed = match cause {
                // A majority of guards and ward together: more than safety needs, so
                // that no minority decides.
                Some(Cause::Silent) => set.len().div_ceil(2) + 1,
                Some(Cause::Gone | Cause::Forced) | None => alive / 2 + 1,
            };
            set.iter().filter(|peer| has(**peer)).count() >= needed
        };
        of(sets.0) && (sets.1.is_empty() || of(sets.1))
    }

    /// What was decided, if anything.
    fn verdict(
        &self,
        ballots: &BTreeMap<ShortId, Vote>,
        guards: &[ShortId],
        former: &[ShortId],
    ) -> Option<Verdict> {
        ballots.values().find_map(|vote| {
            let (ballot, verdict) = vote.accepted?;
            let cause = cause_of(&verdict);
            let has = |peer: ShortId| {
                let other = ballots.get(&peer).and_then(|vote| vote.accepted);
                other.is_some_and(|(other, _)| other == ballot)
            };
            self.carries((guards, former), cause, has)
                .then_some(verdict)
        })
    }

    fn conclude(&mut self, ward: ShortId, life: u32, verdict: Verdict) {
        let began = match verdict {
            Verdict::Lives => None,
            Verdict::Inherits {
                serial,
                heir,
                cause,
            } => Some(Began {
                serial,
                heir,
                gone: cause == Cause::Gone,
            }),
        };
        if ward == self.me {
            self.live_on(life + 1, began);
        } else {
            self.bury(ward, life + 1, began);
        }
    }

    /// Promises and accepts, as a guard.
    fn respond(
        &mut self,
        ward: ShortId,
        life: u32,
        ballots: &BTreeMap<ShortId, Vote>,
        peers: &impl Peers,
        now: Instant,
    ) {
        let highest = ballots.values().map(|vote| vote.promised).max();
        let Some(highest) = highest.filter(|ballot| *ballot > Ballot::default()) else {
            return;
        };
        let latest = ballots
            .values()
            .filter_map(|vote| vote.accepted)
            .max_by_key(|(ballot, _)| *ballot);
        let accepts = latest.filter(|(ballot, verdict)| {
            *ballot >= highest && self.agrees(ward, verdict, peers, now)
        });
        let Some(own) = self.own_vote(ward, life) else {
            return;
        };
        let before = *own;
        own.promised = own.promised.max(highest);
        if let Some((ballot, verdict)) = accepts
            && ballot >= own.promised
            && own.accepted.is_none_or(|(held, _)| held < ballot)
        {
            own.accepted = Some((ballot, verdict));
        }
        if *own != before {
            self.note_vote();
        }
    }

    fn own_vote(&mut self, ward: ShortId, life: u32) -> Option<&mut Vote> {
        let votes = &mut self.guard.votes;
        let at = match votes
            .iter()
            .position(|vote| vote.ward == ward && vote.life == life)
        {
            Some(at) => at,
            None if votes.len() >= wire::VOTES => return None,
            None => {
                votes.push(Vote {
                    ward,
                    life,
                    promised: Ballot::default(),
                    accepted: None,
                });
                votes.len() - 1
            }
        };
        votes.get_mut(at)
    }

    fn note_vote(&mut self) {
        (self.dirty.guard, self.dirty.saved, self.stale) = (true, true, true);
    }

    /// Whether we, as a guard, can accept a verdict.
    fn agrees(&self, ward: ShortId, verdict: &Verdict, peers: &impl Peers, now: Instant) -> bool {
        let Verdict::Inherits { serial, cause, .. } = verdict else {
            return true;
        };
        // What we said that we keep in mind counts, not what we merely heard.
        let Some(entry) = self.table.get(&ward) else {
            return false;
        };
        let said = self
            .guard
            .acks
            .iter()
            .find(|ack| ack.ward == ward && ack.life == entry.space.life);
        let known = said.map_or(entry.space.serial, |ack| ack.serial);
        known <= *serial
            && match cause {
                Cause::Silent => self.is_long_absent(ward, now) && self.sees_most(ward, peers),
                Cause::Gone => self.is_gone(ward) && !peers.reaches(ward),
                Cause::Forced => true,
            }
    }

    fn is_long_absent(&self, ward: ShortId, now: Instant) -> bool {
        let since = self.absent.get(&ward);
        since.is_some_and(|since| *since + self.config.dead_after <= now)
    }

    /// Whether we are not the ones that are cut off.
    fn sees_most(&self, ward: ShortId, peers: &impl Peers) -> bool {
        let owners = self
            .table
            .iter()
            .filter(|(_, entry)| !entry.space.blocks.is_empty());
        let guards = self
            .table
            .get(&ward)
            .into_iter()
            .flat_map(|entry| &entry.space.guards);
        let all: BTreeSet<ShortId> = owners
            .map(|(owner, _)| owner)
            .chain(guards)
            .copied()
            .collect();
        let seen = all
            .iter()
            .filter(|peer| **peer == self.me || peers.reaches(**peer));
        2 * seen.count() > all.len()
    }

    /// What we want decided about a peer.
    fn wish(
        &self,
        ward: ShortId,
        ballots: &BTreeMap<ShortId, Vote>,
        peers: &impl Peers,
        now: Instant,
    ) -> Option<Verdict> {
        if ward == self.me {
            let accused = ballots.values().any(|vote| {
                matches!(vote.accepted, Some((_, Verdict::Inherits { cause, .. })) if cause != Cause::Forced)
            });
            let stale = self.accused.is_some_and(|since| since + STALE <= now);
            return (accused || stale).then_some(Verdict::Lives);
        }
        let entry = self.table.get(&ward)?;
        let heir_is_gone = entry.began.is_some_and(|began| self.is_gone(began.heir));
        if !entry.inherited && !heir_is_gone {
            return None;
        }
        let reached = peers.reaches(ward);
        let spare = entry.spare().next().is_some();
        let cause = if !reached && self.is_gone(ward) {
            let left = self.bequest(ward, &entry.space.blocks, true);
            (!left.is_empty()).then_some(Cause::Gone)
        } else if self.ordered.get(&ward) == Some(&true) {
            spare.then_some(Cause::Forced)
        } else if !reached && self.is_long_absent(ward, now) && self.sees_most(ward, peers) {
            spare.then_some(Cause::Silent)
        } else {
            None
        };
        Some(Verdict::Inherits {
            serial: entry.space.serial,
            heir: self.me,
            cause: cause?,
        })
    }

    fn attempt(
        &mut self,
        ward: ShortId,
        life: u32,
        wish: Verdict,
        ballots: &BTreeMap<ShortId, Vote>,
        sets: (&[ShortId], &[ShortId]),
        (peers, now): (&impl Peers, Instant),
    ) {
        let Some(attempt) = self
            .attempts
            .get(&ward)
            .cloned()
            .filter(|attempt| now < attempt.until)
        else {
            let round = ballots.values().map(|vote| vote.promised.round).max();
            let ballot = Ballot {
                round: round.unwrap_or(0).saturating_add(1),
                proposer: self.me,
            };
            let until = now + ATTEMPT.mul_f64(self.rng.random_range(0.7..1.3));
            if let Some(own) = self.own_vote(ward, life) {
                own.promised = ballot;
                self.attempts.insert(ward, Attempt::new(ballot, until));
                self.note_vote();
            }
            return;
        };
        let ballot = attempt.ballot;
        let promised = |peer: ShortId| {
            ballots
                .get(&peer)
                .is_some_and(|vote| vote.promised == ballot)
        };
        let proposed = ballots.get(&self.me).and_then(|vote| vote.accepted);
        if !promised(self.me)
            || proposed.is_some_and(|(held, _)| held == ballot)
            || !self.carries(sets, None, promised)
        {
            return;
        }
        let verdict = self.bound_to(ballot, ballots, sets).unwrap_or(wish);
        let votes = sets.0.contains(&self.me) || sets.1.contains(&self.me);
        if votes && !self.agrees(ward, &verdict, peers, now) {
            return;
        }
        if let Some(own) = self.own_vote(ward, life) {
            own.accepted = Some((ballot, verdict));
            self.note_vote();
        }
    }

    /// What a proposal must say: the verdict of the highest ballot that may have
    /// been decided. One that too few can have accepted binds nobody; that matters,
    /// for a guard that knows better never accepts it.
    fn bound_to(
        &self,
        ballot: Ballot,
        ballots: &BTreeMap<ShortId, Vote>,
        sets: (&[ShortId], &[ShortId]),
    ) -> Option<Verdict> {
        let promisers = ballots.values().filter(|vote| vote.promised == ballot);
        let mut proposals: Vec<(Ballot, Verdict)> =
            promisers.filter_map(|vote| vote.accepted).collect();
        proposals.sort_by_key(|(ballot, _)| std::cmp::Reverse(*ballot));
        let binding = proposals.into_iter().find(|(earlier, verdict)| {
            self.carries(sets, cause_of(verdict), |peer| {
                let vote = ballots.get(&peer).filter(|vote| vote.promised == ballot);
                // Who promised this ballot accepts no earlier one any more, nor do the dead.
                match vote {
                    None => !self.is_gone(peer),
                    Some(vote) => vote.accepted.is_some_and(|(held, _)| held >= *earlier),
                }
            })
        });
        binding.map(|(_, verdict)| verdict)
    }

    /// What an heir gets of a peer.
    fn bequest(&self, ward: ShortId, blocks: &[Block], gone: bool) -> Vec<Block> {
        let own = blocks.iter().filter(|block| gone || !block.held);
        let mut blocks: Vec<Block> = own.copied().collect();
        if gone {
            // What was given to it and not taken up.
            let gifts = self.table.values().flat_map(|entry| &entry.space.gifts);
            let gifts = gifts.chain(&self.mine.gifts).filter(|gift| gift.to == ward);
            blocks.extend(gifts.map(|gift| Block {
                start: gift.start,
                len: gift.len,
                epoch: gift.epoch,
                held: true,
            }));
        }
        let mut left = Vec::new();
        for block in blocks {
            let mut parts = vec![Span::of(&block)];
            let others = self.table.iter().filter(|(peer, _)| **peer != ward);
            let others = others.flat_map(|(_, entry)| &entry.space.blocks);
            let above = others
                .chain(&self.mine.blocks)
                .filter(|other| other.epoch > block.epoch);
            let gifts = self.table.values().flat_map(|entry| &entry.space.gifts);
            let gifts = gifts
                .chain(&self.mine.gifts)
                .filter(|gift| gift.epoch > block.epoch);
            above.for_each(|other| span::remove(&mut parts, Span::of(other)));
            gifts.for_each(|gift| span::remove(&mut parts, Span::new(gift.start, gift.len)));
            left.extend(parts.into_iter().map(|part| Block {
                start: part.start,
                len: part.len(),
                ..block
            }));
        }
        left
    }

    /// Takes what was decided to be ours.
    fn inherit(&mut self, ward: ShortId) {
        let Some(entry) = self.table.get(&ward) else {
            return;
        };
        if let Some(began) = entry.began.filter(|_| !entry.inherited) {
            let life = entry.space.life.saturating_sub(1);
            let blocks = self.bequest(ward, &entry.space.blocks, began.gone);
            self.take(ward, life, began, blocks);
        }
    }

    fn take(&mut self, ward: ShortId, life: u32, began: Began, mut blocks: Vec<Block>) {
        blocks.sort_by_key(|block| std::cmp::Reverse(block.len));
        for block in &blocks {
            if self.mine.blocks.len() + 2 <= wire::BLOCKS {
                self.gain(Span::of(block), block.epoch.saturating_add(1));
            }
        }
        self.adopt_gifts(ward);
        if self.mine.taken.len() >= wire::TAKEN {
            self.mine.taken.remove(0);
        }
        self.mine.taken.push(Taken {
            peer: ward,
            life,
            serial: began.serial,
            gone: began.gone,
        });
        if let Some(entry) = self.table.get_mut(&ward)
            && entry.space.life == life + 1
        {
            entry.strip(began.gone);
        }
        self.changed = true;
        let count: u32 = blocks.iter().map(|block| block.len).sum();
        self.warn(format!(
            "took over {count} addresses of peer {ward:?}, by vote"
        ));
    }

    /// What a peer gave before its end may not have been heard of by those it was
    /// given to: we give it in its place.
    fn adopt_gifts(&mut self, ward: ShortId) {
        let gifts = self.table.get(&ward).map(|entry| entry.space.gifts.clone());
        for gift in gifts.unwrap_or_default() {
            let span = Span::new(gift.start, gift.len);
            let ours = self
                .mine
                .blocks
                .iter()
                .any(|block| block.epoch >= gift.epoch && Span::of(block).meet(span).is_some());
            let known = self.mine.gifts.iter().any(|own| own.start == gift.start);
            let taken_up = ours || known || self.is_owned_above(span, gift.epoch, self.me);
            if gift.to != self.me && !taken_up && self.mine.gifts.len() < wire::GIFTS {
                let since = self.mine.serial + 1;
                self.mine.gifts.push(Gift { since, ..gift });
            }
        }
    }

    /// Says which records of our wards we keep in mind. A guard that accepted a
    /// takeover keeps nothing later in mind in that life.
    pub(super) fn keep_in_mind(&mut self, peers: &impl Peers) {
        let ack = |ward: &ShortId| {
            let entry = self.table.get(ward)?;
            let (life, serial) = (entry.space.life, entry.space.serial);
            let fence = self
                .guard
                .votes
                .iter()
                .find_map(|vote| match vote.accepted {
                    Some((_, Verdict::Inherits { serial, .. }))
                        if (vote.ward, vote.life) == (*ward, life) =>
                    {
                        Some(serial)
                    }
                    _ => None,
                });
            Some(wire::Ack {
                ward: *ward,
                instance: peers.instance(*ward).unwrap_or(0),
                life,
                serial: serial.min(fence.unwrap_or(u64::MAX)),
                began: entry.began,
            })
        };
        let acks: Vec<wire::Ack> = self
            .wards
            .iter()
            .filter_map(ack)
            .take(wire::WARDS)
            .collect();
        if acks != self.guard.acks {
            self.guard.acks = acks;
            (self.dirty.guard, self.dirty.saved) = (true, true);
        }
    }
}
