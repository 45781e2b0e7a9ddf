//! The laboratory: hosts in network namespaces, the network between them, and
//! what tests do with them. Needs root, gcc's Rust and, but for `engine`,
//! nothing else.

mod daemon;
mod engine;
mod host;
mod log;
mod nat;
mod netlink;
mod netns;
pub(crate) mod probe;
mod sys;
mod underlay;
mod vm;
mod wait;

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::{env, thread};

pub(crate) use engine::{Engine, Kind};
pub(crate) use host::{Container, Host, PORT, STATE};
pub(crate) use log::Log;
pub(crate) use nat::{Gate, Nat};
pub(crate) use netns::Netns;
use underlay::{HostId, Underlay};
pub(crate) use underlay::{MAX_MTU, PairRule, Watch, checksum, facts, udp_payload};
pub(crate) use wait::{asked_for, ensure, eventually, secs, until};

/// Tests wait most of the time, so several laboratories may be open at once; those
/// that measure, or put load on the machine, have it for themselves.
static TURNS: RwLock<()> = RwLock::new(());

/// A network, and what its hosts said.
pub(crate) struct Lab {
    /// The network between the hosts.
    pub(crate) underlay: Arc<Underlay>,
    logs: Mutex<Vec<Arc<Log>>>,
    tolerated: Mutex<Vec<String>>,
    _turn: Box<dyn Sync>,
}

impl Lab {
    /// Makes an empty network, perhaps beside others.
    pub(crate) fn new() -> Self {
        let turn = TURNS.read();
        Self::with(Box::new(turn.unwrap_or_else(PoisonError::into_inner)))
    }

    /// Waits until there is no other and makes an empty network.
    pub(crate) fn alone() -> Self {
        let turn = TURNS.write();
        Self::with(Box::new(turn.unwrap_or_else(PoisonError::into_inner)))
    }

    /// The same if the environment asks for more than the tests need: then it is
    /// the figures that are wanted.
    pub(crate) fn alone_if_asked(variable: &str) -> Self {
        if env::var_os(variable).is_some() {
            Self::alone()
        } else {
            Self::new()
        }
    }

    fn with(turn: Box<dyn Sync>) -> Self {
        let root = nix::unistd::geteuid().is_root();
        assert!(root, "this suite makes network namespaces: run it as root");
        vm::begin_early();
        Self {
            underlay: Arc::new(Underlay::new(0x776f_7665)),
            logs: Mutex::default(),
            tolerated: Mutex::default(),
            _turn: turn,
        }
    }

    /// A host on the first segment.
    pub(crate) fn host(&self, name: &str) -> Host {
        self.host_on(name, &[0])
    }

    /// A host on several segments, `eth0` on segment 0 and so on.
    pub(crate) fn host_on(&self, name: &str, segments: &[usize]) -> Host {
        let log = Log::new(name);
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        let id = HostId(logs.len());
        logs.push(log.clone());
        drop(logs);
        let netns = Netns::host();
        let plugs = segments
            .iter()
            .map(|segment| self.underlay.plug(id, &netns, *segment))
            .collect();
        Host::new(name, id, netns, plugs, log)
    }

    /// A host behind a gateway of its own, on a segment that only they have.
    pub(crate) fn behind(&self, nat: Nat, name: &str, segment: usize) -> Gate {
        let gateway = self.host_on(&format!("{name}-gate"), &[0, segment]);
        let inside = self.host_on(name, &[segment]);
        Gate::new(gateway, inside, segment, nat)
    }

    /// Hosts `h1` to `hN` that run daemons in one network, each with a
    /// container of the same number; all but the first start from the first.
    pub(crate) fn network(&self, hosts: usize, options: &[&str]) -> (Vec<Host>, Vec<Container>) {
        let hosts: Vec<_> = (1..=hosts).map(|n| self.host(&format!("h{n}"))).collect();
        hosts[0].launch(options);
        let token = hosts[0].token();
        for host in &hosts[1..] {
            host.join(&token, &[&hosts[0]], options);
        }
        let containers = hosts.iter().map(Host::container).collect();
        (hosts, containers)
    }

    /// A line A-B-C whose ends cannot reach each other, in one network, each
    /// host with a container. The ends know each other's: before that, frames
    /// to them are flooded, for which no session is made and which B can read.
    pub(crate) fn line(&self, options: &[&str]) -> ([Host; 3], [Container; 3]) {
        let hosts = ["a", "b", "c"].map(|name| self.host(name));
        let [a, b, c] = &hosts;
        self.cut(a, c);
        a.launch(options);
        let token = a.token();
        b.join(&token, &[a], options);
        c.join(&token, &[b], options);
        let containers = [a, b, c].map(Host::container);
        a.wait_station(secs(10), &containers[2]);
        c.wait_station(secs(10), &containers[0]);
        (hosts, containers)
    }

    /// Separates two hosts.
    pub(crate) fn cut(&self, a: &Host, b: &Host) {
        self.underlay
            .rules(|r| r.both(a.id, b.id, |pair| pair.cut = true));
    }

    /// Connects two hosts again, without any fault between them.
    pub(crate) fn heal(&self, a: &Host, b: &Host) {
        let faultless = PairRule::default();
        self.underlay
            .rules(|r| r.both(a.id, b.id, |pair| *pair = faultless.clone()));
    }

    /// An error line that holds `pattern` does not fail the test.
    pub(crate) fn tolerate(&self, pattern: &str) {
        let mut tolerated = self
            .tolerated
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        tolerated.push(pattern.to_owned());
    }

    fn broken_lines(&self) -> Vec<String> {
        let tolerated = self
            .tolerated
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        let broken = logs
            .iter()
            .flat_map(|log| [log.matching(" ERROR "), log.matching("panicked at")].concat());
        broken
            .filter(|line| !tolerated.iter().any(|pattern| line.contains(pattern)))
            .collect()
    }
}

impl Drop for Lab {
    // A daemon that says it is broken fails the test that did not expect it.
    fn drop(&mut self) {
        let broken = self.broken_lines();
        if !thread::panicking() && !broken.is_empty() {
            panic!(
                "a daemon is broken:\n{}\n{}",
                broken.join("\n"),
                log::tails()
            );
        }
        if thread::panicking() {
            #[expect(clippy::print_stderr, reason = "a failed test shows the logs")]
            {
                eprintln!("{}", log::tails_once());
            }
        }
    }
}
