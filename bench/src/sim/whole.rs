//! A whole engine on a host: the control machine, the data path, and a container
//! that asks others and answers them.
//!
//! Driven as the daemon drives it: the data path handles what arrives at once,
//! the control machine what that leaves to it a little later; and a new snapshot
//! is in use before the datagrams that came with it leave.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use gossip::{Config, DialId, Target};
use proto::{
    Endpoint, MacAddr,
    ethernet::{self, EthernetFrame, EthernetRepr},
};
use rand::Rng;
use wove::engine::{
    CAPABILITIES, Effects, Egress, Event, Ingress, Router, RouterConfig, Snapshot, Transmit, Upcall,
};

use super::{
    cast::Cast,
    datagram::{Datagram, RESPONSE_KIND},
    host::{Host, Warned},
    identity::{PORT, address, number_of_address, number_of_name},
    net::Net,
    queue::What,
    time::Time,
    view::View,
};

/// How long a message to the control thread waits.
const CONTROL_DELAY: Duration = Duration::from_micros(80);
/// How long a name takes to resolve.
const RESOLVE_DELAY: Duration = Duration::from_millis(1);
/// The UDP payload that fits an Ethernet of 1500 bytes.
const DATAGRAM_LIMIT: usize = 1472;
const MTU: u32 = 1400;
/// Of frames for experiments, which nothing answers or cuts on the way.
const ETHERTYPE: u16 = 0x88b5;
/// Bytes of a frame, as short as Ethernet has them.
const FRAME: usize = 60;
const ASK: u8 = 1;
const ANSWER: u8 = 2;

/// An engine that runs.
pub(crate) struct Whole {
    router: Router,
    egress: Egress,
    ingress: Ingress,
    /// The view that the data path reads.
    snapshot: Arc<Snapshot>,
    /// Peers with a usable link.
    linked: BTreeSet<u32>,
    /// When the container of each host answered first.
    answers: BTreeMap<u32, Time>,
}

/// What the control machine gets to later.
pub(crate) struct Later {
    /// The launch that is meant.
    life: u32,
    call: Call,
}

enum Call {
    Upcall(Upcall),
    Resolved { dial: DialId, to: Option<u32> },
}

impl Whole {
    /// The launch, as the mesh counts it.
    pub(crate) fn epoch(&self) -> u64 {
        self.router.mesh().epoch()
    }

    /// When the control machine wants to be called, and what for.
    pub(crate) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.router.poll_timeout()
    }

    pub(crate) fn view<'a>(&'a self, cast: Option<&'a Cast>) -> View<'a> {
        View::new(self.router.mesh(), cast)
    }

    pub(crate) fn linked(&self) -> &BTreeSet<u32> {
        &self.linked
    }

    /// Whether what this engine seals for another is opened there.
    pub(crate) fn is_heard_by(&self, other: &Self) -> bool {
        let path = self.snapshot.paths.get(&other.router.local());
        let session = path.and_then(|path| path.session.as_ref());
        session.is_some_and(|session| other.snapshot.sessions.contains_key(&session.remote()))
    }
}

impl Host {
    pub(super) fn launch_whole(
        &mut self,
        cast: &Cast,
        config: &Config,
        targets: &[Target],
        net: &mut Net<'_>,
    ) {
        let config = RouterConfig {
            nickname: format!("host{}", self.number),
            port: PORT,
            encrypt: true,
            rekey_after: crypto::rekey::REKEY_AFTER_TIME,
            epoch: self.epoch,
            datagram_limit: DATAGRAM_LIMIT,
            mtu: MTU,
            bridge: "wove".to_owned(),
            mesh: config.clone(),
            space: None,
            seed: self.rng.random(),
            version: "0.1.0".to_owned(),
            capabilities: CAPABILITIES,
        };
        let identity = cast.identity(self.number);
        let router = Router::new(config, identity, vec![cast.secret()], net.instant());
        self.whole = Some(Box::new(Whole {
            snapshot: router.snapshot(),
            router,
            egress: Egress::new(),
            ingress: Ingress::new(),
            linked: BTreeSet::new(),
            answers: BTreeMap::new(),
        }));
        let endpoints = vec![address(self.number)];
        self.control(net, |router, now| {
            router.set_endpoints(endpoints, now);
            router.connect(targets, false, now);
        });
    }

    /// Lets the control machine do something, and carries out what it asks for.
    pub(super) fn control(&mut self, net: &mut Net<'_>, act: impl FnOnce(&mut Router, Instant)) {
        let Some(whole) = &mut self.whole else { return };
        act(&mut whole.router, net.instant());
        if let Some(snapshot) = whole.router.take_snapshot() {
            whole.snapshot = snapshot;
            self.observe_routes(net);
            self.observe_stations(net);
            self.observe_names(net);
        }
        while let Some(Transmit { to, datagram, .. }) = self.poll(Router::poll_transmit) {
            self.send_bytes(to, datagram, net);
        }
        while let Some(event) = self.poll(Router::poll_event) {
            self.heed(event, net);
        }
        self.arm(net);
    }

    fn poll<T>(&mut self, next: impl FnOnce(&mut Router) -> Option<T>) -> Option<T> {
        next(&mut self.whole.as_mut()?.router)
    }

