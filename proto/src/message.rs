//! Control messages between two peers, inside [`crate::content::Content::Control`].

use std::{net::SocketAddr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    DecodeError,
    codec::{decode, encode, varint_len},
    record::{Record, RecordKey, RttCode, Version},
};

/// No control message makes a datagram larger than this, so it fits any path
/// that can carry IPv6 (RFC 8200, section 5).
pub const MAX_MESSAGE: usize = 1130;

/// A control message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// For the mesh, over a link.
    Gossip(GossipMessage),
    /// About the path between the two ends, over any session.
    Path(PathMessage),
}

/// What neighbours say to each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GossipMessage {
    /// "I am here"; a pong is expected.
    Ping {
        /// Echoed in the pong.
        token: u8,
        /// The sender has at most one other way into the mesh than this link, so
        /// the receiver should refuse it only at its hard limit.
        needy: bool,
        /// The smoothed round-trip time, if the ping before was answered: the
        /// receiver then knows that it is heard.
        answered: Option<RttCode>,
        /// The state of the sender's replica.
        beat: Beat,
    },
    /// Answers a ping.
    Pong {
        /// The ping's token.
        token: u8,
        /// The state of the sender's replica.
        beat: Beat,
    },
    /// Records the receiver may not have.
    Push {
        /// Whether they are news, to be passed on at once, or make up for what
        /// was missed.
        fresh: bool,
        /// The records.
        records: Vec<Arc<Record>>,
    },
    /// Fingerprints of parts of the sender's replica, to find differences.
    Summary {
        /// Ranges of the space of positions, disjoint and ascending.
        ranges: Vec<RangeSummary>,
    },
    /// All versions the sender holds in a range; asks the receiver to do its part.
    Versions {
        /// First position of the range.
        first: u64,
        /// Last position of the range.
        last: u64,
        /// What the sender holds there.
        held: Vec<Held>,
    },
    /// Asks for records by key.
    Want {
        /// The keys.
        keys: Vec<RecordKey>,
    },
    /// The sender ends the link, on purpose.
    Bye {
        /// Why.
        reason: ByeReason,
    },
    /// News reach the sender by other ways: name them in beats instead of
    /// pushing them (Plumtree's term).
    Prune {
        /// For so long.
        seconds: u8,
        /// Unless the receiver has fewer other links than this that bring it news.
        keep: u8,
    },
    /// The sender misses news that a beat named: push them.
    Graft {
        /// Push those to come, too.
        resume: bool,
        /// Digests of the records that are missing.
        digests: Vec<u32>,
    },
}

/// What a heartbeat says of the sender's replica.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Beat {
    /// Stands for all records: equal replicas have equal fingerprints, and
    /// unequal ones hardly ever stay unnoticed, as it changes with every record.
    pub fingerprint: [u8; 2],
    /// Digests of news that were not pushed over this link.
    pub news: Vec<u32>,
}

/// Why a peer ends a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ByeReason {
    /// It shuts down.
    Stopping,
    /// It prefers other neighbours; the session may stay.
    Pruned,
    /// It has as many links as its operator allows.
    Full,
}

/// One record the sender of [`GossipMessage::Versions`] holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Which record.
    pub key: RecordKey,
    /// In which version.
    pub version: Version,
    /// A hash of the whole record: tells apart two bodies with one version.
    pub digest: u32,
}

/// The fingerprint of a range of positions, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeSummary {
    /// First position.
    pub first: u64,
    /// Last position.
    pub last: u64,
    /// XOR over the hashes of (key, version, signature).
    pub fingerprint: u64,
    /// How many records.
    pub count: u32,
}

/// What the two ends of a session say about the path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathMessage {
    /// The first sealed datagram of a session: the responder has the keys.
    Confirm,
    /// Asks for an acknowledgement along the way it came. `padding` zero bytes
    /// make the datagram as large as the path shall be proven for (RFC 8899).
    Probe {
        /// Echoed in the acknowledgement.
        token: u64,
        /// Zero bytes.
        padding: Padding,
    },
    /// Answers a probe, along the way it came.
    Ack {
        /// The probe's token.
        token: u64,
        /// The address the probe came from, if it came directly.
        observed: Option<SocketAddr>,
    },
    /// The sender forgets this session.
    Close,
    /// Lets the receiver send frames by VXLAN, in clear. Needs [`CAN_FASTDP`].
    Offer(VxlanOffer),
    /// Answers an offer: the sender wants no fast path, by [`Decline`]'s code.
    Decline(u8),
    /// The sender probes the receiver's endpoints now, in search of a direct
    /// path: the receiver is to probe these at the same time, so that the NATs
    /// of both ends let the probes in. Needs [`CAN_MEET`].
    Meet {
        /// Where the sender may be reached, by UDP. At most 16 are heeded.
        endpoints: Vec<SocketAddr>,
    },
    /// Lets the receiver send frames by VXLAN inside ESP, and never otherwise.
    /// Needs [`CAN_ESP`].
    OfferEsp(VxlanOffer),
    /// About a key of ESP, which follows from the session that this came with.
    /// Needs [`CAN_ESP`].
    Esp(EspNotice),
}

