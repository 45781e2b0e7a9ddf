//! Relays die under flows between peers that cannot reach each other directly.

use std::{collections::BTreeSet, time::Duration};

use rand::seq::IndexedRandom;

use super::{Run, Scenario, Start};
use crate::sim::{chain::Broken, wan::Reach};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "relaydeath",
    about: "over a partly connected underlay, relays of flows die: until the flows go on",
    start: Start::WarmOver(Reach::Groups {
        groups: 10,
        share: 0.15,
    }),
    spoils: true,
    rewrites: false,
    run,
};

const FLOWS: usize = 200;
/// But so few that there are relays which are no flow's end: one of so many peers begins one.
const PEERS_PER_FLOW: usize = 5;
const ROUNDS: usize = 10;
/// How long and how often flows are looked at after a death.
const ROUND: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(50);
/// Draws of a pair for each flow that is wanted.
const DRAWS: usize = 50;

type Flow = (u32, u32);

/// What the looks at the flows showed.
#[derive(Default)]
struct Seen {
    repairs: Vec<f64>,
    loops: u32,
    collateral: u32,
}

fn run(run: &mut Run<'_>) {
    let flows = flows(run);
    let ends: BTreeSet<u32> = flows.iter().flat_map(|(from, to)| [*from, *to]).collect();
    let mut seen = Seen::default();
    let mut dead = Vec::new();
    for _ in 0..ROUNDS {
        if let Some(relay) = relay(run, &flows, &ends) {
            kill(run, relay, &flows, &mut seen);
            dead.push(relay);
        }
    }
    if seen.repairs.is_empty() {
        run.violated("no flow was ever affected: are there relays at all?".to_owned());
    }
    run.figures.set_times("repair", &mut seen.repairs);
    run.figures.set("affected", seen.repairs.len() as f64);
    run.figures.set("loops", f64::from(seen.loops));
    run.figures.set("collateral", f64::from(seen.collateral));
    run.figures.set("flows", flows.len() as f64);
    dead.into_iter().for_each(|relay| run.relaunch(relay));
}

/// Pairs that need a relay, and have a way.
fn flows(run: &mut Run<'_>) -> Vec<Flow> {
    let running = run.world.running();
    let wanted = FLOWS.min(running.len().div_ceil(PEERS_PER_FLOW));
    let pairs = run.pairs(&running, FLOWS * DRAWS);
    let apart = |(from, to): &Flow| !run.world.shared.wan.connects(*from, *to);
    let works = |(from, to): &Flow| run.world.chain(*from, *to).is_ok();
    pairs
        .into_iter()
        .filter(apart)
        .filter(works)
        .take(wanted)
        .collect()
}

/// A peer that carries a flow and is no flow's end.
fn relay(run: &mut Run<'_>, flows: &[Flow], ends: &BTreeSet<u32>) -> Option<u32> {
    let chains = flows
        .iter()
        .filter_map(|(from, to)| run.world.chain(*from, *to).ok());
    let relays: BTreeSet<u32> = chains
        .flatten()
        .filter(|peer| !ends.contains(peer))
        .collect();
    let relays: Vec<u32> = relays.into_iter().collect();
    relays.choose(&mut run.rng).copied()
}

fn kill(run: &mut Run<'_>, relay: u32, flows: &[Flow], seen: &mut Seen) {
    let chains = flows
        .iter()
        .map(|(from, to)| run.world.chain(*from, *to).ok());
    let before: Vec<Option<Vec<u32>>> = chains.collect();
    run.world.crash(relay);
    let begun = run.world.now;
    // When each flow was seen broken last.
    let mut broken: Vec<Option<Duration>> = vec![None; flows.len()];
    while run.world.now.since(begun) < ROUND {
        let passed = run.world.now.since(begun);
        for ((from, to), broken) in flows.iter().zip(&mut broken) {
            if let Err(why) = run.world.chain(*from, *to) {
                *broken = Some(passed);
                seen.loops += u32::from(why == Broken::Loop);
            }
        }
        run.world.run_for(LOOK);
    }
    for ((from, to), broken) in flows.iter().zip(&mut broken) {
        let Err(why) = run.world.chain(*from, *to) else {
            continue;
        };
        let apart = !run.world.underlay_joins(*from, *to);
        if apart {
            // Nobody could repair that.
            *broken = None;
        }
        let links = [*from, *to].map(|peer| run.world.links(peer));
        run.note(format!(
            "after the death of {relay} frames from {from} to {to} do not get through for {} s: \
             {why:?}; links of these two: {links:?}; {}",
            ROUND.as_secs(),
            match apart {
                true => "the underlay has no way left either",
                false => "the underlay has a way",
            }
        ));
    }
    for (before, broken) in before.iter().zip(broken) {
        match before {
            Some(chain) if chain.contains(&relay) => {
                let repaired = broken.map_or(Duration::ZERO, |at| at + LOOK);
                seen.repairs.push(repaired.as_secs_f64());
            }
            Some(_) => seen.collateral += u32::from(broken.is_some()),
            None => {}
        }
    }
}
