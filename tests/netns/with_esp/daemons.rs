//! The encrypted fast path between real daemons: ESP and never VXLAN in clear,
//! whatever happens to daemons, keys, policies and the way between.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};
use std::{fs, thread};

use serde_json::Value;
use wove::shell::barrier;
use wove::shell::xfrm::{Found, Xfrm};

use super::{CANARY, Foreign, VXLAN};
use crate::failover::there_and_back;
use crate::fastdp::slow;
use crate::lab::probe::{Canaries, PingFlow, Transfer, ping_within};
use crate::lab::{
    Container, Host, Lab, PORT, STATE, Watch, ensure, eventually, facts, secs, udp_payload, until,
};

/// The name of wove's VXLAN device and of its table.
pub(super) const DEVICE: &str = "wove-vx";
/// Frames with a canary inside, through everything that happens.
const CANARIES: u64 = 100_000;

/// What is seen of the fast path between the hosts.
struct Seen {
    clear: Watch,
    canary: Watch,
    esp: Watch,
}

impl Seen {
    fn new(lab: &Lab) -> Self {
        Self {
            clear: lab
                .underlay
                .watch(1, |frame| facts(frame).port == Some(VXLAN)),
            canary: lab.underlay.watch_for(CANARY),
            esp: lab.underlay.watch(0, |frame| facts(frame).esp),
        }
    }

    #[track_caller]
    fn nothing_in_clear(&self, when: &str) {
        let hits = (self.clear.hits(), self.canary.hits());
        ensure(hits == (0, 0), format_args!("{when}: in clear: {hits:?}"));
    }
}

/// What the kernel of a host has of ours.
fn found(host: &Host) -> Found {
    let mut xfrm = host.netns.run(Xfrm::open).expect("XFRM");
    xfrm.found().expect("a list")
}

/// Packets that the XFRM of a host refused, by reason: each counter is of an error.
pub(super) fn errors(host: &Host) -> String {
    let read = || fs::read_to_string("/proc/thread-self/net/xfrm_stat");
    host.netns.run(read).expect("a kernel that counts")
}

/// Waits until frames go by the kernel and encrypted, both ways.
#[track_caller]
pub(super) fn fast(a: &Host, b: &Host) {
    for (near, far) in [(a, b), (b, a)] {
        let connection = near.wait_connection(secs(20), far, |c| c["path"] == "fastdp");
        assert_eq!(connection["reason"], "");
        assert_eq!(connection["cipher"], "AES-256-GCM");
    }
}

/// Makes two peers agree on new keys now, as after a restart of one: who sees
/// their datagrams can forge that notice, and it costs a handshake.
fn rekey(lab: &Lab, a: &Host, b: &Host) {
    let age = |c: &Value| c["key_age_s"].as_u64().unwrap_or(0);
    // Handshakes within 5 s of each other count as one meeting.
    a.wait_connection(secs(10), b, |c| age(c) >= 6);
    let spis = |host: &Host| -> Vec<u32> { found(host).sas.iter().map(|sa| sa.id.spi).collect() };
    let before = spis(a);
    let (from, to) = (a.v4().octets(), b.v4().octets());
    let watch = lab.underlay.watch(1, move |frame| {
        frame.get(26..34) == Some(&[from, to].concat()[..])
            && facts(frame).port == Some(PORT)
            && udp_payload(frame).is_some_and(|payload| payload.first() == Some(&16))
    });
    let datagram = eventually(secs(5), "a sealed datagram is seen", || {
        let frames = watch.frames();
        let payload = frames.first().and_then(|frame| udp_payload(frame));
        payload.map(<[u8]>::to_vec).ok_or_else(|| "none".to_owned())
    });
    let notice = [&[6, 1, 0, 0], &datagram[4..16]].concat();
    let stranger = lab.underlay.fake(0, 8);
    stranger.send_from(b.endpoint(), a.endpoint(), &notice);
    eventually(secs(10), "there are keys of a new session", || {
        let now = spis(a);
        let fresh = now.iter().filter(|spi| !before.contains(spi)).count();
        (fresh >= 2)
            .then_some(())
            .ok_or_else(|| format!("{before:?}, then {now:?}"))
    });
}

