//! Peers that die without a word: how fast everybody knows.

use std::time::Duration;

use rand::seq::IndexedRandom;

use super::{Run, Scenario, Start};
use crate::sim::{observe::Item, time::NEVER};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "crash",
    about: "10 peers die without a word: until no survivor routes to them",
    start: Start::Warm,
    spoils: false,
    rewrites: false,
    run,
};

const CRASHES: usize = 10;
const APART: Duration = Duration::from_secs(6);
/// What is not known after the last crash and this is missing.
const PATIENCE: Duration = Duration::from_secs(20);

fn run(run: &mut Run<'_>) {
    let running = run.world.running();
    let count = CRASHES.min(running.len() / 2);
    let dying: Vec<u32> = running
        .choose_multiple(&mut run.rng, count)
        .copied()
        .collect();
    let mut crashes = Vec::new();
    for peer in &dying {
        run.world.crash(*peer);
        let item = run.world.watch(Item::Gone { peer: *peer });
        crashes.push((item, run.world.now));
        run.world.run_for(APART);
    }
    run.world.run_for(PATIENCE);
    let mut times = Vec::new();
    let mut missing = 0;
    for (item, begun) in crashes {
        for survivor in running.iter().filter(|peer| !dying.contains(peer)) {
            let known = run.world.since(item, *survivor);
            missing += u32::from(known == NEVER);
            times.push(known.min(run.world.now).since(begun).as_secs_f64());
        }
    }
    run.world.clear_watch();
    run.figures.set_times("known", &mut times);
    run.figures.set("missing", f64::from(missing));
    for peer in dying {
        run.relaunch(peer);
    }
}

impl Run<'_> {
    /// Launches a peer again, with three random others as its targets: with such
    /// as the underlay connects it to, for nobody joins by way of others.
    pub(super) fn relaunch(&mut self, peer: u32) {
        let mut running = self.world.running();
        running.retain(|other| self.world.shared.wan.connects(peer, *other));
        let targets: Vec<u32> = running.choose_multiple(&mut self.rng, 3).copied().collect();
        self.world.launch(peer, &targets);
    }
}
