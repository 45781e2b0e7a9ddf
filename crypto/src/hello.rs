//! What each end says of itself inside the handshake, encrypted and bound to
//! the transcript, so that nothing in it can be stripped or downgraded.
//!
//! ```text
//! postcard: min max epoch instance ciphers capabilities encrypt nickname sign_key
//! then, until the end, extensions: tag:2 length:2 value (big-endian)
//! ```
//!
//! A later version adds an extension; a receiver keeps what it does not know
//! and goes on. The responder's hello is encrypted, but to whoever starts a
//! handshake: a prober without the secret can read it (pattern XX proves the
//! initiator last). A peer that minds leaves the nickname of its response empty.

use std::ops::RangeInclusive;

use proto::codec::Reader;
use serde::{Deserialize, Serialize};

use crate::cipher::CipherSet;

/// The versions of the session protocol this code speaks.
pub const VERSIONS: RangeInclusive<u16> = 1..=1;
/// Bytes of an encoded hello, at most.
pub const MAX_HELLO: usize = 512;
/// Bytes of a nickname, at most.
pub const MAX_NICKNAME: usize = 64;
/// Extensions in a hello, at most.
pub const MAX_EXTENSIONS: usize = 16;

/// A peer's part of the negotiation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The oldest protocol version it speaks.
    pub min_version: u16,
    /// The newest protocol version it speaks.
    pub max_version: u16,
    /// Rises with every launch of the peer; orders its records.
    pub epoch: u64,
    /// Drawn at every launch: two running peers with one key are a clone.
    pub instance: u64,
    /// What its CPU does well.
    pub ciphers: CipherSet,
    /// Optional parts of the protocol it has, one bit each.
    pub capabilities: u64,
    /// Whether it wants datagrams encrypted; one yes is enough.
    pub encrypt: bool,
    /// For people; decoded without control characters.
    pub nickname: String,
    /// Its Ed25519 key. The handshake fills it in from the identity.
    pub sign_key: [u8; 32],
    /// What later versions add, ascending or not, kept as it came.
    pub extensions: Vec<Extension>,
}

/// A field that later versions define.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    /// Which field.
    pub tag: u16,
    /// Its bytes.
    pub value: Vec<u8>,
}

/// Why a hello was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// Not the bytes of a hello.
    #[error("malformed hello")]
    Malformed,
    /// A length or count exceeds what the format allows.
    #[error("hello over the limit")]
    Limit,
}

impl Hello {
    /// A hello of this version: encryption on, no capabilities, ciphers of the
    /// CPU it runs on. The nickname is cut to [`MAX_NICKNAME`] bytes.
    pub fn new(epoch: u64, instance: u64, nickname: &str) -> Self {
        Self {
            min_version: *VERSIONS.start(),
            max_version: *VERSIONS.end(),
            epoch,
            instance,
            ciphers: CipherSet::detect(),
            capabilities: 0,
            encrypt: true,
            nickname: nickname[..nickname.floor_char_boundary(MAX_NICKNAME)].to_owned(),
            sign_key: [0; 32],
            extensions: Vec::new(),
        }
    }

    /// The newest version both speak.
    pub fn common_version(&self, other: &Self) -> Option<u16> {
        let oldest = self.min_version.max(other.min_version);
        let newest = self.max_version.min(other.max_version);
        (oldest <= newest).then_some(newest)
    }

    /// The hello's bytes, at most [`MAX_HELLO`].
    pub fn encode(&self) -> Result<Vec<u8>, HelloError> {
        if self.nickname.len() > MAX_NICKNAME || self.extensions.len() > MAX_EXTENSIONS {
            return Err(HelloError::Limit);
        }
        let mut out = postcard::to_stdvec(&Wire::from(self)).map_err(|_| HelloError::Malformed)?;
        for extension in &self.extensions {
            let len = u16::try_from(extension.value.len()).map_err(|_| HelloError::Limit)?;
            out.extend_from_slice(&extension.tag.to_be_bytes());
            out.extend_from_slice(&len.to_be_bytes());
            out.extend_from_slice(&extension.value);
        }
        if out.len() > MAX_HELLO {
            return Err(HelloError::Limit);
        }
        Ok(out)
    }

    /// Reads a hello that fills `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, HelloError> {
        if bytes.len() > MAX_HELLO {
            return Err(HelloError::Limit);
        }
        let (wire, rest) =
            postcard::take_from_bytes::<Wire<'_>>(bytes).map_err(|_| HelloError::Malformed)?;
        if wire.nickname.len() > MAX_NICKNAME {
            return Err(HelloError::Limit);
        }
        if wire.min_version > wire.max_version {
            return Err(HelloError::Malformed);
        }
        Ok(wire.with_extensions(decode_extensions(rest)?))
    }
}

/// The fixed part. It borrows, so that a hostile length allocates nothing.
#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    min_version: u16,
    max_version: u16,
    epoch: u64,
    instance: u64,
    ciphers: u16,
    capabilities: u64,
    encrypt: bool,
    nickname: &'a str,
    sign_key: [u8; 32],
}

impl<'a> From<&'a Hello> for Wire<'a> {
    fn from(hello: &'a Hello) -> Self {
        Self {
            min_version: hello.min_version,
            max_version: hello.max_version,
            epoch: hello.epoch,
            instance: hello.instance,
            ciphers: hello.ciphers.0,
            capabilities: hello.capabilities,
            encrypt: hello.encrypt,
            nickname: &hello.nickname,
            sign_key: hello.sign_key,
        }
    }
}

