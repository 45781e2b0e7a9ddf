//! One host: the peer on it if one runs, with its timer and its network device.
//!
//! What happens at a host depends on nothing but what arrives there and its own
//! randomness, so it is the same whatever the number of threads.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    time::Duration,
};

use gossip::{
    Mesh, Target,
    space::{Space, SpaceConfig},
};
use proto::{MacAddr, ShortId};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use wove::engine::Router;

use super::{
    datagram::{Datagram, KINDS},
    handshake::Handshakes,
    identity::{FakeAuthority, name, scatter},
    liar::Liar,
    net::{Net, Shared},
    observe::name_of,
    queue::{Event, What},
    sessions::Sessions,
    time::Time,
    view::View,
    whole::Whole,
};

/// Events kept for a stalled host, as its socket's buffer would; more are lost.
const STALL_QUEUE: usize = 4000;
/// How often sessions are looked at for that.
pub(super) const SWEEP: Duration = Duration::from_secs(60);
/// How long an address translator lets answers in.
const NAT_OPEN: Duration = Duration::from_secs(30);
/// Warnings kept per host.
const WARNINGS: usize = 16;

/// One host and the peer on it.
pub(crate) struct Host {
    pub(crate) number: u32,
    /// The mesh of a peer whose sessions are modelled.
    pub(crate) mesh: Option<Mesh<FakeAuthority>>,
    /// The engine of a peer that runs whole; never beside the former.
    pub(super) whole: Option<Box<Whole>>,
    pub(crate) sessions: Sessions,
    pub(crate) handshakes: Handshakes,
    /// When the mesh is called next; an event for it is in the queue.
    timer: Option<Time>,
    /// Counts launches.
    pub(crate) life: u32,
    pub(super) epoch: u64,
    pub(crate) launched_at: Time,
    pub(crate) rng: ChaCha8Rng,
    sequence: u64,
    pub(crate) traffic: Traffic,
    /// Folds everything that arrived.
    pub(crate) trace: u64,
    stall: Option<Box<Stall>>,
    /// When each other host was sent something last, if this one is behind
    /// address translation.
    nat: Option<HashMap<u32, Time>>,
    pub(crate) liar: Option<Box<Liar>>,
    pub(crate) warnings: Vec<Warned>,
    pub(super) sweep_at: Time,
    /// Addresses given to containers here, and how many were asked for.
    pub(crate) addresses: Vec<u32>,
    pub(crate) asked: usize,
}

/// Something that a peer wants a person to know.
pub(crate) struct Warned {
    pub(crate) text: String,
    /// It is what a peer should say among liars.
    pub(crate) of_lies: bool,
}

/// What a host sent and received, in bytes with IPv4 and UDP headers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) out_bytes: u64,
    pub(crate) in_bytes: u64,
    /// Datagrams, both ways.
    pub(crate) datagrams: u64,
    /// Handshakes answered.
    pub(crate) handshakes: u64,
    /// Bytes sent, by [`KINDS`].
    pub(crate) kinds: [u64; KINDS.len()],
}

/// A process that does not get to run.
struct Stall {
    until: Time,
    arrived: VecDeque<Event>,
}

impl Host {
    pub(crate) fn new(number: u32, seed: u64, natted: bool) -> Self {
        Self {
            number,
            mesh: None,
            whole: None,
            sessions: Sessions::default(),
            handshakes: Handshakes::default(),
            timer: None,
            life: 0,
            epoch: 0,
            launched_at: Time::default(),
            rng: ChaCha8Rng::seed_from_u64(scatter(seed ^ scatter(u64::from(number)))),
            sequence: 0,
            traffic: Traffic::default(),
            trace: 0,
            stall: None,
            nat: natted.then(HashMap::new),
            liar: None,
            warnings: Vec::new(),
            sweep_at: Time::default(),
            addresses: Vec::new(),
            asked: 0,
        }
    }

    /// Whether a peer runs here.
    pub(crate) fn runs(&self) -> bool {
        self.mesh.is_some() || self.whole.is_some()
    }

