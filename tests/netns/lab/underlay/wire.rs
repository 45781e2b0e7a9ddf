//! Just enough Ethernet, ARP, IPv4, IPv6 and UDP to judge a frame and to
//! make one. Must not know ports, rules or time.

use std::net::{Ipv4Addr, SocketAddrV4};

/// An Ethernet address.
pub(crate) type Mac = [u8; 6];

const ETHERNET: usize = 14;
const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const UDP: u8 = 17;
const ESP: u8 = 50;

/// What the rules look at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Bytes of the IP packet; 0 if it is none.
    pub(crate) packet: usize,
    /// Whether it is UDP, a later fragment included.
    pub(crate) udp: bool,
    /// Whether it is ESP.
    pub(crate) esp: bool,
    /// The destination port, where the frame holds the UDP header.
    pub(crate) port: Option<u16>,
}

/// Destination and source of a frame; none if it is shorter than a header.
pub(crate) fn macs(frame: &[u8]) -> Option<(Mac, Mac)> {
    if frame.len() < ETHERNET {
        return None;
    }
    let (to, rest) = frame.split_first_chunk()?;
    Some((*to, *rest.first_chunk()?))
}

/// Reads what the rules look at.
pub(crate) fn facts(frame: &[u8]) -> Facts {
    read_ip(frame).unwrap_or_default()
}

/// The payload of a UDP datagram that is not a fragment.
pub(crate) fn udp_payload(frame: &[u8]) -> Option<&[u8]> {
    let facts = read_ip(frame)?;
    facts.port?;
    let header = match ethertype(frame)? {
        IPV4 => usize::from(frame[ETHERNET] & 15) * 4,
        _ => 40,
    };
    let start = ETHERNET + header + 8;
    frame.get(start..(ETHERNET + facts.packet).min(frame.len()))
}

/// The sender and the address asked for, if the frame is an ARP request.
pub(crate) fn arp_request(frame: &[u8]) -> Option<(Mac, Ipv4Addr, Ipv4Addr)> {
    read_arp(frame, 1)
}

/// The sender, if the frame is an ARP answer.
pub(crate) fn arp_answer(frame: &[u8]) -> Option<(Mac, Ipv4Addr)> {
    let (mac, ip, _) = read_arp(frame, 2)?;
    Some((mac, ip))
}

fn read_arp(frame: &[u8], operation: u8) -> Option<(Mac, Ipv4Addr, Ipv4Addr)> {
    let body = frame.get(ETHERNET..ETHERNET + 28)?;
    if ethertype(frame)? != ARP || body[6..8] != [0, operation] {
        return None;
    }
    let ip = |at: usize| Ipv4Addr::new(body[at], body[at + 1], body[at + 2], body[at + 3]);
    Some((body[8..14].try_into().ok()?, ip(14), ip(24)))
}

/// An ARP packet: `operation` 1 asks, 2 answers.
pub(crate) fn arp(operation: u8, from: (Mac, Ipv4Addr), to: (Mac, Ipv4Addr)) -> Vec<u8> {
    let target = if operation == 1 { [0xff; 6] } else { to.0 };
    let mut frame = ethernet(target, from.0, ARP);
    frame.extend([0, 1, 8, 0, 6, 4, 0, operation]);
    for (mac, ip) in [from, to] {
        frame.extend(mac);
        frame.extend(ip.octets());
    }
    frame
}

/// A UDP datagram over IPv4 in one frame, without a UDP checksum.
pub(crate) fn udp(
    macs: (Mac, Mac),
    from: SocketAddrV4,
    to: SocketAddrV4,
    payload: &[u8],
) -> Vec<u8> {
    let length = u16::try_from(28 + payload.len()).expect("a datagram of the tests fits IPv4");
    let mut frame = ethernet(macs.1, macs.0, IPV4);
    frame.extend([0x45, 0]);
    frame.extend(length.to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, UDP, 0, 0]);
    frame.extend(from.ip().octets());
    frame.extend(to.ip().octets());
    let sum = checksum(&frame[ETHERNET..]);
    frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(from.port().to_be_bytes());
    frame.extend(to.port().to_be_bytes());
    frame.extend((length - 20).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    frame
}

/// The internet checksum (RFC 1071).
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let pair = |b: &[u8]| u32::from(u16::from_be_bytes([b[0], *b.get(1).unwrap_or(&0)]));
    let mut sum: u32 = bytes.chunks(2).map(pair).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn ethernet(to: Mac, from: Mac, kind: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(64);
    frame.extend(to);
    frame.extend(from);
    frame.extend(kind.to_be_bytes());
    frame
}

fn ethertype(frame: &[u8]) -> Option<u16> {
    let bytes = frame.get(12..ETHERNET)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

fn read_ip(frame: &[u8]) -> Option<Facts> {
    let ip = frame.get(ETHERNET..)?;
    let word = |at: usize| {
        let bytes = ip.get(at..at + 2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    };
    match ethertype(frame)? {
        IPV4 => {
            let first = word(6)? & 0x1fff == 0;
            let protocol = *ip.get(9)?;
            let (udp, esp) = (protocol == UDP, protocol == ESP);
            let header = usize::from(ip[0] & 15) * 4;
            let port = if udp && first { word(header + 2) } else { None };
            let packet = usize::from(word(2)?);
            Some(Facts {
                packet,
                udp,
                esp,
                port,
            })
        }
        IPV6 => {
            let packet = 40 + usize::from(word(4)?);
            let protocol = *ip.get(6)?;
            let (udp, esp) = (protocol == UDP, protocol == ESP);
            let port = if udp { word(42) } else { None };
            Some(Facts {
                packet,
                udp,
                esp,
                port,
            })
        }
        _ => None,
    }
}

#[test]
fn what_is_built_is_read_back() {
    let from = SocketAddrV4::new(Ipv4Addr::new(10, 99, 0, 1), 4000);
    let to = SocketAddrV4::new(Ipv4Addr::new(10, 99, 0, 2), 6783);
    let frame = udp(([2; 6], [4; 6]), from, to, b"hello");
    assert_eq!(macs(&frame), Some(([4; 6], [2; 6])));
    let expected = Facts {
        packet: 33,
        udp: true,
        esp: false,
        port: Some(6783),
    };
    assert_eq!(facts(&frame), expected);
    assert_eq!(udp_payload(&frame), Some(&b"hello"[..]));
    assert_eq!(checksum(&frame[14..34]), 0);

    let ask = arp(1, ([2; 6], *from.ip()), ([0; 6], *to.ip()));
    assert_eq!(arp_request(&ask), Some(([2; 6], *from.ip(), *to.ip())));
    for cut in 0..frame.len() {
        facts(&frame[..cut]);
        udp_payload(&frame[..cut]);
        arp_request(&ask[..cut.min(ask.len())]);
    }
}
