//! IPv4 and IPv6 headers, the part of TCP that carries the MSS, and the
//! Internet checksum (RFC 791, 8200, 9293, 1071).
//!
//! Only what wove reads or rewrites inside a container's frame. Knows no
//! addresses of a mesh, no policy, and no frame around the packet.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::DecodeError;

mod checksum;

pub use checksum::{Checksum, updated_checksum};

/// Protocol numbers (IANA) that wove looks at.
pub mod protocol {
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
}

/// Bytes of an IPv4 header without options.
pub const IPV4_HEADER: usize = 20;
/// Bytes of an IPv6 header without extension headers.
pub const IPV6_HEADER: usize = 40;
/// Bytes of a TCP header without options.
pub const TCP_HEADER: usize = 20;
/// Bytes of a UDP header.
pub const UDP_HEADER: usize = 8;

/// How many IPv6 extension headers are walked before the packet is given up.
pub const MAX_EXTENSION_HEADERS: usize = 8;

mod field {
    pub(super) mod ipv4 {
        use std::ops::Range;
        pub(in super::super) const LENGTH: Range<usize> = 2..4;
        pub(in super::super) const FRAGMENT: Range<usize> = 6..8;
        pub(in super::super) const PROTOCOL: usize = 9;
        pub(in super::super) const SOURCE: Range<usize> = 12..16;
        pub(in super::super) const DESTINATION: Range<usize> = 16..20;
    }
    pub(super) mod ipv6 {
        use std::ops::Range;
        pub(in super::super) const LENGTH: Range<usize> = 4..6;
        pub(in super::super) const NEXT_HEADER: usize = 6;
        pub(in super::super) const HOP_LIMIT: usize = 7;
        pub(in super::super) const SOURCE: Range<usize> = 8..24;
        pub(in super::super) const DESTINATION: Range<usize> = 24..40;
    }
    pub(super) mod tcp {
        pub(in super::super) const DATA_OFFSET: usize = 12;
        pub(in super::super) const FLAGS: usize = 13;
    }
    pub(super) mod extension {
        pub(in super::super) const HOP_BY_HOP: u8 = 0;
        pub(in super::super) const ROUTING: u8 = 43;
        pub(in super::super) const FRAGMENT: u8 = 44;
        pub(in super::super) const AUTHENTICATION: u8 = 51;
        pub(in super::super) const DESTINATION: u8 = 60;
        pub(in super::super) const MOBILITY: u8 = 135;
        pub(in super::super) const HIP: u8 = 139;
        pub(in super::super) const SHIM6: u8 = 140;
    }
}

/// The upper-layer part of a packet: where it is and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// The protocol number.
    pub protocol: u8,
    /// Its first byte, counted from the start of the IP header.
    pub offset: usize,
    /// One past its last byte; link-layer padding is outside.
    pub end: usize,
    /// Position in units of 8 bytes if the packet is a fragment; only a packet
    /// at position 0 has the upper-layer header.
    pub fragment_offset: u16,
    /// Whether the packet is a fragment, the first one included.
    pub fragment: bool,
}

/// An IPv4 packet whose header and lengths are known to be good.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4Packet<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> Ipv4Packet<T> {
    /// Checks version and lengths, so that no accessor panics afterwards.
    /// Bytes after the packet (link-layer padding) are allowed.
    pub fn new_checked(bytes: T) -> Result<Self, DecodeError> {
        let b = bytes.as_ref();
        if b.len() < IPV4_HEADER {
            return Err(DecodeError::Truncated);
        }
        if b[0] >> 4 != 4 {
            return Err(DecodeError::Unknown);
        }
        let packet = Self { bytes };
        let (header, total) = (packet.header_len(), packet.total_len());
        if header < IPV4_HEADER || total < header {
            return Err(DecodeError::Malformed);
        }
        if packet.bytes.as_ref().len() < total {
            return Err(DecodeError::Truncated);
        }
        Ok(packet)
    }

    /// Bytes of the header with its options.
    pub fn header_len(&self) -> usize {
        usize::from(self.bytes.as_ref()[0] & 15) * 4
    }

    /// Bytes of the packet.
    pub fn total_len(&self) -> usize {
        usize::from(be16(&self.bytes.as_ref()[field::ipv4::LENGTH]))
    }

    /// The source address.
    pub fn source(&self) -> Ipv4Addr {
        ipv4_at(self.bytes.as_ref(), field::ipv4::SOURCE)
    }

    /// The destination address.
    pub fn destination(&self) -> Ipv4Addr {
        ipv4_at(self.bytes.as_ref(), field::ipv4::DESTINATION)
    }

    /// The upper-layer part.
    pub fn transport(&self) -> Transport {
        let b = self.bytes.as_ref();
        // Offset and the bit for more fragments; the one above forbids any.
        let fragment = be16(&b[field::ipv4::FRAGMENT]) & 0x3fff;
        Transport {
            protocol: b[field::ipv4::PROTOCOL],
            offset: self.header_len(),
            end: self.total_len(),
            fragment_offset: fragment & 0x1fff,
            fragment: fragment != 0,
        }
    }

    /// What follows the header.
    pub fn payload(&self) -> &[u8] {
        &self.bytes.as_ref()[self.header_len()..self.total_len()]
    }
}