    /// Launches the peer, in the epoch after its last.
    pub(crate) fn launch(&mut self, config: &gossip::Config, targets: &[u32], net: &mut Net<'_>) {
        self.crash();
        self.life += 1;
        self.epoch += 1;
        self.launched_at = net.now;
        self.sweep_at = net.now + SWEEP;
        let targets: Vec<Target> = targets.iter().map(|target| name(*target)).collect();
        match &net.shared.cast {
            Some(cast) => self.launch_whole(cast, config, &targets, net),
            None => self.launch_model(config, &targets, net),
        }
    }

    /// Ends the peer without a word.
    pub(crate) fn crash(&mut self) {
        let whole = self.whole.as_ref().map(|whole| whole.epoch());
        let epoch = self.mesh.as_ref().map(Mesh::epoch).or(whole);
        self.epoch = self.epoch.max(epoch.unwrap_or_default());
        (self.mesh, self.whole) = (None, None);
        self.sessions.clear();
        self.handshakes.clear();
        self.timer = None;
        self.stall = None;
        if let Some(nat) = &mut self.nat {
            nat.clear();
        }
    }

    /// Ends the peer with a goodbye.
    pub(crate) fn stop(&mut self, net: &mut Net<'_>) {
        if let Some(mesh) = &mut self.mesh {
            mesh.shutdown(net.instant());
            self.drain(net);
        }
        self.control(net, Router::shut_down);
        self.crash();
    }

    /// A container with this address is attached here.
    pub(crate) fn learn_station(&mut self, mac: MacAddr, net: &mut Net<'_>) {
        if let Some(mesh) = &mut self.mesh {
            mesh.learn_station(mac, &[], true, net.instant());
            self.drain(net);
        }
        self.control(net, |router, now| router.attach_station(mac, &[], now));
    }

    /// The peer takes part in the address space from now on.
    pub(crate) fn open_space(&mut self, config: SpaceConfig, net: &mut Net<'_>) {
        if let Some(mesh) = &mut self.mesh {
            mesh.open_space(config, None, net.instant());
            self.drain(net);
        }
    }

    /// A container here wants an address.
    pub(crate) fn allocate(&mut self, net: &mut Net<'_>) {
        let Some(mesh) = &mut self.mesh else { return };
        let Some(range) = mesh.space().map(Space::range) else {
            return;
        };
        self.asked += 1;
        mesh.allocate(self.asked as u64, range, net.instant());
        self.drain(net);
    }

    /// An operator says that a peer is gone.
    pub(crate) fn take_over(&mut self, peer: ShortId, net: &mut Net<'_>) {
        if let Some(mesh) = &mut self.mesh {
            mesh.take_over(peer, false, net.instant());
            self.drain(net);
        }
    }

    /// How many addresses a peer owns, as this one knows.
    pub(crate) fn owned_by(&self, peer: ShortId) -> u32 {
        let view = self.mesh.as_ref().and_then(Mesh::space_view);
        let owners = view.iter().flat_map(|view| &view.owners);
        let owned = owners.filter(|owner| owner.peer == peer);
        owned.map(|owner| owner.owned).sum()
    }

    /// That container is gone.
    pub(crate) fn forget_station(&mut self, mac: MacAddr, net: &mut Net<'_>) {
        if let Some(mesh) = &mut self.mesh {
            mesh.forget_station(mac, net.instant());
            self.drain(net);
        }
        self.control(net, |router, now| router.detach_station(mac, now));
    }

    /// These are the names of containers here.
    pub(crate) fn set_names(&mut self, names: &[u32], net: &mut Net<'_>) {
        let address = |name: u32| IpAddr::from(name.to_be_bytes());
        let names = || names.iter().map(|name| (name_of(*name), address(*name)));
        if let Some(mesh) = &mut self.mesh {
            mesh.set_names(names(), net.instant());
            self.drain(net);
        }
        self.control(net, |router, now| router.set_names(names(), now));
    }

    /// A look at the mesh of the peer, if it runs.
    pub(crate) fn view<'a>(&'a self, shared: &'a Shared) -> Option<View<'a>> {
        let cast = shared.cast.as_ref();
        let modelled = self.mesh.as_ref().map(|mesh| View::new(mesh, None));
        modelled.or_else(|| Some(self.whole.as_ref()?.view(cast)))
    }

    /// Numbers of the peers with which there is a usable link.
    pub(crate) fn linked(&self) -> Vec<u32> {
        match &self.whole {
            Some(whole) => whole.linked().iter().copied().collect(),
            None => self.sessions.linked().collect(),
        }
    }

