//! The kernel fast path: taken, left and taken again; guarded, repaired, removed.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::lab::probe::{PacketSocket, PingFlow, PingOptions, Transfer, ping, ping_within};
use crate::lab::{Container, Host, Lab, Watch, ensure, eventually, facts, secs, udp_payload};

const CLEAR: &str = "--no-encryption";
const VXLAN: u16 = 6784;
/// The ethertype of probes.
const PROBE: [u8; 2] = [0x88, 0xb5];
const MARK: &[u8] = b"a frame of the fast path 8150";

#[test]
fn two_hosts_without_encryption_use_the_kernel() {
    let lab = Lab::new();
    let started = Instant::now();
    let (hosts, containers) = lab.network(2, &[CLEAR]);
    fast(&hosts[0], &hosts[1]);
    ensure(
        started.elapsed() < secs(8),
        format_args!("it took {:?} from launch", started.elapsed()),
    );
    let [near, far] = [&containers[0], &containers[1]];
    ping_within(secs(5), &near.netns, far.v4);
    ping_within(secs(5), &near.netns, far.v6);
    let (before, userspace) = (
        carried(&hosts[0], &hosts[1]),
        by_userspace(&hosts[0], &hosts[1]),
    );
    for to in [IpAddr::from(far.v4), IpAddr::from(far.v6)] {
        for size in [56, 1300] {
            let options = PingOptions {
                count: 50,
                size,
                ..PingOptions::default()
            };
            let report = ping(&near.netns, to, options);
            ensure(report.is_clean(), format_args!("{to} {size}: {report:?}"));
        }
        let took = Transfer::run(&near.netns, &far.netns, to, 20_000_000, MARK);
        ensure(took.is_ok(), format_args!("{to}: {took:?}"));
    }
    eventually(secs(5), "the kernel's counters are read", || {
        let frames = carried(&hosts[0], &hosts[1]) - before;
        let bytes = kernel(&hosts[0], &hosts[1], "tx_bytes");
        if frames > 20_000 && bytes > 40_000_000 {
            return Ok(());
        }
        Err(format!("{frames} frames, {bytes} bytes"))
    });
    let extra = by_userspace(&hosts[0], &hosts[1]) - userspace;
    ensure(
        extra < 100,
        format_args!("userspace carried {extra} frames"),
    );
}

#[test]
fn it_works_over_ipv6() {
    let lab = Lab::new();
    let (a, b) = (lab.host("a"), lab.host("b"));
    let six = |host: &Host| host.v6().to_string();
    a.launch(&[CLEAR, "--host", &six(&a)]);
    let seed = format!("[{}]:6783", a.v6());
    b.launch(&["--token", &a.token(), CLEAR, "--host", &six(&b), &seed]);
    let (ca, cb) = (a.container(), b.container());
    fast(&a, &b);
    ping_within(secs(5), &ca.netns, cb.v4);
    let before = carried(&a, &b);
    let took = Transfer::run(&ca.netns, &cb.netns, cb.v4, 5_000_000, MARK);
    ensure(took.is_ok(), format_args!("{took:?}"));
    until_carried(&a, &b, before + 3000);
}