/// Canaries from one container to another.
fn canaries(from: &Container, to: &Container) -> Canaries {
    let ends = [from, to].map(|container| (&container.netns, container.v4));
    Canaries::start(ends[0], ends[1], "wove0", CANARY)
}

#[test]
fn nothing_leaves_in_clear_whatever_happens() {
    let lab = Lab::new();
    if lab.ran_with_esp() {
        return;
    }
    let seen = Seen::new(&lab);
    let started = Instant::now();
    let (hosts, containers) = lab.network(2, &[]);
    let [a, b] = [&hosts[0], &hosts[1]];
    let flow = canaries(&containers[0], &containers[1]);
    // Each stage lasts until its share of them is sent.
    let stage = |number: u64, what: &str| {
        flow.flood_to(CANARIES * number / 7, secs(60));
        let (at, sent, esp) = (started.elapsed().as_secs(), flow.sent(), seen.esp.hits());
        println!("{at:3} s, {sent} canaries, {esp} ESP: {what}");
        seen.nothing_in_clear(what);
    };
    fast(a, b);
    stage(1, "launched");

    rekey(&lab, a, b);
    stage(2, "fresh keys");
    fast(a, b);

    lab.underlay
        .rules(|rules| rules.both(a.id, b.id, |pair| pair.esp_blocked = true));
    let reason = slow(a, b);
    ensure(reason.contains("ESP"), &reason);
    stage(3, "ESP filtered");
    lab.heal(a, b);
    fast(a, b);
    stage(4, "ESP passes again");

    b.kill();
    stage(5, "the receiver was killed");
    assert_eq!(found(b).policies.len(), 2, "they outlive the daemon");
    assert!(b.netns.link_index(DEVICE).is_some());
    b.relaunch();
    fast(a, b);
    a.kill();
    stage(6, "the sender was killed");
    a.relaunch();
    fast(a, b);
    stage(7, "both were launched again");

    b.ok(&["stop"]);
    assert!(b.wait_exit().success());
    assert_eq!(found(b), Found::default());
    thread::sleep(secs(1) / 5);
    a.ok(&["reset"]);
    assert!(a.wait_exit().success());
    assert_eq!(found(a), Found::default());
    let (sent, received) = flow.stop();
    seen.nothing_in_clear("stopped and reset");
    println!("{sent} sent, {received} received");
    // Under load some of it goes by sleeve, and some is lost.
    let least = CANARIES / 10;
    assert!(sent >= CANARIES && received >= least && seen.esp.hits() >= least);
}

#[test]
fn esp_filtered_one_way_costs_an_outage_and_coming_back_nothing() {
    let lab = Lab::new();
    if lab.ran_with_esp() {
        return;
    }
    let seen = Seen::new(&lab);
    let (hosts, containers) = lab.network(2, &[]);
    let [a, b] = [&hosts[0], &hosts[1]];
    fast(a, b);
    let ways = [
        (["ESP filtered on the way there", "passes again"], a, b),
        (["ESP filtered on the way back", "passes again"], b, a),
    ];
    for (names, from, to) in ways {
        let ends = (&containers[0], &containers[1]);
        let block = |lab: &Lab, drop: bool| {
            lab.underlay
                .rules(|rules| rules.pair(from.id, to.id).esp_blocked = drop);
        };
        there_and_back(&lab, (a, b), ends, names, block, ["fastdp", "sleeve"]);
        seen.nothing_in_clear(names[0]);
    }
}

