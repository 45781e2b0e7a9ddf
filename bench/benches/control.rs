//! The cost of a handshake and of taking in a record.

use criterion::{Criterion, criterion_group, criterion_main};
use crypto::{Identity, Secret};
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

criterion_group!(benches, handshakes, records);
criterion_main!(benches);
