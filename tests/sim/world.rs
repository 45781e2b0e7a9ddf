//! A world of meshes: peers with a fake authority, sessions between them, and
//! the network. Fluent, so that a test reads as a story.

#![allow(clippy::unwrap_used, reason = "test code outside of test functions")]

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use gossip::{
    Authority, Config, DialId, DialTarget, Event, LocalPeer, Mesh, Scope, SessionInfo, Target,
    Warning, space::Outcome,
};
use proto::{
    MacAddr, PeerId, PublicKeys,
    message::{GossipMessage, MAX_MESSAGE, Message},
    record::{Body, Node, Record, RecordKey, Topic, Version},
};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::netem::{EventQueue, Netem};

/// Worlds up to this size have every message encoded, to check its length.
const CHECKED: usize = 40;

/// Signs with a hash that anybody could make; honest peers do not.
pub struct FakeAuthority(PublicKeys);

impl Authority for FakeAuthority {
    fn sign(&self, bytes: &[u8]) -> [u8; 64] {
        fake_signature(&self.0, bytes)
    }

    fn verify(&self, owner: PeerId, keys: &PublicKeys, bytes: &[u8], signature: &[u8; 64]) -> bool {
        owner == id_of(keys) && *signature == fake_signature(keys, bytes)
    }
}

enum Happening {
    Deliver {
        from: usize,
        to: usize,
        session: u64,
        message: GossipMessage,
    },
    Timer {
        peer: usize,
        life: u64,
    },
    Dialled {
        from: usize,
        life: u64,
        dial: DialId,
        to: Option<usize>,
    },
}

/// One host and the peer on it, if it runs.
pub struct Slot {
    pub mesh: Option<Mesh<FakeAuthority>>,
    /// Open sessions by the other end.
    sessions: BTreeMap<usize, Session>,
    timer: Option<Instant>,
    /// Counts launches.
    life: u64,
    epoch: u64,
    config: Config,
    targets: Vec<Target>,
    pub warnings: Vec<Warning>,
    pub outcomes: Vec<Outcome>,
}

#[derive(Clone, Copy)]
struct Session {
    id: u64,
    life: u64,
}

/// All of it.
pub struct World {
    pub seed: u64,
    pub steps: u64,
    pub now: Instant,
    pub slots: Vec<Slot>,
    pub net: Netem,
    /// What the network loses besides, by sender and receiver.
    pub loses: fn(usize, usize, &GossipMessage) -> bool,
    /// Messages sent so far.
    pub sent: u64,
    /// Folds everything that was delivered.
    pub trace: u64,
    start: Instant,
    rng: ChaCha8Rng,
    queue: EventQueue<Happening>,
    config: Config,
    dialable: fn(usize, usize) -> bool,
    old: fn(usize) -> bool,
    next_session: u64,
}

