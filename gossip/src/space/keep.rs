//! What a guard keeps in mind of its wards, and says so.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use proto::{
    ShortId,
    space::{self as wire, Ack, Verdict},
};

use super::{
    Entry, Peers, Space,
    settle::{LEAP, enough, weight},
    span::Span,
};

/// What nobody waits for is said after so long, unless something else is said before.
const TOGETHER: Duration = Duration::from_secs(2);

impl Space {
    /// Says which records of our wards we keep in mind. A guard that accepted a
    /// takeover keeps nothing later in mind in that life. What nobody waits for is said
    /// together with more, for all the mesh hears of it.
    pub(super) fn keep_in_mind(&mut self, peers: &impl Peers, now: Instant) {
        let called = |ward: ShortId| {
            let call = self.divisions.get(&ward)?.call.as_ref()?;
            let to_us = self.ring.is_some_and(|ring| ring.id == call.ring)
                && call.guards.contains(&self.me);
            to_us.then_some((call.life, 0))
        };
        let ack = |ward: &ShortId| {
            let entry = self.table.get(ward);
            let known = entry.map(|entry| (entry.space.life, entry.space.serial));
            // Nothing later than what it says itself.
            let (life, serial) = known.into_iter().chain(called(*ward)).max()?;
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
            Some(Ack {
                ward: *ward,
                instance: self.launch_of(*ward, peers),
                life,
                serial: serial.min(fence.unwrap_or(u64::MAX)),
                began: entry
                    .filter(|entry| entry.space.life == life)
                    .and_then(|entry| entry.began),
            })
        };
        let callers = self.concern.callers.iter().copied();
        let asked = callers.filter(|peer| called(*peer).is_some());
        let is_alone = |guards: &[ShortId]| guards.iter().all(|guard| self.is_gone(*guard));
        let misled = self.misled.iter().filter(|(_, guards)| is_alone(guards));
        let misled = misled.map(|(peer, _)| *peer);
        let wards = self.wards.iter().copied().chain(asked).chain(misled);
        let wards: BTreeSet<ShortId> = wards.collect();
        let mut acks: Vec<Ack> = wards.iter().filter_map(ack).collect();
        if acks.len() > wire::WARDS {
            // Whoever is there may wait for us. The rest by a rank that no owner has with
            // all its guards.
            let calls = |ward: ShortId| self.concern.callers.contains(&ward);
            let is_there = |ward: ShortId| peers.reaches(ward) || calls(ward);
            acks.sort_by_key(|ack| (!is_there(ack.ward), weight(ack.ward, self.me), ack.ward));
            acks.truncate(wire::WARDS);
            acks.sort_unstable_by_key(|ack| ack.ward);
        }
        let counted = self.told_counted();
        if (&acks, &counted) == (&self.guard.acks, &self.guard.counted) {
            self.acks_at = None;
            self.concern.waiting.clear();
            return;
        }
        let at = *self.acks_at.get_or_insert(now + TOGETHER);
        if self.dirty.guard || at <= now || acks.iter().any(|ack| self.is_awaited(ack, peers)) {
            // Together: whoever reads the answer reads what comes with it.
            (self.guard.acks, self.guard.counted) = (acks, counted);
            self.acks_at = None;
            self.concern.waiting.clear();
            (self.dirty.guard, self.dirty.saved) = (true, true);
        }
    }

    /// Which launch of a ward we answer; 0 for none. A new one is not answered while we may
    /// agree, or agree, that what it had is nobody's: the answer says what came of that.
    fn launch_of(&self, ward: ShortId, peers: &impl Peers) -> u32 {
        let mut acks = self.guard.acks.iter();
        let answered = acks
            .find(|said| said.ward == ward)
            .map(|said| said.instance);
        let may_answer = self.census.is_none() && peers.reaches(ward);
        let launch = peers.instance(ward);
        let launch = launch.filter(|launch| may_answer || answered == Some(*launch));
        launch.unwrap_or(0)
    }

    /// Whether somebody waits until we say this: for a gift, for more to be held, for
    /// a launch to be confirmed, or to hear that a life has ended.
    fn is_awaited(&self, ack: &Ack, peers: &impl Peers) -> bool {
        let mut said = self.guard.acks.iter();
        let said = said.find(|said| said.ward == ack.ward);
        let began = |ack: &Ack| (ack.instance, ack.life, ack.began);
        let begins = match said {
            Some(said) => {
                began(said) != began(ack) || said.serial.saturating_add(LEAP) <= ack.serial
            }
            None => ack.life > 0 || self.concern.callers.contains(&ack.ward),
        };
        let known = said.map_or(0, |said| said.serial);
        let settles = |space: &wire::Space| {
            let mut gifts = space.gifts.iter();
            let waits = self.concern.waiting.contains(&ack.ward)
                || gifts.any(|gift| known < gift.since && gift.since <= ack.serial);
            waits && self.is_prompt(ack.ward, space, peers)
        };
        let entry = self.table.get(&ack.ward);
        begins || entry.is_some_and(|entry| settles(&entry.space))
    }

    /// Whether we are one of those guards who answer at once: as many as must know, and
    /// one more.
    fn is_prompt(&self, ward: ShortId, space: &wire::Space, peers: &impl Peers) -> bool {
        let rank = |guard: ShortId| (weight(ward, guard), guard);
        let is_first = |set: &[ShortId]| {
            let before = set.iter().filter(|guard| rank(**guard) < rank(self.me));
            let before = before.filter(|guard| peers.reaches(**guard));
            set.contains(&self.me) && before.count() <= enough(set.len())
        };
        is_first(&space.guards) || is_first(&space.former)
    }
}

impl Entry {
    /// Whether the owner says now that it holds what was spare.
    pub(super) fn holds_less_than(&self, said: &wire::Space) -> bool {
        let mut held = said.blocks.iter().filter(|block| block.held);
        held.any(|held| {
            let mut spare = self.spare().map(Span::of);
            spare.any(|spare| spare.meet(Span::of(held)).is_some())
        })
    }
}
