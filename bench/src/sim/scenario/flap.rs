//! Some links flap: what that costs everybody.

use std::time::Duration;

use rand::{Rng, seq::IndexedRandom};

use super::{Run, Scenario, Start};
use crate::sim::time::Time;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "flap",
    about: "the underlay of 1 % of the links is cut for 3 s and mended for 4 s, again and again",
    start: Start::Warm,
    spoils: false,
    rewrites: false,
    run,
};

const DURATION_S: u64 = 120;
const SHARE: f64 = 0.01;
const CUT: Duration = Duration::from_secs(3);
const MENDED: Duration = Duration::from_secs(4);
const STEP: Duration = Duration::from_millis(100);

fn run(run: &mut Run<'_>) {
    let duration = run.duration(DURATION_S);
    let pairs = flapping(run);
    run.world
        .watch_reach(vec![Time::default(); run.world.numbers().len()]);
    let (before, runs, begun) = (run.world.traffic(), route_runs(run), run.world.now);
    let cycle = CUT + MENDED;
    while run.world.now.since(begun) < duration {
        let passed = run.world.now.since(begun);
        let is_cut = |phase: Duration| {
            let phase = (passed + phase).as_nanos() % cycle.as_nanos();
            phase < CUT.as_nanos()
        };
        let cut = pairs.iter().filter(|(_, phase)| is_cut(*phase));
        run.world.shared.wan.cut(cut.map(|(pair, _)| *pair));
        run.world.run_for(STEP);
    }
    run.world.shared.wan.cut([]);
    let (lost, _) = run.world.end_watch_reach();
    let running = run.world.running();
    run.set_traffic("peer", &running, &before, duration);
    let runs = (route_runs(run) - runs) as f64;
    let peer_seconds = running.len() as f64 * duration.as_secs_f64();
    run.figures
        .set("route_runs_per_peer_s", runs / peer_seconds);
    run.figures.set("flapping_pairs", pairs.len() as f64);
    run.set_false_dead(&lost);
}

/// Linked pairs that are to flap, each with its phase.
fn flapping(run: &mut Run<'_>) -> Vec<((u32, u32), Duration)> {
    let world = &*run.world;
    let above = |number: u32| {
        let linked = world.host(number).linked().into_iter();
        linked
            .filter(move |other| *other > number)
            .map(move |other| (number, other))
    };
    let all: Vec<(u32, u32)> = world.numbers().flat_map(above).collect();
    let count = ((all.len() as f64 * SHARE).round() as usize).max(1);
    let chosen: Vec<_> = all.choose_multiple(&mut run.rng, count).copied().collect();
    let cycle = (CUT + MENDED).as_secs_f64();
    let rng = &mut run.rng;
    let mut phased = |pair| (pair, Duration::from_secs_f64(rng.random_range(0.0..cycle)));
    chosen.into_iter().map(&mut phased).collect()
}

fn route_runs(run: &Run<'_>) -> u64 {
    let meshes = run
        .world
        .numbers()
        .filter_map(|number| run.world.view(number));
    meshes.map(|mesh| mesh.counters().route_runs).sum()
}
