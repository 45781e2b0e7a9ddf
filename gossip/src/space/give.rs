//! Space that changes hands: asked for, given, taken up, and given back.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use proto::{
    ShortId,
    space::{self as wire, Ask, Block, Gift},
};
use rand::Rng;

use super::{
    Entry, Peers, Space,
    span::{self, Span},
};

/// A donor has so long to give.
const PATIENCE: Duration = Duration::from_secs(2);
/// So often everybody who can be reached is asked before a wish is refused. An
/// owner may not be heard of or not be reached yet, so for no less time than...
const ROUNDS: u32 = 2;
/// ...this if somebody was asked, and...
const ROUNDS_TIME: Duration = Duration::from_secs(4);
/// ...this in any case.
const HOPE: Duration = Duration::from_secs(10);
/// Owners of claimed addresses that would not give them are asked again after this.
const CLAIMS_REST: Duration = Duration::from_secs(300);
/// Not worth cutting smaller.
const CRUMB: u32 = 32;
/// A gift ranks above a takeover that did not know of it.
pub(super) const GIFT_STEP: u32 = 2;

/// Whether there is a higher epoch for it in other hands.
fn is_givable(block: &Block) -> bool {
    block.epoch <= wire::EPOCH_MAX - GIFT_STEP
}

impl Space {
    /// Whether somebody owns part of a run with at least this epoch, by its own word.
    pub(super) fn is_owned_above(&self, span: Span, epoch: u32, but: ShortId) -> bool {
        let above = |block: &Block| block.epoch >= epoch && Span::of(block).meet(span).is_some();
        let others = self.table.iter().filter(|(peer, _)| **peer != but);
        others.flat_map(|(_, entry)| &entry.space.blocks).any(above)
    }

    /// The same of a gift of ours: if nobody did before, only by what was heard since.
    fn is_now_owned(&self, gift: &Gift, fresh: &BTreeSet<ShortId>) -> bool {
        let span = Span::new(gift.start, gift.len);
        if !self.concern.gifts.contains(gift) {
            return self.is_owned_above(span, gift.epoch, self.me);
        }
        let blocks = self
            .entries(fresh)
            .flat_map(|(_, entry)| &entry.space.blocks);
        let mut above = blocks.filter(|block| block.epoch >= gift.epoch);
        above.any(|block| Span::of(block).meet(span).is_some())
    }

    /// Takes up what others gave us, and forgets gifts of ours that were taken up.
    pub(super) fn take_up_gifts(&mut self, fresh: &BTreeSet<ShortId>) {
        let offered = self.offered();
        let offered: Vec<(ShortId, Gift)> = offered.map(|(from, gift)| (from, *gift)).collect();
        let key = |from: ShortId, gift: &Gift| (from, gift.start, gift.epoch);
        let still: Vec<_> = offered
            .iter()
            .map(|(from, gift)| key(*from, gift))
            .collect();
        let before = self.mine.received.len();
        self.mine.received.retain(|gift| still.contains(gift));
        self.dirty.saved |= self.mine.received.len() != before;
        for (from, gift) in offered {
            if self.recovered && !self.mine.received.contains(&key(from, &gift)) {
                self.take_up(from, &gift);
            }
        }
        let gifts = std::mem::take(&mut self.mine.gifts);
        let count = gifts.len();
        let is_taken_up = |gift: &Gift| {
            let span = Span::new(gift.start, gift.len);
            // It may have come back by others.
            let ours = self.mine.blocks.iter();
            let mut ours = ours.filter(|block| block.epoch >= gift.epoch);
            // Who passed it on had it.
            let receiver = self.table.get(&gift.to);
            let onward = receiver.into_iter().flat_map(|entry| &entry.space.gifts);
            let mut onward = onward.filter(|onward| onward.epoch > gift.epoch);
            self.is_now_owned(gift, fresh)
                || onward.any(|onward| Span::new(onward.start, onward.len).meet(span).is_some())
                || ours.any(|block| Span::of(block).meet(span).is_some())
        };
        let waiting: Vec<Gift> = gifts
            .into_iter()
            .filter(|gift| !is_taken_up(gift) && !self.is_refused(gift))
            .collect();
        self.concern.gifts.clone_from(&waiting);
        self.mine.gifts = waiting;
        self.changed |= self.mine.gifts.len() != count;
        let mine = &mut self.mine;
        let told = |since: u64, span: Span| {
            let mut of = mine.gifts.iter().filter(|gift| gift.since == since);
            of.any(|gift| Span::new(gift.start, gift.len).meet(span).is_some())
        };
        mine.from_held.retain(|(since, span)| told(*since, *span));
    }

