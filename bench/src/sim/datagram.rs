//! What travels between hosts, and how many bytes it has.

use proto::{datagram, message::GossipMessage};

use super::core_api::{kind, wire_length};

/// IPv4 and UDP headers of a datagram, in bytes.
const HEADERS: usize = 28;
/// Header and tag of a sealed datagram, and the tag of its content.
const SEALING: usize = datagram::TRANSPORT_OVERHEAD + 1;
/// The UDP payload of a response and of a completion, in bytes, as
/// `crypto::{Responder, Initiator}` make them for a version of five letters.
const RESPONSE: usize = 185;
const COMPLETION: usize = 154;
/// As `proto::datagram::emit_cookie_reply` makes it.
const COOKIE: usize = 24;
/// As `proto::datagram::emit_no_session` makes it.
const NO_SESSION: usize = 16;
/// A sealed `PathMessage::Confirm`: two enum tags.
const CONFIRM: usize = SEALING + 2;

/// A datagram between two hosts.
pub(crate) enum Datagram {
    /// A message of the mesh, on a session.
    Gossip {
        session: u64,
        message: GossipMessage,
    },
    /// The first step of a handshake; `proven` if it carries a cookie.
    Initiation { attempt: u64, proven: bool },
    /// The second step.
    Response { attempt: u64, life: u32 },
    /// The third step, of the initiator's present launch, to that launch of the responder.
    Completion {
        attempt: u64,
        life: u32,
        responder_life: u32,
    },
    /// A busy responder asks for a proof of address.
    Cookie { attempt: u64 },
    /// The responder has the keys.
    Confirm { attempt: u64 },
    /// The sender does not know this session.
    NoSession { session: u64 },
}

/// What datagrams are called by [`Datagram::kind`].
pub(crate) const KINDS: [&str; 16] = [
    "ping",
    "pong",
    "push of news",
    "push of repairs",
    "summary",
    "versions",
    "want",
    "bye",
    "prune",
    "graft",
    "initiation",
    "response",
    "completion",
    "cookie",
    "confirm",
    "no session",
];

impl Datagram {
    /// The place in [`KINDS`].
    pub(crate) fn kind(&self) -> usize {
        match self {
            Self::Gossip { message, .. } => kind(message),
            Self::Initiation { .. } => 10,
            Self::Response { .. } => 11,
            Self::Completion { .. } => 12,
            Self::Cookie { .. } => 13,
            Self::Confirm { .. } => 14,
            Self::NoSession { .. } => 15,
        }
    }

    /// Bytes on the wire, IPv4 and UDP headers included.
    pub(crate) fn size(&self) -> u32 {
        let payload = match self {
            Self::Gossip { message, .. } => SEALING + wire_length(message),
            Self::Initiation { .. } => crypto::handshake::INITIATION,
            Self::Response { .. } => RESPONSE,
            Self::Completion { .. } => COMPLETION,
            Self::Cookie { .. } => COOKIE,
            Self::Confirm { .. } => CONFIRM,
            Self::NoSession { .. } => NO_SESSION,
        };
        (payload + HEADERS) as u32
    }
}
