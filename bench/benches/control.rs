//! The cost of a handshake, of taking in a record, and of answering for a name.

use std::{net::IpAddr, sync::Arc};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use crypto::{Identity, Secret};
use gossip::{Directory, replica::Replica};
use proto::{
    PeerId, PublicKeys, ShortId,
    record::{Body, LinkTo, Links, Node, Record, RecordKey, RttCode, Topic, Version},
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use wove::engine::{
    dns::{NameMap, Transport, View, Zone},
    snapshot::StationMap,
};
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

/// One query, from bytes to bytes, among ten thousand names.
fn queries(c: &mut Criterion) {
    let names: Vec<String> = (0..10_000).map(|n| format!("name-{n}")).collect();
    let pairs = (0..).zip(&names);
    let pairs = pairs.map(|(n, name)| (name.as_str(), IpAddr::from(u32::to_be_bytes(n))));
    let (directory, changed) = Directory::sample(pairs);
    let mut map = NameMap::default();
    map.update(&directory, &changed);
    let zone = Zone::new("wove.local").expect("a domain");
    let header = [0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let ask = |name: &[u8]| {
        let domain = b"\x04wove\x05local\0\0\x01\0\x01";
        [&header[..], &[name.len() as u8], name, domain].concat()
    };
    for (what, query) in [("known", ask(b"name-4711")), ("unknown", ask(b"nobody"))] {
        c.bench_function(&format!("names/answer, {what}"), |bench| {
            bench.iter(|| {
                let view = View {
                    names: &map,
                    stations: &StationMap::default(),
                    networks: &[],
                    forwards: true,
                    turn: 1,
                };
                zone.answer(&query, Transport::Datagram, view)
            });
        });
    }
}

criterion_group!(benches, handshakes, records, merges, queries);
criterion_main!(benches);
