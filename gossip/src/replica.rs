//! The signed records of everybody, as far as this peer has heard.
//!
//! Invariant: the state is the set of highest-ranked authentic records offered
//! so far, one per key, whatever their order (as long as no limit is hit). Rank
//! is (version, body, signature), so merging is commutative, associative and
//! idempotent. Nothing here sends, and nothing here knows time.

use std::{collections::BTreeMap, sync::Arc};

use proto::{
    PeerId,
    record::{Body, MAX_BODY, Record, RecordKey, Topic},
};

use crate::hash::{key_hash, record_hash};

/// Parts of links that one peer may have, 40 links each.
pub const LINK_PARTS: u8 = 8;
/// Parts of stations that one peer may have.
pub const STATION_PARTS: u16 = 256;
/// IP addresses of one station.
pub const STATION_IPS: usize = 8;
/// Endpoints in a node record.
pub const NODE_ENDPOINTS: usize = 16;
/// Bytes of a nickname.
pub const NODE_NICKNAME: usize = 64;
/// Bytes of a version text.
pub const NODE_VERSION: usize = 32;
/// Links in one part.
pub const PART_LINKS: usize = 40;

/// What became of an offered record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Merge {
    /// It is now in the replica.
    New {
        /// Its content.
        body: Body,
        /// It replaced another record with the same version: the owner's key is in two hands.
        conflict: bool,
    },
    /// We have it, or a higher-ranked one.
    Stale,
    /// The signature or the owner is false.
    Forged,
    /// Not taken.
    Refused(Refusal),
}

/// Why an authentic or unchecked record is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The body cannot be read, or is not about the topic.
    Unreadable,
    /// The body breaks a limit of its kind.
    OverLimit,
    /// Too many peers are known already.
    TooManyPeers,
}

impl Refusal {
    /// For people.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Unreadable => "content not understood",
            Self::OverLimit => "content over the limit",
            Self::TooManyPeers => "too many peers known",
        }
    }
}

/// What stands for a set of records: equal sets have equal sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// XOR of the records' hashes.
    pub fingerprint: u64,
    /// How many.
    pub count: u32,
}

/// Sums are kept for each of the 2^6 equal parts of the hash space.
const BUCKET_BITS: u32 = 6;

/// The records, in the order of their key's hash.
#[derive(Clone, Debug)]
pub struct Replica {
    /// By hash of the key, and a slot that tells colliding keys apart.
    records: BTreeMap<(u64, u8), Arc<Record>>,
    sums: Vec<Sum>,
    owners: BTreeMap<PeerId, Owner>,
    owner_limit: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Owner {
    records: u16,
    hidden: bool,
}

impl Replica {
    /// An empty replica for at most `owner_limit` owners.
    pub fn new(owner_limit: usize) -> Self {
        Self {
            records: BTreeMap::new(),
            sums: vec![Sum::default(); 1 << BUCKET_BITS],
            owners: BTreeMap::new(),
            owner_limit,
        }
    }

    /// Offers a record. `authentic` is asked last, as it is costly.
    pub fn merge(
        &mut self,
        record: &Arc<Record>,
        authentic: impl FnOnce(&Record) -> bool,
    ) -> Merge {
        let held = self.get(&record.key);
        if held.is_some_and(|held| rank(held) >= rank(record)) {
            return Merge::Stale;
        }
        let conflict = held.is_some_and(|held| held.version == record.version);
        let body = match checked_body(record) {
            Ok(body) => body,
            Err(refusal) => return Merge::Refused(refusal),
        };
        if !self.owners.contains_key(&record.key.owner) && self.owners.len() >= self.owner_limit {
            return Merge::Refused(Refusal::TooManyPeers);
        }
        if !authentic(record) {
            return Merge::Forged;
        }
        if !self.insert(record) {
            return Merge::Refused(Refusal::TooManyPeers);
        }
        Merge::New { body, conflict }
    }

