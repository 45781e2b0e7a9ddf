//! Seeded mutation: takes a valid input and damages it in the ways that
//! decoders are known to mind. Knows nothing of formats.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

const ITERATIONS: u64 = 200_000;

/// Inputs stay near the size of a datagram; larger ones only cost time.
const LARGEST: usize = 2048;

/// Values at which lengths, counts and signs turn.
const EDGES: [u8; 9] = [0, 1, 2, 0x0f, 0x7f, 0x80, 0xfe, 0xff, 0x40];

/// Feeds `target` with the corpus as it is, and then with damaged copies.
pub(crate) fn hammer(name: &str, corpus: &[Vec<u8>], target: fn(&[u8])) {
    let seed = setting("WOVE_FUZZ_SEED").unwrap_or(1);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for input in corpus {
        run(name, input, target);
    }
    run(name, &[], target);
    let mut input = Vec::with_capacity(2 * LARGEST);
    for _ in 0..setting("WOVE_FUZZ_ITERATIONS").unwrap_or(ITERATIONS) {
        input.clear();
        input.extend_from_slice(corpus.choose(&mut rng).expect("a corpus has an entry"));
        for _ in 0..rng.random_range(1..=4) {
            mutate(&mut input, corpus, &mut rng);
        }
        input.truncate(LARGEST);
        run(name, &input, target);
    }
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} wants a number, not {text:?}")),
    )
}

/// Runs the target; if it panics, so does this, and names the input to keep.
fn run(name: &str, input: &[u8], target: fn(&[u8])) {
    let outcome = catch_unwind(AssertUnwindSafe(|| target(input)));
    assert!(outcome.is_ok(), "{name} fails on {input:02x?}");
}

fn mutate(input: &mut Vec<u8>, corpus: &[Vec<u8>], rng: &mut ChaCha8Rng) {
    if input.is_empty() {
        input.push(rng.random());
        return;
    }
    let at = rng.random_range(0..input.len());
    match rng.random_range(0..10) {
        0 | 1 => input[at] ^= 1 << rng.random_range(0..8),
        2 => input[at] = rng.random(),
        3 => input[at] = *EDGES.choose(rng).expect("it has nine"),
        4 => input[at] = input[at].wrapping_add(if rng.random() { 1 } else { 255 }),
        5 => input.truncate(at),
        6 => input.insert(at, rng.random()),
        7 => drop(input.remove(at)),
        8 => repeat_part(input, at, rng),
        _ => {
            // The front of this one, and the back of another.
            let other = corpus.choose(rng).expect("a corpus has an entry");
            input.truncate(at);
            input.extend_from_slice(&other[rng.random_range(0..=other.len())..]);
        }
    }
}

fn repeat_part(input: &mut Vec<u8>, at: usize, rng: &mut ChaCha8Rng) {
    let len = rng.random_range(0..=(input.len() - at).min(64));
    let part = input[at..at + len].to_vec();
    let to = rng.random_range(0..=input.len());
    input.splice(to..to, part);
    input.truncate(LARGEST);
}
