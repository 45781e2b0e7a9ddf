//! The cost of a handshake and of taking in a record.

use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use crypto::{Identity, Secret};
use gossip::replica::Replica;
use proto::{
    PeerId, PublicKeys,
    record::{Body, Links, Record, RecordKey, Topic, Version},
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
    let mut replica = Replica::new(20_000);
    let mut records: Vec<Arc<Record>> = (0..1000).map(|owner| record(owner, 0)).collect();
    for record in &records {
        replica.merge(record, |_| true);
    }
    let mut sequence = 0;
    c.bench_function("gossip/merge a new version", |bench| {
        bench.iter_batched_ref(
            || {
                sequence += 1;
                record(sequence % 1000, sequence)
            },
            |record| replica.merge(record, |_| true),
            BatchSize::SmallInput,
        );
    });
    records.truncate(1);
    c.bench_function("gossip/merge a known version", |bench| {
        bench.iter(|| replica.merge(&records[0], |_| true));
    });
}

fn record(owner: u64, sequence: u64) -> Arc<Record> {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&owner.to_be_bytes());
    let links = (0..8).map(|peer| (PeerId([peer; 16]), 1000)).collect();
    Arc::new(Record {
        key: RecordKey {
            owner: PeerId(id),
            topic: Topic::Links(0),
        },
        keys: PublicKeys {
            sign: [1; 32],
            exchange: [2; 32],
        },
        version: Version { epoch: 1, sequence },
        body: Body::Links(Links { links }).encode(),
        signature: ([3; 32], [4; 32]),
    })
}

criterion_group!(benches, handshakes, records, merges);
criterion_main!(benches);
