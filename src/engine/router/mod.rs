//! The control machine of a peer: it composes the mesh, the handshakes and the
//! paths, and publishes what the data path needs as a [`Snapshot`].
//!
//! In: [`Router::handle_upcall`], [`Router::handle_timeout`] and the
//! operator's wishes. Out, to be drained after every input:
//! [`Router::take_snapshot`] first, so that no datagram leaves before its answer
//! can be received, then [`Router::poll_esp`] until there is no order and no new
//! snapshot, then [`Router::poll_transmit`], [`Router::poll_tunnel`] and
//! [`Router::poll_event`].

mod control;
mod esp;
mod fastdp;
mod paths;
mod publish;
mod report;
mod roaming;
mod sessions;
mod space;
mod trees;

pub use esp::{EspOrder, EspOutcome, EspStep};
pub use fastdp::{FastSetup, Tunnelled};
pub use space::SpaceSetup;

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use crypto::{Hello, Identity, Secret};
use gossip::{DialId, Mesh, Target};
use proto::{
    Endpoint, MacAddr, PeerId,
    datagram::SessionIndex,
    message::{CAN_ESP, CAN_FASTDP, CAN_MEET, CAN_SHARE, KNOWS_NAMES},
    space::CAN_SPACE,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;

use super::{
    handshakes::Handshakes,
    keyring::Keyring,
    limiter::TokenBucket,
    observed::Observed,
    output::{Output, Upcall},
    peers::Peer,
    snapshot::{Shared, Snapshot},
    timing::TICK,
    warnings::{Recurrence, Warnings},
};

/// How a router is set up; parsed once, by the shell.
#[derive(Clone, Debug)]
pub struct Config {
    /// A label for people.
    pub nickname: String,
    /// The UDP port, announced to others.
    pub port: u16,
    /// Whether frames are encrypted; off only if both ends say so.
    pub encrypt: bool,
    /// Age at which the keys of a session are replaced, at most
    /// [`crypto::rekey::REKEY_AFTER_TIME`].
    pub rekey_after: Duration,
    /// Number of this launch; rises with every one.
    pub epoch: u64,
    /// Largest UDP payload the local underlay carries, in bytes.
    pub datagram_limit: usize,
    /// MTU of the overlay, in bytes.
    pub mtu: u32,
    /// Name of the bridge, for the status.
    pub bridge: String,
    /// How the mesh behaves.
    pub mesh: gossip::Config,
    /// The address space; none if this peer takes no part in it.
    pub space: Option<SpaceSetup>,
    /// Seeds all randomness, that of ephemeral keys included: 32 random bytes that
    /// nobody else has.
    pub seed: [u8; 32],
    /// The version of wove.
    pub version: String,
    /// What the greeting says that this peer understands: [`CAPABILITIES`], or
    /// fewer of them to be taken for an older version.
    pub capabilities: u64,
}

/// All that this version understands.
pub const CAPABILITIES: u64 = CAN_FASTDP | CAN_ESP | CAN_MEET | CAN_SHARE | KNOWS_NAMES | CAN_SPACE;

/// What the router asks of its shell, besides sending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Resolve a name and answer with [`Router::handle_resolved`].
    Resolve {
        /// For which dial.
        dial: DialId,
        /// `host:port`.
        target: Target,
    },
    /// The TCP connection with this address is not needed any more.
    HangUp(SocketAddr),
    /// The targets changed and should be kept.
    TargetsChanged,
    /// Somebody who waits for an address gets it, or hears why not.
    Address {
        /// For which [`Router::allocate`].
        id: u64,
        /// Its offset in the ranges.
        result: Result<u32, String>,
    },
    /// Something wants a person's attention.
    Warning(String),
    /// A link came up or went down.
    Link {
        /// With whom.
        peer: PeerId,
        /// Its label.
        nickname: String,
        /// Whether it is up.
        up: bool,
        /// Why it went down.
        reason: String,
    },
}

/// A datagram to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub to: Endpoint,
    /// The payload.
    pub datagram: Vec<u8>,
    /// Whether a TCP connection is to be made for it, if there is none.
    pub connect: bool,
}

