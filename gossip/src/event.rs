//! What the mesh asks of the engine and tells the operator.

use std::{fmt, net::SocketAddr};

use proto::{MacAddr, PeerId};
use thiserror::Error;

use crate::{space::Outcome, target::Target};

/// Names one attempt to dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DialId(pub u64);

/// Whom to dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DialTarget {
    /// Whoever answers at a name.
    Name(Target),
    /// A known peer, at one of its addresses.
    Peer {
        /// Who must answer.
        peer: PeerId,
        /// Where it may be; at most 16.
        addresses: Vec<SocketAddr>,
    },
}

/// Something the engine should act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Try to set up a session. Answer with `dial_answered`, `session_opened` or `dial_failed`.
    Dial {
        /// For the answer.
        dial: DialId,
        /// Whom.
        target: DialTarget,
    },
    /// A neighbour was gained.
    LinkUp(PeerId),
    /// A neighbour was lost.
    LinkDown {
        /// Who.
        peer: PeerId,
        /// Why.
        reason: DownReason,
    },
    /// [`crate::Mesh::routes`] returns something new.
    RoutesChanged,
    /// [`crate::Mesh::stations`] changed.
    StationsChanged,
    /// [`crate::Mesh::directory`] answers differently for some names; see
    /// [`crate::Mesh::take_changed_names`].
    NamesChanged,
    /// A peer was heard of for the first time.
    PeerAppeared(PeerId),
    /// A peer was launched again.
    PeerRestarted {
        /// Who.
        peer: PeerId,
    },
    /// Something needs a human.
    Warning(Warning),
    /// The list of targets or the state of one changed.
    TargetsChanged,
    /// An address was given to somebody who waits for one, or refused.
    Space(Outcome),
    /// Something about the address space needs a human.
    SpaceWarning(String),
    /// The mesh has no use for the session, or holds it for dead.
    CloseSession(PeerId),
}

/// Why a link ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DownReason {
    /// No answer to pings.
    Silent,
    /// The session was closed below us.
    SessionClosed,
    /// The peer shuts down.
    Stopping,
    /// The peer prefers other neighbours.
    Pruned,
    /// The peer has as many links as it may.
    Full,
    /// The peer was launched anew.
    Restarted,
}

impl fmt::Display for DownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Silent => "no answer to heartbeats",
            Self::SessionClosed => "session closed",
            Self::Stopping => "peer is shutting down",
            Self::Pruned => "peer prefers other neighbours",
            Self::Full => "peer has reached its link limit",
            Self::Restarted => "peer was restarted",
        })
    }
}

/// Something for the operator: what, why, what to do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Warning {
    /// Another daemon uses our key.
    #[error(
        "another daemon publishes records with the key of this peer ({peer:.8}): its state directory was copied; \
         stop the copy, and delete its state directory as a whole"
    )]
    ClonedIdentity {
        /// Our own id.
        peer: PeerId,
    },
    /// Two peers have one nickname.
    #[error(
        "peer {peer:.8} has the nickname '{nickname}' too; give one of them another with --nickname"
    )]
    NicknameClash {
        /// The other peer.
        peer: PeerId,
        /// The name.
        nickname: String,
    },
    /// A record was not accepted.
    #[error(
        "record from {from:.8}{} refused: {reason}; the link stays, check the version and the health of that peer",
        OwnerText(*owner)
    )]
    BadRecord {
        /// The neighbour that sent it.
        from: PeerId,
        /// Whose record it claims to be, if that can be told.
        owner: Option<PeerId>,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A peer signed two different records with one version.
    #[error(
        "peer {owner:.8} signs different records with one version: its key is used by two daemons; stop one of them"
    )]
    Equivocation {
        /// The peer.
        owner: PeerId,
    },
    /// A container attached here has the MAC address of a station elsewhere.
    #[error(
        "{mac} is attached here but peer {peer:.8} claims it too; give one of the two another MAC address"
    )]
    DuplicateStation {
        /// The address.
        mac: MacAddr,
        /// The other claimant.
        peer: PeerId,
    },
    /// More stations than can be announced.
    #[error(
        "more than {limit} stations behind this peer: further ones are not announced; is a host scanning?"
    )]
    TooManyStations {
        /// How many fit.
        limit: usize,
    },
    /// More names than can be told.
    #[error(
        "more than {limit} names and addresses on this peer: the others do not learn all of them; remove some with `wove dns remove`"
    )]
    TooManyNames {
        /// How many fit.
        limit: usize,
    },
}

struct OwnerText(Option<PeerId>);

impl fmt::Display for OwnerText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .map_or(Ok(()), |owner| write!(f, " about {owner:.8}"))
    }
}

/// What the mesh has done so far. All fields count since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Records sent to neighbours.
    pub pushed: u64,
    /// Records that were new to us.
    pub accepted: u64,
    /// Records we had already, or newer.
    pub stale: u64,
    /// Records whose signature or owner is false.
    pub forged: u64,
    /// Records with unusable content.
    pub quarantined: u64,
    /// Records beyond a limit or an owner's budget; anti-entropy brings them later if they are worth it.
    pub limited: u64,
    /// Records whose owner's node record is not known.
    pub orphaned: u64,
    /// Links refused to others because of our limits.
    pub links_refused: u64,
    /// Messages that made no sense where they came.
    pub ignored: u64,
    /// Route calculations.
    pub route_runs: u64,
}
