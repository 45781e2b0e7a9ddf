//! What a test tells the world to do: topologies, launches, faults, frames.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use proto::MacAddr;
use rand::RngCore;

use super::{
    frames::{self, Container},
    ledger::Audience,
    node::{address, container},
    world::{Flow, World},
};

impl World {
    /// Adds hosts; the first is the target of all.
    pub fn peers(&mut self, count: usize) -> &mut Self {
        for _ in 0..count {
            let host = self.add();
            self.nodes[host].targets = if host == 0 { Vec::new() } else { vec![0] };
        }
        self
    }

    /// Each host reaches the one before and the one after it only.
    pub fn line(&mut self) -> &mut Self {
        let edges: Vec<_> = (1..self.nodes.len()).map(|n| (n - 1, n)).collect();
        self.edges(&edges)
    }

    /// Only these pairs reach each other; the higher has the lower as target.
    pub fn edges(&mut self, edges: &[(usize, usize)]) -> &mut Self {
        let edges: BTreeSet<_> = edges.iter().map(|(a, b)| (*a.min(b), *a.max(b))).collect();
        for high in 0..self.nodes.len() {
            let lower = (0..high).filter(|low| edges.contains(&(*low, high)));
            self.nodes[high].targets = lower.collect();
            for low in 0..high {
                self.net.netem.cut(low, high, !edges.contains(&(low, high)));
                self.net.netem.cut(high, low, !edges.contains(&(low, high)));
            }
        }
        self
    }

    /// Launches all peers that do not run, and waits until all is up.
    pub fn launch(&mut self) -> &mut Self {
        for host in 0..self.nodes.len() {
            if self.nodes[host].running.is_none() {
                self.start(host);
            }
        }
        self.run_for(Duration::from_secs(6))
    }

    /// Launches a peer in its next epoch.
    pub fn start(&mut self, host: usize) -> &mut Self {
        self.nodes[host].epoch += 1;
        self.start_again(host)
    }

    /// Launches a peer in the epoch that it had before.
    pub fn start_again(&mut self, host: usize) -> &mut Self {
        let (seed, now) = (self.rng.next_u64(), self.now);
        self.nodes[host].launch(seed, now);
        let Some(mut running) = self.nodes[host].running.take() else {
            return self;
        };
        self.nodes[host].begin(&mut running.router, now);
        self.nodes[host].running = Some(running);
        self.control(host, |_, _| {});
        self
    }

    /// A peer ends without a word.
    pub fn crash(&mut self, host: usize) -> &mut Self {
        self.nodes[host].running = None;
        self
    }

    /// A peer says good-bye and ends.
    pub fn stop(&mut self, host: usize) -> &mut Self {
        self.control(host, |router, now| router.shut_down(now));
        self.crash(host)
    }

    /// Somebody removes all keys for ESP from a host's kernel, and it is noticed.
    pub fn flush(&mut self, host: usize) -> &mut Self {
        for (index, outcome) in self.nodes[host].kernel.flush() {
            self.control(host, |router, now| router.handle_esp(index, outcome, now));
        }
        self
    }

    /// Two hosts do not reach each other any more.
    pub fn cut(&mut self, a: usize, b: usize) -> &mut Self {
        self.net.netem.cut(a, b, true);
        self.net.netem.cut(b, a, true);
        self
    }

    /// Two hosts reach each other again.
    pub fn heal(&mut self, a: usize, b: usize) -> &mut Self {
        self.net.netem.cut(a, b, false);
        self.net.netem.cut(b, a, false);
        self
    }

    /// Parts the hosts into those below `first` and the others.
    pub fn partition(&mut self, first: usize) -> &mut Self {
        let groups: BTreeMap<usize, usize> = (first..self.nodes.len()).map(|n| (n, 1)).collect();
        self.net.netem.partition(groups);
        self
    }

    /// Joins what was parted.
    pub fn unite(&mut self) -> &mut Self {
        self.net.netem.partition(BTreeMap::new());
        self
    }

    /// A host appears at another address from now on; nobody tells its peer.
    pub fn roam(&mut self, host: usize, moves: u8) -> &mut Self {
        let address = address(host, moves);
        self.nodes[host].address = address;
        self.net.settle(host, address);
        self
    }

    /// The first container of a host moves to another host, and talks there.
    pub fn migrate(&mut self, from: usize, to: usize) -> &mut Self {
        if self.nodes[from].containers.is_empty() {
            return self;
        }
        let container = self.nodes[from].containers.remove(0);
        self.nodes[to].containers.push(container);
        self.control(from, |router, now| {
            router.detach_station(container.mac, now)
        });
        let ips = container.ips();
        self.control(to, |router, now| {
            router.attach_station(container.mac, &ips, now);
        });
        self
    }

    /// The first container of a host.
    pub fn container(&self, host: usize) -> Container {
        let first = self.nodes[host].containers.first();
        first.copied().unwrap_or_else(|| container(host, 15))
    }

    /// A container of `from` sends a frame of `len` bytes; IPv4 and IPv6 take turns.
    pub fn send(&mut self, from: usize, to: Audience, len: usize) -> &mut Self {
        let (id, source) = (self.ledger.next(), self.container(from));
        let frame = match to {
            Audience::Everybody => frames::group(&source, MacAddr::BROADCAST, id, len),
            Audience::Host(to) if id.is_multiple_of(2) => {
                frames::udp_v4(&source, &self.container(to), id, len)
            }
            Audience::Host(to) => frames::udp_v6(&source, &self.container(to), id, len),
        };
        self.ledger.sent(from, to, &frame, self.now);
        self.egress(from, frame);
        self
    }

    /// Sends a frame to one host.
    pub fn ping(&mut self, from: usize, to: usize) -> &mut Self {
        self.send(from, Audience::Host(to), 200)
    }

    /// Sends a frame to all.
    pub fn shout(&mut self, from: usize) -> &mut Self {
        self.send(from, Audience::Everybody, 150)
    }

    /// Frames from one host to another at a steady pace, for so long.
    pub fn flow(&mut self, from: usize, to: usize, every: Duration, span: Duration) -> &mut Self {
        let until = self.now + span;
        self.push_flow(Flow {
            from,
            to: Audience::Host(to),
            every,
            len: 300,
            until,
        });
        self
    }

    /// Broadcasts of one host at a steady pace, for so long.
    pub fn shouts(&mut self, from: usize, every: Duration, span: Duration) -> &mut Self {
        let until = self.now + span;
        self.push_flow(Flow {
            from,
            to: Audience::Everybody,
            every,
            len: 150,
            until,
        });
        self
    }

    /// Everybody sends to everybody, once.
    pub fn ping_all(&mut self) -> &mut Self {
        for from in self.alive() {
            for to in self.alive() {
                if from != to {
                    self.ping(from, to);
                }
            }
        }
        self
    }

    /// The hosts whose peers run.
    pub fn alive(&self) -> Vec<usize> {
        let alive = self.nodes.iter().filter(|node| node.running.is_some());
        alive.map(|node| node.number).collect()
    }
}
