//! What is to be said to one neighbour, coalesced and paced. Holds keys rather
//! than records: what is sent is what the replica holds when it is sent.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use proto::{
    message::{GossipMessage, MAX_MESSAGE, RangeSummary},
    record::{Record, RecordKey},
};

use crate::{
    reconcile::{self, Backlog},
    replica::Replica,
    sums::Scope,
};

/// Sums in one message.
const RANGES: usize = 28;
/// Keys asked for in one message.
const WANTS: usize = 48;
/// Digests asked for in one message.
const GRAFTS: usize = 200;
/// Sums, lists, backlogs and wants waiting; more are left to the next round.
const WAITING: usize = reconcile::ROUND;
/// Keys kept in backlogs that wait.
const KEPT: usize = 8192;
/// Tags and counts around the records of a push.
const OVERHEAD: usize = 8;

/// The queue of one neighbour.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outbox {
    /// Told at once.
    news: BTreeSet<RecordKey>,
    /// Asked for.
    repairs: BTreeSet<RecordKey>,
    backlogs: VecDeque<Backlog>,
    ranges: VecDeque<RangeSummary>,
    lists: VecDeque<(u64, u64)>,
    wants: VecDeque<RecordKey>,
    /// What a graft asks for, and whether for the news to come too.
    grafts: Option<(bool, Vec<u32>)>,
    prune: Option<(u8, u8)>,
}

impl Outbox {
    pub(crate) fn tell(&mut self, key: RecordKey) {
        self.news.insert(key);
    }

    pub(crate) fn repair(&mut self, key: RecordKey) {
        if self.repairs.len() < WAITING {
            self.repairs.insert(key);
        }
    }

    /// A round that finds a little missing everywhere makes as many as there are lists.
    pub(crate) fn work_off(&mut self, backlog: Backlog) {
        let kept = self.backlogs.iter().map(Backlog::kept).sum::<usize>();
        if self.backlogs.len() < WAITING && kept + backlog.kept() <= KEPT {
            self.backlogs.push_back(backlog);
        }
    }

    /// The neighbour has this already.
    pub(crate) fn cancel(&mut self, key: &RecordKey) {
        self.news.remove(key);
        self.repairs.remove(key);
    }

    pub(crate) fn summarise(&mut self, ranges: impl IntoIterator<Item = RangeSummary>) {
        let room = WAITING.saturating_sub(self.ranges.len());
        self.ranges.extend(ranges.into_iter().take(room));
    }

    pub(crate) fn list(&mut self, first: u64, last: u64) {
        if self.lists.len() < WAITING {
            self.lists.push_back((first, last));
        }
    }

    pub(crate) fn want(&mut self, keys: impl IntoIterator<Item = RecordKey>) {
        let room = WAITING.saturating_sub(self.wants.len());
        self.wants.extend(keys.into_iter().take(room));
    }

    /// Asks for the news with these digests, and perhaps for those to come.
    pub(crate) fn graft(&mut self, resume: bool, digests: impl IntoIterator<Item = u32>) {
        if resume {
            self.prune = None;
        }
        let (resumes, grafts) = self.grafts.get_or_insert_default();
        *resumes |= resume;
        let room = GRAFTS.saturating_sub(grafts.len());
        grafts.extend(digests.into_iter().take(room));
    }

    /// Asks for no news to be pushed for so many seconds, unless the neighbour
    /// has fewer than `keep` others to push to.
    pub(crate) fn prune(&mut self, seconds: u8, keep: u8) {
        self.prune = Some((seconds, keep));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.news.is_empty()
            && self.repairs.is_empty()
            && self.backlogs.is_empty()
            && self.ranges.is_empty()
            && self.lists.is_empty()
            && self.wants.is_empty()
            && self.grafts.is_none()
            && self.prune.is_none()
    }

