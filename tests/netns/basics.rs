//! What an operator does on the first day: join, attach, look, expose, stop.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::lab::probe::{PingOptions, ping, ping_within};
use crate::lab::{Container, Host, Lab, ensure, eventually, secs, until};

#[test]
fn two_hosts_join_by_token_and_containers_ping() {
    let lab = Lab::new();
    let (a, b) = (lab.host("a"), lab.host("b"));
    a.launch(&[]);
    a.log.wait_for(secs(5), "wove launch");
    let started = Instant::now();
    b.join(&a.token(), &[&a], &[]);
    let (ca, cb) = (a.container(), b.container());
    ping_within(secs(5), &ca.netns, cb.v4);
    ping_within(secs(5), &ca.netns, cb.v6);
    let took = started.elapsed();
    ensure(took < secs(5), format_args!("it took {took:?} from launch"));
    let report = ping(&cb.netns, ca.v4, PingOptions::default());
    ensure(report.is_clean(), format_args!("{report:?}"));
}

#[test]
fn a_seed_may_be_an_ipv6_address() {
    let lab = Lab::new();
    let (a, b) = (lab.host("a"), lab.host("b"));
    a.launch(&[]);
    let seed = format!("[{}]:6783", a.v6());
    b.launch(&["--token", &a.token(), &seed]);
    let (ca, cb) = (a.container(), b.container());
    ping_within(secs(10), &ca.netns, cb.v4);
}

#[test]
fn status_has_what_scripts_rely_on() {
    let lab = Lab::new();
    let (hosts, containers) = lab.network(2, &[]);
    ping_within(secs(10), &containers[0].netns, containers[1].v4);
    let connection = hosts[0].wait_connection(secs(10), &hosts[1], |_| true);
    let status = eventually(secs(10), "stations are known", || {
        let status = hosts[0].status()?;
        let found = !array(&status, "stations").is_empty();
        found.then_some(status).ok_or_else(|| "none".to_owned())
    });
    has_keys(&status, "version router connections targets peers stations");
    has_keys(
        &status["router"],
        "peer nickname port encryption uptime_s ready",
    );
    has_keys(
        &connection,
        "peer nickname address outbound state path reason cipher mtu rtt_us rx_bytes tx_bytes key_age_s",
    );
    assert_ne!(connection["cipher"], "none");
    for peer in array(&status, "peers") {
        has_keys(peer, "peer nickname reachable hops next_hop links");
    }
    for station in array(&status, "stations") {
        has_keys(station, "mac peer ips");
    }
    let joined = hosts[1].status().unwrap();
    let target = &array(&joined, "targets")[0];
    has_keys(target, "address state reason retry_in_s");
    assert_eq!(target["address"], hosts[0].endpoint().to_string());
    assert_eq!(target["state"], "connected");
    assert_eq!(array(&status, "peers").len(), 2);
}

#[test]
fn metrics_are_served_where_asked_and_read_only() {
    let lab = Lab::new();
    let a = lab.host("a");
    a.launch(&["--http-addr", "127.0.0.1:9090"]);
    let metrics = http(&a, "GET /metrics");
    ensure(metrics.starts_with("HTTP/1.1 200"), &metrics);
    ensure(metrics.contains("wove_"), &metrics);
    let refused = http(&a, "POST /status");
    ensure(!refused.starts_with("HTTP/1.1 2"), &refused);
}

/// An alert on connections in clear needs no more than this.
#[test]
fn metrics_say_what_is_sealed_and_what_is_in_clear() {
    for (options, sealed) in [(&[][..], true), (&["--no-encryption"][..], false)] {
        let lab = Lab::new();
        let options: Vec<&str> = [&["--http-addr", "127.0.0.1:9090"], options].concat();
        let (hosts, _containers) = lab.network(2, &options);
        hosts[0].wait_connection(secs(10), &hosts[1], |_| true);
        let value = |metrics: &str, cipher: &str| -> u32 {
            let series = format!("wove_ciphers{{cipher=\"{cipher}\"}} ");
            let line = metrics.lines().find_map(|line| line.strip_prefix(&series));
            line.and_then(|value| value.trim().parse().ok())
                .unwrap_or_else(|| panic!("no {series} in {metrics}"))
        };
        until(secs(10), "the connection counts by its cipher", || {
            let metrics = http(&hosts[0], "GET /metrics");
            let ciphers = ["AES-256-GCM", "ChaCha20-Poly1305"];
            let counted: u32 = ciphers.iter().map(|cipher| value(&metrics, cipher)).sum();
            (counted, value(&metrics, "none")) == (u32::from(sealed), u32::from(!sealed))
        });
    }
}

