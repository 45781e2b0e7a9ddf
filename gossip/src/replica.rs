//! The signed records of everybody, as far as this peer has heard.
//!
//! Invariant: the state is the set of highest-ranked authentic records offered
//! so far, one per key, whatever their order (as long as no limit is hit). Rank
//! is (version, body, signature), so merging is commutative, associative and
//! idempotent. Nothing here sends, and nothing here knows time.
//!
//! Every owner has a [`Slot`], by which routes refer to it, so that the state of
//! a peer among ten thousand stays below a megabyte beside the records.

use std::{mem, sync::Arc};

use hashbrown::HashTable;
use proto::{
    PeerId, PublicKeys, ShortId,
    record::{Body, LinkTo, Node, Record, RecordKey, RttCode, Topic},
};

use crate::{
    budget::{Allowance, Budget},
    hash::{position, scatter},
    limits::{self, Refusal},
    order::Order,
    sums::{Scope, Sum, Sums, bucket, bucket_range},
};

/// Names an owner for as long as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot(pub(crate) u32);

impl Slot {
    pub(crate) fn at(self) -> usize {
        self.0 as usize
    }
}

/// What became of an offered record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Merge {
    /// It is now in the replica.
    New {
        /// What it replaced.
        before: Option<Arc<Record>>,
        /// The replaced one has the same version: the owner's key is in two hands.
        conflict: bool,
    },
    /// We have it, or a higher-ranked one.
    Stale,
    /// The signature or the owner is false.
    Forged,
    /// The owner's node record is not known, so nobody can tell.
    Orphan,
    /// Authentic, but the owner has said too much of late.
    OverBudget,
    /// Not taken.
    Refused(Refusal),
}

/// The records, by owner.
#[derive(Clone, Debug)]
pub struct Replica {
    /// By slot; those in `free` are vacant.
    owners: Vec<Owner>,
    /// Theirs, by slot: to find an owner must not touch others' rows.
    ids: Vec<PeerId>,
    free: Vec<Slot>,
    /// Finds the slot of an id by its first half.
    index: HashTable<u32>,
    /// Nobody can choose ids that collide in the index without knowing it.
    salt: u64,
    order: Order,
    sums: Sums,
    count: usize,
    owner_limit: usize,
}

#[derive(Clone, Debug, Default)]
struct Owner {
    node: Option<Arc<Record>>,
    /// The first part, which is all of most peers.
    links: Option<Arc<Record>>,
    others: Option<Box<Others>>,
    budget: Budget,
    hidden: bool,
}

/// Further parts of links, stations, names, and what is said of the address space,
/// by topic, which stands beside them: to look one up must not touch all.
#[derive(Clone, Debug, Default)]
struct Others(Vec<(Topic, Arc<Record>)>);

impl Replica {
    /// An empty replica for at most `owner_limit` owners. `salt` is secret.
    pub fn new(owner_limit: usize, salt: u64) -> Self {
        Self {
            owners: Vec::new(),
            ids: Vec::new(),
            free: Vec::new(),
            index: HashTable::new(),
            salt,
            order: Order::new(),
            sums: Sums::new(),
            count: 0,
            owner_limit,
        }
    }

    /// Offers a record, whatever its owner's budget.
    pub fn merge(
        &mut self,
        record: &Arc<Record>,
        authentic: impl FnOnce(&Record, &PublicKeys) -> bool,
    ) -> Merge {
        self.offer(record, None, authentic)
    }

