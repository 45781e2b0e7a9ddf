//! Known peers that no route leads to, and since when.

use std::{collections::BTreeMap, time::Instant};

use proto::PeerId;
use rand::RngCore;

/// Who is cut off.
#[derive(Clone, Debug, Default)]
pub(crate) struct Absent {
    since: BTreeMap<PeerId, Instant>,
}

impl Absent {
    /// Marks a peer as cut off; keeps the earlier time if it is already.
    pub(crate) fn cut(&mut self, peer: PeerId, now: Instant) {
        self.since.entry(peer).or_insert(now);
    }

    /// Marks a peer as reachable, or forgets it.
    pub(crate) fn remove(&mut self, peer: &PeerId) {
        self.since.remove(peer);
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.since.len()
    }

    /// All of them, by id.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (PeerId, Instant)> {
        self.since.iter().map(|(peer, since)| (*peer, *since))
    }

    /// Who has been cut off for the longest time.
    pub(crate) fn oldest(&self) -> Option<PeerId> {
        let oldest = self.since.iter().min_by_key(|(_, since)| **since);
        oldest.map(|(peer, _)| *peer)
    }

    /// A random one, if it has been cut off since `before`: whoever is new may
    /// be on its way in. Ids are hashes, so the one after a random id is nearly
    /// uniform.
    pub(crate) fn sample(&self, before: Instant, rng: &mut impl RngCore) -> Option<PeerId> {
        let mut id = [0; 16];
        rng.fill_bytes(&mut id);
        let after = self.since.range(PeerId(id)..).next();
        let (peer, since) = after.or_else(|| self.since.first_key_value())?;
        (*since <= before).then_some(*peer)
    }
}
