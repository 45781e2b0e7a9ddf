//! What nobody owns any more, because all who knew of it are gone: a census of all
//! who are left, and the agreement of each of them, bring it back.
//!
//! A takeover by vote needs a majority of the owner's guards. Where an operator said
//! that more of them are gone, or nobody who is left ever heard what the owner had,
//! only the others can tell what is *not* lost: what they own. So one of them says
//! "nobody owns this"; each that is left looks at its own part, and agrees, and from
//! then on gets nothing of it in any way but from the one that asked. That one takes
//! it when everybody agrees: all whom any of them ever met and who are not gone. It
//! says so, or that it gave up: those who agreed keep in mind what was taken (`counted`).

use std::collections::BTreeSet;

use proto::{
    ShortId,
    space::{self as wire, Call, Census, Gift, Verdict, Vote},
};

use super::{
    Peers, Space,
    settle::weight,
    span::{self, Span},
};

/// Far above what anybody who is left may have missed.
const EPOCH_STEP: u32 = 64;

impl Space {
    /// Keeps in mind whom we ever met; of too many it matters only that they are.
    pub(super) fn meet(&mut self, peers: &impl Peers) {
        let before = self.roll.len();
        if before > wire::ROLL {
            return;
        }
        let mut all: BTreeSet<ShortId> = peers.candidates().into_iter().collect();
        let rolls = self.divisions.values().flat_map(|said| &said.roll);
        all.extend(rolls);
        if self.ring.is_some() {
            let gifts = self.table.values().flat_map(|entry| &entry.space.gifts);
            let division = self.division.as_ref().filter(|own| own.decided);
            let founding = division.and_then(|own| own.accepted.as_ref());
            let founders = founding.into_iter().flat_map(|(_, value)| &value.founders);
            let heard = self.table.keys().chain(self.heard.keys());
            all.extend(heard.chain(founders));
            all.extend(gifts.map(|gift| gift.to));
        }
        all.remove(&self.me);
        self.roll.extend(all);
        while self.roll.len() > wire::ROLL + 1 {
            self.roll.pop_last();
        }
        if self.roll.len() != before && self.ring.is_some() {
            self.own_division();
            self.note_division();
        }
    }

    /// Whether a peer is dead by an operator's word.
    pub(super) fn is_dead(&self, peer: ShortId, peers: &impl Peers) -> bool {
        self.is_gone(peer) && !peers.reaches(peer)
    }

    /// Whether a dead peer leaves nothing to anybody.
    pub(super) fn has_left_nothing(&self, peer: ShortId, peers: &impl Peers) -> bool {
        let entry = self.table.get(&peer);
        self.is_dead(peer, peers) && entry.is_none_or(|entry| entry.space.blocks.is_empty())
    }

    /// Whether nothing comes of our vote about somebody dead any more. Who leads it, or would
    /// be the heir, may know of more that is left: our vote stands while they go on with
    /// theirs, and while an heir is not there to say so. As the heir we would get nothing.
    pub(super) fn is_over(&self, vote: &Vote, peers: &impl Peers) -> bool {
        let heir_by = |vote: &Vote| match vote.accepted {
            Some((_, Verdict::Inherits { heir, .. })) => Some(heir),
            _ => None,
        };
        let said_by = |peer: ShortId| {
            let heard = self.heard.get(&peer).filter(|_| peers.reaches(peer));
            let mut votes = heard.into_iter().flat_map(|guard| &guard.votes);
            votes.find(|other| (other.ward, other.life) == (vote.ward, vote.life))
        };
        let is_led = said_by(vote.promised.proposer).is_some();
        self.has_left_nothing(vote.ward, peers)
            && match heir_by(vote) {
                None => !is_led,
                Some(heir) if heir == self.me => true,
                Some(heir) if peers.reaches(heir) => {
                    !is_led && said_by(heir).and_then(heir_by) != Some(heir)
                }
                Some(heir) => !is_led && self.is_gone(heir),
            }
    }

    /// Asks our guards what they know of us, until enough have answered.
    pub(super) fn call(&mut self) {
        let guards = self.mine.guards.iter().chain(&self.mine.former);
        let ring = self
            .ring
            .filter(|_| !self.recovered && !self.mine.guards.is_empty());
        let call = ring.map(|ring| Call {
            ring: ring.id,
            life: self.mine.life,
            guards: guards.copied().collect(),
        });
        let said = self.division.as_ref().and_then(|own| own.call.as_ref());
        if said != call.as_ref() {
            self.own_division().call = call;
            self.dirty.division = true;
        }
    }

    /// Brings back what was lost, if all who are left agree.
    pub(super) fn count(&mut self, peers: &impl Peers) {
        self.strip_the_dead(peers);
        let before = self.census.clone();
        match &before {
            Some(census) if census.proposer == self.me => self.conduct(peers),
            Some(census) => self.follow(census, peers),
            None => {
                self.agree(peers);
                if self.census.is_none() {
                    self.ask_all(peers);
                }
            }
        }
        if self.census != before {
            self.own_division();
            self.note_division();
        }
    }

