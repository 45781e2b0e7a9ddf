//! The hosts, the clock, and the queue of what happens next. Each peer is
//! driven as the daemon drives it: the data path at once, the control machine
//! a little later, and after it the snapshot before its datagrams.

#![allow(clippy::unwrap_used, reason = "test code outside of test functions")]

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher},
    net::SocketAddr,
    time::{Duration, Instant},
};

use crypto::{Identity, Secret};
use gossip::DialId;
use proto::Endpoint;
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use wove::engine::{Effects, Event, Router, Tunnelled, Upcall};

use super::{
    frames,
    kernel::Cover,
    ledger::{Audience, Ledger},
    node::{Node, PORT, host_of},
    underlay::Underlay,
    watch::Watch,
};
use crate::netem::EventQueue;

/// How long a message to the control thread waits.
const CONTROL_DELAY: Duration = Duration::from_micros(80);
/// How long a datagram takes by TCP.
const STREAM_DELAY: Duration = Duration::from_millis(10);
/// How long a name takes to resolve.
const RESOLVE_DELAY: Duration = Duration::from_millis(1);

enum Happening {
    /// A datagram comes to an address.
    Arrive {
        to: SocketAddr,
        source: Endpoint,
        datagram: Vec<u8>,
    },
    /// A frame comes out of VXLAN, with the identifier of this index.
    Tunnelled {
        host: usize,
        source: SocketAddr,
        index: u32,
        cover: Cover,
        datagram: Vec<u8>,
    },
    /// The control thread of a host gets to a message.
    Control {
        host: usize,
        life: u64,
        upcall: Upcall,
    },
    Timer {
        host: usize,
        life: u64,
    },
    Resolved {
        host: usize,
        life: u64,
        dial: DialId,
        to: Option<usize>,
    },
    TooLarge {
        host: usize,
        life: u64,
        to: SocketAddr,
        size: usize,
    },
    /// A container sends the next frame of a flow.
    Flow(Flow),
}

/// Frames from one container to another at a steady pace.
#[derive(Clone, Copy)]
pub struct Flow {
    pub from: usize,
    pub to: Audience,
    pub every: Duration,
    pub len: usize,
    pub until: Instant,
}

/// All of it.
pub struct World {
    pub seed: u64,
    /// Happenings so far.
    pub step: u64,
    pub now: Instant,
    pub nodes: Vec<Node>,
    pub net: Underlay,
    pub ledger: Ledger,
    pub rng: ChaCha8Rng,
    pub secret: Secret,
    /// Whether every datagram is searched for the canary.
    pub search_plaintext: bool,
    /// Datagrams to addresses where no host is.
    pub astray: Vec<(SocketAddr, Vec<u8>)>,
    /// Pairs between which VXLAN does not pass.
    pub blocked: BTreeSet<(usize, usize)>,
    /// Frames out of VXLAN that were let in nowhere.
    pub foreign: u64,
    /// Packets that a kernel's XFRM refused.
    pub unopened: u64,
    /// Folds every datagram and every frame that arrived.
    trace: DefaultHasher,
    start: Instant,
    queue: EventQueue<Happening>,
    watch: Watch,
}