    /// Offers a record. `authentic` is asked last but for the allowance: it is
    /// costly, and only what the owner did sign may use up its budget.
    pub fn offer(
        &mut self,
        record: &Arc<Record>,
        allowance: Option<Allowance>,
        authentic: impl FnOnce(&Record, &PublicKeys) -> bool,
    ) -> Merge {
        let slot = self.slot(&record.key.owner);
        let held = slot.and_then(|slot| self.owners[slot.at()].get(record.key.topic));
        if held.is_some_and(|held| rank(held) >= rank(record)) {
            return Merge::Stale;
        }
        let conflict = held.is_some_and(|held| held.version == record.version);
        let body = match limits::checked_body(record) {
            Ok(body) => body,
            Err(refusal) => return Merge::Refused(refusal),
        };
        let keys = match body {
            Body::Node(node) => Some(&node.keys),
            _ => slot.and_then(|slot| self.node(slot)).map(|node| &node.keys),
        };
        let Some(keys) = keys else {
            return Merge::Orphan;
        };
        if slot.is_none() && self.owner_count() >= self.owner_limit {
            return Merge::Refused(Refusal::TooManyPeers);
        }
        if !authentic(record, keys) {
            return Merge::Forged;
        }
        if let (Some(slot), Some(allowance)) = (slot, allowance)
            && !self.owners[slot.at()].budget.spend(allowance)
        {
            return Merge::OverBudget;
        }
        let slot = slot.unwrap_or_else(|| self.add_owner(record.key.owner));
        let before = self.insert(slot, record);
        Merge::New { before, conflict }
    }

    /// The record with this key.
    pub fn get(&self, key: &RecordKey) -> Option<&Arc<Record>> {
        let owner = &self.owners[self.slot(&key.owner)?.at()];
        owner.get(key.topic)
    }

    /// How many records, hidden ones included.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many owners.
    pub fn owner_count(&self) -> usize {
        self.order.slots().len()
    }

    /// One more than the highest slot in use.
    pub(crate) fn slot_end(&self) -> usize {
        self.owners.len()
    }

    /// The slot of an owner.
    pub fn slot(&self, id: &PeerId) -> Option<Slot> {
        let found = self.index.find(self.scattered(&id.short_id()), |slot| {
            self.ids[*slot as usize] == *id
        });
        found.copied().map(Slot)
    }

    /// The slot of an owner whose id starts so; the first known, if several do.
    pub(crate) fn slot_of_short(&self, short: &ShortId) -> Option<Slot> {
        let found = self.index.find(self.scattered(short), |slot| {
            self.ids[*slot as usize].short_id() == *short
        });
        found.copied().map(Slot)
    }

    /// Who has a slot.
    pub fn id(&self, slot: Slot) -> PeerId {
        self.ids[slot.at()]
    }

    /// What an owner says about itself.
    pub fn node(&self, slot: Slot) -> Option<&Node> {
        match self.owners[slot.at()].node.as_ref()?.content()? {
            Body::Node(node) => Some(node),
            _ => None,
        }
    }

    /// The links an owner reports, confirmed or not.
    pub fn links(&self, slot: Slot) -> impl Iterator<Item = &LinkTo> {
        self.link_parts(slot).flatten()
    }

    /// What a link costs that both ends report.
    pub(crate) fn link(&self, from: Slot, to: Slot) -> Option<RttCode> {
        let there = self.reported(from, &self.ids[to.at()].short_id())?;
        let back = self.reported(to, &self.ids[from.at()].short_id())?;
        Some(there.max(back))
    }

    /// The peers with which an owner has a link that both report.
    pub(crate) fn neighbours(&self, slot: Slot) -> impl Iterator<Item = (Slot, RttCode)> {
        self.claimed(slot)
            .filter_map(move |(other, rtt)| Some((other, self.confirmed(slot, other, rtt)?)))
    }

    /// The peers with which an owner reports a link, whether they do or not.
    pub(crate) fn claimed(&self, slot: Slot) -> impl Iterator<Item = (Slot, RttCode)> {
        self.links(slot).filter_map(move |link| {
            let other = self.slot_of_short(&link.peer)?;
            (other != slot).then_some((other, link.rtt))
        })
    }

    /// The round-trip time of a link that `slot` claims to have, if the other end does, too:
    /// the longer of both.
    pub(crate) fn confirmed(&self, slot: Slot, other: Slot, rtt: RttCode) -> Option<RttCode> {
        let back = self.reported(other, &self.ids[slot.at()].short_id())?;
        Some(rtt.max(back))
    }

