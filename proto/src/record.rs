//! The records that gossip replicates (design D3).
//!
//! A record is one statement of its owner about itself. The owner signs it, a
//! relay passes it on unchanged, and the pair (epoch, sequence) orders the
//! versions of one key. Wall clocks play no part.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::OnceLock,
};

use serde::{Deserialize, Serialize};

use crate::{
    DecodeError, MacAddr, PeerId, PublicKeys,
    codec::{decode, encode, varint_len},
    peer::ShortId,
    space::{Division, Guard, Space},
};

/// The largest encoded record, so that one always fits a datagram of 1200 bytes.
pub const MAX_RECORD: usize = 1000;

/// The largest encoded body. The rest of [`MAX_RECORD`] covers owner, topic,
/// version and signature at their longest, and the body's length.
pub const MAX_BODY: usize = 892;

/// What a record is about; with the owner it is the record's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Topic {
    /// The peer itself: [`Node`].
    Node,
    /// One part of its links: [`Links`].
    Links(u8),
    /// One part of its stations: [`Stations`].
    Stations(u16),
    /// One part of its names: [`Names`]. Only for those who have [`crate::message::KNOWS_NAMES`].
    Names(u16),
    /// What it owns of the address space: [`Space`].
    Space,
    /// What it knows of others' space: [`Guard`].
    Guard,
    /// Its part in the first division of the address space: [`Division`].
    Division,
}

/// The key of a record in the replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RecordKey {
    /// Who says it.
    pub owner: PeerId,
    /// About what.
    pub topic: Topic,
}

/// The version of a record. A later epoch (one per launch) beats any sequence.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Version {
    /// Rises with every launch of the owner.
    pub epoch: u64,
    /// Rises with every change within an epoch.
    pub sequence: u64,
}

/// A record as it travels. What is derived from its bytes is kept with it, so
/// that it is read, hashed and verified once however many hold it.
#[derive(Serialize, Deserialize)]
pub struct Record {
    /// Owner and topic.
    pub key: RecordKey,
    /// Which version.
    pub version: Version,
    /// The encoded [`Body`]. Kept as bytes so that a signature over fields of a
    /// later version still verifies and the record can be passed on.
    pub body: Vec<u8>,
    /// Ed25519 over [`Record::signed_bytes`], in two halves (serde has no 64-byte array).
    pub signature: ([u8; 32], [u8; 32]),
    #[serde(skip)]
    memo: Memo,
}

/// What follows from the bytes of a record. A copy starts without it, since a
/// copy may be changed.
#[derive(Default)]
struct Memo {
    content: OnceLock<Option<Box<Body>>>,
    hash: OnceLock<u64>,
    genuine: OnceLock<bool>,
}

impl Record {
    /// A record that is not signed yet.
    pub fn new(key: RecordKey, version: Version, body: Vec<u8>) -> Self {
        Self {
            key,
            version,
            body,
            signature: Default::default(),
            memo: Memo::default(),
        }
    }

    /// What the owner signs: everything but the signature, under a label.
    pub fn signed_bytes(&self) -> Vec<u8> {
        encode(&("wove record v1", self.key, self.version, &self.body))
    }

    /// How many bytes the record takes on the wire, without encoding it.
    #[inline]
    pub fn encoded_len(&self) -> usize {
        let topic = match self.key.topic {
            Topic::Node | Topic::Space | Topic::Guard | Topic::Division => 1,
            Topic::Links(_) => 2,
            Topic::Stations(part) | Topic::Names(part) => 1 + varint_len(u64::from(part)),
        };
        let version = varint_len(self.version.epoch) + varint_len(self.version.sequence);
        let body = varint_len(self.body.len() as u64) + self.body.len();
        PeerId::LEN + topic + version + body + 64
    }

    /// The record's bytes on the wire.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads a record; it is not yet verified.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_RECORD {
            return Err(DecodeError::Limit);
        }
        decode(bytes)
    }

    /// What the record says; none if it cannot be read.
    #[inline]
    pub fn content(&self) -> Option<&Body> {
        let read = || Body::decode(&self.body).ok().map(Box::new);
        self.memo.content.get_or_init(read).as_deref()
    }

    /// The hash of the record, made by `hash` at the first call.
    #[inline]
    pub fn hash_with(&self, hash: impl FnOnce(&Self) -> u64) -> u64 {
        *self.memo.hash.get_or_init(|| hash(self))
    }

    /// Whether the signature is good, found out by `verify` at the first call.
    /// Owner, keys and bytes of a record do not change, so neither does this.
    #[inline]
    pub fn genuine_with(&self, verify: impl FnOnce(&Self) -> bool) -> bool {
        *self.memo.genuine.get_or_init(|| verify(self))
    }

    /// The signature as bytes.
    pub fn signature_bytes(&self) -> [u8; 64] {
        let mut out = [0; 64];
        out[..32].copy_from_slice(&self.signature.0);
        out[32..].copy_from_slice(&self.signature.1);
        out
    }

    /// Sets the signature from bytes.
    pub fn set_signature(&mut self, bytes: &[u8; 64]) {
        let (head, tail) = bytes.split_at(32);
        self.signature.0.copy_from_slice(head);
        self.signature.1.copy_from_slice(tail);
        self.memo = Memo::default();
    }
}