#[test]
fn blocked_vxlan_costs_a_second_and_its_return_nothing() {
    let lab = Lab::new();
    let (hosts, containers) = lab.network(2, &[CLEAR]);
    let [a, b] = [&hosts[0], &hosts[1]];
    fast(a, b);
    ping_within(secs(5), &containers[0].netns, containers[1].v4);
    // Both ways, and one way only: each end has to find out.
    for one_way in [false, true] {
        let flow = PingFlow::start(
            &containers[0].netns,
            containers[1].v4,
            Duration::from_millis(10),
        );
        flow.wait_answer(secs(5));
        std::thread::sleep(secs(1));
        lab.underlay.rules(|rules| {
            rules.pair(a.id, b.id).udp_blocked.insert(VXLAN);
            if !one_way {
                rules.pair(b.id, a.id).udp_blocked.insert(VXLAN);
            }
        });
        let reason = slow(a, b);
        ensure(reason.contains("UDP 6784 blocked?"), reason);
        flow.wait_answer(secs(3));
        let report = flow.stop();
        ensure(
            report.longest_gap < Duration::from_millis(1500),
            format_args!(
                "one way: {one_way}: {:?}, {} lost",
                report.longest_gap, report.lost
            ),
        );

        let flow = PingFlow::start(
            &containers[0].netns,
            containers[1].v4,
            Duration::from_millis(10),
        );
        flow.wait_answer(secs(5));
        lab.heal(a, b);
        let started = Instant::now();
        fast(a, b);
        let back = started.elapsed();
        ensure(back < secs(7), format_args!("back after {back:?}"));
        std::thread::sleep(Duration::from_millis(500));
        let report = flow.stop();
        ensure(report.is_clean(), format_args!("{report:?}"));
    }
}

#[test]
fn a_path_that_became_narrow_is_left() {
    let lab = Lab::new();
    let (hosts, containers) = lab.network(2, &[CLEAR]);
    let [a, b] = [&hosts[0], &hosts[1]];
    fast(a, b);
    let flow = PingFlow::start(
        &containers[0].netns,
        containers[1].v4,
        Duration::from_millis(20),
    );
    flow.wait_answer(secs(5));
    lab.underlay
        .rules(|rules| rules.both(a.id, b.id, |pair| pair.mtu = Some(1430)));
    slow(a, b);
    let connection = a.wait_connection(secs(10), b, |c| {
        c["reason"].as_str().is_some_and(|r| r.contains("path MTU"))
    });
    ensure(
        connection["reason"].as_str().unwrap().contains("< 1446"),
        &connection,
    );
    let took = Transfer::run(
        &containers[0].netns,
        &containers[1].netns,
        containers[1].v4,
        500_000,
        MARK,
    );
    ensure(took.is_ok(), format_args!("{took:?}"));
    lab.heal(a, b);
    fast(a, b);
    drop(flow.stop());
}

#[test]
fn device_and_programs_are_put_back() {
    let lab = Lab::new();
    let (hosts, containers) = lab.network(2, &[CLEAR]);
    let [a, b] = [&hosts[0], &hosts[1]];
    fast(a, b);
    let works = |what: &str| {
        ping_within(secs(5), &containers[0].netns, containers[1].v4);
        let before = carried(a, b);
        eventually(
            secs(6),
            &format!("the kernel carries frames: {what}"),
            || {
                ping(
                    &containers[0].netns,
                    containers[1].v4,
                    PingOptions::default(),
                );
                match carried(a, b) > before {
                    true => Ok(()),
                    false => Err(format!("{:?}", a.connection(b))),
                }
            },
        );
    };
    works("as launched");
    let damage: [(&str, &dyn Fn()); 4] = [
        ("device deleted", &|| a.netns.delete_link("wove-vx")),
        ("device down", &|| a.netns.set_down("wove-vx")),
        ("programs off the device", &|| {
            a.netns.delete_programs("wove-vx")
        }),
        ("program off the TAP", &|| {
            a.netns.delete_programs("wove-tap")
        }),
    ];
    for (what, damage) in damage {
        let repairs = a.log.matching("repaired").len();
        damage();
        eventually(secs(5), &format!("repaired: {what}"), || {
            let now = a.log.matching("repaired").len();
            (now > repairs)
                .then_some(())
                .ok_or_else(|| "not yet".to_owned())
        });
        works(what);
    }
    a.netns.delete_link("wove-tap");
    works("TAP deleted");
}

