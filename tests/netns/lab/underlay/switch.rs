//! Forwarding between ports: learned MACs, flooding, rules, delays, counters.
//!
//! Must not know threads or clocks: `now` comes in.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use nix::poll::PollTimeout;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::held;
use super::rules::{HostId, Rules};
use super::wire::{self, Facts, Mac};

/// Frames read from one port before others get their turn.
const BATCH: usize = 64;
/// Frames that may be on their way; more are dropped.
const IN_FLIGHT: usize = 100_000;
/// Payloads a fake address remembers.
const REMEMBERED: usize = 256;

/// Frames and bytes of Ethernet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Frames delivered.
    pub(crate) frames: u64,
    /// Bytes delivered.
    pub(crate) bytes: u64,
    /// Frames that a rule or a full queue dropped.
    pub(crate) dropped: u64,
}

/// Where a host is plugged in.
pub(super) struct Port {
    pub(super) host: HostId,
    pub(super) segment: usize,
    pub(super) mac: Mac,
    pub(super) tap: Arc<File>,
}

/// Whether a frame is of interest.
pub(super) type Predicate = Box<dyn FnMut(&[u8]) -> bool + Send>;

/// Looks at every frame.
pub(super) struct Viewer {
    pub(super) hits: Weak<AtomicU64>,
    pub(super) frames: Arc<Mutex<Vec<Vec<u8>>>>,
    pub(super) keep: usize,
    pub(super) accepts: Predicate,
}

/// An address that is answered for by the test.
pub(super) struct FakeState {
    pub(super) segment: usize,
    pub(super) mac: Mac,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) payloads: VecDeque<Vec<u8>>,
    ip: Ipv4Addr,
}

/// The state of the underlay.
pub(super) struct Switch {
    pub(super) rules: Rules,
    pub(super) pairs: BTreeMap<(HostId, HostId), Tally>,
    pub(super) udp: BTreeMap<u16, Tally>,
    pub(super) viewers: Vec<Viewer>,
    pub(super) fakes: Vec<Arc<Mutex<FakeState>>>,
    ports: Vec<Port>,
    learned: BTreeMap<(usize, Mac), usize>,
    in_flight: BTreeMap<(Instant, u64), (usize, Vec<u8>)>,
    sequence: u64,
    rng: ChaCha8Rng,
    buffer: Vec<u8>,
}

