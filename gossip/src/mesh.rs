//! The mesh of one peer: composes everything else in this crate.
//!
//! Input goes in through `handle_*`, `session_*`, `connect` and the like; after
//! each, drain [`Mesh::poll_transmit`] and [`Mesh::poll_event`], and call
//! [`Mesh::handle_timeout`] at [`Mesh::poll_timeout`]. Equal inputs and seed give
//! equal outputs. Knows no crypto, no socket, no clock.

mod dialling;
mod links;
mod names;
mod preload;
mod publish;
mod receive;
mod sessions;
mod space;
mod spread;
mod upkeep;

pub use space::Stranger;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use proto::{
    MacAddr, PeerId,
    message::{ByeReason, GossipMessage},
    record::{Node, Record, RttCode},
};
use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{
    absent::Absent,
    bucket::TokenBucket,
    claims::Claims,
    config::{Authority, Config, LocalPeer, Pace, SessionInfo},
    dialer::{Dialer, TargetState},
    event::{Counters, DialId, Event, Warning},
    limits::{LINK_PARTS, PART_LINKS},
    link::{Link, LinkState},
    local::Own,
    names::{Directory, LocalNames},
    neighbours::Neighbours,
    news::News,
    outbox::Outbox,
    parts::Parts,
    reconcile::{Given, List, Wants},
    replica::{Replica, Slot},
    routes::{Hop, Routes, Ways},
    space::{Saved, Space},
    stations::{Learnt, LocalStations},
    sums::Scope,
    target::Target,
    topology::Graph,
};
use space::Withheld;
use upkeep::Timers;

/// What the choice of neighbours depends on. A macro, so that the borrow checker
/// sees that the neighbours and the random generator are not borrowed.
macro_rules! situation {
    ($mesh:ident, $links:expr, $now:expr) => {
        crate::neighbours::Situation {
            local: $mesh.local.id,
            config: &$mesh.config,
            replica: &$mesh.replica,
            ways: &$mesh.ways,
            absent: &$mesh.absent,
            links: &$links,
            own: $mesh.own_link_count(),
            now: $now,
        }
    };
}
use situation;

/// What it takes to plan the next attempt to dial.
macro_rules! turn {
    ($mesh:ident, $now:expr) => {
        crate::dialer::Turn {
            config: &$mesh.config,
            now: $now,
            rng: &mut $mesh.rng,
        }
    };
}
use turn;

/// The mesh of one peer.
pub struct Mesh<A> {
    config: Config,
    local: LocalPeer,
    authority: A,
    rng: ChaCha8Rng,
    // What everybody says, and what follows from it.
    replica: Replica,
    ways: Ways,
    absent: Absent,
    /// Made when first asked for after a change.
    graph: OnceLock<Graph>,
    claims: Claims,
    directory: Directory,
    // What we say.
    own: Own,
    links: Parts<PeerId>,
    published_rtt: BTreeMap<PeerId, RttCode>,
    /// New links that may yet be published without a pause.
    new_links: TokenBucket,
    stations: LocalStations,
    names: LocalNames,
    // The address space; none if this peer takes no part in it.
    space: Option<Box<Space>>,
    space_saved: Option<Saved>,
    withheld: Option<Withheld>,
    /// Changes of names that may yet be published one by one.
    names_told: TokenBucket,
    stations_pace: TokenBucket,
    // Whom we talk to.
    sessions: BTreeMap<PeerId, Session>,
    dialer: Dialer,
    neighbours: Neighbours,
    dials: BTreeMap<DialId, Dialling>,
    next_dial: u64,
    /// Links refused to us since one last came up.
    rejections: u32,
    /// When a link was last lost.
    exposed_since: Instant,
    /// Since when there are links too many that are borne, and how patiently, in
    /// pauses, 0 to 2.
    surplus: Option<(Instant, f64)>,
    news: News,
    /// Copies that may come yet, before few and before one link bring news.
    spare: [TokenBucket; 2],
    /// News that may come yet before they spare the pruned links.
    calm: TokenBucket,
    wants: Wants,
    /// Whom we are being brought a lot by, and until when that is believed.
    fed_by: Option<(PeerId, Instant)>,
    /// Since when it does.
    fed_since: Instant,
    /// Owners that may yet be newcomers.
    strangers: TokenBucket,
    /// Repairs that may be passed on as news.
    repairs: TokenBucket,
    /// Repairs that were not, since the neighbours were last told to compare.
    kept_back: u32,
    start: Instant,
    /// When something last happened here.
    awake: Instant,
    // What goes out.
    out: VecDeque<(PeerId, GossipMessage)>,
    events: VecDeque<Event>,
    warned: BTreeSet<(PeerId, &'static str)>,
    counters: Counters,
    stations_told: u64,
    timers: Timers,
}

/// A direct session, and the link over it if there is one.
#[derive(Debug)]
struct Session {
    info: SessionInfo,
    link: Option<Link>,
    outbox: Outbox,
    given: Given,
    /// When to send the sum over everything.
    summary_at: Option<Instant>,
    /// So often the first comparison is begun at most, unless the other end compares.
    greetings: u8,
    /// Until when news are named in beats instead of being pushed.
    lazy_until: Option<Instant>,
    /// When we last asked for no news.
    pruned_at: Instant,
    /// Number of the first item of news not yet named or pushed.
    told: u64,
    /// We had not seen most of what its last beat with news named.
    missed_most: bool,
    /// Their fingerprint without what is in ours too, if they differed at the last beat.
    differed: Option<[u8; 2]>,
    /// The other end said it has hardly another way into the mesh.
    needy: bool,
    /// Signatures checked on its account.
    checks: TokenBucket,
}

impl Session {
    /// Whether news are named in beats instead of being pushed.
    fn is_lazy(&self, now: Instant) -> bool {
        self.lazy_until.is_some_and(|until| now < until)
    }

