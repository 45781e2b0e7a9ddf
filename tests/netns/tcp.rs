//! Where UDP does not pass, TCP carries the same datagrams.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use crate::lab::probe::{PingFlow, PingOptions, ping, ping_within};
use crate::lab::{Host, Lab, PORT, ensure, eventually, secs};

/// Without the kernel's fast path, where it has one: this is about the daemon's own.
const SLEEVE: &[&str] = &["--no-fastdp"];
/// Connections at a time that a stranger makes, and how often.
const CROWD: usize = 300;
const CROWDS: usize = 10;

fn block_udp(lab: &Lab, pairs: &[(&Host, &Host)], block: bool) {
    lab.underlay.rules(|rules| {
        for (a, b) in pairs {
            rules.both(a.id, b.id, |pair| pair.udp_mtu = block.then_some(0));
        }
    });
}

#[test]
fn tcp_carries_while_udp_is_dropped() {
    let lab = Lab::new();
    let (hosts, containers) = lab.network(2, SLEEVE);
    let (a, b) = (&hosts[0], &hosts[1]);
    ping_within(secs(10), &containers[0].netns, containers[1].v4);
    block_udp(&lab, &[(a, b)], true);
    for (here, there) in [(a, b), (b, a)] {
        let connection = here.wait_connection(secs(15), there, |c| c["path"] == "tcp");
        let address = connection["address"].as_str().unwrap_or_default();
        ensure(address.starts_with("tcp://"), address);
    }
    ping_within(secs(5), &containers[0].netns, containers[1].v6);
    let full = PingOptions {
        count: 50,
        size: 1300,
        ..PingOptions::default()
    };
    let report = ping(&containers[0].netns, containers[1].v4, full);
    ensure(report.is_clean(), format_args!("{report:?}"));
    let flow = PingFlow::start(&containers[0].netns, containers[1].v4, secs(1) / 50);
    flow.wait_answer(secs(5));
    block_udp(&lab, &[(a, b)], false);
    for (here, there) in [(a, b), (b, a)] {
        here.wait_connection(secs(15), there, |c| c["path"] == "sleeve");
    }
    flow.wait_answer(secs(5));
    let report = flow.stop();
    ensure(report.lost == 0, format_args!("going up: {report:?}"));
}

#[test]
fn a_host_that_udp_never_reached_joins() {
    let lab = Lab::new();
    lab.underlay
        .rules(|rules| rules.everywhere(|pair| pair.udp_mtu = Some(0)));
    let (hosts, containers) = lab.network(3, SLEEVE);
    for host in &hosts {
        host.wait_peers(secs(20), 3);
    }
    ping_within(secs(10), &containers[0].netns, containers[1].v4);
    ping_within(secs(10), &containers[1].netns, containers[2].v6);
}

#[test]
fn a_tcp_target_is_dialled_by_tcp_and_left_for_udp() {
    let lab = Lab::new();
    let [a, b] = ["a", "b"].map(|name| lab.host(name));
    a.launch(&["--no-fastdp", "--port", "443"]);
    let token = a.token();
    let target = format!("tcp://{}:443", a.v4());
    block_udp(&lab, &[(&a, &b)], true);
    b.launch(&["--no-fastdp", "--token", &token, &target]);
    b.wait_connection(secs(10), &a, |c| c["path"] == "tcp");
    assert_eq!(b.targets(), [target]);
    let (ca, cb) = (a.container(), b.container());
    ping_within(secs(10), &cb.netns, ca.v4);
    block_udp(&lab, &[(&a, &b)], false);
    b.wait_connection(secs(15), &a, |c| c["path"] == "sleeve");
    ping_within(secs(5), &cb.netns, ca.v4);
}

#[test]
fn tcp_is_dialled_over_ipv6_and_kept_without_discovery() {
    let lab = Lab::new();
    let [a, b] = ["a", "b"].map(|name| lab.host(name));
    block_udp(&lab, &[(&a, &b)], true);
    a.launch(&["--no-discovery"]);
    let target = format!("tcp://[{}]", a.v6());
    b.launch(&["--no-discovery", "--token", &a.token(), &target]);
    let connection = b.wait_connection(secs(10), &a, |c| c["path"] == "tcp");
    let address = format!("tcp://[{}]:{PORT}", a.v6());
    assert_eq!(connection["address"], address.as_str());
    let (ca, cb) = (a.container(), b.container());
    ping_within(secs(10), &cb.netns, ca.v6);
    // A connection that breaks is made again.
    a.kill();
    a.relaunch();
    ping_within(secs(15), &cb.netns, ca.v4);
}

#[test]
fn tcp_carries_over_ipv6_while_udp_is_dropped() {
    let lab = Lab::new();
    let [a, b] = ["a", "b"].map(|name| lab.host(name));
    a.leave_v4();
    b.leave_v4();
    a.launch(SLEEVE);
    let seed = format!("[{}]", a.v6());
    b.launch(&["--no-fastdp", "--token", &a.token(), &seed]);
    let (ca, cb) = (a.container(), b.container());
    ping_within(secs(10), &cb.netns, ca.v4);
    block_udp(&lab, &[(&a, &b)], true);
    for (here, there) in [(&a, &b), (&b, &a)] {
        let connection = here.wait_connection(secs(15), there, |c| c["path"] == "tcp");
        let address = connection["address"].as_str().unwrap_or_default();
        ensure(address.starts_with("tcp://["), address);
    }
    ping_within(secs(5), &cb.netns, ca.v6);
    block_udp(&lab, &[(&a, &b)], false);
    for (here, there) in [(&a, &b), (&b, &a)] {
        here.wait_connection(secs(15), there, |c| c["path"] == "sleeve");
    }
}

