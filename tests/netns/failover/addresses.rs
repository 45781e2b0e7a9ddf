//! What a change of address costs: of a host, of the gateway before it, and of
//! what a gateway that was restarted knows, for every kind of gateway.

use std::net::Ipv4Addr;

use super::{AFTER, PACE, Row};
use crate::lab::probe::{PingFlow, PingReport, ping_within};
use crate::lab::{Container, Gate, Lab, Nat, secs};
use crate::nat::behind;
use crate::repair::trials;

#[test]
fn a_host_gets_another_address() {
    let lab = Lab::alone_if_asked("WOVE_TRIALS");
    let [a, mut b] = ["a", "b"].map(|name| lab.host(name));
    // They would go on by IPv6, which nothing happens to.
    a.leave_v6();
    b.leave_v6();
    a.launch(&["--no-fastdp"]);
    b.join(&a.token(), &[&a], &["--no-fastdp"]);
    let (ca, cb) = (a.container(), b.container());
    ping_within(secs(10), &ca.netns, cb.v4);
    let mut row = Row::new("a host gets another address");
    for trial in 0..trials() {
        std::thread::sleep(secs(1));
        let address = Ipv4Addr::new(10, 99, 2, 1 + trial as u8);
        let flow = PingFlow::start(&ca.netns, cb.v4, PACE);
        flow.wait_answer(secs(10));
        b.readdress(address);
        row.take(&settle(flow));
        a.wait_connection(secs(20), &b, |c| c["path"] == "sleeve");
    }
    row.print();
}

/// Lets a flow go on until what changed has had its effects.
fn settle(flow: PingFlow) -> PingReport {
    flow.wait_answer(secs(10));
    std::thread::sleep(AFTER * 4);
    flow.wait_answer(secs(10));
    flow.stop()
}

/// Two hosts behind gateways of these kinds.
struct Pair {
    name: &'static str,
    path: &'static str,
    gates: Vec<Gate>,
    containers: [Container; 2],
    /// How many changes there were; each needs an address that is new.
    changes: u8,
}

impl Pair {
    fn changes(&mut self, what: &str, change: impl Fn(&mut Gate, u8)) {
        let mut row = Row::new(format!("{}: {what}", self.name));
        for trial in 0..trials() {
            self.wait_path();
            let [left, right] = &self.containers;
            let flow = PingFlow::start(&left.netns, right.v4, PACE);
            flow.wait_answer(secs(10));
            self.changes += 1;
            change(&mut self.gates[trial as usize % 2], self.changes);
            row.take(&settle(flow));
        }
        row.print();
    }

    fn wait_path(&self) {
        let flow = PingFlow::start(&self.containers[0].netns, self.containers[1].v4, PACE);
        for (here, there) in [(0, 1), (1, 0)] {
            let (here, there) = (&self.gates[here].inside, &self.gates[there].inside);
            here.wait_connection(secs(20), there, |c| c["path"] == self.path);
        }
        flow.stop();
    }
}

/// The three changes, of either side in turn.
fn all_changes(name: &'static str, kinds: [Nat; 2]) {
    let lab = Lab::alone_if_asked("WOVE_TRIALS");
    let (_hub, gates) = behind(&lab, &kinds);
    let containers = [&gates[0], &gates[1]].map(|gate| gate.inside.container());
    for (gate, other) in gates.iter().zip(containers.iter().rev()) {
        gate.inside.wait_station(secs(15), other);
    }
    ping_within(secs(15), &containers[0].netns, containers[1].v4);
    let path = match kinds[0].can_meet(kinds[1]) {
        true => "sleeve",
        false => "relay",
    };
    let mut pair = Pair {
        name,
        path,
        gates,
        containers,
        changes: 0,
    };
    pair.changes("the gateway gets another address", |gate, n| {
        gate.readdress(Ipv4Addr::new(10, 99, 2, n));
    });
    pair.changes("the gateway is restarted", |gate, _| gate.reboot());
    pair.changes("the host gets another address", |gate, n| {
        let [a, b, ..] = gate.inside.v4().octets();
        gate.readdress_inside(Ipv4Addr::new(a, b, 2, n));
    });
}

#[test]
fn behind_full_cones() {
    all_changes("full cones", [Nat::FullCone; 2]);
}

#[test]
fn behind_address_restricted_gateways() {
    all_changes("restricted", [Nat::Restricted; 2]);
}

#[test]
fn behind_port_restricted_gateways() {
    all_changes("port restricted", [Nat::PortRestricted; 2]);
}

#[test]
fn behind_a_symmetric_and_a_restricted_gateway() {
    all_changes(
        "symmetric and restricted",
        [Nat::Symmetric, Nat::Restricted],
    );
}

#[test]
fn behind_symmetric_gateways() {
    all_changes("symmetric, relayed", [Nat::Symmetric; 2]);
}
