//! Neighbour resolution at the edge (design D8): answers ARP and neighbour
//! solicitations that the mesh knows the answer to, and reads from a frame who
//! its sender is.
//!
//! Frames in, frames out. Where stations are known from is not its concern;
//! tagged frames belong to networks whose addresses gossip does not tell
//! apart, so they are neither answered nor read for addresses.

use std::net::{IpAddr, Ipv6Addr};

use proto::{
    MacAddr,
    arp::{ArpPacket, ArpRepr, Operation},
    ethernet::{EthernetFrame, EthernetRepr, ethertype},
    ip::{Ipv6Packet, Ipv6Repr, protocol},
    ndp::{self, Advertisement, NdpRepr},
};

/// Who sent a frame, as far as the frame tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// The source MAC address: an individual one, not zero.
    pub mac: MacAddr,
    /// IP addresses that the sender uses or is about to use.
    pub ips: [Option<IpAddr>; 2],
}

impl Sighting {
    /// The addresses that are there.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> {
        self.ips.into_iter().flatten()
    }
}

/// Answers a question of a local container in place of the station asked for.
///
/// If `frame` asks a group (not one station, which then answers for itself and
/// proves it lives) for an address that `lookup` knows, the whole reply is in
/// `out` afterwards and the result is true. Probes for duplicates and
/// announcements are never answered, nor is anybody told about itself.
pub fn answer(frame: &[u8], lookup: impl Fn(IpAddr) -> Option<MacAddr>, out: &mut Vec<u8>) -> bool {
    let Ok(frame) = EthernetFrame::new_checked(frame) else {
        return false;
    };
    if !frame.destination().is_multicast() || !is_station(frame.source()) {
        return false;
    }
    let known = |ip| lookup(ip).filter(|&mac| is_station(mac) && mac != frame.source());
    let answered = match frame.ethertype() {
        ethertype::ARP => answer_arp(&frame, known, out),
        ethertype::IPV6 => answer_solicitation(&frame, known, out),
        _ => None,
    };
    answered.is_some()
}

/// Reads from a frame who its sender is; `None` if it has no usable source.
pub fn learn(frame: &[u8]) -> Option<Sighting> {
    let frame = EthernetFrame::new_checked(frame).ok()?;
    let mac = frame.source();
    if !is_station(mac) {
        return None;
    }
    let ips = match frame.ethertype() {
        ethertype::ARP => [arp_sender(&frame), None],
        ethertype::IPV6 => ndp_sender(&frame).unwrap_or_default(),
        _ => [None, None],
    };
    Some(Sighting { mac, ips })
}

fn answer_arp(
    frame: &EthernetFrame<&[u8]>,
    known: impl Fn(IpAddr) -> Option<MacAddr>,
    out: &mut Vec<u8>,
) -> Option<()> {
    let request = ArpRepr::parse(&ArpPacket::new_checked(frame.payload()).ok()?).ok()?;
    let asks = request.operation == Operation::Request
        && !request.is_probe()
        && !request.is_gratuitous()
        && request.sender_mac == frame.source();
    if !asks {
        return None;
    }
    let mac = known(IpAddr::V4(request.target_ip))?;
    start_reply(frame, mac, out);
    out.extend_from_slice(&request.reply(mac).emit());
    Some(())
}

fn answer_solicitation(
    frame: &EthernetFrame<&[u8]>,
    known: impl Fn(IpAddr) -> Option<MacAddr>,
    out: &mut Vec<u8>,
) -> Option<()> {
    let packet = ndp_packet(frame)?;
    let NdpRepr::Solicitation {
        target,
        source_link,
    } = NdpRepr::parse(&packet).ok()?
    else {
        return None;
    };
    let asker = packet.source();
    let asks = !asker.is_unspecified()
        && !asker.is_multicast()
        && asker != target
        && source_link.is_none_or(|mac| mac == frame.source());
    if !asks {
        return None;
    }
    let mac = known(IpAddr::V6(target))?;
    let reply = NdpRepr::Advertisement(Advertisement {
        // Whether the station routes is not known here, and claiming it would
        // make the asker take it for a router.
        router: false,
        solicited: true,
        overrides: true,
        target,
        target_link: Some(mac),
    });
    let header = Ipv6Repr {
        source: target,
        destination: asker,
        next_header: protocol::ICMPV6,
        hop_limit: ndp::HOP_LIMIT,
        payload_len: u16::try_from(reply.buffer_len()).expect("an advertisement has 32 bytes"),
    };
    start_reply(frame, mac, out);
    out.extend_from_slice(&header.emit());
    reply.emit(target, asker, out);
    Some(())
}

