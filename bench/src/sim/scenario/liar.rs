//! Nearly a third of the members lie.

use std::{collections::BTreeSet, time::Duration};

use rand::seq::SliceRandom;

use super::{Run, Scenario, Start};
use crate::sim::{
    core_api::{is_genuine, records},
    identity::id,
    liar::Liar,
};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "liar",
    about: "30 % of the peers drop, invent, forge and flood by turns: do the others stay connected",
    start: Start::Warm,
    spoils: true,
    rewrites: true,
    run,
};

const DURATION_S: u64 = 120;
const LIARS: f64 = 0.3;
const PAIRS: usize = 2000;
/// The honest have found each other after this.
const RECOVERY: Duration = Duration::from_secs(60);

fn run(run: &mut Run<'_>) {
    let duration = run.duration(DURATION_S);
    let mut members = run.world.running();
    members.shuffle(&mut run.rng);
    let (liars, honest) = members.split_at(run.share(LIARS));
    for liar in liars {
        let members = run.world.setup.peers;
        run.world.with(*liar, |host, net| {
            host.begin_to_lie(Liar::new(members), net)
        });
    }
    let before = run.world.traffic();
    run.world.run_for(duration);
    run.set_traffic("honest_peer", honest, &before, duration);
    count_connected(run, honest);
    count_forged(run, honest);
    // What must hold afterwards is what must hold among the honest.
    for liar in liars {
        run.world.crash(*liar);
        run.world.host_mut(*liar).liar = None;
        run.world.host_mut(*liar).warnings.clear();
    }
    run.world.run_for(RECOVERY);
    run.lies = true;
}

fn count_connected(run: &mut Run<'_>, honest: &[u32]) {
    let pairs = run.pairs(honest, PAIRS);
    let set: BTreeSet<u32> = honest.iter().copied().collect();
    let (mut connected, mut routed) = (0, 0);
    for (from, to) in &pairs {
        let chain = run.world.chain(*from, *to);
        routed += u32::from(chain.is_ok());
        let known = run.world.mesh(*from).and_then(|mesh| mesh.node(&id(*to)));
        let dials = known.is_some_and(|node| !node.endpoints.is_empty())
            && run.world.shared.wan.connects(*from, *to);
        let trusted = chain.is_ok_and(|chain| chain.iter().all(|peer| set.contains(peer)));
        connected += u32::from(dials || trusted);
    }
    let share = |count: u32| f64::from(count) / pairs.len().max(1) as f64;
    run.figures.set("connected_fraction", share(connected));
    run.figures.set("routed_fraction", share(routed));
}

/// Counts what honest peers hold that its owner never signed.
fn count_forged(run: &mut Run<'_>, honest: &[u32]) {
    let meshes = honest.iter().filter_map(|peer| run.world.mesh(*peer));
    let held = meshes.flat_map(records);
    let forged = held.filter(|record| !is_genuine(record)).count();
    run.figures.set("forged_accepted", forged as f64);
}