#[test]
fn report_and_status_agree() {
    let lab = Lab::new();
    let (hosts, _containers) = lab.network(2, &[]);
    hosts[0].wait_connection(secs(10), &hosts[1], |_| true);
    let status = hosts[0].status().unwrap();
    let report = hosts[0].json(&["report"]).unwrap().to_string();
    for fact in [&status["router"]["peer"], &status["router"]["nickname"]] {
        ensure(report.contains(fact.as_str().unwrap()), &report);
    }
    let text = hosts[0].ok(&["status"]);
    let nickname = status["router"]["nickname"].as_str().unwrap();
    ensure(text.contains(nickname), &text);
    let connections = hosts[0].ok(&["status", "connections"]);
    ensure(connections.contains("h2"), &connections);
}

#[test]
fn a_host_is_on_the_overlay_only_while_exposed() {
    let lab = Lab::new();
    let (hosts, containers) = lab.network(2, &[]);
    let (host, remote) = (&hosts[0], &containers[1]);
    ping_within(secs(10), &containers[0].netns, remote.v4);
    let own = Ipv4Addr::new(10, 77, 0, 200);
    let cidr = format!("{own}/24");
    assert_eq!(quick_ping(remote, own), 0, "not exposed yet");
    assert_eq!(ping(&host.netns, remote.v4, quick()).received, 0);
    for _ in 0..2 {
        host.ok(&["expose", &cidr]);
    }
    ping_within(secs(5), &remote.netns, own);
    ping_within(secs(5), &host.netns, remote.v4);
    let exposed = host.netns.addresses("wove");
    assert_eq!(exposed.iter().filter(|a| **a == IpAddr::V4(own)).count(), 1);
    for _ in 0..2 {
        host.ok(&["hide", &cidr]);
    }
    assert_eq!(quick_ping(remote, own), 0, "hidden again");
}

#[test]
fn attach_and_detach_do_nothing_the_second_time() {
    let lab = Lab::new();
    let (hosts, containers) = lab.network(2, &[]);
    let (host, own) = (&hosts[0], &containers[0]);
    ping_within(secs(10), &own.netns, containers[1].v4);
    let again = host.attach(own);
    ensure(again.contains(&own.v4.to_string()), &again);
    let report = ping(&own.netns, containers[1].v4, PingOptions::default());
    ensure(report.is_clean(), format_args!("{report:?}"));
    let listed = host.ok(&["ps"]);
    ensure(listed.contains(&own.v4.to_string()), &listed);
    for _ in 0..2 {
        host.detach(own);
    }
    assert_eq!(own.netns.link_index("wove0"), None);
    let listed = host.ok(&["ps"]);
    ensure(!listed.contains(&own.v4.to_string()), &listed);
}

/// The kernel refuses IPv6 where packets of 1280 bytes do not fit, after it has taken
/// the address before.
#[test]
fn an_attach_that_fails_leaves_all_as_it_was() {
    let lab = Lab::new();
    let host = lab.host("a");
    host.launch(&["--mtu", "1000"]);
    let [container, other] = [1, 2].map(Container::new);
    let path = container.path();
    let ((v4, _), (other, v6)) = (container.cidrs(), other.cidrs());
    host.ok(&["attach", "--netns", &path, &v4]);
    let (before, listed) = (container.netns.addresses("wove0"), host.ok(&["ps"]));
    for ifname in ["wove0", "mesh7"] {
        let attach = ["attach", "--netns", &path, "--ifname", ifname, &other, &v6];
        let failed = host.cli(&attach);
        assert_eq!(failed.status.code(), Some(1));
        one_line_of(&failed.stderr, "1280");
        assert_eq!(container.netns.addresses("wove0"), before);
        assert_eq!(container.netns.link_index("mesh7"), None);
        assert_eq!(host.ok(&["ps"]), listed);
    }
    // Nobody is in the way of whoever wants the address then.
    host.ok(&["attach", "--netns", &path, "--ifname", "mesh7", &other]);
}

