//! The address space: one peer owns all, and everybody wants an address; then
//! that peer dies, and all the others are told so at once.

use std::{collections::HashSet, net::Ipv4Addr, time::Duration};

use gossip::space::{Init, SpaceConfig};

use super::{Run, Scenario, Start};
use crate::sim::identity::id;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "ipam",
    about: "all peers get addresses of one that owns them, which then dies: none twice, nothing stuck",
    start: Start::Warm,
    spoils: true,
    rewrites: true,
    run,
};

const LOOK: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(300);
/// Until everybody knows of the dead peer and of all that was done before.
const QUIET: Duration = Duration::from_secs(15);

fn run(run: &mut Run<'_>) {
    let numbers = run.world.running();
    let (owner, others) = (numbers[0], &numbers[1..]);
    run.share_out(owner, others);

    run.world.run_for(QUIET);
    run.world.crash(owner);
    run.world.run_for(QUIET);
    let dead = id(owner).short_id();
    for number in others {
        run.world
            .with(*number, |host, net| host.take_over(dead, net));
        run.world.with(*number, |host, net| host.allocate(net));
    }
    let second = run.wait_for_addresses(2);
    run.figures.set("second_s", second.as_secs_f64());
    let settled = run.world.run_until(PATIENCE, LOOK, |world| {
        let owned = |number: &u32| world.host(*number).owned_by(dead);
        others.iter().all(|number| owned(number) == 0)
    });
    match settled {
        Some(took) => run.figures.set("rmpeer_s", (second + took).as_secs_f64()),
        None => run.violated("space of the dead peer stays with it".to_owned()),
    }
    let all: u32 = others
        .iter()
        .map(|number| run.world.host(*number).owned_by(id(*number).short_id()))
        .sum();
    run.figures.set("owned", f64::from(all));
    run.count_duplicates(2, others);
}

impl Run<'_> {
    /// Has one peer own the whole range, and all others get an address of it.
    pub(super) fn share_out(&mut self, owner: u32, others: &[u32]) {
        let config = |init| SpaceConfig {
            base: Ipv4Addr::new(10, 32, 0, 0),
            prefix: 12,
            range6: None,
            init,
            dead_after: Duration::from_secs(24 * 3600),
        };
        let founder = config(Init::Consensus(1));
        self.world
            .with(owner, |host, net| host.open_space(founder, net));
        self.world.with(owner, |host, net| host.allocate(net));
        let divided = self.wait_for_addresses(1);
        self.figures.set("divided_s", divided.as_secs_f64());
        for number in others {
            let observer = config(Init::Observer);
            self.world
                .with(*number, |host, net| host.open_space(observer, net));
        }
        self.world.run_for(Duration::from_secs(5));
        let before = self.received();
        for number in others {
            self.world.with(*number, |host, net| host.allocate(net));
        }
        let all = self.wait_for_addresses(1);
        self.figures.set("all_s", all.as_secs_f64());
        let bytes = self.received() - before;
        let peers = others.len() + 1;
        self.figures
            .set("all_bytes_per_peer", bytes as f64 / peers as f64);
    }

    /// Until everybody who asked has so many addresses; how long that took.
    pub(super) fn wait_for_addresses(&mut self, count: usize) -> Duration {
        let running: Vec<u32> = self.world.running();
        let took = self.world.run_until(PATIENCE, LOOK, |world| {
            let has = |number: &u32| {
                let host = world.host(*number);
                host.asked < count || host.addresses.len() >= count
            };
            running.iter().all(has)
        });
        if took.is_none() {
            self.violated(format!("somebody still waits for address number {count}"));
        }
        took.unwrap_or(PATIENCE)
    }

    /// Addresses that were given out twice, and peers that have not as many as they should.
    pub(super) fn count_duplicates(&mut self, due: usize, numbers: &[u32]) {
        let mut seen = HashSet::new();
        let mut duplicates = 0;
        for number in 0..self.world.setup.peers {
            let host = self.world.host(number);
            let twice = host.addresses.iter().filter(|at| !seen.insert(**at));
            duplicates += twice.count();
        }
        let is_stuck = |number: &&u32| self.world.host(**number).addresses.len() < due;
        let stuck = numbers.iter().filter(is_stuck).count();
        self.figures.set("duplicates", duplicates as f64);
        self.figures.set("stuck", stuck as f64);
        if duplicates > 0 {
            self.violated(format!("{duplicates} addresses were given out twice"));
        }
    }

    fn received(&self) -> u64 {
        let traffic = self.world.traffic();
        traffic.iter().map(|traffic| traffic.in_bytes).sum()
    }
}
