//! 64-bit hashes that all peers compute alike. They order and compare records;
//! they protect nothing (signatures do).

use proto::{
    PeerId,
    record::{Record, RecordKey, Topic},
};

/// Where a key stands in the space that reconciliation divides.
pub(crate) fn key_hash(key: &RecordKey) -> u64 {
    let topic = match key.topic {
        Topic::Node => 0,
        Topic::Links(part) => 1 << 32 | u64::from(part),
        Topic::Stations(part) => 2 << 32 | u64::from(part),
    };
    fold(id_hash(&key.owner), topic)
}

/// Stands for one record in a fingerprint. The signature covers the body.
pub(crate) fn record_hash(record: &Record) -> u64 {
    let version = fold(
        fold(key_hash(&record.key), record.version.epoch),
        record.version.sequence,
    );
    absorb(absorb(version, &record.signature.0), &record.signature.1)
}

fn id_hash(id: &PeerId) -> u64 {
    absorb(0x5851_f42d_4c95_7f2d, &id.0)
}

fn absorb(state: u64, bytes: &[u8]) -> u64 {
    let (words, _) = bytes.as_chunks::<8>();
    words
        .iter()
        .fold(state, |state, word| fold(state, u64::from_le_bytes(*word)))
}

/// A multiply-and-shift finaliser (after D. Stafford's variants of MurmurHash3's).
fn fold(state: u64, word: u64) -> u64 {
    let x = (state.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    x ^ (x >> 29)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_and_owners_are_told_apart() {
        let key = |owner: u8, topic| {
            key_hash(&RecordKey {
                owner: PeerId([owner; 16]),
                topic,
            })
        };
        let all = [
            key(1, Topic::Node),
            key(2, Topic::Node),
            key(1, Topic::Links(0)),
            key(1, Topic::Links(1)),
            key(1, Topic::Stations(0)),
        ];
        assert!((0..all.len()).all(|i| !all[..i].contains(&all[i])));
    }
}