#[test]
fn attach_names_the_interface_and_says_what_it_lacks() {
    let lab = Lab::new();
    let host = lab.host("a");
    host.launch(&[]);
    let container = Container::new(1);
    let (v4, _) = container.cidrs();
    host.ok(&[
        "attach",
        "--netns",
        &container.path(),
        "--ifname",
        "mesh7",
        &v4,
    ]);
    assert!(
        container
            .netns
            .addresses("mesh7")
            .contains(&container.v4.into())
    );

    let bare = host.cli(&["attach", "--netns", &Container::new(2).path()]);
    assert!(bare.status.success(), "it gets one that is given out");
    let nowhere = host.cli(&["attach", "--netns", "/run/no-such-namespace", &v4]);
    assert_eq!(nowhere.status.code(), Some(1));
    one_line_of(&nowhere.stderr, "no-such-namespace");
    let file = host.cli(&["attach", "--netns", "/etc/hostname", &v4]);
    assert_eq!(
        file.status.code(),
        Some(1),
        "an ordinary file is no namespace"
    );
}

#[test]
fn stop_leaves_containers_and_reset_leaves_nothing() {
    let lab = Lab::new();
    let host = lab.host("a");
    let mut before = host.netns.links();
    host.launch(&[]);
    let container = host.container();
    host.ok(&["stop"]);
    assert!(host.wait_exit().success());
    assert!(container.netns.link_index("wove0").is_some());

    host.relaunch();
    host.ok(&["reset"]);
    assert!(host.wait_exit().success());
    let mut after = host.netns.links();
    before.sort();
    after.sort();
    assert_eq!(before, after);
    assert_eq!(container.netns.link_index("wove0"), None);
}

#[test]
fn a_client_without_a_daemon_says_so() {
    let lab = Lab::new();
    let host = lab.host("a");
    let output = host.cli(&["status"]);
    assert_eq!(output.status.code(), Some(1));
    one_line_of(&output.stderr, "wove.sock");
    let version = host.cli(&["version"]);
    assert!(version.status.success());
}

#[test]
fn sigterm_ends_it_cleanly_and_an_idle_daemon_is_idle() {
    let lab = Lab::new();
    let (hosts, _containers) = lab.network(2, &[]);
    hosts[0].wait_connection(secs(10), &hosts[1], |_| true);
    let before = hosts[0].daemon(|d| d.cpu_seconds());
    std::thread::sleep(secs(3));
    let used = hosts[0].daemon(|d| d.cpu_seconds()) - before;
    ensure(
        used < 1.0,
        format_args!("{used} s of processor time in 3 s of nothing"),
    );
    assert!(hosts[0].terminate().success());
}

/// Whether a failure is explained in one line that holds `word`.
#[track_caller]
pub(crate) fn one_line_of(stderr: &[u8], word: &str) {
    let text = String::from_utf8_lossy(stderr);
    let explained = text.to_lowercase().contains(&word.to_lowercase());
    ensure(explained, format_args!("{word:?} is not in {text:?}"));
    ensure(
        text.trim().lines().count() == 1,
        format_args!("not one line: {text}"),
    );
}

fn quick() -> PingOptions {
    PingOptions {
        count: 3,
        timeout: Duration::from_millis(500),
        ..PingOptions::default()
    }
}

fn quick_ping(from: &Container, to: Ipv4Addr) -> u64 {
    ping(&from.netns, to, quick()).received
}

fn array<'a>(value: &'a Value, key: &str) -> &'a Vec<Value> {
    let array = value[key].as_array();
    array.unwrap_or_else(|| panic!("{key} is no array in {value}"))
}

#[track_caller]
fn has_keys(value: &Value, keys: &str) {
    for key in keys.split_whitespace() {
        ensure(
            value.get(key).is_some(),
            format_args!("no {key} in {value}"),
        );
    }
}

fn http(host: &Host, request: &str) -> String {
    let address = SocketAddr::from(([127, 0, 0, 1], 9090));
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&address, secs(5))?;
        stream.set_read_timeout(Some(secs(5)))?;
        let head = format!("{request} HTTP/1.1\r\nHost: wove\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer).into_owned())
    };
    host.netns
        .run(ask)
        .expect("the address asked for is served")
}
