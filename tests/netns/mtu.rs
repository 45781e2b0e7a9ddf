//! Paths that carry less than they claim, and say nothing about it.

use std::time::Duration;

use crate::lab::probe::{PingOptions, Transfer, ping, ping_within};
use crate::lab::{Container, Lab, MAX_MTU, ensure, eventually, secs};

const MEGABYTES: u64 = 1_000_000;

#[test]
fn a_path_of_1280_bytes() {
    carries(1500, Some(1280));
}

#[test]
fn a_path_of_1400_bytes() {
    carries(1500, Some(1400));
}

#[test]
fn a_path_of_1500_bytes() {
    carries(1500, None);
}

#[test]
fn a_jumbo_path() {
    carries(MAX_MTU, None);
}

#[test]
fn a_jumbo_path_with_a_narrow_place() {
    carries(MAX_MTU, Some(1500));
}

#[test]
fn a_path_that_shrinks_during_a_transfer() {
    let lab = Lab::new();
    let (hosts, containers) = lab.network(2, &[]);
    let [ca, cb] = [&containers[0], &containers[1]];
    ping_within(secs(10), &ca.netns, cb.v4);
    // The MSS of a connection is what the path is known to carry when it
    // begins: from an earlier one, no segment would be too long afterwards.
    for (from, to) in [(&hosts[0], &hosts[1]), (&hosts[1], &hosts[0])] {
        from.wait_connection(secs(10), to, |connection| connection["mtu"] == 1500);
    }
    let transfer = Transfer::start(&ca.netns, &cb.netns, cb.v4, 40 * MEGABYTES, b"shrinking");
    let transfer = transfer.expect("the containers reach each other");
    std::thread::sleep(Duration::from_millis(100));
    let (a, b) = (hosts[0].id, hosts[1].id);
    lab.underlay
        .rules(|rules| rules.both(a, b, |pair| pair.mtu = Some(1300)));
    let outcome = transfer.finish();
    ensure(outcome.is_ok(), format_args!("{outcome:?}"));
    big_pings_pass(ca, cb);
    hosts[0].wait_connection(secs(10), &hosts[1], |connection| {
        connection["mtu"].as_u64().is_some_and(|mtu| mtu <= 1300)
    });
}

#[test]
fn udp_longer_than_700_bytes_is_dropped() {
    let lab = Lab::new();
    let [a, b] = ["a", "b"].map(|name| lab.host(name));
    a.launch(&[]);
    b.join(&a.token(), &[&a], &[]);
    let (ca, cb) = (a.container(), b.container());
    ping_within(secs(10), &ca.netns, cb.v4);
    lab.underlay
        .rules(|rules| rules.everywhere(|pair| pair.udp_mtu = Some(700)));
    eventually(secs(35), "a ping of 10 kB passes", || {
        let report = ping(&ca.netns, cb.v4, big(1));
        if report.received == 1 {
            Ok(())
        } else {
            Err("no answer".to_owned())
        }
    });
    big_pings_pass(&ca, &cb);
}

#[test]
fn an_mtu_given_by_hand_is_that_of_containers() {
    let lab = Lab::new();
    let (hosts, containers) = lab.network(2, &["--mtu", "1300"]);
    let [ca, cb] = [&containers[0], &containers[1]];
    ping_within(secs(10), &ca.netns, cb.v4);
    let status = hosts[0].status().unwrap();
    assert_eq!(status["router"]["mtu"], 1300);
    big_pings_pass(ca, cb);
}

// Interfaces of one MTU, with a black hole for longer packets than `hole`
// between them: transfers and fragments pass soon and stay unharmed.
fn carries(interface: u32, hole: Option<usize>) {
    let lab = Lab::new();
    let (a, b) = (lab.host("a"), lab.host("b"));
    for host in [&a, &b] {
        host.set_mtu(interface);
    }
    lab.underlay
        .rules(|rules| rules.everywhere(|pair| pair.mtu = hole));
    a.launch(&[]);
    b.join(&a.token(), &[&a], &[]);
    let (ca, cb) = (a.container(), b.container());
    ping_within(secs(5), &ca.netns, cb.v4);
    eventually(secs(5), "a ping of 10 kB passes", || {
        let report = ping(&ca.netns, cb.v4, big(1));
        if report.received == 1 {
            Ok(())
        } else {
            Err("no answer".to_owned())
        }
    });
    big_pings_pass(&ca, &cb);
    for to in [std::net::IpAddr::from(cb.v4), cb.v6.into()] {
        let outcome = Transfer::run(&ca.netns, &cb.netns, to, 5 * MEGABYTES, b"path of mtu");
        let took = outcome.as_ref().is_ok_and(|took| *took < secs(5));
        ensure(took, format_args!("transfer to {to}: {outcome:?}"));
    }
}

fn big_pings_pass(from: &Container, to: &Container) {
    for size in [100, 1200, 1400, 1472, 4000, 10_000] {
        let report = ping(&from.netns, to.v4, PingOptions { size, ..big(5) });
        ensure(report.is_clean(), format_args!("{size} bytes: {report:?}"));
    }
}

fn big(count: u64) -> PingOptions {
    PingOptions {
        count,
        size: 10_000,
        timeout: secs(1),
        ..PingOptions::default()
    }
}