    /// All owners, by id.
    pub fn owners(&self) -> impl ExactSizeIterator<Item = Slot> {
        self.order.slots().iter().copied()
    }

    /// The owner at a place in the order of ids.
    pub(crate) fn owner_at(&self, place: usize) -> Option<Slot> {
        self.order.slots().get(place).copied()
    }

    /// An owner's records, by topic.
    pub fn records_of(&self, slot: Slot) -> impl Iterator<Item = &Arc<Record>> {
        self.owners[slot.at()].records()
    }

    /// The sum over all records in the scope that are not hidden.
    pub fn sum(&self, scope: Scope) -> Sum {
        self.sums.total(scope)
    }

    /// The sum over a range of positions, both ends included. Whole buckets
    /// come from the kept sums, so at most two buckets are walked.
    pub fn sum_of(&self, first: u64, last: u64, scope: Scope) -> Sum {
        let mut sum = Sum::default();
        if first > last {
            return sum;
        }
        let (low, high) = (bucket(first), bucket(last));
        for index in low..=high {
            let (start, end) = bucket_range(index);
            sum = if first <= start && end <= last {
                sum.joined(self.sums.bucket(index, scope))
            } else {
                let part = self.range(first.max(start), last.min(end), scope);
                part.fold(sum, |sum, record| sum.joined(Sum::of(record)))
            };
        }
        sum
    }

    /// How many owners [`Replica::sum_of`] looks at one by one.
    pub(crate) fn walked(&self, first: u64, last: u64) -> usize {
        let (low, high) = (bucket(first), bucket(last));
        let ends = [
            (first, last.min(bucket_range(low).1)),
            (first.max(bucket_range(high).0), last),
        ];
        let distinct = if low == high { 1 } else { 2 };
        let partial = ends.into_iter().take(distinct).filter(|(first, last)| {
            let (start, end) = bucket_range(bucket(*first));
            first <= last && (*first > start || *last < end)
        });
        let place = |position| self.order.place(&lowest_id(position), |slot| self.id(slot));
        partial
            .map(|(first, last)| place(last).saturating_sub(place(first)) + 1)
            .sum()
    }

    /// The records in a range of positions and the scope that are not hidden, by key.
    pub fn range(&self, first: u64, last: u64, scope: Scope) -> impl Iterator<Item = &Arc<Record>> {
        let start = RecordKey {
            owner: lowest_id(first),
            topic: Topic::Node,
        };
        self.from(start, last, scope)
            .filter(move |record| position(&record.key) >= first)
    }

    /// The records in the scope from a key on, up to a position, that are not hidden, by key.
    pub(crate) fn from(
        &self,
        key: RecordKey,
        last: u64,
        scope: Scope,
    ) -> impl Iterator<Item = &Arc<Record>> {
        let start = self.order.place(&key.owner, |slot| self.id(slot));
        let slots = self.order.slots()[start..].iter();
        slots
            .take_while(move |slot| lowest_position(&self.id(**slot)) <= last)
            .map(|slot| &self.owners[slot.at()])
            .filter(|owner| !owner.hidden)
            .flat_map(Owner::records)
            .filter(move |record| record.key >= key && position(&record.key) <= last)
            .filter(move |record| scope.has(record.key.topic))
    }

    /// Leaves an owner's records out of sums and ranges, or takes them in again.
    pub fn set_hidden(&mut self, slot: Slot, hidden: bool) {
        let owner = &mut self.owners[slot.at()];
        if mem::replace(&mut owner.hidden, hidden) != hidden {
            for record in owner.records() {
                self.sums.toggle(record, !hidden);
            }
        }
    }

    /// Whether an owner is known whose records are left out.
    pub(crate) fn is_hidden(&self, owner: &PeerId) -> bool {
        self.slot(owner)
            .is_some_and(|slot| self.owners[slot.at()].hidden)
    }

