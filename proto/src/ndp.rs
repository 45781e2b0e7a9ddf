//! Neighbour solicitation and advertisement (RFC 4861, sections 4.3 and 4.4),
//! with the checks that section 7.1 asks of a receiver.
//!
//! Bytes and values only: who answers what is decided elsewhere.

use std::net::Ipv6Addr;

use crate::{
    DecodeError, MacAddr,
    ip::{Checksum, Ipv6Packet, protocol},
};

/// Every message of neighbour discovery is sent with this hop limit, which
/// proves that no router forwarded it.
pub const HOP_LIMIT: u8 = 255;

/// Bytes before the options.
const FIXED: usize = 24;
/// Bytes of a link-layer address option for Ethernet.
const LINK_OPTION: usize = 8;

mod field {
    use std::ops::Range;
    pub(super) const TYPE: usize = 0;
    pub(super) const CODE: usize = 1;
    pub(super) const CHECKSUM: Range<usize> = 2..4;
    pub(super) const FLAGS: usize = 4;
    pub(super) const TARGET: Range<usize> = 8..24;
}

mod kind {
    pub(super) const SOLICITATION: u8 = 135;
    pub(super) const ADVERTISEMENT: u8 = 136;
}

mod flag {
    pub(super) const ROUTER: u8 = 0x80;
    pub(super) const SOLICITED: u8 = 0x40;
    pub(super) const OVERRIDE: u8 = 0x20;
}

mod option {
    pub(super) const SOURCE_LINK: u8 = 1;
    pub(super) const TARGET_LINK: u8 = 2;
}

/// A message of neighbour discovery as a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NdpRepr {
    /// "Who has the target address?"
    Solicitation {
        /// The address asked about.
        target: Ipv6Addr,
        /// The asker's link-layer address; absent while it has no address.
        source_link: Option<MacAddr>,
    },
    /// "The target address is here."
    Advertisement(Advertisement),
}

/// The content of a neighbour advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advertisement {
    /// The sender is a router.
    pub router: bool,
    /// It answers a solicitation; otherwise it is an announcement.
    pub solicited: bool,
    /// It replaces what the receiver may have cached.
    pub overrides: bool,
    /// The address that is advertised.
    pub target: Ipv6Addr,
    /// The link-layer address of the target.
    pub target_link: Option<MacAddr>,
}

impl NdpRepr {
    /// Reads and checks the message in a packet. Packets with extension
    /// headers are refused: RFC 6980 forbids fragments here, and nobody sends
    /// the others.
    ///
    /// # Errors
    /// [`DecodeError::Unknown`] if it is another kind of packet,
    /// [`DecodeError::Malformed`] if a check of RFC 4861, section 7.1, fails.
    pub fn parse<T: AsRef<[u8]>>(packet: &Ipv6Packet<T>) -> Result<Self, DecodeError> {
        let message = packet.payload();
        if packet.next_header() != protocol::ICMPV6 {
            return Err(DecodeError::Unknown);
        }
        if message.len() < FIXED {
            return Err(DecodeError::Truncated);
        }
        if !matches!(
            message[field::TYPE],
            kind::SOLICITATION | kind::ADVERTISEMENT
        ) {
            return Err(DecodeError::Unknown);
        }
        let target = target(message);
        let sound = packet.hop_limit() == HOP_LIMIT
            && message[field::CODE] == 0
            && !target.is_multicast()
            && checksum(packet.source(), packet.destination(), message).is_valid();
        if !sound {
            return Err(DecodeError::Malformed);
        }
        if message[field::TYPE] == kind::SOLICITATION {
            Self::parse_solicitation(packet, message, target)
        } else {
            Self::parse_advertisement(packet, message, target)
        }
    }

    fn parse_solicitation<T: AsRef<[u8]>>(
        packet: &Ipv6Packet<T>,
        message: &[u8],
        target: Ipv6Addr,
    ) -> Result<Self, DecodeError> {
        let source_link = link_option(option::SOURCE_LINK, &message[FIXED..])?;
        let from_nobody = packet.source().is_unspecified();
        if from_nobody && (source_link.is_some() || !is_solicited_node(packet.destination())) {
            return Err(DecodeError::Malformed);
        }
        Ok(Self::Solicitation {
            target,
            source_link,
        })
    }