#[test]
fn frames_of_strangers_go_nowhere() {
    let lab = Lab::new();
    let ([a, b], containers) = pair_v4(&lab);
    let (a, b) = (&a, &b);
    let watch = lab
        .underlay
        .watch(1000, move |frame| facts(frame).port == Some(VXLAN));
    fast(a, b);
    ping_within(secs(5), &containers[0].netns, containers[1].v4);
    let vni = identifier(&watch, b);
    let wrong: Vec<u8> = vni.iter().map(|byte| byte ^ 0x55).collect();
    let mac = containers[1]
        .netns
        .link_mac("wove0")
        .expect("it is attached");
    let listener = PacketSocket::open(&containers[1].netns, "wove0");
    let stranger = lab.underlay.fake(0, 7);
    let to = SocketAddrV4::new(b.v4(), VXLAN);
    let member = SocketAddrV4::new(a.v4(), 50_000);
    let other = SocketAddrV4::new(stranger.ip(), 50_000);
    let data = ethernet(mac, [2, 0, 0, 0, 0, 9], [8, 0]);
    let group = ethernet([0xff; 6], [2, 0, 0, 0, 0, 9], [8, 0]);
    let from_group = ethernet(mac, [3, 0, 0, 0, 0, 9], [8, 0]);
    let probe = ethernet([0x02, 0x77, 0x76, 0, 0, 1], [2, 0, 0, 0, 0, 9], PROBE);
    let spoofs = [
        (
            "another source",
            other,
            &vni,
            data.clone(),
            "foreign_source",
        ),
        ("a wrong VNI", member, &wrong, data.clone(), "foreign_vni"),
        ("a group", member, &vni, group, "malformed"),
        ("from a group", member, &vni, from_group, "malformed"),
        ("cut short", member, &vni, data[..13].to_vec(), "malformed"),
        ("a forged probe", member, &vni, probe, "malformed"),
    ];
    for (what, from, vni, frame, counter) in spoofs {
        let before = drops(b, counter);
        for _ in 0..5 {
            stranger.send_from(from, to, &vxlan(vni, &frame));
        }
        let heard = listener.find(Duration::from_millis(500), |frame| {
            frame.windows(MARK.len()).any(|w| w == MARK).then_some(())
        });
        assert_eq!(heard, None, "{what}");
        // Some are dropped by the kernel before they can be counted.
        if what != "cut short" {
            eventually(secs(5), &format!("counted: {what}"), || {
                let more = drops(b, counter) - before;
                (more >= 5)
                    .then_some(())
                    .ok_or_else(|| format!("{more} {counter}"))
            });
        }
    }
    fast(a, b);
}

#[test]
fn probes_and_containers_do_not_meet() {
    let lab = Lab::new();
    let (hosts, containers) = lab.network(2, &[CLEAR]);
    fast(&hosts[0], &hosts[1]);
    ping_within(secs(5), &containers[0].netns, containers[1].v4);
    let near = PacketSocket::open(&containers[0].netns, "wove0");
    let far = PacketSocket::open(&containers[1].netns, "wove0");
    let of_type = |frame: &[u8]| (frame[12..14] == PROBE).then_some(());
    assert_eq!(far.find(secs(2), of_type), None, "a container sees probes");

    // One that a container makes is an ordinary frame, and none of the kernel's.
    let tunnelled = lab.underlay.watch(1, |frame| {
        facts(frame).port == Some(VXLAN) && frame.windows(MARK.len()).any(|w| w == MARK)
    });
    let mac = |c: &Container| c.netns.link_mac("wove0").expect("it is attached");
    near.send(&ethernet(mac(&containers[1]), mac(&containers[0]), PROBE));
    assert_eq!(far.find(secs(2), of_type), Some(()));
    assert_eq!(tunnelled.hits(), 0);
}

#[test]
fn an_encrypted_mesh_uses_esp_or_stays_on_sleeve_and_says_why() {
    let lab = Lab::new();
    let watch = lab
        .underlay
        .watch(1, |frame| facts(frame).port == Some(VXLAN));
    let (hosts, containers) = lab.network(2, &[]);
    ping_within(secs(10), &containers[0].netns, containers[1].v4);
    let has_esp = hosts[0].netns.run(wove::shell::xfrm::fault).is_none();
    std::thread::sleep(secs(2));
    let path = if has_esp { "fastdp" } else { "sleeve" };
    let connection = hosts[0].wait_connection(secs(5), &hosts[1], |c| c["path"] == path);
    assert_eq!(connection["cipher"], "AES-256-GCM");
    let reason = connection["reason"].as_str().unwrap();
    ensure(reason.contains("ESP") != has_esp, reason);
    assert_eq!(watch.hits(), 0, "nothing leaves in clear");
}

