//! Range-based set reconciliation of two replicas.
//!
//! One side sends the sum of a range. The other compares: equal, done; few
//! records on either side, the one with few lists what it holds; else it sends
//! the sums of eight parts. Whoever receives a list pushes what is newer here
//! and asks for what is newer there. Each step depends on its message alone, so
//! loss costs no state; the traffic is proportional to the difference. Knows no
//! neighbour and no time, but for the window of [`Wants`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use proto::{
    PeerId,
    message::{Held, RangeSummary},
    record::{Record, RecordKey},
};

use crate::{
    hash::{digest, position},
    replica::Replica,
    sums::Scope,
};

/// A side with no more records than this in a range lists them.
pub const FEW: u32 = 12;
/// Records listed in one message.
pub const LIST: usize = 22;
/// Ranges of one round, at most: so many differ where two halves of ten thousand meet.
pub(crate) const ROUND: usize = 4096;
/// Into how many parts a range is split.
const SPLIT: u64 = 8;

/// What to answer to a sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing: both sides hold the same.
    Equal,
    /// The sums of the parts.
    Split(Vec<RangeSummary>),
    /// Our sum of the same range, for the other side has few and is to list them.
    Echo(RangeSummary),
    /// A list of what we hold in the range.
    List(List),
}

/// A list to be given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// First position.
    pub first: u64,
    /// Last position.
    pub last: u64,
    /// What stands for our records and theirs in the range.
    pub sums: u64,
    /// Whether the other side holds much that we do not, so that the list asks
    /// for more than a few.
    pub lacking: bool,
}

/// What two sides owe each other in a range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// The other side lacks our records in the range.
    pub push: Option<Backlog>,
    /// We lack these.
    pub want: Vec<RecordKey>,
    /// The other side has older ones than these, which are hidden here and thus in no
    /// range. It would reach their owner for ever if the goodbye passed it by.
    pub hidden: Vec<RecordKey>,
}

/// A range of records that the other side lacks but for some. It is read as it
/// is sent, so it takes no room however long it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backlog {
    next: RecordKey,
    first: u64,
    last: u64,
    /// In order.
    held: Vec<RecordKey>,
    /// Where the run of records began whose sum was not told yet, and how many there are.
    run: (u64, u32),
}

impl Backlog {
    /// Hands out what follows as long as `accept` takes it, and the sum of each
    /// few records to `mark`, so that what is lost on the way is missed at once.
    /// With a record comes how many bytes that and what follows of its owner have.
    /// Says whether that was all.
    pub fn work_off(
        &mut self,
        (replica, scope): (&Replica, Scope),
        mut accept: impl FnMut(&Arc<Record>, usize) -> bool,
        mut mark: impl FnMut(RangeSummary),
    ) -> bool {
        let mut owner = None;
        for record in replica.from(self.next, self.last, scope) {
            let position = position(&record.key);
            if position < self.first {
                continue;
            }
            if self.run.1 >= FEW {
                mark(summary(
                    replica,
                    scope,
                    (self.run.0, position.saturating_sub(1)),
                ));
                self.run = (position, 0);
            }
            if self.lacks(&record.key) {
                let is_first = owner.replace(record.key.owner) != Some(record.key.owner);
                let bytes = match is_first {
                    true => self.bytes_of_owner(replica, scope, record.key),
                    false => record.encoded_len(),
                };
                if !accept(record, bytes) {
                    self.next = record.key;
                    return false;
                }
            }
            self.run.1 += 1;
        }
        if self.run.1 > 0 {
            mark(summary(replica, scope, (self.run.0, self.last)));
        }
        true
    }

    /// How many keys it keeps.
    pub fn kept(&self) -> usize {
        self.held.len()
    }

    fn lacks(&self, key: &RecordKey) -> bool {
        self.held.binary_search(key).is_err()
    }

    /// Of its records from this one on, those that are to be sent.
    fn bytes_of_owner(&self, replica: &Replica, scope: Scope, key: RecordKey) -> usize {
        let records = replica.from(key, self.last, scope);
        records
            .take_while(|record| record.key.owner == key.owner)
            .filter(|record| self.lacks(&record.key))
            .map(|record| record.encoded_len())
            .sum()
    }
}

/// The sum over everything that the neighbour can read, to start a round.
pub fn root(replica: &Replica, scope: Scope) -> RangeSummary {
    summary(replica, scope, (0, u64::MAX))
}

