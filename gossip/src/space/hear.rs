//! What others say of the address space, and what they bring back of our own.

use std::net::Ipv4Addr;

use proto::{
    ShortId,
    space::{self as wire, Guard},
};

use super::{Entry, Space};

/// Of more wards than this those that the mesh has forgotten are not kept in mind: a
/// member that comes by ever new names would fill memory and disk. A peer guards some
/// dozen, and what its dead wards had others know, too.
pub(super) const WARDS: usize = 1024;

impl Space {
    /// What a peer says of its space; `from` may be ourselves, when others bring
    /// us what we said before.
    pub fn hear_space(&mut self, from: ShortId, said: &wire::Space) {
        self.stale = true;
        if from == self.me {
            return self.hear_ourselves(said);
        }
        let range = (self.config.base.to_bits(), self.config.prefix);
        if (said.ring.base, said.ring.prefix) != range {
            if self.foreign.insert(from) {
                let theirs = Ipv4Addr::from_bits(said.ring.base);
                self.warn(format!(
                    "peer {from:?} allocates from {theirs}/{}: this peer's range is {}/{}; launch both with one --ipalloc-range",
                    said.ring.prefix, self.config.base, self.config.prefix
                ));
            }
            return;
        }
        if self.ring.is_none() {
            // How it was divided comes first: we may have a share of it.
            self.early.insert(from, said.clone());
            return;
        }
        if self.ring != Some(said.ring) {
            if self.foreign.insert(from) {
                self.warn(format!(
                    "peer {from:?} allocates from a space that was divided apart from this peer's: each goes on with its own, and addresses may clash; \
                     to merge, run `wove reset` on the peers of one side and launch them with --ipalloc-init observer"
                ));
            }
            return;
        }
        self.foreign.remove(&from);
        let known = self.table.get(&from).map(|entry| &entry.space);
        let known = known.map(|space| (space.life, space.serial));
        if known.is_none_or(|known| known < (said.life, said.serial)) {
            self.note_words(from, said);
        } else if known.is_some_and(|(life, _)| life > said.life) {
            // It does not know yet that another life began: whoever it takes for a guard
            // tells it, or everybody if none of those is left.
            if said.is_guard(self.me) {
                self.wards.insert(from);
            }
            let guards = said.guards.iter().chain(&said.former);
            self.misled.insert(from, guards.copied().collect());
        }
        for taken in &said.taken {
            self.life_told |= taken.peer == self.me;
            self.hear_of_takeover(from, taken);
        }
    }

    /// Later words of a peer than we know.
    fn note_words(&mut self, from: ShortId, said: &wire::Space) {
        let estate = self.estate_of(from, said.life);
        self.misled.remove(&from);
        let before = self.table.remove(&from);
        let before = before.filter(|entry| entry.space.life == said.life);
        let is_new_life = before.is_none();
        let known = before.as_ref();
        let holds_more = known.is_none_or(|before| before.holds_less_than(said));
        let (began, bids) = match before {
            Some(entry) => (entry.began, entry.bids),
            None => (None, Vec::new()),
        };
        let entry = Entry {
            space: said.clone(),
            began,
            inherited: true,
            estate,
            bids,
        };
        self.table.insert(from, entry);
        self.note_entry(from);
        self.note_ward(from);
        if holds_more && said.is_guard(self.me) {
            self.concern.waiting.insert(from);
        }
        if is_new_life {
            self.recall_takeovers_of(from);
        }
    }

    /// Our own words, brought back by others. They are newer than what we know
    /// if our state is that of a backup.
    fn hear_ourselves(&mut self, said: &wire::Space) {
        let later = (said.life, said.serial) > (self.mine.life, self.mine.serial);
        if self.recovered || !later || self.ring.is_some_and(|ring| ring != said.ring) {
            return;
        }
        let mine = &mut self.mine;
        self.ring = Some(said.ring);
        mine.founded = true;
        (mine.life, mine.serial) = (said.life, said.serial);
        mine.guards.clone_from(&said.guards);
        mine.former.clone_from(&said.former);
        mine.blocks.clone_from(&said.blocks);
        mine.gifts.clone_from(&said.gifts);
        mine.taken.clone_from(&said.taken);
        mine.lost.clone_from(&said.lost);
        mine.usable.clear();
        mine.effective = None;
        mine.pending.clear();
        self.behind = false;
        // The next launch is to know it even if nobody is left who does.
        self.dirty.saved = true;
    }

    /// What a peer says of others' space; our own votes, too, if they are later
    /// than what we know: a voter must not forget.
    pub fn hear_guard(&mut self, from: ShortId, said: &Guard) {
        self.stale = true;
        if from != self.me {
            let mut ours = said.acks.iter().filter(|ack| ack.ward == self.me);
            self.life_told |= ours.any(|ack| ack.life > self.mine.life);
            let before = self.heard.insert(from, said.clone());
            self.concern.note_guard(from, said);
            let farewell = said.gone.contains(&from);
            let mut before = before.iter().flat_map(|before| &before.gone);
            let taken_back = before.any(|peer| !said.gone.contains(peer))
                || (!farewell && self.farewells.contains(&from));
            self.note_farewell(from, farewell);
            self.gone.extend(&said.gone);
            if taken_back {
                self.note_gone();
            }
            return;
        }
        for vote in &said.votes {
            let votes = &mut self.guard.votes;
            match votes.iter().position(|own| own.ward == vote.ward) {
                Some(at) => {
                    let own = &mut votes[at];
                    if (own.life, own.promised) < (vote.life, vote.promised) {
                        *own = *vote;
                    }
                }
                None if votes.len() < wire::VOTES => votes.push(*vote),
                None => {}
            }
        }
        (self.dirty.guard, self.dirty.saved) = (true, true);
    }

    /// Whoever left is not there to say so again, and all who live are counted without it.
    fn note_farewell(&mut self, peer: ShortId, said: bool) {
        let changed = match said {
            true => self.roll.contains(&peer) && self.farewells.insert(peer),
            false => self.farewells.remove(&peer),
        };
        self.dirty.saved |= changed;
    }

    /// A peer's part in the first division.
    pub fn hear_division(&mut self, from: ShortId, said: &wire::Division) {
        let range = (self.config.base.to_bits(), self.config.prefix);
        if (said.base, said.prefix) != range {
            return;
        }
        self.stale = true;
        if from != self.me {
            self.divisions.insert(from, said.clone());
            self.concern.note_division(self.me, from, said);
        } else if self
            .division
            .as_ref()
            .is_none_or(|own| !own.decided && (said.decided || own.promised < said.promised))
        {
            self.division = Some(said.clone());
            self.dirty.saved = true;
        }
        if from == self.me {
            let own = self.own_division();
            own.begun = own.begun.max(said.begun);
            own.done = own.done.max(said.done);
        }
        if from == self.me && !self.recovered {
            self.recall_census(said.census.as_ref());
        }
    }

    /// A peer is forgotten by the mesh. Whom we guard we keep in mind.
    pub fn forget(&mut self, peer: ShortId) {
        let heard = self.heard.remove(&peer);
        if heard.is_some_and(|heard| !heard.gone.is_empty()) {
            self.note_gone();
        }
        self.early.remove(&peer);
        self.misled.remove(&peer);
        self.divisions.remove(&peer);
        self.foreign.remove(&peer);
        let is_kept = self.wards.contains(&peer) && self.wards.len() <= WARDS;
        if !is_kept {
            self.wards.remove(&peer);
            self.table.remove(&peer);
        }
        self.concern.forget(peer, !is_kept);
    }
}
