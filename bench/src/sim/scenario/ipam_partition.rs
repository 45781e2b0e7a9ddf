//! The address space in two halves that do not see each other and both give out
//! addresses, for half an hour; then they meet again.

use std::time::Duration;

use rand::seq::SliceRandom;

use super::{Run, Scenario, Start};
use crate::sim::reach::Numbers;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "ipam-partition",
    about: "two halves give out addresses apart for half an hour: none twice, nothing stuck",
    start: Start::Warm,
    spoils: true,
    rewrites: true,
    run,
};

const DURATION_S: u64 = 1800;
/// Peers are asked for their next address over this.
const SPREAD: Duration = Duration::from_secs(10);
/// Until the halves know that they are apart.
const APART: Duration = Duration::from_secs(30);
/// Until they know each other again.
const MEET: Duration = Duration::from_secs(3);

fn run(run: &mut Run<'_>) {
    let duration = run.duration(DURATION_S);
    let mut numbers = run.world.running();
    run.share_out(numbers[0], &numbers[1..]);

    numbers.shuffle(&mut run.rng);
    let half = Numbers::new(&numbers[..numbers.len() / 2]);
    run.world
        .shared
        .wan
        .partition(|host| u8::from(half.contains(host)));
    run.world.run_for(APART);
    run.ask_all(&numbers);
    run.world.run_for(duration.saturating_sub(SPREAD + APART));
    run.world.shared.wan.heal();
    run.world.run_for(MEET);
    // What could not be had apart can be had now; then one more for everybody.
    let was_refused = |number: &&u32| run.world.host(**number).asked < 2;
    let refused: Vec<u32> = numbers.iter().filter(was_refused).copied().collect();
    run.figures.set("refused_apart", refused.len() as f64);
    for number in &refused {
        run.world.with(*number, |host, net| host.allocate(net));
    }
    let healed = run.wait_for_addresses(2) + MEET;
    run.figures.set("converged_s", healed.as_secs_f64());
    run.ask_all(&numbers);
    let last = run.wait_for_addresses(3);
    run.figures.set("after_s", last.as_secs_f64());
    run.count_duplicates(3, &numbers);
}

impl Run<'_> {
    fn ask_all(&mut self, numbers: &[u32]) {
        let pause = SPREAD / numbers.len().max(1) as u32;
        for number in numbers {
            self.world.with(*number, |host, net| host.allocate(net));
            self.world.run_for(pause);
        }
    }
}
