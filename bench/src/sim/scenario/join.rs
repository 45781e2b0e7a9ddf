//! Newcomers: how soon they reach others and are reached.

use std::time::Duration;

use rand::seq::IndexedRandom;

use super::{Run, Scenario, Start};
use crate::sim::{time::Time, world::World};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "join",
    about: "newcomers with one seed: until frames get to random others and back",
    start: Start::Warm,
    spoils: false,
    rewrites: false,
    run,
};

/// Newcomers to a large mesh, and to one below [`LARGE`].
const NEWCOMERS: u32 = 20;
const FEW: u32 = 10;
const LARGE: u32 = 1000;
const SEEDS: usize = 3;
const TARGETS: usize = 50;
/// How exact the times are.
const LOOK: Duration = Duration::from_millis(10);
/// Who is not reached by then has not joined.
const PATIENCE: Duration = Duration::from_secs(15);
/// Round trips of a handshake between the two ends, until the first frame has
/// arrived: the initiator sends it once the responder has confirmed.
const ROUND_TRIPS: f64 = 2.5;
/// How often the container of a newcomer asks each that has not answered.
const ASK: Duration = Duration::from_millis(50);
/// Until everybody knows where the containers of members are.
const STARTING: Duration = Duration::from_secs(5);

fn run(run: &mut Run<'_>) {
    let members = run.world.running();
    // A seed behind address translation is one that nobody would name.
    let wan = &run.world.shared.wan;
    let open: Vec<u32> = members
        .iter()
        .copied()
        .filter(|member| !wan.is_natted(*member))
        .collect();
    let seeds: Vec<u32> = open.choose_multiple(&mut run.rng, SEEDS).copied().collect();
    let first = run.world.setup.peers;
    let count = if first >= LARGE { NEWCOMERS } else { FEW };
    let newcomers = first..first + count.min(run.world.setup.newcomers);
    if run.world.setup.engine {
        run.world.each(|host, net| host.start_container(net));
        run.world.run_for(STARTING);
    }
    let mut times = Vec::new();
    for newcomer in newcomers.clone() {
        let seed = seeds.choose(&mut run.rng).copied().unwrap_or_default();
        times.extend(join(run, newcomer, seed, &members));
    }
    let missing = times
        .iter()
        .filter(|time| **time >= PATIENCE.as_secs_f64())
        .count();
    run.figures.set_times("join", &mut times);
    run.figures.set("missing", missing as f64);
    newcomers.for_each(|newcomer| run.world.stop(newcomer));
}

/// Launches one newcomer. Returns seconds until frames get to each of some
/// random members; [`PATIENCE`] if they do not.
fn join(run: &mut Run<'_>, newcomer: u32, seed: u32, members: &[u32]) -> Vec<f64> {
    let mut targets: Vec<u32> = members
        .choose_multiple(&mut run.rng, TARGETS)
        .copied()
        .collect();
    let begun = run.world.now;
    run.world.launch(newcomer, &[seed]);
    let mut times = match run.world.setup.engine {
        true => exchange(run, newcomer, &mut targets, begun),
        false => foresee(run, newcomer, &mut targets, begun),
    };
    times.extend(targets.iter().map(|_| PATIENCE.as_secs_f64()));
    times
}

/// Seconds until a frame of the newcomer's container got to that of each target
/// and the answer back. Those that do not answer stay among the targets.
fn exchange(run: &mut Run<'_>, newcomer: u32, targets: &mut Vec<u32>, begun: Time) -> Vec<f64> {
    let mut times = Vec::new();
    run.world
        .with(newcomer, |host, net| host.start_container(net));
    while !targets.is_empty() && run.world.now.since(begun) < PATIENCE {
        run.world.with(newcomer, |host, net| {
            targets.iter().for_each(|target| host.ask(*target, net));
        });
        run.world.run_for(ASK);
        let host = run.world.host(newcomer);
        targets.retain(|target| {
            let Some(at) = host.answer_of(*target) else {
                return true;
            };
            times.push(at.since(begun).as_secs_f64());
            false
        });
    }
    times
}

/// Seconds until the newcomer and each target have a session with each other
/// over a way that works, if their handshake, which is not simulated, goes well.
fn foresee(run: &mut Run<'_>, newcomer: u32, targets: &mut Vec<u32>, begun: Time) -> Vec<f64> {
    let mut times = Vec::new();
    while !targets.is_empty() && run.world.now.since(begun) < PATIENCE {
        run.world.run_for(LOOK);
        let world = &*run.world;
        let passed = world.now.since(begun).as_secs_f64();
        targets.retain(|target| {
            let Some(round_trip) = round_trip(world, newcomer, *target) else {
                return true;
            };
            times.push(passed + ROUND_TRIPS * round_trip);
            false
        });
    }
    times
}

/// The shortest round trip in seconds between a newcomer and a target that it
/// has a route to: a peer tries the target's own address and the relays at
/// once, and the first that answers wins. None if neither leads there and back.
fn round_trip(world: &World, newcomer: u32, target: u32) -> Option<f64> {
    world.view(newcomer)?.next_hop(target)?;
    let direct = [newcomer, target];
    let direct =
        (world.shared.wan.connects(newcomer, target)).then(|| 2.0 * world.chain_delay(&direct));
    let there = world.chain(newcomer, target).ok();
    let back = world.chain(target, newcomer).ok();
    let relayed = there
        .zip(back)
        .map(|(there, back)| world.chain_delay(&there) + world.chain_delay(&back));
    [direct, relayed]
        .into_iter()
        .flatten()
        .min_by(f64::total_cmp)
}
