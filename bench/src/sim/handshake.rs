//! Handshakes of one host, as the engine does them (`src/engine/handshakes.rs`):
//! three datagrams and a confirmation, retransmission, cookies under load, and
//! the responder's time. What the datagrams contain does not matter here.

use std::{collections::VecDeque, time::Duration};

use gossip::{DialId, DialTarget, Scope, SessionInfo};
use wove::engine::timing::{HANDSHAKE_PATIENCE, RESPONSE_AGE, RETRANSMIT};

use super::{
    datagram::Datagram,
    host::Host,
    identity::{address, id, number_of_address, number_of_name},
    net::Net,
    queue::What,
    sessions::Session,
    time::Time,
};

/// Responses remembered at most, and handshakes under way at most.
const MAX_RESPONSES: usize = 1024;
const MAX_ATTEMPTS: usize = 512;
/// Handshakes answered without a cookie: at once, and per second thereafter.
const BURST: f64 = 400.0;
const RATE: f64 = 200.0;
/// The responder's time for one handshake.
const WORK: Duration = Duration::from_micros(500);
/// First steps that wait for the responder at most; what overflows is dropped.
const QUEUE: u32 = 256;

/// The handshakes of a host.
#[derive(Default)]
pub(crate) struct Handshakes {
    attempts: Vec<Attempt>,
    /// Counts attempts over all launches, so that no session is named twice.
    begun: u32,
    responses: VecDeque<Response>,
    /// Handshakes above the rate, leaking away by time.
    load: f64,
    load_at: Time,
    busy_until: Time,
}

/// One handshake of ours.
struct Attempt {
    id: u64,
    to: u32,
    purpose: Purpose,
    phase: Phase,
    started: Time,
    repeat_at: Time,
    /// Between the next repetition and the one after it.
    interval: Duration,
}

#[derive(Clone, Copy, PartialEq)]
enum Purpose {
    Dial(DialId),
    /// A session that the other end does not know any more.
    Session,
}

#[derive(Clone, Copy)]
enum Phase {
    Initiation { proven: bool },
    Completion { life: u32 },
}

/// One handshake that we answered.
struct Response {
    from: u32,
    attempt: u64,
    since: Time,
    established: bool,
}

impl Handshakes {
    /// Forgets everything, as a process that ends does.
    pub(crate) fn clear(&mut self) {
        *self = Self {
            begun: self.begun,
            ..Self::default()
        };
    }

    fn attempt(&mut self, id: u64) -> Option<&mut Attempt> {
        self.attempts.iter_mut().find(|attempt| attempt.id == id)
    }

    fn take(&mut self, id: u64) -> Option<Attempt> {
        let at = self.attempts.iter().position(|attempt| attempt.id == id)?;
        Some(self.attempts.swap_remove(at))
    }

    /// Whether one more handshake is within the rate.
    fn admits(&mut self, now: Time) -> bool {
        let leaked = RATE * now.since(self.load_at).as_secs_f64();
        self.load = (self.load - leaked).max(0.0);
        self.load_at = now;
        let admits = self.load + 1.0 <= BURST;
        self.load += f64::from(u8::from(admits));
        admits
    }

    fn forget_old(&mut self, now: Time) {
        while self.responses.front().is_some_and(|oldest| {
            now > oldest.since + RESPONSE_AGE || self.responses.len() >= MAX_RESPONSES
        }) {
            self.responses.pop_front();
        }
    }
}

impl Host {
    /// The mesh wants somebody dialled.
    pub(crate) fn dial(&mut self, dial: DialId, target: &DialTarget, net: &mut Net<'_>) {
        let to = match target {
            DialTarget::Name(name) => number_of_name(name),
            DialTarget::Peer { addresses, .. } => addresses.iter().find_map(number_of_address),
        };
        let now = net.instant();
        let Some(mesh) = &mut self.mesh else { return };
        match to {
            None => mesh.dial_failed(dial, "no address is known".to_owned(), false, now),
            Some(to) if to == self.number || self.sessions.get(to).is_some() => {
                mesh.dial_answered(dial, id(to), now);
            }
            Some(_) if self.handshakes.attempts.len() >= MAX_ATTEMPTS => {
                let reason = "too many handshakes are under way";
                mesh.dial_failed(dial, reason.to_owned(), false, now);
            }
            Some(to) => self.begin(to, Purpose::Dial(dial), net),
        }
    }

    /// The other end does not know a session of ours: it was restarted, perhaps.
    pub(crate) fn handle_no_session(&mut self, from: u32, session: u64, net: &mut Net<'_>) {
        let Some(held) = self.sessions.get_mut(from) else {
            return;
        };
        if held.sending() != session || net.now < held.notice_at {
            return;
        }
        held.notice_at = net.now + RETRANSMIT * 2;
        let mut attempts = self.handshakes.attempts.iter();
        if !attempts.any(|attempt| attempt.to == from && attempt.purpose == Purpose::Session) {
            self.begin(from, Purpose::Session, net);
        }
    }

