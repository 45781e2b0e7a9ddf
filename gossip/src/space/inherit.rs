//! What follows from a vote: a life of an owner ends, an heir takes over, and who
//! was taken for dead learns what is left to it.

use proto::{
    ShortId,
    space::{self as wire, Began, Block, Gift, Lost, Taken, Verdict},
};

use super::{
    Entry, Estate, Mine, Space,
    give::GIFT_STEP,
    span::{self, Span},
    vote::takeover_of,
};

/// How many blocks are remembered that heirs may take: those of four lives at least.
const CEDED: usize = 4 * (wire::BLOCKS + wire::GIFTS);

impl Entry {
    /// What the owner can lose.
    pub(super) fn spare(&self) -> impl Iterator<Item = &Block> {
        self.space.blocks.iter().filter(|block| !block.held)
    }

    /// A verdict was carried out: another life begins.
    pub(super) fn bury(&mut self, began: Option<Began>, life: u32) {
        if let Some(began) = began.filter(|began| !began.gone) {
            // The owner takes back what those who decided did not know of.
            let gifts = &mut self.space.gifts;
            gifts.retain(|gift| gift.since <= began.serial);
        }
        self.space.life = life;
        self.inherited = began.is_none();
        self.began = began;
    }

    /// The heir told of it.
    pub(super) fn strip(&mut self, gone: bool) {
        self.inherited = true;
        self.space.blocks.retain(|block| block.held && !gone);
        self.space.ask = None;
        if gone {
            self.space.gifts.clear();
        }
    }
}

impl Mine {
    /// Remembers what an heir may take. What is forgotten stays the heir's, or is brought
    /// back by a census.
    fn cede(&mut self, heir: ShortId, life: u32, blocks: impl IntoIterator<Item = Block>) {
        let blocks = blocks.into_iter().map(|block| (heir, life, block));
        self.ceded.extend(blocks);
        let surplus = self.ceded.len().saturating_sub(CEDED);
        self.ceded.drain(..surplus);
    }
}

