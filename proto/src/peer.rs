//! Who a peer is.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::DecodeError;

/// The name of a peer: a 128-bit hash of its public keys (design D2).
///
/// `Display` gives all 32 hexadecimal digits, `{:.8}` or [`PeerId::short`] the
/// first eight, which is what people read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct PeerId(pub [u8; 16]);

impl PeerId {
    /// Bytes of a peer id on the wire.
    pub const LEN: usize = 16;

    /// The first eight hexadecimal digits.
    pub fn short(&self) -> String {
        format!("{self:.8}")
    }

    /// The first eight bytes.
    #[inline]
    pub fn short_id(&self) -> ShortId {
        let mut short = [0; 8];
        short.copy_from_slice(&self.0[..8]);
        ShortId(short)
    }
}

/// The first half of a [`PeerId`]: tells peers apart where a false match does
/// no harm. To meet the short id of a given peer takes 2^64 attempts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct ShortId(pub [u8; 8]);

impl fmt::Debug for ShortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(32).min(32);
        (0..digits).try_for_each(|i| {
            let byte = self.0[i / 2];
            write!(f, "{:x}", if i % 2 == 0 { byte >> 4 } else { byte & 15 })
        })
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:.8}")
    }
}

impl FromStr for PeerId {
    type Err = DecodeError;

    fn from_str(text: &str) -> Result<Self, DecodeError> {
        let digits = text.as_bytes();
        if digits.len() != 32 {
            return Err(DecodeError::Truncated);
        }
        let mut id = [0; 16];
        for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
            let nibble = |d: u8| (d as char).to_digit(16).ok_or(DecodeError::Malformed);
            let value = nibble(pair[0])? << 4 | nibble(pair[1])?;
            *byte = u8::try_from(value).map_err(|_| DecodeError::Malformed)?;
        }
        Ok(Self(id))
    }
}

/// The two public keys whose hash is the [`PeerId`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PublicKeys {
    /// Ed25519 (RFC 8032): signs the peer's records.
    pub sign: [u8; 32],
    /// X25519 (RFC 7748): the Noise static key.
    pub exchange: [u8; 32],
}

impl fmt::Debug for PublicKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PublicKeys")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_text_form() {
        let id = PeerId([0xab; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.short(), "abababab");
        assert!("xyz".parse::<PeerId>().is_err());
    }
}