/// An IPv6 packet whose fixed header and length are known to be good.
#[derive(Clone, Copy, Debug)]
pub struct Ipv6Packet<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> Ipv6Packet<T> {
    /// Checks version and lengths, so that no accessor panics afterwards.
    /// Bytes after the packet (link-layer padding) are allowed.
    pub fn new_checked(bytes: T) -> Result<Self, DecodeError> {
        let b = bytes.as_ref();
        if b.len() < IPV6_HEADER {
            return Err(DecodeError::Truncated);
        }
        if b[0] >> 4 != 6 {
            return Err(DecodeError::Unknown);
        }
        let packet = Self { bytes };
        if packet.bytes.as_ref().len() < packet.total_len() {
            return Err(DecodeError::Truncated);
        }
        Ok(packet)
    }

    /// Bytes of the packet, the fixed header included.
    pub fn total_len(&self) -> usize {
        IPV6_HEADER + usize::from(be16(&self.bytes.as_ref()[field::ipv6::LENGTH]))
    }

    /// The header that follows the fixed one: an extension or the upper layer.
    pub fn next_header(&self) -> u8 {
        self.bytes.as_ref()[field::ipv6::NEXT_HEADER]
    }

    /// How many routers may still forward the packet.
    pub fn hop_limit(&self) -> u8 {
        self.bytes.as_ref()[field::ipv6::HOP_LIMIT]
    }

    /// The source address.
    pub fn source(&self) -> Ipv6Addr {
        ipv6_at(self.bytes.as_ref(), field::ipv6::SOURCE)
    }

    /// The destination address.
    pub fn destination(&self) -> Ipv6Addr {
        ipv6_at(self.bytes.as_ref(), field::ipv6::DESTINATION)
    }

    /// Walks the extension headers to the upper-layer part (RFC 8200, section 4).
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] if a header leaves the packet,
    /// [`DecodeError::Limit`] after [`MAX_EXTENSION_HEADERS`] of them.
    pub fn transport(&self) -> Result<Transport, DecodeError> {
        let end = self.total_len();
        let bytes = &self.bytes.as_ref()[..end];
        let mut at = Transport {
            protocol: self.next_header(),
            offset: IPV6_HEADER,
            end,
            fragment_offset: 0,
            fragment: false,
        };
        for _ in 0..=MAX_EXTENSION_HEADERS {
            let Some(len) = extension_len(at.protocol, &bytes[at.offset..])? else {
                return Ok(at);
            };
            if at.protocol == field::extension::FRAGMENT {
                at.fragment = true;
                at.fragment_offset = be16(&bytes[at.offset + 2..at.offset + 4]) >> 3;
            }
            at.protocol = bytes[at.offset];
            at.offset += len;
            if at.fragment_offset != 0 {
                // What follows is the middle of something: nothing to walk.
                return Ok(at);
            }
        }
        Err(DecodeError::Limit)
    }

    /// What follows the fixed header.
    pub fn payload(&self) -> &[u8] {
        &self.bytes.as_ref()[IPV6_HEADER..self.total_len()]
    }
}

/// Length of the extension header at the front of `rest`; `None` if `kind` is
/// not an extension header that can be walked over.
fn extension_len(kind: u8, rest: &[u8]) -> Result<Option<usize>, DecodeError> {
    use field::extension::{
        AUTHENTICATION, DESTINATION, FRAGMENT, HIP, HOP_BY_HOP, MOBILITY, ROUTING, SHIM6,
    };
    let units = || {
        rest.get(1)
            .map(|&n| usize::from(n))
            .ok_or(DecodeError::Truncated)
    };
    let len = match kind {
        FRAGMENT => 8,
        AUTHENTICATION => (units()? + 2) * 4,
        HOP_BY_HOP | ROUTING | DESTINATION | MOBILITY | HIP | SHIM6 => (units()? + 1) * 8,
        _ => return Ok(None),
    };
    if rest.len() < len {
        return Err(DecodeError::Truncated);
    }
    Ok(Some(len))
}

