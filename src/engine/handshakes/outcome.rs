//! What a handshake is made for, and what comes of its steps.

use std::time::Instant;

use crypto::Established;
use gossip::DialId;
use proto::{PeerId, datagram::SessionIndex};

use super::super::output::Origin;

/// Why an attempt was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The dialer wants a link with whoever is there.
    Dial(DialId),
    /// The dialer wants a link with this peer.
    Seek(DialId, PeerId),
    /// A session with this peer is wanted, or a fresh one.
    Session(PeerId),
}

impl Purpose {
    /// Whose session alone serves it; if none, anybody's.
    pub(super) fn peer(self) -> Option<PeerId> {
        match self {
            Self::Dial(_) => None,
            Self::Seek(_, peer) | Self::Session(peer) => Some(peer),
        }
    }

    /// The dialer's attempt that it is.
    pub fn dial(self) -> Option<DialId> {
        match self {
            Self::Dial(dial) | Self::Seek(dial, _) => Some(dial),
            Self::Session(_) => None,
        }
    }
}

/// Ways to be tried only once the others have stayed silent for a while.
#[derive(Debug)]
pub struct Later {
    /// The ways.
    pub ways: Vec<Origin>,
    /// From when on.
    pub at: Instant,
    /// Not while frames are relayed to this peer.
    pub unless: Option<PeerId>,
}

/// What came of a step.
pub enum Outcome {
    /// A datagram is to be sent.
    Send {
        /// Which way.
        way: Origin,
        /// The datagram.
        datagram: Vec<u8>,
    },
    /// Keys are agreed. As initiator, they are not confirmed yet.
    Established {
        /// Who, and the session.
        established: Box<Established>,
        /// Which way the last message came.
        way: Origin,
        /// Whether this peer began.
        outbound: bool,
    },
    /// The responder's confirmation got lost: say it again.
    Reconfirm {
        /// Our index of the session.
        session: SessionIndex,
    },
    /// A session that was agreed but never confirmed is given up.
    Abandoned {
        /// Our index of the session.
        session: SessionIndex,
    },
    /// An attempt met this very peer, and nobody else.
    Ourselves {
        /// The dialer's attempt.
        dial: DialId,
    },
    /// An attempt ended without a session.
    Failed {
        /// Why it was made.
        purpose: Purpose,
        /// Why it failed.
        reason: String,
        /// Whether the other side refused, so that trying again is of little use.
        refused: bool,
    },
    /// This peer refused somebody.
    Refused {
        /// Who asked.
        way: Origin,
        /// Why.
        reason: String,
    },
}
