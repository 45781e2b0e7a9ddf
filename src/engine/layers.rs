//! Where TCP or UDP is in a frame, and its checksum: what the data path has to
//! know of a frame to cut it, to join it, and to leave its checksum for later.

use std::net::{Ipv4Addr, Ipv6Addr};

use proto::{
    ethernet::{NetworkLayer, ethertype},
    ip::{
        Checksum, IPV4_HEADER, IPV6_HEADER, Ipv4Packet, Ipv6Packet, TcpSegment, UDP_HEADER,
        protocol,
    },
};

/// Version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// TCP or UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// The layers of a frame with a whole TCP segment or UDP datagram; all
/// positions are counted from the start of the frame and lie inside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layers {
    /// Which IP.
    pub version: Version,
    /// Which transport.
    pub protocol: Protocol,
    /// Start of the IP header.
    pub network: usize,
    /// Start of the transport header.
    pub transport: usize,
    /// Start of what the transport carries.
    pub payload: usize,
    /// End of the packet; what follows is padding.
    pub end: usize,
}

impl Layers {
    /// Finds them. `None` for other protocols, for fragments, and for what is
    /// shorter than it claims.
    pub fn find(frame: &[u8]) -> Option<Self> {
        let link = NetworkLayer::find(frame).ok()?;
        let packet = &frame[link.offset..];
        let (version, inner) = match link.ethertype {
            ethertype::IPV4 => (
                Version::V4,
                Ipv4Packet::new_checked(packet).ok()?.transport(),
            ),
            ethertype::IPV6 => (
                Version::V6,
                Ipv6Packet::new_checked(packet).ok()?.transport().ok()?,
            ),
            _ => return None,
        };
        if inner.fragment {
            return None;
        }
        let segment = packet.get(inner.offset..inner.end)?;
        let (protocol, header) = match inner.protocol {
            protocol::TCP => (
                Protocol::Tcp,
                TcpSegment::new_checked(segment).ok()?.header_len(),
            ),
            protocol::UDP if segment.len() >= UDP_HEADER => (Protocol::Udp, UDP_HEADER),
            _ => return None,
        };
        let transport = link.offset + inner.offset;
        Some(Self {
            version,
            protocol,
            network: link.offset,
            transport,
            payload: transport + header,
            end: link.offset + inner.end,
        })
    }

    /// Where the transport's checksum is, counted from the transport header.
    pub fn checksum_offset(&self) -> usize {
        match self.protocol {
            Protocol::Tcp => TcpSegment::<&[u8]>::CHECKSUM,
            Protocol::Udp => 6,
        }
    }

    /// Where the transport's checksum is in the frame.
    pub fn checksum(&self) -> usize {
        self.transport + self.checksum_offset()
    }

    /// Whether there is nothing between the fixed IP header and the transport.
    pub fn is_plain(&self) -> bool {
        let header = match self.version {
            Version::V4 => IPV4_HEADER,
            Version::V6 => IPV6_HEADER,
        };
        self.transport == self.network + header
    }

    /// The pseudo header for a transport part of `len` bytes.
    pub fn pseudo(&self, frame: &[u8], len: usize) -> Checksum {
        let protocol = match self.protocol {
            Protocol::Tcp => protocol::TCP,
            Protocol::Udp => protocol::UDP,
        };
        let ip = &frame[self.network..];
        match self.version {
            Version::V4 => Checksum::pseudo_ipv4(
                Ipv4Addr::from(bytes_at(ip, 12)),
                Ipv4Addr::from(bytes_at(ip, 16)),
                protocol,
                // No packet is longer.
                u16::try_from(len).unwrap_or(u16::MAX),
            ),
            Version::V6 => Checksum::pseudo_ipv6(
                Ipv6Addr::from(bytes_at(ip, 8)),
                Ipv6Addr::from(bytes_at(ip, 24)),
                protocol,
                u32::try_from(len).unwrap_or(u32::MAX),
            ),
        }
    }
}

/// Completes the checksum that covers `frame[start..]` and belongs at `at`,
/// where the sum of the pseudo header stands. Both must lie in the frame.
pub fn complete(frame: &mut [u8], start: usize, at: usize) {
    let sum = match Checksum::new().bytes(&frame[start..]).finish() {
        // Zero would say that there is none (RFC 768); TCP does not mind.
        0 => u16::MAX,
        sum => sum,
    };
    put(frame, at, sum);
}

/// Writes a big-endian word.
pub fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Reads a big-endian word.
pub fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(bytes_at(bytes, at))
}

/// Reads bytes of which the length was checked before.
pub fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}