    fn begin(&mut self, to: u32, purpose: Purpose, net: &mut Net<'_>) {
        self.handshakes.begun += 1;
        let attempt = u64::from(self.number) << 32 | u64::from(self.handshakes.begun);
        self.handshakes.attempts.push(Attempt {
            id: attempt,
            to,
            purpose,
            phase: Phase::Initiation { proven: false },
            started: net.now,
            repeat_at: net.now + RETRANSMIT,
            interval: RETRANSMIT,
        });
        let proven = false;
        self.send(to, Datagram::Initiation { attempt, proven }, net.now, net);
        self.schedule(net.now + RETRANSMIT, What::Repeat(attempt), net);
    }

    /// Repeats a step of a handshake, or gives it up.
    pub(crate) fn repeat(&mut self, attempt: u64, net: &mut Net<'_>) {
        let Some(found) = self.handshakes.attempt(attempt) else {
            return;
        };
        let end = found.started + HANDSHAKE_PATIENCE;
        if net.now >= end {
            return self.give_up(attempt, net);
        }
        let due = net.now >= found.repeat_at;
        if due {
            found.repeat_at = net.now + found.interval;
            found.interval *= 2;
        }
        let (to, phase, again) = (found.to, found.phase, found.repeat_at.min(end));
        if due {
            self.send_phase(attempt, to, phase, net);
        }
        self.schedule(again, What::Repeat(attempt), net);
    }

    fn send_phase(&mut self, attempt: u64, to: u32, phase: Phase, net: &mut Net<'_>) {
        let datagram = match phase {
            Phase::Initiation { proven } => Datagram::Initiation { attempt, proven },
            Phase::Completion { life } => Datagram::Completion {
                attempt,
                life: self.life,
                responder_life: life,
            },
        };
        self.send(to, datagram, net.now, net);
    }

    fn give_up(&mut self, attempt: u64, net: &mut Net<'_>) {
        let given_up = self.handshakes.take(attempt);
        let Some(Purpose::Dial(dial)) = given_up.map(|attempt| attempt.purpose) else {
            return;
        };
        let now = net.instant();
        if let Some(mesh) = &mut self.mesh {
            mesh.dial_failed(dial, "no answer".to_owned(), false, now);
            self.drain(net);
        }
    }

    /// Answers the first step, now or once the handshakes before it are done.
    pub(crate) fn handle_initiation(
        &mut self,
        from: u32,
        attempt: u64,
        proven: bool,
        net: &mut Net<'_>,
    ) {
        let now = net.now;
        if self.handshakes.busy_until > now + WORK * QUEUE {
            return;
        }
        if !self.handshakes.admits(now) && !proven {
            return self.send(from, Datagram::Cookie { attempt }, now, net);
        }
        let life = self.life;
        let response = Datagram::Response { attempt, life };
        let mut known = self.handshakes.responses.iter();
        if known.any(|known| known.from == from && known.attempt == attempt) {
            return self.send(from, response, self.handshakes.busy_until.max(now), net);
        }
        self.handshakes.forget_old(now);
        self.handshakes.busy_until = self.handshakes.busy_until.max(now) + WORK;
        self.handshakes.responses.push_back(Response {
            from,
            attempt,
            since: now,
            established: false,
        });
        self.traffic.handshakes += 1;
        self.send(from, response, self.handshakes.busy_until, net);
    }

    /// Repeats the first step, once, with the proof of address that was asked for.
    pub(crate) fn handle_cookie(&mut self, attempt: u64, net: &mut Net<'_>) {
        let Some(found) = self.handshakes.attempt(attempt) else {
            return;
        };
        if let Phase::Initiation { proven: false } = found.phase {
            found.phase = Phase::Initiation { proven: true };
            let (to, phase) = (found.to, found.phase);
            self.send_phase(attempt, to, phase, net);
        }
    }

    /// Takes the third step. The session is to be confirmed by the other end.
    pub(crate) fn handle_response(&mut self, attempt: u64, life: u32, net: &mut Net<'_>) {
        let Some(found) = self.handshakes.attempt(attempt) else {
            return;
        };
        if let Phase::Initiation { .. } = found.phase {
            found.phase = Phase::Completion { life };
            found.interval = RETRANSMIT;
            found.repeat_at = net.now + RETRANSMIT;
            let (to, phase) = (found.to, found.phase);
            self.send_phase(attempt, to, phase, net);
        }
    }

    /// The responder's end of a session is open.
    pub(crate) fn handle_completion(
        &mut self,
        from: u32,
        attempt: u64,
        life: u32,
        net: &mut Net<'_>,
    ) {
        let mut known = self.handshakes.responses.iter_mut();
        let Some(response) = known.find(|known| known.from == from && known.attempt == attempt)
        else {
            return;
        };
        let again = std::mem::replace(&mut response.established, true);
        self.send(from, Datagram::Confirm { attempt }, net.now, net);
        if !again {
            self.open(from, life, attempt, None, net);
        }
    }

