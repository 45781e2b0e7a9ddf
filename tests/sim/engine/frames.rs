//! The frames that containers send, each with a mark by which the ledger knows
//! it again. Knows nothing of peers or datagrams.

use std::net::{Ipv4Addr, Ipv6Addr};

use proto::{
    MacAddr,
    arp::{ArpRepr, Operation},
    ethernet::{self, EthernetFrame, EthernetRepr, ethertype},
    ip::{Checksum, IPV4_HEADER, IPV6_HEADER, Ipv6Repr, protocol},
    ndp::{NdpRepr, multicast_mac, solicited_node},
};

/// Stands in every marked frame, and must never be seen on the underlay.
pub const CANARY: &[u8; 16] = b"WOVE-CANARY-TEXT";

/// Bytes of the shortest marked frame.
pub const SHORTEST: usize = ethernet::HEADER + IPV6_HEADER + UDP + CANARY.len() + 8;

const UDP: usize = 8;

/// A container: one MAC address with an IPv4 and an IPv6 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Container {
    pub mac: MacAddr,
    pub ipv4: Ipv4Addr,
    pub ipv6: Ipv6Addr,
}

impl Container {
    /// The container with a number.
    pub fn new(number: u16) -> Self {
        let [high, low] = number.to_be_bytes();
        Self {
            mac: MacAddr([2, 0, 0, 0, high, low]),
            ipv4: Ipv4Addr::new(10, 32, high, low),
            ipv6: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number.saturating_add(1)),
        }
    }
}

/// UDP over IPv4 of `len` bytes in all, with the mark `id`.
pub fn udp_v4(from: &Container, to: &Container, id: u64, len: usize) -> Vec<u8> {
    let mut packet = vec![0; IPV4_HEADER];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&length(len - ethernet::HEADER).to_be_bytes());
    (packet[8], packet[9]) = (64, protocol::UDP);
    packet[12..16].copy_from_slice(&from.ipv4.octets());
    packet[16..20].copy_from_slice(&to.ipv4.octets());
    let checksum = Checksum::new().bytes(&packet).finish();
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    let mut frame = header(from.mac, to.mac, ethertype::IPV4);
    frame.extend_from_slice(&packet);
    marked(frame, id, len)
}

/// UDP over IPv6 of `len` bytes in all, with the mark `id`.
pub fn udp_v6(from: &Container, to: &Container, id: u64, len: usize) -> Vec<u8> {
    let packet = Ipv6Repr {
        source: from.ipv6,
        destination: to.ipv6,
        next_header: protocol::UDP,
        hop_limit: 64,
        payload_len: length(len - ethernet::HEADER - IPV6_HEADER),
    };
    let mut frame = header(from.mac, to.mac, ethertype::IPV6);
    frame.extend_from_slice(&packet.emit());
    marked(frame, id, len)
}

/// UDP over IPv4 to a group: everybody, or a multicast address.
pub fn group(from: &Container, to: MacAddr, id: u64, len: usize) -> Vec<u8> {
    let ipv4 = Ipv4Addr::new(239, 1, 2, 3);
    let everybody = Container {
        mac: to,
        ipv4,
        ipv6: Ipv6Addr::UNSPECIFIED,
    };
    udp_v4(from, &everybody, id, len)
}

/// "Who has the IPv4 address of `about`?"
pub fn arp_request(from: &Container, about: &Container) -> Vec<u8> {
    let request = ArpRepr {
        operation: Operation::Request,
        sender_mac: from.mac,
        sender_ip: from.ipv4,
        target_mac: MacAddr::default(),
        target_ip: about.ipv4,
    };
    let mut frame = header(from.mac, MacAddr::BROADCAST, ethertype::ARP);
    frame.extend_from_slice(&request.emit());
    frame
}

/// "Who has the IPv6 address of `about`?"
pub fn solicitation(from: &Container, about: &Container) -> Vec<u8> {
    let group = solicited_node(about.ipv6);
    let mut message = Vec::new();
    let solicitation = NdpRepr::Solicitation {
        target: about.ipv6,
        source_link: Some(from.mac),
    };
    solicitation.emit(from.ipv6, group, &mut message);
    let packet = Ipv6Repr {
        source: from.ipv6,
        destination: group,
        next_header: protocol::ICMPV6,
        hop_limit: 255,
        payload_len: length(message.len()),
    };
    let mut frame = header(from.mac, multicast_mac(group), ethertype::IPV6);
    frame.extend_from_slice(&packet.emit());
    frame.extend_from_slice(&message);
    frame
}

/// The mark of a frame, if it has one.
pub fn mark(frame: &[u8]) -> Option<u64> {
    let payload = EthernetFrame::new_checked(frame).ok()?;
    let ip = match payload.ethertype() {
        ethertype::IPV4 => IPV4_HEADER,
        ethertype::IPV6 => IPV6_HEADER,
        _ => return None,
    };
    let (canary, id) = frame
        .get(ethernet::HEADER + ip + UDP..)?
        .split_at_checked(CANARY.len())?;
    let id: [u8; 8] = id.get(..8)?.try_into().ok()?;
    (canary == CANARY).then(|| u64::from_be_bytes(id))
}

/// Whether the canary is anywhere in these bytes.
pub fn has_canary(bytes: &[u8]) -> bool {
    bytes.windows(CANARY.len()).any(|window| window == CANARY)
}

fn header(source: MacAddr, destination: MacAddr, ethertype: u16) -> Vec<u8> {
    EthernetRepr {
        destination,
        source,
        ethertype,
    }
    .emit()
    .to_vec()
}

fn marked(mut frame: Vec<u8>, id: u64, len: usize) -> Vec<u8> {
    assert!(len >= SHORTEST, "{len} bytes have no room for a mark");
    let udp = length(len - frame.len());
    frame.extend_from_slice(&[0x30, 0x39, 0x30, 0x39]);
    frame.extend_from_slice(&udp.to_be_bytes());
    frame.extend_from_slice(&[0, 0]);
    frame.extend_from_slice(CANARY);
    frame.extend_from_slice(&id.to_be_bytes());
    // A pattern of the id, so that a piece of another frame is noticed.
    let fill = id.to_le_bytes()[0];
    frame.resize(len, fill);
    frame
}

fn length(bytes: usize) -> u16 {
    u16::try_from(bytes).unwrap_or(u16::MAX)
}