/// An IPv6 header without extensions, as a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Repr {
    /// The source address.
    pub source: Ipv6Addr,
    /// The destination address.
    pub destination: Ipv6Addr,
    /// The protocol of the payload.
    pub next_header: u8,
    /// How many routers may forward the packet.
    pub hop_limit: u8,
    /// Bytes of the payload.
    pub payload_len: u16,
}

impl Ipv6Repr {
    /// Reads the fixed header of a packet.
    pub fn parse<T: AsRef<[u8]>>(packet: &Ipv6Packet<T>) -> Self {
        Self {
            source: packet.source(),
            destination: packet.destination(),
            next_header: packet.next_header(),
            hop_limit: packet.hop_limit(),
            payload_len: be16(&packet.bytes.as_ref()[field::ipv6::LENGTH]),
        }
    }

    /// Bytes of the header.
    pub fn buffer_len(&self) -> usize {
        IPV6_HEADER
    }

    /// Writes the header, traffic class and flow label zero.
    pub fn emit(&self) -> [u8; IPV6_HEADER] {
        let mut out = [0; IPV6_HEADER];
        out[0] = 6 << 4;
        out[field::ipv6::LENGTH].copy_from_slice(&self.payload_len.to_be_bytes());
        out[field::ipv6::NEXT_HEADER] = self.next_header;
        out[field::ipv6::HOP_LIMIT] = self.hop_limit;
        out[field::ipv6::SOURCE].copy_from_slice(&self.source.octets());
        out[field::ipv6::DESTINATION].copy_from_slice(&self.destination.octets());
        out
    }
}

/// A TCP segment whose header is known to be there, options included.
#[derive(Clone, Copy, Debug)]
pub struct TcpSegment<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> TcpSegment<T> {
    /// Offset of the checksum in the segment.
    pub const CHECKSUM: usize = 16;

    /// Checks the lengths, so that no accessor panics afterwards.
    pub fn new_checked(bytes: T) -> Result<Self, DecodeError> {
        if bytes.as_ref().len() < TCP_HEADER {
            return Err(DecodeError::Truncated);
        }
        let segment = Self { bytes };
        if segment.header_len() < TCP_HEADER {
            return Err(DecodeError::Malformed);
        }
        if segment.bytes.as_ref().len() < segment.header_len() {
            return Err(DecodeError::Truncated);
        }
        Ok(segment)
    }

    /// Bytes of the header with its options.
    pub fn header_len(&self) -> usize {
        usize::from(self.bytes.as_ref()[field::tcp::DATA_OFFSET] >> 4) * 4
    }

    /// Whether the segment opens a connection (SYN, with or without ACK).
    pub fn is_syn(&self) -> bool {
        self.bytes.as_ref()[field::tcp::FLAGS] & 0x02 != 0
    }

    /// The MSS option (RFC 9293, section 3.7.1): the offset of its value in the
    /// segment, and the value. The first one counts.
    pub fn mss(&self) -> Option<(usize, u16)> {
        let header = &self.bytes.as_ref()[..self.header_len()];
        let mut at = TCP_HEADER;
        while let Some(&kind) = header.get(at) {
            at += match kind {
                0 => return None,
                1 => 1,
                2 if header.get(at + 1) == Some(&4) => {
                    return header.get(at + 2..at + 4).map(|v| (at + 2, be16(v)));
                }
                // A length below 2 would not move on.
                _ => usize::from(*header.get(at + 1)?).max(2),
            };
        }
        None
    }

    /// The checksum as it stands in the header.
    pub fn checksum(&self) -> u16 {
        be16(&self.bytes.as_ref()[Self::CHECKSUM..Self::CHECKSUM + 2])
    }
}

fn be16(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]])
}

fn ipv4_at(bytes: &[u8], range: std::ops::Range<usize>) -> Ipv4Addr {
    let mut octets = [0; 4];
    octets.copy_from_slice(&bytes[range]);
    octets.into()
}

