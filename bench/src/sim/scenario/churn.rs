//! Peers come and go.

use std::time::Duration;

use rand::{Rng, seq::IndexedRandom};

use super::{Run, Scenario, Start};
use crate::sim::{stats::mean, time::Time};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "churn",
    about: "1 % of the peers leave per minute, half of them without a word, and come back",
    start: Start::Warm,
    spoils: false,
    rewrites: false,
    run,
};

const DURATION_S: u64 = 180;
const PER_MINUTE: f64 = 0.01;
const AWAY_S: std::ops::Range<f64> = 30.0..60.0;
const STEP: Duration = Duration::from_millis(100);
/// Pairs whose way is followed once a second.
const PAIRS: usize = 500;
/// Peers launched more recently do not count for that.
const SETTLED: Duration = Duration::from_secs(10);

fn run(run: &mut Run<'_>) {
    let duration = run.duration(DURATION_S);
    let begun = run.world.now;
    let count = f64::from(run.world.setup.peers) * PER_MINUTE * duration.as_secs_f64() / 60.0;
    let mut leaving: Vec<Time> = (0..count.round() as usize)
        .map(|_| begun + duration.mul_f64(run.rng.random_range(0.0..1.0)))
        .collect();
    leaving.sort_unstable_by(|a, b| b.cmp(a));
    let (departures, before, runners) = (leaving.len(), run.world.traffic(), run.world.running());
    let mut away: Vec<(Time, u32)> = Vec::new();
    let mut ever_away = vec![false; run.world.numbers().len()];
    let (mut arrivals, mut unreachable) = (0, Vec::new());
    while run.world.now.since(begun) < duration {
        let now = run.world.now;
        while leaving.pop_if(|at| *at <= now).is_some() {
            if let Some(peer) = depart(run) {
                let back = Duration::from_secs_f64(run.rng.random_range(AWAY_S));
                away.push((now + back, peer));
                ever_away[peer as usize] = true;
            }
        }
        arrivals += come_back(run, &mut away);
        run.world.run_for(STEP);
        if run.world.now.since(begun).subsec_millis() == 0 {
            unreachable.push(unreachable_share(run));
        }
    }
    let stayed: Vec<u32> = runners
        .into_iter()
        .filter(|peer| !ever_away[*peer as usize])
        .collect();
    run.set_traffic("peer", &stayed, &before, duration);
    run.figures.set("departures", departures as f64);
    run.figures.set("arrivals", arrivals as f64);
    run.figures.set("unreachable_share", mean(&unreachable));
    while !away.is_empty() {
        come_back(run, &mut away);
        run.world.run_for(STEP);
    }
}

/// A random peer leaves, with or without a goodbye.
fn depart(run: &mut Run<'_>) -> Option<u32> {
    let peer = run.world.running().choose(&mut run.rng).copied()?;
    if run.rng.random_bool(0.5) {
        run.world.crash(peer);
    } else {
        run.world.stop(peer);
    }
    Some(peer)
}

/// Launches whoever is due. Says how many.
fn come_back(run: &mut Run<'_>, away: &mut Vec<(Time, u32)>) -> usize {
    let now = run.world.now;
    let due: Vec<u32> = away
        .iter()
        .filter(|(at, _)| *at <= now)
        .map(|(_, peer)| *peer)
        .collect();
    away.retain(|(at, _)| *at > now);
    due.iter().for_each(|peer| run.relaunch(*peer));
    due.len()
}

/// The share of pairs of peers that have run for a while between which frames
/// do not get through.
fn unreachable_share(run: &mut Run<'_>) -> f64 {
    let now = run.world.now;
    let settled = |peer: &u32| now.since(run.world.host(*peer).launched_at) >= SETTLED;
    let running: Vec<u32> = run.world.running().into_iter().filter(settled).collect();
    let pairs = run.pairs(&running, PAIRS);
    let broken = pairs
        .iter()
        .filter(|(from, to)| run.world.chain(*from, *to).is_err());
    broken.count() as f64 / pairs.len().max(1) as f64
}
