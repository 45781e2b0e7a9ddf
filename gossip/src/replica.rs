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
    hash::{position, record_hash, scatter},
    limits::{self, Refusal},
    order::{Order, PART_BITS},
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

/// What stands for a set of records: equal sets have equal sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// XOR of the records' hashes.
    pub fingerprint: u64,
    /// How many.
    pub count: u32,
}

/// Sums are kept for as many equal parts of the space of positions.
const BUCKET_BITS: u32 = PART_BITS;

/// The records, by owner.
#[derive(Clone, Debug)]
pub struct Replica {
    /// By slot; those in `free` are vacant.
    owners: Vec<Owner>,
    free: Vec<Slot>,
    /// Finds the slot of an id by its first half.
    index: HashTable<u32>,
    /// Nobody can choose ids that collide in the index without knowing it.
    salt: u64,
    order: Order,
    sums: Box<[Sum]>,
    total: Sum,
    count: usize,
    owner_limit: usize,
}

#[derive(Clone, Debug, Default)]
struct Owner {
    id: PeerId,
    node: Option<Arc<Record>>,
    /// The first part, which is all of most peers.
    links: Option<Arc<Record>>,
    others: Option<Box<Others>>,
    budget: Budget,
    hidden: bool,
}

/// Further parts of links, stations, and what is said of the address space, by topic.
#[derive(Clone, Debug, Default)]
struct Others(Vec<Arc<Record>>);

impl Replica {
    /// An empty replica for at most `owner_limit` owners. `salt` is secret.
    pub fn new(owner_limit: usize, salt: u64) -> Self {
        Self {
            owners: Vec::new(),
            free: Vec::new(),
            index: HashTable::new(),
            salt,
            order: Order::new(),
            sums: vec![Sum::default(); 1 << BUCKET_BITS].into(),
            total: Sum::default(),
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
            Body::Links(_)
            | Body::Stations(_)
            | Body::Space(_)
            | Body::Guard(_)
            | Body::Division(_) => slot.and_then(|slot| self.node(slot)).map(|node| &node.keys),
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
            self.owners[*slot as usize].id == *id
        });
        found.copied().map(Slot)
    }

    /// The slot of an owner whose id starts so; the first known, if several do.
    pub(crate) fn slot_of_short(&self, short: &ShortId) -> Option<Slot> {
        let found = self.index.find(self.scattered(short), |slot| {
            self.owners[*slot as usize].id.short_id() == *short
        });
        found.copied().map(Slot)
    }

    /// Who has a slot.
    pub fn id(&self, slot: Slot) -> PeerId {
        self.owners[slot.at()].id
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
        let there = self.reported(from, &self.owners[to.at()].id.short_id())?;
        let back = self.reported(to, &self.owners[from.at()].id.short_id())?;
        Some(there.max(back))
    }

    /// The peers with which an owner has a link that both report.
    pub(crate) fn neighbours(&self, slot: Slot) -> impl Iterator<Item = (Slot, RttCode)> {
        let own = self.owners[slot.at()].id.short_id();
        self.links(slot).filter_map(move |link| {
            let other = self.slot_of_short(&link.peer)?;
            let back = self.reported(other, &own)?;
            (other != slot).then(|| (other, link.rtt.max(back)))
        })
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

    /// The sum over all records that are not hidden.
    pub fn sum(&self) -> Sum {
        self.total
    }

    /// The sum over a range of positions, both ends included. Whole buckets
    /// come from the kept sums, so at most two buckets are walked.
    pub fn sum_of(&self, first: u64, last: u64) -> Sum {
        let mut sum = Sum::default();
        if first > last {
            return sum;
        }
        let (low, high) = (bucket(first), bucket(last));
        for index in low..=high {
            let (start, end) = bucket_range(index);
            sum = if first <= start && end <= last {
                sum.joined(self.sums[index])
            } else {
                let part = self.range(first.max(start), last.min(end));
                part.fold(sum, |sum, record| sum.joined(Sum::of(record)))
            };
        }
        sum
    }

    /// The records in a range of positions that are not hidden, by key.
    pub fn range(&self, first: u64, last: u64) -> impl Iterator<Item = &Arc<Record>> {
        let start = RecordKey {
            owner: lowest_id(first),
            topic: Topic::Node,
        };
        self.from(start, last)
            .filter(move |record| position(&record.key) >= first)
    }

    /// The records from a key on, up to a position, that are not hidden, by key.
    pub(crate) fn from(&self, key: RecordKey, last: u64) -> impl Iterator<Item = &Arc<Record>> {
        let start = self.order.place(&key.owner, |slot| self.id(slot));
        let owners = self.order.slots()[start..]
            .iter()
            .map(|slot| &self.owners[slot.at()]);
        owners
            .take_while(move |owner| lowest_position(&owner.id) <= last)
            .filter(|owner| !owner.hidden)
            .flat_map(Owner::records)
            .filter(move |record| record.key >= key && position(&record.key) <= last)
    }

    /// Leaves an owner's records out of sums and ranges, or takes them in again.
    pub fn set_hidden(&mut self, slot: Slot, hidden: bool) {
        let owner = &mut self.owners[slot.at()];
        if mem::replace(&mut owner.hidden, hidden) != hidden {
            for record in owner.records() {
                toggle((&mut self.sums, &mut self.total), record, !hidden);
            }
        }
    }

    /// Forgets an owner and its records.
    pub fn remove_owner(&mut self, slot: Slot) {
        let owner = mem::take(&mut self.owners[slot.at()]);
        for record in owner.records() {
            self.count -= 1;
            if !owner.hidden {
                toggle((&mut self.sums, &mut self.total), record, false);
            }
        }
        let hash = self.scattered(&owner.id.short_id());
        if let Ok(entry) = self.index.find_entry(hash, |found| *found == slot.0) {
            entry.remove();
        }
        self.order.remove(&owner.id, slot);
        self.free.push(slot);
    }

    fn insert(&mut self, slot: Slot, record: &Arc<Record>) -> Option<Arc<Record>> {
        let owner = &mut self.owners[slot.at()];
        let before = owner.put(record);
        if !owner.hidden {
            if let Some(before) = &before {
                toggle((&mut self.sums, &mut self.total), before, false);
            }
            toggle((&mut self.sums, &mut self.total), record, true);
        }
        self.count += usize::from(before.is_none());
        before
    }

    fn add_owner(&mut self, id: PeerId) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.owners.push(Owner::default());
            Slot(self.owners.len() as u32 - 1)
        });
        self.owners[slot.at()].id = id;
        let (salt, owners) = (self.salt, &self.owners);
        self.order.insert(&id, slot, |slot| owners[slot.at()].id);
        let hash = |slot: &u32| scatter(salt, &owners[*slot as usize].id.short_id());
        self.index.insert_unique(hash(&slot.0), slot.0, hash);
        slot
    }

    fn link_parts(&self, slot: Slot) -> impl Iterator<Item = &[LinkTo]> {
        let owner = &self.owners[slot.at()];
        let others = owner.others.iter().flat_map(|others| &others.0);
        let parts = owner.links.iter().chain(others);
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
        self.node.iter().chain(&self.links).chain(others)
    }

    fn get(&self, topic: Topic) -> Option<&Arc<Record>> {
        match topic {
            Topic::Node => self.node.as_ref(),
            Topic::Links(0) => self.links.as_ref(),
            _ => {
                let others = &self.others.as_ref()?.0;
                let at = others.binary_search_by_key(&topic, |record| record.key.topic);
                others.get(at.ok()?)
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
                match others.binary_search_by_key(&topic, |record| record.key.topic) {
                    Ok(at) => Some(mem::replace(&mut others[at], new)),
                    Err(at) => {
                        others.insert(at, new);
                        None
                    }
                }
            }
        }
    }
}