    fn parse_advertisement<T: AsRef<[u8]>>(
        packet: &Ipv6Packet<T>,
        message: &[u8],
        target: Ipv6Addr,
    ) -> Result<Self, DecodeError> {
        let flags = message[field::FLAGS];
        let solicited = flags & flag::SOLICITED != 0;
        if solicited && packet.destination().is_multicast() {
            return Err(DecodeError::Malformed);
        }
        Ok(Self::Advertisement(Advertisement {
            router: flags & flag::ROUTER != 0,
            solicited,
            overrides: flags & flag::OVERRIDE != 0,
            target,
            target_link: link_option(option::TARGET_LINK, &message[FIXED..])?,
        }))
    }

    /// Bytes of the ICMPv6 message.
    pub fn buffer_len(&self) -> usize {
        let (Self::Solicitation {
            source_link: link, ..
        }
        | Self::Advertisement(Advertisement {
            target_link: link, ..
        })) = self;
        if link.is_some() {
            FIXED + LINK_OPTION
        } else {
            FIXED
        }
    }

    /// Appends the ICMPv6 message to `out`; its checksum covers the addresses
    /// of the IPv6 header that goes before.
    pub fn emit(&self, source: Ipv6Addr, destination: Ipv6Addr, out: &mut Vec<u8>) {
        let (kind, flags, target, option, link) = match *self {
            Self::Solicitation {
                target,
                source_link,
            } => (
                kind::SOLICITATION,
                0,
                target,
                option::SOURCE_LINK,
                source_link,
            ),
            Self::Advertisement(a) => (
                kind::ADVERTISEMENT,
                a.flags(),
                a.target,
                option::TARGET_LINK,
                a.target_link,
            ),
        };
        let start = out.len();
        out.extend_from_slice(&[kind, 0, 0, 0, flags, 0, 0, 0]);
        out.extend_from_slice(&target.octets());
        if let Some(mac) = link {
            out.extend_from_slice(&[option, 1]);
            out.extend_from_slice(&mac.0);
        }
        let message = &mut out[start..];
        let sum = checksum(source, destination, message).finish();
        message[field::CHECKSUM].copy_from_slice(&sum.to_be_bytes());
    }
}

impl Advertisement {
    fn flags(&self) -> u8 {
        let bit = |set: bool, mask: u8| if set { mask } else { 0 };
        bit(self.router, flag::ROUTER)
            | bit(self.solicited, flag::SOLICITED)
            | bit(self.overrides, flag::OVERRIDE)
    }
}

/// The group that everybody with `address` listens to (RFC 4291, section 2.7.1).
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    let low = u16::from_be_bytes([b, c]);
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), low)
}

/// The MAC group of an IPv6 group (RFC 2464, section 7).
pub fn multicast_mac(group: Ipv6Addr) -> MacAddr {
    let [.., a, b, c, d] = group.octets();
    MacAddr([0x33, 0x33, a, b, c, d])
}

fn is_solicited_node(address: Ipv6Addr) -> bool {
    solicited_node(address) == address
}

fn target(message: &[u8]) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&message[field::TARGET]);
    octets.into()
}

fn checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> Checksum {
    // An IPv6 payload has at most 65,535 bytes, so the length is exact.
    let len = u32::try_from(message.len()).unwrap_or(u32::MAX);
    Checksum::pseudo_ipv6(source, destination, protocol::ICMPV6, len).bytes(message)
}

