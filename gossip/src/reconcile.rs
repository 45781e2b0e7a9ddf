//! Range-based set reconciliation of two replicas.
//!
//! One side sends the sum of a range. The other compares: equal, done; few
//! records, it lists what it holds; else it sends the sums of eight parts.
//! Whoever receives a list pushes what is newer here and asks for what is newer
//! there. Each step depends on its message alone, so loss costs no state; the
//! traffic is proportional to the difference. Knows no neighbour and no time,
//! but for the window of [`Wants`].

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use proto::{
    PeerId,
    message::{Held, RangeSummary},
    record::{Record, RecordKey},
};

use crate::{
    hash::{key_hash, record_hash},
    replica::Replica,
};

/// A range with no more records than this on either side is listed, not split.
pub const FEW: u32 = 12;
/// Records listed in one message.
pub const LIST: usize = 22;
/// Into how many parts a range is split.
const SPLIT: u64 = 8;
/// Records pushed because of one list.
const PUSH_LIMIT: usize = 128;

/// What to answer to a sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing: both sides hold the same.
    Equal,
    /// The sums of the parts.
    Split(Vec<RangeSummary>),
    /// A list of what we hold in the range.
    List {
        /// First key hash.
        first: u64,
        /// Last key hash.
        last: u64,
    },
}

/// What two sides owe each other in a range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// The other side lacks these.
    pub push: Vec<RecordKey>,
    /// We lack these.
    pub want: Vec<RecordKey>,
}

/// The sum over everything, to start a round.
pub fn root(replica: &Replica) -> RangeSummary {
    summary(replica, 0, u64::MAX)
}

/// Compares a neighbour's sum with ours.
pub fn answer(replica: &Replica, theirs: &RangeSummary) -> Answer {
    let (first, last) = (theirs.first, theirs.last);
    if first > last {
        return Answer::Equal;
    }
    let ours = replica.sum_of(first, last);
    if ours.count == theirs.count && ours.fingerprint == theirs.fingerprint {
        return Answer::Equal;
    }
    if ours.count.max(theirs.count) <= FEW || first == last {
        return Answer::List { first, last };
    }
    Answer::Split(
        split(first, last)
            .map(|(first, last)| summary(replica, first, last))
            .collect(),
    )
}

/// Our list for a range.
pub fn list(replica: &Replica, first: u64, last: u64) -> Vec<Held> {
    let held = |record: &Record| Held {
        key: record.key,
        version: record.version,
        digest: digest(record),
    };
    replica
        .range(first, last)
        .take(LIST)
        .map(|(_, record)| held(record))
        .collect()
}

/// Compares a neighbour's list with what we hold.
pub fn compare(replica: &Replica, first: u64, last: u64, held: &[Held]) -> Difference {
    let mut difference = Difference::default();
    if first > last {
        return difference;
    }
    let mut theirs = BTreeMap::new();
    for held in held.iter().take(4 * LIST) {
        if (first..=last).contains(&key_hash(&held.key)) {
            theirs.insert(held.key, held);
        }
    }
    for (key, held) in &theirs {
        match replica.get(key) {
            None => difference.want.push(*key),
            Some(ours) if ours.version < held.version => difference.want.push(*key),
            Some(ours) if ours.version > held.version => difference.push.push(*key),
            Some(ours) if digest(ours) != held.digest => {
                // One version, two bodies: the ranks decide, so both sides need both.
                difference.push.push(*key);
                difference.want.push(*key);
            }
            Some(_) => {}
        }
    }
    let lacked = replica
        .range(first, last)
        .map(|(_, record)| record.key)
        .filter(|key| !theirs.contains_key(key));
    let room = PUSH_LIMIT.saturating_sub(difference.push.len());
    difference.push.extend(lacked.take(room));
    difference
}

fn summary(replica: &Replica, first: u64, last: u64) -> RangeSummary {
    let sum = replica.sum_of(first, last);
    RangeSummary {
        first,
        last,
        fingerprint: sum.fingerprint,
        count: sum.count,
    }
}

/// Divides a range in up to eight parts; from the whole space on, parts are buckets of the replica.
fn split(first: u64, last: u64) -> impl Iterator<Item = (u64, u64)> {
    let step = (last - first) / SPLIT + 1;
    (0..SPLIT).map_while(move |i| {
        let start = first.checked_add(step.checked_mul(i)?)?;
        let end = start.saturating_add(step - 1).min(last);
        (start <= last).then_some((start, end))
    })
}

fn digest(record: &Record) -> u32 {
    record_hash(record) as u32
}

/// Records asked for and not yet seen, a bounded window of them.
#[derive(Clone, Debug, Default)]
pub struct Wants {
    open: BTreeMap<RecordKey, Want>,
    /// No want is due before this; kept, because it is asked for after every step.
    due: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Want {
    from: PeerId,
    asked: Instant,
    tries: u8,
}

impl Wants {
    const WINDOW: usize = 256;
    const TRIES: u8 = 3;
    const RETRY: Duration = Duration::from_millis(600);

