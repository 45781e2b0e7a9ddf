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
    space::{self as wire, Ballot, Began, Cause, Verdict, Vote},
};
use rand::Rng;

use super::{Peers, Space, divide::ATTEMPT};

/// A vote about a peer that lives is ended by it after so long.
const STALE: Duration = Duration::from_secs(5);

/// An attempt to decide: our own, or that of somebody else whom we let go first.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) ballot: Ballot,
    /// When another is begun, unless somebody outbids this one.
    pub(super) until: Instant,
}

impl Attempt {
    pub(super) fn new(ballot: Ballot, until: Instant) -> Self {
        Self { ballot, until }
    }
}

/// The takeover that a verdict is, if it is one.
pub(super) fn takeover_of(verdict: Verdict) -> Option<Began> {
    match verdict {
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
    }
}

fn cause_of(verdict: &Verdict) -> Option<Cause> {
    match verdict {
        Verdict::Lives => None,
        Verdict::Inherits { cause, .. } => Some(*cause),
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
            self.note_gone();
            (self.dirty.guard, self.dirty.saved) = (true, true);
        }
        self.ordered.insert(peer, force && peers.reaches(peer));
        self.stale = true;
    }

    /// What was said in the votes about one life of an owner.
    pub(super) fn ballots(&self, ward: ShortId, life: u32) -> BTreeMap<ShortId, Vote> {
        let own = self.guard.votes.iter().map(|vote| (self.me, vote));
        let others = self.concern.voting.iter().flat_map(|peer| {
            let votes = self.heard.get(peer).map(|guard| &guard.votes);
            votes.into_iter().flatten().map(|vote| (*peer, vote))
        });
        own.chain(others)
            .filter(|(_, vote)| vote.ward == ward && vote.life == life)
            .map(|(peer, vote)| (peer, *vote))
            .collect()
    }

    /// Takes part in all votes.
    pub(super) fn vote(&mut self, peers: &impl Peers, now: Instant) {
        self.learn_from_guards();
        self.claim_estates();
        self.renounce();
        let mut wards: Vec<ShortId> = self.wards.iter().copied().collect();
        if !self.mine.guards.is_empty() {
            wards.push(self.me);
        }
        if !self.gone.is_empty() && self.roll.len() <= wire::ROLL {
            // Where guards are gone, the others vote, too.
            let orphans = self.table.iter().filter(|(ward, entry)| {
                let sets = (&*entry.space.guards, &*entry.space.former);
                !self.wards.contains(ward) && !self.is_gone(**ward) && self.has_vote(sets)
            });
            wards.extend(orphans.map(|(ward, _)| *ward));
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
            .filter(|vote| lives(self, vote.ward) == Some(vote.life))
            .filter(|vote| !self.is_over(vote, peers));
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
                        peers.reaches(**peer)
                            || self.bequest(**peer, &entry.space.blocks, true).is_empty()
                    }
                })
            })
            .map(|(peer, _)| *peer)
            .collect();
        for peer in done {
            self.ordered.remove(&peer);
        }
        // Who is back is not gone.
        let before = (self.guard.gone.len(), self.farewells.len());
        let me = self.me;
        let is_gone = |peer: &ShortId| *peer == me || !peers.reaches(*peer);
        self.guard.gone.retain(is_gone);
        let heard = &self.heard;
        let says = |peer: &ShortId| heard.get(peer).is_some_and(|own| own.gone.contains(peer));
        self.farewells
            .retain(|peer| !peers.reaches(*peer) || says(peer));
        if (self.guard.gone.len(), self.farewells.len()) != before {
            self.note_gone();
            (self.dirty.guard, self.dirty.saved) = (true, true);
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
        if self.has_vote((&guards, &former)) {
            self.respond(ward, life, &ballots, peers, now);
        }
        let Some(wish) = self.wish(ward, &ballots, peers, now) else {
            self.attempts.remove(&ward);
            return;
        };
        let ballots = self.ballots(ward, life);
        self.attempt(ward, life, wish, &ballots, (&guards, &former), (peers, now));
    }

    /// Guards vote; everybody does where some of them are gone.
    fn has_vote(&self, sets: (&[ShortId], &[ShortId])) -> bool {
        let is_in = |peer: &ShortId| sets.0.contains(peer) || sets.1.contains(peer);
        let is_guard = is_in(&self.me);
        let some_gone = self.gone.iter().any(is_in);
        is_guard || (some_gone && self.roll.len() <= wire::ROLL)
    }

    /// In which life a peer is and who decides on it; none if no life could follow.
    fn voters(&self, ward: ShortId) -> Option<(u32, Vec<ShortId>, Vec<ShortId>)> {
        let (life, guards, former) = if ward == self.me {
            let mine = &self.mine;
            (mine.life, &mine.guards, &mine.former)
        } else {
            let space = &self.table.get(&ward)?.space;
            (space.life, &space.guards, &space.former)
        };
        (life < wire::EPOCH_MAX).then(|| (life, guards.clone(), former.clone()))
    }

    /// Whether those for whom `has` holds are enough in each set of guards.
    fn carries(
        &self,
        sets: (&[ShortId], &[ShortId]),
        cause: Option<Cause>,
        has: impl Fn(ShortId) -> bool,
    ) -> bool {
        // A majority of guards and ward together decides on silence: more than safety
        // needs, so that no minority does. For the rest a majority of the guards will
        // do: it shares one with any half of them. Who is gone cannot vote; if too few
        // are left, a census settles it.
        let needed = |set: &[ShortId]| match cause {
            Some(Cause::Silent) => set.len().div_ceil(2) + 1,
            Some(Cause::Gone | Cause::Forced) | None => set.len() / 2 + 1,
        };
        let of = |set: &[ShortId], needed: usize| {
            set.iter().filter(|peer| has(**peer)).count() >= needed
        };
        let (guards, former) = sets;
        // A single guard that is being replaced would never be enough for the first: its
        // word is asked for, and is all it can give.
        let most = of(guards, needed(guards))
            && (former.is_empty() || of(former, needed(former).min(former.len())));
        let may_all = !matches!(cause, Some(Cause::Silent | Cause::Gone));
        most || (may_all && self.lacks_majority(sets) && self.is_everyone(has))
    }

    /// Whether more of the guards are gone than a majority can do without. Then all who
    /// are left decide together: whoever knows of a decision, or gained by it, is one.
    fn lacks_majority(&self, sets: (&[ShortId], &[ShortId])) -> bool {
        let lacks = |set: &[ShortId]| {
            let alive = set.iter().filter(|peer| !self.is_gone(**peer)).count();
            !set.is_empty() && alive < set.len() / 2 + 1
        };
        lacks(sets.0) || lacks(sets.1)
    }

    fn is_everyone(&self, has: impl Fn(ShortId) -> bool) -> bool {
        let mut all = self.roll.iter().chain([&self.me]);
        self.roll.len() <= wire::ROLL && all.all(|peer| self.is_gone(*peer) || has(*peer))
    }

    /// What was decided, if anything.
    pub(super) fn verdict(
        &self,
        ballots: &BTreeMap<ShortId, Vote>,
        guards: &[ShortId],
        former: &[ShortId],
    ) -> Option<Verdict> {
        let own = ballots.get(&self.me);
        let promised = own.map(|vote| vote.promised).unwrap_or_default();
        ballots.values().find_map(|vote| {
            let (ballot, verdict) = vote.accepted?;
            let cause = cause_of(&verdict);
            let has = |peer: ShortId| {
                let other = ballots.get(&peer).and_then(|vote| vote.accepted);
                // The votes of the dead count only until we promised a later ballot: it may
                // have been carried by the promises of all who are left.
                let counts = ballot >= promised || !self.is_gone(peer);
                counts && other.is_some_and(|(other, _)| other == ballot)
            };
            self.carries((guards, former), cause, has)
                .then_some(verdict)
        })
    }

    fn conclude(&mut self, ward: ShortId, life: u32, verdict: Verdict) {
        let began = takeover_of(verdict);
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
        let new = Vote {
            ward,
            life,
            promised: highest,
            accepted: None,
        };
        if !ballots.contains_key(&self.me) && self.is_over(&new, peers) {
            return;
        }
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
        if ward == self.me {
            // What we said later matters only if it had an effect.
            let effective = self.mine.effective.unwrap_or(self.mine.serial);
            return *cause == Cause::Forced && effective <= *serial;
        }
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
        // What we accepted once may be decided: a later ballot must say the same, and would
        // be refused for ever by guards that see the peer again.
        let mut votes = self.guard.votes.iter();
        let accepted = votes.any(|vote| {
            let life = (vote.ward, vote.life) == (ward, entry.space.life);
            life && vote.accepted.is_some_and(|(_, held)| held == *verdict)
        });
        known <= *serial
            && match cause {
                _ if accepted => true,
                Cause::Silent => self.is_long_absent(ward, now) && self.sees_most(ward, peers),
                Cause::Gone => self.is_gone(ward) && !peers.reaches(ward),
                Cause::Forced => true,
            }
    }

    /// Whether we agreed in this life to a takeover from us, or proposed one. It may be
    /// decided, so until the vote is over we put nothing to use that it does not know of.
    pub(super) fn is_sentenced(&self) -> bool {
        let mut votes = self.guard.votes.iter();
        let own = votes.find(|vote| (vote.ward, vote.life) == (self.me, self.mine.life));
        let accepted = own.and_then(|vote| vote.accepted);
        matches!(accepted, Some((_, Verdict::Inherits { .. })))
    }

    /// Whether a guard accepted that a peer is gone and another takes all it had.
    pub(super) fn is_buried_by(&self, guard: ShortId, ward: ShortId, life: u32) -> bool {
        let said = self.heard.get(&guard);
        let mut votes = said.into_iter().flat_map(|said| &said.votes);
        votes.any(|vote| {
            let accepted = vote.accepted.and_then(|(_, verdict)| cause_of(&verdict));
            (vote.ward, vote.life) == (ward, life) && accepted == Some(Cause::Gone)
        })
    }

    /// Whether a guard said that it knows later words than a takeover: then it neither
    /// accepted that nor ever will.
    fn knows_better(&self, guard: ShortId, ward: ShortId, life: u32, verdict: &Verdict) -> bool {
        let Verdict::Inherits { serial, .. } = verdict else {
            return false;
        };
        let ack = self.ack_of(guard, ward);
        ack.is_some_and(|ack| ack.life == life && ack.serial > *serial)
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
            .filter(|(owner, entry)| !entry.space.blocks.is_empty() && !self.is_gone(**owner));
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
            let sets = (&*entry.space.guards, &*entry.space.former);
            // Else a census will settle it.
            (!left.is_empty() && !self.lacks_majority(sets)).then_some(Cause::Gone)
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
            let highest = ballots.values().map(|vote| vote.promised).max();
            let highest = highest.unwrap_or_default();
            let last = self.attempts.get(&ward).map(|last| last.ballot);
            let until = now + ATTEMPT.mul_f64(self.rng.random_range(0.7..1.3));
            if highest.proposer != self.me && last < Some(highest) && highest.round > 0 {
                // Whoever outbid us gets as long as we had: else nobody is ever done.
                self.attempts.insert(ward, Attempt::new(highest, until));
                return;
            }
            let ballot = Ballot {
                round: highest.round.saturating_add(1),
                proposer: self.me,
            };
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
        if ballot.proposer != self.me
            || !promised(self.me)
            || proposed.is_some_and(|(held, _)| held == ballot)
            || !self.carries(sets, None, promised)
        {
            return;
        }
        let verdict = self
            .bound_to(ballot, ward, life, ballots, sets)
            .unwrap_or(wish);
        // Where all who are left have to agree a proposal counts as its leader's word, and
        // that may come to be so later.
        let counts = self.has_vote(sets) || cause_of(&verdict) == Some(Cause::Forced);
        if counts && !self.agrees(ward, &verdict, peers, now) {
            return;
        }
        if let Some(own) = self.own_vote(ward, life) {
            own.accepted = Some((ballot, verdict));
            self.note_vote();
            self.note_bid(ward, verdict);
        }
    }

    /// What a proposal must say: the verdict of the highest ballot that may have
    /// been decided. One that too few can have accepted binds nobody; that matters,
    /// for a guard that knows better never accepts it, and says what it knows.
    fn bound_to(
        &self,
        ballot: Ballot,
        ward: ShortId,
        life: u32,
        ballots: &BTreeMap<ShortId, Vote>,
        sets: (&[ShortId], &[ShortId]),
    ) -> Option<Verdict> {
        // Then nobody who is left knows of a decision, nor will count votes of the dead.
        let all = |peer: ShortId| {
            ballots
                .get(&peer)
                .is_some_and(|vote| vote.promised == ballot)
        };
        let all_promised = self.is_everyone(all);
        let promisers = ballots.values().filter(|vote| vote.promised == ballot);
        let mut proposals: Vec<(Ballot, Verdict)> =
            promisers.filter_map(|vote| vote.accepted).collect();
        proposals.sort_by_key(|(ballot, _)| std::cmp::Reverse(*ballot));
        let binding = proposals.into_iter().find(|(earlier, verdict)| {
            self.carries(sets, cause_of(verdict), |peer| {
                let vote = ballots.get(&peer).filter(|vote| vote.promised == ballot);
                // Who promised this ballot accepts no earlier one any more. The dead may have
                // accepted anything but what they knew better.
                match vote {
                    None => !all_promised && !self.knows_better(peer, ward, life, verdict),
                    // Had it been decided, what was accepted later would say the same.
                    Some(vote) => vote
                        .accepted
                        .is_some_and(|(held, said)| held >= *earlier && said == *verdict),
                }
            })
        });
        binding.map(|(_, verdict)| verdict)
    }
}