#[test]
fn one_end_that_encrypts_is_enough() {
    let lab = Lab::new();
    let (a, b) = (lab.host("a"), lab.host("b"));
    a.launch(&[CLEAR]);
    b.join(&a.token(), &[&a], &[]);
    std::thread::sleep(secs(2));
    for (near, far) in [(&a, &b), (&b, &a)] {
        let connection = near.wait_connection(secs(5), far, |c| c["state"] == "established");
        assert_ne!(connection["cipher"], "none");
    }
}

#[test]
fn trusted_subnets_take_the_kernel_if_both_ends_agree() {
    let lab = Lab::new();
    let (a, b, c) = (lab.host("a"), lab.host("b"), lab.host("c"));
    let trusted = ["--trusted-subnets", "10.99.0.0/16,fd99::/16"];
    a.launch(&trusted);
    let token = a.token();
    b.join(&token, &[&a], &trusted);
    c.join(&token, &[&a], &["--trusted-subnets", "10.98.0.0/16"]);
    fast(&a, &b);
    a.wait_connection(secs(5), &b, |c| c["cipher"] == "none");
    let connection = a.wait_connection(secs(5), &c, |c| {
        c["reason"] != "" && c["cipher"] != "none" || c["path"] == "fastdp"
    });
    assert_ne!(connection["cipher"], "none", "only one end trusts");
    let (ca, cb) = (a.container(), b.container());
    a.wait_station(secs(5), &cb);
    b.wait_station(secs(5), &ca);
    let took = Transfer::run(&ca.netns, &cb.netns, cb.v4, 1_000_000, MARK);
    ensure(took.is_ok(), format_args!("{took:?}"));
    until_carried(&a, &b, 100);
}

#[test]
fn no_fastdp_is_obeyed_and_told_to_the_other_end() {
    let lab = Lab::new();
    let (a, b) = (lab.host("a"), lab.host("b"));
    a.launch(&[CLEAR, "--no-fastdp"]);
    b.join(&a.token(), &[&a], &[CLEAR]);
    let (ca, cb) = (a.container(), b.container());
    ping_within(secs(5), &ca.netns, cb.v4);
    for (near, far) in [(&a, &b), (&b, &a)] {
        let connection = near.wait_connection(secs(10), far, |c| {
            c["reason"]
                .as_str()
                .is_some_and(|r| r.contains("--no-fastdp"))
        });
        assert_eq!(connection["path"], "sleeve");
    }
    assert_eq!(a.netns.link_index("wove-vx"), None);
    // The other way round: what was there goes.
    a.terminate();
    a.launch(&[CLEAR]);
    assert!(a.netns.link_index("wove-vx").is_some());
    a.kill();
    a.launch(&[CLEAR, "--no-fastdp"]);
    assert_eq!(a.netns.link_index("wove-vx"), None);
}

#[test]
fn relaying_goes_on_beside_it() {
    let lab = Lab::new();
    let ([a, b, c], [ca, _cb, cc]) = lab.line(&[CLEAR]);
    fast(&a, &b);
    fast(&b, &c);
    ping_within(secs(5), &ca.netns, cc.v4);
    a.wait_connection(secs(5), &c, |connection| connection["path"] == "relay");
    let flow = PingFlow::start(&ca.netns, cc.v4, Duration::from_millis(20));
    flow.wait_answer(secs(5));
    lab.heal(&a, &c);
    fast(&a, &c);
    let report = flow.stop();
    ensure(report.is_clean(), format_args!("{report:?}"));
    lab.cut(&a, &c);
    a.wait_connection(secs(10), &c, |connection| connection["path"] == "relay");
    ping_within(secs(5), &ca.netns, cc.v4);
}

