//! What must hold once a world is quiet. What does not is a violation: a text,
//! with which the run fails.

use std::time::Duration;

use super::{chain::Broken, scenario::Run};

/// Pairs whose chains of next hops are followed.
const PAIRS: usize = 500;
/// How long a world may take to become quiet after a scenario.
const SETTLING: Duration = Duration::from_secs(120);
/// Looks at a chain, this far apart: a change may be on its way just now.
const LOOKS: usize = 20;
const BETWEEN: Duration = Duration::from_millis(100);

impl Run<'_> {
    /// Waits until the world is quiet, and looks at everything.
    pub(crate) fn check(&mut self) {
        self.world.progress.phase(format!("{}: checks", self.name));
        if let Err(unrest) = self.world.settle(SETTLING) {
            self.violated(format!(
                "not settled after {} s: {unrest}",
                SETTLING.as_secs()
            ));
        }
        self.check_chains();
        self.check_hosts();
    }

    fn check_chains(&mut self) {
        let running = self.world.running();
        let pairs = self.pairs(&running, PAIRS);
        let mut broken = None;
        for _ in 0..LOOKS {
            let chains = pairs.iter().map(|(from, to)| self.world.chain(*from, *to));
            broken = pairs
                .iter()
                .zip(chains)
                .find_map(|(pair, chain)| Some((*pair, chain.err()?)));
            if broken.is_none() {
                return;
            }
            self.world.run_for(BETWEEN);
        }
        if let Some(((from, to), why)) = broken {
            let what = match why {
                Broken::NoRoute => "a peer on the way has no route",
                Broken::Severed => "a next hop is not there",
                Broken::Refused => "a peer on the way is no nearer than the one before",
                Broken::Loop => "the next hops form a loop",
            };
            self.violated(format!("from {from} to {to}: {what}"));
        }
    }

    fn check_hosts(&mut self) {
        let limit = self.world.config.link_limit;
        for number in self.world.numbers() {
            let links = self.world.links(number);
            if links > limit {
                self.violated(format!(
                    "peer {number} has {links} links, {limit} are allowed"
                ));
            }
            for warning in std::mem::take(&mut self.world.host_mut(number).warnings) {
                if !self.lies || !warning.of_lies {
                    self.violated(format!("peer {number} warns: {}", warning.text));
                }
            }
        }
    }
}
