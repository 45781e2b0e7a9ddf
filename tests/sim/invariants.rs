//! What must hold once a world is quiet.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::world::{World, id};

/// Pairs and sources looked at per component; all of them in small worlds.
const SAMPLES: usize = 60;
/// Times to look, 100 ms apart. News whose push was lost come a beat later.
const LOOKS: usize = 30;

impl World {
    /// Panics with seed and step unless everything holds. A change may be on its
    /// way just now (a round-trip time, say), so it need not hold at the first look.
    pub fn assert_converged(&mut self) -> &mut Self {
        for _ in 0..LOOKS {
            if self.check().is_ok() {
                return self;
            }
            self.run_for(Duration::from_millis(100));
        }
        if let Err(what) = self.check() {
            panic!("SEED={} STEP={}: {what}", self.seed, self.steps);
        }
        self
    }

    /// As [`World::assert_converged`], and there is one component of all running peers.
    pub fn assert_one_mesh(&mut self) -> &mut Self {
        self.assert_converged();
        let components = self.components();
        let sizes: Vec<usize> = components.iter().map(Vec::len).collect();
        assert!(
            sizes.len() == 1,
            "SEED={} STEP={}: components of {sizes:?}",
            self.seed,
            self.steps
        );
        self
    }

    /// Whether everything holds and there is one component.
    pub fn is_one_mesh(&self) -> bool {
        self.components().len() == 1 && self.check().is_ok()
    }

    /// Running peers, connected by links that are up at both ends.
    pub fn components(&self) -> Vec<Vec<usize>> {
        let alive = self.alive();
        let up: BTreeMap<usize, BTreeSet<_>> = alive
            .iter()
            .map(|peer| {
                let usable = self
                    .mesh(*peer)
                    .neighbours()
                    .filter(|n| n.state.is_usable());
                (*peer, usable.map(|neighbour| neighbour.peer).collect())
            })
            .collect();
        let numbers: BTreeMap<_, usize> = alive.iter().map(|peer| (id(*peer), *peer)).collect();
        let mut seen = BTreeSet::new();
        let mut components = Vec::new();
        for first in alive {
            let mut component = Vec::new();
            let mut open = vec![first];
            while let Some(peer) = open.pop() {
                if !seen.insert(peer) {
                    continue;
                }
                component.push(peer);
                let others = up[&peer].iter().filter_map(|other| numbers.get(other));
                open.extend(others.filter(|other| up[other].contains(&id(peer))));
            }
            if !component.is_empty() {
                component.sort_unstable();
                components.push(component);
            }
        }
        components
    }

    fn check(&self) -> Result<(), String> {
        for component in self.components() {
            self.check_replicas(&component)?;
            self.check_routes(&component)?;
            self.check_broadcasts(&component)?;
            self.check_stations(&component)?;
        }
        Ok(())
    }

    fn check_replicas(&self, component: &[usize]) -> Result<(), String> {
        let first = self.mesh(component[0]).fingerprint();
        match component
            .iter()
            .find(|peer| self.mesh(**peer).fingerprint() != first)
        {
            Some(peer) => Err(format!(
                "peers {} and {peer} hold different records",
                component[0]
            )),
            None => Ok(()),
        }
    }

    fn check_routes(&self, component: &[usize]) -> Result<(), String> {
        let numbers: BTreeMap<_, usize> = component.iter().map(|peer| (id(*peer), *peer)).collect();
        let stride = component.len().div_ceil(SAMPLES);
        for from in component.iter().step_by(stride) {
            for to in component {
                let mut at = *from;
                for step in 0.. {
                    if at == *to {
                        break;
                    }
                    let hop = self.mesh(at).routes().next_hop(&id(*to));
                    let hop = hop.ok_or_else(|| format!("no route from {at} to {to}"))?;
                    let next = numbers
                        .get(&hop.next)
                        .ok_or_else(|| format!("{at} routes {to} via the dead"))?;
                    if step > component.len() {
                        return Err(format!("loop from {from} to {to}"));
                    }
                    at = *next;
                }
            }
        }
        Ok(())
    }

    fn check_broadcasts(&self, component: &[usize]) -> Result<(), String> {
        let numbers: BTreeMap<_, usize> = component.iter().map(|peer| (id(*peer), *peer)).collect();
        let stride = component.len().div_ceil(SAMPLES);
        for source in component.iter().step_by(stride) {
            let mut reached = BTreeSet::new();
            let mut open = vec![*source];
            while let Some(at) = open.pop() {
                if !reached.insert(at) {
                    return Err(format!("a broadcast of {source} reaches {at} twice"));
                }
                open.extend(
                    self.mesh(at)
                        .children(&id(*source))
                        .iter()
                        .filter_map(|p| numbers.get(p)),
                );
            }
            if reached.len() != component.len() {
                return Err(format!(
                    "a broadcast of {source} reaches {} of {}",
                    reached.len(),
                    component.len()
                ));
            }
        }
        Ok(())
    }

    fn check_stations(&self, component: &[usize]) -> Result<(), String> {
        let view = |peer: usize| self.mesh(peer).stations().iter().collect::<Vec<_>>();
        let first = view(component[0]);
        match component.iter().find(|peer| view(**peer) != first) {
            Some(peer) => Err(format!(
                "peers {} and {peer} place stations differently",
                component[0]
            )),
            None => Ok(()),
        }
    }
}