    fn take_up(&mut self, from: ShortId, gift: &Gift) {
        let Some(entry) = self.table.get(&from).filter(|_| !self.is_gone(from)) else {
            // Its heir gives it, or all who are left.
            return;
        };
        if self.settled_serial(from, &entry.space) < gift.since {
            return;
        }
        let span = Span::new(gift.start, gift.len);
        if self.is_counted_above(span, gift.epoch) {
            // All agreed that it is not ours.
            return;
        }
        let passed_on = self.mine.gifts.iter().any(|own| {
            own.epoch > gift.epoch && Span::new(own.start, own.len).meet(span).is_some()
        });
        let held = self
            .mine
            .blocks
            .iter()
            .any(|block| block.epoch >= gift.epoch && Span::of(block).meet(span).is_some());
        if !(passed_on || held || self.is_owned_above(span, gift.epoch, from))
            && self.mine.blocks.len() + 2 <= wire::BLOCKS
        {
            self.gain(span, gift.epoch);
            if self
                .ask
                .is_some_and(|(ask, _)| Span::new(ask.start, ask.len).meet(span).is_some())
            {
                self.ask = None;
            }
        } else if self.mine.blocks.len() + 2 > wire::BLOCKS {
            return;
        }
        self.mine.received.insert((from, gift.start, gift.epoch));
        self.dirty.saved = true;
    }

    /// Stops using what somebody else owns by a higher epoch.
    pub(super) fn yield_to_others(&mut self, fresh: &BTreeSet<ShortId>) {
        let lost = if self.concern.blocks == self.mine.blocks {
            self.beaten_by(self.entries(fresh))
        } else {
            self.beaten_by(self.table.iter().map(|(peer, entry)| (*peer, entry)))
        };
        for (peer, span) in lost {
            self.lose(span);
            self.warn_of_use(span, &format!("belong to peer {peer:?} now"));
        }
        self.concern.blocks.clone_from(&self.mine.blocks);
    }

    /// Addresses of a run that is not ours any more may be in use here.
    pub(super) fn warn_of_use(&mut self, span: Span, why: &str) {
        let in_use = self.used.range(span.start..span.end).count();
        if in_use > 0 {
            let (first, last) = (self.address(span.start), self.address(span.end - 1));
            self.warn(format!(
                "{in_use} addresses in use here between {first} and {last} {why}: they keep their traffic and are given to nobody else; \
                 attach those containers anew when it suits"
            ));
        }
    }

    /// What is ours no more, for others own it by a higher epoch.
    pub(super) fn beaten_by<'a>(
        &self,
        others: impl Iterator<Item = (ShortId, &'a Entry)>,
    ) -> Vec<(ShortId, Span)> {
        let mut lost = Vec::new();
        for (peer, entry) in others {
            for theirs in &entry.space.blocks {
                let ours = self.mine.blocks.iter();
                let beaten = ours.filter(|ours| (theirs.epoch, peer) > (ours.epoch, self.me));
                let parts = beaten.filter_map(|ours| Span::of(ours).meet(Span::of(theirs)));
                lost.extend(parts.map(|part| (peer, part)));
            }
        }
        lost
    }

    /// An address in use here that somebody else owns, in turn.
    pub(super) fn claim_to_ask_for(&mut self) -> Option<Span> {
        let claims: Vec<u32> = self.claims().collect();
        let owned = |at: &u32| {
            let entries = self.table.values().flat_map(|entry| &entry.space.blocks);
            entries.clone().any(|block| Span::of(block).contains(*at))
        };
        let known: Vec<u32> = claims.into_iter().filter(owned).collect();
        let at = known.get(self.rng.random_range(0..known.len().max(1)))?;
        Some(Span::new(*at, 1))
    }