/// Compares a neighbour's sum with ours.
pub fn answer(replica: &Replica, scope: Scope, theirs: &RangeSummary) -> Answer {
    let (first, last) = (theirs.first, theirs.last);
    if first > last {
        return Answer::Equal;
    }
    let ours = replica.sum_of(first, last, scope);
    if ours.count == theirs.count && ours.fingerprint == theirs.fingerprint {
        return Answer::Equal;
    }
    if ours.count <= FEW || first == last {
        return Answer::List(List {
            first,
            last,
            sums: ours.fingerprint.rotate_left(1) ^ theirs.fingerprint,
            lacking: theirs.count > ours.count + FEW,
        });
    }
    if theirs.count <= FEW {
        return Answer::Echo(summary(replica, scope, (first, last)));
    }
    Answer::Split(
        split(first, last)
            .map(|range| summary(replica, scope, range))
            .collect(),
    )
}

/// Lists given to one neighbour of late. A list that changes nothing is answered by
/// the sums for which it was given: two sides that cannot agree for the moment,
/// because what decides is still on its way, would go on as fast as the network does.
#[derive(Clone, Debug, Default)]
pub struct Given {
    lists: BTreeSet<(u64, u64)>,
    until: Option<Instant>,
}

impl Given {
    const LIMIT: usize = ROUND;
    const PAUSE: Duration = Duration::from_millis(400);

    /// Notes that a list is given. Says whether it was not given a moment ago.
    pub fn is_new(&mut self, list: &List, now: Instant) -> bool {
        if self.until.is_none_or(|until| now >= until) {
            *self = Self {
                lists: BTreeSet::new(),
                until: Some(now + Self::PAUSE),
            };
        }
        self.lists.len() < Self::LIMIT && self.lists.insert((list.first, list.sums))
    }
}

/// Our list for a range.
pub fn list(replica: &Replica, scope: Scope, first: u64, last: u64) -> Vec<Held> {
    let held = |record: &Record| Held {
        key: record.key,
        version: record.version,
        digest: digest(record),
    };
    replica
        .range(first, last, scope)
        .take(LIST)
        .map(|record| held(record))
        .collect()
}

/// Compares a neighbour's list with what we hold.
pub fn compare(
    replica: &Replica,
    scope: Scope,
    (first, last): (u64, u64),
    held: &[Held],
) -> Difference {
    let mut difference = Difference::default();
    if first > last {
        return difference;
    }
    let listed = held.iter().take(4 * LIST);
    let mut theirs: Vec<&Held> = listed
        .filter(|held| (first..=last).contains(&position(&held.key)))
        .collect();
    // Of two with one key the later counts.
    theirs.reverse();
    theirs.sort_by_key(|held| held.key);
    theirs.dedup_by_key(|held| held.key);
    let mut known = Vec::new();
    for held in theirs {
        let key = held.key;
        match replica.get(&key) {
            None => difference.want.push(key),
            Some(ours) if ours.version < held.version => {
                difference.want.push(key);
                known.push(key);
            }
            Some(ours) if ours.version > held.version => {
                if replica.is_hidden(&key.owner) {
                    difference.hidden.push(key);
                }
            }
            // One version, two bodies: the ranks decide, so both sides need both.
            Some(ours) if digest(ours) != held.digest => difference.want.push(key),
            Some(_) => known.push(key),
        }
    }
    let mut keys = replica.range(first, last, scope).map(|record| record.key);
    let lacked = keys.find(|key| known.binary_search(key).is_err());
    difference.push = lacked.map(|next| Backlog {
        next,
        first,
        last,
        held: known,
        run: (first, 0),
    });
    difference
}

fn summary(replica: &Replica, scope: Scope, (first, last): (u64, u64)) -> RangeSummary {
    let sum = replica.sum_of(first, last, scope);
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
    /// Over the longest way each of them takes a third of a second: some thousands a second.
    const WINDOW: usize = 2048;
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
#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some instant to count from"
)]
mod tests {
    use proptest::prelude::*;
    use proto::record::Topic;

    use super::*;
    use crate::replica::{
        Merge,
        tests::{record, replica_of},
    };

    /// What a backlog would send.
    fn drained(mut backlog: Backlog, replica: &Replica) -> Vec<Arc<Record>> {
        let mut records = Vec::new();
        // Now and then the message is full.
        let mut turn = 0;
        let mut marked = Vec::new();
        while !backlog.work_off(
            (replica, Scope::ALL),
            |record, bytes| {
                assert!(bytes >= record.encoded_len());
                turn += 1;
                let room = turn % 3 != 0;
                if room {
                    records.push(Arc::clone(record));
                }
                room
            },
            |mark| marked.push(mark),
        ) {}
        // The marks cover the range, each with few records.
        let mut next = Some(backlog.first);
        for mark in marked {
            assert_eq!(Some(mark.first), next);
            // The first one also covers what the other side listed before that.
            assert!(mark.count <= FEW + LIST as u32 && mark.count > 0);
            next = mark.last.checked_add(1);
        }
        assert_eq!(next, backlog.last.checked_add(1));
        records
    }