/// Begins the answer to the sender of `frame` with its Ethernet header.
fn start_reply(frame: &EthernetFrame<&[u8]>, source: MacAddr, out: &mut Vec<u8>) {
    let header = EthernetRepr {
        destination: frame.source(),
        source,
        ethertype: frame.ethertype(),
    };
    out.clear();
    out.extend_from_slice(&header.emit());
}

/// The sender's address in an ARP packet, unless it speaks for another MAC.
fn arp_sender(frame: &EthernetFrame<&[u8]>) -> Option<IpAddr> {
    let arp = ArpRepr::parse(&ArpPacket::new_checked(frame.payload()).ok()?).ok()?;
    let ip = arp.sender_ip;
    let usable =
        !(ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() || ip.is_loopback());
    (usable && arp.sender_mac == frame.source()).then_some(IpAddr::V4(ip))
}

/// The sender's addresses in a message of neighbour discovery, unless it
/// speaks for another MAC.
fn ndp_sender(frame: &EthernetFrame<&[u8]>) -> Option<[Option<IpAddr>; 2]> {
    let packet = ndp_packet(frame)?;
    let (link, target) = match NdpRepr::parse(&packet).ok()? {
        // Somebody who asks without an address wants the target for itself.
        NdpRepr::Solicitation {
            target,
            source_link,
        } => (
            source_link,
            packet.source().is_unspecified().then_some(target),
        ),
        NdpRepr::Advertisement(a) => (a.target_link, Some(a.target)),
    };
    if link.is_some_and(|mac| mac != frame.source()) {
        return None;
    }
    let target = target.and_then(usable_v6);
    let source = usable_v6(packet.source()).filter(|&ip| Some(ip) != target);
    Some([target, source])
}

/// The IPv6 packet of a frame if it can be one of neighbour discovery: most
/// are not, and need no more than a look at one byte.
fn ndp_packet<'a>(frame: &'a EthernetFrame<&[u8]>) -> Option<Ipv6Packet<&'a [u8]>> {
    let packet = Ipv6Packet::new_checked(frame.payload()).ok()?;
    (packet.next_header() == protocol::ICMPV6).then_some(packet)
}

fn usable_v6(ip: Ipv6Addr) -> Option<IpAddr> {
    let usable = !(ip.is_unspecified() || ip.is_multicast() || ip.is_loopback());
    usable.then_some(IpAddr::V6(ip))
}

