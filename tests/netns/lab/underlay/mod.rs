//! The underlay: an Ethernet in this process between TAPs, one or more per
//! host, with faults on demand, counters and a view of every frame.
//!
//! Must not know daemons. The thread is in here, forwarding in `switch`.

mod rules;
mod switch;
mod wire;

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

pub(crate) use rules::{HostId, PairRule, Rules};
pub(crate) use switch::Tally;
use switch::{FakeState, Port, Switch};
pub(crate) use wire::{Mac, arp, arp_answer, checksum, facts, udp, udp_payload};

use super::netns::Netns;
use super::sys;

/// The largest MTU of the underlay, in bytes of the IP packet.
pub(crate) const MAX_MTU: u32 = 9000;

/// Packets a TAP queues before it drops: several 64 KB bursts.
const QUEUE: u32 = 4000;

/// The network between the hosts.
pub(crate) struct Underlay {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Where a host is plugged in.
#[derive(Clone, Debug)]
pub(crate) struct Plug {
    /// The interface inside the host.
    pub(crate) ifname: String,
    /// Its IPv4 address, of a /16.
    pub(crate) v4: Ipv4Addr,
    /// Its IPv6 address, of a /64.
    pub(crate) v6: Ipv6Addr,
}

/// Counts the frames a predicate accepts, and keeps the first of them.
pub(crate) struct Watch {
    hits: Arc<AtomicU64>,
    frames: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// An address on the underlay that no host has.
pub(crate) struct Fake {
    shared: Arc<Shared>,
    state: Arc<Mutex<FakeState>>,
    ip: Ipv4Addr,
}

struct Shared {
    switch: Mutex<Switch>,
    wake: EventFd,
    stop: AtomicBool,
}

impl Underlay {
    /// An underlay without hosts; its faults roll dice from `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let shared = Arc::new(Shared {
            switch: Mutex::new(Switch::new(seed)),
            wake: EventFd::from_flags(flags).expect("a descriptor is left"),
            stop: AtomicBool::new(false),
        });
        let served = shared.clone();
        let thread = Some(thread::spawn(move || serve(&served)));
        Self { shared, thread }
    }

    /// Plugs a host into a segment: hosts without a common segment cannot
    /// reach each other. The interface is named `eth` and the segment's number.
    pub(crate) fn plug(&self, host: HostId, netns: &Netns, segment: usize) -> Plug {
        let ifname = format!("eth{segment}");
        let tap = netns
            .run(|| sys::open_tap(&ifname))
            .unwrap_or_else(|e| panic!("a TAP needs root and /dev/net/tun: {e}"));
        let plug = Plug {
            v4: address_v4(segment, host.0 + 1),
            v6: address_v6(segment, host.0 + 1),
            ifname,
        };
        let mac = [2, 0x99, segment as u8, 0, 0, host.0 as u8 + 1];
        plug.configure(netns, mac);
        self.shared.switch().add_port(Port {
            host,
            segment,
            mac,
            tap: Arc::new(tap),
        });
        self.shared.wake();
        plug
    }

    /// Changes the rules.
    pub(crate) fn rules<T>(&self, change: impl FnOnce(&mut Rules) -> T) -> T {
        change(&mut self.shared.switch().rules)
    }

    /// What was sent from one host towards another, by what became of it.
    pub(crate) fn tally(&self, from: HostId, to: HostId) -> Tally {
        let switch = self.shared.switch();
        switch.pairs.get(&(from, to)).copied().unwrap_or_default()
    }

    /// What was sent by anyone to a UDP port.
    pub(crate) fn udp_tally(&self, port: u16) -> Tally {
        let switch = self.shared.switch();
        switch.udp.get(&port).copied().unwrap_or_default()
    }

    /// All frames delivered, over all pairs.
    pub(crate) fn delivered(&self) -> Tally {
        let switch = self.shared.switch();
        switch
            .pairs
            .values()
            .fold(Tally::default(), |sum, t| Tally {
                frames: sum.frames + t.frames,
                bytes: sum.bytes + t.bytes,
                dropped: sum.dropped + t.dropped,
            })
    }

    /// Looks at every frame any host sends from now on, before rules apply,
    /// until the watch is dropped; keeps up to `keep` of the accepted frames.
    pub(crate) fn watch(
        &self,
        keep: usize,
        accepts: impl FnMut(&[u8]) -> bool + Send + 'static,
    ) -> Watch {
        let (hits, frames) = <(Arc<AtomicU64>, Arc<Mutex<Vec<Vec<u8>>>>)>::default();
        let viewer = switch::Viewer {
            hits: Arc::downgrade(&hits),
            frames: frames.clone(),
            keep,
            accepts: Box::new(accepts),
        };
        self.shared.switch().viewers.push(viewer);
        Watch { hits, frames }
    }

    /// Watches for frames that hold `pattern`.
    pub(crate) fn watch_for(&self, pattern: &[u8]) -> Watch {
        let pattern = pattern.to_vec();
        let first = *pattern.first().expect("a pattern has bytes");
        self.watch(1, move |frame| {
            let mut rest = frame;
            while let Some(at) = rest.iter().position(|byte| *byte == first) {
                if rest[at..].starts_with(&pattern) {
                    return true;
                }
                rest = &rest[at + 1..];
            }
            false
        })
    }

    /// An address of `segment` that sends what a test makes it send.
    pub(crate) fn fake(&self, segment: usize, number: u8) -> Fake {
        let ip = address_v4(segment, 250 * 256 + usize::from(number));
        let mac = [2, 0x66, segment as u8, 0, 0, number];
        let state = Arc::new(Mutex::new(FakeState::new(segment, mac, ip)));
        self.shared.switch().fakes.push(state.clone());
        let shared = self.shared.clone();
        Fake { shared, state, ip }
    }
}

