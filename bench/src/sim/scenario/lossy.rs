//! Loss and slow peers: is anybody held for dead who is not?

use std::time::Duration;

use rand::{Rng, seq::IndexedRandom};

use super::{Run, Scenario, Start};
use crate::sim::{
    observe::{EPISODE, Lost},
    time::Time,
};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "lossy",
    about: "5 % loss, and 1 % of the peers stall for 10 s every 30 s: who is held for dead",
    start: Start::Warm,
    spoils: false,
    rewrites: false,
    run,
};

const DURATION_S: u64 = 300;
const LOSS: f64 = 0.05;
const SLOW: f64 = 0.01;
const STALLS: Duration = Duration::from_secs(10);
const RUNS: Duration = Duration::from_secs(20);
/// A peer that stalled within this time counts neither as subject nor as observer.
const RECOVERS: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_millis(100);

fn run(run: &mut Run<'_>) {
    let duration = run.duration(DURATION_S);
    let loss = std::mem::replace(&mut run.world.shared.wan.loss, LOSS);
    let running = run.world.running();
    let count = run.share(SLOW);
    let slow = running.choose_multiple(&mut run.rng, count);
    let slow: Vec<u32> = slow.copied().collect();
    let cycle = (STALLS + RUNS).as_secs_f64();
    let mut stalls: Vec<(Time, u32)> = slow
        .iter()
        .map(|peer| {
            let first = Duration::from_secs_f64(run.rng.random_range(0.0..cycle));
            (run.world.now + first, *peer)
        })
        .collect();
    run.world
        .watch_reach(vec![Time::default(); run.world.numbers().len()]);
    let (before, begun) = (run.world.traffic(), run.world.now);
    while run.world.now.since(begun) < duration {
        let now = run.world.now;
        for (at, peer) in stalls.iter_mut().filter(|(at, _)| *at <= now) {
            let until = now + STALLS;
            *at = until + RUNS;
            run.world.stall(*peer, until);
            run.world.set_well_since(*peer, until + RECOVERS);
        }
        run.world.run_for(STEP);
    }
    let (lost, unwell) = run.world.end_watch_reach();
    run.set_false_dead(&lost);
    let hours = duration.as_secs_f64() / 3600.0;
    run.figures.set("peer_hours", running.len() as f64 * hours);
    run.figures.set("stalled_dead", unwell as f64);
    run.set_traffic("peer", &running, &before, duration);
    run.world.shared.wan.loss = loss;
    run.world.run_for(STALLS);
}

impl Run<'_> {
    /// Sets `false_dead` (episodes of one subject) and `false_dead_views`.
    pub(super) fn set_false_dead(&mut self, lost: &[Lost]) {
        let mut last = vec![None; self.world.numbers().len()];
        let mut episodes = 0;
        for lost in lost {
            let last: &mut Option<Time> = &mut last[lost.subject as usize];
            if last.is_none_or(|last| lost.at >= last + EPISODE) {
                *last = Some(lost.at);
                episodes += 1;
            }
        }
        self.figures.set("false_dead", f64::from(episodes));
        self.figures.set("false_dead_views", lost.len() as f64);
        if let Some(first) = lost.first() {
            let Lost {
                at,
                observer,
                subject,
            } = first;
            self.note(format!(
                "peer {subject} is held for dead by {observer} at {:.3} s",
                at.seconds()
            ));
        }
    }
}
