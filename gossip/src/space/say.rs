//! What is to be published of our own part in the space.

use proto::{
    record::{Body, MAX_BODY},
    space::{self as wire, Guard},
};

use super::Space;

impl Space {
    /// Our own record, if it is to be published anew.
    pub fn take_space(&mut self) -> Option<wire::Space> {
        if !(self.recovered && std::mem::take(&mut self.dirty.space)) {
            return None;
        }
        let mut space = self.own_space()?;
        // What is largest and least needed gives way.
        while encoded_len(&space) > MAX_BODY && space.claims.pop().is_some() {}
        while encoded_len(&space) > MAX_BODY && !space.taken.is_empty() {
            space.taken.remove(0);
        }
        Some(space)
    }

    fn own_space(&self) -> Option<wire::Space> {
        let mine = &self.mine;
        Some(wire::Space {
            ring: self.ring?,
            life: mine.life,
            serial: mine.serial,
            guards: mine.guards.clone(),
            former: mine.former.clone(),
            blocks: mine.blocks.clone(),
            gifts: mine.gifts.clone(),
            taken: mine.taken.clone(),
            lost: mine.lost.clone(),
            claims: self.claims().take(wire::CLAIMS).collect(),
            ask: self.ask.map(|(ask, _)| ask),
            range6: self.config.range6,
            leaving: self.leaving,
        })
    }

    /// Our knowledge and votes, if they are to be published anew.
    pub fn take_guard(&mut self) -> Option<Guard> {
        if !std::mem::take(&mut self.dirty.guard) {
            return None;
        }
        let mut guard = self.guard.clone();
        let too_long = |guard: &Guard| Body::Guard(guard.clone()).encode().len() > MAX_BODY;
        while too_long(&guard) && guard.acks.pop().is_some() {}
        Some(guard)
    }

    /// Our part in the first division, if it is to be published anew.
    pub fn take_division(&mut self) -> Option<wire::Division> {
        if !std::mem::take(&mut self.dirty.division) {
            return None;
        }
        let mut division = self.division.clone()?;
        division.roll = self.roll.iter().copied().take(wire::ROLL + 1).collect();
        division.census.clone_from(&self.census);
        Some(division)
    }

    /// All that was said is to be published again.
    pub fn publish_again(&mut self) {
        self.dirty.space |= self.mine.serial > 0;
        self.dirty.guard |= self.guard != Guard::default();
        self.dirty.division |= self.division.is_some();
    }
}

fn encoded_len(space: &wire::Space) -> usize {
    Body::Space(space.clone()).encode().len()
}
