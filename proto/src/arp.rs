//! The Address Resolution Protocol over Ethernet and IPv4 (RFC 826, 5227).
//!
//! Bytes and values only: who answers what is decided elsewhere.

use std::net::Ipv4Addr;

use crate::{DecodeError, MacAddr};

/// Bytes of an ARP packet for Ethernet and IPv4.
pub const LEN: usize = 28;

/// Hardware type Ethernet, protocol type IPv4, and the lengths of their addresses.
const ETHERNET_IPV4: [u8; 6] = [0, 1, 0x08, 0x00, 6, 4];

mod field {
    use std::ops::Range;
    pub(super) const TYPES: Range<usize> = 0..6;
    pub(super) const OPERATION: Range<usize> = 6..8;
    pub(super) const SENDER_MAC: Range<usize> = 8..14;
    pub(super) const SENDER_IP: Range<usize> = 14..18;
    pub(super) const TARGET_MAC: Range<usize> = 18..24;
    pub(super) const TARGET_IP: Range<usize> = 24..28;
}

/// What an ARP packet does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// "Who has the target address?"
    Request,
    /// "The sender has the sender address."
    Reply,
}

/// An ARP packet whose length and types are known to be good.
#[derive(Clone, Copy, Debug)]
pub struct ArpPacket<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> ArpPacket<T> {
    /// Checks length and types, so that no accessor panics afterwards. Bytes
    /// after the packet (Ethernet padding) are allowed.
    pub fn new_checked(bytes: T) -> Result<Self, DecodeError> {
        let b = bytes.as_ref();
        if b.len() < LEN {
            return Err(DecodeError::Truncated);
        }
        if b[field::TYPES] != ETHERNET_IPV4 {
            return Err(DecodeError::Unknown);
        }
        Ok(Self { bytes })
    }

    /// The number of the operation.
    pub fn operation(&self) -> u16 {
        let [high, low] = self.array(field::OPERATION);
        u16::from_be_bytes([high, low])
    }

    /// The sender's hardware address.
    pub fn sender_mac(&self) -> MacAddr {
        MacAddr(self.array(field::SENDER_MAC))
    }

    /// The sender's protocol address.
    pub fn sender_ip(&self) -> Ipv4Addr {
        self.array::<4>(field::SENDER_IP).into()
    }

    /// The target's hardware address; means nothing in a request.
    pub fn target_mac(&self) -> MacAddr {
        MacAddr(self.array(field::TARGET_MAC))
    }

    /// The target's protocol address.
    pub fn target_ip(&self) -> Ipv4Addr {
        self.array::<4>(field::TARGET_IP).into()
    }

    fn array<const N: usize>(&self, range: std::ops::Range<usize>) -> [u8; N] {
        let mut out = [0; N];
        out.copy_from_slice(&self.bytes.as_ref()[range]);
        out
    }
}

/// An ARP packet as a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArpRepr {
    /// Request or reply.
    pub operation: Operation,
    /// The sender's hardware address.
    pub sender_mac: MacAddr,
    /// The sender's protocol address; 0.0.0.0 in a probe.
    pub sender_ip: Ipv4Addr,
    /// The target's hardware address; ignored in a request.
    pub target_mac: MacAddr,
    /// The target's protocol address.
    pub target_ip: Ipv4Addr,
}

impl ArpRepr {
    /// Reads a packet.
    ///
    /// # Errors
    /// [`DecodeError::Unknown`] for operations other than request and reply.
    pub fn parse<T: AsRef<[u8]>>(packet: &ArpPacket<T>) -> Result<Self, DecodeError> {
        let operation = match packet.operation() {
            1 => Operation::Request,
            2 => Operation::Reply,
            _ => return Err(DecodeError::Unknown),
        };
        Ok(Self {
            operation,
            sender_mac: packet.sender_mac(),
            sender_ip: packet.sender_ip(),
            target_mac: packet.target_mac(),
            target_ip: packet.target_ip(),
        })
    }

    /// Bytes of the packet.
    pub fn buffer_len(&self) -> usize {
        LEN
    }