impl World {
    #[expect(
        clippy::disallowed_methods,
        reason = "virtual time has to start somewhere"
    )]
    pub fn new(seed: u64) -> Self {
        let start = Instant::now();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let secret = Secret::generate(&mut rng);
        Self {
            seed,
            step: 0,
            now: start,
            nodes: Vec::new(),
            net: Underlay::new(),
            ledger: Ledger::default(),
            rng,
            secret,
            search_plaintext: false,
            astray: Vec::new(),
            blocked: BTreeSet::new(),
            foreign: 0,
            unopened: 0,
            trace: DefaultHasher::new(),
            start,
            queue: EventQueue::new(),
            watch: Watch::new(),
        }
    }

    /// Adds a host whose peer does not run yet.
    pub fn add(&mut self) -> usize {
        let mut identity = [0; Identity::LEN];
        self.rng.fill_bytes(&mut identity);
        let number = self.nodes.len();
        let node = Node::new(number, identity, vec![self.secret.clone()]);
        self.net.settle(number, node.address);
        self.nodes.push(node);
        number
    }

    /// Time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// Ends the run.
    pub fn fail(&self, what: &str) -> ! {
        panic!(
            "SEED={} STEP={} at {:?}: {what}",
            self.seed,
            self.step,
            self.elapsed()
        );
    }

    /// A number that two equal runs have in common.
    pub fn trace_hash(&self) -> u64 {
        self.trace.finish()
    }

    /// Lets time pass.
    pub fn run_for(&mut self, span: Duration) -> &mut Self {
        let end = self.now + span;
        while let Some((at, happening)) = self.queue.pop_until(end) {
            self.now = at;
            self.step += 1;
            self.happen(happening);
        }
        self.now = end;
        if let Some(error) = self.watch.error() {
            self.fail(&format!("an error was logged: {error}"));
        }
        self
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrive {
                to,
                source,
                datagram,
            } => self.arrive(to, source, datagram),
            Happening::Tunnelled {
                host,
                source,
                index,
                cover,
                datagram,
            } => self.come_out(host, source, (index, cover), datagram),
            Happening::Control { host, life, upcall } if self.lives(host, life) => {
                self.control(host, |router, now| router.handle_upcall(upcall, now));
            }
            Happening::Timer { host, life } if self.lives(host, life) => self.time_out(host),
            Happening::Resolved {
                host,
                life,
                dial,
                to,
            } if self.lives(host, life) => self.resolved(host, dial, to),
            Happening::TooLarge {
                host,
                life,
                to,
                size,
            } if self.lives(host, life) => {
                self.control(host, |router, now| router.handle_too_large(to, size, now));
            }
            Happening::Flow(flow) => self.flow_on(flow),
            Happening::Control { .. }
            | Happening::Timer { .. }
            | Happening::Resolved { .. }
            | Happening::TooLarge { .. } => {}
        }
    }

    fn lives(&self, host: usize, life: u64) -> bool {
        self.nodes[host].running.is_some() && self.nodes[host].life == life
    }

    fn arrive(&mut self, to: SocketAddr, source: Endpoint, mut datagram: Vec<u8>) {
        let Some(host) = self.net.host_at(to) else {
            self.astray.push((to, datagram));
            return;
        };
        let now = self.now;
        let Some(peer) = &mut self.nodes[host].running else {
            return;
        };
        let mut sink = Effects::default();
        peer.ingress
            .handle_datagram(&peer.snapshot, &mut datagram, source, now, &mut sink);
        self.carry_out(host, sink);
    }

    fn time_out(&mut self, host: usize) {
        let node = &mut self.nodes[host];
        if node.timer.take_if(|at| *at <= self.now).is_some() {
            self.control(host, Router::handle_timeout);
        }
    }

    fn resolved(&mut self, host: usize, dial: DialId, to: Option<usize>) {
        let address = to
            .and_then(|to| self.nodes.get(to))
            .map(|node| node.address);
        let result = address
            .map(|address| vec![address])
            .ok_or_else(|| "no such name".to_owned());
        self.control(host, |router, now| {
            router.handle_resolved(dial, result, now);
        });
    }

    fn flow_on(&mut self, flow: Flow) {
        if self.now >= flow.until {
            return;
        }
        if self.nodes[flow.from].running.is_some() {
            self.send(flow.from, flow.to, flow.len);
        }
        self.queue
            .push(self.now + flow.every, Happening::Flow(flow));
    }

    /// Starts a flow.
    pub fn push_flow(&mut self, flow: Flow) {
        self.queue.push(self.now, Happening::Flow(flow));
    }

    /// A container of `host` sends a frame.
    pub fn egress(&mut self, host: usize, mut frame: Vec<u8>) {
        let now = self.now;
        let Some(peer) = &mut self.nodes[host].running else {
            return;
        };
        let mut sink = Effects::default();
        peer.egress
            .handle_frame(&peer.snapshot, &mut frame, now, &mut sink);
        self.carry_out(host, sink);
    }

    /// Does what the data path of a host asked for.
    pub fn carry_out(&mut self, host: usize, sink: Effects) {
        for (to, datagram) in sink.datagrams {
            self.transmit(host, to, datagram);
        }
        for frame in sink.frames {
            self.deliver(host, frame);
        }
        let life = self.nodes[host].life;
        for upcall in sink.upcalls {
            let happening = Happening::Control { host, life, upcall };
            self.queue.push(self.now + CONTROL_DELAY, happening);
        }
    }

    fn deliver(&mut self, host: usize, frame: Vec<u8>) {
        (host, &frame).hash(&mut self.trace);
        let Some(id) = frames::mark(&frame) else {
            self.nodes[host].other_frames.push(frame);
            return;
        };
        if let Err(what) = self.ledger.arrived(id, host, &frame, self.now) {
            self.fail(&what);
        }
    }

    /// Lets the control machine of a host do something, and carries it out.
    pub fn control(&mut self, host: usize, act: impl FnOnce(&mut Router, Instant)) {
        let now = self.now;
        if let Some(peer) = &mut self.nodes[host].running {
            act(&mut peer.router, now);
            self.drain(host);
        }
    }

    fn drain(&mut self, host: usize) {
        let node = &mut self.nodes[host];
        let (Some(peer), kernel) = (&mut node.running, &mut node.kernel) else {
            return;
        };
        loop {
            if let Some(snapshot) = peer.router.take_snapshot() {
                peer.snapshot = snapshot;
            }
            let Some(order) = peer.router.poll_esp() else {
                break;
            };
            if let Some(outcome) = kernel.carry_out(&order) {
                peer.router.handle_esp(order.index, outcome, self.now);
            }
        }
        let mut transmits = Vec::new();
        while let Some(transmit) = peer.router.poll_transmit() {
            transmits.push(transmit);
        }
        let mut tunnelled = Vec::new();
        while let Some(frame) = peer.router.poll_tunnel() {
            tunnelled.push(frame);
        }
        let mut events = Vec::new();
        while let Some(event) = peer.router.poll_event() {
            events.push(event);
        }
        for transmit in transmits {
            self.transmit(host, transmit.to, transmit.datagram);
        }
        for frame in tunnelled {
            self.go_in(host, frame);
        }
        for event in events {
            self.act(host, event);
        }
        self.arm(host);
    }

    fn act(&mut self, host: usize, event: Event) {
        if let Event::Resolve { dial, target } = &event {
            let (dial, to) = (*dial, host_of(target));
            let life = self.nodes[host].life;
            let resolved = Happening::Resolved {
                host,
                life,
                dial,
                to,
            };
            self.queue.push(self.now + RESOLVE_DELAY, resolved);
        }
        self.nodes[host].note(event, self.now);
    }

    fn arm(&mut self, host: usize) {
        let node = &mut self.nodes[host];
        let due = node.running.as_ref().and_then(|p| p.router.poll_timeout());
        let Some((at, _)) = due else { return };
        let at = at.max(self.now);
        if node.timer.is_none_or(|armed| at < armed) {
            node.timer = Some(at);
            let life = node.life;
            self.queue.push(at, Happening::Timer { host, life });
        }
    }

    fn transmit(&mut self, host: usize, to: Endpoint, datagram: Vec<u8>) {
        (self.elapsed(), host, to, &datagram).hash(&mut self.trace);
        if self.search_plaintext && frames::has_canary(&datagram) {
            self.fail("plaintext on the underlay");
        }
        let (size, to) = (
            datagram.len(),
            match to {
                Endpoint::Udp(to) => to,
                Endpoint::Tcp(to) => return self.stream(host, to, &datagram),
            },
        );
        if size > self.nodes[host].datagram_limit {
            let life = self.nodes[host].life;
            let refused = Happening::TooLarge {
                host,
                life,
                to,
                size,
            };
            self.queue.push(self.now + CONTROL_DELAY, refused);
            return;
        }
        let source = self.nodes[host].address;
        let Some(there) = self.net.host_at(to) else {
            self.astray.push((to, datagram));
            return;
        };
        for (delay, datagram) in self.net.carry(&mut self.rng, (host, there), datagram) {
            self.inject_after(delay, to, source, datagram);
        }
    }

    /// A connection is there as soon as it is wanted, if there is a host.
    fn stream(&mut self, host: usize, to: SocketAddr, datagram: &[u8]) {
        let source = Endpoint::Tcp(self.nodes[host].address);
        let Some(there) = self.net.host_at(to) else {
            return;
        };
        for datagram in self.net.carry_stream((host, there), datagram) {
            let arrive = Happening::Arrive {
                to,
                source,
                datagram,
            };
            self.queue.push(self.now + STREAM_DELAY, arrive);
        }
    }

    /// What the kernel does with a probe: it puts address and identifier to it.
    fn go_in(&mut self, host: usize, frame: Tunnelled) {
        let Some(running) = &self.nodes[host].running else {
            return;
        };
        let way = running.snapshot.fast.get(&frame.index);
        let Some((to, Some(index), esp)) = way.map(|way| (way.address, way.vni, way.esp)) else {
            self.fail("a probe for a fast path that is not there");
        };
        let Ok(cover) = self.nodes[host].kernel.cover(to) else {
            return;
        };
        if cover.is_some() != esp {
            self.fail("in clear, or what should be");
        }
        let there = self.net.host_at(SocketAddr::new(to, PORT));
        let Some(there) = there.filter(|there| !self.blocked.contains(&(host, *there))) else {
            return;
        };
        let source = self.nodes[host].address;
        let carried = self.net.carry(&mut self.rng, (host, there), frame.datagram);
        for (delay, datagram) in carried {
            let tunnelled = Happening::Tunnelled {
                host: there,
                source,
                index,
                cover,
                datagram,
            };
            self.queue.push(self.now + delay, tunnelled);
        }
    }

    /// What the kernel lets in: identifier and source have to belong together.
    fn come_out(
        &mut self,
        host: usize,
        source: SocketAddr,
        (index, cover): (u32, Cover),
        mut datagram: Vec<u8>,
    ) {
        let now = self.now;
        if !self.nodes[host].kernel.opens(source.ip(), cover) {
            self.unopened += 1;
            return;
        }
        let Some(peer) = &mut self.nodes[host].running else {
            return;
        };
        let known = peer.snapshot.fast.get(&index);
        if known.is_none_or(|way| way.source != Some(source.ip())) {
            self.foreign += 1;
            return;
        }
        let mut sink = Effects::default();
        peer.ingress
            .handle_tunnelled(&peer.snapshot, &mut datagram, index, now, &mut sink);
        self.carry_out(host, sink);
    }

    /// A datagram from anywhere comes to an address after a while.
    pub fn inject_after(
        &mut self,
        delay: Duration,
        to: SocketAddr,
        source: SocketAddr,
        datagram: Vec<u8>,
    ) {
        let arrive = Happening::Arrive {
            to,
            source: Endpoint::Udp(source),
            datagram,
        };
        self.queue.push(self.now + delay, arrive);
    }
}

#[expect(clippy::print_stderr, reason = "a failed run names its seed and step")]
impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (seed, step, at) = (self.seed, self.step, self.elapsed());
            eprintln!("SEED={seed} STEP={step} at {at:?}");
        }
    }
}