#[test]
fn fresh_keys_lose_nothing() {
    let lab = Lab::new();
    if lab.ran_with_esp() {
        return;
    }
    let seen = Seen::new(&lab);
    let (hosts, containers) = lab.network(2, &[]);
    let [a, b] = [&hosts[0], &hosts[1]];
    fast(a, b);
    ping_within(secs(5), &containers[0].netns, containers[1].v4);
    let interval = Duration::from_millis(50);
    let flow = PingFlow::start(&containers[0].netns, containers[1].v4, interval);
    flow.wait_answer(secs(5));
    let (errors, esp) = ([a, b].map(errors), seen.esp.hits());
    for (near, far) in [(a, b), (b, a)] {
        rekey(&lab, near, far);
        fast(a, b);
    }
    for host in [a, b] {
        eventually(secs(5), "old keys are gone", || {
            let sas = found(host).sas;
            (sas.len() == 2)
                .then_some(())
                .ok_or_else(|| format!("{sas:?}"))
        });
    }
    // What is lost because the guest is slow is no matter of keys.
    assert_eq!([a, b].map(self::errors), errors);
    flow.wait_answer(secs(5));
    let report = flow.stop();
    println!("{} pings, {} lost", report.sent, report.lost);
    ensure(seen.esp.hits() >= esp + report.sent, "by the kernel");
    ensure(report.lost * 4 <= report.sent, report.lost);
    seen.nothing_in_clear("fresh keys");
}

/// Each of them agrees on fresh associations, too, while others linger.
#[test]
fn fresh_keys_every_other_second_stay_with_esp() {
    let lab = Lab::new();
    if lab.ran_with_esp() {
        return;
    }
    let seen = Seen::new(&lab);
    let (hosts, containers) = lab.network(2, &["--rekey-after", "2s"]);
    let [a, b] = [&hosts[0], &hosts[1]];
    fast(a, b);
    let handshakes = || a.status().unwrap_or_default()["counters"]["handshakes"].as_u64();
    let (before, errors) = (handshakes().expect("counted"), [a, b].map(errors));
    let interval = Duration::from_millis(50);
    let flow = PingFlow::start(&containers[0].netns, containers[1].v4, interval);
    until(secs(30), "keys were renewed ten times", || {
        handshakes().is_some_and(|now| now >= before + 10)
    });
    fast(a, b);
    flow.wait_answer(secs(5));
    let esp = seen.esp.hits();
    let report = flow.stop();
    assert_eq!([a, b].map(self::errors), errors);
    let sas = found(a).sas.len();
    println!(
        "{} pings, {} lost, {esp} ESP, {sas} associations",
        report.sent, report.lost
    );
    ensure(report.lost * 4 <= report.sent, report.lost);
    ensure(esp >= report.sent, "by the kernel");
    seen.nothing_in_clear("fresh keys every other second");
}

#[test]
fn full_frames_pass_over_ipv6() {
    let lab = Lab::new();
    if lab.ran_with_esp() {
        return;
    }
    let seen = Seen::new(&lab);
    let (a, b) = (lab.host("a"), lab.host("b"));
    a.launch(&["--host", &a.v6().to_string()]);
    let seed = format!("[{}]:{PORT}", a.v6());
    let bound = b.v6().to_string();
    b.launch(&["--token", &a.token(), "--host", &bound, &seed]);
    let (ca, cb) = (a.container(), b.container());
    // What is proven is of full size, and nothing was cut for it.
    fast(&a, &b);
    ping_within(secs(5), &ca.netns, cb.v6);
    let esp = seen.esp.hits();
    let took = Transfer::run(&ca.netns, &cb.netns, cb.v4, 500_000, CANARY);
    ensure(took.is_ok(), format_args!("{took:?}"));
    ensure(seen.esp.hits() >= esp + 300, "frames went by the kernel");
    seen.nothing_in_clear("over IPv6");
}

#[test]
fn what_is_flushed_is_put_back_and_nothing_leaves_meanwhile() {
    let lab = Lab::new();
    if lab.ran_with_esp() {
        return;
    }
    let seen = Seen::new(&lab);
    let (hosts, containers) = lab.network(2, &[]);
    let [a, b] = [&hosts[0], &hosts[1]];
    fast(a, b);
    let flow = canaries(&containers[0], &containers[1]);
    let admin = Foreign::new(a);
    let damage: [(&str, &dyn Fn()); 4] = [
        ("state flush", &|| admin.flush_sas()),
        ("policy flush", &|| admin.flush_policies()),
        ("both", &|| {
            admin.flush_policies();
            admin.flush_sas();
        }),
        ("nft delete table", &|| {
            let removed = a.netns.run(|| barrier::remove(DEVICE));
            removed.expect("it is there");
        }),
    ];
    for (what, damage) in damage {
        let repairs = a.log.matching("repaired").len();
        let sent = flow.sent();
        damage();
        eventually(secs(5), &format!("repaired: {what}"), || {
            let now = a.log.matching("repaired").len();
            (now > repairs)
                .then_some(())
                .ok_or_else(|| "not yet".to_owned())
        });
        ensure(flow.sent() > sent, "canaries were sent meanwhile");
        fast(a, b);
        assert_eq!(found(a).policies.len(), 2, "{what}");
        seen.nothing_in_clear(what);
    }
    let before = flow.received();
    until(secs(5), "canaries arrive", || flow.received() > before);
    flow.stop();
    seen.nothing_in_clear("at the end");
}

