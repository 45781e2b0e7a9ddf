//! The cost of a handshake and of taking in a record.

use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use crypto::{Identity, Secret};
use gossip::replica::Replica;
use proto::{
    PeerId, PublicKeys, ShortId,
    record::{Body, LinkTo, Links, Node, Record, RecordKey, RttCode, Topic, Version},
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use wove_bench::handshake;

fn handshakes(c: &mut Criterion) {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (a, b) = (Identity::generate(&mut rng), Identity::generate(&mut rng));
    let secret = Secret::generate(&mut rng);
    c.bench_function("handshake/both sides", |bench| {
        bench.iter(|| handshake(&a, &b, &secret, &mut rng));
    });
}

fn records(c: &mut Criterion) {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let identity = Identity::generate(&mut rng);
    let message = [7; 400];
    let signature = identity.sign(&message);
    let keys = identity.public();
    c.bench_function("record/sign", |bench| {
        bench.iter(|| identity.sign(&message))
    });
    c.bench_function("record/verify", |bench| {
        bench.iter(|| crypto::verify(&keys, &message, &signature))
    });
}

/// Taking in a record that is new, and one that is known, among a thousand.
fn merges(c: &mut Criterion) {
    let mut replica = Replica::new(20_000, 1);
    let mut records: Vec<Arc<Record>> = (0..1000).map(|owner| record(owner, 0)).collect();
    for record in (0..1000).map(node).chain(records.iter().cloned()) {
        replica.merge(&record, |_, _| true);
    }
    let mut sequence = 0;
    c.bench_function("gossip/merge a new version", |bench| {
        bench.iter_batched_ref(
            || {
                sequence += 1;
                record(sequence % 1000, sequence)
            },
            |record| replica.merge(record, |_, _| true),
            BatchSize::SmallInput,
        );
    });
    records.truncate(1);
    c.bench_function("gossip/merge a known version", |bench| {
        bench.iter(|| replica.merge(&records[0], |_, _| true));
    });
}

fn node(owner: u64) -> Arc<Record> {
    let keys = PublicKeys {
        sign: [1; 32],
        exchange: [2; 32],
    };
    let body = Body::Node(Node {
        keys,
        nickname: format!("host{owner}"),
        instance: owner,
        endpoints: vec![wove_bench::NEAR_ADDRESS],
        version: "1".to_owned(),
        capabilities: 0,
    });
    signed(owner, Topic::Node, 0, body)
}

fn record(owner: u64, sequence: u64) -> Arc<Record> {
    let links = (0..8).map(|peer| LinkTo {
        peer: ShortId([peer; 8]),
        rtt: RttCode::from_micros(1000),
    });
    let links = links.collect();
    signed(
        owner,
        Topic::Links(0),
        sequence,
        Body::Links(Links { links }),
    )
}

fn signed(owner: u64, topic: Topic, sequence: u64, body: Body) -> Arc<Record> {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&owner.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    let owner = PeerId(id);
    let version = Version { epoch: 1, sequence };
    let mut record = Record::new(RecordKey { owner, topic }, version, body.encode());
    record.signature = ([3; 32], [4; 32]);
    Arc::new(record)
}

criterion_group!(benches, handshakes, records, merges);
criterion_main!(benches);
