//! Which of all that was heard concerns us. Everybody hears of every change that
//! anybody makes, and looks at what follows from it: at what these sets name, mostly
//! little, and not at the words of all.
//!
//! A set may name more than it is for, never less: whoever uses it looks at the words.

use std::collections::BTreeSet;

use proto::{
    ShortId,
    space::{Block, Division, Gift, Guard},
};

use super::{Entry, Space};

/// In whose words there is what is looked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Concern {
    /// They give us something, ask us, or say that we took from them.
    pub(super) owners: BTreeSet<ShortId>,
    /// We may be the heir of what they had.
    pub(super) estates: BTreeSet<ShortId>,
    /// They tell of takeovers.
    pub(super) heirs: BTreeSet<ShortId>,
    /// They use addresses that they do not own.
    pub(super) claimants: BTreeSet<ShortId>,
    /// There are votes in their guard records.
    pub(super) voting: BTreeSet<ShortId>,
    /// They know peers in a later life than their first.
    pub(super) reborn: BTreeSet<ShortId>,
    /// They call on us as a guard, or propose a census.
    pub(super) callers: BTreeSet<ShortId>,
    /// They wait until we say that we keep their latest words in mind.
    pub(super) waiting: BTreeSet<ShortId>,
    /// What they own was not held against what is ours yet.
    pub(super) fresh: BTreeSet<ShortId>,
    /// What of ours was held against the words of all others.
    pub(super) blocks: Vec<Block>,
    pub(super) gifts: Vec<Gift>,
}

fn name(set: &mut BTreeSet<ShortId>, peer: ShortId, is_in: bool) {
    if is_in {
        set.insert(peer);
    } else {
        set.remove(&peer);
    }
}

impl Concern {
    pub(super) fn note_guard(&mut self, from: ShortId, said: &Guard) {
        name(&mut self.voting, from, !said.votes.is_empty());
        let is_later = said.acks.iter().any(|ack| ack.life > 0);
        name(&mut self.reborn, from, is_later);
    }

    pub(super) fn note_division(&mut self, me: ShortId, from: ShortId, said: &Division) {
        let call = said.call.as_ref();
        let calls = call.is_some_and(|call| call.guards.contains(&me));
        name(&mut self.callers, from, calls || said.census.is_some());
    }

    fn note_entry(&mut self, me: ShortId, owner: ShortId, entry: &Entry) {
        let said = &entry.space;
        let gives = said.gifts.iter().any(|gift| gift.to == me);
        let asks = said.ask.is_some_and(|ask| ask.donor == me);
        let reminds = said.lost.iter().any(|lost| lost.began.heir == me);
        name(&mut self.owners, owner, gives || asks || reminds);
        name(&mut self.estates, owner, entry.estate.is_some());
        name(&mut self.heirs, owner, !said.taken.is_empty());
        name(&mut self.claimants, owner, !said.claims.is_empty());
        self.fresh.insert(owner);
    }

    /// A peer is forgotten, but perhaps not what it owns.
    pub(super) fn forget(&mut self, peer: ShortId, owner: bool) {
        let said = [&mut self.voting, &mut self.reborn, &mut self.callers];
        said.into_iter().for_each(|set| name(set, peer, false));
        if owner {
            let owners = [
                &mut self.owners,
                &mut self.estates,
                &mut self.heirs,
                &mut self.claimants,
                &mut self.fresh,
                &mut self.waiting,
            ];
            owners.into_iter().for_each(|set| name(set, peer, false));
        }
    }
}

impl Space {
    /// There are other words of an owner than before.
    pub(super) fn note_entry(&mut self, owner: ShortId) {
        if let Some(entry) = self.table.get(&owner) {
            self.concern.note_entry(self.me, owner, entry);
        }
    }

    /// What is known of those that a set names.
    pub(super) fn entries(
        &self,
        of: &BTreeSet<ShortId>,
    ) -> impl Iterator<Item = (ShortId, &Entry)> {
        let known = of.iter();
        known.filter_map(|owner| Some((*owner, self.table.get(owner)?)))
    }
}

#[cfg(test)]
impl Space {
    /// Whether looking through everybody's words finds what the sets name, and no more of
    /// ours that others own.
    pub(super) fn misses_nothing(&self) -> bool {
        let (me, concern) = (self.me, &self.concern);
        let entries = self.table.iter().all(|(owner, entry)| {
            let mut all = Concern::default();
            all.note_entry(me, *owner, entry);
            all.owners.is_subset(&concern.owners)
                && all.estates.is_subset(&concern.estates)
                && all.heirs.is_subset(&concern.heirs)
                && all.claimants.is_subset(&concern.claimants)
        });
        let guards = self.heard.iter().all(|(guard, said)| {
            let mut all = Concern::default();
            all.note_guard(*guard, said);
            all.voting.is_subset(&concern.voting) && all.reborn.is_subset(&concern.reborn)
        });
        let divisions = self.divisions.iter().all(|(peer, said)| {
            let mut all = Concern::default();
            all.note_division(me, *peer, said);
            all.callers.is_subset(&concern.callers)
        });
        let others = self.table.iter().map(|(owner, entry)| (*owner, entry));
        let settled = others.filter(|(owner, _)| !concern.fresh.contains(owner));
        let kept = concern.blocks != self.mine.blocks || self.beaten_by(settled).is_empty();
        let said = self.heard.values().chain([&self.guard]);
        let said = said.flat_map(|guard| &guard.gone);
        let gone: BTreeSet<ShortId> = said.chain(&self.farewells).copied().collect();
        entries && guards && divisions && kept && gone == self.gone
    }
}
