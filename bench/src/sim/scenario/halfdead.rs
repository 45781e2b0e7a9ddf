//! Half of all peers die at once.

use std::time::Duration;

use rand::seq::SliceRandom;

use super::{Run, Scenario, Start};
use crate::sim::reach::Numbers;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "halfdead",
    about: "half of the peers die at once: until all survivors reach each other",
    start: Start::Warm,
    spoils: true,
    rewrites: false,
    run,
};

/// Pairs whose way is followed at each look, and at the look that counts.
const PAIRS: usize = 2000;
const ALL_PAIRS: usize = 50_000;
const LOOK: Duration = Duration::from_millis(100);
/// How long to look.
const LOOKING: Duration = Duration::from_secs(40);
/// When to count pairs: in worlds up to [`SMALL`], and in larger ones.
const SMALL: u32 = 1000;
const COUNTED: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(20));
const EARLY: Duration = Duration::from_secs(5);

fn run(run: &mut Run<'_>) {
    let mut all = run.world.running();
    all.shuffle(&mut run.rng);
    let (dying, survivors) = all.split_at(all.len() / 2);
    dying.iter().for_each(|peer| run.world.crash(*peer));
    let begun = run.world.now;
    let pairs = run.pairs(survivors, PAIRS);
    let expected = Numbers::new(survivors);
    let late = match run.world.setup.peers <= SMALL {
        true => COUNTED.0,
        false => COUNTED.1,
    };
    let (mut broken_s, mut relayed_s) = (0.0, 0.0);
    let mut suspect = 0;
    while run.world.now.since(begun) < LOOKING {
        run.world.run_for(LOOK);
        let passed = run.world.now.since(begun);
        for (at, name) in [
            (EARLY, "connected_fraction_5s"),
            (late, "connected_fraction"),
        ] {
            if passed == at {
                let fraction = connected(run, survivors);
                run.figures.set(name, fraction);
            }
        }
        let world = &*run.world;
        let joined = |(from, to): &(u32, u32)| world.joins(*from, *to);
        if !pairs.iter().all(joined) || !world.all_reach(survivors, &expected, &mut suspect) {
            broken_s = passed.as_secs_f64();
        }
        let relayed = |(from, to): &(u32, u32)| world.chain(*from, *to).is_ok();
        if !pairs.iter().all(relayed) {
            relayed_s = passed.as_secs_f64();
        }
    }
    run.figures
        .set("connected_s", broken_s + LOOK.as_secs_f64());
    // When relays last refused a frame, because their views differed: what
    // pairs that have no other way would notice.
    run.figures.set("relayed_s", relayed_s + LOOK.as_secs_f64());
}

/// The share of pairs of survivors between which frames get through: of all
/// pairs in small worlds, else of many.
fn connected(run: &mut Run<'_>, survivors: &[u32]) -> f64 {
    let pairs = if survivors.len() * survivors.len() <= ALL_PAIRS {
        let others = |from: &u32| {
            let from = *from;
            survivors.iter().map(move |to| (from, *to))
        };
        survivors.iter().flat_map(others).collect()
    } else {
        run.pairs(survivors, ALL_PAIRS)
    };
    let joined = pairs
        .iter()
        .filter(|(from, to)| run.world.joins(*from, *to));
    joined.count() as f64 / pairs.len().max(1) as f64
}