#[test]
fn a_killed_peer_comes_back_on_it_and_old_identifiers_are_dead() {
    let lab = Lab::new();
    let ([a, b], containers) = pair_v4(&lab);
    let (a, b) = (&a, &b);
    let watch = lab
        .underlay
        .watch(1000, move |frame| facts(frame).port == Some(VXLAN));
    fast(a, b);
    let old = identifier(&watch, b);
    b.kill();
    b.relaunch();
    fast(a, b);
    ping_within(secs(5), &containers[0].netns, containers[1].v4);
    let before = carried(a, b);
    let report = ping(
        &containers[0].netns,
        containers[1].v4,
        PingOptions::default(),
    );
    ensure(report.is_clean(), format_args!("{report:?}"));
    until_carried(a, b, before + 1);

    let mac = containers[1]
        .netns
        .link_mac("wove0")
        .expect("it is attached");
    let listener = PacketSocket::open(&containers[1].netns, "wove0");
    let frame = ethernet(mac, [2, 0, 0, 0, 0, 9], [8, 0]);
    let counted = drops(b, "foreign_vni");
    lab.underlay.fake(0, 7).send_from(
        SocketAddrV4::new(a.v4(), 50_000),
        SocketAddrV4::new(b.v4(), VXLAN),
        &vxlan(&old, &frame),
    );
    let heard = listener.find(Duration::from_millis(500), |frame| {
        frame.windows(MARK.len()).any(|w| w == MARK).then_some(())
    });
    assert_eq!(heard, None);
    eventually(secs(5), "counted", || {
        (drops(b, "foreign_vni") > counted)
            .then_some(())
            .ok_or_else(|| "no".to_owned())
    });
}

#[test]
fn a_host_that_moves_stays_on_it() {
    let lab = Lab::new();
    let (mut hosts, containers) = lab.network(2, &[CLEAR]);
    fast(&hosts[0], &hosts[1]);
    hosts[1].readdress(Ipv4Addr::new(10, 99, 3, 77));
    ping_within(secs(15), &containers[0].netns, containers[1].v4);
    let [a, b] = [&hosts[0], &hosts[1]];
    a.wait_connection(secs(20), b, |c| {
        c["path"] == "fastdp" && c["address"] != "10.99.0.2:6783"
    });
    fast(a, b);
    let before = carried(a, b);
    let report = ping(
        &containers[0].netns,
        containers[1].v4,
        PingOptions::default(),
    );
    ensure(report.is_clean(), format_args!("{report:?}"));
    until_carried(a, b, before + 10);
}

#[test]
fn stop_and_reset_leave_nothing() {
    let lab = Lab::new();
    let (hosts, _containers) = lab.network(2, &[CLEAR]);
    fast(&hosts[0], &hosts[1]);
    // Somebody else's, with the name of another wove's.
    hosts[0].netns.add_bridge("other-vx");
    hosts[0].ok(&["stop"]);
    assert!(hosts[0].wait_exit().success());
    assert_eq!(hosts[0].netns.link_index("wove-vx"), None);
    hosts[0].relaunch();
    assert!(hosts[0].netns.link_index("wove-vx").is_some());
    hosts[0].kill();
    assert!(
        hosts[0].netns.link_index("wove-vx").is_some(),
        "it stays, guarded"
    );
    hosts[0].ok(&["reset", "--force", "--state-dir", crate::lab::STATE]);
    assert_eq!(hosts[0].netns.link_index("wove-vx"), None);
    assert!(hosts[0].netns.link_index("other-vx").is_some());
}

