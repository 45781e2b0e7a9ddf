//! VXLAN that no daemon sent: from others of the underlay, from users of a
//! member's host, and from what that host translates addresses for.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use wove::shell::barrier;

use super::daemons::{DEVICE, errors, fast};
use super::{CANARY, Foreign, VXLAN};
use crate::lab::probe::PacketSocket;
use crate::lab::{Container, Host, Lab, Netns, ensure, secs, until};

/// The priority that the VXLAN device gives to what it sends.
const DEVICE_PRIORITY: u32 = 0x776f_0000;

/// Who tries to put a frame into the overlay at a host, and knows the identifier
/// that only its peer was given.
struct Intruder<'a> {
    host: &'a Host,
    /// The VXLAN device there.
    device: PacketSocket,
    /// The container there that shall get it.
    listener: PacketSocket,
    mac: [u8; 6],
    attempts: Cell<u32>,
}

impl<'a> Intruder<'a> {
    fn at(host: &'a Host, container: &Container) -> Self {
        Self {
            host,
            device: PacketSocket::open(&host.netns, DEVICE),
            listener: PacketSocket::open(&container.netns, "wove0"),
            mac: container.netns.link_mac("wove0").expect("attached"),
            attempts: Cell::new(0),
        }
    }

    /// Whether a frame arrives of those that `send` sends.
    fn is_delivered(&self, send: impl Fn(SocketAddrV4, &[u8])) -> bool {
        let vni = self.device.find(secs(5), |frame| match *frame {
            [2, 0x77, 0x76, x, y, z, ..] if frame[12..14] == [0x88, 0xb5] => Some([x, y, z]),
            _ => None,
        });
        let vni = vni.expect("probes arrive");
        // What arrives late of an attempt does not count for the next.
        self.attempts.update(|attempt| attempt + 1);
        let sign = [CANARY, &self.attempts.get().to_be_bytes()].concat();
        let frame = [&self.mac[..], &[2, 0, 0, 0, 0, 9, 8, 0], &sign, &[0; 40]].concat();
        let datagram = [&[8, 0, 0, 0][..], &vni, &[0], &frame].concat();
        for _ in 0..20 {
            send(SocketAddrV4::new(self.host.v4(), VXLAN), &datagram);
        }
        let heard = self.listener.find(Duration::from_secs(2), |frame| {
            let heard = frame.windows(sign.len()).any(|w| w == sign);
            heard.then_some(())
        });
        heard.is_some()
    }
}

#[test]
fn vxlan_of_strangers_delivers_nothing() {
    let lab = Lab::new();
    if lab.ran_with_esp() {
        return;
    }
    let (hosts, containers) = lab.network(2, &[]);
    let [a, b] = [&hosts[0], &hosts[1]];
    fast(a, b);
    let intruder = Intruder::at(a, &containers[0]);
    let stranger = lab.underlay.fake(0, 7);
    let member = SocketAddrV4::new(b.v4(), 50_000);
    let is_delivered =
        || intruder.is_delivered(|to, datagram| stranger.send_from(member, to, datagram));
    let lower = || {
        let removed = a.netns.run(|| barrier::remove(DEVICE));
        removed.expect("nftables answers");
    };
    let policies = Foreign::new(a);
    assert!(!is_delivered(), "as it is");
    lower();
    assert!(!is_delivered(), "the policy holds without the table");
    until(secs(5), "the table is put back", || {
        let raised = a.netns.run(|| barrier::is_raised(DEVICE));
        raised.expect("nftables answers")
    });
    policies.flush_policies();
    assert!(!is_delivered(), "the table holds without the policy");
    // That is what they are for: without both, until they are put back, it is let in.
    until(secs(20), "it would be delivered", || {
        policies.flush_policies();
        lower();
        is_delivered()
    });
    fast(a, b);
}

#[test]
fn the_kernel_encrypts_for_the_device_alone() {
    let lab = Lab::new();
    if lab.ran_with_esp() {
        return;
    }
    let (hosts, containers) = lab.network(2, &[]);
    let [a, b] = [&hosts[0], &hosts[1]];
    fast(a, b);
    let intruder = Intruder::at(a, &containers[0]);
    let is_delivered = |from: &Netns, priority: u32| {
        let socket = from.run(|| Socket::new(Domain::IPV4, Type::DGRAM, None));
        let socket = socket.expect("UDP");
        socket.set_priority(priority).expect("root may");
        intruder.is_delivered(|to, datagram| {
            // The kernel may say that it was dropped.
            let _ = socket.send_to(datagram, &to.into());
        })
    };
    // A user has this host's address, and so the key of this pair of hosts.
    assert!(!is_delivered(&b.netns, 0), "from a user");
    assert!(!is_delivered(&b.netns, 6), "from a user in a hurry");
    // Nothing but the priority keeps it from being encrypted.
    until(secs(10), "what the device sends is delivered", || {
        is_delivered(&b.netns, DEVICE_PRIORITY)
    });

    // Who is behind a translation of addresses, as containers of others are, will have it.
    let guest = Netns::new();
    b.netns.add_veth_to("guest", &guest, "inside");
    let [door, inside] = [1, 2].map(|n| Ipv4Addr::new(172, 30, 0, n));
    for (netns, name, address) in [(&b.netns, "guest", door), (&guest, "inside", inside)] {
        netns.add_address(name, IpAddr::V4(address), 24);
        netns.set_up(name);
    }
    guest.add_default_route(door);
    b.netns.sysctl("net/ipv4/ip_forward", "1");
    b.netns.nft(
        "table ip guest {
            chain leave { type nat hook postrouting priority srcnat; ip saddr 172.30.0.2 masquerade; }
        }",
    );
    let refused = || {
        let errors = errors(b);
        let mut lines = errors.lines().map(str::split_whitespace);
        lines.find_map(|mut words| {
            (words.next() == Some("XfrmOutPolError")).then(|| words.next()?.parse::<u64>().ok())?
        })
    };
    let before = refused();
    assert!(!is_delivered(&guest, 0), "from a guest");
    // The policy is for all sources, and its keys for this host's address alone.
    ensure(refused() > before, "that is what kept them back");
    fast(a, b);
}
