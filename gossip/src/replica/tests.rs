//! Laws of merging, the sums of ranges, and what is refused.

use proptest::prelude::*;
use proto::record::{Links, MAX_BODY, Version};

use super::*;
use crate::hash::record_hash;

pub(crate) fn record(owner: u8, topic: Topic, sequence: u64, salt: u8) -> Arc<Record> {
    let link = LinkTo {
        peer: ShortId([0xee; 8]),
        rtt: RttCode(salt),
    };
    let body = match topic {
        Topic::Links(_) => Body::Links(Links { links: vec![link] }),
        Topic::Stations(_) => Body::Stations(Default::default()),
        Topic::Names(_) => Body::Names(Default::default()),
        Topic::Space | Topic::Guard | Topic::Division => Body::Guard(Default::default()),
        Topic::Node => Body::Node(Node {
            keys: PublicKeys {
                sign: [owner; 32],
                exchange: [owner; 32],
            },
            nickname: format!("n{salt}"),
            instance: 1,
            endpoints: vec![],
            version: String::new(),
            capabilities: 0,
        }),
    };
    let key = RecordKey {
        owner: PeerId([owner; 16]),
        topic,
    };
    let mut record = Record::new(key, Version { epoch: 1, sequence }, body.encode());
    record.signature = ([salt; 32], [owner; 32]);
    Arc::new(record)
}

/// A replica that knows the owners of all records.
pub(crate) fn replica_of<'a>(records: impl IntoIterator<Item = &'a Arc<Record>>) -> Replica {
    let mut replica = Replica::new(1000, 7);
    for record in records {
        replica.merge(
            &self::record(record.key.owner.0[0], Topic::Node, 0, 0),
            |_, _| true,
        );
        replica.merge(record, |_, _| true);
    }
    replica
}

fn records() -> impl Strategy<Value = Vec<Arc<Record>>> {
    let topic = prop_oneof![
        Just(Topic::Node),
        (0u8..3).prop_map(Topic::Links),
        (0u16..3).prop_map(Topic::Stations),
        (0u16..3).prop_map(Topic::Names)
    ];
    let one = (0u8..4, topic, 0u64..4, 0u8..3).prop_map(|(o, t, s, salt)| record(o, t, s, salt));
    prop::collection::vec(one, 0..60)
}

proptest! {
    #[test]
    fn merging_is_commutative_and_idempotent(records in records(), seed in any::<u64>()) {
        let once = replica_of(&records);
        let mut shuffled = records.clone();
        shuffled.sort_by_key(|r| record_hash(r) ^ seed);
        shuffled.extend(records.iter().take(7).cloned());
        let again = replica_of(&shuffled);
        prop_assert!(once.range(0, u64::MAX, Scope::ALL).eq(again.range(0, u64::MAX, Scope::ALL)));
        prop_assert_eq!(once.sum(Scope::ALL), again.sum(Scope::ALL));
    }

    #[test]
    fn merging_is_associative(a in records(), b in records(), c in records()) {
        let join = |x: &Replica, y: &Replica| {
            let mut joined = x.clone();
            y.range(0, u64::MAX, Scope::ALL).for_each(|r| { joined.merge(r, |_, _| true); });
            joined
        };
        let (a, b, c) = (replica_of(&a), replica_of(&b), replica_of(&c));
        prop_assert_eq!(join(&join(&a, &b), &c).sum(Scope::ALL), join(&a, &join(&b, &c)).sum(Scope::ALL));
    }

    #[test]
    fn kept_sums_equal_counted_sums(records in records(), cuts in any::<(u64, u64)>(), hidden in 0u8..4) {
        let mut replica = replica_of(&records);
        let slot = |replica: &Replica, owner: u8| replica.slot(&PeerId([owner; 16]));
        if let Some(slot) = slot(&replica, hidden) {
            replica.set_hidden(slot, true);
        }
        if let Some(slot) = slot(&replica, (hidden + 1) % 4) {
            replica.remove_owner(slot);
        }
        let (first, last) = (cuts.0.min(cuts.1), cuts.0.max(cuts.1));
        let counted = replica.range(first, last, Scope::ALL).fold(Sum::default(), |s, r| s.joined(Sum::of(r)));
        prop_assert_eq!(replica.sum_of(first, last, Scope::ALL), counted);
        prop_assert_eq!(replica.sum_of(0, u64::MAX, Scope::ALL), replica.sum(Scope::ALL));
        prop_assert_eq!(replica.walked(0, u64::MAX), 0);
        prop_assert!(replica.walked(first, last) <= replica.owner_count() + 2);
        prop_assert!(replica.owners().map(|slot| replica.id(slot)).is_sorted());
        prop_assert_eq!(replica.owners().flat_map(|slot| replica.records_of(slot)).count(), replica.len());
        // A slot that was given back is found under its new owner alone.
        replica.merge(&record(9, Topic::Node, 1, 0), |_, _| true);
        for owner in 0..10 {
            let found = replica.slot(&PeerId([owner; 16]));
            prop_assert!(found.is_none_or(|slot| replica.id(slot) == PeerId([owner; 16])));
        }
    }

    #[test]
    fn hostile_bodies_never_panic(body in prop::collection::vec(any::<u8>(), 0..1200), part in any::<u8>()) {
        let mut bad = (*record(1, Topic::Links(part), 1, 0)).clone();
        bad.body = body;
        let mut replica = replica_of(&[]);
        replica.merge(&record(1, Topic::Node, 1, 0), |_, _| true);
        let merged = replica.merge(&Arc::new(bad.clone()), |_, _| true);
        let readable = Body::decode(&bad.body).is_ok() && bad.body.len() <= MAX_BODY;
        prop_assert!(readable || matches!(merged, Merge::Refused(_)));
    }
}

#[test]
fn only_the_authentic_are_taken_and_only_with_their_node() {
    let mut replica = Replica::new(1, 7);
    let node = record(1, Topic::Node, 1, 0);
    assert_eq!(
        replica.merge(&record(1, Topic::Links(0), 1, 0), |_, _| true),
        Merge::Orphan
    );
    assert_eq!(replica.merge(&node, |_, _| false), Merge::Forged);
    assert!(matches!(
        replica.merge(&node, |_, _| true),
        Merge::New {
            conflict: false,
            ..
        }
    ));
    assert_eq!(replica.merge(&node, |_, _| true), Merge::Stale);
    let twin = record(1, Topic::Node, 1, 9);
    assert!(matches!(
        replica.merge(&twin, |_, _| true),
        Merge::New { conflict: true, .. }
    ));
    assert_eq!(
        replica.merge(&record(2, Topic::Node, 1, 0), |_, _| true),
        Merge::Refused(Refusal::TooManyPeers)
    );
}
