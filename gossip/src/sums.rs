//! Sums over records, kept for equal parts of the space of positions.
//!
//! A neighbour of an older version cannot read records of every topic, not even
//! their keys. So what is compared with it is summed apart from what is not: a
//! [`Scope`] says which topics count. Sums of several kinds of topic join to
//! that of all.

use proto::{
    message::KNOWS_NAMES,
    record::{Record, Topic},
    space::CAN_SPACE,
};

use crate::{
    hash::{position, record_hash},
    order::PART_BITS,
};

/// The topics that a neighbour can read: those of the first version, and these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope {
    names: bool,
    space: bool,
}

impl Scope {
    /// Every topic of this version.
    pub const ALL: Self = Self {
        names: true,
        space: true,
    };

    /// By the capabilities of a greeting.
    pub fn of(capabilities: u64) -> Self {
        Self {
            names: capabilities & KNOWS_NAMES != 0,
            space: capabilities & CAN_SPACE != 0,
        }
    }

    /// Whether records about a topic can be read.
    pub fn has(self, topic: Topic) -> bool {
        self.includes(Kind::of(topic))
    }

    fn includes(self, kind: Kind) -> bool {
        match kind {
            Kind::First => true,
            Kind::Names => self.names,
            Kind::Space => self.space,
        }
    }
}

/// Topics that whoever reads one of them reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    First,
    Names,
    Space,
}

impl Kind {
    const ALL: [Self; 3] = [Self::First, Self::Names, Self::Space];

    fn of(topic: Topic) -> Self {
        match topic {
            Topic::Node | Topic::Links(_) | Topic::Stations(_) => Self::First,
            Topic::Names(_) => Self::Names,
            Topic::Space | Topic::Guard | Topic::Division => Self::Space,
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

impl Sum {
    /// Of one record.
    pub(crate) fn of(record: &Record) -> Self {
        Self {
            fingerprint: record_hash(record),
            count: 1,
        }
    }

    /// Of two sets that have nothing in common.
    pub(crate) fn joined(self, other: Self) -> Self {
        Self {
            fingerprint: self.fingerprint ^ other.fingerprint,
            count: self.count + other.count,
        }
    }

    fn toggle(&mut self, record: &Record, add: bool) {
        self.fingerprint ^= record_hash(record);
        self.count = if add { self.count + 1 } else { self.count - 1 };
    }
}

/// By bucket, and in all, for each kind of topic.
#[derive(Clone, Debug)]
pub(crate) struct Sums {
    buckets: Box<[[Sum; Kind::ALL.len()]]>,
    total: [Sum; Kind::ALL.len()],
}

impl Sums {
    /// Of nothing.
    pub(crate) fn new() -> Self {
        Self {
            buckets: vec![Default::default(); 1 << PART_BITS].into(),
            total: Default::default(),
        }
    }

    /// Takes a record in or out.
    pub(crate) fn toggle(&mut self, record: &Record, add: bool) {
        let kind = Kind::of(record.key.topic) as usize;
        self.total[kind].toggle(record, add);
        self.buckets[bucket(position(&record.key))][kind].toggle(record, add);
    }

    /// Over everything.
    pub(crate) fn total(&self, scope: Scope) -> Sum {
        join(&self.total, scope)
    }

    /// Over a bucket.
    pub(crate) fn bucket(&self, index: usize, scope: Scope) -> Sum {
        join(&self.buckets[index], scope)
    }
}

fn join(sums: &[Sum; Kind::ALL.len()], scope: Scope) -> Sum {
    let counted = Kind::ALL.into_iter().filter(|kind| scope.includes(*kind));
    counted.fold(Sum::default(), |sum, kind| sum.joined(sums[kind as usize]))
}

/// In which bucket a position is.
pub(crate) fn bucket(position: u64) -> usize {
    (position >> (64 - PART_BITS)) as usize
}

/// The positions of a bucket, both ends included.
pub(crate) fn bucket_range(index: usize) -> (u64, u64) {
    let first = (index as u64) << (64 - PART_BITS);
    (first, first | (u64::MAX >> PART_BITS))
}