    /// After a relaunch from older state our own words say what we agree with.
    pub(super) fn recall_census(&mut self, said: Option<&Census>) {
        let ours = self.census.as_ref();
        if ours.is_some_and(|ours| ours.proposer == self.me) && said != ours {
            self.census = None;
        } else if ours.is_none() {
            self.census = said.filter(|said| said.proposer != self.me).cloned();
        }
    }

    /// Whose turn it is to ask: one, if all see the same, and none that leaves.
    fn is_asker(&self, peer: ShortId, peers: &impl Peers) -> bool {
        let key = |peer: ShortId| (weight(peer, peer), peer);
        let me = Some(self.me).filter(|_| !self.leaving);
        let able = self.heirs(peers).into_iter().chain(me);
        able.min_by_key(|other| key(*other)) == Some(peer)
    }

    /// Whether everybody whom we ever met is there, or dead. Whoever was just launched is not
    /// there yet: it knows what it owns when its guards have answered.
    fn is_complete(&self, peers: &impl Peers) -> bool {
        let calls = |peer: &ShortId| {
            let said = self.divisions.get(peer);
            said.is_some_and(|said| said.call.is_some())
        };
        let mut all = self.roll.iter();
        self.recovered
            && self.roll.len() <= wire::ROLL
            && all.all(|peer| match peers.reaches(*peer) {
                true => !calls(peer),
                false => self.is_gone(*peer),
            })
    }

    /// What none of the living is known to own.
    fn unowned(&self, peers: &impl Peers) -> Vec<Span> {
        let mut left = vec![self.range()];
        let living = |peer: ShortId| !self.is_dead(peer, peers);
        let others = self.table.iter().filter(|(peer, _)| living(**peer));
        let others: Vec<_> = others.map(|(_, entry)| &entry.space).collect();
        let blocks = others.iter().flat_map(|space| &space.blocks);
        let gifts = others.iter().flat_map(|space| &space.gifts);
        for block in blocks.chain(&self.mine.blocks) {
            span::remove(&mut left, Span::of(block));
        }
        let gifts: Vec<&Gift> = gifts.chain(&self.mine.gifts).collect();
        let run = |gift: &Gift| Span::new(gift.start, gift.len);
        // What was passed on to the dead is not on its way to the living any more.
        let is_passed_on = |gift: &Gift| {
            let mut others = gifts.iter();
            others.any(|other| {
                let later = other.epoch > gift.epoch && !living(other.to);
                later && run(other).meet(run(gift)).is_some()
            })
        };
        for gift in &gifts {
            if living(gift.to) && !is_passed_on(gift) {
                span::remove(&mut left, run(gift));
            }
        }
        left
    }

    fn ask_all(&mut self, peers: &impl Peers) {
        if !self.is_complete(peers) || !self.is_asker(self.me, peers) {
            return;
        }
        // A census that was given up, for somebody came back, leaves things nobody's, too.
        let mut divisions = self.divisions.values().chain(&self.division);
        let mut roll = self.roll.iter();
        let may_lack = roll.any(|peer| self.is_dead(*peer, peers))
            || divisions.any(|division| division.begun > 0);
        if !may_lack {
            return;
        }
        let Some(ring) = self.ring else {
            return;
        };
        let mut runs = self.unowned(peers);
        runs.truncate(
            wire::CENSUS.min(wire::BLOCKS.saturating_sub(self.mine.blocks.len() + 2) / 2),
        );
        if runs.is_empty() {
            return;
        }
        let epoch = self.top_epoch(&runs) / EPOCH_STEP + 1;
        let epoch = epoch.saturating_mul(EPOCH_STEP).min(wire::EPOCH_MAX);
        let own = self.own_division();
        own.begun = own.begun.saturating_add(1);
        let id = own.begun;
        self.census = Some(Census {
            ring: ring.id,
            proposer: self.me,
            id,
            epoch,
            runs: runs.iter().map(|run| (run.start, run.len())).collect(),
        });
    }

    /// The highest epoch that we know of there.
    fn top_epoch(&self, runs: &[Span]) -> u32 {
        let meets = |span: Span| runs.iter().any(|run| run.meet(span).is_some());
        let spaces = || self.table.values().map(|entry| &entry.space);
        let blocks = spaces().flat_map(|space| &space.blocks);
        let ceded = self.mine.ceded.iter().map(|(.., block)| block);
        let gifts = spaces().flat_map(|space| &space.gifts);
        let blocks = blocks.chain(ceded).filter(|block| meets(Span::of(block)));
        let gifts = gifts.chain(&self.mine.gifts);
        let gifts = gifts.filter(|gift| meets(Span::new(gift.start, gift.len)));
        let counted = self.counted.iter().filter(|(run, _)| meets(*run));
        let epochs = blocks.map(|block| block.epoch);
        epochs
            .chain(gifts.map(|gift| gift.epoch))
            .chain(counted.map(|(_, epoch)| *epoch))
            .max()
            .unwrap_or(0)
    }