fn is_station(mac: MacAddr) -> bool {
    !mac.is_multicast() && mac != MacAddr::default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    const ASKER: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
    const ASKER_IP: Ipv4Addr = Ipv4Addr::new(10, 32, 0, 1);
    const OTHER_IP: Ipv4Addr = Ipv4Addr::new(10, 32, 0, 2);
    const ASKER_IP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
    const OTHER_IP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);

    fn lookup(ip: IpAddr) -> Option<MacAddr> {
        [
            (IpAddr::V4(OTHER_IP), OTHER),
            (IpAddr::V6(OTHER_IP6), OTHER),
            (IpAddr::V4(ASKER_IP), ASKER),
            (IpAddr::V6(ASKER_IP6), ASKER),
        ]
        .into_iter()
        .find_map(|(known, mac)| (known == ip).then_some(mac))
    }

    fn answered(frame: &[u8]) -> Option<Vec<u8>> {
        let mut out = b"left over".to_vec();
        answer(frame, lookup, &mut out).then_some(out)
    }

    fn request(sender_ip: Ipv4Addr, target_ip: Ipv4Addr) -> ArpRepr {
        ArpRepr {
            operation: Operation::Request,
            sender_mac: ASKER,
            sender_ip,
            target_mac: MacAddr::default(),
            target_ip,
        }
    }

    fn arp_frame(destination: MacAddr, arp: &ArpRepr) -> Vec<u8> {
        let header = EthernetRepr {
            destination,
            source: ASKER,
            ethertype: ethertype::ARP,
        };
        [&header.emit()[..], &arp.emit(), &[0; 18]].concat()
    }

    fn ndp_frame(destination: MacAddr, from: Ipv6Addr, to: Ipv6Addr, repr: NdpRepr) -> Vec<u8> {
        let header = EthernetRepr {
            destination,
            source: ASKER,
            ethertype: ethertype::IPV6,
        };
        let ip = Ipv6Repr {
            source: from,
            destination: to,
            next_header: protocol::ICMPV6,
            hop_limit: 255,
            payload_len: repr.buffer_len() as u16,
        };
        let mut out = [&header.emit()[..], &ip.emit()].concat();
        repr.emit(from, to, &mut out);
        out
    }

    fn solicitation(from: Ipv6Addr, target: Ipv6Addr, source_link: Option<MacAddr>) -> Vec<u8> {
        let group = ndp::solicited_node(target);
        let repr = NdpRepr::Solicitation {
            target,
            source_link,
        };
        ndp_frame(ndp::multicast_mac(group), from, group, repr)
    }

    fn tagged(frame: &[u8]) -> Vec<u8> {
        [&frame[..12], &[0x81, 0, 0, 7], &frame[12..]].concat()
    }

    #[test]
    fn a_request_gets_a_reply_in_the_name_of_the_station() {
        let reply = answered(&arp_frame(MacAddr::BROADCAST, &request(ASKER_IP, OTHER_IP))).unwrap();
        let frame = EthernetFrame::new_checked(&reply[..]).unwrap();
        assert_eq!((frame.destination(), frame.source()), (ASKER, OTHER));
        let arp = ArpRepr::parse(&ArpPacket::new_checked(frame.payload()).unwrap()).unwrap();
        assert_eq!(arp, request(ASKER_IP, OTHER_IP).reply(OTHER));
        assert_eq!(arp.operation, Operation::Reply);
    }

    #[test]
    fn a_solicitation_gets_a_sound_advertisement() {
        for link in [Some(ASKER), None] {
            let reply = answered(&solicitation(ASKER_IP6, OTHER_IP6, link)).unwrap();
            let frame = EthernetFrame::new_checked(&reply[..]).unwrap();
            assert_eq!((frame.destination(), frame.source()), (ASKER, OTHER));
            let packet = Ipv6Packet::new_checked(frame.payload()).unwrap();
            assert_eq!(
                (packet.source(), packet.destination()),
                (OTHER_IP6, ASKER_IP6)
            );
            let NdpRepr::Advertisement(a) = NdpRepr::parse(&packet).unwrap() else {
                panic!("an advertisement answers");
            };
            assert!(a.solicited && a.overrides && !a.router);
            assert_eq!((a.target, a.target_link), (OTHER_IP6, Some(OTHER)));
        }
    }

    #[test]
    fn what_is_not_a_question_to_all_is_left_alone() {
        let asks = arp_frame(MacAddr::BROADCAST, &request(ASKER_IP, OTHER_IP));
        assert!(answered(&asks).is_some());
        let unknown = Ipv4Addr::new(10, 32, 0, 99);
        let stranger = ArpRepr {
            sender_mac: OTHER,
            ..request(ASKER_IP, OTHER_IP)
        };
        let reply = ArpRepr {
            operation: Operation::Reply,
            ..request(ASKER_IP, OTHER_IP)
        };
        for (what, frame) in [
            (
                "probe",
                arp_frame(
                    MacAddr::BROADCAST,
                    &request(Ipv4Addr::UNSPECIFIED, OTHER_IP),
                ),
            ),
            (
                "gratuitous",
                arp_frame(MacAddr::BROADCAST, &request(OTHER_IP, OTHER_IP)),
            ),
            (
                "own address",
                arp_frame(MacAddr::BROADCAST, &request(unknown, ASKER_IP)),
            ),
            (
                "unknown",
                arp_frame(MacAddr::BROADCAST, &request(ASKER_IP, unknown)),
            ),
            (
                "to one station",
                arp_frame(OTHER, &request(ASKER_IP, OTHER_IP)),
            ),
            ("for another MAC", arp_frame(MacAddr::BROADCAST, &stranger)),
            ("reply", arp_frame(MacAddr::BROADCAST, &reply)),
            ("tagged", tagged(&asks)),
            ("short", asks[..41].to_vec()),
            ("DAD", solicitation(Ipv6Addr::UNSPECIFIED, OTHER_IP6, None)),
            (
                "own v6 address",
                solicitation(OTHER_IP6, ASKER_IP6, Some(ASKER)),
            ),
            (
                "asker is the target",
                solicitation(OTHER_IP6, OTHER_IP6, Some(ASKER)),
            ),
            (
                "for another MAC, v6",
                solicitation(ASKER_IP6, OTHER_IP6, Some(OTHER)),
            ),
            (
                "tagged v6",
                tagged(&solicitation(ASKER_IP6, OTHER_IP6, Some(ASKER))),
            ),
        ] {
            assert_eq!(answered(&frame), None, "{what}");
        }
    }

    #[test]
    fn frames_tell_about_their_senders() {
        let nobody = Ipv6Addr::UNSPECIFIED;
        let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9);
        let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        let advertised = |target_link| {
            let repr = NdpRepr::Advertisement(Advertisement {
                router: false,
                solicited: false,
                overrides: true,
                target: ASKER_IP6,
                target_link,
            });
            ndp_frame(ndp::multicast_mac(all_nodes), link_local, all_nodes, repr)
        };
        let asks = arp_frame(MacAddr::BROADCAST, &request(ASKER_IP, OTHER_IP));
        let probe = arp_frame(
            MacAddr::BROADCAST,
            &request(Ipv4Addr::UNSPECIFIED, OTHER_IP),
        );
        let proxy = ArpRepr {
            sender_mac: OTHER,
            ..request(ASKER_IP, OTHER_IP)
        };
        let (v4, v6) = (IpAddr::V4(ASKER_IP), IpAddr::V6(ASKER_IP6));
        for (frame, ips) in [
            (asks.clone(), vec![v4]),
            (probe, vec![]),
            (tagged(&asks), vec![]),
            (arp_frame(OTHER, &proxy), vec![]),
            (
                arp_frame(OTHER, &request(ASKER_IP, OTHER_IP).reply(ASKER)),
                vec![OTHER_IP.into()],
            ),
            (solicitation(ASKER_IP6, OTHER_IP6, Some(ASKER)), vec![v6]),
            (solicitation(nobody, ASKER_IP6, None), vec![v6]),
            (advertised(Some(ASKER)), vec![v6, link_local.into()]),
            (advertised(Some(OTHER)), vec![]),
            (vec![2; 60], vec![]),
        ] {
            let sighting = learn(&frame).unwrap();
            assert_eq!(sighting.mac.0, frame[6..12]);
            assert_eq!(sighting.ips().collect::<Vec<_>>(), ips, "{frame:?}");
        }
        assert_eq!(learn(&[0xff; 60]), None, "a group sends nothing");
        assert_eq!(learn(&[0; 60]), None, "nor does nobody");
        assert_eq!(learn(&asks[..13]), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            kind in prop::sample::select(vec![[8u8, 6], [0x86, 0xdd], [0x81, 0]]),
            bytes in prop::collection::vec(any::<u8>(), 0..120),
        ) {
            let frame = [&[0xff; 6][..], &ASKER.0, &kind, &bytes].concat();
            let mut out = Vec::new();
            answer(&frame, |_| Some(OTHER), &mut out);
            prop_assert_eq!(learn(&frame).unwrap().mac, ASKER);
        }
    }
}