impl Wire<'_> {
    fn with_extensions(self, extensions: Vec<Extension>) -> Hello {
        Hello {
            min_version: self.min_version,
            max_version: self.max_version,
            epoch: self.epoch,
            instance: self.instance,
            ciphers: CipherSet(self.ciphers),
            capabilities: self.capabilities,
            encrypt: self.encrypt,
            nickname: printable(self.nickname),
            sign_key: self.sign_key,
            extensions,
        }
    }
}

/// A stranger's name ends up in terminals and logs: no escape sequences.
fn printable(nickname: &str) -> String {
    nickname
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .filter(|c| !turns_text(*c))
        .collect()
}

/// Marks that reorder the text around them, invisibly (Unicode UAX #9).
fn turns_text(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn decode_extensions(mut rest: &[u8]) -> Result<Vec<Extension>, HelloError> {
    let mut extensions = Vec::new();
    while !rest.is_empty() {
        if extensions.len() == MAX_EXTENSIONS {
            return Err(HelloError::Limit);
        }
        let mut reader = Reader::new(rest);
        let tag = reader.u16().map_err(|_| HelloError::Malformed)?;
        let len = reader.u16().map_err(|_| HelloError::Malformed)?;
        let value = reader
            .bytes(usize::from(len))
            .map_err(|_| HelloError::Malformed)?;
        extensions.push(Extension {
            tag,
            value: value.to_vec(),
        });
        rest = reader.rest();
    }
    Ok(extensions)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hello() -> Hello {
        Hello::new(7, 42, "rhein")
    }

    #[test]
    fn a_hello_of_any_size_it_may_have_fits() {
        let mut full = hello();
        full.nickname = "ü".repeat(32);
        (full.epoch, full.instance, full.capabilities) = (u64::MAX, u64::MAX, u64::MAX);
        (full.min_version, full.max_version, full.ciphers) =
            (u16::MAX, u16::MAX, CipherSet(u16::MAX));
        full.extensions = vec![Extension {
            tag: 9,
            value: vec![1; 300],
        }];
        let bytes = full.encode().unwrap();
        assert!(bytes.len() <= MAX_HELLO);
        assert_eq!(Hello::decode(&bytes), Ok(full));
    }

    #[test]
    fn limits_hold_both_ways() {
        let mut long = hello();
        long.nickname = "x".repeat(65);
        assert_eq!(long.encode(), Err(HelloError::Limit));
        let mut many = hello();
        many.extensions = vec![
            Extension {
                tag: 1,
                value: vec![]
            };
            17
        ];
        assert_eq!(many.encode(), Err(HelloError::Limit));
        let mut large = hello();
        large.extensions = vec![Extension {
            tag: 1,
            value: vec![0; 600],
        }];
        assert_eq!(large.encode(), Err(HelloError::Limit));
        assert_eq!(Hello::decode(&[0; MAX_HELLO + 1]), Err(HelloError::Limit));

        let mut bytes = hello().encode().unwrap();
        bytes.extend_from_slice(&[0; 4 * 17]);
        assert_eq!(Hello::decode(&bytes), Err(HelloError::Limit));
    }

    #[test]
    fn a_long_nickname_is_cut_between_characters() {
        assert_eq!(Hello::new(0, 0, &"ü".repeat(40)).nickname.len(), 64);
        assert_eq!(
            Hello::new(0, 0, &format!("x{}", "ü".repeat(40)))
                .nickname
                .len(),
            63
        );
    }

    #[test]
    fn a_nickname_cannot_write_to_the_terminal() {
        let mut evil = hello();
        evil.nickname = "a\x1b[2Jb\u{202e}c\n".to_owned();
        assert_eq!(
            Hello::decode(&evil.encode().unwrap()).unwrap().nickname,
            "a?[2Jbc?"
        );
    }

    #[test]
    fn truncation_is_noticed_at_every_length() {
        let mut h = hello();
        h.extensions = vec![Extension {
            tag: 1,
            value: vec![1, 2, 3],
        }];
        let bytes = h.encode().unwrap();
        let whole_without_extension = bytes.len() - 7;
        for len in (0..bytes.len()).filter(|len| *len != whole_without_extension) {
            assert_eq!(
                Hello::decode(&bytes[..len]),
                Err(HelloError::Malformed),
                "{len}"
            );
        }
    }

    #[test]
    fn versions_meet_or_do_not() {
        let range = |min_version, max_version| Hello {
            min_version,
            max_version,
            ..hello()
        };
        for (a, b, expected) in [
            (range(1, 1), range(1, 1), Some(1)),
            (range(1, 3), range(2, 5), Some(3)),
            (range(1, 2), range(3, 4), None),
        ] {
            assert_eq!(a.common_version(&b), expected);
            assert_eq!(b.common_version(&a), expected);
        }
        assert_eq!(
            Hello::decode(&range(2, 1).encode().unwrap()),
            Err(HelloError::Malformed)
        );
    }

    proptest! {
        #[test]
        fn round_trip(
            versions: (u16, u16), numbers: (u64, u64, u64, u16), encrypt: bool,
            nickname in "[a-zA-Z0-9.é-]{0,32}", sign_key: [u8; 32],
            extensions in prop::collection::vec((any::<u16>(), prop::collection::vec(any::<u8>(), 0..16)), 0..16),
        ) {
            let hello = Hello {
                min_version: versions.0.min(versions.1),
                max_version: versions.0.max(versions.1),
                epoch: numbers.0, instance: numbers.1, capabilities: numbers.2, ciphers: CipherSet(numbers.3),
                encrypt, nickname, sign_key,
                extensions: extensions.into_iter().map(|(tag, value)| Extension { tag, value }).collect(),
            };
            let bytes = hello.encode().unwrap();
            prop_assert_eq!(Hello::decode(&bytes), Ok(hello));
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = Hello::decode(&bytes);
        }
    }
}
