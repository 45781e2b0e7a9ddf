//! Where the simulator depends on how records and messages look inside: the one
//! place to change when they do.

use std::sync::Arc;

use gossip::Mesh;
use proto::{
    message::{GossipMessage, RangeSummary},
    record::{Body, LinkTo, Links, Record, RecordKey, RttCode, Topic, Version},
};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::{
    host::Host,
    identity::{FakeAuthority, id, keys, number},
};

/// The length in bytes of the encoded message.
pub(crate) fn wire_length(message: &GossipMessage) -> usize {
    message.encoded_len()
}

/// The place of a message in [`super::datagram::KINDS`].
pub(crate) fn kind(message: &GossipMessage) -> usize {
    match message {
        GossipMessage::Ping { .. } => 0,
        GossipMessage::Pong { .. } => 1,
        GossipMessage::Push { fresh: true, .. } => 2,
        GossipMessage::Push { fresh: false, .. } => 3,
        GossipMessage::Summary { .. } => 4,
        GossipMessage::Versions { .. } => 5,
        GossipMessage::Want { .. } => 6,
        GossipMessage::Bye { .. } => 7,
        GossipMessage::Prune { .. } => 8,
        GossipMessage::Graft { .. } => 9,
    }
}

/// All records a mesh holds.
pub(crate) fn records(mesh: &Mesh<FakeAuthority>) -> Vec<Arc<Record>> {
    mesh.records().cloned().collect()
}

/// What a peer says itself.
pub(crate) fn own_records(host: &Host) -> Vec<Arc<Record>> {
    let own = id(host.number);
    let all = host.mesh.iter().flat_map(Mesh::records);
    all.filter(|record| record.key.owner == own)
        .cloned()
        .collect()
}

/// Whether a message is part of a link's heartbeat.
pub(crate) fn is_heartbeat(message: &GossipMessage) -> bool {
    matches!(
        message,
        GossipMessage::Ping { .. } | GossipMessage::Pong { .. }
    )
}

/// A record with a peer's own signature.
pub(crate) fn signed(number: u32, topic: Topic, version: Version, body: &Body) -> Record {
    let owner = id(number);
    let mut record = Record::new(RecordKey { owner, topic }, version, body.encode());
    let signature = gossip::Authority::sign(&FakeAuthority(keys(number)), &record.signed_bytes());
    record.set_signature(&signature);
    record
}

/// Records as a neighbour hands them over that makes up for what was missed.
pub(crate) fn push(records: Vec<Arc<Record>>) -> GossipMessage {
    GossipMessage::Push {
        fresh: false,
        records,
    }
}

/// Whether the owner of a record signed it.
pub(crate) fn is_genuine(record: &Arc<Record>) -> bool {
    let authority = FakeAuthority(keys(number(&record.key.owner)));
    gossip::Authority::sign(&authority, &record.signed_bytes()) == record.signature_bytes()
}

/// Passes the records of others in a message through `f`; nothing is left of a
/// message of which no record is left.
pub(crate) fn map_records(
    mut message: GossipMessage,
    ours: u32,
    mut f: impl FnMut(Arc<Record>) -> Option<Arc<Record>>,
) -> Option<GossipMessage> {
    if let GossipMessage::Push { records, .. } = &mut message {
        let owner = id(ours);
        let old = std::mem::take(records);
        records.extend(
            old.into_iter()
                .filter_map(|record| match record.key.owner == owner {
                    true => Some(record),
                    false => f(record),
                }),
        );
        if records.is_empty() {
            return None;
        }
    }
    Some(message)
}

/// A record made to look newer: with the old signature, or with the forger's.
pub(crate) fn forged(record: &Record, forger: u32, old_signature: bool) -> Record {
    let mut version = record.version;
    version.sequence += 1;
    let mut forged = Record::new(record.key, version, record.body.clone());
    forged.signature = record.signature;
    if let Some(byte) = forged.body.last_mut() {
        *byte ^= 1;
    }
    if !old_signature {
        let authority = FakeAuthority(keys(forger));
        forged.set_signature(&gossip::Authority::sign(&authority, &forged.signed_bytes()));
    }
    forged
}

/// Records that claim hundreds of links to random members, well signed.
pub(crate) fn false_links(
    liar: u32,
    epoch: u64,
    count: u64,
    members: u32,
    rng: &mut ChaCha8Rng,
) -> Vec<Arc<Record>> {
    const PARTS: u8 = 4;
    const LINKS: usize = 90;
    let version = Version {
        epoch,
        sequence: (1 << 40) + count,
    };
    let mut part = |part| {
        let mut links: Vec<_> = (0..LINKS)
            .map(|_| LinkTo {
                peer: id(rng.random_range(0..members)).short_id(),
                rtt: RttCode::from_micros(1000),
            })
            .collect();
        links.sort_unstable();
        links.dedup_by_key(|link| link.peer);
        let body = Body::Links(Links { links });
        Arc::new(signed(liar, Topic::Links(part), version, &body))
    };
    (0..PARTS).map(&mut part).collect()
}

/// A message that makes no sense, but costs who gets it some work.
pub(crate) fn nonsense(
    liar: u32,
    kept: &[Arc<Record>],
    members: u32,
    rng: &mut ChaCha8Rng,
) -> GossipMessage {
    let first = rng.random();
    match (rng.random_range(0..3), kept.is_empty()) {
        (0, false) => {
            let record = &kept[rng.random_range(0..kept.len())];
            push(vec![Arc::new(forged(record, liar, rng.random()))])
        }
        (0 | 1, _) => GossipMessage::Summary {
            ranges: vec![RangeSummary {
                first,
                last: u64::MAX,
                fingerprint: rng.random(),
                count: members,
            }],
        },
        (_, _) => GossipMessage::Want {
            keys: (0..16)
                .map(|_| RecordKey {
                    owner: id(rng.random_range(0..members)),
                    topic: Topic::Node,
                })
                .collect(),
        },
    }
}
