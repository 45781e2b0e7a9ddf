//! The UDP payload: one handshake message, or one sealed transport datagram.
//!
//! ```text
//! handshake  kind:1 version:1 reserved:2 sender:4 receiver:4 cookie:16 | noise message
//! cookie     kind:1 version:1 reserved:2 receiver:4 cookie:16
//! reject     kind:1 version:1 reason:1 reserved:1 receiver:4
//! no session kind:1 version:1 reserved:2 receiver:4 counter:8
//! transport  kind:1 reserved:3 receiver:4 counter:8 | ciphertext | tag:16
//! ```
//!
//! All integers are big-endian. `receiver` is the index that the receiver
//! chose for this session, so a lookup needs no address and survives roaming.

use crate::{DecodeError, codec::Reader};

/// The protocol version this code speaks.
pub const VERSION: u8 = 1;

/// A name for a session, chosen by the peer that will receive with it.
pub type SessionIndex = u32;

/// A proof of address, as long as a MAC tag.
pub type Cookie = [u8; 16];

/// Bytes before the ciphertext of a transport datagram.
pub const TRANSPORT_HEADER: usize = 16;
/// Bytes of the AEAD tag after the ciphertext.
pub const TAG: usize = 16;
/// What sealing adds to a plaintext.
pub const TRANSPORT_OVERHEAD: usize = TRANSPORT_HEADER + TAG;
/// Bytes before the Noise message of a handshake datagram.
pub const HANDSHAKE_HEADER: usize = 28;

mod kind {
    pub(super) const INITIATION: u8 = 0x01;
    pub(super) const RESPONSE: u8 = 0x02;
    pub(super) const COMPLETION: u8 = 0x03;
    pub(super) const COOKIE: u8 = 0x04;
    pub(super) const REJECT: u8 = 0x05;
    pub(super) const NO_SESSION: u8 = 0x06;
    pub(super) const SEALED: u8 = 0x10;
    pub(super) const CLEAR: u8 = 0x11;
}

/// Which of the three Noise messages of pattern XX a datagram holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// `-> e`
    Initiation,
    /// `<- e, ee, s, es`
    Response,
    /// `-> s, se, psk`
    Completion,
}

/// Whether the content is encrypted, or only authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Encrypted and authenticated.
    Sealed,
    /// Authenticated only: both ends switched encryption off by name.
    Clear,
}

/// Why a responder refuses. Unauthenticated: a hint for people, never a fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectReason {
    /// No network secret in common.
    Secret,
    /// No protocol version in common.
    Version,
    /// The peer keeps no more links.
    Limit,
    /// The peer met itself.
    Identity,
}

/// A received datagram, its header checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datagram<'a> {
    /// One message of a handshake.
    Handshake(Handshake<'a>),
    /// A responder under load asks for a proof of address.
    CookieReply {
        /// The initiator's index.
        receiver: SessionIndex,
        /// What to echo.
        cookie: Cookie,
    },
    /// A responder says why there is no session.
    Reject {
        /// The initiator's index.
        receiver: SessionIndex,
        /// The reason it gives.
        reason: RejectReason,
    },
    /// The sender has no session of that index: it was restarted, perhaps.
    /// Unauthenticated; the echoed header shows that it saw the datagram.
    NoSession {
        /// The index the datagram was sent to.
        receiver: SessionIndex,
        /// Its counter.
        counter: u64,
    },
    /// A sealed datagram, to be opened in place.
    Transport(TransportHeader),
}

/// A handshake message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake<'a> {
    /// Which message.
    pub stage: Stage,
    /// The sender's index for the session to be.
    pub sender: SessionIndex,
    /// The receiver's index; 0 in an initiation.
    pub receiver: SessionIndex,
    /// Proof of address, zero if none was asked for.
    pub cookie: Cookie,
    /// The Noise message.
    pub noise: &'a [u8],
}

/// The header of a transport datagram; it is the associated data of the AEAD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransportHeader {
    /// Encrypted, or authenticated only.
    pub protection: Protection,
    /// The receiver's index.
    pub receiver: SessionIndex,
    /// The message counter, unique per session and direction.
    pub counter: u64,
}

impl TransportHeader {
    /// Writes the header.
    pub fn emit(&self) -> [u8; TRANSPORT_HEADER] {
        let mut out = [0; TRANSPORT_HEADER];
        out[0] = match self.protection {
            Protection::Sealed => kind::SEALED,
            Protection::Clear => kind::CLEAR,
        };
        out[4..8].copy_from_slice(&self.receiver.to_be_bytes());
        out[8..16].copy_from_slice(&self.counter.to_be_bytes());
        out
    }
}