    /// Takes out the next message for a neighbour that reads what is in the scope;
    /// `pushed` counts the records in it.
    pub(crate) fn next(
        &mut self,
        replica: &Replica,
        scope: Scope,
        pushed: &mut u64,
    ) -> Option<GossipMessage> {
        if let Some((resume, digests)) = self.grafts.take() {
            return Some(GossipMessage::Graft { resume, digests });
        }
        if let Some((seconds, keep)) = self.prune.take() {
            return Some(GossipMessage::Prune { seconds, keep });
        }
        if !self.wants.is_empty() {
            let count = self.wants.len().min(WANTS);
            return Some(GossipMessage::Want {
                keys: self.wants.drain(..count).collect(),
            });
        }
        // Many sums are marks of a backlog, and do not wait for its end.
        let sums_wait = self.ranges.len() >= RANGES;
        if let Some(push) = (!sums_wait)
            .then(|| self.next_push(replica, scope))
            .flatten()
        {
            if let GossipMessage::Push { records, .. } = &push {
                *pushed += records.len() as u64;
            }
            return Some(push);
        }
        if !sums_wait && let Some((first, last)) = self.lists.pop_front() {
            let held = reconcile::list(replica, scope, first, last);
            return Some(GossipMessage::Versions { first, last, held });
        }
        let count = self.ranges.len().min(RANGES);
        (count > 0).then(|| GossipMessage::Summary {
            ranges: self.ranges.drain(..count).collect(),
        })
    }

    fn next_push(&mut self, replica: &Replica, scope: Scope) -> Option<GossipMessage> {
        let push = |fresh, load: Load| GossipMessage::Push {
            fresh,
            records: load.records,
        };
        let news = take_keys(&mut self.news, replica, scope);
        if !news.records.is_empty() {
            return Some(push(true, news));
        }
        let mut load = take_keys(&mut self.repairs, replica, scope);
        while let Some(backlog) = self.backlogs.front_mut() {
            let ranges = &mut self.ranges;
            if !backlog.work_off(
                (replica, scope),
                |record, bytes| load.add(record, bytes),
                |mark| ranges.push_back(mark),
            ) {
                break;
            }
            self.backlogs.pop_front();
        }
        (!load.records.is_empty()).then(|| push(false, load))
    }
}

/// The records of one push.
#[derive(Default)]
struct Load {
    records: Vec<Arc<Record>>,
    size: usize,
}

impl Load {
    /// Adds a record if there is room for it and all `bytes` that follow of its owner,
    /// or if these need more than a message in any case. The first always fits.
    ///
    /// Messages overtake each other, and a record that comes before its owner's node
    /// record is of no use.
    fn add(&mut self, record: &Arc<Record>, bytes: usize) -> bool {
        let size = self.size + record.encoded_len();
        let has_room = |size: usize| OVERHEAD + size <= MAX_MESSAGE;
        let together = has_room(self.size + bytes) || !has_room(bytes);
        let fits = self.records.is_empty() || (has_room(size) && together);
        if fits {
            self.records.push(Arc::clone(record));
            self.size = size;
        }
        fits
    }
}

fn take_keys(keys: &mut BTreeSet<RecordKey>, replica: &Replica, scope: Scope) -> Load {
    let (mut load, mut owner) = (Load::default(), None);
    let record_of = |key: &RecordKey| replica.get(key).filter(|_| scope.has(key.topic));
    while let Some(key) = keys.first().copied() {
        if let Some(record) = record_of(&key) {
            let is_first = owner.replace(key.owner) != Some(key.owner);
            let bytes = match is_first {
                true => {
                    let of_owner = keys.iter().take_while(|other| other.owner == key.owner);
                    of_owner
                        .filter_map(record_of)
                        .map(|r| r.encoded_len())
                        .sum()
                }
                false => record.encoded_len(),
            };
            if !load.add(record, bytes) {
                break;
            }
        }
        keys.remove(&key);
    }
    load
}

#[cfg(test)]
mod tests {
    use proto::{
        PeerId,
        message::{Held, Message},
        record::{Topic, Version},
    };

    use super::*;
    use crate::{
        limits::LINK_PARTS,
        replica::tests::{record, replica_of},
    };