    /// Sees to it that somebody is asked for space there, or that nobody is.
    pub(super) fn ask_for(&mut self, wanted: Option<Span>, peers: &impl Peers, now: Instant) {
        let Some(wanted) = wanted.filter(|_| self.recovered && !self.leaving) else {
            self.changed |= self.ask.take().is_some();
            self.begin_asking_anew();
            return;
        };
        if let Some((ask, until)) = self.ask {
            let same = Span::new(ask.start, ask.len) == wanted;
            if same && now < until && peers.reaches(ask.donor) {
                return;
            }
            if same {
                self.tried.insert(ask.donor);
            } else {
                // What was asked in vain for something else may be had here.
                self.begin_asking_anew();
            }
        }
        let before = self.ask.take().map(|(ask, _)| ask);
        match self.choose_donor(wanted, peers) {
            Some(donor) => {
                let ask = Ask {
                    donor,
                    start: wanted.start,
                    len: wanted.len(),
                };
                self.asking_since.get_or_insert(now);
                self.ask = Some((ask, now + PATIENCE));
                self.changed |= before != Some(ask);
            }
            None => {
                self.changed |= before.is_some();
                self.rounds += u32::from(!self.tried.is_empty());
                let since = *self.asking_since.get_or_insert(now);
                let asked = self.rounds >= ROUNDS && since + ROUNDS_TIME <= now;
                let enough = self.owns_all(wanted) || asked || since + HOPE <= now;
                if enough && !self.is_on_its_way(wanted) {
                    self.lose_hope(wanted);
                    self.rounds = 0;
                    self.asking_since = None;
                }
                self.tried.clear();
                if wanted.len() == 1 {
                    self.claims_at = Some(now + CLAIMS_REST);
                }
            }
        }
    }

    fn begin_asking_anew(&mut self) {
        self.tried.clear();
        self.rounds = 0;
        self.asking_since = None;
    }

    /// Whether nobody else can have anything there.
    fn owns_all(&self, wanted: Span) -> bool {
        let mut others = vec![wanted];
        for block in &self.mine.blocks {
            span::remove(&mut others, Span::of(block));
        }
        others.is_empty()
    }

    /// Whether somebody gave us something there that does not count yet.
    fn is_on_its_way(&self, wanted: Span) -> bool {
        let mut living = self.offered().filter(|(from, _)| !self.is_gone(*from));
        living.any(|(_, gift)| Span::new(gift.start, gift.len).meet(wanted).is_some())
    }

    /// Who has much is asked more often.
    fn choose_donor(&mut self, wanted: Span, peers: &impl Peers) -> Option<ShortId> {
        let worth = |block: &Block| {
            let part = Span::of(block).meet(wanted).map_or(0, |part| part.len());
            // What is held may be in use.
            u64::from(part) * if block.held { 1 } else { 8 }
        };
        let donors = self
            .table
            .iter()
            .filter(|(peer, _)| !self.tried.contains(peer) && peers.reaches(**peer));
        let donors: Vec<(ShortId, u64)> = donors
            .map(|(peer, entry)| (*peer, entry.space.blocks.iter().map(worth).sum()))
            .filter(|(_, worth)| *worth > 0)
            .collect();
        let total: u64 = donors.iter().map(|(_, worth)| worth).sum();
        let mut at = self.rng.random_range(0..total.max(1));
        donors
            .into_iter()
            .find(|(_, worth)| {
                let found = at < *worth;
                at = at.saturating_sub(*worth);
                found
            })
            .map(|(peer, _)| peer)
    }