    /// How many those are.
    pub(crate) fn link_count(&self) -> usize {
        match &self.whole {
            Some(whole) => whole.linked().len(),
            None => self.sessions.linked().count(),
        }
    }

    /// Whether there is a usable link with a peer.
    pub(crate) fn is_linked(&self, peer: u32) -> bool {
        match &self.whole {
            Some(whole) => whole.linked().contains(&peer),
            None => self
                .sessions
                .get(peer)
                .is_some_and(|session| session.linked),
        }
    }

    /// Whether what this peer sends on its session with another is taken there.
    pub(crate) fn is_heard_by(&self, other: &Self) -> bool {
        match (&self.whole, &other.whole) {
            (Some(here), Some(there)) => here.is_heard_by(there),
            _ => {
                let session = self.sessions.get(other.number);
                session.is_some_and(|session| session.life == other.life)
            }
        }
    }

    /// Keeps something that a person should know.
    pub(super) fn warn(&mut self, warned: Warned) {
        if self.warnings.len() < WARNINGS {
            self.warnings.push(warned);
        }
    }

    /// The routes of the peer may be new.
    pub(super) fn observe_routes(&self, net: &mut Net<'_>) {
        if let Some(view) = self.view(net.shared) {
            net.log
                .routes_changed(&net.shared.watch, self.number, view, net.now);
        }
    }

    /// Stations may be placed differently.
    pub(super) fn observe_stations(&self, net: &mut Net<'_>) {
        if let Some(view) = self.view(net.shared) {
            net.log
                .stations_changed(&net.shared.watch, self.number, view, net.now);
        }
    }

    /// Notes since when names are known as they are watched for.
    pub(super) fn observe_names(&self, net: &mut Net<'_>) {
        if let Some(view) = self.view(net.shared) {
            net.log
                .names_changed(&net.shared.watch, self.number, view, net.now);
        }
    }

    /// Keeps the peer from running for a while.
    pub(crate) fn stall(&mut self, until: Time, net: &mut Net<'_>) {
        if self.runs() && self.stall.is_none() {
            let arrived = VecDeque::new();
            self.stall = Some(Box::new(Stall { until, arrived }));
            self.schedule(until, What::Wake, net);
        }
    }

    /// Something happens here.
    pub(crate) fn handle(&mut self, event: Event, net: &mut Net<'_>) {
        match &mut self.stall {
            Some(stall) if matches!(event.what, What::Wake) => {
                if net.now >= stall.until {
                    self.wake(net);
                }
            }
            Some(_) if matches!(event.what, What::Timer) => {}
            Some(stall) => {
                if stall.arrived.len() < STALL_QUEUE {
                    stall.arrived.push_back(event);
                }
            }
            None => self.process(event, net),
        }
    }

    /// Does what was left undone: what arrived first or the timer first, for
    /// in reality it may be either.
    fn wake(&mut self, net: &mut Net<'_>) {
        let Some(stall) = self.stall.take() else {
            return;
        };
        let timer_first = self.rng.random_bool(0.5);
        if timer_first {
            self.run_timer(net);
        }
        for event in stall.arrived {
            self.process(event, net);
        }
        self.run_timer(net);
    }

    fn process(&mut self, event: Event, net: &mut Net<'_>) {
        match event.what {
            What::Datagram(datagram, size) => self.receive(event.from, datagram, size, net),
            What::Timer if self.timer == Some(event.at) => self.run_timer(net),
            What::Timer | What::Wake => {}
            What::Repeat(attempt) => self.repeat(attempt, net),
            What::Lie => self.lie(net),
            What::Later(later) => self.call(*later, net),
        }
    }

    fn run_timer(&mut self, net: &mut Net<'_>) {
        if self.timer.is_none_or(|at| at > net.now) {
            return;
        }
        self.timer = None;
        self.control(net, Router::handle_timeout);
        let now = net.instant();
        let Some(mesh) = &mut self.mesh else { return };
        // What it was armed for may have been put off since.
        if mesh.poll_timeout().is_some_and(|(at, _)| at <= now) {
            mesh.handle_timeout(now);
        }
        if net.now >= self.sweep_at {
            self.sweep(net);
        }
        self.drain(net);
    }