impl Clone for Record {
    fn clone(&self) -> Self {
        let (body, memo) = (self.body.clone(), Memo::default());
        Self {
            body,
            memo,
            ..*self
        }
    }
}

impl PartialEq for Record {
    fn eq(&self, other: &Self) -> bool {
        self.signature == other.signature
            && self.key == other.key
            && self.version == other.version
            && self.body == other.body
    }
}

impl Eq for Record {}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("key", &self.key)
            .field("version", &self.version)
            .field("body", &self.body)
            .finish_non_exhaustive()
    }
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// About the peer itself.
    Node(Node),
    /// About its links.
    Links(Links),
    /// About some of its stations.
    Stations(Stations),
    /// About some of its names.
    Names(Names),
    /// About its space.
    Space(Space),
    /// About others' space.
    Guard(Guard),
    /// About the first division.
    Division(Division),
}

impl Body {
    /// The body's bytes inside a record.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads a body.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_RECORD {
            return Err(DecodeError::Limit);
        }
        decode(bytes)
    }
}

/// The peer itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// The owner's public keys; their hash must be the owner's id. They verify
    /// all of its records, so this record has to come before the others.
    pub keys: PublicKeys,
    /// A label for people; the host name unless told otherwise. At most 64 bytes.
    pub nickname: String,
    /// Random per launch: two values in one epoch mean two daemons with one key.
    pub instance: u64,
    /// Where the peer can be dialled, as far as it knows. At most 16.
    pub endpoints: Vec<SocketAddr>,
    /// The version of wove, for people. At most 32 bytes.
    pub version: String,
    /// Bits for what the peer can do; unknown bits are ignored.
    pub capabilities: u64,
}

/// A part of the peer's links, strictly sorted by id. At most 90.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Links {
    /// The neighbours.
    pub links: Vec<LinkTo>,
}

/// A neighbour, and what the way to it costs. Nine bytes: with thousands of
/// peers these are most of what gossip carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LinkTo {
    /// The start of the neighbour's id. A link counts when both ends report it,
    /// so whoever shares the start of an id gains nothing.
    pub peer: ShortId,
    /// The measured round-trip time.
    pub rtt: RttCode,
}

/// A round-trip time in microseconds as four steps per octave, from 4 us on:
/// exponent in the upper bits, two bits of mantissa. Off by an eighth at most,
/// so that jitter changes no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct RttCode(pub u8);

impl RttCode {
    /// The longest time that can be told apart: 134 s.
    pub const MAX: Self = Self(25 << 2);

    /// The nearest code.
    pub fn from_micros(us: u32) -> Self {
        let us = us.clamp(4, Self::MAX.micros());
        let exponent = us.ilog2() - 2;
        let rounded = (us + ((1 << exponent) >> 1)) >> exponent;
        // Rounding up may reach the next octave, whose code follows.
        let code = (exponent << 2) + rounded - 4;
        u8::try_from(code).map_or(Self::MAX, |code| Self(code).min(Self::MAX))
    }

    /// The time in microseconds. Codes beyond [`RttCode::MAX`] count as that.
    pub fn micros(self) -> u32 {
        let code = u32::from(self.0.min(Self::MAX.0));
        (4 + (code & 3)) << (code >> 2)
    }
}

/// Stations behind the peer.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stations {
    /// The stations of this part.
    pub stations: Vec<Station>,
}

/// A MAC address that lives behind the owner of the record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Station {
    /// The address.
    pub mac: MacAddr,
    /// Beats a lower claim to the same MAC by another peer.
    pub claim: u32,
    /// Its IP addresses, each with the claim that beats a lower one. At most 8.
    pub ips: Vec<(IpAddr, u32)>,
}

/// Names that the owner of the record answers for.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Names {
    /// The names of this part, strictly sorted.
    pub names: Vec<Name>,
}

/// A name and addresses it stands for; another part may have more of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Name {
    /// Labels with dots between, in lower case, without the domain: hosts whose
    /// domains differ know each other's names all the same.
    pub name: String,
    /// The addresses, strictly sorted.
    pub addresses: Vec<IpAddr>,
}