    /// Writes the packet.
    pub fn emit(&self) -> [u8; LEN] {
        let operation: u16 = match self.operation {
            Operation::Request => 1,
            Operation::Reply => 2,
        };
        let mut out = [0; LEN];
        out[field::TYPES].copy_from_slice(&ETHERNET_IPV4);
        out[field::OPERATION].copy_from_slice(&operation.to_be_bytes());
        out[field::SENDER_MAC].copy_from_slice(&self.sender_mac.0);
        out[field::SENDER_IP].copy_from_slice(&self.sender_ip.octets());
        out[field::TARGET_MAC].copy_from_slice(&self.target_mac.0);
        out[field::TARGET_IP].copy_from_slice(&self.target_ip.octets());
        out
    }

    /// An announcement of the sender's own address (RFC 5227, section 1.1);
    /// nobody is asked.
    pub fn is_gratuitous(&self) -> bool {
        self.sender_ip == self.target_ip
    }

    /// A question whether an address is free, by someone without one (RFC 5227).
    pub fn is_probe(&self) -> bool {
        self.operation == Operation::Request && self.sender_ip.is_unspecified()
    }

    /// The reply to this request that says "`mac` has the target address".
    pub fn reply(&self, mac: MacAddr) -> Self {
        Self {
            operation: Operation::Reply,
            sender_mac: mac,
            sender_ip: self.target_ip,
            target_mac: self.sender_mac,
            target_ip: self.sender_ip,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REQUEST: [u8; LEN] = [
        0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 32, 0, 1, 0, 0, 0, 0, 0, 0, 10, 32, 0, 2,
    ];

    fn parse(bytes: &[u8]) -> Result<ArpRepr, DecodeError> {
        ArpRepr::parse(&ArpPacket::new_checked(bytes)?)
    }

    #[test]
    fn a_request_reads_as_it_is_written() {
        let request = parse(&REQUEST).unwrap();
        assert_eq!(request.operation, Operation::Request);
        assert_eq!(request.sender_mac, MacAddr([2, 0, 0, 0, 0, 1]));
        assert_eq!(request.sender_ip, Ipv4Addr::new(10, 32, 0, 1));
        assert_eq!(request.target_ip, Ipv4Addr::new(10, 32, 0, 2));
        assert_eq!(request.emit(), REQUEST);
        assert!(!request.is_gratuitous() && !request.is_probe());
    }

    #[test]
    fn a_reply_turns_the_request_round() {
        let request = parse(&REQUEST).unwrap();
        let reply = request.reply(MacAddr([2, 0, 0, 0, 0, 2]));
        assert_eq!(reply.sender_ip, request.target_ip);
        assert_eq!(
            (reply.target_mac, reply.target_ip),
            (request.sender_mac, request.sender_ip)
        );
    }

    #[test]
    fn other_hardware_other_protocols_and_other_operations_are_refused() {
        for (at, value) in [(1, 6), (2, 0x86), (4, 8), (5, 16), (7, 3), (7, 0)] {
            let mut bytes = REQUEST;
            bytes[at] = value;
            assert_eq!(parse(&bytes), Err(DecodeError::Unknown), "byte {at}");
        }
        assert_eq!(parse(&REQUEST[..27]), Err(DecodeError::Truncated));
    }

    proptest! {
        #[test]
        fn packets_survive_a_round_trip(
            request: bool, sender_mac: [u8; 6], sender_ip: u32, target_mac: [u8; 6], target_ip: u32,
            padding in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let repr = ArpRepr {
                operation: if request { Operation::Request } else { Operation::Reply },
                sender_mac: MacAddr(sender_mac),
                sender_ip: sender_ip.into(),
                target_mac: MacAddr(target_mac),
                target_ip: target_ip.into(),
            };
            prop_assert_eq!(repr.emit().len(), repr.buffer_len());
            prop_assert_eq!(parse(&[&repr.emit()[..], &padding].concat()), Ok(repr));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = parse(&bytes);
        }
    }
}