impl World {
    #[expect(
        clippy::disallowed_methods,
        reason = "virtual time has to start somewhere"
    )]
    pub fn new(seed: u64) -> Self {
        let start = Instant::now();
        Self {
            seed,
            steps: 0,
            now: start,
            slots: Vec::new(),
            net: Netem::new(),
            loses: |_, _, _| false,
            sent: 0,
            trace: 0,
            start,
            rng: ChaCha8Rng::seed_from_u64(seed),
            queue: EventQueue::new(),
            config: Config::default(),
            dialable: |_, _| true,
            old: |_| false,
            next_session: 0,
        }
    }

    /// Settings of peers made from here on.
    pub fn configure(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    pub fn loss(mut self, loss: f64) -> Self {
        self.net.loss = loss;
        self
    }

    pub fn reorder(mut self, share: f64) -> Self {
        self.net.reorder = share;
        self
    }

    /// Who can dial whom.
    pub fn dialable(mut self, dialable: fn(usize, usize) -> bool) -> Self {
        self.dialable = dialable;
        self
    }

    /// Who is of the first version, which knows no names.
    pub fn old(mut self, old: fn(usize) -> bool) -> Self {
        self.old = old;
        self
    }

    /// What two peers can tell each other.
    fn scope(&self, here: usize, there: usize) -> Scope {
        match (self.old)(here) || (self.old)(there) {
            true => Scope::of(0),
            false => Scope::ALL,
        }
    }

    /// Launches `count` peers at once; the first three are the seeds of all.
    pub fn peers(mut self, count: usize) -> Self {
        for peer in 0..count {
            let seeds: Vec<usize> = (0..3.min(count)).filter(|seed| *seed != peer).collect();
            self.launch(&seeds);
        }
        self
    }

    /// Launches a peer with these targets; returns its number.
    pub fn launch(&mut self, targets: &[usize]) -> usize {
        let peer = self.slots.len();
        self.slots.push(Slot {
            mesh: None,
            sessions: BTreeMap::new(),
            timer: None,
            life: 0,
            epoch: 0,
            config: self.config.clone(),
            targets: targets.iter().map(|target| name(*target)).collect(),
            warnings: Vec::new(),
            outcomes: Vec::new(),
        });
        self.restart(peer);
        peer
    }

    /// Launches a peer that does not run, in the next epoch.
    pub fn restart(&mut self, peer: usize) {
        self.restart_in(peer, self.slots[peer].epoch + 1);
    }

    /// Launches a peer in an epoch of choice.
    pub fn restart_in(&mut self, peer: usize, epoch: u64) {
        let slot = &mut self.slots[peer];
        assert!(slot.mesh.is_none(), "peer {peer} runs");
        slot.life += 1;
        slot.epoch = epoch;
        let keys = keys(peer);
        let local = LocalPeer {
            id: id_of(&keys),
            keys,
            epoch: slot.epoch,
            instance: self.rng.next_u64(),
            nickname: format!("host{peer}"),
            version: "test".to_owned(),
            endpoints: vec![address(peer)],
            capabilities: 0,
        };
        let seed = self.rng.next_u64();
        let mut mesh = Mesh::new(
            slot.config.clone(),
            local,
            FakeAuthority(keys),
            seed,
            self.now,
        );
        mesh.connect(&slot.targets, false, self.now);
        slot.mesh = Some(mesh);
        self.drain(peer);
    }

    /// Ends a peer without a word.
    pub fn crash(&mut self, peer: usize) {
        let slot = &mut self.slots[peer];
        slot.mesh = None;
        slot.sessions.clear();
        slot.timer = None;
    }

    /// Ends a peer with a goodbye.
    pub fn stop(&mut self, peer: usize) {
        self.with(peer, |mesh, now| mesh.shutdown(now));
        self.crash(peer);
    }

    /// Does something with a running peer.
    pub fn with<T>(
        &mut self,
        peer: usize,
        f: impl FnOnce(&mut Mesh<FakeAuthority>, Instant) -> T,
    ) -> T {
        let now = self.now;
        let result = f(self.slots[peer].mesh.as_mut().expect("the peer runs"), now);
        self.drain(peer);
        result
    }

    /// Splits the hosts: those for which `side` says so from the others.
    pub fn partition(&mut self, side: impl Fn(usize) -> bool) {
        let far = (0..self.slots.len()).filter(|peer| side(*peer));
        self.net.partition(far.map(|peer| (peer, 1)).collect());
    }

    pub fn heal(&mut self) {
        self.net.partition(BTreeMap::new());
    }

    pub fn mesh(&self, peer: usize) -> &Mesh<FakeAuthority> {
        self.slots[peer].mesh.as_ref().expect("the peer runs")
    }

    /// Numbers of the peers that run.
    pub fn alive(&self) -> Vec<usize> {
        (0..self.slots.len())
            .filter(|peer| self.slots[*peer].mesh.is_some())
            .collect()
    }

    /// A record that a peer might have signed, in an epoch of choice.
    pub fn record_by(&self, peer: usize, topic: Topic, epoch: u64) -> Arc<Record> {
        let (links, stations) = Default::default();
        let node = Node {
            keys: keys(peer),
            nickname: String::new(),
            instance: epoch,
            endpoints: vec![],
            version: String::new(),
            capabilities: 0,
        };
        let body = match topic {
            Topic::Node => Body::Node(node),
            Topic::Links(_) => Body::Links(links),
            Topic::Stations(_) => Body::Stations(stations),
            Topic::Names(_) => Body::Names(Default::default()),
            Topic::Space | Topic::Guard | Topic::Division => Body::Guard(Default::default()),
        };
        let key = RecordKey {
            owner: id(peer),
            topic,
        };
        let mut record = Record::new(key, Version { epoch, sequence: 1 }, body.encode());
        record.set_signature(&fake_signature(&keys(peer), &record.signed_bytes()));
        Arc::new(record)
    }

    /// Lets time pass.
    pub fn run_for(&mut self, time: Duration) -> &mut Self {
        let end = self.now + time;
        while let Some((at, happening)) = self.queue.pop_until(end) {
            self.now = at;
            self.steps += 1;
            self.happen(happening);
        }
        self.now = end;
        self
    }

    /// Lets time pass until `done`, looked at every 50 ms; returns how long it took.
    pub fn run_until(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> Duration {
        let start = self.now;
        while !done(self) {
            let took = self.now - start;
            assert!(
                took < limit,
                "SEED={} STEP={}: not done within {limit:?}",
                self.seed,
                self.steps
            );
            self.run_for(Duration::from_millis(50));
        }
        self.now - start
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Deliver {
                from,
                to,
                session,
                message,
            } => {
                if self.slots[to]
                    .sessions
                    .get(&from)
                    .is_some_and(|open| open.id == session)
                {
                    self.note(from as u64, to as u64);
                    self.with(to, |mesh, now| mesh.handle_message(id(from), message, now));
                }
            }
            Happening::Timer { peer, life } => {
                let slot = &mut self.slots[peer];
                if slot.life == life && slot.timer.is_some_and(|at| at <= self.now) {
                    slot.timer = None;
                    self.with(peer, |mesh, now| mesh.handle_timeout(now));
                }
            }
            Happening::Dialled {
                from,
                life,
                dial,
                to,
            } => {
                if self.slots[from].life == life && self.slots[from].mesh.is_some() {
                    self.dialled(from, dial, to);
                }
            }
        }
    }

    fn note(&mut self, from: u64, to: u64) {
        let time = (self.now - self.start).as_nanos() as u64;
        for word in [time, from, to] {
            self.trace = (self.trace ^ word)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(29);
        }
    }

    fn dialled(&mut self, from: usize, dial: DialId, to: Option<usize>) {
        let open = to.filter(|to| {
            let runs = self.slots.get(*to).is_some_and(|slot| slot.mesh.is_some());
            let both_ways = self.net.passes(from, *to) && self.net.passes(*to, from);
            runs && both_ways && (*to == from || (self.dialable)(from, *to))
        });
        let Some(to) = open else {
            self.with(from, |mesh, now| {
                mesh.dial_failed(dial, "no answer".to_owned(), false, now)
            });
            return;
        };
        if to == from {
            self.with(from, |mesh, now| mesh.dial_answered(dial, id(from), now));
            return;
        }
        self.next_session += 1;
        self.open(from, to, Some(dial));
        self.open(to, from, None);
    }

    fn open(&mut self, here: usize, there: usize, dial: Option<DialId>) {
        let session = Session {
            id: self.next_session,
            life: self.slots[there].life,
        };
        let before = self.slots[here].sessions.insert(there, session);
        let info = SessionInfo {
            address: address(there),
            outbound: dial.is_some(),
            dial,
            scope: self.scope(here, there),
            handicap: Duration::ZERO,
        };
        self.with(here, |mesh, now| {
            mesh.session_opened(id(there), info, now);
            if before.is_some_and(|before| before.life != session.life) {
                mesh.session_restarted(id(there), now);
            }
        });
    }

    /// Carries out what a peer asks for, and arms its timer.
    fn drain(&mut self, peer: usize) {
        loop {
            let Some(mesh) = self.slots[peer].mesh.as_mut() else {
                return;
            };
            if let Some((to, message)) = mesh.poll_transmit() {
                self.transmit(peer, to, message);
            } else if let Some(event) = mesh.poll_event() {
                self.act(peer, event);
            } else {
                break;
            }
        }
        let slot = &mut self.slots[peer];
        let Some((at, _)) = slot.mesh.as_ref().and_then(Mesh::poll_timeout) else {
            return;
        };
        let at = at.max(self.now);
        if slot.timer.is_none_or(|armed| at < armed) {
            slot.timer = Some(at);
            self.queue.push(
                at,
                Happening::Timer {
                    peer,
                    life: slot.life,
                },
            );
        }
    }

    fn transmit(&mut self, from: usize, to: PeerId, message: GossipMessage) {
        self.sent += 1;
        let to = number(&to);
        if self.slots.len() <= CHECKED {
            let length = Message::Gossip(message.clone()).encode().len();
            assert!(length <= MAX_MESSAGE, "{length} bytes: {message:?}");
        }
        let Some(session) = self.slots[from].sessions.get(&to).map(|session| session.id) else {
            return;
        };
        if let Some(delay) = self.net.carry(&mut self.rng, from, to)
            && !(self.loses)(from, to, &message)
        {
            self.queue.push(
                self.now + delay,
                Happening::Deliver {
                    from,
                    to,
                    session,
                    message,
                },
            );
        }
    }

    fn act(&mut self, peer: usize, event: Event) {
        match event {
            Event::Dial { dial, target } => {
                let to = match target {
                    DialTarget::Name(name) => number_of_name(&name),
                    DialTarget::Peer { addresses, .. } => {
                        addresses.first().and_then(number_of_address)
                    }
                };
                let open = to.filter(|to| self.net.passes(peer, *to) && *to < self.slots.len());
                let delay = open.map_or(Duration::from_secs(1), |to| self.net.base(peer, to) * 3);
                let life = self.slots[peer].life;
                self.queue.push(
                    self.now + delay,
                    Happening::Dialled {
                        from: peer,
                        life,
                        dial,
                        to,
                    },
                );
            }
            Event::CloseSession(other) => {
                self.slots[peer].sessions.remove(&number(&other));
            }
            Event::Space(outcome) => self.slots[peer].outcomes.push(outcome),
            Event::Warning(warning) => self.slots[peer].warnings.push(warning),
            Event::LinkUp(_)
            | Event::LinkDown { .. }
            | Event::RoutesChanged
            | Event::StationsChanged
            | Event::NamesChanged
            | Event::SpaceWarning(_)
            | Event::PeerAppeared(_)
            | Event::PeerRestarted { .. }
            | Event::TargetsChanged => {}
        }
    }
}

