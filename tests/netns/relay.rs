//! A line A-B-C: frames from end to end through a relay that cannot read them.

use std::time::Duration;

use crate::lab::probe::{PingFlow, PingOptions, Transfer, ping, ping_within};
use crate::lab::{Lab, ensure, secs};

const CANARY: &[u8] = b"canary-that-must-not-be-read-0451";

#[test]
fn a_pings_c_through_b() {
    let lab = Lab::new();
    let ([a, _b, c], [ca, _cb, cc]) = lab.line(&[]);
    ping_within(secs(5), &ca.netns, cc.v4);
    ping_within(secs(5), &ca.netns, cc.v6);
    a.wait_connection(secs(5), &c, |connection| connection["path"] == "relay");
    let options = PingOptions {
        count: 100,
        ..PingOptions::default()
    };
    let report = ping(&ca.netns, cc.v4, options);
    ensure(report.is_clean(), format_args!("{report:?}"));
    let direct = lab.underlay.tally(a.id, c.id);
    assert_eq!(direct.frames, 0, "nothing took the cut link");
}

#[test]
fn neither_the_underlay_nor_the_relay_can_read() {
    let lab = Lab::new();
    let ([_a, b, _c], [ca, _cb, cc]) = lab.line(&[]);
    ping_within(secs(10), &ca.netns, cc.v4);
    let watch = lab.underlay.watch_for(CANARY);
    let transfer = Transfer::start(&ca.netns, &cc.netns, cc.v4, 4_000_000, CANARY);
    let transfer = transfer.expect("the containers reach each other");
    let options = PingOptions {
        count: u64::MAX,
        interval: Duration::from_millis(2),
        size: 1000,
        pattern: CANARY.to_vec(),
        ..PingOptions::default()
    };
    let flow = PingFlow::start_with(&ca.netns, cc.v4.into(), options);
    flow.wait_answer(secs(5));
    let readable = b.daemon(|daemon| daemon.memory_holds(CANARY));
    let outcome = transfer.finish();
    let report = flow.stop();
    ensure(report.received > 0, format_args!("{report:?}"));
    ensure(outcome.is_ok(), format_args!("{outcome:?}"));
    assert!(!readable, "the relay's memory holds what it relays");
    assert_eq!(watch.hits(), 0, "plaintext crossed the underlay");
}

#[test]
fn a_direct_path_is_taken_once_there_is_one() {
    let lab = Lab::new();
    let ([a, _b, c], [ca, _cb, cc]) = lab.line(&[]);
    ping_within(secs(10), &ca.netns, cc.v4);
    a.wait_connection(secs(10), &c, |connection| connection["path"] == "relay");
    let flow = PingFlow::start(&ca.netns, cc.v4, Duration::from_millis(20));
    flow.wait_answer(secs(5));
    lab.heal(&a, &c);
    a.wait_connection(secs(5), &c, |connection| {
        connection["path"] == "sleeve" || connection["path"] == "fastdp"
    });
    flow.wait_answer(secs(5));
    let report = flow.stop();
    ensure(
        report.lost == 0,
        format_args!("going up lost frames: {report:?}"),
    );
}

#[test]
fn a_lost_direct_path_falls_back_to_the_relay() {
    let lab = Lab::new();
    let (hosts, containers) = lab.network(3, &[]);
    ping_within(secs(10), &containers[0].netns, containers[2].v4);
    hosts[0].wait_connection(secs(10), &hosts[2], |c| c["path"] != "relay");
    let flow = PingFlow::start(
        &containers[0].netns,
        containers[2].v4,
        Duration::from_millis(20),
    );
    flow.wait_answer(secs(5));
    lab.cut(&hosts[0], &hosts[2]);
    hosts[0].wait_connection(secs(10), &hosts[2], |c| c["path"] == "relay");
    flow.wait_answer(secs(5));
    let report = flow.stop();
    ensure(report.longest_gap < secs(3), format_args!("{report:?}"));
}

#[test]
fn without_discovery_traffic_lives_and_dies_with_the_relay() {
    let lab = Lab::new();
    let options = ["--no-discovery"];
    let [a, b, c] = ["a", "b", "c"].map(|name| lab.host(name));
    a.launch(&options);
    let token = a.token();
    b.join(&token, &[&a], &options);
    c.join(&token, &[&b], &options);
    let (ca, cc) = (a.container(), c.container());
    ping_within(secs(10), &ca.netns, cc.v4);
    b.kill();
    let stopped = PingOptions {
        timeout: Duration::from_millis(500),
        ..PingOptions::default()
    };
    let report = ping(&ca.netns, cc.v4, stopped);
    ensure(
        report.received == 0,
        format_args!("without discovery nobody else dials: {report:?}"),
    );
}