#[test]
fn a_relay_is_better_than_tcp() {
    let lab = Lab::new();
    let (hosts, containers) = lab.network(3, SLEEVE);
    let (a, c) = (&hosts[0], &hosts[2]);
    ping_within(secs(10), &containers[0].netns, containers[2].v4);
    block_udp(&lab, &[(a, c)], true);
    let flow = PingFlow::start(&containers[0].netns, containers[2].v4, secs(1) / 50);
    for (here, there) in [(a, c), (c, a)] {
        here.wait_connection(secs(15), there, |c| c["path"] == "relay");
    }
    flow.wait_answer(secs(5));
    flow.stop();
}

#[test]
fn two_sites_have_only_tcp_between_them() {
    let lab = Lab::new();
    let [a1, a2, b1, b2] = ["a1", "a2", "b1", "b2"].map(|name| lab.host(name));
    let between = [(&a1, &b1), (&a1, &b2), (&a2, &b1), (&a2, &b2)];
    block_udp(&lab, &between, true);
    a1.launch(&[]);
    let token = a1.token();
    a2.join(&token, &[&a1], &[]);
    b1.join(&token, &[&a1], &[]);
    b2.join(&token, &[&b1], &[]);
    for host in [&a1, &a2, &b1, &b2] {
        host.wait_peers(secs(20), 4);
    }
    let (near, far) = (a2.container(), b2.container());
    a2.wait_station(secs(10), &far);
    b2.wait_station(secs(10), &near);
    ping_within(secs(10), &near.netns, far.v4);
    // The link between the sites goes, and another takes its place.
    b1.kill();
    ping_within(secs(20), &near.netns, far.v4);
}

#[test]
fn a_taken_port_is_said_and_no_hindrance() {
    let lab = Lab::new();
    let [a, b] = ["a", "b"].map(|name| lab.host(name));
    let taken = a.netns.run(|| TcpListener::bind(("::", PORT)));
    let _taken = taken.expect("the port is free");
    a.launch(&[]);
    a.log
        .wait_for(secs(5), "TCP port 6783 cannot be listened on");
    b.join(&a.token(), &[&a], &[]);
    let (ca, cb) = (a.container(), b.container());
    ping_within(secs(10), &ca.netns, cb.v4);
}

#[test]
fn strangers_on_tcp_disturb_nobody() {
    let lab = Lab::new();
    let (hosts, containers) = lab.network(2, SLEEVE);
    let (a, b) = (&hosts[0], &hosts[1]);
    block_udp(&lab, &[(a, b)], true);
    a.wait_connection(secs(15), b, |c| c["path"] == "tcp");
    ping_within(secs(10), &containers[0].netns, containers[1].v4);
    let before = a.daemon(|daemon| daemon.rss_bytes());
    let stranger = lab.host("stranger");
    let to = SocketAddr::from((a.v4(), PORT));
    let flow = PingFlow::start(&containers[0].netns, containers[1].v4, secs(1) / 50);
    flow.wait_answer(secs(5));
    let junk = |seed: u8, len: usize| (0..len).map(|n| seed ^ n as u8).collect::<Vec<u8>>();
    let open: Vec<TcpStream> = stranger.netns.run(|| {
        let connect = |_| TcpStream::connect_timeout(&to, secs(5)).ok();
        // Thousands that come and go, some of them in the middle of a datagram.
        for _ in 1..CROWDS {
            let crowd: Vec<TcpStream> = (0..CROWD).filter_map(connect).collect();
            for mut stream in crowd.iter().step_by(3) {
                let _ = stream.write_all(&[2, 0, 7]);
            }
        }
        let mut open: Vec<TcpStream> = (0..CROWD).filter_map(connect).collect();
        for (seed, stream) in (0_u8..).zip(&mut open) {
            let framed = [&[2, 0][..], &junk(seed, 512)].concat();
            // Those in excess are closed already.
            let _ = stream.write_all(&framed);
            let _ = stream.write_all(&junk(seed, 70_000 / 16));
        }
        open
    });
    eventually(secs(30), "strangers are shown out", || {
        // A byte now and then earns nobody more time.
        for mut stream in &open {
            let _ = stream.write_all(&[0]);
        }
        let closed = open.iter().filter(|stream| is_closed(stream)).count();
        if closed == open.len() {
            return Ok(());
        }
        Err(format!("{closed} of {}", open.len()))
    });
    flow.wait_answer(secs(5));
    let report = flow.stop();
    ensure(
        report.lost * 100 <= report.sent,
        format_args!("a flow beside it: {report:?}"),
    );
    let after = a.daemon(|daemon| daemon.rss_bytes());
    ensure(
        after < before + (16 << 20),
        format_args!("{before} bytes, then {after}"),
    );
}

fn is_closed(mut stream: &TcpStream) -> bool {
    use std::io::ErrorKind::{TimedOut, WouldBlock};
    let timeout = stream.set_read_timeout(Some(secs(1) / 100));
    timeout.expect("a time-out within limits");
    match stream.read(&mut [0; 64]) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => !matches!(error.kind(), TimedOut | WouldBlock),
    }
}
