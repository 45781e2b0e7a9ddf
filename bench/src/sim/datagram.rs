//! What travels between hosts, and how many bytes it has.

use proto::{
    datagram::{self, Stage},
    message::GossipMessage,
};

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
    /// What a whole engine sends.
    Bytes(Vec<u8>),
}

/// What datagrams are called by [`Datagram::kind`].
pub(crate) const KINDS: [&str; 18] = [
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
    "sealed",
    "rejection",
];

/// The places of those in it that a whole engine sends, too.
const INITIATION_KIND: usize = 10;
pub(crate) const RESPONSE_KIND: usize = 11;
const COMPLETION_KIND: usize = 12;
const COOKIE_KIND: usize = 13;
const NO_SESSION_KIND: usize = 15;
/// The rest, which cannot be looked into.
const SEALED_KIND: usize = 16;
const REJECTION_KIND: usize = 17;

impl Datagram {
    /// The place in [`KINDS`].
    pub(crate) fn kind(&self) -> usize {
        match self {
            Self::Gossip { message, .. } => kind(message),
            Self::Initiation { .. } => INITIATION_KIND,
            Self::Response { .. } => RESPONSE_KIND,
            Self::Completion { .. } => COMPLETION_KIND,
            Self::Cookie { .. } => COOKIE_KIND,
            Self::Confirm { .. } => 14,
            Self::NoSession { .. } => NO_SESSION_KIND,
            Self::Bytes(bytes) => kind_of_bytes(bytes),
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
            Self::Bytes(bytes) => bytes.len(),
        };
        (payload + HEADERS) as u32
    }
}

fn kind_of_bytes(bytes: &[u8]) -> usize {
    match datagram::Datagram::parse(bytes) {
        Ok(datagram::Datagram::Handshake(handshake)) => match handshake.stage {
            Stage::Initiation => INITIATION_KIND,
            Stage::Response => RESPONSE_KIND,
            Stage::Completion => COMPLETION_KIND,
        },
        Ok(datagram::Datagram::CookieReply { .. }) => COOKIE_KIND,
        Ok(datagram::Datagram::Reject { .. }) => REJECTION_KIND,
        Ok(datagram::Datagram::NoSession { .. }) => NO_SESSION_KIND,
        Ok(datagram::Datagram::Transport(_)) | Err(_) => SEALED_KIND,
    }
}
