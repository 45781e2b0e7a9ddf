//! What a guard keeps in mind of its wards, and says so.

use std::collections::BTreeSet;

use proto::{
    ShortId,
    space::{self as wire, Ack, Verdict},
};

use super::{Peers, Space};

impl Space {
    /// Says which records of our wards we keep in mind. A guard that accepted a
    /// takeover keeps nothing later in mind in that life.
    pub(super) fn keep_in_mind(&mut self, peers: &impl Peers) {
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
                instance: peers.instance(*ward).unwrap_or(0),
                life,
                serial: serial.min(fence.unwrap_or(u64::MAX)),
                began: entry
                    .filter(|entry| entry.space.life == life)
                    .and_then(|entry| entry.began),
            })
        };
        let callers = self.concern.callers.iter().copied();
        let asked = callers.filter(|peer| called(*peer).is_some());
        let wards: BTreeSet<ShortId> = self.wards.iter().copied().chain(asked).collect();
        let acks: Vec<Ack> = wards.iter().filter_map(ack).take(wire::WARDS).collect();
        if acks != self.guard.acks {
            self.guard.acks = acks;
            (self.dirty.guard, self.dirty.saved) = (true, true);
        }
    }
}
