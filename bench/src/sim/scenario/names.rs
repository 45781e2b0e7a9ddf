//! Names come and go, also with the hosts that have them: how fast everybody knows.

use std::time::Duration;

use rand::seq::IndexedRandom;

use super::{Run, Scenario, Start};
use crate::sim::{
    observe::Item,
    time::{NEVER, Time},
};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "names",
    about: "20 peers give a name, take it back, and 10 with one die: until everybody knows",
    start: Start::Warm,
    spoils: false,
    rewrites: false,
    run,
};

const NAMES: usize = 20;
const DEATHS: usize = 10;
const APART: Duration = Duration::from_millis(1500);
const DEATHS_APART: Duration = Duration::from_secs(6);
/// What is not known after the last change and this is missing.
const PATIENCE: Duration = Duration::from_secs(20);

/// What was looked for, whose name it was, and since when it should be known.
type Expected = (usize, u32, Time);

fn run(run: &mut Run<'_>) {
    let running = run.world.running();
    let count = NAMES.min(running.len());
    let owners: Vec<u32> = running
        .choose_multiple(&mut run.rng, count)
        .copied()
        .collect();
    let first = run.world.serial();
    let named: Vec<(u32, u32)> = owners.into_iter().zip(first..).collect();
    let mut missing = 0;

    let known = run.change(&named, true);
    missing += run.measure("known", &known, &running);
    let gone = run.change(&named, false);
    missing += run.measure("gone", &gone, &running);

    let named = &named[..DEATHS.min(running.len() / 2)];
    run.change(named, true);
    run.world.run_for(PATIENCE);
    run.world.clear_watch();
    let mut deaths = Vec::new();
    for (owner, name) in named {
        run.world.crash(*owner);
        let item = run.world.watch(Item::Unnamed { name: *name });
        deaths.push((item, *owner, run.world.now));
        run.world.run_for(DEATHS_APART);
    }
    let is_dead = |peer: &u32| named.iter().any(|(owner, _)| owner == peer);
    let survivors: Vec<u32> = running.iter().filter(|p| !is_dead(p)).copied().collect();
    missing += run.measure("dead", &deaths, &survivors);
    run.figures.set("missing", f64::from(missing));
    for (owner, _) in named {
        run.relaunch(*owner);
    }
}

impl Run<'_> {
    /// Gives names to their owners, or takes them back.
    fn change(&mut self, named: &[(u32, u32)], give: bool) -> Vec<Expected> {
        let mut expected = Vec::new();
        for (owner, name) in named {
            let (name, names) = (*name, if give { vec![*name] } else { Vec::new() });
            let item = match give {
                true => Item::Named { name },
                false => Item::Unnamed { name },
            };
            let item = self.world.watch(item);
            expected.push((item, *owner, self.world.now));
            self.world
                .with(*owner, |host, net| host.set_names(&names, net));
            self.world.run_for(APART);
        }
        expected
    }

    /// Waits, and notes how long it took each of the others; gives how many did not
    /// come to know.
    fn measure(&mut self, figure: &str, expected: &[Expected], others: &[u32]) -> u32 {
        self.world.run_for(PATIENCE);
        let (mut times, mut missing) = (Vec::new(), 0);
        for (item, owner, begun) in expected {
            for other in others.iter().filter(|other| *other != owner) {
                let known = self.world.since(*item, *other);
                missing += u32::from(known == NEVER);
                times.push(known.min(self.world.now).since(*begun).as_secs_f64());
            }
        }
        self.world.clear_watch();
        self.figures.set_times(figure, &mut times);
        missing
    }
}
