//! Datagrams from nobody: random, truncated, replayed, changed. The daemon
//! neither falls, nor grows, nor answers with more than it got.

use std::net::SocketAddrV4;
use std::thread;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::lab::probe::{PingFlow, PingOptions, ping, ping_within};
use crate::lab::{Lab, PORT, Watch, asked_for, ensure, facts, secs, udp_payload};

const GROWTH: u64 = 16 << 20;

#[test]
fn a_daemon_stands_hostile_datagrams() {
    let lab = Lab::alone_if_asked("WOVE_DATAGRAMS");
    let watch = genuine(&lab);
    let (hosts, containers) = lab.network(2, &[]);
    ping_within(secs(10), &containers[0].netns, containers[1].v4);
    ping(
        &containers[0].netns,
        containers[1].v4,
        PingOptions::default(),
    );
    let samples = payloads(&watch);
    let victim = &hosts[1];
    let before = victim.daemon(|daemon| daemon.rss_bytes());
    let flow = PingFlow::start(
        &containers[0].netns,
        containers[1].v4,
        Duration::from_millis(20),
    );
    flow.wait_answer(secs(5));

    let fake = lab.underlay.fake(0, 1);
    let member = hosts[0].endpoint();
    let mut rng = ChaCha8Rng::seed_from_u64(0xbad);
    for n in 0..datagrams() {
        let payload = hostile(&samples, &mut rng);
        if n % 4 == 0 {
            fake.send_from(member, victim.endpoint(), &payload);
        } else {
            let port = rng.random_range(1024..u16::MAX);
            fake.send(port, victim.endpoint(), &payload);
        }
        if n % 50 == 0 {
            // Lets the daemon read: a datagram that the kernel drops tests nothing.
            thread::sleep(Duration::from_millis(2));
        }
    }
    flow.wait_answer(secs(5));
    let report = flow.stop();
    ensure(report.lost * 100 <= report.sent, format_args!("{report:?}"));
    ensure(victim.exited().is_none(), "the daemon runs");
    let grown = victim
        .daemon(|daemon| daemon.rss_bytes())
        .saturating_sub(before);
    ensure(grown < GROWTH, format_args!("it grew by {grown} bytes"));
    let (sent, answered) = fake.bytes();
    ensure(
        answered <= sent,
        format_args!("{answered} bytes answer {sent}"),
    );
    hosts[0].wait_connection(secs(5), victim, |_| true);
}

#[test]
fn a_handshake_from_nobody_is_not_amplified() {
    let lab = Lab::new();
    let watch = genuine(&lab);
    let (hosts, containers) = lab.network(2, &[]);
    ping_within(secs(10), &containers[0].netns, containers[1].v4);
    let fake = lab.underlay.fake(0, 2);
    let samples = payloads(&watch);
    for sample in samples.iter().take(50) {
        let (sent, answered) = fake.bytes();
        fake.send(4000, hosts[1].endpoint(), sample);
        thread::sleep(Duration::from_millis(20));
        let (sent, answered) = (fake.bytes().0 - sent, fake.bytes().1 - answered);
        ensure(
            answered <= sent,
            format_args!("{sent} bytes got {answered}: {sample:02x?}"),
        );
    }
}

#[test]
fn a_member_is_not_cut_off_by_forged_datagrams() {
    let lab = Lab::new();
    let watch = genuine(&lab);
    let (hosts, containers) = lab.network(2, &[]);
    ping_within(secs(10), &containers[0].netns, containers[1].v4);
    let fake = lab.underlay.fake(0, 3);
    let flow = PingFlow::start(
        &containers[0].netns,
        containers[1].v4,
        Duration::from_millis(20),
    );
    flow.wait_answer(secs(5));
    // Genuine bytes from a wrong place: an address must not move by a replay.
    for sample in payloads(&watch).iter().cycle().take(500) {
        fake.send(PORT, hosts[1].endpoint(), sample);
        thread::sleep(Duration::from_millis(2));
    }
    let report = flow.stop();
    ensure(report.lost == 0, format_args!("{report:?}"));
    let connection = hosts[1].connection(&hosts[0]).unwrap();
    assert_eq!(connection["address"], hosts[0].endpoint().to_string());
}

fn datagrams() -> u64 {
    asked_for("WOVE_DATAGRAMS", 20_000)
}

// What daemons say to each other from their first handshake on.
fn genuine(lab: &Lab) -> Watch {
    lab.underlay
        .watch(400, |frame| facts(frame).port == Some(PORT))
}

fn payloads(watch: &Watch) -> Vec<Vec<u8>> {
    let frames = watch.frames();
    let payloads = frames.iter().filter_map(|frame| udp_payload(frame));
    let payloads: Vec<_> = payloads.map(<[u8]>::to_vec).collect();
    assert!(!payloads.is_empty(), "daemons talk over UDP");
    payloads
}

fn hostile(samples: &[Vec<u8>], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut payload = samples[rng.random_range(0..samples.len())].clone();
    match rng.random_range(0..6) {
        0 => {
            let length = rng.random_range(0..1400);
            payload = (0..length).map(|_| rng.random()).collect();
        }
        1 => payload.truncate(rng.random_range(0..=payload.len())),
        2 => flip(&mut payload, rng, 1),
        3 => flip(&mut payload, rng, 20),
        4 => payload.extend((0..rng.random_range(1..64)).map(|_| rng.random::<u8>())),
        _ => {}
    }
    payload
}

fn flip(payload: &mut [u8], rng: &mut ChaCha8Rng, bits: usize) {
    if payload.is_empty() {
        return;
    }
    for _ in 0..bits {
        // Headers decide more than what follows them.
        let within = if rng.random() {
            payload.len()
        } else {
            payload.len().min(32)
        };
        payload[rng.random_range(0..within)] ^= 1 << rng.random_range(0..8);
    }
}

#[test]
fn a_spoofed_address_is_on_the_wire() {
    let lab = Lab::new();
    let (a, b) = (lab.host("a"), lab.host("b"));
    let open = || std::net::UdpSocket::bind((b.v4(), PORT)).unwrap();
    let socket = b.netns.run(open);
    socket.set_read_timeout(Some(secs(5))).unwrap();
    let from = SocketAddrV4::new(a.v4(), 1234);
    lab.underlay
        .fake(0, 1)
        .send_from(from, b.endpoint(), b"it is me");
    let mut buffer = [0; 64];
    assert_eq!(socket.recv_from(&mut buffer).unwrap(), (8, from.into()));
}