fn ipv6_at(bytes: &[u8], range: std::ops::Range<usize>) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&bytes[range]);
    octets.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
        let header = Ipv6Repr {
            source: Ipv6Addr::LOCALHOST,
            destination: Ipv6Addr::LOCALHOST,
            next_header: next,
            hop_limit: 64,
            payload_len: payload.len() as u16,
        };
        [&header.emit()[..], payload].concat()
    }

    #[test]
    fn extension_headers_are_walked_and_bounded() {
        let tcp = [0xaa; 20];
        let chain = [
            &[0, 0, 0, 0, 0, 0, 0, 0][..],
            &[6, 0, 0, 0, 0, 0, 0, 0],
            &tcp,
        ]
        .concat();
        let packet = ipv6(field::extension::HOP_BY_HOP, &chain);
        let at = Ipv6Packet::new_checked(&packet)
            .unwrap()
            .transport()
            .unwrap();
        assert_eq!((at.protocol, at.offset, at.end), (6, 56, packet.len()));

        let endless = ipv6(0, &[0; 8 * 12]);
        let walked = Ipv6Packet::new_checked(&endless).unwrap().transport();
        assert_eq!(walked, Err(DecodeError::Limit));

        let too_long = ipv6(0, &[6, 9, 0, 0, 0, 0, 0, 0]);
        let walked = Ipv6Packet::new_checked(&too_long).unwrap().transport();
        assert_eq!(walked, Err(DecodeError::Truncated));
    }

    #[test]
    fn a_later_fragment_is_seen_as_one() {
        let packet = ipv6(44, &[6, 0, 0x01, 0x01, 0, 0, 0, 7, 1, 2, 3]);
        let at = Ipv6Packet::new_checked(&packet)
            .unwrap()
            .transport()
            .unwrap();
        assert_eq!((at.protocol, at.fragment_offset), (6, 32));
    }

    #[test]
    fn lengths_that_contradict_are_refused() {
        let mut header = [0u8; 20];
        for (first, total, want) in [
            (0x45, 21, DecodeError::Truncated),
            (0x44, 20, DecodeError::Malformed),
            (0x45, 19, DecodeError::Malformed),
            (0x46, 20, DecodeError::Malformed),
            (0x65, 20, DecodeError::Unknown),
        ] {
            (header[0], header[3]) = (first, total);
            assert_eq!(Ipv4Packet::new_checked(header).unwrap_err(), want);
        }
    }

    #[test]
    fn the_mss_option_is_found_among_others() {
        let with = |options: &[u8]| {
            let mut tcp = vec![0; 20];
            tcp[12] = (((20 + options.len()) / 4) as u8) << 4;
            tcp.extend_from_slice(options);
            TcpSegment::new_checked(tcp).unwrap().mss()
        };
        assert_eq!(with(&[2, 4, 5, 0xb4]), Some((22, 1460)));
        assert_eq!(with(&[1, 3, 3, 7, 2, 4, 5, 0xb4]), Some((26, 1460)));
        assert_eq!(with(&[1, 2, 4, 5, 0xb4, 0, 0, 0]), Some((23, 1460)));
        assert_eq!(with(&[0, 2, 4, 5, 0xb4, 0, 0, 0]), None);
        assert_eq!(with(&[8, 0, 2, 4, 5, 0xb4, 0, 0]), Some((24, 1460)));
        assert_eq!(with(&[1, 1, 1, 2]), None);
        assert_eq!(with(&[1, 1, 2, 4]), None);
        assert_eq!(with(&[2, 200, 2, 4]), None);
    }

    proptest! {
        #[test]
        fn headers_survive_a_round_trip(source: u128, destination: u128, next: u8, hops: u8, payload in prop::collection::vec(any::<u8>(), 0..64)) {
            let header = Ipv6Repr {
                source: source.into(),
                destination: destination.into(),
                next_header: next,
                hop_limit: hops,
                payload_len: payload.len() as u16,
            };
            let bytes = [&header.emit()[..], &payload, b"padding"].concat();
            let packet = Ipv6Packet::new_checked(&bytes).unwrap();
            prop_assert_eq!(Ipv6Repr::parse(&packet), header);
            prop_assert_eq!(packet.payload(), &payload[..]);
            prop_assert!(Ipv6Packet::new_checked(&bytes[..header.buffer_len() + payload.len() - usize::from(!payload.is_empty())]).is_ok() == payload.is_empty());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..120), first in prop::sample::select(vec![0x45u8, 0x4f, 0x60])) {
            let mut bytes = bytes;
            if let Some(b) = bytes.first_mut() {
                *b = first;
            }
            if let Ok(packet) = Ipv4Packet::new_checked(&bytes) {
                let at = packet.transport();
                prop_assert!(at.offset <= at.end && at.end <= bytes.len());
            }
            if let Ok(packet) = Ipv6Packet::new_checked(&bytes) && let Ok(at) = packet.transport() {
                prop_assert!(at.offset <= at.end && at.end <= bytes.len());
            }
            if let Ok(segment) = TcpSegment::new_checked(&bytes) && let Some((at, _)) = segment.mss() {
                prop_assert!(at + 2 <= segment.header_len());
            }
        }
    }
}
