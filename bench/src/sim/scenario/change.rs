//! Small changes: how fast everybody knows.

use std::time::Duration;

use rand::seq::IndexedRandom;

use super::{Run, Scenario, Start};
use crate::sim::{identity::mac, observe::Item, time::NEVER};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "change",
    about: "20 peers learn a station each: until everybody knows",
    start: Start::Warm,
    spoils: false,
    rewrites: false,
    run,
};

const CHANGES: u32 = 20;
const APART: Duration = Duration::from_millis(1500);
/// What is not known after the last change and this is missing.
const PATIENCE: Duration = Duration::from_secs(20);

fn run(run: &mut Run<'_>) {
    let running = run.world.running();
    let mut changes = Vec::new();
    for change in 0..CHANGES {
        let owner = running.choose(&mut run.rng).copied().unwrap_or_default();
        // Stations of one owner and change that no scenario before has used.
        let mac = mac(run.world.serial() ^ change);
        let item = run.world.watch(Item::Station { mac, owner });
        changes.push((item, owner, mac, run.world.now));
        run.world.with(owner, |host, net| {
            host.learn_station(mac, net);
        });
        run.world.run_for(APART);
    }
    run.world.run_for(PATIENCE);
    let mut times = Vec::new();
    let mut missing = 0;
    for (item, owner, _, begun) in &changes {
        for other in running.iter().filter(|other| *other != owner) {
            let known = run.world.since(*item, *other);
            missing += u32::from(known == NEVER);
            times.push(known.min(run.world.now).since(*begun).as_secs_f64());
        }
    }
    run.world.clear_watch();
    run.figures.set_times("known", &mut times);
    run.figures.set("missing", f64::from(missing));
    for (_, owner, mac, _) in changes {
        run.world.with(owner, |host, net| {
            host.forget_station(mac, net);
        });
    }
}
