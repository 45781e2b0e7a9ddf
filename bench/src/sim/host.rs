//! One host: the mesh on it if it runs, its sessions, handshakes and timer.
//!
//! What happens at a host depends on nothing but what arrives there and its own
//! randomness, so it is the same whatever the number of threads.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use gossip::{Config, Event as MeshEvent, LocalPeer, Mesh, SessionInfo, Target, Warning};
use proto::{PeerId, message::GossipMessage};
use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    core_api::is_heartbeat,
    datagram::{Datagram, KINDS},
    handshake::Handshakes,
    identity::{FakeAuthority, address, id, keys, name, number, scatter},
    liar::Liar,
    net::Net,
    queue::{Event, What},
    sessions::{Session, Sessions},
    time::Time,
};

/// Events kept for a stalled host, as its socket's buffer would; more are lost.
const STALL_QUEUE: usize = 4000;
/// A session without a link and unused for so long ends, as in the engine.
const IDLE: Duration = Duration::from_secs(300);
/// How often sessions are looked at for that.
const SWEEP: Duration = Duration::from_secs(60);
/// How long an address translator lets answers in.
const NAT_OPEN: Duration = Duration::from_secs(30);
/// Warnings kept per host.
const WARNINGS: usize = 16;

/// One host and the peer on it.
pub(crate) struct Host {
    pub(crate) number: u32,
    pub(crate) mesh: Option<Mesh<FakeAuthority>>,
    pub(crate) sessions: Sessions,
    pub(crate) handshakes: Handshakes,
    /// When the mesh is called next; an event for it is in the queue.
    timer: Option<Time>,
    /// Counts launches.
    pub(crate) life: u32,
    epoch: u64,
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
    pub(crate) warnings: Vec<Warning>,
    sweep_at: Time,
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

/// The mesh of a peer that was just launched.
pub(crate) fn new_mesh(
    number: u32,
    epoch: u64,
    instance: u64,
    config: &Config,
    seed: u64,
    now: Instant,
) -> Mesh<FakeAuthority> {
    let local = LocalPeer {
        id: id(number),
        keys: keys(number),
        epoch,
        instance,
        nickname: format!("host{number}"),
        version: "0.1.0".to_owned(),
        endpoints: vec![address(number)],
        capabilities: 0,
    };
    let authority = FakeAuthority(local.keys);
    Mesh::new(config.clone(), local, authority, seed, now)
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
        }
    }

    /// Whether a peer runs here.
    pub(crate) fn runs(&self) -> bool {
        self.mesh.is_some()
    }

    /// Launches the peer, in the epoch after its last.
    pub(crate) fn launch(&mut self, config: &Config, targets: &[u32], net: &mut Net<'_>) {
        self.crash();
        self.life += 1;
        self.epoch += 1;
        self.launched_at = net.now;
        self.sweep_at = net.now + SWEEP;
        let now = net.instant();
        let (instance, seed) = (self.rng.next_u64(), self.rng.next_u64());
        let mut mesh = new_mesh(self.number, self.epoch, instance, config, seed, now);
        let targets: Vec<Target> = targets.iter().map(|target| name(*target)).collect();
        if !targets.is_empty() {
            mesh.connect(&targets, false, now);
        }
        self.mesh = Some(mesh);
        self.drain(net);
    }

    /// Ends the peer without a word.
    pub(crate) fn crash(&mut self) {
        if let Some(mesh) = &self.mesh {
            self.epoch = self.epoch.max(mesh.epoch());
        }
        self.mesh = None;
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
        self.crash();
    }

    /// Opens this end of a session without a handshake, as a world that is
    /// warm from the start has it.
    pub(crate) fn open_warm(&mut self, peer: u32, life: u32, session: u64, net: &mut Net<'_>) {
        self.sessions
            .insert(Session::new(peer, life, session, net.now));
        let info = SessionInfo {
            address: address(peer),
            outbound: (session >> 32) as u32 == self.number,
            dial: None,
        };
        if let Some(mesh) = &mut self.mesh {
            mesh.session_opened(id(peer), info, net.instant());
            self.drain(net);
        }
    }

    /// Keeps the peer from running for a while.
    pub(crate) fn stall(&mut self, until: Time, net: &mut Net<'_>) {
        if self.mesh.is_some() && self.stall.is_none() {
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
        }
    }

    fn run_timer(&mut self, net: &mut Net<'_>) {
        if self.timer.is_none_or(|at| at > net.now) {
            return;
        }
        self.timer = None;
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

    /// Ends sessions that nobody uses.
    fn sweep(&mut self, net: &mut Net<'_>) {
        self.sweep_at = net.now + SWEEP;
        let idle = |session: &&Session| !session.linked && net.now >= session.used_at + IDLE;
        let idle: Vec<u32> = self
            .sessions
            .iter()
            .filter(idle)
            .map(|session| session.peer)
            .collect();
        for peer in idle {
            self.sessions.remove(peer);
            if let Some(mesh) = &mut self.mesh {
                mesh.session_closed(id(peer), net.instant());
            }
        }
    }

    fn receive(&mut self, from: u32, datagram: Datagram, size: u32, net: &mut Net<'_>) {
        if self.mesh.is_none() || !self.lets_in(from, net.now) {
            return;
        }
        self.traffic.in_bytes += u64::from(size);
        self.traffic.datagrams += 1;
        self.note(net.now, from, size);
        match datagram {
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

    fn hear(&mut self, from: u32, session: u64, message: GossipMessage, net: &mut Net<'_>) {
        if !self
            .sessions
            .get(from)
            .is_some_and(|held| held.knows(session))
        {
            // The first datagram that opens confirms as well as a confirmation does.
            self.handle_confirm(from, session, net);
        }
        match self.sessions.get_mut(from) {
            Some(held) if held.knows(session) => held.used_at = net.now,
            Some(_) | None => {
                return self.send(from, Datagram::NoSession { session }, net.now, net);
            }
        }
        if let Some(mesh) = &mut self.mesh {
            mesh.handle_message(id(from), message, net.instant());
            self.drain(net);
        }
    }

    /// Carries out what the mesh asks for, and arms its timer.
    pub(crate) fn drain(&mut self, net: &mut Net<'_>) {
        while let Some(mesh) = &mut self.mesh {
            if let Some((to, message)) = mesh.poll_transmit() {
                self.transmit(&to, message, net);
            } else if let Some(event) = mesh.poll_event() {
                self.act(event, net);
            } else {
                break;
            }
        }
        self.arm(net);
    }

    fn transmit(&mut self, to: &PeerId, message: GossipMessage, net: &mut Net<'_>) {
        let ours = self.number;
        let said = match &mut self.liar {
            Some(liar) => liar.distort(ours, message, net.now),
            None => Some(message),
        };
        if let Some(message) = said {
            self.say(number(to), message, net);
        }
    }

    /// Sends a message on the session there is.
    pub(crate) fn say(&mut self, to: u32, message: GossipMessage, net: &mut Net<'_>) {
        if net.shared.quiet && !is_heartbeat(&message) {
            return;
        }
        if let Some(held) = self.sessions.get_mut(to) {
            held.used_at = net.now;
            let session = held.sending();
            self.send(to, Datagram::Gossip { session, message }, net.now, net);
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

    fn arm(&mut self, net: &mut Net<'_>) {
        let due = self.mesh.as_ref().and_then(Mesh::poll_timeout);
        let Some((at, _)) = due else { return };
        let at = net.shared.clock.time(at).max(net.now);
        if self.timer.is_none_or(|armed| at < armed) {
            self.timer = Some(at);
            self.schedule(at, What::Timer, net);
        }
    }

    fn act(&mut self, event: MeshEvent, net: &mut Net<'_>) {
        match event {
            MeshEvent::Dial { dial, target } => self.dial(dial, &target, net),
            MeshEvent::CloseSession(peer) => {
                self.sessions.remove(number(&peer));
                if let Some(mesh) = &mut self.mesh {
                    mesh.session_closed(peer, net.instant());
                }
            }
            MeshEvent::LinkUp(peer) => self.set_linked(&peer, true),
            MeshEvent::LinkDown { peer, .. } => self.set_linked(&peer, false),
            MeshEvent::Warning(warning) => {
                if self.warnings.len() < WARNINGS {
                    self.warnings.push(warning);
                }
            }
            MeshEvent::RoutesChanged => {
                if let Some(mesh) = &self.mesh {
                    net.log
                        .routes_changed(&net.shared.watch, self.number, mesh, net.now);
                }
            }
            MeshEvent::StationsChanged => {
                if let Some(mesh) = &self.mesh {
                    net.log
                        .stations_changed(&net.shared.watch, self.number, mesh, net.now);
                }
            }
            MeshEvent::PeerAppeared(_)
            | MeshEvent::PeerRestarted { .. }
            | MeshEvent::TargetsChanged => {}
        }
    }

    fn set_linked(&mut self, peer: &PeerId, linked: bool) {
        if let Some(session) = self.sessions.get_mut(number(peer)) {
            session.linked = linked;
        }
    }

    /// Whether the address translator lets a datagram in.
    fn lets_in(&self, from: u32, now: Time) -> bool {
        let open = |nat: &HashMap<u32, Time>| nat.get(&from).is_some_and(|at| now < *at + NAT_OPEN);
        self.nat.as_ref().is_none_or(open)
    }

    fn note(&mut self, now: Time, from: u32, size: u32) {
        for word in [now.0, u64::from(from) << 32 | u64::from(size)] {
            self.trace = (self.trace ^ word)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(29);
        }
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