#[test]
fn a_host_whose_name_is_taken_says_so_and_uses_sleeve() {
    let lab = Lab::new();
    let (a, b) = (lab.host("a"), lab.host("b"));
    a.netns.add_bridge("wove-vx");
    a.launch(&[CLEAR]);
    b.join(&a.token(), &[&a], &[CLEAR]);
    let (ca, cb) = (a.container(), b.container());
    ping_within(secs(5), &ca.netns, cb.v4);
    let connection = a.wait_connection(secs(5), &b, |c| c["path"] == "sleeve");
    let reason = connection["reason"].as_str().unwrap();
    ensure(reason.contains("not wove's"), reason);
    b.wait_connection(secs(5), &a, |c| {
        c["reason"].as_str().is_some_and(|r| r.contains("kernel"))
    });
    a.netns.delete_link("wove-vx");
    fast(&a, &b);
}

/// Two hosts, which know each other by their IPv4 addresses only.
fn pair_v4(lab: &Lab) -> ([Host; 2], [Container; 2]) {
    let hosts = ["a", "b"].map(|name| lab.host(name));
    let [a, b] = &hosts;
    a.launch(&[CLEAR, "--host", &a.v4().to_string()]);
    b.join(&a.token(), &[a], &[CLEAR, "--host", &b.v4().to_string()]);
    let containers = [a, b].map(Host::container);
    (hosts, containers)
}

/// The identifier that frames to a host bear: the one that it gave.
fn identifier(watch: &Watch, to: &Host) -> Vec<u8> {
    let to = to.v4().octets();
    eventually(secs(5), "probes are seen", || {
        let frames = watch.frames();
        let mut theirs = frames.iter().filter(|frame| frame[30..34] == to);
        let found = theirs.find_map(|frame| udp_payload(frame)?.get(4..7).map(<[u8]>::to_vec));
        found.ok_or_else(|| format!("none among {} frames", frames.len()))
    })
}

/// Waits until frames go by the kernel, both ways.
#[track_caller]
fn fast(a: &Host, b: &Host) {
    for (near, far) in [(a, b), (b, a)] {
        let connection = near.wait_connection(secs(15), far, |c| c["path"] == "fastdp");
        assert_eq!(connection["reason"], "");
    }
}

/// Waits until frames go by userspace, both ways; the first end's reason.
#[track_caller]
pub(crate) fn slow(a: &Host, b: &Host) -> String {
    b.wait_connection(secs(5), a, |c| c["path"] == "sleeve");
    let connection = a.wait_connection(secs(5), b, |c| c["path"] == "sleeve");
    connection["reason"].as_str().unwrap_or_default().to_owned()
}

fn kernel(a: &Host, b: &Host, counter: &str) -> u64 {
    number(&a.connection(b).unwrap_or_default()["fastdp"][counter])
}

/// Frames between the two that the kernel carried.
fn carried(a: &Host, b: &Host) -> u64 {
    kernel(a, b, "rx_frames") + kernel(a, b, "tx_frames")
}

fn until_carried(a: &Host, b: &Host, frames: u64) {
    eventually(secs(5), "the kernel carries frames", || {
        let now = carried(a, b);
        (now >= frames)
            .then_some(())
            .ok_or_else(|| format!("{now} of {frames}"))
    });
}

/// Frames between the two that userspace carried.
fn by_userspace(a: &Host, b: &Host) -> u64 {
    let connection = a.connection(b).unwrap_or_default();
    let all = number(&connection["rx_frames"]) + number(&connection["tx_frames"]);
    let fast = &connection["fastdp"];
    all - number(&fast["rx_frames"]) - number(&fast["tx_frames"])
}

fn drops(host: &Host, reason: &str) -> u64 {
    number(&host.status().unwrap_or_default()["counters"]["drops"][reason])
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

/// A frame with the mark.
fn ethernet(to: [u8; 6], from: [u8; 6], kind: [u8; 2]) -> Vec<u8> {
    [&to[..], &from, &kind, MARK, &[0; 40]].concat()
}

/// A frame in VXLAN (RFC 7348).
fn vxlan(vni: &[u8], frame: &[u8]) -> Vec<u8> {
    [&[8, 0, 0, 0][..], vni, &[0], frame].concat()
}