    /// Queues a list, unless it was given for the same sums a moment ago.
    fn give(&mut self, list: &List, now: Instant) {
        if self.given.is_new(list, now) {
            self.outbox.list(list.first, list.last);
        }
    }
}

/// What an attempt to dial is for.
#[derive(Clone, Debug)]
enum Dialling {
    Target(Target),
    Peer(PeerId),
}

/// A known peer, for people.
#[derive(Clone, Debug)]
pub struct PeerView<'a> {
    /// Who.
    pub id: PeerId,
    /// What it says about itself.
    pub node: &'a Node,
    /// The way to it; none for ourselves, and if there is none.
    pub hop: Option<Hop>,
    /// Whether it can be reached; we can.
    pub reachable: bool,
    /// The other ends of its links: of those that both ends report.
    pub links: Vec<PeerId>,
}

/// A neighbour, or one to be.
#[derive(Clone, Copy, Debug)]
pub struct NeighbourView {
    /// Who.
    pub peer: PeerId,
    /// Where the link stands.
    pub state: LinkState,
    /// The session below.
    pub session: SessionInfo,
    /// The smoothed round-trip time, once known.
    pub rtt: Option<Duration>,
    /// When it was made or came up.
    pub since: Instant,
}

impl<A: Authority> Mesh<A> {
    /// A mesh of ourselves alone.
    pub fn new(
        config: Config,
        mut local: LocalPeer,
        authority: A,
        seed: u64,
        now: Instant,
    ) -> Self {
        publish::clip(&mut local);
        let timers = Timers::new(&config, now);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let replica = Replica::new(config.owner_limit, rng.next_u64());
        // The slot is that of the first record, our own, published below.
        let slot = Slot(0);
        let mut mesh = Self {
            rng,
            replica,
            ways: Ways::new(slot),
            absent: Absent::default(),
            graph: OnceLock::new(),
            claims: Claims::default(),
            directory: Directory::default(),
            own: Own::new(local.epoch),
            links: Parts::new(PART_LINKS, usize::from(LINK_PARTS)),
            published_rtt: BTreeMap::new(),
            new_links: TokenBucket::full(links::NEW_LINKS, now),
            stations: LocalStations::new(local.id, config.reclaim_after),
            names: LocalNames::new(),
            space: None,
            space_saved: None,
            withheld: None,
            names_told: TokenBucket::full(names::NAMES_BURST, now),
            stations_pace: TokenBucket::full(publish::STATIONS_BURST, now),
            sessions: BTreeMap::new(),
            dialer: Dialer::default(),
            neighbours: Neighbours::new(now),
            dials: BTreeMap::new(),
            next_dial: 0,
            rejections: 0,
            exposed_since: now,
            surplus: None,
            news: News::default(),
            spare: spread::SPARE_BURSTS.map(|burst| TokenBucket::full(burst, now)),
            calm: TokenBucket::full(config.pace.calm.0, now),
            wants: Wants::default(),
            fed_by: None,
            fed_since: now,
            strangers: TokenBucket::full(receive::STRANGER_BURST, now),
            repairs: TokenBucket::full(spread::REPAIR_BURST, now),
            kept_back: 0,
            start: now,
            awake: now,
            out: VecDeque::new(),
            events: VecDeque::new(),
            warned: BTreeSet::new(),
            counters: Counters::default(),
            stations_told: 0,
            timers,
            config,
            local,
            authority,
        };
        mesh.publish_everything(now);
        debug_assert_eq!(mesh.replica.slot(&mesh.local.id), Some(slot));
        mesh.calculate_routes(now);
        mesh.events.clear();
        mesh
    }