    fn receive(&mut self, from: u32, datagram: Datagram, size: u32, net: &mut Net<'_>) {
        if !self.runs() || !self.lets_in(from, net.now) {
            return;
        }
        self.traffic.in_bytes += u64::from(size);
        self.traffic.datagrams += 1;
        self.fold(net.now.0);
        self.fold(u64::from(from) << 32 | u64::from(size));
        match datagram {
            Datagram::Bytes(bytes) => self.receive_bytes(from, bytes, net),
            Datagram::Gossip { session, message } => self.hear(from, session, message, net),
            Datagram::Initiation { attempt, proven } => {
                self.handle_initiation(from, attempt, proven, net);
            }
            Datagram::Response { attempt, life } => self.handle_response(attempt, life, net),
            Datagram::Completion {
                attempt,
                life,
                responder_life,
            } if responder_life == self.life => self.handle_completion(from, attempt, life, net),
            Datagram::Completion { .. } => {}
            Datagram::Cookie { attempt } => self.handle_cookie(attempt, net),
            Datagram::Confirm { attempt } => self.handle_confirm(from, attempt, net),
            Datagram::NoSession { session } => self.handle_no_session(from, session, net),
        }
    }

    /// Gives a datagram to the underlay at a time not before now.
    pub(crate) fn send(&mut self, to: u32, datagram: Datagram, at: Time, net: &mut Net<'_>) {
        let size = datagram.size();
        self.traffic.out_bytes += u64::from(size);
        self.traffic.kinds[datagram.kind()] += u64::from(size);
        self.traffic.datagrams += 1;
        if let Some(nat) = &mut self.nat {
            nat.insert(to, at);
        }
        let wan = &net.shared.wan;
        if (to as usize) < wan.hosts()
            && let Some(at) = wan.carry(&mut self.rng, self.number, to, at)
        {
            self.cause(at, to, What::Datagram(datagram, size), net);
        }
    }

    /// Lets something happen here later.
    pub(crate) fn schedule(&mut self, at: Time, what: What, net: &mut Net<'_>) {
        self.cause(at, self.number, what, net);
    }

    fn cause(&mut self, at: Time, to: u32, what: What, net: &mut Net<'_>) {
        self.sequence += 1;
        net.happen(Event {
            at,
            from: self.number,
            to,
            sequence: self.sequence,
            what,
        });
    }

    /// Puts the call for which the mesh asks in the queue.
    pub(super) fn arm(&mut self, net: &mut Net<'_>) {
        let whole = self.whole.as_ref().and_then(|whole| whole.poll_timeout());
        let due = self.mesh.as_ref().and_then(Mesh::poll_timeout).or(whole);
        let Some((at, _)) = due else { return };
        let at = net.shared.clock.time(at).max(net.now);
        if self.timer.is_none_or(|armed| at < armed) {
            self.timer = Some(at);
            self.schedule(at, What::Timer, net);
        }
    }

    /// Whether the address translator lets a datagram in.
    fn lets_in(&self, from: u32, now: Time) -> bool {
        let open = |nat: &HashMap<u32, Time>| nat.get(&from).is_some_and(|at| now < *at + NAT_OPEN);
        self.nat.as_ref().is_none_or(open)
    }

    /// Makes a word part of the trace.
    pub(super) fn fold(&mut self, word: u64) {
        self.trace = (self.trace ^ word)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{
        progress::Progress,
        wan::Reach,
        world::{Setup, World},
    };

    #[test]
    fn a_stalled_peer_does_nothing_and_then_makes_up_for_it() {
        let setup = Setup {
            peers: 6,
            newcomers: 0,
            seed: 1,
            threads: 1,
            loss: 0.0,
            one_way: 0.0,
            nat: 0.0,
            reach: Reach::All,
            engine: false,
        };
        let mut world = World::new(setup, Progress::new(false));
        world.warm().unwrap();
        let until = world.now + Duration::from_secs(1);
        world.stall(3, until);
        world.run_for(Duration::from_millis(20));
        let before = world.host(3).traffic;
        world.run_for(Duration::from_millis(970));
        let during = world.host(3).traffic;
        assert_eq!(before.datagrams, during.datagrams);
        world.run_for(Duration::from_millis(200));
        let after = world.host(3).traffic;
        assert!(after.in_bytes > during.in_bytes && after.out_bytes > during.out_bytes);
        world.settle(Duration::from_secs(10)).unwrap();
    }
}
