//! Frames through userspace: super-frames cut and joined, checksums left and
//! completed, small frames that share datagrams. Whatever the offloads of a
//! container and of the underlay are, the same bytes arrive.
//!
//! Thoroughly, and with figures:
//!
//! ```text
//! WOVE_MEGABYTES=100000 cargo netns every_byte -- --nocapture
//! WOVE_REKEYS=3600 cargo netns fresh_keys_every_second -- --nocapture
//! ```

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};

use crate::lab::probe::{PacketSocket, PingOptions, Stream, Transfer, ping, ping_within};
use crate::lab::{Container, Host, Lab, Netns, asked_for, checksum, ensure, secs, until};

const MEGABYTES: u64 = 1_000_000;
/// Long, for it is written and compared piece by piece.
const PATTERN: &[u8] = &[0x5a; 120];
const SLEEVE: &[&str] = &["--no-fastdp"];
const CONTAINER: &str = "wove0";
/// The ends of the veth between two hosts.
const DIRECT: [&str; 2] = ["direct-a", "direct-b"];

#[test]
fn offloads_of_containers_make_no_difference() {
    let lab = Lab::new();
    let (_hosts, containers) = lab.network(2, SLEEVE);
    let [a, b] = [&containers[0], &containers[1]];
    ping_within(secs(10), &a.netns, b.v4);
    ping_within(secs(10), &a.netns, b.v6);
    for (sender, receiver) in [(true, true), (false, true), (true, false), (false, false)] {
        a.netns.set_offloads(CONTAINER, sender);
        b.netns.set_offloads(CONTAINER, receiver);
        transfers_pass(a, b, 2 * MEGABYTES);
        transfers_pass(b, a, MEGABYTES);
    }
}

#[test]
fn an_underlay_that_takes_super_datagrams_uncut() {
    let lab = Lab::new();
    let ([_a, _b], [ca, cb]) = on_a_veth(&lab);
    transfers_pass(&ca, &cb, 40 * MEGABYTES);
    transfers_pass(&cb, &ca, 40 * MEGABYTES);
    datagrams_pass(&ca, &cb);
}

#[test]
fn an_underlay_without_offloads() {
    let lab = Lab::new();
    let ([a, b], [ca, cb]) = on_a_veth(&lab);
    for (host, interface) in [&a, &b].into_iter().zip(DIRECT) {
        host.netns.set_offloads(interface, false);
    }
    transfers_pass(&ca, &cb, 20 * MEGABYTES);
    datagrams_pass(&ca, &cb);
}

/// Mixed sizes, either way, by IPv4 and IPv6, tagged where the kernel can, with
/// and without offloads at either container and on the way.
#[test]
fn every_byte_arrives_as_it_was_sent() {
    let total = asked_for("WOVE_MEGABYTES", 200) * MEGABYTES;
    let lab = Lab::alone_if_asked("WOVE_MEGABYTES");
    let (hosts, [ca, cb]) = on_a_veth(&lab);
    let tagged = tag([&ca, &cb]);
    let mut targets = vec![
        [IpAddr::from(ca.v4), cb.v4.into()],
        [IpAddr::from(ca.v6), cb.v6.into()],
    ];
    targets.extend(tagged.map(|ends| ends.map(IpAddr::from)));
    let (started, mut moved, mut rounds) = (Instant::now(), 0, 0u64);
    while moved < total {
        // Every way to set three switches.
        let switch = |bit: u32| rounds >> bit & 1 == 0;
        ca.netns.set_offloads(CONTAINER, switch(0));
        cb.netns.set_offloads(CONTAINER, switch(1));
        for (host, interface) in hosts.iter().zip(DIRECT) {
            host.netns.set_offloads(interface, switch(2));
        }
        for [a, b] in &targets {
            // From less than a segment to what takes seconds.
            for bytes in [1, 1399, 65_537, total / 64 + rounds] {
                for (from, to, target) in [(&ca, &cb, b), (&cb, &ca, a)] {
                    let outcome = Transfer::run(&from.netns, &to.netns, *target, bytes, PATTERN);
                    ensure(outcome.is_ok(), format_args!("to {target}: {outcome:?}"));
                    moved += bytes;
                }
            }
        }
        rounds += 1;
    }
    let took = started.elapsed();
    println!(
        "{moved} bytes over {} kinds of way in {took:.0?}, none wrong",
        targets.len()
    );
}

