//! Every decoder against mutated input, on stable Rust and reproducible.
//!
//! Each function in [`targets`] takes arbitrary bytes and panics if a law is
//! broken, so a coverage-guided fuzzer can call the same functions. Here a
//! small seeded harness feeds them with damaged copies of valid encodings.
//! `WOVE_FUZZ_ITERATIONS` says how many inputs each target gets (default
//! 200,000), `WOVE_FUZZ_SEED` where the generator starts.

mod corpus;
mod harness;
mod targets;

use harness::hammer;

#[test]
fn datagram() {
    hammer("datagram", &corpus::datagrams(), targets::datagram);
}

#[test]
fn stream() {
    hammer("stream", &corpus::streams(), targets::stream);
}

#[test]
fn content() {
    hammer("content", &corpus::contents(), targets::content);
}

#[test]
fn message() {
    hammer("message", &corpus::messages(), targets::message);
}

#[test]
fn record() {
    hammer("record", &corpus::records(), targets::record);
}

#[test]
fn body() {
    hammer("body", &corpus::bodies(), targets::body);
}

#[test]
fn query() {
    hammer("query", &corpus::queries(), targets::query);
}

#[test]
fn text() {
    hammer("text", &corpus::texts(), targets::text);
}

#[test]
fn frame() {
    hammer("frame", &corpus::frames::plain(), targets::frame);
}

#[test]
fn neighbour() {
    hammer("neighbour", &corpus::frames::plain(), targets::neighbour);
}

#[test]
fn mss() {
    hammer("mss", &corpus::frames::plain(), targets::mss);
}

#[test]
fn offload() {
    hammer("offload", &corpus::frames::super_frames(), targets::offload);
}

#[test]
fn join() {
    hammer("join", &corpus::frames::segments(), targets::join);
}

#[test]
fn fragment() {
    hammer("fragment", &corpus::fragment_steps(), targets::fragment);
}

#[test]
fn dedup() {
    hammer("dedup", &corpus::dedup_steps(), targets::dedup);
}
