//! An event queue in virtual time, and a network that delays, loses, reorders
//! and cuts. Knows nothing of what it carries.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    time::{Duration, Instant},
};

use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// Events in the order of their time; those of one time in the order they were added.
pub struct EventQueue<E> {
    heap: BinaryHeap<Entry<E>>,
    sequence: u64,
}

struct Entry<E> {
    at: Instant,
    sequence: u64,
    event: E,
}

impl<E> EventQueue<E> {
    pub fn new() -> Self {
        Self {
            heap: BinaryHeap::new(),
            sequence: 0,
        }
    }

    pub fn push(&mut self, at: Instant, event: E) {
        self.sequence += 1;
        self.heap.push(Entry {
            at,
            sequence: self.sequence,
            event,
        });
    }

    /// The next event, if it is not later than `end`.
    pub fn pop_until(&mut self, end: Instant) -> Option<(Instant, E)> {
        self.heap.peek().filter(|entry| entry.at <= end)?;
        self.heap.pop().map(|entry| (entry.at, entry.event))
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.sequence == other.sequence
    }
}

impl<E> Eq for Entry<E> {}

/// The network between numbered hosts.
pub struct Netem {
    /// Shortest and longest one-way delay; each pair has its own in between.
    pub latency: (Duration, Duration),
    /// Added at random to each datagram.
    pub jitter: Duration,
    /// Share of datagrams lost each way.
    pub loss: f64,
    /// Share of datagrams held back long enough for others to overtake.
    pub reorder: f64,
    cuts: BTreeSet<(usize, usize)>,
    groups: BTreeMap<usize, usize>,
}

impl Netem {
    pub fn new() -> Self {
        let latency = (Duration::from_millis(5), Duration::from_millis(60));
        let (cuts, groups) = Default::default();
        Self {
            latency,
            jitter: Duration::from_millis(2),
            loss: 0.0,
            reorder: 0.0,
            cuts,
            groups,
        }
    }

    /// Cuts or mends one direction.
    pub fn cut(&mut self, from: usize, to: usize, cut: bool) {
        if cut {
            self.cuts.insert((from, to));
        } else {
            self.cuts.remove(&(from, to));
        }
    }

    /// Puts hosts in groups that do not reach each other; hosts not named are in group 0.
    pub fn partition(&mut self, groups: BTreeMap<usize, usize>) {
        self.groups = groups;
    }

    /// Whether datagrams can get through at all.
    pub fn passes(&self, from: usize, to: usize) -> bool {
        let group = |host: usize| self.groups.get(&host).copied().unwrap_or(0);
        group(from) == group(to) && !self.cuts.contains(&(from, to))
    }

    /// How long a datagram takes, or that it is lost.
    pub fn carry(&self, rng: &mut ChaCha8Rng, from: usize, to: usize) -> Option<Duration> {
        if !self.passes(from, to) || rng.random_bool(self.loss) {
            return None;
        }
        let held = if rng.random_bool(self.reorder) { 10 } else { 1 };
        Some(self.base(from, to) + self.jitter.mul_f64(rng.random::<f64>()) * held)
    }

    /// The delay of a pair without jitter, the same both ways.
    pub fn base(&self, from: usize, to: usize) -> Duration {
        let pair = (from.min(to) * 7919 + from.max(to) * 104_729) % 1000;
        self.latency.0 + (self.latency.1 - self.latency.0) * pair as u32 / 1000
    }
}