    /// The initiator's end of a session is open, if it was waiting for that.
    pub(crate) fn handle_confirm(&mut self, from: u32, attempt: u64, net: &mut Net<'_>) {
        let waiting = self.handshakes.attempt(attempt);
        let Some(Phase::Completion { life }) = waiting.map(|attempt| attempt.phase) else {
            return;
        };
        let purpose = self.handshakes.take(attempt).map(|attempt| attempt.purpose);
        let dial = match purpose {
            Some(Purpose::Dial(dial)) => Some(dial),
            Some(Purpose::Session) | None => None,
        };
        if let (Some(dial), Some(mesh)) = (dial, &mut self.mesh) {
            mesh.dial_answered(dial, id(from), net.instant());
        }
        self.open(from, life, attempt, dial, net);
    }

    /// Takes a session into use and tells the mesh, as the engine does: of a
    /// new launch always, of the same launch only if there was no session or
    /// the mesh waits for a dial.
    fn open(
        &mut self,
        peer: u32,
        life: u32,
        session: u64,
        dial: Option<DialId>,
        net: &mut Net<'_>,
    ) {
        let (now, outbound) = (net.now, (session >> 32) as u32 == self.number);
        let before = self.sessions.get_mut(peer);
        let (known, restarted) = match &before {
            Some(before) => (before.life == life, before.life != life),
            None => (false, false),
        };
        match before {
            Some(before) if known => before.add(session, now),
            before => {
                let linked = before.is_some_and(|before| before.linked);
                let mut fresh = Session::new(peer, life, session, now);
                fresh.linked = linked;
                self.sessions.insert(fresh);
            }
        }
        let info = SessionInfo {
            address: address(peer),
            outbound,
            dial,
            scope: Scope::ALL,
            handicap: Duration::ZERO,
        };
        let Some(mesh) = &mut self.mesh else { return };
        if restarted {
            mesh.session_restarted(id(peer), net.instant());
        }
        if !known || dial.is_some() {
            mesh.session_opened(id(peer), info, net.instant());
        }
        self.drain(net);
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

    fn world(peers: u32, loss: f64, nat: f64) -> World {
        let setup = Setup {
            peers,
            newcomers: 0,
            seed: 3,
            threads: 1,
            loss,
            one_way: 0.0,
            nat,
            reach: Reach::All,
            engine: false,
        };
        let mut world = World::new(setup, Progress::new(false));
        world.config.discovery = false;
        world
    }

    fn linked(world: &World, a: u32, b: u32) -> bool {
        let ends = (world.host(a).sessions.get(b), world.host(b).sessions.get(a));
        match ends {
            (Some(here), Some(there)) => {
                here.sending() == there.sending() && here.linked && there.linked
            }
            _ => false,
        }
    }

    #[test]
    fn handshakes_survive_heavy_loss_and_crossing() {
        let mut world = world(2, 0.3, 0.0);
        world.launch(0, &[1]);
        world.launch(1, &[0]);
        let limit = Duration::from_secs(60);
        let opened = world.run_until(limit, Duration::from_millis(100), |world| {
            linked(world, 0, 1)
        });
        assert!(opened.is_some());
    }

    #[test]
    fn a_restarted_peer_is_noticed_by_its_silence_about_the_old_session() {
        let mut world = world(2, 0.0, 0.0);
        world.launch(0, &[1]);
        world.launch(1, &[]);
        world.run_for(Duration::from_secs(2));
        assert!(linked(&world, 0, 1));
        world.crash(1);
        world.launch(1, &[]);
        world.run_for(Duration::from_millis(1500));
        assert_eq!(world.host(0).sessions.get(1).unwrap().life, 2);
        assert!(linked(&world, 0, 1));
    }

    #[test]
    fn a_busy_responder_asks_for_cookies_and_answers_all() {
        let mut world = world(700, 0.0, 0.0);
        world.config.link_limit = 320;
        world
            .numbers()
            .skip(1)
            .for_each(|peer| world.launch(peer, &[0]));
        world.launch(0, &[]);
        world.run_for(Duration::from_millis(200));
        // What overflows the queue comes again.
        assert!(world.host(0).traffic.handshakes < 699);
        world.run_for(Duration::from_millis(700));
        // As many cookies as there were initiations above the rate.
        let load = world.host(0).handshakes.load;
        assert!((350.0..=BURST).contains(&load), "{load}");
        world.run_for(Duration::from_secs(3));
        assert_eq!(world.host(0).traffic.handshakes, 699);
        let open = world
            .numbers()
            .filter(|peer| world.host(*peer).sessions.get(0).is_some());
        assert_eq!(open.count(), 699);
    }

    #[test]
    fn who_is_behind_address_translation_dials_and_is_not_dialled() {
        let mut world = world(200, 0.0, 0.5);
        let natted = |natted| (0..200).find(|host| world.shared.wan.is_natted(*host) == natted);
        let (inside, outside) = (natted(true).unwrap(), natted(false).unwrap());
        world.launch(inside, &[]);
        world.launch(outside, &[inside]);
        world.run_for(Duration::from_secs(8));
        assert!(!linked(&world, inside, outside));
        world.crash(inside);
        world.launch(inside, &[outside]);
        world.run_for(Duration::from_secs(2));
        assert!(linked(&world, inside, outside));
    }
}