    /// Of `keys`, those to ask `from` for now: not asked of anybody yet, and within the window.
    pub fn ask(&mut self, keys: Vec<RecordKey>, from: PeerId, now: Instant) -> Vec<RecordKey> {
        let mut asked = Vec::new();
        for key in keys {
            if self.open.len() >= Self::WINDOW {
                break;
            }
            if let std::collections::btree_map::Entry::Vacant(entry) = self.open.entry(key) {
                entry.insert(Want {
                    from,
                    asked: now,
                    tries: 1,
                });
                asked.push(key);
                self.due.get_or_insert(now + Self::RETRY);
            }
        }
        asked
    }

    /// The record is here, or is not worth asking for.
    pub fn settle(&mut self, key: &RecordKey) {
        if !self.open.is_empty() {
            self.open.remove(key);
        }
    }

    /// A neighbour is gone; others may be asked now.
    pub fn forget(&mut self, peer: &PeerId) {
        self.open.retain(|_, want| want.from != *peer);
    }

    /// What to ask for again, and of whom. After three tries it is left to the next round.
    pub fn overdue(&mut self, now: Instant) -> Vec<(PeerId, RecordKey)> {
        let mut again = Vec::new();
        if self.due.is_none_or(|due| now < due) {
            return again;
        }
        self.open.retain(|key, want| {
            if now < want.asked + Self::RETRY {
                return true;
            }
            want.tries += 1;
            want.asked = now;
            if want.tries <= Self::TRIES {
                again.push((want.from, *key));
            }
            want.tries <= Self::TRIES
        });
        self.due = self
            .open
            .values()
            .map(|want| want.asked + Self::RETRY)
            .min();
        again
    }

    /// When [`Wants::overdue`] has something.
    pub fn deadline(&self) -> Option<Instant> {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use proto::record::Topic;

    use super::*;
    use crate::replica::tests::record;

    fn replica(records: &[Arc<Record>]) -> Replica {
        let mut replica = Replica::new(1000);
        records.iter().for_each(|r| {
            replica.merge(r, |_| true);
        });
        replica
    }

    /// Runs rounds until nothing is said any more; returns how many records crossed.
    fn run(a: &mut Replica, b: &mut Replica) -> usize {
        let mut crossed = 0;
        let mut open = vec![(true, root(a))];
        while let Some((to_b, summary)) = open.pop() {
            let (asker, answerer) = if to_b {
                (&mut *a, &mut *b)
            } else {
                (&mut *b, &mut *a)
            };
            match answer(answerer, &summary) {
                Answer::Equal => {}
                Answer::Split(parts) => open.extend(parts.into_iter().map(|part| (!to_b, part))),
                Answer::List { first, last } => {
                    let difference = compare(asker, first, last, &list(answerer, first, last));
                    for key in difference.push {
                        crossed += 1;
                        answerer.merge(&Arc::clone(asker.get(&key).unwrap()), |_| true);
                    }
                    for key in difference.want {
                        crossed += 1;
                        asker.merge(&Arc::clone(answerer.get(&key).unwrap()), |_| true);
                    }
                }
            }
        }
        crossed
    }

    proptest! {
        #[test]
        fn one_round_makes_any_two_replicas_equal(
            common in prop::collection::vec((any::<u8>(), 0u8..8), 0..300),
            left in prop::collection::vec((any::<u8>(), 0u8..8, 0u64..3, 0u8..2), 0..30),
            right in prop::collection::vec((any::<u8>(), 0u8..8, 0u64..3, 0u8..2), 0..30),
        ) {
            let common: Vec<_> = common.iter().map(|(o, t)| record(*o, Topic::Links(*t), 1, 0)).collect();
            let own = |side: &[(u8, u8, u64, u8)]| -> Vec<_> {
                let own = side.iter().map(|(o, t, s, salt)| record(*o, Topic::Links(*t), *s, *salt));
                common.iter().cloned().chain(own).collect()
            };
            let (mut a, mut b) = (replica(&own(&left)), replica(&own(&right)));
            let crossed = run(&mut a, &mut b);
            prop_assert_eq!(a.sum(), b.sum());
            prop_assert!(crossed <= 2 * (left.len() + right.len()));
        }

        #[test]
        fn splitting_covers_a_range_exactly(ends in any::<(u64, u64)>()) {
            let (first, last) = (ends.0.min(ends.1), ends.0.max(ends.1));
            let mut next = Some(first);
            for (start, end) in split(first, last) {
                prop_assert_eq!(Some(start), next);
                prop_assert!(end >= start);
                next = end.checked_add(1);
            }
            prop_assert_eq!(next, last.checked_add(1));
        }
    }
}