    /// The record with this key.
    pub fn get(&self, key: &RecordKey) -> Option<&Arc<Record>> {
        self.slot(key).map(|slot| &self.records[&slot])
    }

    /// How many records, hidden ones included.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// How many records one owner has.
    pub fn owned(&self, owner: &PeerId) -> usize {
        self.owners
            .get(owner)
            .map_or(0, |owner| usize::from(owner.records))
    }

    /// The sum over all records that are not hidden.
    pub fn sum(&self) -> Sum {
        self.sums
            .iter()
            .fold(Sum::default(), |sum, bucket| sum.joined(*bucket))
    }

    /// The sum over a range of key hashes, both ends included. Whole buckets
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
                part.fold(sum, |sum, (_, record)| sum.joined(Sum::of(record)))
            };
        }
        sum
    }

    /// The records in a range of key hashes that are not hidden, ascending, with their hashes.
    pub fn range(&self, first: u64, last: u64) -> impl Iterator<Item = (u64, &Arc<Record>)> {
        let last = last.max(first);
        self.records
            .range((first, 0)..=(last, u8::MAX))
            .filter(|(_, record)| !self.is_hidden(&record.key.owner))
            .map(|((hash, _), record)| (*hash, record))
    }

    /// Whether an owner's records are left out of sums and ranges.
    pub fn is_hidden(&self, owner: &PeerId) -> bool {
        self.owners.get(owner).is_some_and(|owner| owner.hidden)
    }

    /// Leaves an owner's records out of sums and ranges, or takes them in again.
    pub fn set_hidden(&mut self, owner: &PeerId, hidden: bool) {
        if self
            .owners
            .get(owner)
            .is_none_or(|known| known.hidden == hidden)
        {
            return;
        }
        for slot in self.slots_of(owner) {
            self.toggle(slot, !hidden);
        }
        if let Some(known) = self.owners.get_mut(owner) {
            known.hidden = hidden;
        }
    }

    /// Forgets an owner and its records.
    pub fn remove_owner(&mut self, owner: &PeerId) {
        let visible = !self.is_hidden(owner);
        for slot in self.slots_of(owner) {
            if visible {
                self.toggle(slot, false);
            }
            self.records.remove(&slot);
        }
        self.owners.remove(owner);
    }

    /// The keys of an owner's records.
    pub fn keys_of(&self, owner: &PeerId) -> Vec<RecordKey> {
        self.slots_of(owner)
            .iter()
            .map(|slot| self.records[slot].key)
            .collect()
    }

    fn insert(&mut self, record: &Arc<Record>) -> bool {
        let hash = key_hash(&record.key);
        let held = self.slot(&record.key);
        let free = || {
            (0..=u8::MAX)
                .map(|slot| (hash, slot))
                .find(|slot| !self.records.contains_key(slot))
        };
        let Some(slot) = held.or_else(free) else {
            return false;
        };
        let visible = !self.is_hidden(&record.key.owner);
        if visible && held.is_some() {
            self.toggle(slot, false);
        }
        self.records.insert(slot, Arc::clone(record));
        if visible {
            self.toggle(slot, true);
        }
        if held.is_none() {
            self.owners.entry(record.key.owner).or_default().records += 1;
        }
        true
    }

    fn slot(&self, key: &RecordKey) -> Option<(u64, u8)> {
        let hash = key_hash(key);
        let mut colliding = self.records.range((hash, 0)..=(hash, u8::MAX));
        colliding
            .find(|(_, record)| record.key == *key)
            .map(|(slot, _)| *slot)
    }

    /// There is no index by owner: the topics are few enough to try.
    fn slots_of(&self, owner: &PeerId) -> Vec<(u64, u8)> {
        let links = (0..LINK_PARTS).map(Topic::Links);
        let stations = (0..STATION_PARTS).map(Topic::Stations);
        let topics = std::iter::once(Topic::Node).chain(links).chain(stations);
        let slots = topics.filter_map(|topic| {
            self.slot(&RecordKey {
                owner: *owner,
                topic,
            })
        });
        slots.take(self.owned(owner)).collect()
    }

    /// Adds a record to the sums or takes it out.
    fn toggle(&mut self, slot: (u64, u8), add: bool) {
        let Some(record) = self.records.get(&slot) else {
            return;
        };
        let sum = &mut self.sums[bucket(slot.0)];
        sum.fingerprint ^= record_hash(record);
        sum.count = if add { sum.count + 1 } else { sum.count - 1 };
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

fn bucket(hash: u64) -> usize {
    (hash >> (64 - BUCKET_BITS)) as usize
}

fn bucket_range(index: usize) -> (u64, u64) {
    let first = (index as u64) << (64 - BUCKET_BITS);
    (first, first | (u64::MAX >> BUCKET_BITS))
}

fn rank(record: &Record) -> impl Ord {
    (record.version, &record.body, &record.signature)
}

/// Reads the body and holds it against the limits of its kind.
fn checked_body(record: &Record) -> Result<Body, Refusal> {
    if record.body.len() > MAX_BODY {
        return Err(Refusal::OverLimit);
    }
    let body = Body::decode(&record.body).map_err(|_| Refusal::Unreadable)?;
    let within = match (&record.key.topic, &body) {
        (Topic::Node, Body::Node(node)) => {
            node.nickname.len() <= NODE_NICKNAME
                && node.version.len() <= NODE_VERSION
                && node.endpoints.len() <= NODE_ENDPOINTS
        }
        (Topic::Links(part), Body::Links(links)) => {
            *part < LINK_PARTS
                && links.links.len() <= PART_LINKS
                && links.links.is_sorted_by(|a, b| a.0 < b.0)
                && links
                    .links
                    .iter()
                    .all(|(peer, _)| *peer != record.key.owner)
        }
        (Topic::Stations(part), Body::Stations(stations)) => {
            *part < STATION_PARTS
                && stations.stations.is_sorted_by(|a, b| a.mac < b.mac)
                && stations
                    .stations
                    .iter()
                    .all(|s| s.ips.len() <= STATION_IPS && !s.mac.is_multicast())
        }
        _ => return Err(Refusal::Unreadable),
    };
    if within {
        Ok(body)
    } else {
        Err(Refusal::OverLimit)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use proto::{
        PublicKeys,
        record::{Links, Version},
    };

    use super::*;

    pub(crate) fn record(owner: u8, topic: Topic, sequence: u64, salt: u8) -> Arc<Record> {
        let body = match topic {
            Topic::Links(_) => Body::Links(Links {
                links: vec![(PeerId([0xee; 16]), u32::from(salt))],
            }),
            Topic::Stations(_) => Body::Stations(Default::default()),
            Topic::Node => Body::Node(proto::record::Node {
                nickname: format!("n{salt}"),
                instance: 1,
                endpoints: vec![],
                version: String::new(),
                capabilities: 0,
            }),
        };
        Arc::new(Record {
            key: RecordKey {
                owner: PeerId([owner; 16]),
                topic,
            },
            keys: PublicKeys {
                sign: [owner; 32],
                exchange: [owner; 32],
            },
            version: Version { epoch: 1, sequence },
            body: body.encode(),
            signature: ([salt; 32], [owner; 32]),
        })
    }

    fn records() -> impl Strategy<Value = Vec<Arc<Record>>> {
        let topic = prop_oneof![Just(Topic::Node), (0u8..3).prop_map(Topic::Links)];
        let one =
            (0u8..4, topic, 0u64..4, 0u8..3).prop_map(|(o, t, s, salt)| record(o, t, s, salt));
        prop::collection::vec(one, 0..60)
    }

    fn merged(records: &[Arc<Record>]) -> Replica {
        let mut replica = Replica::new(100);
        for record in records {
            replica.merge(record, |_| true);
        }
        replica
    }

    proptest! {
        #[test]
        fn merging_is_commutative_and_idempotent(records in records(), seed in any::<u64>()) {
            let once = merged(&records);
            let mut shuffled = records.clone();
            shuffled.sort_by_key(|r| record_hash(r) ^ seed);
            shuffled.extend(records.iter().take(7).cloned());
            let again = merged(&shuffled);
            prop_assert!(once.range(0, u64::MAX).map(|(_, r)| r).eq(again.range(0, u64::MAX).map(|(_, r)| r)));
            prop_assert_eq!(once.sum(), again.sum());
        }

        #[test]
        fn merging_is_associative(a in records(), b in records(), c in records()) {
            let join = |x: &Replica, y: &Replica| {
                let mut joined = x.clone();
                y.range(0, u64::MAX).for_each(|(_, r)| { joined.merge(r, |_| true); });
                joined
            };
            let (a, b, c) = (merged(&a), merged(&b), merged(&c));
            prop_assert_eq!(join(&join(&a, &b), &c).sum(), join(&a, &join(&b, &c)).sum());
        }

        #[test]
        fn kept_sums_equal_counted_sums(records in records(), cuts in any::<(u64, u64)>(), hidden in 0u8..4) {
            let mut replica = merged(&records);
            replica.set_hidden(&PeerId([hidden; 16]), true);
            replica.remove_owner(&PeerId([(hidden + 1) % 4; 16]));
            let (first, last) = (cuts.0.min(cuts.1), cuts.0.max(cuts.1));
            let counted = replica.range(first, last).fold(Sum::default(), |s, (_, r)| s.joined(Sum::of(r)));
            prop_assert_eq!(replica.sum_of(first, last), counted);
            prop_assert_eq!(replica.sum_of(0, u64::MAX), replica.sum());
        }

        #[test]
        fn hostile_bodies_never_panic(body in prop::collection::vec(any::<u8>(), 0..1200), part in any::<u8>()) {
            let mut bad = (*record(1, Topic::Links(part), 1, 0)).clone();
            bad.body = body;
            let mut replica = Replica::new(10);
            replica.merge(&Arc::new(bad), |_| true);
        }
    }

    #[test]
    fn limits_and_forgeries_are_refused() {
        let mut replica = Replica::new(2);
        assert_eq!(
            replica.merge(&record(1, Topic::Node, 1, 0), |_| false),
            Merge::Forged
        );
        assert!(matches!(
            replica.merge(&record(1, Topic::Node, 1, 0), |_| true),
            Merge::New {
                conflict: false,
                ..
            }
        ));
        assert!(matches!(
            replica.merge(&record(1, Topic::Node, 1, 1), |_| true),
            Merge::New { conflict: true, .. }
        ));
        assert_eq!(
            replica.merge(&record(1, Topic::Node, 1, 0), |_| true),
            Merge::Stale
        );
        assert!(matches!(
            replica.merge(&record(2, Topic::Node, 1, 0), |_| true),
            Merge::New { .. }
        ));
        assert_eq!(
            replica.merge(&record(3, Topic::Node, 1, 0), |_| true),
            Merge::Refused(Refusal::TooManyPeers)
        );
        let beyond = record(1, Topic::Links(LINK_PARTS), 1, 0);
        assert_eq!(
            replica.merge(&beyond, |_| true),
            Merge::Refused(Refusal::OverLimit)
        );
        let mut crossed = (*record(1, Topic::Node, 9, 0)).clone();
        crossed.body = record(1, Topic::Links(0), 1, 0).body.clone();
        assert_eq!(
            replica.merge(&Arc::new(crossed), |_| true),
            Merge::Refused(Refusal::Unreadable)
        );
        replica.remove_owner(&PeerId([1; 16]));
        assert_eq!(replica.len(), 1);
    }
}