#[test]
fn trust_at_one_end_alone_is_no_reason_for_clear() {
    let lab = Lab::new();
    if lab.ran_with_esp() {
        return;
    }
    let seen = Seen::new(&lab);
    let (a, b, c) = (lab.host("a"), lab.host("b"), lab.host("c"));
    let trusted = ["--trusted-subnets", "10.99.0.0/16,fd99::/16"];
    a.launch(&trusted);
    let token = a.token();
    b.join(&token, &[&a], &[]);
    fast(&a, &b);
    seen.nothing_in_clear("one end trusts");
    // Plain and encrypted side by side: the barriers tell them apart.
    c.join(&token, &[&a], &trusted);
    for (near, far) in [(&a, &c), (&c, &a)] {
        near.wait_connection(secs(20), far, |c| {
            c["path"] == "fastdp" && c["cipher"] == "none"
        });
    }
    fast(&a, &b);
    fast(&b, &c);
    let containers = [&a, &b, &c].map(Host::container);
    let between = |from: Ipv4Addr, to: Ipv4Addr| {
        let ends = [from.octets(), to.octets()].concat();
        lab.underlay.watch(1, move |frame| {
            facts(frame).port == Some(VXLAN) && frame.get(26..34) == Some(&ends[..])
        })
    };
    let (ab, ac) = (between(a.v4(), b.v4()), between(a.v4(), c.v4()));
    for far in &containers[1..] {
        ping_within(secs(5), &containers[0].netns, far.v4);
    }
    until(secs(5), "plain VXLAN is seen", || ac.hits() > 0);
    assert_eq!(ab.hits(), 0);
}

#[test]
fn what_is_of_others_stays_and_what_is_ours_goes() {
    let lab = Lab::new();
    if lab.ran_with_esp() {
        return;
    }
    let (hosts, _containers) = lab.network(2, &[]);
    let [a, b] = [&hosts[0], &hosts[1]];
    let foreign = Foreign::new(a);
    foreign.ask(
        include_str!("../../../src/shell/xfrm/captures/sa_v4.hex"),
        0,
    );
    foreign.ask(
        include_str!("../../../src/shell/xfrm/captures/policy_out_v4.hex"),
        0,
    );
    fast(a, b);
    // Another wove of the host, which has not the device, touches nothing.
    let ours = found(a);
    let other = ["--bridge", "other", "--state-dir", "/run/other"];
    let nobody = ["--socket", "/run/other/wove.sock"];
    a.ok(&[&["reset", "--force"][..], &other, &nobody].concat());
    let ids = |found: &Found| found.sas.iter().map(|sa| sa.id).collect::<Vec<_>>();
    let now = found(a);
    assert_eq!((ids(&now), &now.policies), (ids(&ours), &ours.policies));
    fast(a, b);

    a.kill();
    assert_eq!(found(a).policies.len(), 2);
    a.ok(&["reset", "--force", "--state-dir", STATE]);
    assert_eq!(found(a), Found::default());
    assert_eq!(a.netns.link_index(DEVICE), None);
    let raised = a.netns.run(|| barrier::is_raised(DEVICE));
    assert!(!raised.expect("an answer"), "the table is gone");
    let delete = include_str!("../../../src/shell/xfrm/captures/delete_sa.hex");
    foreign.ask(delete, 0);
    let policy = include_str!("../../../src/shell/xfrm/captures/policy_out_v4.hex");
    foreign.ask(policy, libc::EEXIST);
}
