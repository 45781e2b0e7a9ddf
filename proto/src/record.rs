//! The records that gossip replicates (design D3).
//!
//! A record is one statement of its owner about itself. The owner signs it, a
//! relay passes it on unchanged, and the pair (epoch, sequence) orders the
//! versions of one key. Wall clocks play no part.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{
    DecodeError, MacAddr, PeerId, PublicKeys,
    codec::{decode, encode},
};

/// The largest encoded record, so that one always fits a datagram of 1200 bytes.
pub const MAX_RECORD: usize = 1000;

/// The largest encoded body. The rest of [`MAX_RECORD`] covers owner, topic,
/// keys, version and signature at their longest, and the body's length.
pub const MAX_BODY: usize = 828;

/// What a record is about; with the owner it is the record's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Topic {
    /// The peer itself: [`Node`].
    Node,
    /// One part of its links: [`Links`].
    Links(u8),
    /// One part of its stations: [`Stations`].
    Stations(u16),
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

/// A record as it travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Owner and topic.
    pub key: RecordKey,
    /// The owner's public keys; their hash must be the owner's id.
    pub keys: PublicKeys,
    /// Which version.
    pub version: Version,
    /// The encoded [`Body`]. Kept as bytes so that a signature over fields of a
    /// later version still verifies and the record can be passed on.
    pub body: Vec<u8>,
    /// Ed25519 over [`Record::signed_bytes`], in two halves (serde has no 64-byte array).
    pub signature: ([u8; 32], [u8; 32]),
}

impl Record {
    /// What the owner signs: everything but the signature, under a label.
    pub fn signed_bytes(&self) -> Vec<u8> {
        encode(&(
            "wove record v1",
            self.key,
            self.keys,
            self.version,
            &self.body,
        ))
    }

    /// No fewer bytes than the record takes on the wire, without encoding it.
    pub fn encoded_bound(&self) -> usize {
        MAX_RECORD - MAX_BODY + self.body.len()
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

/// A part of the peer's links, strictly sorted by id. At most 40.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Links {
    /// Neighbours and the measured round-trip time to each, in microseconds.
    pub links: Vec<(PeerId, u32)>,
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