    /// Gives to those who ask us.
    pub(super) fn answer_asks(&mut self, peers: &impl Peers) {
        if !self.recovered || self.leaving || self.is_sentenced() {
            return;
        }
        let me = self.me;
        let asks: Vec<(ShortId, Ask)> = self
            .entries(&self.concern.owners)
            .filter_map(|(peer, entry)| Some((peer, entry.space.ask?)))
            .filter(|(peer, ask)| ask.donor == me && peers.reaches(*peer))
            .collect();
        let share = (asks.len() + 1) as u32;
        for (peer, ask) in asks {
            let waiting = self.mine.gifts.iter().any(|gift| gift.to == peer);
            if waiting || self.mine.gifts.len() >= wire::GIFTS {
                continue;
            }
            let wanted = Span::new(ask.start, ask.len);
            if let Some(span) = self.choose_gift(wanted, share) {
                self.give(span, peer);
            }
        }
    }

    /// The upper part of the largest free run: spare before held.
    fn choose_gift(&self, wanted: Span, share: u32) -> Option<Span> {
        let mut blocks = self.mine.blocks.iter();
        if wanted.len() == 1 {
            let free = self.owns(wanted.start) && !self.used.contains(&wanted.start);
            let stuck =
                blocks.any(|block| !is_givable(block) && Span::of(block).contains(wanted.start));
            return (free && !stuck).then_some(wanted);
        }
        let mut usable = self.mine.usable.clone();
        blocks
            .filter(|block| !is_givable(block))
            .for_each(|stuck| span::remove(&mut usable, Span::of(stuck)));
        // The ends of a subnet are of no use to anybody.
        let inner = Span {
            start: wanted.start + 1,
            end: wanted.end - 1,
        };
        let spare = self.mine.blocks.iter();
        let spare = spare.filter(|block| !block.held && is_givable(block));
        let spare = spare.filter_map(|block| Span::of(block).meet(wanted));
        let useful = spare.filter(|run| run.meet(inner).is_some());
        let run = useful.max_by_key(Span::len).or_else(|| {
            let held = usable.iter().filter_map(|span| span.meet(inner));
            held.flat_map(|span| self.unused(span))
                .max_by_key(Span::len)
        })?;
        let fair = (self.range().len() / (2 * (self.table.len() as u32 + 1))).max(CRUMB);
        let len = run
            .len()
            .div_ceil(2)
            .min(fair)
            .max(run.len().min(CRUMB).div_ceil(share.min(2)));
        let start = run.end - len;
        // A start that suits prefixes, if that leaves most of it.
        let step = len.next_power_of_two() / 2;
        let aligned = start.next_multiple_of(step.max(1));
        let start = if run.end - aligned >= len / 2 && aligned < run.end {
            aligned
        } else {
            start
        };
        Some(Span {
            start,
            end: run.end,
        })
    }

    /// The runs of a span that nobody uses.
    fn unused(&self, span: Span) -> Vec<Span> {
        let mut free = vec![span];
        for at in self.used.range(span.start..span.end) {
            span::remove(&mut free, Span::new(*at, 1));
        }
        free
    }

    fn give(&mut self, span: Span, to: ShortId) {
        let parts: Vec<Span> = self
            .mine
            .blocks
            .iter()
            .filter(|block| is_givable(block))
            .filter_map(|block| Span::of(block).meet(span))
            .collect();
        let room = wire::GIFTS.saturating_sub(self.mine.gifts.len());
        // What there is no room to tell of is kept.
        let since = self.mine.serial + 1;
        let mut lost = Vec::new();
        for part in parts.into_iter().take(room) {
            let usable = self.mine.usable.iter().filter_map(|span| span.meet(part));
            let usable = usable.map(|span| (since, span));
            self.mine.from_held.extend(usable);
            lost.extend(self.lose(part));
        }
        for block in lost {
            self.mine.gifts.push(Gift {
                start: block.start,
                len: block.len,
                epoch: block.epoch + GIFT_STEP,
                to,
                since,
            });
        }
        self.mine.effective = Some(since);
        self.changed = true;
    }

    /// Begins to give everything back, because this peer leaves for good.
    pub fn leave(&mut self) {
        self.leaving = true;
        self.used.clear();
        self.changed = true;
        self.stale = true;
    }

    /// Whether all was given back, and that was said.
    pub fn has_left(&self) -> bool {
        self.has_given_all() && (self.ring.is_none() || self.guard.gone.contains(&self.me))
    }