impl<'a> Datagram<'a> {
    /// Reads the header of a received datagram.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let kind = r.u8()?;
        if matches!(kind, kind::SEALED | kind::CLEAR) {
            return Self::parse_transport(kind, r);
        }
        if r.u8()? != VERSION {
            return Err(DecodeError::Unknown);
        }
        match kind {
            kind::INITIATION => Self::parse_handshake(Stage::Initiation, r),
            kind::RESPONSE => Self::parse_handshake(Stage::Response, r),
            kind::COMPLETION => Self::parse_handshake(Stage::Completion, r),
            kind::COOKIE => {
                r.u16()?;
                let datagram = Self::CookieReply {
                    receiver: r.u32()?,
                    cookie: r.array()?,
                };
                r.rest()
                    .is_empty()
                    .then_some(datagram)
                    .ok_or(DecodeError::Trailing)
            }
            kind::REJECT => {
                let reason = RejectReason::from_wire(r.u8()?)?;
                r.u8()?;
                let datagram = Self::Reject {
                    receiver: r.u32()?,
                    reason,
                };
                r.rest()
                    .is_empty()
                    .then_some(datagram)
                    .ok_or(DecodeError::Trailing)
            }
            kind::NO_SESSION => {
                r.u16()?;
                let datagram = Self::NoSession {
                    receiver: r.u32()?,
                    counter: r.u64()?,
                };
                r.rest()
                    .is_empty()
                    .then_some(datagram)
                    .ok_or(DecodeError::Trailing)
            }
            _ => Err(DecodeError::Unknown),
        }
    }

    fn parse_transport(kind: u8, mut r: Reader<'a>) -> Result<Self, DecodeError> {
        let _reserved: [u8; 3] = r.array()?;
        let header = TransportHeader {
            protection: if kind == kind::SEALED {
                Protection::Sealed
            } else {
                Protection::Clear
            },
            receiver: r.u32()?,
            counter: r.u64()?,
        };
        if r.rest().len() < TAG {
            return Err(DecodeError::Truncated);
        }
        Ok(Self::Transport(header))
    }

    fn parse_handshake(stage: Stage, mut r: Reader<'a>) -> Result<Self, DecodeError> {
        r.u16()?;
        Ok(Self::Handshake(Handshake {
            stage,
            sender: r.u32()?,
            receiver: r.u32()?,
            cookie: r.array()?,
            noise: r.rest(),
        }))
    }
}

impl Handshake<'_> {
    /// Writes the datagram.
    pub fn emit(&self) -> Vec<u8> {
        let kind = match self.stage {
            Stage::Initiation => kind::INITIATION,
            Stage::Response => kind::RESPONSE,
            Stage::Completion => kind::COMPLETION,
        };
        let mut out = Vec::with_capacity(HANDSHAKE_HEADER + self.noise.len());
        out.extend_from_slice(&[kind, VERSION, 0, 0]);
        out.extend_from_slice(&self.sender.to_be_bytes());
        out.extend_from_slice(&self.receiver.to_be_bytes());
        out.extend_from_slice(&self.cookie);
        out.extend_from_slice(self.noise);
        out
    }
}

/// Writes a cookie reply.
pub fn emit_cookie_reply(receiver: SessionIndex, cookie: &Cookie) -> Vec<u8> {
    let mut out = vec![kind::COOKIE, VERSION, 0, 0];
    out.extend_from_slice(&receiver.to_be_bytes());
    out.extend_from_slice(cookie);
    out
}

/// Writes a rejection.
pub fn emit_reject(receiver: SessionIndex, reason: RejectReason) -> Vec<u8> {
    let mut out = vec![kind::REJECT, VERSION, reason.to_wire(), 0];
    out.extend_from_slice(&receiver.to_be_bytes());
    out
}

/// Writes a notice that a session is unknown; shorter than any transport datagram.
pub fn emit_no_session(receiver: SessionIndex, counter: u64) -> Vec<u8> {
    let mut out = vec![kind::NO_SESSION, VERSION, 0, 0];
    out.extend_from_slice(&receiver.to_be_bytes());
    out.extend_from_slice(&counter.to_be_bytes());
    out
}

impl RejectReason {
    fn to_wire(self) -> u8 {
        match self {
            Self::Secret => 1,
            Self::Version => 2,
            Self::Limit => 3,
            Self::Identity => 4,
        }
    }

    fn from_wire(byte: u8) -> Result<Self, DecodeError> {
        match byte {
            1 => Ok(Self::Secret),
            2 => Ok(Self::Version),
            3 => Ok(Self::Limit),
            4 => Ok(Self::Identity),
            _ => Err(DecodeError::Unknown),
        }
    }
}
