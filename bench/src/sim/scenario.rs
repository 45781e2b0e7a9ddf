//! The scenarios: what is done to a world, and what is measured.
//!
//! Scenarios of one list run one after the other in one world, each beginning
//! when the world is quiet again. Some need a world of their own.

mod change;
mod churn;
mod crash;
mod flap;
mod halfdead;
mod idle;
mod ipam;
mod ipam_partition;
mod join;
mod liar;
mod lossy;
mod massboot;
mod names;
mod partition;
mod relaydeath;

use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    identity::scatter,
    stats::Figures,
    wan::Reach,
    world::{Setup, World},
};

/// A scenario, by name.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// What it does, for the help.
    pub(crate) about: &'static str,
    pub(crate) start: Start,
    /// Whether a world is of no use to others afterwards.
    pub(crate) spoils: bool,
    /// Whether it looks into gossip on its way and rewrites it, which only works
    /// where sessions are modelled.
    pub(crate) rewrites: bool,
    pub(crate) run: fn(&mut Run<'_>),
}

/// What a scenario begins with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Start {
    /// A warm world, in which others may have run.
    Warm,
    /// A warm world over a partly connected underlay.
    WarmOver(Reach),
    /// Hosts on which nothing runs.
    Cold,
}

/// All scenarios.
pub(crate) const SCENARIOS: &[Scenario] = &[
    idle::SCENARIO,
    change::SCENARIO,
    crash::SCENARIO,
    names::SCENARIO,
    lossy::SCENARIO,
    churn::SCENARIO,
    join::SCENARIO,
    flap::SCENARIO,
    partition::SCENARIO,
    halfdead::SCENARIO,
    massboot::SCENARIO,
    relaydeath::SCENARIO,
    liar::SCENARIO,
    ipam::SCENARIO,
    ipam_partition::SCENARIO,
];

/// One run of a scenario.
pub(crate) struct Run<'a> {
    pub(crate) name: &'static str,
    pub(crate) world: &'a mut World,
    /// Instead of how long the scenario lasts by itself.
    pub(crate) duration: Option<Duration>,
    pub(crate) rng: ChaCha8Rng,
    pub(crate) figures: Figures,
    pub(crate) violations: Vec<String>,
    /// Worth telling, but nothing that must not be.
    pub(crate) notes: Vec<String>,
    /// There are liars: warnings about them are in order.
    pub(crate) lies: bool,
}

impl<'a> Run<'a> {
    pub(crate) fn new(
        scenario: &Scenario,
        world: &'a mut World,
        duration: Option<Duration>,
    ) -> Self {
        let name = scenario.name.bytes();
        let salt = name.fold(0, |hash, byte| scatter(hash ^ u64::from(byte)));
        Self {
            name: scenario.name,
            rng: ChaCha8Rng::seed_from_u64(scatter(world.setup.seed ^ salt)),
            world,
            duration,
            figures: Figures::default(),
            violations: Vec::new(),
            notes: Vec::new(),
            lies: false,
        }
    }

    /// Something does not hold that must.
    pub(crate) fn violated(&mut self, what: String) {
        self.violations.push(what);
    }

    /// Something is worth telling.
    pub(crate) fn note(&mut self, what: String) {
        self.notes.push(what);
    }

    /// Random ordered pairs of different peers.
    pub(crate) fn pairs(&mut self, peers: &[u32], count: usize) -> Vec<(u32, u32)> {
        let mut pairs = Vec::with_capacity(count);
        while pairs.len() < count && peers.len() > 1 {
            let mut draw = || peers[self.rng.random_range(0..peers.len())];
            let pair = (draw(), draw());
            if pair.0 != pair.1 {
                pairs.push(pair);
            }
        }
        pairs
    }

    /// How long the scenario lasts.
    pub(crate) fn duration(&self, default_s: u64) -> Duration {
        self.duration.unwrap_or(Duration::from_secs(default_s))
    }

    /// How many are a share of the peers, at least one.
    pub(crate) fn share(&self, share: f64) -> usize {
        ((f64::from(self.world.setup.peers) * share).round() as usize).max(1)
    }
}

/// The scenario with a name.
pub(crate) fn find(name: &str) -> Option<&'static Scenario> {
    SCENARIOS.iter().find(|scenario| scenario.name == name)
}

impl Scenario {
    /// The world it wants, if no other will do.
    pub(crate) fn setup(&self, mut setup: Setup) -> Setup {
        if let Start::WarmOver(reach) = self.start {
            setup.reach = reach;
        }
        setup
    }
}