impl Switch {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rules: Rules::default(),
            pairs: BTreeMap::new(),
            udp: BTreeMap::new(),
            viewers: Vec::new(),
            fakes: Vec::new(),
            ports: Vec::new(),
            learned: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            sequence: 0,
            rng: ChaCha8Rng::seed_from_u64(seed),
            buffer: vec![0; 1 << 16],
        }
    }

    pub(super) fn add_port(&mut self, port: Port) {
        self.learned
            .insert((port.segment, port.mac), self.ports.len());
        self.ports.push(port);
    }

    pub(super) fn taps(&self) -> impl Iterator<Item = Arc<File>> {
        self.ports.iter().map(|port| port.tap.clone())
    }

    /// How long until a delayed frame is due.
    pub(super) fn next_due(&self, now: Instant) -> PollTimeout {
        let Some(((due, _), _)) = self.in_flight.first_key_value() else {
            return PollTimeout::NONE;
        };
        // Rounded up: to wake before the time is to wake twice.
        let wait = due.saturating_duration_since(now) + Duration::from_micros(999);
        PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX)
    }

    /// Delivers the delayed frames that are due.
    pub(super) fn flush(&mut self, now: Instant) {
        while let Some(entry) = self.in_flight.first_entry()
            && entry.key().0 <= now
        {
            let (port, frame) = entry.remove();
            self.deliver(port, &frame);
        }
    }

    /// Reads and forwards what waits at a port.
    pub(super) fn receive(&mut self, port: usize, now: Instant) {
        let tap = self.ports[port].tap.clone();
        let mut buffer = std::mem::take(&mut self.buffer);
        for _ in 0..BATCH {
            let Ok(length) = (&*tap).read(&mut buffer) else {
                break;
            };
            self.forward(port, &buffer[..length], now);
        }
        self.buffer = buffer;
    }

    /// Puts a UDP datagram on the wire of the host that has its address.
    pub(super) fn inject(
        &mut self,
        segment: usize,
        mac: Mac,
        from: SocketAddrV4,
        to: SocketAddrV4,
        payload: &[u8],
    ) {
        let number = usize::from(to.ip().octets()[2]) << 8 | usize::from(to.ip().octets()[3]);
        let at = |port: &Port| port.segment == segment && port.host.0 + 1 == number;
        let port = self.ports.iter().position(at);
        let port = port.unwrap_or_else(|| panic!("no host has the address {to}"));
        let frame = wire::udp((mac, self.ports[port].mac), from, to, payload);
        self.deliver(port, &frame);
    }

    fn forward(&mut self, from: usize, frame: &[u8], now: Instant) {
        let Some((destination, source)) = wire::macs(frame) else {
            return;
        };
        self.view(frame);
        let (host, segment) = (self.ports[from].host, self.ports[from].segment);
        self.learned.insert((segment, source), from);
        if self.answer_as_fake(from, destination, frame) {
            return;
        }
        let facts = wire::facts(frame);
        let known = self.learned.get(&(segment, destination)).copied();
        let targets = match known {
            Some(port) => port..port + 1,
            None => 0..self.ports.len(),
        };
        for to in targets {
            if to != from && self.ports[to].segment == segment {
                self.send(host, to, facts, frame, now);
            }
        }
    }

    fn send(&mut self, from: HostId, to: usize, facts: Facts, frame: &[u8], now: Instant) {
        let host = self.ports[to].host;
        let copies = self.rules.judge(from, host, &facts, &mut self.rng);
        let lost = copies.is_empty() || self.in_flight.len() >= IN_FLIGHT;
        self.pairs.entry((from, host)).or_default().add(frame, lost);
        if let Some(port) = facts.port {
            self.udp.entry(port).or_default().add(frame, lost);
        }
        for delay in copies {
            if delay.is_zero() {
                self.deliver(to, frame);
            } else if self.in_flight.len() < IN_FLIGHT {
                self.sequence += 1;
                let key = (now + delay, self.sequence);
                self.in_flight.insert(key, (to, frame.to_vec()));
            }
        }
    }

    fn deliver(&self, port: usize, frame: &[u8]) {
        // Fails while the host's interface is down, as a cable would.
        let _ = (&*self.ports[port].tap).write(frame);
    }

    fn view(&mut self, frame: &[u8]) {
        self.viewers.retain_mut(|viewer| {
            let Some(hits) = viewer.hits.upgrade() else {
                return false;
            };
            if (viewer.accepts)(frame) {
                hits.fetch_add(1, Ordering::Relaxed);
                let mut frames = held(&viewer.frames);
                if frames.len() < viewer.keep {
                    frames.push(frame.to_vec());
                }
            }
            true
        });
    }

    // Whether the frame was for a fake address only.
    fn answer_as_fake(&self, from: usize, destination: Mac, frame: &[u8]) -> bool {
        let asked = wire::arp_request(frame);
        let segment = self.ports[from].segment;
        for fake in &self.fakes {
            let mut fake = held(fake);
            if fake.segment != segment {
                continue;
            }
            if let Some((mac, ip, wanted)) = asked
                && wanted == fake.ip
            {
                self.deliver(from, &wire::arp(2, (fake.mac, fake.ip), (mac, ip)));
                return true;
            }
            if destination == fake.mac {
                fake.take(frame);
                return true;
            }
        }
        false
    }
}

impl FakeState {
    pub(super) fn new(segment: usize, mac: Mac, ip: Ipv4Addr) -> Self {
        Self {
            segment,
            mac,
            sent: 0,
            received: 0,
            payloads: VecDeque::new(),
            ip,
        }
    }

    fn take(&mut self, frame: &[u8]) {
        let Some(payload) = wire::udp_payload(frame) else {
            return;
        };
        self.received += payload.len() as u64;
        if self.payloads.len() == REMEMBERED {
            self.payloads.pop_front();
        }
        self.payloads.push_back(payload.to_vec());
    }
}

impl Tally {
    fn add(&mut self, frame: &[u8], lost: bool) {
        if lost {
            self.dropped += 1;
        } else {
            self.frames += 1;
            self.bytes += frame.len() as u64;
        }
    }
}
