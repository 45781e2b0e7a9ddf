//! Ethernet II frames and MAC addresses (IEEE 802.3, 802.1Q).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::DecodeError;

/// A 48-bit MAC address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// The broadcast address.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether the address names a group; broadcast counts.
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether this is a bridge-local group that a bridge must not forward (01:80:c2:00:00:0x, IEEE 802.1D).
    pub fn is_link_local_group(self) -> bool {
        self.0[..5] == [0x01, 0x80, 0xc2, 0, 0] && self.0[5] & 0xf0 == 0
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddr {
    type Err = DecodeError;

    fn from_str(text: &str) -> Result<Self, DecodeError> {
        let mut mac = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut mac {
            let part = parts.next().ok_or(DecodeError::Truncated)?;
            if part.len() != 2 {
                return Err(DecodeError::Malformed);
            }
            // `from_str_radix` alone would take a sign for a digit.
            if !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(DecodeError::Malformed);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| DecodeError::Malformed)?;
        }
        parts
            .next()
            .is_none()
            .then_some(Self(mac))
            .ok_or(DecodeError::Trailing)
    }
}

/// EtherTypes that wove looks at.
pub mod ethertype {
    /// IPv4 (RFC 894).
    pub const IPV4: u16 = 0x0800;
    /// ARP (RFC 826).
    pub const ARP: u16 = 0x0806;
    /// A VLAN tag (IEEE 802.1Q).
    pub const VLAN: u16 = 0x8100;
    /// A service VLAN tag (IEEE 802.1ad).
    pub const QINQ: u16 = 0x88a8;
    /// IPv6 (RFC 2464).
    pub const IPV6: u16 = 0x86dd;
}

/// Bytes of an untagged Ethernet header.
pub const HEADER: usize = 14;
/// Bytes of one VLAN tag.
pub const VLAN_TAG: usize = 4;
/// How many VLAN tags are skipped where a frame is examined (802.1ad has two).
pub const MAX_VLAN_TAGS: usize = 2;

/// A frame whose header is known to be there.
#[derive(Clone, Copy, Debug)]
pub struct EthernetFrame<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> EthernetFrame<T> {
    /// Checks the length, so that no accessor panics afterwards.
    pub fn new_checked(bytes: T) -> Result<Self, DecodeError> {
        if bytes.as_ref().len() < HEADER {
            return Err(DecodeError::Truncated);
        }
        Ok(Self { bytes })
    }

    /// The destination address.
    pub fn destination(&self) -> MacAddr {
        self.mac(0)
    }

    /// The source address.
    pub fn source(&self) -> MacAddr {
        self.mac(6)
    }

    fn mac(&self, at: usize) -> MacAddr {
        let mut mac = [0; 6];
        mac.copy_from_slice(&self.bytes.as_ref()[at..at + 6]);
        MacAddr(mac)
    }

    /// The EtherType as it stands in the header; 802.1Q frames say VLAN.
    pub fn ethertype(&self) -> u16 {
        let b = self.bytes.as_ref();
        u16::from_be_bytes([b[12], b[13]])
    }

    /// What follows the header.
    pub fn payload(&self) -> &[u8] {
        &self.bytes.as_ref()[HEADER..]
    }
}

/// What a frame carries behind its VLAN tags, if any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkLayer {
    /// The innermost EtherType.
    pub ethertype: u16,
    /// Where the payload starts, counted from the start of the frame.
    pub offset: usize,
}

impl NetworkLayer {
    /// Skips up to [`MAX_VLAN_TAGS`] tags. With more, the EtherType stays that
    /// of a tag, which no reader of payloads knows.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] if the frame ends within a header.
    pub fn find(frame: &[u8]) -> Result<Self, DecodeError> {
        let mut offset = HEADER;
        loop {
            let ethertype = match frame.get(offset - 2..offset) {
                Some(&[high, low]) => u16::from_be_bytes([high, low]),
                _ => return Err(DecodeError::Truncated),
            };
            let tagged = matches!(ethertype, ethertype::VLAN | ethertype::QINQ);
            if !tagged || offset == HEADER + MAX_VLAN_TAGS * VLAN_TAG {
                return Ok(Self { ethertype, offset });
            }
            offset += VLAN_TAG;
        }
    }
}

/// An untagged Ethernet header as a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EthernetRepr {
    /// Whom the frame is for.
    pub destination: MacAddr,
    /// Who sent it.
    pub source: MacAddr,
    /// What it carries.
    pub ethertype: u16,
}

impl EthernetRepr {
    /// Reads the header of a frame.
    pub fn parse<T: AsRef<[u8]>>(frame: &EthernetFrame<T>) -> Self {
        Self {
            destination: frame.destination(),
            source: frame.source(),
            ethertype: frame.ethertype(),
        }
    }

    /// Bytes of the header.
    pub fn buffer_len(&self) -> usize {
        HEADER
    }

    /// Writes the header.
    pub fn emit(&self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[..6].copy_from_slice(&self.destination.0);
        out[6..12].copy_from_slice(&self.source.0);
        out[12..].copy_from_slice(&self.ethertype.to_be_bytes());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_mac_survives_its_text_form() {
        let mac = MacAddr([2, 0, 0xab, 0, 0, 1]);
        assert_eq!(mac.to_string().parse(), Ok(mac));
        for bad in [
            "",
            "02:00",
            "02:00:ab:00:00:01:02",
            "2:0:ab:0:0:1",
            "02:00:ab:00:00:zz",
            "+2:00:ab:00:00:01",
        ] {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_short_frame_is_refused() {
        assert!(EthernetFrame::new_checked([0; 13]).is_err());
        assert!(EthernetFrame::new_checked([0; 14]).is_ok());
    }

    #[test]
    fn up_to_two_tags_are_skipped() {
        let header = |types: &[u16]| {
            let mut frame = vec![0; 12];
            for (i, t) in types.iter().enumerate() {
                if i > 0 {
                    frame.extend_from_slice(&[0, 7]);
                }
                frame.extend_from_slice(&t.to_be_bytes());
            }
            NetworkLayer::find(&frame).map(|n| (n.ethertype, n.offset))
        };
        assert_eq!(header(&[0x0800]), Ok((0x0800, 14)));
        assert_eq!(header(&[0x8100, 0x0806]), Ok((0x0806, 18)));
        assert_eq!(header(&[0x88a8, 0x8100, 0x86dd]), Ok((0x86dd, 22)));
        assert_eq!(header(&[0x8100, 0x8100, 0x8100, 0x0800]), Ok((0x8100, 22)));
        assert_eq!(header(&[0x8100]), Err(DecodeError::Truncated));
        assert_eq!(header(&[]), Err(DecodeError::Truncated));
    }

    proptest! {
        #[test]
        fn headers_survive_a_round_trip(destination: [u8; 6], source: [u8; 6], ethertype: u16) {
            let repr = EthernetRepr {
                destination: MacAddr(destination),
                source: MacAddr(source),
                ethertype,
            };
            let bytes = repr.emit();
            prop_assert_eq!(bytes.len(), repr.buffer_len());
            prop_assert_eq!(EthernetRepr::parse(&EthernetFrame::new_checked(bytes).unwrap()), repr);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(network) = NetworkLayer::find(&bytes) {
                prop_assert!(network.offset <= bytes.len());
            }
        }

        #[test]
        fn every_mac_survives_its_text_form(mac: [u8; 6]) {
            prop_assert_eq!(MacAddr(mac).to_string().parse(), Ok(MacAddr(mac)));
        }
    }
}
