//! What is going to happen at the hosts of one shard, in the order in which each
//! sees it: by time, then by who caused it, then by the causes' own count. That
//! order does not depend on how many threads there are.
//!
//! Within a window the hosts come one after the other: nothing that a host sends
//! arrives before the next, so none sees of another how far it is, and each finds
//! its memory in the cache from its second event on.
//!
//! Events of one window are only put in order when the window begins; until
//! then they lie in a heap (in the ordinary sense) of their window. That is
//! cheaper than one priority queue for a million events.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BinaryHeap},
};

use super::{datagram::Datagram, time::Time, whole::Later};

/// Windows whose events are in the ring; later ones are in a map.
const RING: u64 = 64;

/// Something that happens at a host.
pub(crate) struct Event {
    pub(crate) at: Time,
    /// The host that caused it.
    pub(crate) from: u32,
    /// The host at which it happens.
    pub(crate) to: u32,
    /// Counts what `from` has caused.
    pub(crate) sequence: u64,
    pub(crate) what: What,
}

/// What happens.
pub(crate) enum What {
    /// A datagram arrives; its size with IP and UDP headers.
    Datagram(Datagram, u32),
    /// The mesh wants to be called.
    Timer,
    /// A step of a handshake is to be repeated, or the handshake given up.
    Repeat(u64),
    /// A stall is over.
    Wake,
    /// A liar tells its next lie.
    Lie,
    /// The control machine of a whole engine gets to something.
    Later(Box<Later>),
}

impl Event {
    fn key(&self) -> (u32, Time, u32, u64) {
        (self.to, self.at, self.from, self.sequence)
    }
}

/// The events of a shard.
pub(crate) struct Queue {
    /// The open window.
    window: u64,
    /// Its events, last first.
    current: Vec<Event>,
    /// What was added to it since it was opened.
    added: BinaryHeap<Soonest>,
    ring: Vec<Vec<Event>>,
    far: BTreeMap<u64, Vec<Event>>,
}

impl Queue {
    /// Empty; no window is open before the first call of [`Queue::open`].
    pub(crate) fn new() -> Self {
        Self {
            window: 0,
            current: Vec::new(),
            added: BinaryHeap::new(),
            ring: (0..RING).map(|_| Vec::new()).collect(),
            far: BTreeMap::new(),
        }
    }

    /// Adds an event, which must not be before the window to be opened next.
    pub(crate) fn push(&mut self, event: Event) {
        let window = event.at.window();
        if window < self.window {
            self.added.push(Soonest(event));
        } else if window < self.window + RING {
            self.ring[(window % RING) as usize].push(event);
        } else {
            self.far.entry(window).or_default().push(event);
        }
    }

    /// Begins with a window. Windows are opened one after the other.
    pub(crate) fn open(&mut self, window: u64) {
        debug_assert!(self.current.is_empty() && self.added.is_empty());
        // The place in the ring is free for the window that comes into its reach.
        let place = &mut self.ring[(window % RING) as usize];
        std::mem::swap(&mut self.current, place);
        self.window = window + 1;
        if let Some(far) = self.far.remove(&window) {
            self.current.extend(far);
        }
        self.current
            .sort_unstable_by_key(|event| std::cmp::Reverse(event.key()));
    }

    /// The next event of the open window.
    pub(crate) fn pop(&mut self) -> Option<Event> {
        let added = match (self.current.last(), self.added.peek()) {
            (Some(current), Some(added)) => added.0.key() < current.key(),
            (current, _) => current.is_none(),
        };
        if added {
            self.added.pop().map(|soonest| soonest.0)
        } else {
            self.current.pop()
        }
    }
}

struct Soonest(Event);

impl Ord for Soonest {
    fn cmp(&self, other: &Self) -> Ordering {
        other.0.key().cmp(&self.0.key())
    }
}

impl PartialOrd for Soonest {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Soonest {
    fn eq(&self, other: &Self) -> bool {
        self.0.key() == other.0.key()
    }
}

impl Eq for Soonest {}

#[cfg(test)]
mod tests {
    use super::*;

    fn timer(at_ms: u64, from: u32, sequence: u64) -> Event {
        Event {
            at: Time(at_ms * 1_000_000),
            from,
            to: 0,
            sequence,
            what: What::Timer,
        }
    }

    #[test]
    fn events_of_a_host_come_by_time_then_cause_then_count() {
        let mut queue = Queue::new();
        for (at, from, sequence) in [(9, 2, 1), (3, 5, 2), (5_000, 1, 1), (3, 5, 1), (3, 4, 9)] {
            queue.push(timer(at, from, sequence));
        }
        queue.open(0);
        let mut seen = Vec::new();
        while let Some(event) = queue.pop() {
            if seen.is_empty() {
                queue.push(timer(4, 0, 1));
                queue.push(timer(12, 0, 2));
            }
            seen.push((event.at.0 / 1_000_000, event.from, event.sequence));
        }
        assert_eq!(
            seen,
            [(3, 4, 9), (3, 5, 1), (3, 5, 2), (4, 0, 1), (9, 2, 1)]
        );
        let mut later = Vec::new();
        for window in 1..=500 {
            queue.open(window);
            later.extend(std::iter::from_fn(|| queue.pop()).map(|event| (window, event.from)));
        }
        assert_eq!(later, [(1, 0), (500, 1)]);
    }
}
