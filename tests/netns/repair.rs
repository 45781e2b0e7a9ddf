//! Things break while traffic flows, and mend without anybody's help.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::lab::probe::{PingFlow, ping_within};
use crate::lab::{Host, Lab, asked_for, ensure, eventually, secs, until};

const PACE: Duration = Duration::from_millis(20);
/// What a host is given on the overlay.
const EXPOSED_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 201);
const EXPOSED_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x201);

#[test]
fn another_relay_takes_over() {
    let lab = Lab::alone_if_asked("WOVE_TRIALS");
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
    let lab = Lab::alone_if_asked("WOVE_TRIALS");
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

#[test]
fn what_is_damaged_is_put_back_and_what_is_foreign_stays() {
    let lab = Lab::new();
    let (hosts, containers) = lab.network(2, &["--no-encryption"]);
    let (host, netns) = (&hosts[0], &hosts[0].netns);
    let exposed: [IpAddr; 2] = [EXPOSED_V4.into(), EXPOSED_V6.into()];
    let cidrs = [format!("{EXPOSED_V4}/24"), format!("{EXPOSED_V6}/64")];
    host.ok(&["expose", &cidrs[0], &cidrs[1]]);
    netns.add_bridge("foreign");
    let works = |what: &str| {
        let far = &containers[1].netns;
        for to in exposed.into_iter().chain([containers[0].v4.into()]) {
            ping_within(secs(5), far, to);
        }
        let found = netns.addresses("wove");
        ensure(
            exposed.iter().all(|address| found.contains(address)),
            format_args!("{what}: {found:?}"),
        );
        for near in [host, &hosts[1]] {
            let far = if near.id == host.id { &hosts[1] } else { host };
            near.wait_connection(secs(20), far, |c| c["path"] == "fastdp");
        }
    };
    works("as launched");
    let port = || {
        let mut links = netns.links().into_iter();
        let port = links.find(|name| name.starts_with("wv-"));
        port.expect("a container is attached")
    };
    let damage: [(&str, &dyn Fn()); 9] = [
        ("bridge down", &|| netns.set_down("wove")),
        ("bridge deleted", &|| netns.delete_link("wove")),
        ("address deleted", &|| {
            netns.delete_address("wove", exposed[0])
        }),
        ("IPv6 address deleted", &|| {
            netns.delete_address("wove", exposed[1]);
        }),
        ("TAP out of the bridge", &|| netns.leave_bridge("wove-tap")),
        ("TAP down", &|| netns.set_down("wove-tap")),
        ("port out of the bridge", &|| netns.leave_bridge(&port())),
        ("port down", &|| netns.set_down(&port())),
        ("VXLAN device deleted", &|| netns.delete_link("wove-vx")),
    ];
    for (what, damage) in damage {
        let repairs = host.log.count("repaired");
        damage();
        until(secs(5), &format!("repaired: {what}"), || {
            host.log.count("repaired") > repairs
        });
        works(what);
    }

    // While nobody looks.
    host.kill();
    netns.delete_address("wove", exposed[0]);
    netns.delete_programs("wove-vx");
    netns.leave_bridge(&port());
    netns.set_down("wove");
    host.relaunch();
    works("launched again");

    host.ok(&["reset"]);
    assert!(host.wait_exit().success());
    let mut left = netns.links();
    left.retain(|name| !matches!(name.as_str(), "lo" | "eth0"));
    assert_eq!(left, ["foreign"]);
}

pub(crate) fn trials() -> u32 {
    asked_for("WOVE_TRIALS", 2)
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
