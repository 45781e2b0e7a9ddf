//! The address space: one peer owns all, everybody wants an address; then two
//! halves that do not see each other give out more, and meet again.

use std::{collections::HashSet, net::Ipv4Addr, time::Duration};

use gossip::space::{Init, SpaceConfig};
use rand::seq::SliceRandom;

use super::{Run, Scenario, Start};
use crate::sim::reach::Numbers;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "ipam",
    about: "all peers get addresses, half an hour apart too: none twice, nothing stuck",
    start: Start::Warm,
    spoils: true,
    rewrites: true,
    run,
};

const DURATION_S: u64 = 1800;
const LOOK: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(300);
/// Peers are asked for their next address over this.
const SPREAD: Duration = Duration::from_secs(10);

fn run(run: &mut Run<'_>) {
    let duration = run.duration(DURATION_S);
    let mut numbers: Vec<u32> = run.world.running();
    for number in &numbers {
        let config = SpaceConfig {
            base: Ipv4Addr::new(10, 32, 0, 0),
            prefix: 12,
            range6: None,
            init: match number {
                0 => Init::Consensus(1),
                _ => Init::Observer,
            },
            dead_after: Duration::from_secs(24 * 3600),
        };
        run.world
            .with(*number, |host, net| host.open_space(config, net));
    }
    run.world.run_for(Duration::from_secs(5));
    run.world.with(0, |host, net| host.allocate(net));
    let first = wait(run, 1);
    run.figures.set("divided_s", first.as_secs_f64());
    let before = received(run);
    for number in numbers.iter().filter(|number| **number != 0) {
        run.world.with(*number, |host, net| host.allocate(net));
    }
    let all = wait(run, 1);
    run.figures.set("all_s", all.as_secs_f64());
    let bytes = received(run) - before;
    run.figures
        .set("all_bytes_per_peer", bytes as f64 / numbers.len() as f64);

    numbers.shuffle(&mut run.rng);
    let half = Numbers::new(&numbers[..numbers.len() / 2]);
    run.world
        .shared
        .wan
        .partition(|host| u8::from(half.contains(host)));
    run.world.run_for(Duration::from_secs(30));
    ask_all(run, &numbers);
    run.world
        .run_for(duration.saturating_sub(SPREAD + Duration::from_secs(30)));
    run.world.shared.wan.heal();
    // What could not be had apart can be had now; then one more for everybody.
    let refused = numbers
        .iter()
        .filter(|number| run.world.host(**number).asked < 2);
    let refused: Vec<u32> = refused.copied().collect();
    run.figures.set("refused_apart", refused.len() as f64);
    run.world.run_for(Duration::from_secs(3));
    for number in &refused {
        run.world.with(*number, |host, net| host.allocate(net));
    }
    let healed = wait(run, 2) + Duration::from_secs(3);
    run.figures.set("converged_s", healed.as_secs_f64());
    ask_all(run, &numbers);
    let last = wait(run, 3);
    run.figures.set("after_s", last.as_secs_f64());

    let mut seen = HashSet::new();
    let mut duplicates = 0;
    let mut stuck = 0;
    for number in &numbers {
        let host = run.world.host(*number);
        let twice = host.addresses.iter().filter(|at| !seen.insert(**at));
        duplicates += twice.count();
        stuck += usize::from(host.addresses.len() < 3);
    }
    run.figures.set("duplicates", duplicates as f64);
    run.figures.set("stuck", stuck as f64);
    if duplicates > 0 {
        run.violated(format!("{duplicates} addresses were given out twice"));
    }
}

fn ask_all(run: &mut Run<'_>, numbers: &[u32]) {
    let pause = SPREAD / numbers.len().max(1) as u32;
    for number in numbers {
        run.world.with(*number, |host, net| host.allocate(net));
        run.world.run_for(pause);
    }
}

/// Until everybody who was asked has so many addresses; how long that took.
fn wait(run: &mut Run<'_>, count: usize) -> Duration {
    let asked: Vec<u32> = run.world.running();
    let has = |host: &crate::sim::host::Host| host.asked < count || host.addresses.len() >= count;
    let took = run.world.run_until(PATIENCE, LOOK, |world| {
        asked.iter().all(|number| has(world.host(*number)))
    });
    if took.is_none() {
        run.violated(format!("somebody still waits for address number {count}"));
    }
    took.unwrap_or(PATIENCE)
}

fn received(run: &Run<'_>) -> u64 {
    run.world
        .traffic()
        .iter()
        .map(|traffic| traffic.in_bytes)
        .sum()
}
