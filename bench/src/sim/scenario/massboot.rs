//! Everybody is launched at once, with the same three seeds.

use std::time::Duration;

use rand::Rng;

use super::{Run, Scenario, Start};
use crate::sim::memory;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "massboot",
    about: "all peers are launched within a second with the same 3 seeds",
    start: Start::Cold,
    spoils: true,
    rewrites: false,
    run,
};

const SEEDS: u32 = 3;
/// Windows of 10 ms in which peers are launched.
const LAUNCHING: usize = 100;
const WINDOW: Duration = Duration::from_millis(10);
const LOOK: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(600);
/// Memory is steady after this.
const STEADY: Duration = Duration::from_secs(60);

fn run(run: &mut Run<'_>) {
    let peers = run.world.setup.peers;
    let idle = memory::live();
    memory::reset_peak();
    let begun = run.world.now;
    launch(run);
    let (lacking, links_max) = reach_all(run);
    if let Some(number) = lacking.first() {
        run.violated(format!("peer {number} does not reach all others"));
    }
    let reachable_s = run.world.now.since(begun).as_secs_f64();
    let known = format!("massboot, all reach all since {reachable_s:.2} s");
    run.world.progress.phase(known);
    let peak = memory::peak() - idle;
    let traffic = run.world.traffic();
    let bytes: u64 = traffic.iter().map(|t| t.in_bytes + t.out_bytes).sum();
    let handshakes: u64 = traffic[..SEEDS.min(peers) as usize]
        .iter()
        .map(|t| t.handshakes)
        .sum();
    run.world.run_for(STEADY);
    run.figures.set("reachable_s", reachable_s);
    run.figures.set("links_max", links_max as f64);
    run.figures
        .set("bytes_per_peer_total", bytes as f64 / f64::from(peers));
    let steady = memory::live() - idle;
    if steady > 0 {
        run.figures
            .set("peak_over_steady", peak as f64 / steady as f64);
    }
    run.figures.set("seed_handshakes", handshakes as f64);
}

/// Goes on until everybody reaches everybody. Says who does not, and how many links a peer
/// had at most.
fn reach_all(run: &mut Run<'_>) -> (Vec<u32>, usize) {
    let peers = run.world.setup.peers;
    let begun = run.world.now;
    let mut links_max = 0;
    loop {
        links_max = links_max.max(run.world.links_max());
        let lacks = |number: &u32| {
            let view = run.world.view(*number);
            view.is_none_or(|view| view.reachable_count() as u32 != peers - 1)
        };
        let lacking: Vec<u32> = (0..peers).filter(lacks).collect();
        if lacking.is_empty() || run.world.now.since(begun) >= PATIENCE {
            return (lacking, links_max);
        }
        let reach = peers as usize - lacking.len();
        let phase = format!("massboot, {reach} of {peers} reach all");
        run.world.progress.phase(phase);
        run.world.run_for(LOOK);
    }
}

/// Launches the peers in random order, evenly over a second on average.
fn launch(run: &mut Run<'_>) {
    let peers = run.world.setup.peers;
    let mut due: Vec<(usize, u32)> = (0..peers)
        .map(|peer| (run.rng.random_range(0..LAUNCHING), peer))
        .collect();
    due.sort_unstable();
    let mut due = due.into_iter().peekable();
    for window in 0..LAUNCHING {
        while let Some((_, peer)) = due.next_if(|(at, _)| *at == window) {
            let targets: Vec<u32> = (0..SEEDS.min(peers)).filter(|seed| *seed != peer).collect();
            run.world.launch(peer, &targets);
        }
        run.world.run_for(WINDOW);
    }
}