    /// Something a peer said over an open direct session.
    pub fn handle_message(&mut self, from: PeerId, message: GossipMessage, now: Instant) {
        self.wake(now);
        self.receive(from, message, now);
        self.look_at_session(&from);
        self.tell_changes();
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.wake(now);
        self.run_due(now);
        self.tell_changes();
    }

    /// Adds targets, or makes these the only ones. Those that wait are dialled at once.
    pub fn connect(&mut self, targets: &[Target], replace: bool, now: Instant) {
        self.dialer.connect(targets, replace, now);
        self.events.push_back(Event::TargetsChanged);
        self.dial_targets(now);
    }

    /// Drops targets. Links that are up stay; once down, such a peer is dialled
    /// again only while others reach it.
    pub fn forget(&mut self, targets: &[Target]) {
        for peer in self.dialer.forget(targets) {
            if !self.dialer.leads_to(&peer) {
                self.neighbours.forget(peer);
            }
        }
        self.events.push_back(Event::TargetsChanged);
    }

    /// Where we can be dialled.
    pub fn set_endpoints(&mut self, mut endpoints: Vec<SocketAddr>, now: Instant) {
        endpoints.truncate(crate::limits::NODE_ENDPOINTS);
        if self.local.endpoints != endpoints {
            self.local.endpoints = endpoints;
            self.publish_node(now);
        }
    }

    /// What we are called.
    pub fn set_nickname(&mut self, nickname: String, now: Instant) {
        if self.local.nickname != nickname {
            self.local.nickname = nickname;
            publish::clip(&mut self.local);
            self.publish_node(now);
        }
    }

    /// A station was seen behind this peer, or is attached to it (`pinned`).
    pub fn learn_station(&mut self, mac: MacAddr, ips: &[IpAddr], pinned: bool, now: Instant) {
        match self.stations.learn(mac, ips, pinned, &self.claims, now) {
            Learnt::Known => {}
            Learnt::Changed => self.stations_changed(now),
            Learnt::Full => {
                let limit = crate::claims::STATIONS_PER_PEER;
                self.warn(
                    self.local.id,
                    "stations",
                    Warning::TooManyStations { limit },
                );
            }
        }
    }

    /// A station is gone.
    pub fn forget_station(&mut self, mac: MacAddr, now: Instant) {
        if self.stations.forget(&mac) {
            self.stations_changed(now);
        }
    }

    /// A station no longer has an address.
    pub fn forget_station_ip(&mut self, mac: MacAddr, ip: IpAddr, now: Instant) {
        if self.stations.forget_ip(&mac, &ip.to_canonical()) {
            self.stations_changed(now);
        }
    }

    /// Says goodbye to all neighbours.
    pub fn shutdown(&mut self, now: Instant) {
        self.withdraw_links(now);
        self.flush(now);
        let linked: Vec<PeerId> = self.linked().collect();
        for peer in linked {
            self.out.push_back((
                peer,
                GossipMessage::Bye {
                    reason: ByeReason::Stopping,
                },
            ));
        }
    }

    /// The next message to send.
    pub fn poll_transmit(&mut self) -> Option<(PeerId, GossipMessage)> {
        self.out.pop_front()
    }