    /// Forgets an owner and its records.
    pub fn remove_owner(&mut self, slot: Slot) {
        let owner = mem::take(&mut self.owners[slot.at()]);
        for record in owner.records() {
            self.count -= 1;
            if !owner.hidden {
                self.sums.toggle(record, false);
            }
        }
        let id = self.id(slot);
        let hash = self.scattered(&id.short_id());
        if let Ok(entry) = self.index.find_entry(hash, |found| *found == slot.0) {
            entry.remove();
        }
        self.order.remove(&id, slot);
        self.free.push(slot);
    }

    fn insert(&mut self, slot: Slot, record: &Arc<Record>) -> Option<Arc<Record>> {
        let owner = &mut self.owners[slot.at()];
        let before = owner.put(record);
        if !owner.hidden {
            if let Some(before) = &before {
                self.sums.toggle(before, false);
            }
            self.sums.toggle(record, true);
        }
        self.count += usize::from(before.is_none());
        before
    }

    fn add_owner(&mut self, id: PeerId) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.owners.push(Owner::default());
            self.ids.push(id);
            Slot(self.owners.len() as u32 - 1)
        });
        self.ids[slot.at()] = id;
        let (salt, ids) = (self.salt, &self.ids);
        self.order.insert(&id, slot, |slot| ids[slot.at()]);
        let hash = |slot: &u32| scatter(salt, &ids[*slot as usize].short_id());
        self.index.insert_unique(hash(&slot.0), slot.0, hash);
        slot
    }

    fn link_parts(&self, slot: Slot) -> impl Iterator<Item = &[LinkTo]> {
        let owner = &self.owners[slot.at()];
        let others = owner.others.iter().flat_map(|others| &others.0);
        let others = others.take_while(|(topic, _)| matches!(topic, Topic::Links(_)));
        let parts = owner.links.iter().chain(others.map(|(_, record)| record));
        parts.filter_map(|record| match record.content() {
            Some(Body::Links(links)) => Some(links.links.as_slice()),
            _ => None,
        })
    }

    fn reported(&self, from: Slot, to: &ShortId) -> Option<RttCode> {
        self.link_parts(from).find_map(|part| {
            let at = part.binary_search_by_key(to, |link| link.peer).ok()?;
            Some(part[at].rtt)
        })
    }

    fn scattered(&self, short: &ShortId) -> u64 {
        scatter(self.salt, short)
    }
}

impl Owner {
    fn records(&self) -> impl Iterator<Item = &Arc<Record>> {
        let others = self.others.iter().flat_map(|others| &others.0);
        let others = others.map(|(_, record)| record);
        self.node.iter().chain(&self.links).chain(others)
    }

    fn get(&self, topic: Topic) -> Option<&Arc<Record>> {
        match topic {
            Topic::Node => self.node.as_ref(),
            Topic::Links(0) => self.links.as_ref(),
            _ => {
                let others = &self.others.as_ref()?.0;
                let at = others.binary_search_by_key(&topic, |(topic, _)| *topic);
                Some(&others.get(at.ok()?)?.1)
            }
        }
    }

    fn put(&mut self, record: &Arc<Record>) -> Option<Arc<Record>> {
        let new = Arc::clone(record);
        let topic = record.key.topic;
        match topic {
            Topic::Node => self.node.replace(new),
            Topic::Links(0) => self.links.replace(new),
            _ => {
                let others = &mut self.others.get_or_insert_default().0;
                match others.binary_search_by_key(&topic, |(topic, _)| *topic) {
                    Ok(at) => Some(mem::replace(&mut others[at].1, new)),
                    Err(at) => {
                        others.insert(at, (topic, new));
                        None
                    }
                }
            }
        }
    }
}

/// The lowest id whose records may have this position.
fn lowest_id(position: u64) -> PeerId {
    let mut id = [0; 16];
    id[..6].copy_from_slice(&position.to_be_bytes()[..6]);
    PeerId(id)
}

fn lowest_position(id: &PeerId) -> u64 {
    position(&RecordKey {
        owner: *id,
        topic: Topic::Node,
    })
}

fn rank(record: &Record) -> impl Ord {
    (record.version, &record.body, &record.signature)
}

#[cfg(test)]
pub(crate) mod tests;