/// The link-layer address in the first option of the wanted kind.
fn link_option(wanted: u8, mut options: &[u8]) -> Result<Option<MacAddr>, DecodeError> {
    let mut found = None;
    while let [kind, units, ..] = *options {
        let len = usize::from(units) * 8;
        if len == 0 {
            return Err(DecodeError::Malformed);
        }
        let (this, rest) = options
            .split_at_checked(len)
            .ok_or(DecodeError::Truncated)?;
        if let (true, None, [_, _, mac @ ..]) = (kind == wanted, found, this)
            && let Ok(mac) = <[u8; 6]>::try_from(mac)
        {
            found = Some(MacAddr(mac));
        }
        options = rest;
    }
    if options.is_empty() {
        Ok(found)
    } else {
        Err(DecodeError::Truncated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ip::Ipv6Repr;
    use proptest::prelude::*;

    const ASKER: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
    const TARGET: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0xab, 0xcdef, 0x0102);

    fn packet(source: Ipv6Addr, destination: Ipv6Addr, repr: NdpRepr) -> Vec<u8> {
        let header = Ipv6Repr {
            source,
            destination,
            next_header: protocol::ICMPV6,
            hop_limit: HOP_LIMIT,
            payload_len: repr.buffer_len() as u16,
        };
        let mut out = header.emit().to_vec();
        repr.emit(source, destination, &mut out);
        out
    }

    fn parse(bytes: &[u8]) -> Result<NdpRepr, DecodeError> {
        NdpRepr::parse(&Ipv6Packet::new_checked(bytes)?)
    }

    fn solicitation(source_link: Option<MacAddr>) -> NdpRepr {
        NdpRepr::Solicitation {
            target: TARGET,
            source_link,
        }
    }

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

    #[test]
    fn groups_follow_the_rfcs() {
        assert_eq!(
            solicited_node(TARGET),
            "ff02::1:ffef:102".parse::<Ipv6Addr>().unwrap()
        );
        assert_eq!(
            multicast_mac(solicited_node(TARGET)).to_string(),
            "33:33:ff:ef:01:02"
        );
    }

    #[test]
    fn duplicate_address_detection_has_its_own_rules() {
        let group = solicited_node(TARGET);
        let nobody = Ipv6Addr::UNSPECIFIED;
        assert!(parse(&packet(nobody, group, solicitation(None))).is_ok());
        for (to, link) in [(group, Some(MAC)), (TARGET, None)] {
            let refused = parse(&packet(nobody, to, solicitation(link)));
            assert_eq!(refused, Err(DecodeError::Malformed));
        }
    }

    #[test]
    fn a_solicited_advertisement_is_never_for_a_group() {
        let said = |solicited, to| {
            let repr = NdpRepr::Advertisement(Advertisement {
                router: false,
                solicited,
                overrides: true,
                target: TARGET,
                target_link: Some(MAC),
            });
            parse(&packet(TARGET, to, repr)) == Ok(repr)
        };
        let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        assert!(said(true, ASKER));
        assert!(said(false, all_nodes));
        assert!(!said(true, all_nodes));
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let good = packet(ASKER, solicited_node(TARGET), solicitation(Some(MAC)));
        assert_eq!(parse(&good), Ok(solicitation(Some(MAC))));
        for bit in (8 * 8..good.len() * 8).chain(7 * 8..8 * 8) {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn options_of_no_length_or_beyond_the_end_are_refused() {
        assert_eq!(
            link_option(1, &[1, 0, 2, 0, 0, 0, 0, 9]),
            Err(DecodeError::Malformed)
        );
        assert_eq!(
            link_option(1, &[1, 2, 2, 0, 0, 0, 0, 9]),
            Err(DecodeError::Truncated)
        );
        assert_eq!(link_option(1, &[14]), Err(DecodeError::Truncated));
        let nonce_first = [14, 1, 1, 2, 3, 4, 5, 6, 1, 1, 2, 0, 0, 0, 0, 9];
        assert_eq!(link_option(1, &nonce_first), Ok(Some(MAC)));
    }

    proptest! {
        #[test]
        fn messages_survive_a_round_trip(
            source in 1u128.., target: u128, link: Option<[u8; 6]>, flags: [bool; 3], ask: bool,
        ) {
            let target = Ipv6Addr::from(target & !(0xff << 120));
            let link = link.map(MacAddr);
            let repr = if ask {
                NdpRepr::Solicitation { target, source_link: link }
            } else {
                let [router, solicited, overrides] = flags;
                NdpRepr::Advertisement(Advertisement { router, solicited, overrides, target, target_link: link })
            };
            let bytes = packet(source.into(), ASKER, repr);
            prop_assert_eq!(bytes.len(), 40 + repr.buffer_len());
            prop_assert_eq!(parse(&bytes), Ok(repr));
        }

        #[test]
        fn no_bytes_make_it_panic(kind in 134u8..138, body in prop::collection::vec(any::<u8>(), 0..80)) {
            let mut message = vec![kind, 0, 0, 0];
            message.extend_from_slice(&body);
            let sum = checksum(ASKER, ASKER, &message).finish().to_be_bytes();
            message[2..4].copy_from_slice(&sum);
            let header = Ipv6Repr {
                source: ASKER,
                destination: ASKER,
                next_header: protocol::ICMPV6,
                hop_limit: HOP_LIMIT,
                payload_len: message.len() as u16,
            };
            let _ = parse(&[&header.emit()[..], &message].concat());
        }
    }
}
