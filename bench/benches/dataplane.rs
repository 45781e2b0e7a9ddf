//! Nanoseconds and allocations per frame: sealing, opening, and the whole way
//! from a frame to a datagram and back.
#![expect(unsafe_code, reason = "counting allocations takes a global allocator")]
#![expect(clippy::print_stdout, reason = "a benchmark prints")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    hint::black_box,
    sync::atomic::{AtomicU64, Ordering},
};

use bench::{NEAR_ADDRESS, Pair, Sink, frame, now};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use proto::datagram::{Datagram, Protection, TAG, TRANSPORT_HEADER};
use wove::engine::{Egress, Ingress};
use wove_bench as bench;

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Plaintext sizes: a small packet, a full frame of the default MTU.
const SIZES: [usize; 2] = [64, 1414];

fn seal_open(c: &mut Criterion) {
    let pair = Pair::new();
    let (near, far) = (session(&pair.near), session(&pair.far));
    let mut group = c.benchmark_group("session");
    for size in SIZES {
        group.throughput(Throughput::Bytes(size as u64));
        let mut buffer = vec![0; TRANSPORT_HEADER + size + TAG];
        group.bench_function(BenchmarkId::new("seal", size), |b| {
            b.iter(|| near.seal(Protection::Sealed, black_box(&mut buffer)));
        });
        near.seal(Protection::Sealed, &mut buffer)
            .expect("the counter is far from its end");
        let sealed = buffer.clone();
        group.bench_function(BenchmarkId::new("open", size), |b| {
            b.iter(|| {
                buffer.copy_from_slice(&sealed);
                let Ok(Datagram::Transport(header)) = Datagram::parse(&buffer) else {
                    return;
                };
                black_box(far.open(&header, &mut buffer).is_ok());
            });
        });
    }
    group.finish();
}

fn session(snapshot: &wove::engine::Snapshot) -> std::sync::Arc<crypto::Session> {
    let mut sessions = snapshot
        .paths
        .values()
        .filter_map(|path| path.session.clone());
    sessions.next().expect("the pair shares a session")
}

fn forward(c: &mut Criterion) {
    let pair = Pair::new();
    let (mut egress, mut ingress) = (Egress::new(), Ingress::new());
    let (mut out, mut back) = (Sink::default(), Sink::default());
    let now = now();
    let mut there_and_back = |frame: &mut [u8]| {
        egress.handle_frame(&pair.near, frame, now, &mut out);
        ingress.handle_datagram(
            &pair.far,
            &mut out.datagram,
            NEAR_ADDRESS.into(),
            now,
            &mut back,
        );
        (out.datagrams, back.frames)
    };
    for size in SIZES {
        let mut sample = frame(size);
        let (_, delivered) = there_and_back(&mut sample);
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        let rounds = 10_000;
        let mut last = 0;
        for _ in 0..rounds {
            (_, last) = there_and_back(&mut sample);
        }
        let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
        println!("forward/{size}: {allocations} allocations in {rounds} frames");
        assert_eq!(
            (allocations, last - delivered),
            (0, rounds),
            "every frame arrives and none allocates"
        );
    }
    let mut group = c.benchmark_group("forward");
    for size in SIZES {
        let mut sample = frame(size);
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("frame-datagram-frame", size), |b| {
            b.iter(|| there_and_back(black_box(&mut sample)));
        });
    }
    group.finish();
}

/// A super-frame on its way: cut and sealed into datagrams, opened and joined again.
fn forward_super(c: &mut Criterion) {
    let pair = Pair::new();
    let (mut egress, mut ingress) = (Egress::new(), Ingress::new());
    let (mut out, mut back) = (bench::Train::default(), bench::Train::default());
    let (header, frame) = bench::super_frame();
    let now = now();
    let mut there_and_back = |frame: &mut [u8]| {
        egress.handle_offloaded(&pair.near, &header, frame, now, &mut out);
        egress.flush(&pair.near, &mut out);
        for datagram in out.datagrams() {
            ingress.handle_datagram(&pair.far, datagram, NEAR_ADDRESS.into(), now, &mut back);
        }
        out.clear();
        back.flush();
        back.joined
    };
    let mut sample = frame.clone();
    let delivered = there_and_back(&mut sample);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    let last = there_and_back(&mut sample);
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
    assert_eq!(
        (allocations, last - delivered),
        (0, 1),
        "it arrives in one piece and allocates nothing"
    );
    let mut group = c.benchmark_group("forward");
    group.throughput(Throughput::Bytes(frame.len() as u64));
    group.bench_function("super-frame", |b| {
        b.iter(|| there_and_back(black_box(&mut sample)));
    });
    group.finish();
}

criterion_group!(benches, seal_open, forward, forward_super);
criterion_main!(benches);