#[test]
fn fresh_keys_every_second_leave_no_gap() {
    let rekeys = asked_for("WOVE_REKEYS", 10);
    let lab = Lab::alone_if_asked("WOVE_REKEYS");
    let ([a, _b], [ca, cb]) = on_a_veth_with(&lab, &["--rekey-after", "1s"]);
    let handshakes = || a.status().unwrap_or_default()["counters"]["handshakes"].as_u64();
    let before = handshakes().expect("it is counted");
    let stream = Stream::start(&ca.netns, (&cb.netns, cb.v4), Duration::from_millis(1));
    until(secs(30 + 3 * rekeys), "keys were renewed", || {
        handshakes().is_some_and(|now| now >= before + rekeys)
    });
    stream.wait_arrival(secs(5));
    let report = stream.stop();
    let delay = |share: f64| report.delays[((report.delays.len() - 1) as f64 * share) as usize];
    let late = report.delays.iter().filter(|delay| delay.as_millis() >= 10);
    println!(
        "{rekeys} times fresh keys, {} datagrams, {} lost; on their way p50 {:.1?}, p99.9 {:.1?}, \
         most {:.1?}, {} of them 10 ms or more",
        report.sent,
        report.lost,
        delay(0.5),
        delay(0.999),
        delay(1.0),
        late.count()
    );
    ensure(report.lost == 0, format_args!("{:?}", report.when));
}

#[test]
fn super_frames_are_relayed() {
    let lab = Lab::new();
    let ([a, _b, c], [ca, _cb, cc]) = lab.line(SLEEVE);
    ping_within(secs(10), &ca.netns, cc.v4);
    ping_within(secs(10), &ca.netns, cc.v6);
    a.wait_connection(secs(10), &c, |connection| connection["path"] == "relay");
    transfers_pass(&ca, &cc, 4 * MEGABYTES);
    datagrams_pass(&ca, &cc);
}

#[test]
fn a_narrow_path_gets_pieces() {
    let lab = Lab::new();
    lab.underlay
        .rules(|rules| rules.everywhere(|pair| pair.udp_mtu = Some(900)));
    let (_hosts, containers) = lab.network(2, SLEEVE);
    let [a, b] = [&containers[0], &containers[1]];
    ping_within(secs(10), &a.netns, b.v4);
    ping_within(secs(10), &a.netns, b.v6);
    transfers_pass(a, b, 2 * MEGABYTES);
    datagrams_pass(a, b);
}

#[test]
fn tagged_super_frames_keep_their_tag() {
    let lab = Lab::new();
    let (_hosts, containers) = lab.network(2, SLEEVE);
    let [a, b] = [&containers[0], &containers[1]];
    // A kernel may have no VLANs; `cargo vm sleeve::` runs this on one that has.
    let Some([at_a, at_b]) = tag([a, b]) else {
        return;
    };
    for (from, to, target) in [(a, b, at_b), (b, a, at_a)] {
        let outcome = Transfer::run(&from.netns, &to.netns, target, 4 * MEGABYTES, b"tagged");
        ensure(outcome.is_ok(), format_args!("{outcome:?}"));
    }
}