    fn has_given_all(&self) -> bool {
        let awaited = self.offered().any(|(from, gift)| {
            let key = (from, gift.start, gift.epoch);
            !self.mine.received.contains(&key) && !self.is_gone(from)
        });
        self.mine.blocks.is_empty() && self.mine.gifts.is_empty() && !awaited
    }

    /// What others gave us.
    fn offered(&self) -> impl Iterator<Item = (ShortId, &Gift)> {
        let all = self.entries(&self.concern.owners);
        let all =
            all.flat_map(|(from, entry)| entry.space.gifts.iter().map(move |gift| (from, gift)));
        all.filter(|(_, gift)| gift.to == self.me)
    }

    /// Who has given everything back says that it is gone for good: nobody is to wait for
    /// it as a guard. Should something have been on its way to it all the same, it takes
    /// its word back until that is given back, too: nobody takes anything from the gone.
    pub(super) fn say_farewell(&mut self) {
        let (said, done) = (self.guard.gone.contains(&self.me), self.has_given_all());
        if !self.leaving || said == done {
            return;
        }
        if done {
            self.guard.gone.truncate(wire::GONE - 1);
            self.guard.gone.push(self.me);
        } else {
            let me = self.me;
            self.guard.gone.retain(|peer| *peer != me);
        }
        self.note_gone();
        (self.dirty.guard, self.dirty.saved) = (true, true);
    }

    /// Whether anybody could take what this peer gives back.
    pub fn has_heirs(&self, peers: &impl Peers) -> bool {
        self.ring.is_some() && !self.heirs(peers).is_empty()
    }

    /// Who can be reached and does not leave as well: two who leave would give to
    /// each other for ever.
    pub(super) fn heirs(&self, peers: &impl Peers) -> Vec<ShortId> {
        let leaves = |peer: &ShortId| {
            let entry = self.table.get(peer);
            entry.is_some_and(|entry| entry.space.leaving)
        };
        let mut heirs = peers.candidates();
        heirs.retain(|peer| !leaves(peer));
        heirs
    }

    pub(super) fn give_all_away(&mut self, peers: &impl Peers) {
        let may_give = self.leaving && self.recovered && !self.is_sentenced();
        if !may_give || self.mine.blocks.is_empty() {
            return;
        }
        self.let_go_of_stuck();
        let mut heirs = self.heirs(peers);
        heirs.sort_by_key(|peer| {
            let owns = self
                .table
                .get(peer)
                .is_some_and(|entry| !entry.space.blocks.is_empty());
            (!owns, super::settle::weight(self.me, *peer))
        });
        let Some(heir) = heirs.first().copied() else {
            return;
        };
        while self.mine.gifts.len() < wire::GIFTS
            && let Some(block) = self.mine.blocks.first().copied()
        {
            self.give(Span::of(&block), heir);
        }
    }

    /// What cannot be given is nobody's once its owner leaves, until a census.
    fn let_go_of_stuck(&mut self) {
        let stuck = self.mine.blocks.iter().filter(|block| !is_givable(block));
        let stuck: Vec<Span> = stuck.map(Span::of).collect();
        for span in stuck {
            self.lose(span);
        }
    }

    /// What others own in the middle of ours cuts it into pieces. Of more than a record has
    /// room for the least are nobody's, until a census.
    pub(super) fn fit_blocks(&mut self) {
        let mut count = 0;
        while self.mine.blocks.len() > wire::BLOCKS {
            let least = self
                .mine
                .blocks
                .iter()
                .min_by_key(|block| (block.held, block.len));
            let Some(least) = least.map(Span::of) else {
                break;
            };
            count += least.len();
            self.lose(least);
        }
        if count > 0 {
            self.warn(format!(
                "let go of {count} addresses: what others own in between cuts this peer's space into more pieces than it can tell of"
            ));
        }
    }

    /// Owners of something that cannot be reached.
    pub(super) fn owners_out_of_reach(&self, peers: &impl Peers) -> usize {
        let owners = self
            .table
            .iter()
            .filter(|(_, entry)| !entry.space.blocks.is_empty());
        owners.filter(|(peer, _)| !peers.reaches(**peer)).count()
    }
}