    #[test]
    fn a_list_is_given_once_for_the_same_sums_and_again_after_a_pause() {
        let mut given = Given::default();
        let now = Instant::now();
        let mut is_new = |first, sums, now| {
            let (last, lacking) = (u64::MAX, false);
            let list = List {
                first,
                last,
                sums,
                lacking,
            };
            given.is_new(&list, now)
        };
        assert!(is_new(1, 7, now) && is_new(2, 7, now) && is_new(1, 8, now));
        assert!(!is_new(1, 7, now));
        assert!(is_new(1, 7, now + Given::PAUSE));
        let news = (0..10_000).filter(|i| is_new(*i, 9, now + Given::PAUSE));
        assert_eq!(news.count(), Given::LIMIT - 1);
    }

    /// Runs rounds until nothing is said any more; returns how many records crossed.
    fn run(a: &mut Replica, b: &mut Replica) -> usize {
        let mut crossed = 0;
        let mut open = vec![(true, root(a, Scope::ALL))];
        while let Some((to_b, summary)) = open.pop() {
            let (asker, answerer) = if to_b {
                (&mut *a, &mut *b)
            } else {
                (&mut *b, &mut *a)
            };
            match answer(answerer, Scope::ALL, &summary) {
                Answer::Equal => {}
                Answer::Split(parts) => open.extend(parts.into_iter().map(|part| (!to_b, part))),
                Answer::Echo(range) => open.push((!to_b, range)),
                Answer::List(List { first, last, .. }) => {
                    let difference = compare(
                        asker,
                        Scope::ALL,
                        (first, last),
                        &list(answerer, Scope::ALL, first, last),
                    );
                    for record in difference
                        .push
                        .map_or_else(Vec::new, |push| drained(push, asker))
                    {
                        crossed += 1;
                        if answerer.merge(&record, |_, _| true) == Merge::Stale {
                            // The answerer has a newer one and pushes that.
                            let newer = Arc::clone(answerer.get(&record.key).unwrap());
                            asker.merge(&newer, |_, _| true);
                        }
                    }
                    for key in difference.hidden {
                        crossed += 1;
                        answerer.merge(&Arc::clone(asker.get(&key).unwrap()), |_, _| true);
                    }
                    for key in difference.want {
                        crossed += 1;
                        asker.merge(&Arc::clone(answerer.get(&key).unwrap()), |_, _| true);
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
            let (mut a, mut b) = (replica_of(&own(&left)), replica_of(&own(&right)));
            let crossed = run(&mut a, &mut b);
            prop_assert_eq!(a.sum(Scope::ALL), b.sum(Scope::ALL));
            // Each difference is one record and perhaps the node of its owner.
            prop_assert!(crossed <= 4 * (left.len() + right.len()));
        }

        #[test]
        fn whoever_missed_a_goodbye_is_told(
            owners in prop::collection::btree_set(any::<u8>(), 1..60),
            gone in any::<prop::sample::Index>(),
            knows_first in any::<bool>(),
        ) {
            let owners: Vec<u8> = owners.into_iter().collect();
            let gone = *gone.get(&owners);
            let before: Vec<_> = owners.iter().map(|owner| record(*owner, Topic::Links(0), 1, 0)).collect();
            let goodbye = record(gone, Topic::Links(0), 2, 0);
            let mut behind = replica_of(&before);
            let mut ahead = replica_of(&before);
            ahead.merge(&goodbye, |_, _| true);
            let slot = ahead.slot(&goodbye.key.owner).unwrap();
            ahead.set_hidden(slot, true);
            let (a, b) = if knows_first { (&mut ahead, &mut behind) } else { (&mut behind, &mut ahead) };
            run(a, b);
            prop_assert_eq!(behind.get(&goodbye.key), Some(&goodbye));
        }

        #[test]
        fn a_backlog_is_all_but_what_is_held(
            records in prop::collection::vec((any::<u8>(), 0u8..8), 0..100),
            ends in any::<(u64, u64)>(),
            skip in 1usize..5,
        ) {
            let records: Vec<_> = records.iter().map(|(o, t)| record(*o, Topic::Links(*t), 1, 0)).collect();
            let replica = replica_of(&records);
            let (first, last) = (ends.0.min(ends.1), ends.0.max(ends.1));
            let held: Vec<Held> = list(&replica, Scope::ALL, first, last).into_iter().step_by(skip).collect();
            let push = compare(&replica, Scope::ALL, (first, last), &held).push;
            let sent: Vec<_> = push.map_or_else(Vec::new, |push| drained(push, &replica)).iter().map(|r| r.key).collect();
            let lacked = replica.range(first, last, Scope::ALL).map(|r| r.key).filter(|key| held.iter().all(|held| held.key != *key));
            prop_assert_eq!(sent, lacked.collect::<Vec<_>>());
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
