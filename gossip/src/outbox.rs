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

use crate::{reconcile, replica::Replica};

/// Sums in one message.
const RANGES: usize = 28;
/// Keys asked for in one message.
const WANTS: usize = 48;
/// Sums and lists waiting; more are left to the next round.
const WAITING: usize = 512;
/// Tags and counts around the records of a push.
const OVERHEAD: usize = 8;

/// The queue of one neighbour.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outbox {
    records: BTreeSet<RecordKey>,
    ranges: VecDeque<RangeSummary>,
    lists: VecDeque<(u64, u64)>,
    wants: VecDeque<RecordKey>,
}

impl Outbox {
    pub(crate) fn push(&mut self, key: RecordKey) {
        self.records.insert(key);
    }

    /// The neighbour has this already.
    pub(crate) fn cancel(&mut self, key: &RecordKey) {
        self.records.remove(key);
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

    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
            && self.ranges.is_empty()
            && self.lists.is_empty()
            && self.wants.is_empty()
    }

    /// Takes out the next message; `pushed` counts the records in it.
    pub(crate) fn next(&mut self, replica: &Replica, pushed: &mut u64) -> Option<GossipMessage> {
        if !self.wants.is_empty() {
            let count = self.wants.len().min(WANTS);
            return Some(GossipMessage::Want {
                keys: self.wants.drain(..count).collect(),
            });
        }
        let records = self.next_records(replica);
        if !records.is_empty() {
            *pushed += records.len() as u64;
            return Some(GossipMessage::Push { records });
        }
        if let Some((first, last)) = self.lists.pop_front() {
            let held = reconcile::list(replica, first, last);
            return Some(GossipMessage::Versions { first, last, held });
        }
        let count = self.ranges.len().min(RANGES);
        (count > 0).then(|| GossipMessage::Summary {
            ranges: self.ranges.drain(..count).collect(),
        })
    }

    fn next_records(&mut self, replica: &Replica) -> Vec<Arc<Record>> {
        let mut records = Vec::new();
        let mut size = OVERHEAD;
        while let Some(key) = self.records.first().copied() {
            if let Some(record) = replica.get(&key) {
                size += record.encoded_bound();
                if size > MAX_MESSAGE && !records.is_empty() {
                    break;
                }
                records.push(Arc::clone(record));
            }
            self.records.remove(&key);
        }
        records
    }
}

#[cfg(test)]
mod tests {
    use proto::{
        PeerId,
        message::{Held, Message},
        record::{Topic, Version},
    };

    use super::*;
    use crate::replica::{LINK_PARTS, tests::record};

    #[test]
    fn no_message_exceeds_the_limit_and_nothing_is_lost() {
        let mut replica = Replica::new(100);
        let mut outbox = Outbox::default();
        for owner in 0..50 {
            for part in 0..LINK_PARTS {
                let record = record(owner, Topic::Links(part), 1, 0);
                replica.merge(&record, |_| true);
                outbox.push(record.key);
                outbox.want([record.key]);
            }
        }
        let widest = RangeSummary {
            first: u64::MAX,
            last: u64::MAX,
            fingerprint: u64::MAX,
            count: u32::MAX,
        };
        outbox.summarise([widest; 100]);
        let (mut pushed, mut sent) = (0, 0);
        while let Some(message) = outbox.next(&replica, &mut pushed) {
            if let GossipMessage::Push { records } = &message {
                sent += records.len();
            }
            assert!(Message::Gossip(message).encode().len() <= MAX_MESSAGE);
        }
        assert!(outbox.is_empty());
        assert_eq!((pushed, sent), (400, 400));
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
