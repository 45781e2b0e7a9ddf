//! Addresses that move: a container's to another host, a host's to another
//! underlay address.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::lab::probe::{PacketSocket, PingFlow, PingOptions, ping, ping_within};
use crate::lab::{Container, Lab, ensure, eventually, secs};

#[test]
fn an_address_moves_to_another_host_at_once() {
    let lab = Lab::new();
    let (hosts, containers) = lab.network(3, &[]);
    let client = &containers[2];
    let service = hosts[0].container_at(9);
    // Fills the client's ARP cache with the first place.
    ping_within(secs(10), &client.netns, service.v4);
    hosts[0].detach(&service);
    drop(service);
    let service = hosts[1].container_at(9);
    ping_within(secs(5), &client.netns, service.v4);
    ping_within(secs(5), &client.netns, service.v6);
    let back = Container::new(9);
    hosts[1].detach(&service);
    hosts[0].attach(&back);
    ping_within(secs(5), &client.netns, back.v4);
}

#[test]
fn a_mac_moves_with_its_container() {
    let lab = Lab::new();
    let (hosts, containers) = lab.network(3, &[]);
    let (moving, client) = (&containers[0], &containers[2]);
    let mac = [2, 0x77, 0, 0, 0, 9];
    moving.netns.set_mac("wove0", mac);
    // Its first frame tells that it has another MAC.
    ping_within(secs(5), &moving.netns, client.v4);
    ping_within(secs(10), &client.netns, moving.v4);
    hosts[0].detach(moving);
    hosts[1].attach(moving);
    moving.netns.set_mac("wove0", mac);
    // Its first frame tells where it is.
    ping_within(secs(5), &moving.netns, client.v4);
    let report = ping(&client.netns, moving.v4, PingOptions::default());
    ensure(report.is_clean(), format_args!("{report:?}"));
}

#[test]
fn exactly_one_mac_answers_for_an_address() {
    let lab = Lab::new();
    let (hosts, containers) = lab.network(3, &[]);
    let (asker, asked) = (&containers[1], &containers[2]);
    ping_within(secs(10), &asker.netns, asked.v4);
    let expected = asked.netns.link_mac("wove0");
    let socket = PacketSocket::open(&asker.netns, "wove0");
    eventually(secs(10), "its own MAC answers, and no other", || {
        let answers = socket.who_has(asker.v4, asked.v4, Duration::from_millis(300));
        if answers == Vec::from_iter(expected) {
            return Ok(());
        }
        Err(format!("{answers:02x?}"))
    });
    hosts[2].detach(asked);
    eventually(secs(10), "nobody answers for a detached address", || {
        let answers = socket.who_has(asker.v4, asked.v4, Duration::from_millis(300));
        if answers.is_empty() {
            Ok(())
        } else {
            Err(format!("{answers:02x?}"))
        }
    });
}

#[test]
fn a_host_changes_its_underlay_address() {
    let lab = Lab::new();
    let (mut hosts, containers) = lab.network(2, &[]);
    ping_within(secs(10), &containers[0].netns, containers[1].v4);
    let flow = PingFlow::start(
        &containers[1].netns,
        containers[0].v4,
        Duration::from_millis(20),
    );
    flow.wait_answer(secs(5));
    let new = Ipv4Addr::new(10, 99, 0, 201);
    hosts[1].readdress(new);
    flow.wait_answer(secs(10));
    flow.stop();
    hosts[0].wait_connection(secs(15), &hosts[1], |connection| {
        let address = connection["address"].as_str().unwrap_or_default();
        address.starts_with(&format!("{new}:")) || address.starts_with("[fd99")
    });
    ping_within(secs(5), &containers[0].netns, containers[1].v4);
}

#[test]
fn a_host_that_has_ipv6_alone_changes_its_address() {
    let lab = Lab::new();
    let [a, mut b] = ["a", "b"].map(|name| lab.host(name));
    a.leave_v4();
    b.leave_v4();
    a.launch(&["--no-fastdp"]);
    let seed = format!("[{}]", a.v6());
    b.launch(&["--no-fastdp", "--token", &a.token(), &seed]);
    let (ca, cb) = (a.container(), b.container());
    ping_within(secs(10), &cb.netns, ca.v4);
    let flow = PingFlow::start(&ca.netns, cb.v4, Duration::from_millis(20));
    flow.wait_answer(secs(5));
    let before = a.wait_connection(secs(10), &b, |c| c["path"] == "sleeve");
    let new = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 0x77);
    b.readdress_v6(new);
    let after = a.wait_connection(secs(15), &b, |connection| {
        let address = connection["address"].as_str().unwrap_or_default();
        address.starts_with(&format!("[{new}]:"))
    });
    flow.wait_answer(secs(10));
    let report = flow.stop();
    ensure(report.longest_gap < secs(5), format_args!("{report:?}"));
    let age = |c: &serde_json::Value| c["key_age_s"].as_u64();
    ensure(age(&after) >= age(&before), "the same session goes on");
}

#[test]
fn a_host_whose_cable_is_out_for_a_while_comes_back() {
    let lab = Lab::new();
    let (hosts, containers) = lab.network(3, &[]);
    ping_within(secs(10), &containers[0].netns, containers[1].v4);
    lab.underlay
        .rules(|rules| rules.set_down(hosts[1].id, true));
    let flow = PingFlow::start(
        &containers[0].netns,
        containers[2].v4,
        Duration::from_millis(20),
    );
    std::thread::sleep(secs(8));
    let report = flow.stop();
    ensure(
        report.lost == 0,
        format_args!("the others are not disturbed: {report:?}"),
    );
    lab.underlay
        .rules(|rules| rules.set_down(hosts[1].id, false));
    ping_within(secs(15), &containers[0].netns, containers[1].v4);
    ping_within(secs(15), &containers[1].netns, containers[2].v4);
}
