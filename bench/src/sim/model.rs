//! A peer whose sessions are modelled: the production mesh, and what the engine
//! round it would do for it.

use std::time::{Duration, Instant};

use gossip::{Config, Event as MeshEvent, LocalPeer, Mesh, Scope, SessionInfo, Target, Warning};
use proto::{PeerId, message::GossipMessage};
use rand::RngCore;

use super::{
    core_api::is_heartbeat,
    datagram::Datagram,
    host::{Host, SWEEP, Warned},
    identity::{FakeAuthority, address, id, keys, number},
    net::Net,
    sessions::Session,
};

/// A session without a link and unused for so long ends, as in the engine.
const IDLE: Duration = Duration::from_secs(300);

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

impl Host {
    pub(super) fn launch_model(&mut self, config: &Config, targets: &[Target], net: &mut Net<'_>) {
        let now = net.instant();
        let (instance, seed) = (self.rng.next_u64(), self.rng.next_u64());
        let mut mesh = new_mesh(self.number, self.epoch, instance, config, seed, now);
        if !targets.is_empty() {
            mesh.connect(targets, false, now);
        }
        self.mesh = Some(mesh);
        self.drain(net);
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
            scope: Scope::ALL,
            handicap: Duration::ZERO,
        };
        if let Some(mesh) = &mut self.mesh {
            mesh.session_opened(id(peer), info, net.instant());
            self.drain(net);
        }
    }

    /// Ends sessions that nobody uses.
    pub(super) fn sweep(&mut self, net: &mut Net<'_>) {
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

    pub(super) fn hear(
        &mut self,
        from: u32,
        session: u64,
        message: GossipMessage,
        net: &mut Net<'_>,
    ) {
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
            // Disks keep everything at once here.
            if mesh.take_space_saved().is_some() {
                mesh.space_kept(net.instant());
            } else if let Some((to, message)) = mesh.poll_transmit() {
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
                let of_lies = is_of_lies(&warning);
                let text = warning.to_string();
                self.warn(Warned { text, of_lies });
            }
            MeshEvent::RoutesChanged => self.observe_routes(net),
            MeshEvent::StationsChanged => self.observe_stations(net),
            MeshEvent::NamesChanged => {
                if let Some(mesh) = &mut self.mesh {
                    mesh.take_changed_names();
                }
                self.observe_names(net);
            }
            MeshEvent::Space(outcome) => match outcome.result {
                Ok(grant) => self.addresses.push(grant.at),
                Err(_) => self.asked -= 1,
            },
            MeshEvent::SpaceWarning(_)
            | MeshEvent::PeerAppeared(_)
            | MeshEvent::PeerRestarted { .. }
            | MeshEvent::TargetsChanged => {}
        }
    }

    fn set_linked(&mut self, peer: &PeerId, linked: bool) {
        if let Some(session) = self.sessions.get_mut(number(peer)) {
            session.linked = linked;
        }
    }
}

/// Whether a warning is what a peer should say among liars.
fn is_of_lies(warning: &Warning) -> bool {
    match warning {
        Warning::BadRecord { .. } | Warning::Equivocation { .. } => true,
        Warning::ClonedIdentity { .. }
        | Warning::NicknameClash { .. }
        | Warning::DuplicateStation { .. }
        | Warning::TooManyStations { .. }
        | Warning::TooManyNames { .. } => false,
    }
}
