//! 64-bit hashes that all peers compute alike. They order and compare records;
//! they protect nothing (signatures do).

use proto::{
    PeerId, ShortId,
    record::{Record, RecordKey, Topic},
};

/// Where a key stands in the space that reconciliation divides: 48 bits of the
/// owner's id, which is a hash, then the topic. So an owner's records are
/// neighbours, its node record first.
pub(crate) fn position(key: &RecordKey) -> u64 {
    let topic = match key.topic {
        Topic::Node => 0,
        Topic::Links(part) => 1 + u64::from(part).min(0xfe),
        Topic::Stations(part) => 0x100 + u64::from(part).min(0xdeff),
        Topic::Names(part) => 0xe000 + u64::from(part).min(0x1ffc),
        Topic::Space => 0xfffd,
        Topic::Guard => 0xfffe,
        Topic::Division => 0xffff,
    };
    start(&key.owner.short_id()) & !0xffff | topic
}

/// Stands for one record in a fingerprint. The signature covers the body.
pub(crate) fn record_hash(record: &Record) -> u64 {
    record.hash_with(|record| {
        let named = absorb(
            id_hash(&record.key.owner),
            &position(&record.key).to_le_bytes(),
        );
        let version = fold(fold(named, record.version.epoch), record.version.sequence);
        absorb(absorb(version, &record.signature.0), &record.signature.1)
    })
}

/// Stands for one record in a beat, and tells apart two bodies with one version.
pub(crate) fn digest(record: &Record) -> u32 {
    record_hash(record) as u32
}

/// Places an id in a hash table that has a secret salt.
pub(crate) fn scatter(salt: u64, short: &ShortId) -> u64 {
    fold(salt, start(short))
}

fn start(short: &ShortId) -> u64 {
    u64::from_be_bytes(short.0)
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
    fn positions_follow_owner_and_topic() {
        let at = |owner: u8, topic| {
            position(&RecordKey {
                owner: PeerId([owner; 16]),
                topic,
            })
        };
        let all = [
            at(1, Topic::Node),
            at(1, Topic::Links(0)),
            at(1, Topic::Links(3)),
            at(1, Topic::Stations(0)),
            at(1, Topic::Stations(255)),
            at(1, Topic::Names(0)),
            at(1, Topic::Names(255)),
            at(1, Topic::Space),
            at(1, Topic::Guard),
            at(1, Topic::Division),
            at(2, Topic::Node),
        ];
        assert!(all.is_sorted_by(|a, b| a < b));
        assert!(at(1, Topic::Links(u8::MAX)) < at(1, Topic::Stations(0)));
        assert!(at(1, Topic::Stations(u16::MAX)) < at(1, Topic::Names(0)));
        assert!(at(1, Topic::Names(u16::MAX)) < at(1, Topic::Space));
        // Parts that peers do take have the places that they always had.
        assert_eq!(at(1, Topic::Names(255)) & 0xffff, 0xe0ff);
    }
}
