//! All hosts, the underlay between them, and the virtual time.

use std::time::Duration;

use gossip::{Config, Mesh};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::{
    barrier::Barrier,
    cast::Cast,
    host::{Host, Traffic},
    identity::{FakeAuthority, scatter},
    net::{Net, Shared},
    observe::{Item, Log, Lost, ReachWatch, Watch},
    progress::Progress,
    shard::{Mailboxes, Shard},
    time::{Clock, NEVER, Time, windows},
    view::View,
    wan::{Reach, Wan},
};

/// The most virtual time between two looks at the wall clock.
const STRETCH: u64 = 20;

/// What a world is made of.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// Peers that a scenario starts with.
    pub(crate) peers: u32,
    /// Hosts for peers that come later.
    pub(crate) newcomers: u32,
    pub(crate) seed: u64,
    pub(crate) threads: usize,
    pub(crate) loss: f64,
    pub(crate) one_way: f64,
    pub(crate) nat: f64,
    pub(crate) reach: Reach,
    /// Whether whole engines run, and not the mesh with modelled sessions.
    pub(crate) engine: bool,
}

/// Hosts 0 to `peers` run the mesh; further ones wait for newcomers.
pub(crate) struct World {
    pub(crate) setup: Setup,
    /// Always at the beginning of a window.
    pub(crate) now: Time,
    pub(crate) shared: Shared,
    pub(crate) config: Config,
    /// For scenarios; nothing else draws from it.
    pub(crate) rng: ChaCha8Rng,
    pub(crate) progress: Progress,
    shards: Vec<Shard>,
}

impl World {
    /// Hosts on which nothing runs yet.
    pub(crate) fn new(setup: Setup, progress: Progress) -> Self {
        let hosts = (setup.peers + setup.newcomers) as usize;
        let wan = Wan::new(hosts, setup.loss, setup.one_way, setup.nat, setup.reach);
        let count = setup.threads.clamp(1, hosts.max(1));
        let shard = |index: usize| {
            let numbers = (index as u32..hosts as u32).step_by(count);
            let local = numbers.map(|number| Host::new(number, setup.seed, wan.is_natted(number)));
            Shard::new(index, local.collect(), hosts, count)
        };
        let shards = (0..count).map(shard).collect();
        Self {
            now: Time::default(),
            shared: Shared {
                clock: Clock::new(),
                wan,
                watch: Watch::default(),
                cast: setup.engine.then(|| Cast::new(hosts, setup.seed)),
                quiet: false,
                shards: count,
            },
            config: Config::default(),
            rng: ChaCha8Rng::seed_from_u64(scatter(setup.seed)),
            progress,
            shards,
            setup,
        }
    }

    /// Numbers of all hosts.
    pub(crate) fn numbers(&self) -> std::ops::Range<u32> {
        0..self.setup.peers + self.setup.newcomers
    }

    pub(crate) fn host(&self, number: u32) -> &Host {
        let shards = self.shards.len();
        &self.shards[number as usize % shards].hosts[number as usize / shards]
    }

    pub(crate) fn host_mut(&mut self, number: u32) -> &mut Host {
        let shards = self.shards.len();
        &mut self.shards[number as usize % shards].hosts[number as usize / shards]
    }

