//! Telling everybody on the overlay where an address is now.
//!
//! A container that comes back under another MAC address would else be unheard
//! until the others' neighbour entries expire. IPv4: an ARP announcement
//! (RFC 5227, section 2.3). IPv6: an unsolicited neighbour advertisement with
//! the override flag (RFC 4861, section 7.2.6). Only frames are made here, and
//! sent from one interface of the calling thread's namespace.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use ipnet::IpNet;
use proto::{MacAddr, ethernet::ethertype};

use super::link::Link;
use crate::shell::sys::packet::PacketSocket;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);
const ICMPV6: u8 = 58;

/// Announces the addresses as `link`'s.
pub(super) fn announce(link: &Link, addresses: &[IpNet]) -> Result<()> {
    if addresses.is_empty() {
        return Ok(());
    }
    let socket =
        PacketSocket::open(link.index).context("no packet socket: wove needs CAP_NET_RAW")?;
    for net in addresses {
        let frame = match net.addr() {
            IpAddr::V4(ip) => arp_announcement(link.mac, ip),
            IpAddr::V6(ip) => unsolicited_advertisement(link.mac, ip),
        };
        socket
            .send(&frame)
            .with_context(|| format!("'{}' cannot send", link.name))?;
    }
    Ok(())
}

fn arp_announcement(mac: MacAddr, ip: Ipv4Addr) -> Vec<u8> {
    let mut frame = header(MacAddr::BROADCAST, mac, ethertype::ARP);
    // Hardware type Ethernet, protocol IPv4, address lengths, operation request.
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac.0);
    frame.extend(ip.octets());
    frame.extend([0; 6]);
    frame.extend(ip.octets());
    frame
}

fn unsolicited_advertisement(mac: MacAddr, ip: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(ip.octets());
    message.extend([2, 1]);
    message.extend(mac.0);
    let sum = checksum(ip, ALL_NODES, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());

    let mut frame = header(ALL_NODES_MAC, mac, ethertype::IPV6);
    frame.extend([0x60, 0, 0, 0, 0, message.len() as u8, ICMPV6, 255]);
    frame.extend(ip.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(message);
    frame
}

fn header(destination: MacAddr, source: MacAddr, ethertype: u16) -> Vec<u8> {
    [&destination.0[..], &source.0, &ethertype.to_be_bytes()].concat()
}

/// The Internet checksum over pseudo-header and message (RFC 8200, section 8.1).
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let tail = [0, 0, 0, message.len() as u8, 0, 0, 0, ICMPV6];
    let covered = [&source.octets()[..], &destination.octets(), &tail, message].concat();
    let sum: u32 = covered
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&b| u32::from(b)))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 7]);

    #[test]
    fn an_arp_announcement_asks_for_the_own_address() {
        let frame = arp_announcement(MAC, Ipv4Addr::new(10, 32, 0, 1));
        assert_eq!(frame.len(), 42);
        assert_eq!(
            frame[..14],
            [255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 7, 8, 6]
        );
        assert_eq!(frame[28..32], frame[38..42]);
    }

    #[test]
    fn an_advertisement_has_a_checksum_that_holds() {
        let ip: Ipv6Addr = "fd00::1".parse().unwrap();
        let frame = unsolicited_advertisement(MAC, ip);
        assert_eq!(frame.len(), 14 + 40 + 32);
        assert_eq!(checksum(ip, ALL_NODES, &frame[54..]), 0);
        assert_eq!(frame[80..], MAC.0);
    }
}