/// The control machine.
pub struct Router {
    config: Config,
    local: PeerId,
    launched: Instant,
    mesh: Mesh<Keyring>,
    handshakes: Handshakes,
    peers: BTreeMap<PeerId, Peer>,
    by_index: BTreeMap<SessionIndex, PeerId>,
    /// Names being dialled, to say what became of them.
    dials: BTreeMap<DialId, Target>,
    snapshot: Arc<Snapshot>,
    dirty: Dirty,
    unpublished: bool,
    /// Sources of broadcasts whose trees are kept, and since when.
    wanted_trees: BTreeMap<PeerId, Instant>,
    /// Trees that may yet be made because a broadcast came.
    new_trees: TokenBucket,
    /// Addresses that are not answered from the snapshot until gossip settled.
    doubts: BTreeMap<IpAddr, Instant>,
    /// Doubts that are heeded at once; more wait for the next tick.
    doubts_pace: TokenBucket,
    doubts_wait: bool,
    /// Children that a source's tree lost of late, and the tick until which
    /// they still get its broadcasts.
    lingering: BTreeMap<(PeerId, PeerId), u64>,
    ticks: u64,
    transmits: VecDeque<Transmit>,
    tunnelled: VecDeque<Tunnelled>,
    fast: FastSetup,
    esp: BTreeMap<PeerId, esp::Protection>,
    esp_orders: VecDeque<EspOrder>,
    events: VecDeque<Event>,
    warnings: Warnings,
    notices: TokenBucket,
    /// Addresses named by others that may yet be probed.
    named: TokenBucket,
    observed: Observed,
    endpoints: Vec<SocketAddr>,
    rng: ChaCha20Rng,
    tick_at: Instant,
    urgent_at: Option<Instant>,
    handshakes_done: u64,
    control_rx: u64,
    control_tx: u64,
}

/// Which parts of the snapshot are out of date.
#[derive(Clone, Copy, Default)]
struct Dirty {
    sessions: bool,
    paths: bool,
    stations: bool,
    trees: bool,
    fast: bool,
    names: bool,
    /// Trees are wanted that are not in it, or no longer.
    wanted: bool,
}

/// Addresses a second, and at once, that are probed because others named them.
const NAMED_RATE: u64 = 256;
const NAMED_BURST: u64 = 1024;

impl Router {
    /// A router with the given identity and network secrets, the preferred first.
    pub fn new(mut config: Config, identity: Identity, secrets: Vec<Secret>, now: Instant) -> Self {
        let mut rng = ChaCha20Rng::from_seed(std::mem::take(&mut config.seed));
        let identity = Arc::new(identity);
        let local = identity.id();
        let instance = rng.random();
        // The nickname travels by gossip: whoever knocks could read it here.
        let mut hello = Hello::new(config.epoch, instance, "");
        hello.encrypt = config.encrypt;
        hello.capabilities = config.capabilities;
        let peer = gossip::LocalPeer {
            id: local,
            keys: identity.public(),
            epoch: config.epoch,
            instance,
            nickname: config.nickname.clone(),
            version: config.version.clone(),
            endpoints: Vec::new(),
            capabilities: 0,
        };
        let mut mesh = Mesh::new(
            config.mesh.clone(),
            peer,
            Keyring::new(Arc::clone(&identity)),
            rng.random(),
            now,
        );
        if let Some(space) = &config.space {
            mesh.open_space(space.config.clone(), space.saved.clone(), now);
        }
        let shared = Arc::new(Shared::new(local, config.epoch));
        Self {
            local,
            launched: now,
            mesh,
            handshakes: Handshakes::new(identity, hello, secrets, rng.random(), now),
            peers: BTreeMap::new(),
            by_index: BTreeMap::new(),
            dials: BTreeMap::new(),
            snapshot: Arc::new(Snapshot::empty(shared)),
            dirty: Dirty {
                sessions: true,
                paths: true,
                stations: true,
                trees: true,
                fast: true,
                names: false,
                wanted: false,
            },
            unpublished: true,
            wanted_trees: BTreeMap::new(),
            new_trees: TokenBucket::new(trees::WANTED_RATE, trees::WANTED_BURST),
            doubts: BTreeMap::new(),
            doubts_pace: TokenBucket::new(publish::DOUBTS_RATE, publish::DOUBTS_BURST),
            doubts_wait: false,
            lingering: BTreeMap::new(),
            ticks: 0,
            transmits: VecDeque::new(),
            tunnelled: VecDeque::new(),
            fast: FastSetup::default(),
            esp: BTreeMap::new(),
            esp_orders: VecDeque::new(),
            events: VecDeque::new(),
            warnings: Warnings::default(),
            notices: TokenBucket::new(100, 100),
            named: TokenBucket::new(NAMED_RATE, NAMED_BURST),
            observed: Observed::default(),
            endpoints: Vec::new(),
            rng,
            tick_at: now + TICK,
            urgent_at: None,
            handshakes_done: 0,
            control_rx: 0,
            control_tx: 0,
            config,
        }
    }