    fn heed(&mut self, event: Event, net: &mut Net<'_>) {
        match event {
            Event::Resolve { dial, target } => {
                let to = number_of_name(&target);
                self.call_later(RESOLVE_DELAY, Call::Resolved { dial, to }, net);
            }
            Event::Link { peer, up, .. } => {
                let number = net.shared.cast.as_ref().and_then(|cast| cast.number(&peer));
                if let (Some(whole), Some(number)) = (&mut self.whole, number) {
                    match up {
                        true => whole.linked.insert(number),
                        false => whole.linked.remove(&number),
                    };
                }
            }
            Event::Warning(text) => self.warn(Warned {
                text,
                of_lies: false,
            }),
            Event::TargetsChanged | Event::HangUp(_) | Event::Address { .. } => {}
        }
    }

    fn call_later(&mut self, delay: Duration, call: Call, net: &mut Net<'_>) {
        let life = self.life;
        let later = Box::new(Later { life, call });
        self.schedule(net.now + delay, What::Later(later), net);
    }

    /// The control machine gets to something.
    pub(super) fn call(&mut self, later: Later, net: &mut Net<'_>) {
        if later.life != self.life {
            return;
        }
        match later.call {
            Call::Upcall(upcall) => {
                self.control(net, |router, now| router.handle_upcall(upcall, now));
            }
            Call::Resolved { dial, to } => {
                let resolved = to.map(|to| vec![address(to)]);
                let result = resolved.ok_or_else(|| "no such name".to_owned());
                self.control(net, |router, now| router.handle_resolved(dial, result, now));
            }
        }
    }

    /// A datagram arrives at the data path.
    pub(super) fn receive_bytes(&mut self, from: u32, mut bytes: Vec<u8>, net: &mut Net<'_>) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.fold(u64::from_le_bytes(word));
        }
        let Some(whole) = &mut self.whole else { return };
        let mut sink = Effects::default();
        whole.ingress.handle_datagram(
            &whole.snapshot,
            &mut bytes,
            Endpoint::Udp(address(from)),
            net.instant(),
            &mut sink,
        );
        self.carry_out(sink, net);
    }

    fn carry_out(&mut self, sink: Effects, net: &mut Net<'_>) {
        for (to, datagram) in sink.datagrams {
            self.send_bytes(to, datagram, net);
        }
        for upcall in sink.upcalls {
            self.call_later(CONTROL_DELAY, Call::Upcall(upcall), net);
        }
        for frame in sink.frames {
            self.deliver(&frame, net);
        }
    }

    /// UDP alone: hosts of the simulator reach each other so, or not at all.
    fn send_bytes(&mut self, to: Endpoint, datagram: Vec<u8>, net: &mut Net<'_>) {
        let to = to.udp();
        if let Some(to) = to.and_then(|to| number_of_address(&to)) {
            let datagram = Datagram::Bytes(datagram);
            self.traffic.handshakes += u64::from(datagram.kind() == RESPONSE_KIND);
            self.send(to, datagram, net.now, net);
        }
    }

    /// Starts the container of this host.
    pub(crate) fn start_container(&mut self, net: &mut Net<'_>) {
        let mac = container(self.number);
        self.control(net, |router, now| router.attach_station(mac, &[], now));
    }

    /// The container asks that of another host.
    pub(crate) fn ask(&mut self, other: u32, net: &mut Net<'_>) {
        self.emit(container(other), ASK, net);
    }

    /// When the container of another host answered first.
    pub(crate) fn answer_of(&self, other: u32) -> Option<Time> {
        self.whole.as_ref()?.answers.get(&other).copied()
    }

    fn emit(&mut self, to: MacAddr, what: u8, net: &mut Net<'_>) {
        let header = EthernetRepr {
            destination: to,
            source: container(self.number),
            ethertype: ETHERTYPE,
        };
        let mut frame = header.emit().to_vec();
        frame.resize(FRAME, what);
        let Some(whole) = &mut self.whole else { return };
        let mut sink = Effects::default();
        let now = net.instant();
        whole
            .egress
            .handle_frame(&whole.snapshot, &mut frame, now, &mut sink);
        self.carry_out(sink, net);
    }

    /// The container gets a frame, if it is for it.
    fn deliver(&mut self, frame: &[u8], net: &mut Net<'_>) {
        let Ok(header) = EthernetFrame::new_checked(frame) else {
            return;
        };
        if header.ethertype() != ETHERTYPE || header.destination() != container(self.number) {
            return;
        }
        match frame.get(ethernet::HEADER) {
            Some(&ASK) => self.emit(header.source(), ANSWER, net),
            Some(&ANSWER) => {
                let from = host_of(header.source());
                if let Some(whole) = &mut self.whole {
                    whole.answers.entry(from).or_insert(net.now);
                }
            }
            Some(_) | None => {}
        }
    }
}

/// The address of the container of a host.
fn container(host: u32) -> MacAddr {
    let [a, b, c, d] = host.to_be_bytes();
    MacAddr([6, 0, a, b, c, d])
}

fn host_of(MacAddr([_, _, a, b, c, d]): MacAddr) -> u32 {
    u32::from_be_bytes([a, b, c, d])
}
