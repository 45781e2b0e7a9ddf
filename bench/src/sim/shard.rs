//! A part of the hosts, run by one thread: every n-th host, and what is going to
//! happen at them.

use std::sync::Mutex;

use super::{
    barrier::{Barrier, Guard},
    host::Host,
    memory,
    net::{Net, Shared},
    observe::Log,
    queue::{Event, Queue},
    time::Time,
};

/// The hosts of one thread.
pub(crate) struct Shard {
    index: usize,
    pub(crate) hosts: Vec<Host>,
    queue: Queue,
    /// What happens at hosts of other shards, by shard.
    outgoing: Vec<Vec<Event>>,
    pub(crate) log: Log,
    /// Events so far.
    pub(crate) steps: u64,
}

/// Where shards leave events for each other: one place per pair.
pub(crate) struct Mailboxes {
    shards: usize,
    places: Vec<Mutex<Vec<Event>>>,
}

impl Mailboxes {
    pub(crate) fn new(shards: usize) -> Self {
        let places = (0..shards * shards).map(|_| Mutex::default()).collect();
        Self { shards, places }
    }

    fn place(&self, from: usize, to: usize) -> &Mutex<Vec<Event>> {
        &self.places[from * self.shards + to]
    }
}

impl Shard {
    pub(crate) fn new(index: usize, hosts: Vec<Host>, all: usize, shards: usize) -> Self {
        Self {
            index,
            hosts,
            queue: Queue::new(),
            outgoing: (0..shards).map(|_| Vec::new()).collect(),
            log: Log::new(all, shards),
            steps: 0,
        }
    }

    /// Runs some windows, in step with the other shards.
    pub(crate) fn run(
        &mut self,
        windows: std::ops::Range<u64>,
        shared: &Shared,
        barrier: &Barrier,
        mailboxes: &Mailboxes,
    ) {
        let guard = Guard(barrier);
        for window in windows {
            self.run_window(window, shared);
            if mailboxes.shards > 1 {
                self.post(mailboxes);
                // Whoever is ahead by a window posts for windows that are later still.
                if !guard.0.wait() {
                    break;
                }
                self.collect(mailboxes);
            }
        }
        memory::settle();
    }

    fn run_window(&mut self, window: u64, shared: &Shared) {
        self.queue.open(window);
        while let Some(event) = self.queue.pop() {
            self.steps += 1;
            let host = event.to as usize / shared.shards;
            let mut net = Net {
                now: event.at,
                shared,
                queue: &mut self.queue,
                outgoing: &mut self.outgoing,
                shard: self.index,
                log: &mut self.log,
            };
            self.hosts[host].handle(event, &mut net);
        }
    }

    fn post(&mut self, mailboxes: &Mailboxes) {
        for (to, events) in self.outgoing.iter_mut().enumerate() {
            if !events.is_empty() {
                let place = mailboxes.place(self.index, to);
                place
                    .lock()
                    .expect("no thread panicked with it")
                    .append(events);
            }
        }
    }

    fn collect(&mut self, mailboxes: &Mailboxes) {
        for from in 0..mailboxes.shards {
            let place = mailboxes.place(from, self.index);
            let events = std::mem::take(&mut *place.lock().expect("no thread panicked with it"));
            events.into_iter().for_each(|event| self.queue.push(event));
        }
    }

    /// Does something with each host, between windows.
    pub(crate) fn each(
        &mut self,
        now: Time,
        shared: &Shared,
        f: &(impl Fn(&mut Host, &mut Net<'_>) + Sync),
    ) {
        for host in &mut self.hosts {
            let mut net = Net {
                now,
                shared,
                queue: &mut self.queue,
                outgoing: &mut self.outgoing,
                shard: self.index,
                log: &mut self.log,
            };
            f(host, &mut net);
        }
        memory::settle();
    }

    /// Does something with one host, between windows.
    pub(crate) fn with<T>(
        &mut self,
        host: usize,
        now: Time,
        shared: &Shared,
        f: impl FnOnce(&mut Host, &mut Net<'_>) -> T,
    ) -> T {
        let mut net = Net {
            now,
            shared,
            queue: &mut self.queue,
            outgoing: &mut self.outgoing,
            shard: self.index,
            log: &mut self.log,
        };
        f(&mut self.hosts[host], &mut net)
    }

    /// Takes out what other shards are to get.
    pub(crate) fn take_outgoing(&mut self, to: usize) -> Vec<Event> {
        std::mem::take(&mut self.outgoing[to])
    }

    /// Adds events of other shards.
    pub(crate) fn receive(&mut self, events: Vec<Event>) {
        events.into_iter().for_each(|event| self.queue.push(event));
    }
}
