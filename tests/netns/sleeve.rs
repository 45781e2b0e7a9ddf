//! Frames through userspace: super-frames cut and joined, checksums left and
//! completed, small frames that share datagrams. Whatever the offloads of a
//! container and of the underlay are, the same bytes arrive.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};

use crate::lab::probe::{PacketSocket, PingOptions, Transfer, ping, ping_within};
use crate::lab::{Container, Host, Lab, Netns, checksum, ensure, secs};

const MEGABYTES: u64 = 1_000_000;
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
    let address = |n| Ipv4Addr::new(10, 77, 0, n);
    for (n, container) in [(1, a), (2, b)] {
        if !container.netns.add_vlan("tagged", CONTAINER, 7) {
            // The kernel has no VLANs; `cargo vm sleeve::` runs this on one that has.
            return;
        }
        container.netns.add_address("tagged", address(n).into(), 24);
    }
    ping_within(secs(10), &a.netns, address(2));
    for (from, to, target) in [(a, b, 2), (b, a, 1)] {
        let outcome = Transfer::run(
            &from.netns,
            &to.netns,
            address(target),
            4 * MEGABYTES,
            b"tagged",
        );
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

// Two hosts with a veth between them as their only common underlay.
fn on_a_veth(lab: &Lab) -> ([Host; 2], [Container; 2]) {
    let [a, b] = ["a", "b"].map(|name| lab.host(name));
    lab.cut(&a, &b);
    let [here, there] = DIRECT;
    a.netns.add_veth_to(here, &b.netns, there);
    let address = |n| IpAddr::from([10, 66, 0, n]);
    for (n, host, interface) in [(1, &a, here), (2, &b, there)] {
        host.netns.set_up(interface);
        host.netns.add_address(interface, address(n), 24);
    }
    a.launch(SLEEVE);
    let token = a.token();
    let seed = address(1).to_string();
    b.launch(&[SLEEVE, &["--token", &token, &seed]].concat());
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