impl Sum {
    fn of(record: &Record) -> Self {
        Self {
            fingerprint: record_hash(record),
            count: 1,
        }
    }

    fn joined(self, other: Self) -> Self {
        Self {
            fingerprint: self.fingerprint ^ other.fingerprint,
            count: self.count + other.count,
        }
    }
}

/// Adds a record to the sums or takes it out.
fn toggle((sums, total): (&mut [Sum], &mut Sum), record: &Record, add: bool) {
    for sum in [&mut sums[bucket(position(&record.key))], total] {
        sum.fingerprint ^= record_hash(record);
        sum.count = if add { sum.count + 1 } else { sum.count - 1 };
    }
}

fn bucket(position: u64) -> usize {
    (position >> (64 - BUCKET_BITS)) as usize
}

fn bucket_range(index: usize) -> (u64, u64) {
    let first = (index as u64) << (64 - BUCKET_BITS);
    (first, first | (u64::MAX >> BUCKET_BITS))
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
pub(crate) mod tests {
    use proptest::prelude::*;
    use proto::record::{Links, MAX_BODY, Version};

    use super::*;

    pub(crate) fn record(owner: u8, topic: Topic, sequence: u64, salt: u8) -> Arc<Record> {
        let link = LinkTo {
            peer: ShortId([0xee; 8]),
            rtt: RttCode(salt),
        };
        let body = match topic {
            Topic::Links(_) => Body::Links(Links { links: vec![link] }),
            Topic::Stations(_) => Body::Stations(Default::default()),
            Topic::Space | Topic::Guard | Topic::Division => Body::Guard(Default::default()),
            Topic::Node => Body::Node(Node {
                keys: PublicKeys {
                    sign: [owner; 32],
                    exchange: [owner; 32],
                },
                nickname: format!("n{salt}"),
                instance: 1,
                endpoints: vec![],
                version: String::new(),
                capabilities: 0,
            }),
        };
        let key = RecordKey {
            owner: PeerId([owner; 16]),
            topic,
        };
        let mut record = Record::new(key, Version { epoch: 1, sequence }, body.encode());
        record.signature = ([salt; 32], [owner; 32]);
        Arc::new(record)
    }

    /// A replica that knows the owners of all records.
    pub(crate) fn replica_of<'a>(records: impl IntoIterator<Item = &'a Arc<Record>>) -> Replica {
        let mut replica = Replica::new(1000, 7);
        for record in records {
            replica.merge(
                &self::record(record.key.owner.0[0], Topic::Node, 0, 0),
                |_, _| true,
            );
            replica.merge(record, |_, _| true);
        }
        replica
    }

    fn records() -> impl Strategy<Value = Vec<Arc<Record>>> {
        let topic = prop_oneof![
            Just(Topic::Node),
            (0u8..3).prop_map(Topic::Links),
            (0u16..3).prop_map(Topic::Stations)
        ];
        let one =
            (0u8..4, topic, 0u64..4, 0u8..3).prop_map(|(o, t, s, salt)| record(o, t, s, salt));
        prop::collection::vec(one, 0..60)
    }

    proptest! {
        #[test]
        fn merging_is_commutative_and_idempotent(records in records(), seed in any::<u64>()) {
            let once = replica_of(&records);
            let mut shuffled = records.clone();
            shuffled.sort_by_key(|r| record_hash(r) ^ seed);
            shuffled.extend(records.iter().take(7).cloned());
            let again = replica_of(&shuffled);
            prop_assert!(once.range(0, u64::MAX).eq(again.range(0, u64::MAX)));
            prop_assert_eq!(once.sum(), again.sum());
        }

        #[test]
        fn merging_is_associative(a in records(), b in records(), c in records()) {
            let join = |x: &Replica, y: &Replica| {
                let mut joined = x.clone();
                y.range(0, u64::MAX).for_each(|r| { joined.merge(r, |_, _| true); });
                joined
            };
            let (a, b, c) = (replica_of(&a), replica_of(&b), replica_of(&c));
            prop_assert_eq!(join(&join(&a, &b), &c).sum(), join(&a, &join(&b, &c)).sum());
        }

        #[test]
        fn kept_sums_equal_counted_sums(records in records(), cuts in any::<(u64, u64)>(), hidden in 0u8..4) {
            let mut replica = replica_of(&records);
            let slot = |replica: &Replica, owner: u8| replica.slot(&PeerId([owner; 16]));
            if let Some(slot) = slot(&replica, hidden) {
                replica.set_hidden(slot, true);
            }
            if let Some(slot) = slot(&replica, (hidden + 1) % 4) {
                replica.remove_owner(slot);
            }
            let (first, last) = (cuts.0.min(cuts.1), cuts.0.max(cuts.1));
            let counted = replica.range(first, last).fold(Sum::default(), |s, r| s.joined(Sum::of(r)));
            prop_assert_eq!(replica.sum_of(first, last), counted);
            prop_assert_eq!(replica.sum_of(0, u64::MAX), replica.sum());
            prop_assert!(replica.owners().map(|slot| replica.id(slot)).is_sorted());
            prop_assert_eq!(replica.owners().flat_map(|slot| replica.records_of(slot)).count(), replica.len());
            // A slot that was given back is found under its new owner alone.
            replica.merge(&record(9, Topic::Node, 1, 0), |_, _| true);
            for owner in 0..10 {
                let found = replica.slot(&PeerId([owner; 16]));
                prop_assert!(found.is_none_or(|slot| replica.id(slot) == PeerId([owner; 16])));
            }
        }

        #[test]
        fn hostile_bodies_never_panic(body in prop::collection::vec(any::<u8>(), 0..1200), part in any::<u8>()) {
            let mut bad = (*record(1, Topic::Links(part), 1, 0)).clone();
            bad.body = body;
            let mut replica = replica_of(&[]);
            replica.merge(&record(1, Topic::Node, 1, 0), |_, _| true);
            let merged = replica.merge(&Arc::new(bad.clone()), |_, _| true);
            let readable = Body::decode(&bad.body).is_ok() && bad.body.len() <= MAX_BODY;
            prop_assert!(readable || matches!(merged, Merge::Refused(_)));
        }
    }

    #[test]
    fn only_the_authentic_are_taken_and_only_with_their_node() {
        let mut replica = Replica::new(1, 7);
        let node = record(1, Topic::Node, 1, 0);
        assert_eq!(
            replica.merge(&record(1, Topic::Links(0), 1, 0), |_, _| true),
            Merge::Orphan
        );
        assert_eq!(replica.merge(&node, |_, _| false), Merge::Forged);
        assert!(matches!(
            replica.merge(&node, |_, _| true),
            Merge::New {
                conflict: false,
                ..
            }
        ));
        assert_eq!(replica.merge(&node, |_, _| true), Merge::Stale);
        let twin = record(1, Topic::Node, 1, 9);
        assert!(matches!(
            replica.merge(&twin, |_, _| true),
            Merge::New { conflict: true, .. }
        ));
        assert_eq!(
            replica.merge(&record(2, Topic::Node, 1, 0), |_, _| true),
            Merge::Refused(Refusal::TooManyPeers)
        );
    }
}