    /// The next event to act on.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`Mesh::handle_timeout`], and what for.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.next_due()
    }

    /// Ways to everybody, as of the last [`Event::RoutesChanged`].
    pub fn routes(&self) -> Routes<'_> {
        Routes {
            replica: &self.replica,
            ways: &self.ways,
        }
    }

    /// How many peers can be reached, without ourselves.
    pub fn reachable_count(&self) -> usize {
        self.ways.reached()
    }

    /// The neighbours to which this peer forwards what `source` broadcasts.
    /// Calculated at every call: a shortest-path tree of the whole graph.
    pub fn children(&self, source: &PeerId) -> Vec<PeerId> {
        let graph = self.graph.get_or_init(|| Graph::new(&self.replica));
        graph.children(&self.local.id, source)
    }

    /// The records of everybody, by owner and topic.
    pub fn records(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.replica
            .owners()
            .flat_map(|slot| self.replica.records_of(slot))
    }

    /// Which peer has which MAC and IP address.
    pub fn stations(&self) -> &Claims {
        &self.claims
    }

    /// Everybody known, ourselves included, by id.
    pub fn peers(&self) -> impl Iterator<Item = PeerView<'_>> {
        let replica = &self.replica;
        replica.owners().filter_map(|slot| {
            let links = replica.neighbours(slot).map(|(other, _)| replica.id(other));
            Some(PeerView {
                id: replica.id(slot),
                node: replica.node(slot)?,
                hop: self.ways.hop(slot, replica),
                reachable: self.ways.reaches(slot),
                links: links.collect(),
            })
        })
    }

    /// How many peers are known, ourselves included.
    pub fn peer_count(&self) -> usize {
        self.replica.owner_count()
    }

    /// What a peer says about itself.
    pub fn node(&self, peer: &PeerId) -> Option<&Node> {
        self.replica.node(self.replica.slot(peer)?)
    }

    /// The targets and where they stand.
    pub fn targets(&self) -> impl Iterator<Item = (&Target, &TargetState)> {
        self.dialer.iter()
    }

    /// The neighbours, and those being probed.
    pub fn neighbours(&self) -> impl Iterator<Item = NeighbourView> {
        self.sessions.iter().filter_map(|(peer, session)| {
            let link = session.link.as_ref()?;
            let (state, rtt, since) = (link.state(), link.rtt(), link.since());
            Some(NeighbourView {
                peer: *peer,
                state,
                session: session.info,
                rtt,
                since,
            })
        })
    }

    /// How many records are held.
    pub fn record_count(&self) -> usize {
        self.replica.len()
    }

    /// Stands for all records that are compared with others: equal on peers that agree.
    pub fn fingerprint(&self) -> u64 {
        self.replica.sum(Scope::ALL).fingerprint
    }

    /// What was done so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The epoch of our records. Keep it, and launch with a higher one next time.
    pub fn epoch(&self) -> u64 {
        self.own.epoch()
    }

    /// Peers with a usable link.
    fn linked(&self) -> impl Iterator<Item = PeerId> {
        let usable = |session: &Session| {
            session
                .link
                .as_ref()
                .is_some_and(|link| link.state().is_usable())
        };
        self.sessions
            .iter()
            .filter(move |(_, session)| usable(session))
            .map(|(peer, _)| *peer)
    }

    /// Links, those being probed included.
    fn link_count(&self) -> usize {
        self.sessions
            .values()
            .filter(|session| session.link.is_some())
            .count()
    }

    /// Whether everybody is to be a neighbour.
    fn is_small(&self) -> bool {
        self.config
            .is_small(self.ways.reached(), self.replica.owner_count())
    }

    fn pace(&self) -> &Pace {
        if self.ways.reached() < self.config.large_from {
            &self.config.pace
        } else {
            &self.config.pace_large
        }
    }

    /// How many links to have.
    fn degree(&self) -> usize {
        self.config.degree_of(self.ways.reached())
    }

    /// Warns once per culprit and cause.
    fn warn(&mut self, culprit: PeerId, cause: &'static str, warning: Warning) {
        const LIMIT: usize = 256;
        if self.warned.len() < LIMIT && self.warned.insert((culprit, cause)) {
            self.events.push_back(Event::Warning(warning));
        }
    }

    fn tell_changes(&mut self) {
        if self.directory.has_changed() {
            self.events.push_back(Event::NamesChanged);
        }
        if std::mem::replace(&mut self.stations_told, self.claims.changes())
            != self.claims.changes()
        {
            self.events.push_back(Event::StationsChanged);
        }
    }

    /// A random index into something of this length; 0 if it is empty.
    fn random_index(&mut self, len: usize) -> usize {
        self.rng.random_range(0..len.max(1))
    }

    /// `duration` times a factor in [0.5, 1.5).
    fn jittered(&mut self, duration: Duration) -> Duration {
        duration.mul_f64(self.rng.random_range(0.5..1.5))
    }
}