impl Space {
    /// Keeps track of whom we guard.
    pub(super) fn note_ward(&mut self, ward: ShortId) {
        let ours = self
            .table
            .get(&ward)
            .is_some_and(|entry| entry.space.is_guard(self.me));
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

    /// Heirs told of takeovers of a peer before we heard of it in that life.
    pub(super) fn recall_takeovers_of(&mut self, peer: ShortId) {
        let others = self.entries(&self.concern.heirs);
        let others = others.map(|(heir, entry)| (heir, &entry.space.taken));
        let all = others.chain([(self.me, &self.mine.taken)]);
        let mut told: Vec<(ShortId, Taken)> = all
            .flat_map(|(heir, taken)| taken.iter().map(move |taken| (heir, taken)))
            .filter(|(_, taken)| taken.peer == peer)
            .map(|(heir, taken)| (heir, taken.clone()))
            .collect();
        told.sort_by_key(|(_, taken)| taken.life);
        for (heir, taken) in told {
            self.hear_of_takeover(heir, &taken);
        }
    }

    /// Others tell that we lost something, or that a vote about us is over.
    pub(super) fn learn_of_losses(&mut self) {
        if !std::mem::take(&mut self.life_told) {
            return;
        }
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
    pub(super) fn live_on(&mut self, life: u32, began: Option<Began>) {
        self.mine.life = life;
        self.changed = true;
        self.stale = true;
        self.behind = false;
        self.attempts.remove(&self.me);
        let Some(began) = began else {
            return;
        };
        if self.mine.lost.len() >= wire::LOST {
            self.mine.lost.remove(0);
        }
        let ended = life.saturating_sub(1);
        self.mine.lost.push(Lost { life: ended, began });
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
            let lost = self.lose(span);
            self.mine.cede(began.heir, ended, lost);
        }
        self.take_back_gifts(ended, began);
        self.warn(format!(
            "peer {:?} took over {count} addresses of this peer's space, by vote: this peer {}; it asks for space when it needs some",
            began.heir,
            if began.gone { "was said to be gone" } else { "could not be reached for long, or was forced to give way" }
        ));
        self.tried.clear();
    }

    /// Takes back what an heir tells that it did not take.
    pub(super) fn reclaim(&mut self) {
        let me = self.me;
        let before = self.mine.lost.len();
        let lost = std::mem::take(&mut self.mine.lost);
        let untold = lost.into_iter().filter(|lost| {
            let heir = self.table.get(&lost.began.heir);
            let mut taken = heir.iter().flat_map(|entry| &entry.space.taken);
            let told = taken.any(|taken| taken.peer == me && taken.life >= lost.life);
            !told && !self.is_gone(lost.began.heir)
        });
        self.mine.lost = untold.collect();
        self.changed |= self.mine.lost.len() != before;
        for (heir, life, block) in std::mem::take(&mut self.mine.ceded) {
            let mut parts = vec![Span::of(&block)];
            let taken = self.table.get(&heir).map(|entry| &entry.space.taken);
            let mut taken = taken.into_iter().flatten();
            // Who is gone before it told of it may have taken it, and given it away: to
            // whom, others know, and bring back by a census what none of them has.
            let Some(taken) = taken.find(|taken| (taken.peer, taken.life) == (me, life)) else {
                self.mine.ceded.push((heir, life, block));
                continue;
            };
            for (start, len) in &taken.runs {
                span::remove(&mut parts, Span::new(*start, *len));
            }
            let spare = parts.into_iter().map(|part| Block {
                start: part.start,
                len: part.len(),
                held: false,
                ..block
            });
            let spare: Vec<Block> = spare.collect();
            for part in self.bequest(self.me, &spare, false) {
                let back = Block {
                    epoch: part.epoch.saturating_add(GIFT_STEP).min(wire::EPOCH_MAX),
                    ..part
                };
                span::put(&mut self.mine.blocks, back);
                self.changed = true;
            }
            self.dirty.saved = true;
        }
    }

    /// Gifts that those who decided did not know of do not count. What was held is
    /// ours as before, and so is what became ours too late for them to know. The
    /// rest is the heir's, as long as there is one.
    fn take_back_gifts(&mut self, ended: u32, began: Began) {
        let gifts = std::mem::take(&mut self.mine.gifts);
        let (known, void): (Vec<Gift>, Vec<Gift>) = gifts
            .into_iter()
            .partition(|gift| gift.since <= began.serial);
        self.mine.gifts = known;
        for gift in void {
            let block = Block {
                start: gift.start,
                len: gift.len,
                epoch: gift.epoch.saturating_sub(GIFT_STEP),
                held: false,
            };
            let part = |span: Span| Block {
                start: span.start,
                len: span.len(),
                ..block
            };
            let mut lost = vec![Span::of(&block)];
            let was_held = self.mine.from_held.iter();
            let was_held = was_held.filter(|(since, _)| *since == gift.since && !began.gone);
            for (_, held) in was_held {
                if let Some(kept) = held.meet(Span::of(&block)) {
                    let held = Block {
                        held: true,
                        ..part(kept)
                    };
                    span::put(&mut self.mine.blocks, held);
                    span::insert(&mut self.mine.usable, kept);
                    self.mine.effective = Some(self.mine.serial + 1);
                    span::remove(&mut lost, kept);
                }
            }
            for (_, gained) in self.mine.gains.iter().filter(|(at, _)| *at > began.serial) {
                for kept in lost.clone().iter().filter_map(|span| gained.meet(*span)) {
                    span::put(&mut self.mine.blocks, part(kept));
                    span::remove(&mut lost, kept);
                }
            }
            self.mine
                .cede(began.heir, ended, lost.into_iter().map(part));
        }
    }

    /// Other guards of a ward are a life ahead.
    pub(super) fn learn_from_guards(&mut self) {
        let mut ahead = Vec::new();
        for ward in &self.wards {
            let Some(entry) = self.table.get(ward) else {
                continue;
            };
            let guards = entry.space.guards.iter().chain(&entry.space.former);
            let guards = guards.filter(|peer| self.concern.reborn.contains(*peer));
            let acks = guards.filter_map(|peer| self.heard.get(peer));
            let acks = acks.flat_map(|guard| &guard.acks);
            let latest = acks
                .filter(|ack| ack.ward == *ward && ack.life > entry.space.life)
                .max_by_key(|ack| ack.life);
            ahead.extend(latest.copied());
        }
        for ack in ahead {
            // A guard may have heard of a life without hearing how it began, and of this
            // one not how it ended: the ward itself still tells.
            let estate = self.estate_of(ack.ward, ack.life);
            if let Some(entry) = self.table.get_mut(&ack.ward)
                && !(ack.began.is_some() && entry.space.life + 1 == ack.life)
            {
                entry.estate = estate;
                entry.bids.clear();
                self.note_entry(ack.ward);
            }
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

    /// What we may be the heir of once a peer is known to be in another life.
    pub(super) fn estate_of(&self, ward: ShortId, life: u32) -> Option<Estate> {
        let entry = self.table.get(&ward)?;
        let before = entry.space.life;
        if before >= life || !self.may_inherit(ward, before) {
            return entry.estate.clone();
        }
        Some(Estate {
            life: before,
            guards: entry.space.guards.clone(),
            former: entry.space.former.clone(),
            blocks: entry.space.blocks.clone(),
            bids: entry.bids.clone(),
        })
    }

    /// A peer came back before we knew that we were its heir.
    pub(super) fn claim_estates(&mut self) {
        let estates = self.entries(&self.concern.estates);
        let estates = estates.filter_map(|(ward, entry)| {
            let estate = entry.estate.as_ref()?;
            let done = |taken: &Taken| (taken.peer, taken.life) == (ward, estate.life);
            if self.mine.taken.iter().any(done) {
                return None;
            }
            let acks = self.heard.values().flat_map(|guard| &guard.acks);
            let mut of = acks.filter(|ack| ack.ward == ward && ack.life == estate.life + 1);
            // Its former owner says it, or a guard.
            let lost = entry.space.lost.iter();
            let mut lost = lost.filter(|lost| lost.life == estate.life);
            let told = lost.next().map(|lost| lost.began);
            let told = told.or_else(|| of.find_map(|ack| ack.began));
            // Perhaps nobody else decided: the votes say it.
            let began = told.or_else(|| {
                let ballots = self.ballots(ward, estate.life);
                let verdict = self.verdict(&ballots, &estate.guards, &estate.former);
                verdict.and_then(takeover_of)
            })?;
            Some((ward, estate.life, began))
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
                let had = as_of(began.serial, &estate.bids, &estate.blocks);
                let blocks = self.inheritance(ward, had, began);
                self.take(ward, life, began, blocks);
            }
        }
    }

    /// A peer reminds us of a takeover, and we know nothing of it: we were launched with
    /// a state from before. So nobody has anything of it, and we say that we took nothing.
    pub(super) fn renounce(&mut self) {
        // Where there is no room, older ones may have been forgotten.
        let room = wire::TAKEN.saturating_sub(self.mine.taken.len());
        if !self.recovered || room == 0 {
            return;
        }
        let reminders = self.entries(&self.concern.owners);
        let reminders = reminders.flat_map(|(ward, entry)| {
            let lost = entry.space.lost.iter();
            let lost = lost.filter(|lost| lost.began.heir == self.me && entry.estate.is_none());
            lost.map(move |lost| (ward, *lost))
        });
        let unknown = reminders.filter(|(ward, lost)| {
            let taken = self.mine.taken.iter();
            let mut of = taken.filter(|taken| taken.peer == *ward);
            !of.any(|taken| taken.life >= lost.life) && !self.may_inherit(*ward, lost.life)
        });
        let nothing: Vec<Taken> = unknown
            .take(room)
            .map(|(ward, lost)| Taken {
                peer: ward,
                life: lost.life,
                serial: lost.began.serial,
                gone: lost.began.gone,
                runs: Vec::new(),
            })
            .collect();
        self.changed |= !nothing.is_empty();
        self.mine.taken.extend(nothing);
    }

    pub(super) fn bury(&mut self, ward: ShortId, life: u32, began: Option<Began>) {
        if let Some(entry) = self.table.get_mut(&ward) {
            entry.bury(began, life);
            (self.dirty.saved, self.stale) = (true, true);
        }
        self.attempts.remove(&ward);
        if began.is_some_and(|began| began.heir == self.me) {
            self.inherit(ward);
        }
    }

    /// Keeps what a peer has by the record that our proposal is about: it may say
    /// something else by the time that it is decided.
    pub(super) fn note_bid(&mut self, ward: ShortId, verdict: Verdict) {
        let Verdict::Inherits { serial, heir, .. } = verdict else {
            return;
        };
        let Some(entry) = self.table.get_mut(&ward).filter(|_| heir == self.me) else {
            return;
        };
        let known = entry.bids.iter().any(|(at, _)| *at == serial);
        if entry.space.serial == serial && !known {
            entry.bids.push((serial, entry.space.blocks.clone()));
            self.dirty.saved = true;
        }
    }

    /// What an heir gets of a peer.
    pub(super) fn bequest(&self, ward: ShortId, blocks: &[Block], gone: bool) -> Vec<Block> {
        let serial = u64::MAX;
        let began = Began {
            serial,
            heir: self.me,
            gone,
        };
        self.inheritance(ward, blocks, began)
    }

    /// The same by a verdict: a living peer's gifts do not count that it does not know.
    fn inheritance(&self, ward: ShortId, blocks: &[Block], began: Began) -> Vec<Block> {
        let gone = began.gone;
        let own = blocks.iter().filter(|block| gone || !block.held);
        let mut blocks: Vec<Block> = own.copied().collect();
        if gone {
            // What was given to it and not taken up.
            let gifts = self.table.values().flat_map(|entry| &entry.space.gifts);
            let gifts = gifts.chain(&self.mine.gifts).filter(|gift| gift.to == ward);
            // Of what all agreed on, the living may still tell that it is on its way.
            let counted = |gift: &&Gift| {
                let span = Span::new(gift.start, gift.len);
                self.is_counted_above(span, gift.epoch)
            };
            let gifts = gifts.filter(|gift| !counted(gift));
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
            // The ward may have been given some of it back.
            let others = self.table.values().flat_map(|entry| &entry.space.blocks);
            let above = others
                .chain(&self.mine.blocks)
                .filter(|other| other.epoch > block.epoch);
            let counts =
                |from: ShortId, gift: &Gift| from != ward || gone || gift.since <= began.serial;
            let gifts = self.table.iter().flat_map(|(from, entry)| {
                let gifts = entry.space.gifts.iter();
                gifts.filter(move |gift| counts(*from, gift))
            });
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
            let had = as_of(began.serial, &entry.bids, &entry.space.blocks);
            let blocks = self.inheritance(ward, had, began);
            self.take(ward, life, began, blocks);
        }
    }

    fn take(&mut self, ward: ShortId, life: u32, began: Began, mut blocks: Vec<Block>) {
        blocks.sort_by_key(|block| std::cmp::Reverse(block.len));
        let mut runs = Vec::new();
        for block in &blocks {
            // None of ours could rank above what has the highest epoch.
            let has_room = runs.len() < wire::BLOCKS && self.mine.blocks.len() + 2 <= wire::BLOCKS;
            if has_room && block.epoch < wire::EPOCH_MAX {
                self.gain(Span::of(block), block.epoch + 1);
                runs.push((block.start, block.len));
            }
        }
        self.adopt_gifts(ward, began);
        if self.mine.taken.len() >= wire::TAKEN {
            let told = self.mine.taken.iter().position(|taken| self.is_told(taken));
            self.mine.taken.remove(told.unwrap_or(0));
        }
        self.mine.taken.push(Taken {
            peer: ward,
            life,
            serial: began.serial,
            gone: began.gone,
            runs,
        });
        if let Some(entry) = self.table.get_mut(&ward)
            && entry.space.life == life + 1
        {
            entry.strip(began.gone);
            entry.bids.clear();
        }
        self.changed = true;
        let count: u32 = blocks.iter().map(|block| block.len).sum();
        self.warn(format!(
            "took over {count} addresses of peer {ward:?}, by vote"
        ));
    }

    /// Whether nobody waits any more to hear of a takeover: its former owner is gone, or
    /// has spoken since and does not remind us.
    fn is_told(&self, taken: &Taken) -> bool {
        let entry = self.table.get(&taken.peer);
        let spoke = entry.is_some_and(|entry| {
            let reminds = entry.space.lost.iter().any(|lost| lost.life == taken.life);
            let later = (entry.space.life, entry.space.serial) > (taken.life + 1, taken.serial);
            later && !reminds
        });
        spoke || self.is_gone(taken.peer)
    }

    /// What a peer gave before its end may not have been heard of by those it was
    /// given to: we give it in its place.
    fn adopt_gifts(&mut self, ward: ShortId, began: Began) {
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
            let counts = began.gone || gift.since <= began.serial;
            if counts && gift.to != self.me && !taken_up && self.mine.gifts.len() < wire::GIFTS {
                let since = self.mine.serial + 1;
                self.mine.gifts.push(Gift { since, ..gift });
            }
        }
    }
}

/// The blocks by the record with this serial, if we kept it; else the latest.
fn as_of<'a>(serial: u64, bids: &'a [(u64, Vec<Block>)], latest: &'a [Block]) -> &'a [Block] {
    let kept = bids.iter().find(|(at, _)| *at == serial);
    kept.map_or(latest, |(_, blocks)| blocks)
}
