//! Ethernet frames of every kind that is looked into.

use std::net::{Ipv4Addr, Ipv6Addr};

use proto::{
    MacAddr,
    arp::{ArpRepr, Operation},
    ethernet::{EthernetRepr, ethertype},
    ip::{Checksum, Ipv6Repr, protocol},
    ndp::{Advertisement, NdpRepr, multicast_mac, solicited_node},
    vnet::{PartialChecksum, SegmentKind, Segments, VnetHeader},
};

use super::{IP6, MAC};

const TARGET6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);

/// Ethernet frames as containers send them, plain and tagged.
pub(crate) fn plain() -> Vec<Vec<u8>> {
    let mut all = vec![
        arp(Operation::Request),
        arp(Operation::Reply),
        ndp(
            IP6,
            NdpRepr::Solicitation {
                target: TARGET6,
                source_link: Some(MAC),
            },
        ),
        ndp(
            Ipv6Addr::UNSPECIFIED,
            NdpRepr::Solicitation {
                target: IP6,
                source_link: None,
            },
        ),
        ndp(
            IP6,
            NdpRepr::Advertisement(Advertisement {
                router: false,
                solicited: false,
                overrides: true,
                target: IP6,
                target_link: Some(MAC),
            }),
        ),
        syn_v4(),
        syn_v6(),
    ];
    for i in 0..all.len() {
        for tags in [&[0x81, 0, 0, 7][..], &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 9]] {
            let tagged = [&all[i][..12], tags, &all[i][12..]].concat();
            all.push(tagged);
        }
    }
    all
}

fn ethernet(destination: MacAddr, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let header = EthernetRepr {
        destination,
        source: MAC,
        ethertype,
    };
    [&header.emit()[..], payload].concat()
}

pub(super) fn arp(operation: Operation) -> Vec<u8> {
    let repr = ArpRepr {
        operation,
        sender_mac: MAC,
        sender_ip: Ipv4Addr::new(10, 32, 0, 1),
        target_mac: MacAddr::default(),
        target_ip: Ipv4Addr::new(10, 32, 0, 2),
    };
    ethernet(MacAddr::BROADCAST, ethertype::ARP, &repr.emit())
}

fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, next_header: u8, payload: &[u8]) -> Vec<u8> {
    let header = Ipv6Repr {
        source,
        destination,
        next_header,
        hop_limit: 255,
        payload_len: payload.len().try_into().expect("these are small"),
    };
    [&header.emit()[..], payload].concat()
}

fn ndp(source: Ipv6Addr, repr: NdpRepr) -> Vec<u8> {
    let group = solicited_node(match repr {
        NdpRepr::Solicitation { target, .. } => target,
        NdpRepr::Advertisement(a) => a.target,
    });
    let mut message = Vec::new();
    repr.emit(source, group, &mut message);
    let packet = ipv6(source, group, protocol::ICMPV6, &message);
    ethernet(multicast_mac(group), ethertype::IPV6, &packet)
}

/// A SYN with the options that Linux sends; the checksums are not valid.
const SYN: [u8; 40] = [
    0x9c, 0x40, 0, 80, 1, 2, 3, 4, 0, 0, 0, 0, 0xa0, 2, 0xff, 0xff, 0x12, 0x34, 0, 0, 2, 4, 5,
    0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7,
];

pub(super) fn syn_v4() -> Vec<u8> {
    let ip = [
        0x45, 0, 0, 60, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 32, 0, 1, 10, 32, 0, 2,
    ];
    ethernet(MacAddr([2; 6]), ethertype::IPV4, &[&ip[..], &SYN].concat())
}

fn syn_v6() -> Vec<u8> {
    let options = [
        43, 0, 1, 4, 0, 0, 0, 0, 44, 0, 1, 4, 0, 0, 0, 0, 6, 0, 0, 1, 0, 0, 0, 1,
    ];
    let packet = ipv6(IP6, TARGET6, 0, &[&options[..], &SYN].concat());
    ethernet(MacAddr([2; 6]), ethertype::IPV6, &packet)
}

/// Frames of TCP and UDP with a payload, of both versions of IP.
pub(crate) fn segments() -> Vec<Vec<u8>> {
    let tcp = [&[1; 12][..], &[0x50, 0x10, 1, 1, 0, 0, 0, 0], &[9; 300]].concat();
    let udp = [&[0x30, 0x39, 0, 53, 1, 0x34, 0, 0][..], &[9; 300]].concat();
    let mut all = Vec::new();
    for (number, segment) in [(protocol::TCP, tcp), (protocol::UDP, udp)] {
        let mut ip = vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, number, 0, 0];
        ip.extend_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        let len = u16::try_from(ip.len() + segment.len()).expect("short");
        ip[2..4].copy_from_slice(&len.to_be_bytes());
        let sum = Checksum::new().bytes(&ip).finish();
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        let packet = [ip, segment.clone()].concat();
        all.push(ethernet(MacAddr([2; 6]), ethertype::IPV4, &packet));
        let packet = ipv6(IP6, TARGET6, number, &segment);
        all.push(ethernet(MacAddr([2; 6]), ethertype::IPV6, &packet));
    }
    all
}

/// The same as super-frames, behind the header of a TAP.
pub(crate) fn super_frames() -> Vec<Vec<u8>> {
    let kinds = [
        (SegmentKind::TcpV4, 34, 16),
        (SegmentKind::TcpV6, 54, 16),
        (SegmentKind::Udp, 34, 6),
        (SegmentKind::Udp, 54, 6),
    ];
    let with_header = |((kind, start, offset), frame): (_, Vec<u8>)| {
        let header = VnetHeader {
            checksum: Some(PartialChecksum { start, offset }),
            segments: Some(Segments {
                kind,
                size: 100,
                headers: start + 20,
                ecn: false,
            }),
        };
        [&header.emit()[..], &frame].concat()
    };
    kinds.into_iter().zip(segments()).map(with_header).collect()
}
