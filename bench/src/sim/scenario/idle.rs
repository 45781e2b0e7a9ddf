//! Nothing happens: what a quiet mesh costs.

use std::time::Duration;

use super::{Run, Scenario, Start};
use crate::sim::{
    host::Traffic,
    memory, rebuild,
    stats::{mean, percentile},
};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "idle",
    about: "a quiet mesh: traffic, links, and the memory of one router",
    start: Start::Warm,
    spoils: false,
    rewrites: false,
    run,
};

const DURATION_S: u64 = 60;

fn run(run: &mut Run<'_>) {
    let duration = run.duration(DURATION_S);
    let before = run.world.traffic();
    let mut links_max = 0;
    for _ in 0..duration.as_secs().max(1) {
        run.world.run_for(Duration::from_secs(1));
        links_max = links_max.max(run.world.links_max());
    }
    let running = run.world.running();
    run.set_traffic("peer", &running, &before, duration);
    let links: Vec<f64> = running
        .iter()
        .map(|number| run.world.links(*number) as f64)
        .collect();
    run.figures.set("links_mean", mean(&links));
    run.figures.set("links_max", links_max as f64);
    let live = memory::live() as f64 / running.len() as f64;
    run.figures.set("live_bytes_per_peer", live);
    if let Some(bytes) = rebuild::bytes_per_peer(run.world) {
        run.figures.set("bytes_per_peer", bytes);
    }
}

impl Run<'_> {
    /// Sets what some peers sent and received per second since `before`:
    /// `bytes_per_<what>_s` with percentiles, and `messages_per_<what>_s`.
    pub(super) fn set_traffic(
        &mut self,
        what: &str,
        peers: &[u32],
        before: &[Traffic],
        duration: Duration,
    ) {
        let now = self.world.traffic();
        let seconds = duration.as_secs_f64();
        let pairs = || {
            peers
                .iter()
                .map(|peer| (&before[*peer as usize], &now[*peer as usize]))
        };
        let bytes = |traffic: &Traffic| (traffic.in_bytes + traffic.out_bytes) as f64;
        let mut rates: Vec<f64> = pairs()
            .map(|(before, now)| (bytes(now) - bytes(before)) / seconds)
            .collect();
        rates.sort_unstable_by(f64::total_cmp);
        let messages: Vec<f64> = pairs()
            .map(|(before, now)| (now.datagrams - before.datagrams) as f64 / seconds)
            .collect();
        let name = format!("bytes_per_{what}_s");
        self.figures.set(name.as_str(), mean(&rates));
        for (suffix, share) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
            self.figures
                .set(format!("{name}_{suffix}"), percentile(&rates, share));
        }
        self.figures
            .set(format!("messages_per_{what}_s"), mean(&messages));
    }
}