    /// Our own census: given up, waited for, or carried out.
    fn conduct(&mut self, peers: &impl Peers) {
        let Some(census) = self.census.clone() else {
            return;
        };
        let runs = runs_of(&census);
        let unowned = self.unowned(peers);
        let still = runs
            .iter()
            .all(|run| unowned.iter().any(|free| free.meet(*run) == Some(*run)));
        if !still || !self.is_complete(peers) || !self.is_asker(self.me, peers) {
            self.census = None;
            return;
        }
        let agrees = |peer: &ShortId| {
            let said = self.divisions.get(peer);
            said.is_some_and(|said| said.census.as_ref() == Some(&census))
        };
        let mut left = self.roll.iter().filter(|peer| !self.is_dead(**peer, peers));
        if !left.all(agrees) {
            return;
        }
        self.census = None;
        self.own_division().done = census.id;
        self.forget_claims_to(&runs, census.epoch, peers);
        for run in &runs {
            self.note_counted(*run, census.epoch);
            self.gain(*run, census.epoch);
        }
        let count: u32 = runs.iter().map(Span::len).sum();
        self.warn(format!(
            "took {count} addresses that nobody who is left owns, as all of them agreed"
        ));
    }

    /// What became of a census that we agreed with: its proposer says that, and if it is not
    /// there to say, the census may have been carried out.
    fn follow(&mut self, census: &Census, peers: &impl Peers) {
        let theirs = self.divisions.get(&census.proposer);
        let is_done = match theirs {
            _ if !peers.reaches(census.proposer) => true,
            // We heard nothing, or what was said before.
            None => return,
            Some(theirs) if theirs.begun < census.id => return,
            Some(theirs) if theirs.census.as_ref() == Some(census) => return,
            Some(theirs) => theirs.done == census.id,
        };
        self.census = None;
        if is_done {
            for run in runs_of(census) {
                self.note_counted(run, census.epoch);
            }
        }
    }

    /// Agrees with a census of another if nothing of it is ours.
    fn agree(&mut self, peers: &impl Peers) {
        let mut callers = self.concern.callers.iter();
        let asked = callers.find_map(|peer| {
            let said = self.divisions.get(peer)?;
            let census = said
                .census
                .as_ref()
                .filter(|census| census.proposer == *peer)?;
            let ours = self.ring.is_some_and(|ring| ring.id == census.ring);
            (ours && self.is_asker(*peer, peers) && peers.reaches(*peer)).then(|| census.clone())
        });
        let Some(census) = asked.filter(|_| self.is_complete(peers)) else {
            return;
        };
        let runs = runs_of(&census);
        let unowned = self.unowned(peers);
        if runs
            .iter()
            .all(|run| unowned.iter().any(|free| free.meet(*run) == Some(*run)))
        {
            self.forget_claims_to(&runs, census.epoch, peers);
            self.census = Some(census);
        }
    }

    /// From now on nothing of this becomes ours by anything that was said before.
    fn forget_claims_to(&mut self, runs: &[Span], epoch: u32, peers: &impl Peers) {
        let dead: Vec<ShortId> = self.table.keys().copied().collect();
        let dead: Vec<ShortId> = dead
            .into_iter()
            .filter(|peer| self.is_dead(*peer, peers))
            .collect();
        let outside = |start: u32, len: u32| {
            runs.iter()
                .all(|run| run.meet(Span::new(start, len)).is_none())
        };
        for run in runs {
            for (peer, entry) in &mut self.table {
                if dead.contains(peer) {
                    span::cut(&mut entry.space.blocks, *run);
                    entry
                        .space
                        .gifts
                        .retain(|gift| outside(gift.start, gift.len));
                }
                if let Some(estate) = &mut entry.estate {
                    span::cut(&mut estate.blocks, *run);
                    let bids = estate.bids.iter_mut();
                    bids.for_each(|(_, blocks)| drop(span::cut(blocks, *run)));
                }
                let bids = entry.bids.iter_mut();
                bids.for_each(|(_, blocks)| drop(span::cut(blocks, *run)));
            }
            self.withdraw_claims_to(*run, epoch);
        }
        self.dirty.saved = true;
    }

    /// The dead own nothing that others have.
    fn strip_the_dead(&mut self, peers: &impl Peers) {
        let gone = self.entries(&self.gone);
        let owners = gone.filter(|(_, entry)| !entry.space.blocks.is_empty());
        let done: Vec<ShortId> = owners
            .filter(|(peer, entry)| {
                self.is_dead(*peer, peers)
                    && self.bequest(*peer, &entry.space.blocks, true).is_empty()
            })
            .map(|(peer, _)| peer)
            .collect();
        for peer in done {
            if let Some(entry) = self.table.get_mut(&peer) {
                entry.strip(true);
                self.attempts.remove(&peer);
                self.dirty.saved = true;
            }
        }
    }
}

pub(super) fn runs_of(census: &Census) -> Vec<Span> {
    let runs = census.runs.iter();
    runs.map(|(start, len)| Span::new(*start, *len)).collect()
}