    /// A look at the mesh of a peer, if it runs.
    pub(crate) fn view(&self, number: u32) -> Option<View<'_>> {
        self.host(number).view(&self.shared)
    }

    /// The mesh of a peer, if it runs and its sessions are modelled.
    pub(crate) fn mesh(&self, number: u32) -> Option<&Mesh<FakeAuthority>> {
        self.host(number).mesh.as_ref()
    }

    /// Numbers of the peers that run.
    pub(crate) fn running(&self) -> Vec<u32> {
        self.numbers()
            .filter(|number| self.host(*number).runs())
            .collect()
    }

    /// Lets time pass, rounded up to whole windows.
    pub(crate) fn run_for(&mut self, time: Duration) {
        let first = self.now.window();
        let end = first + windows(time);
        let mut window = first;
        while window < end {
            let next = end.min(window + STRETCH);
            self.run_windows(window..next);
            window = next;
            self.now = Time::of_window(window);
            let steps = self.shards.iter().map(|shard| shard.steps).sum();
            self.progress.tell(self.now, steps);
        }
    }

    /// Lets time pass until something holds, looked at every `step`; returns
    /// how long that took, or nothing if it took longer than `limit`.
    pub(crate) fn run_until(
        &mut self,
        limit: Duration,
        step: Duration,
        mut holds: impl FnMut(&Self) -> bool,
    ) -> Option<Duration> {
        let start = self.now;
        while !holds(self) {
            if self.now.since(start) >= limit {
                return None;
            }
            self.run_for(step);
        }
        Some(self.now - start)
    }

    fn run_windows(&mut self, range: std::ops::Range<u64>) {
        let (shared, threads) = (&self.shared, self.shards.len());
        let (barrier, mailboxes) = (&Barrier::new(threads), &Mailboxes::new(threads));
        std::thread::scope(|scope| {
            let mut shards = self.shards.iter_mut();
            let ours = shards.next();
            for shard in shards {
                let range = range.clone();
                scope.spawn(move || shard.run(range, shared, barrier, mailboxes));
            }
            if let Some(ours) = ours {
                ours.run(range, shared, barrier, mailboxes);
            }
        });
    }

    /// Does something with one host, now.
    pub(crate) fn with<T>(
        &mut self,
        number: u32,
        f: impl FnOnce(&mut Host, &mut Net<'_>) -> T,
    ) -> T {
        let shards = self.shards.len();
        let shard = &mut self.shards[number as usize % shards];
        let result = shard.with(number as usize / shards, self.now, &self.shared, f);
        self.exchange();
        result
    }

    /// Does something with every host, now, with all threads.
    pub(crate) fn each(&mut self, f: impl Fn(&mut Host, &mut Net<'_>) + Sync) {
        let (now, shared, f) = (self.now, &self.shared, &f);
        std::thread::scope(|scope| {
            for shard in &mut self.shards {
                scope.spawn(move || shard.each(now, shared, f));
            }
        });
        self.exchange();
    }

    /// What was caused between windows goes where it happens.
    fn exchange(&mut self) {
        for from in 0..self.shards.len() {
            for to in 0..self.shards.len() {
                let events = self.shards[from].take_outgoing(to);
                self.shards[to].receive(events);
            }
        }
    }

    /// Launches a peer with targets, in the epoch after its last.
    pub(crate) fn launch(&mut self, number: u32, targets: &[u32]) {
        let config = self.config.clone();
        self.with(number, |host, net| host.launch(&config, targets, net));
    }

    /// Ends a peer without a word.
    pub(crate) fn crash(&mut self, number: u32) {
        self.host_mut(number).crash();
    }

    /// Ends a peer with a goodbye.
    pub(crate) fn stop(&mut self, number: u32) {
        self.with(number, Host::stop);
    }

    /// Keeps a peer from running for a while.
    pub(crate) fn stall(&mut self, number: u32, until: Time) {
        self.with(number, |host, net| host.stall(until, net));
    }

    /// Looks out for something at all hosts from now on. Returns its place.
    pub(crate) fn watch(&mut self, item: Item) -> usize {
        let (now, shared) = (self.now, &self.shared);
        for shard in &mut self.shards {
            let since = |host: &Host| match host.view(shared).is_some_and(|view| item.holds(view)) {
                true => now,
                false => NEVER,
            };
            shard.log.add_item(shard.hosts.iter().map(since).collect());
        }
        self.shared.watch.items.push(item);
        self.shared.watch.items.len() - 1
    }

    /// Since when an item holds at a host; [`NEVER`] if it does not.
    pub(crate) fn since(&self, item: usize, number: u32) -> Time {
        self.shards[number as usize % self.shards.len()]
            .log
            .since(item, number)
    }

    /// Looks out for nothing any more.
    pub(crate) fn clear_watch(&mut self) {
        self.shared.watch.items.clear();
        self.logs_mut().for_each(Log::clear_items);
    }

    /// Begins to note whom hosts lose from their routes.
    pub(crate) fn watch_reach(&mut self, well_since: Vec<Time>) {
        let running = self.running().len();
        self.logs_mut().for_each(Log::start_reach);
        self.shared.watch.reach = Some(ReachWatch {
            well_since,
            running,
        });
        // So that there is something to compare with.
        self.each(|host, net| host.observe_routes(net));
    }

    /// Since when a peer counts in that, from here on.
    pub(crate) fn set_well_since(&mut self, number: u32, since: Time) {
        if let Some(reach) = &mut self.shared.watch.reach {
            reach.well_since[number as usize] = since;
        }
    }

    /// Ends that. Returns the false losses in the order of time, and how many
    /// losses there were of peers that were not well.
    pub(crate) fn end_watch_reach(&mut self) -> (Vec<Lost>, u64) {
        self.shared.watch.reach = None;
        let (mut lost, mut unwell) = (Vec::new(), 0);
        for log in self.logs_mut() {
            log.stop_reach();
            lost.append(&mut log.lost);
            unwell += log.unwell;
        }
        lost.sort_unstable_by_key(|lost| (lost.at, lost.observer, lost.subject));
        (lost, unwell)
    }

    fn logs_mut(&mut self) -> impl Iterator<Item = &mut Log> {
        self.shards.iter_mut().map(|shard| &mut shard.log)
    }

    /// What each host sent and received since the beginning.
    pub(crate) fn traffic(&self) -> Vec<Traffic> {
        self.numbers()
            .map(|number| self.host(number).traffic)
            .collect()
    }

    /// Stands for all that happened: equal for equal runs, however many threads.
    pub(crate) fn trace_hash(&self) -> u64 {
        let traces = self.numbers().map(|number| self.host(number).trace);
        traces.fold(self.now.0, |hash, trace| scatter(hash ^ trace))
    }

    /// The virtual time in milliseconds, for what is to be new in each scenario.
    pub(crate) fn serial(&self) -> u32 {
        (self.now.0 / 1_000_000) as u32
    }
}