impl Plug {
    fn configure(&self, netns: &Netns, mac: Mac) {
        let name = &self.ifname;
        netns.sysctl(&format!("net/ipv6/conf/{name}/accept_dad"), "0");
        netns.sysctl(&format!("net/ipv6/conf/{name}/router_solicitations"), "0");
        netns.set_mac(name, mac);
        netns.set_queue(name, QUEUE);
        netns.set_mtu(name, 1500);
        netns.set_up(name);
        netns.add_address(name, IpAddr::V4(self.v4), 16);
        netns.add_address(name, IpAddr::V6(self.v6), 64);
    }
}

impl Watch {
    /// How many frames were accepted.
    pub(crate) fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// The first frames accepted.
    pub(crate) fn frames(&self) -> Vec<Vec<u8>> {
        held(&self.frames).clone()
    }
}

impl Fake {
    /// Its address.
    pub(crate) fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    /// Sends a UDP datagram that claims to come from `from`.
    pub(crate) fn send_from(&self, from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) {
        let mut state = held(&self.state);
        state.sent += payload.len() as u64;
        let (segment, mac) = (state.segment, state.mac);
        drop(state);
        self.shared.switch().inject(segment, mac, from, to, payload);
    }

    /// Sends a UDP datagram from its own address.
    pub(crate) fn send(&self, port: u16, to: SocketAddrV4, payload: &[u8]) {
        self.send_from(SocketAddrV4::new(self.ip, port), to, payload);
    }

    /// UDP payload bytes sent by it, and received by it.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        let state = held(&self.state);
        (state.sent, state.received)
    }

    /// The last UDP payloads received.
    pub(crate) fn received(&self) -> Vec<Vec<u8>> {
        held(&self.state).payloads.iter().cloned().collect()
    }
}

impl Drop for Underlay {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !thread::panicking()
        {
            panic!("the underlay's thread panicked");
        }
    }
}

impl Shared {
    fn switch(&self) -> MutexGuard<'_, Switch> {
        held(&self.switch)
    }

    fn wake(&self) {
        // Fails only if a wake-up is already pending.
        let _ = self.wake.write(1);
    }
}

fn serve(shared: &Shared) {
    let mut ports: Vec<Arc<File>> = Vec::new();
    while !shared.stop.load(Ordering::Relaxed) {
        let mut switch = shared.switch();
        switch.flush(Instant::now());
        ports.extend(switch.taps().skip(ports.len()));
        let wait = switch.next_due(Instant::now());
        drop(switch);

        let Some(ready) = wait_for_frames(shared, &ports, wait) else {
            continue;
        };
        let mut switch = shared.switch();
        for port in ready {
            switch.receive(port, Instant::now());
        }
    }
}

// The ports that have something to read; none if the wait was cut short.
fn wait_for_frames(shared: &Shared, ports: &[Arc<File>], wait: PollTimeout) -> Option<Vec<usize>> {
    let interest = |fd| PollFd::new(fd, PollFlags::POLLIN);
    let mut fds: Vec<_> = ports.iter().map(|tap| interest(tap.as_fd())).collect();
    fds.push(interest(shared.wake.as_fd()));
    poll(&mut fds, wait).ok()?;
    // Empties the counter; it is empty when the wake-up was a frame's.
    let _ = shared.wake.read();
    let readable = |fd: &PollFd| fd.revents().is_some_and(|e| e.contains(PollFlags::POLLIN));
    let ready = fds[..ports.len()].iter().enumerate();
    Some(
        ready
            .filter(|(_, fd)| readable(fd))
            .map(|(i, _)| i)
            .collect(),
    )
}

fn address_v4(segment: usize, number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 99 + segment as u8, (number >> 8) as u8, number as u8)
}

fn address_v6(segment: usize, number: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xfd99, segment as u16, 0, 0, 0, 0, 0, number as u16)
}

// A test that panicked while it held a lock has failed already.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