    #[test]
    fn no_message_exceeds_the_limit_and_nothing_is_lost() {
        let records: Vec<_> = (0..50)
            .flat_map(|owner| {
                (0..LINK_PARTS).map(move |part| record(owner, Topic::Links(part), 1, 0))
            })
            .collect();
        let replica = replica_of(&records);
        let mut outbox = Outbox::default();
        for record in &records {
            outbox.tell(record.key);
            outbox.repair(record.key);
            outbox.want([record.key]);
        }
        let everything = reconcile::compare(&replica, Scope::ALL, (0, u64::MAX), &[]);
        outbox.work_off(everything.push.unwrap());
        outbox.graft(true, [u32::MAX; 1000]);
        outbox.prune(60, 3);
        let widest = RangeSummary {
            first: u64::MAX,
            last: u64::MAX,
            fingerprint: u64::MAX,
            count: u32::MAX,
        };
        outbox.summarise([widest; 100]);
        let (mut pushed, mut sent) = (0, 0);
        while let Some(message) = outbox.next(&replica, Scope::ALL, &mut pushed) {
            if let GossipMessage::Push { records, .. } = &message {
                sent += records.len();
            }
            assert!(Message::Gossip(message).encode().len() <= MAX_MESSAGE);
        }
        assert!(outbox.is_empty());
        let expected = records.len() * 2 + replica.len();
        assert_eq!((pushed as usize, sent), (expected, expected));
    }

    #[test]
    fn an_owners_records_are_in_one_message_if_they_fit() {
        let parts: [u8; 3] = [1, 2, 4];
        let all: Vec<Vec<_>> = (0..90)
            .map(|owner| {
                let links = 0..parts[usize::from(owner % 3)];
                let links = links.map(Topic::Links);
                let topics = std::iter::once(Topic::Node).chain(links);
                topics.map(|topic| record(owner, topic, 1, 0)).collect()
            })
            .collect();
        let replica = replica_of(&all.concat());
        let mut outboxes = [(); 3].map(|()| Outbox::default());
        for record in all.concat() {
            outboxes[0].tell(record.key);
            outboxes[1].repair(record.key);
        }
        let everything = reconcile::compare(&replica, Scope::ALL, (0, u64::MAX), &[]);
        outboxes[2].work_off(everything.push.unwrap());
        for mut outbox in outboxes {
            let (mut pushed, mut whole) = (0, 0);
            while let Some(message) = outbox.next(&replica, Scope::ALL, &mut pushed) {
                let GossipMessage::Push { records, .. } = message else {
                    continue;
                };
                for of_owner in records.chunk_by(|a, b| a.key.owner == b.key.owner) {
                    let known = all
                        .iter()
                        .find(|all| all[0].key.owner == of_owner[0].key.owner);
                    assert_eq!(of_owner, known.unwrap());
                    whole += 1;
                }
            }
            assert_eq!((pushed as usize, whole), (all.concat().len(), all.len()));
        }
    }

    #[test]
    fn backlogs_keep_so_much() {
        let records: Vec<_> = (0..20)
            .map(|owner| record(owner, Topic::Node, 1, 0))
            .collect();
        let replica = replica_of(&records);
        let held = reconcile::list(&replica, Scope::ALL, 0, u64::MAX);
        let of = |held| reconcile::compare(&replica, Scope::ALL, (0, u64::MAX), held).push;
        let mut outbox = Outbox::default();
        for _ in 0..10_000 {
            outbox.work_off(of(&held[..1]).unwrap());
        }
        assert_eq!(outbox.backlogs.len(), WAITING);
        outbox.backlogs.clear();
        for _ in 0..10_000 {
            outbox.work_off(of(&held[..19]).unwrap());
        }
        assert_eq!(outbox.backlogs.len(), KEPT / 19);
    }

    #[test]
    fn the_longest_list_fits() {
        let key = RecordKey {
            owner: PeerId([255; 16]),
            topic: Topic::Stations(u16::MAX),
        };
        let version = Version {
            epoch: u64::MAX,
            sequence: u64::MAX,
        };
        let held = vec![
            Held {
                key,
                version,
                digest: u32::MAX
            };
            reconcile::LIST
        ];
        let message = GossipMessage::Versions {
            first: u64::MAX,
            last: u64::MAX,
            held,
        };
        assert!(Message::Gossip(message).encode().len() <= MAX_MESSAGE);
    }
}