/// The id of the peer with a number.
pub fn id(peer: usize) -> PeerId {
    id_of(&keys(peer))
}

/// The target text of the peer with a number.
pub fn name(peer: usize) -> Target {
    Target::parse(&format!("host{peer}"), 6783).unwrap()
}

/// A MAC address for tests.
pub fn mac(n: u16) -> MacAddr {
    let [high, low] = n.to_be_bytes();
    MacAddr([2, 0, 0, 0, high, low])
}

/// An overlay address for tests.
pub fn ip(n: u16) -> IpAddr {
    let [high, low] = n.to_be_bytes();
    [10, 32, high, low].into()
}

fn keys(peer: usize) -> PublicKeys {
    let mut sign = [0; 32];
    sign[..8].copy_from_slice(&(peer as u64).to_le_bytes());
    PublicKeys {
        sign,
        exchange: sign,
    }
}

/// Scattered over the space of ids, but telling the peer's number.
fn id_of(keys: &PublicKeys) -> PeerId {
    let mut low = [0; 8];
    low.copy_from_slice(&keys.sign[..8]);
    let scattered = (u64::from_le_bytes(low) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut id = [0; 16];
    id[..8].copy_from_slice(&scattered.swap_bytes().to_be_bytes());
    id[8..].copy_from_slice(&low);
    PeerId(id)
}

fn number(id: &PeerId) -> usize {
    let mut low = [0; 8];
    low.copy_from_slice(&id.0[8..]);
    u64::from_le_bytes(low) as usize
}

fn address(peer: usize) -> SocketAddr {
    SocketAddr::from(([10, (peer % 256) as u8, (peer / 256) as u8, 1], 6783))
}

fn number_of_address(address: &SocketAddr) -> Option<usize> {
    let IpAddr::V4(ip) = address.ip() else {
        return None;
    };
    let [_, low, high, _] = ip.octets();
    Some(usize::from(high) * 256 + usize::from(low))
}

fn number_of_name(name: &Target) -> Option<usize> {
    name.as_str()
        .strip_prefix("host")?
        .strip_suffix(":6783")?
        .parse()
        .ok()
}

fn fake_signature(keys: &PublicKeys, bytes: &[u8]) -> [u8; 64] {
    let mut state = 0xcbf2_9ce4_8422_2325;
    for chunk in keys.sign.chunks(8).chain(bytes.chunks(8)) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        state = (state ^ u64::from_le_bytes(word))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15_u64)
            .rotate_left(31);
    }
    let mut signature = [0; 64];
    for (i, word) in signature.chunks_mut(8).enumerate() {
        word.copy_from_slice(
            &(state ^ i as u64)
                .wrapping_mul(0xd6e8_feb8_6659_fd93)
                .to_le_bytes(),
        );
    }
    signature
}