    /// This peer's id.
    pub fn local(&self) -> PeerId {
        self.local
    }

    /// Handles what the data path left to the control thread.
    pub fn handle_upcall(&mut self, upcall: Upcall, now: Instant) {
        match upcall {
            Upcall::Handshake {
                datagram, origin, ..
            } => self.handle_handshake(&datagram, origin, now),
            Upcall::Control {
                peer,
                session,
                message,
                origin,
            } => {
                self.handle_control(peer, session, &message, origin, now);
            }
            Upcall::UnknownSession {
                receiver,
                counter,
                from,
            } => self.handle_unknown(receiver, counter, from, now),
            Upcall::Moved { peer, from } => self.handle_moved(peer, from, now),
            Upcall::Station { mac, ips } => self.mesh.learn_station(mac, &ips, false, now),
            Upcall::Doubt { ip } => self.doubt(ip, now),
            Upcall::Pending { peer, frame } => self.handle_pending(peer, frame, now),
            Upcall::TreeWanted { source } => self.want_tree(source, now),
        }
        self.drain(now);
    }

    /// Lets time pass: to be called when [`Router::poll_timeout`] says so.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.mesh.handle_timeout(now);
        self.handshakes.handle_timeout(now);
        let routes = self.mesh.routes();
        self.handshakes.widen(now, |peer| routes.reaches(peer));
        if now >= self.tick_at {
            self.tick_at = now + TICK;
            self.tick(now);
        }
        if self.urgent_at.is_some_and(|at| now >= at) {
            self.tend_urgent(now);
        }
        self.drain(now);
    }

    /// Adds targets; with `replace`, drops the others.
    pub fn connect(&mut self, targets: &[Target], replace: bool, now: Instant) {
        self.mesh.connect(targets, replace, now);
        self.drain(now);
    }

    /// Drops targets; links that are up stay.
    pub fn forget(&mut self, targets: &[Target], now: Instant) {
        self.mesh.forget(targets);
        self.drain(now);
    }

    /// The addresses of a name, or why there are none.
    pub fn handle_resolved(
        &mut self,
        dial: DialId,
        result: Result<Vec<SocketAddr>, String>,
        now: Instant,
    ) {
        match result {
            Ok(addresses) => self.dial_target(dial, addresses, now),
            Err(reason) => {
                if let Some(target) = self.dials.remove(&dial) {
                    let text = format!("{target}: {reason}; it is tried again");
                    self.warn(text, Recurrence::Again, now);
                }
                self.mesh.dial_failed(dial, reason, false, now);
            }
        }
        self.drain(now);
    }

    /// The addresses this peer can be dialled at.
    pub fn set_endpoints(&mut self, endpoints: Vec<SocketAddr>, now: Instant) {
        let stays = |was: &SocketAddr| endpoints.iter().any(|is| is.ip() == was.ip());
        let lost_one = !self.endpoints.iter().all(stays);
        self.endpoints = endpoints;
        if lost_one {
            self.leave_trusted(now);
        }
        self.announce_endpoints(now);
        self.show_everybody(now);
        self.drain(now);
    }

    /// The largest UDP payload of the local underlay changed.
    pub fn set_datagram_limit(&mut self, limit: usize) {
        self.config.datagram_limit = limit;
    }

    /// A container of this host is known to have these addresses.
    pub fn attach_station(&mut self, mac: MacAddr, ips: &[IpAddr], now: Instant) {
        self.mesh.learn_station(mac, ips, true, now);
        self.drain(now);
    }

    /// A container of this host is gone.
    pub fn detach_station(&mut self, mac: MacAddr, now: Instant) {
        self.mesh.forget_station(mac, now);
        self.drain(now);
    }

    /// A container of this host gave up an address.
    pub fn detach_address(&mut self, mac: MacAddr, ip: IpAddr, now: Instant) {
        self.mesh.forget_station_ip(mac, ip, now);
        self.drain(now);
    }

    /// Makes these the names of this host and their addresses, in place of those before.
    pub fn set_names(&mut self, names: impl IntoIterator<Item = (String, IpAddr)>, now: Instant) {
        self.mesh.set_names(names, now);
        self.drain(now);
    }

    /// Replaces the accepted network secrets, the preferred first.
    pub fn set_secrets(&mut self, secrets: Vec<Secret>) {
        self.handshakes.set_secrets(secrets);
    }

    /// The kernel refused a datagram to `address` as too large.
    pub fn handle_too_large(&mut self, address: SocketAddr, size: usize, now: Instant) {
        for peer in self.peers.values_mut() {
            if let Some(direct) = peer
                .direct
                .as_mut()
                .filter(|d| d.address == Endpoint::Udp(address))
                && direct.pmtu.refused(size, now)
            {
                self.dirty.paths = true;
            }
        }
        self.drain(now);
    }

    /// Says good-bye to all neighbours.
    pub fn shut_down(&mut self, now: Instant) {
        self.mesh.shutdown(now);
        self.drain(now);
    }

    /// When [`Router::handle_timeout`] is to be called, and what for.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let tick = Some((self.tick_at, "tick"));
        let urgent = self.urgent_at.map(|at| (at, "a path in doubt"));
        [tick, urgent, self.mesh.poll_timeout()]
            .into_iter()
            .flatten()
            .min_by_key(|(at, _)| *at)
    }

    /// The present forwarding view.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot)
    }

    /// The forwarding view, if it changed since the last call.
    pub fn take_snapshot(&mut self) -> Option<Arc<Snapshot>> {
        std::mem::take(&mut self.unpublished).then(|| Arc::clone(&self.snapshot))
    }

    /// The mesh, to be looked at.
    pub fn mesh(&self) -> &Mesh<Keyring> {
        &self.mesh
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn nickname(&self, id: PeerId) -> String {
        self.mesh
            .node(&id)
            .map(|node| node.nickname.clone())
            .unwrap_or_default()
    }

    /// The addresses a peer says it can be dialled at; none without discovery.
    fn addresses_of(&self, id: PeerId) -> Vec<SocketAddr> {
        let node = self.mesh.node(&id).filter(|_| self.config.mesh.discovery);
        let mut addresses = node.map(|node| node.endpoints.clone()).unwrap_or_default();
        addresses.retain(|address| self.is_elsewhere(address));
        addresses
    }

    /// Whether an address of somebody else may lead there: it does not if it is ours, too.
    fn is_elsewhere(&self, address: &SocketAddr) -> bool {
        roaming::is_worth_a_probe(address) && !self.endpoints.contains(address)
    }

    /// Says something to a person, once.
    fn warn(&mut self, text: String, recurrence: Recurrence, now: Instant) {
        if self.warnings.say(&text, recurrence, now) {
            self.events.push_back(Event::Warning(text));
        }
    }

    fn announce_endpoints(&mut self, now: Instant) {
        let endpoints = self.announced_endpoints();
        self.mesh.set_endpoints(endpoints, now);
    }

    /// Its own addresses, and those at which others see it.
    fn announced_endpoints(&self) -> Vec<SocketAddr> {
        let mut endpoints = self.endpoints.clone();
        let observed = self.observed.addresses().iter();
        endpoints.extend(observed.filter(|a| !self.endpoints.contains(a)));
        endpoints.truncate(16);
        endpoints
    }

    /// Takes everything the parts have to say until none has more, so that a
    /// caller cannot forget.
    fn drain(&mut self, now: Instant) {
        loop {
            let mut quiet = true;
            while let Some(outcome) = self.handshakes.poll_outcome() {
                self.handle_outcome(outcome, now);
                quiet = false;
            }
            while let Some(event) = self.mesh.poll_event() {
                self.handle_mesh_event(event, now);
                quiet = false;
            }
            while let Some((peer, message)) = self.mesh.poll_transmit() {
                self.send_gossip(peer, message);
                quiet = false;
            }
            if quiet {
                break;
            }
        }
        self.publish();
    }
}

/// The router's own datagrams go to its transmit queue.
struct Queue<'a> {
    transmits: &'a mut VecDeque<Transmit>,
    bytes: &'a mut u64,
    /// Whether the datagrams are worth a TCP connection.
    connect: bool,
}

impl Output for Queue<'_> {
    fn datagram(&mut self, to: Endpoint, len: usize, fill: impl FnOnce(&mut [u8]) -> bool) {
        let mut datagram = vec![0; len];
        if fill(&mut datagram) {
            *self.bytes += len as u64;
            self.transmits.push_back(Transmit {
                to,
                datagram,
                connect: self.connect,
            });
        }
    }

    fn frame(&mut self, _frame: &[u8]) {}

    fn upcall(&mut self, _upcall: Upcall) {}
}