/// The bit of a greeting's capabilities: [`PathMessage::Meet`] is understood.
pub const CAN_MEET: u64 = 1 << 2;

/// The bit of a greeting's capabilities: offers of a fast path are understood.
pub const CAN_FASTDP: u64 = 1;
/// The bit of a greeting's capabilities: those of one inside ESP, too.
pub const CAN_ESP: u64 = 2;

/// What two ends tell each other of a key of ESP, by the index (SPI) that its
/// receiver chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EspNotice {
    /// I can receive under this index.
    Offer(u32),
    /// I send under it.
    Taken(u32),
    /// I cannot send under it, or not any more.
    Lost(u32),
}

/// The bit of a greeting's capabilities: frames with the checksum left, and
/// several frames in one content, are understood.
pub const CAN_SHARE: u64 = 1 << 3;

/// The bit of a greeting's capabilities: records of names are understood. Whoever
/// lacks it could not read a message that holds one, or its key.
pub const KNOWS_NAMES: u64 = 1 << 5;

/// How a peer takes frames by VXLAN from one other peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VxlanOffer {
    /// The network identifier to use, of 24 bits: the offering peer's own name
    /// for the one that it is told to. Together with the outer source address
    /// it says who sent a frame.
    pub vni: u32,
    /// The UDP port to send to.
    pub port: u16,
    /// The largest IP packet inside a frame that the offering peer takes, in bytes.
    pub room: u16,
}

/// Why a peer wants no fast path; a code that is not known is just a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Decline {
    /// No reason that has a code.
    Other = 0,
    /// Its operator switched it off.
    Disabled = 1,
    /// Its kernel does not do it.
    Kernel = 2,
    /// It encrypts what it sends to the receiver, and cannot or will not do so
    /// by what was offered.
    Encrypted = 3,
}

impl Decline {
    /// The reason with this code.
    pub fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Disabled,
            2 => Self::Kernel,
            3 => Self::Encrypted,
            _ => Self::Other,
        }
    }
}

/// A run of zero bytes of the given length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Padding(pub u16);

impl Serialize for Padding {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&ZEROS[..usize::from(self.0)])
    }
}

impl<'de> Deserialize<'de> for Padding {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = <&[u8]>::deserialize(deserializer)?;
        u16::try_from(bytes.len())
            .map(Self)
            .map_err(serde::de::Error::custom)
    }
}

static ZEROS: [u8; u16::MAX as usize] = [0; u16::MAX as usize];

impl GossipMessage {
    /// How long [`Message::encode`] makes the message, without encoding it.
    pub fn encoded_len(&self) -> usize {
        let counted = |items: usize, size: usize| varint_len(items as u64) + size;
        let body = match self {
            Self::Ping { answered, beat, .. } => {
                3 + usize::from(answered.is_some()) + beat.encoded_len()
            }
            Self::Pong { beat, .. } => 1 + beat.encoded_len(),
            Self::Push { records, .. } => {
                let size = records.iter().map(|record| record.encoded_len()).sum();
                1 + counted(records.len(), size)
            }
            Self::Graft { digests, .. } => 1 + digests_len(digests),
            Self::Prune { .. } => 2,
            Self::Bye { .. } => 1,
            // The rest is rare.
            Self::Summary { .. } | Self::Versions { .. } | Self::Want { .. } => {
                encode(self).len() - 1
            }
        };
        2 + body
    }
}

impl Beat {
    fn encoded_len(&self) -> usize {
        self.fingerprint.len() + digests_len(&self.news)
    }
}

fn digests_len(digests: &[u32]) -> usize {
    let each = digests.iter().map(|digest| varint_len(u64::from(*digest)));
    varint_len(digests.len() as u64) + each.sum::<usize>()
}

impl Message {
    /// The message's bytes inside a control content.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads a message. Records in it are not yet verified.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        decode(bytes)
    }
}
