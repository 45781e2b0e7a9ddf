//! What travels between hosts, and how many bytes it has.

use proto::{datagram, message::GossipMessage};

use super::core_api::wire_length;

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

/// What a datagram is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Beat,
    News,
    Repair,
    Comparison,
    Handshake,
}

impl Kind {
    /// All of them, in the order of their discriminants, with their names in figures.
    pub(crate) const NAMES: [&'static str; 5] =
        ["beats", "news", "repairs", "comparisons", "handshakes"];
}

impl Datagram {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Gossip { message, .. } => match message {
                GossipMessage::Ping { .. } | GossipMessage::Pong { .. } => Kind::Beat,
                GossipMessage::Push { fresh: true, .. }
                | GossipMessage::Prune
                | GossipMessage::Graft { .. } => Kind::News,
                GossipMessage::Push { .. } => Kind::Repair,
                GossipMessage::Summary { .. }
                | GossipMessage::Versions { .. }
                | GossipMessage::Want { .. } => Kind::Comparison,
                GossipMessage::Bye { .. } => Kind::Handshake,
            },
            Self::Initiation { .. }
            | Self::Response { .. }
            | Self::Completion { .. }
            | Self::Cookie { .. }
            | Self::Confirm { .. }
            | Self::NoSession { .. } => Kind::Handshake,
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
