//! The Internet checksum: whole (RFC 1071) and after a change (RFC 1624).
//! Knows the pseudo headers, and nothing of packets.

use std::net::{Ipv4Addr, Ipv6Addr};

/// An Internet checksum in the making (RFC 1071).
#[derive(Clone, Copy, Debug, Default)]
pub struct Checksum {
    // Of 32-bit words in the machine's byte order: the ones' complement sum
    // does not mind the order until the end, and 2^32 words fit.
    sum: u64,
}

impl Checksum {
    /// Of nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Of the IPv6 pseudo header (RFC 8200, section 8.1). `len` is that of the
    /// upper-layer part in bytes.
    pub fn pseudo_ipv6(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, len: u32) -> Self {
        Self::new()
            .bytes(&source.octets())
            .bytes(&destination.octets())
            .bytes(&len.to_be_bytes())
            .bytes(&[0, 0, 0, protocol])
    }

    /// Of the IPv4 pseudo header (RFC 9293, section 3.1).
    pub fn pseudo_ipv4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, len: u16) -> Self {
        Self::new()
            .bytes(&source.octets())
            .bytes(&destination.octets())
            .bytes(&[0, protocol])
            .bytes(&len.to_be_bytes())
    }

    /// Adds bytes. Every piece but the last must have an even length.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        let (words, rest) = bytes.as_chunks::<4>();
        self.sum += words
            .iter()
            .map(|w| u64::from(u32::from_ne_bytes(*w)))
            .sum::<u64>();
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        self.sum += u64::from(u32::from_ne_bytes(last));
        self
    }

    /// What belongs in the checksum field, in host order.
    pub fn finish(self) -> u16 {
        !self.folded()
    }

    /// What stands in the checksum field while the sum is left to be completed
    /// later: the sum so far, in host order.
    pub fn partial(self) -> u16 {
        self.folded()
    }

    /// Whether bytes that contain their own checksum are intact.
    pub fn is_valid(self) -> bool {
        self.folded() == 0xffff
    }

    fn folded(self) -> u16 {
        let mut sum = self.sum;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::from_be(u16::try_from(sum).expect("the loop ends at 16 bits"))
    }
}

/// The checksum after an aligned 16-bit word under it changed (RFC 1624,
/// equation 3). For a word at an odd offset, swap the bytes of both values.
pub fn updated_checksum(checksum: u16, old: u16, new: u16) -> u16 {
    let sum = u32::from(!checksum) + u32::from(!old) + u32::from(new);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !u16::try_from(sum & 0xffff).expect("masked to 16 bits")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The textbook loop, to compare with.
    fn slow_checksum(bytes: &[u8]) -> u16 {
        let sum = bytes.chunks(2).fold(0u64, |sum, pair| {
            sum + u64::from(u16::from_be_bytes([
                pair[0],
                pair.get(1).copied().unwrap_or(0),
            ]))
        });
        let mut sum = sum;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn checksum_of_the_example_in_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Checksum::new().bytes(&bytes).finish(), !0xddf2);
    }

    #[test]
    fn updating_reaches_the_example_in_rfc_1624() {
        assert_eq!(updated_checksum(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    proptest! {
        #[test]
        fn the_fast_checksum_is_the_slow_one(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(Checksum::new().bytes(&bytes).finish(), slow_checksum(&bytes));
        }

        #[test]
        fn updating_equals_recomputing(
            mut bytes in prop::collection::vec(any::<u8>(), 8..64), at in 0usize..5, new: u16,
        ) {
            // All zero has two checksums in ones' complement; keep away from it.
            bytes[7] |= 1;
            let before = slow_checksum(&bytes);
            let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
            let swap = |word: u16| if at % 2 == 1 { word.swap_bytes() } else { word };
            let updated = updated_checksum(before, swap(old), swap(new));
            prop_assert_eq!(updated, slow_checksum(&bytes));
        }
    }
}