#[test]
fn a_frame_made_by_hand_arrives_as_it_is() {
    let lab = Lab::new();
    let (_hosts, containers) = lab.network(2, SLEEVE);
    let [a, b] = [&containers[0], &containers[1]];
    ping_within(secs(10), &a.netns, b.v4);
    let (from, to) = (
        PacketSocket::open(&a.netns, CONTAINER),
        PacketSocket::open(&b.netns, CONTAINER),
    );
    let mac = |netns: &Netns| netns.link_mac(CONTAINER).expect("an interface");
    let macs = [mac(&b.netns), mac(&a.netns)].concat();
    // Of UDP without a checksum, and of TCP with a wrong one.
    let ip = |protocol, len: u8| {
        let mut ip = vec![0x45, 0, 0, len, 0, 1, 0x40, 0, 64, protocol, 0, 0];
        ip.extend_from_slice(&[10, 9, 9, 1, 10, 9, 9, 2]);
        let sum = checksum(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        ip
    };
    let udp = [&[0x30, 0x39, 0, 9, 0, 13, 0, 0][..], b"plain"].concat();
    let tcp = [
        &[1; 12][..],
        &[0x50, 0x10, 1, 1, 0xab, 0xcd, 0, 0],
        b"wrong",
    ]
    .concat();
    for (what, packet) in [
        ("UDP", [ip(17, 33), udp].concat()),
        ("TCP", [ip(6, 45), tcp].concat()),
    ] {
        let frame = [&macs[..], &[8, 0], &packet].concat();
        let seen = {
            from.send(&frame);
            to.find(secs(5), |seen| (seen == frame).then_some(()))
        };
        ensure(
            seen.is_some(),
            format_args!("{what} did not arrive as sent"),
        );
    }
}

// Two containers on a VLAN of their own: their addresses there, unless the
// kernel has no VLANs.
fn tag(containers: [&Container; 2]) -> Option<[Ipv4Addr; 2]> {
    let addresses = [1, 2].map(|n| Ipv4Addr::new(10, 77, 0, n));
    for (container, address) in containers.into_iter().zip(addresses) {
        if !container.netns.add_vlan("tagged", CONTAINER, 7) {
            return None;
        }
        container.netns.add_address("tagged", address.into(), 24);
    }
    ping_within(secs(10), &containers[0].netns, addresses[1]);
    Some(addresses)
}

fn on_a_veth(lab: &Lab) -> ([Host; 2], [Container; 2]) {
    on_a_veth_with(lab, &[])
}

// Two hosts with a veth between them as their only common underlay.
fn on_a_veth_with(lab: &Lab, options: &[&str]) -> ([Host; 2], [Container; 2]) {
    let [a, b] = ["a", "b"].map(|name| lab.host(name));
    lab.cut(&a, &b);
    let [here, there] = DIRECT;
    a.netns.add_veth_to(here, &b.netns, there);
    let address = |n| IpAddr::from([10, 66, 0, n]);
    for (n, host, interface) in [(1, &a, here), (2, &b, there)] {
        host.netns.set_up(interface);
        host.netns.add_address(interface, address(n), 24);
    }
    let options = [SLEEVE, options].concat();
    a.launch(&options);
    let token = a.token();
    let seed = address(1).to_string();
    b.launch(&[&options[..], &["--token", &token, &seed]].concat());
    let containers = [&a, &b].map(Host::container);
    ping_within(secs(10), &containers[0].netns, containers[1].v4);
    ping_within(secs(10), &containers[0].netns, containers[1].v6);
    ([a, b], containers)
}

fn transfers_pass(from: &Container, to: &Container, bytes: u64) {
    for target in [IpAddr::from(to.v4), to.v6.into()] {
        let outcome = Transfer::run(&from.netns, &to.netns, target, bytes, b"through the sleeve");
        ensure(outcome.is_ok(), format_args!("to {target}: {outcome:?}"));
    }
}

// Datagrams of UDP sent as one super-frame, and small ones in a burst: all
// arrive, each by itself, in order. And pings that are cut.
fn datagrams_pass(from: &Container, to: &Container) {
    for target in [IpAddr::from(to.v4), to.v6.into()] {
        for (size, count) in [(700, 40), (30, 60), (1333, 20)] {
            let got = burst(from, to, target, size, count).expect("sockets can be used");
            let whole: Vec<Vec<u8>> = (0..count).map(|n| datagram(n, size)).collect();
            ensure(
                got == whole,
                format_args!(
                    "{} of {count} datagrams of {size} bytes to {target}",
                    got.len()
                ),
            );
        }
    }
    let options = PingOptions {
        count: 5,
        size: 4000,
        timeout: secs(2),
        ..PingOptions::default()
    };
    let report = ping(&from.netns, to.v4, options);
    ensure(report.is_clean(), format_args!("{report:?}"));
}

fn datagram(number: u8, size: usize) -> Vec<u8> {
    vec![number; size]
}

fn burst(
    from: &Container,
    to: &Container,
    target: IpAddr,
    size: usize,
    count: u8,
) -> io::Result<Vec<Vec<u8>>> {
    let receiver = to
        .netns
        .run(|| UdpSocket::bind(SocketAddr::new(target, 0)))?;
    receiver.set_read_timeout(Some(secs(5)))?;
    let any = if target.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let sender = from.netns.run(|| UdpSocket::bind(any))?;
    setsockopt(&sender, UdpGsoSegment, &i32::try_from(size).expect("small"))?;
    sender.connect(receiver.local_addr()?)?;
    let all: Vec<u8> = (0..count).flat_map(|n| datagram(n, size)).collect();
    sender.send(&all)?;
    let mut got = Vec::new();
    let mut buffer = [0; 4096];
    while got.len() < usize::from(count) {
        let Ok(length) = receiver.recv(&mut buffer) else {
            break;
        };
        got.push(buffer[..length].to_vec());
    }
    Ok(got)
}
