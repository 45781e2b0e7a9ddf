//! Things break while traffic flows, and mend without anybody's help.

use std::time::Duration;

use crate::lab::probe::{PingFlow, ping_within};
use crate::lab::{Host, Lab, ensure, eventually, secs};

const PACE: Duration = Duration::from_millis(20);

#[test]
fn another_relay_takes_over() {
    let lab = Lab::new();
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| lab.host(name));
    lab.cut(&a, &d);
    a.launch(&[]);
    let token = a.token();
    b.join(&token, &[&a], &[]);
    c.join(&token, &[&a, &b], &[]);
    d.join(&token, &[&b, &c], &[]);
    let (ca, cd) = (a.container(), d.container());
    for trial in 0..trials() {
        for host in [&a, &b, &c, &d] {
            host.wait_peers(secs(20), 4);
        }
        ping_within(secs(10), &ca.netns, cd.v4);
        let relay = [&b, &c]
            .into_iter()
            .find(|relay| relay.peer() == next_hop(&a, &d));
        let relay = relay.expect("one of two hosts relays");
        let flow = PingFlow::start(&ca.netns, cd.v4, PACE);
        flow.wait_answer(secs(5));
        relay.kill();
        flow.wait_answer(secs(10));
        // One more second shows whether it lasts.
        std::thread::sleep(secs(1));
        flow.wait_answer(secs(5));
        let gap = flow.stop().longest_gap;
        ensure(
            gap < secs(3),
            format_args!("trial {trial}: {gap:?} without traffic"),
        );
        relay.relaunch();
    }
}

#[test]
fn a_killed_daemon_comes_back_with_its_containers() {
    let lab = Lab::new();
    let (hosts, containers) = lab.network(2, &[]);
    ping_within(secs(10), &containers[0].netns, containers[1].v4);
    for _ in 0..trials() {
        let flow = PingFlow::start(&containers[0].netns, containers[1].v4, PACE);
        flow.wait_answer(secs(5));
        hosts[1].kill();
        hosts[1].relaunch();
        flow.wait_answer(secs(3));
        flow.stop();
        let listed = hosts[1].ok(&["ps"]);
        ensure(listed.contains(&containers[1].v4.to_string()), listed);
    }
}

#[test]
fn the_seed_is_killed_and_comes_back() {
    let lab = Lab::new();
    let (hosts, containers) = lab.network(3, &[]);
    ping_within(secs(10), &containers[1].netns, containers[2].v4);
    hosts[1].wait_connection(secs(10), &hosts[2], |c| c["path"] != "relay");
    let flow = PingFlow::start(&containers[1].netns, containers[2].v4, PACE);
    flow.wait_answer(secs(5));
    hosts[0].kill();
    std::thread::sleep(secs(2));
    flow.wait_answer(secs(5));
    let report = flow.stop();
    ensure(
        report.lost == 0,
        format_args!("the others do not need it: {report:?}"),
    );
    hosts[0].relaunch();
    ping_within(secs(10), &containers[0].netns, containers[2].v4);
}

#[test]
fn a_damaged_bridge_is_mended() {
    let lab = Lab::new();
    let (hosts, containers) = lab.network(2, &[]);
    ping_within(secs(10), &containers[0].netns, containers[1].v4);
    hosts[0].netns.set_down("wove");
    ping_within(secs(5), &containers[0].netns, containers[1].v4);
    hosts[0].netns.delete_link("wove");
    ping_within(secs(5), &containers[0].netns, containers[1].v4);
    assert!(hosts[0].netns.link_index("wove").is_some());
    hosts[0].kill();
    hosts[0].netns.set_down("wove");
    hosts[0].relaunch();
    ping_within(secs(5), &containers[0].netns, containers[1].v4);
}

pub(crate) fn trials() -> u32 {
    let given = std::env::var("WOVE_TRIALS").ok();
    given.and_then(|n| n.parse().ok()).unwrap_or(2)
}

fn next_hop(from: &Host, to: &Host) -> String {
    eventually(secs(10), "there is a route", || {
        let status = from.status()?;
        let peers = status["peers"].as_array().cloned().unwrap_or_default();
        let peer = peers.iter().find(|p| p["nickname"] == to.name.as_str());
        let hop = peer.and_then(|peer| peer["next_hop"].as_str());
        hop.map(str::to_owned)
            .ok_or_else(|| status["peers"].to_string())
    })
}
