//! A peer that begins with what others knew already.

use std::{sync::Arc, sync::OnceLock, time::Instant};

use super::Mesh;
use crate::{
    config::Authority,
    event::Event,
    replica::{Replica, Slot},
    routes::Ways,
};

impl<A: Authority> Mesh<A> {
    /// Takes over all that `stock` holds, which must be authentic, beside our own
    /// records. Costs a copy and one calculation of all routes, where ten thousand
    /// peers that come one by one cost as many. Says nothing to neighbours: it is
    /// for peers that are all given the same stock.
    pub fn preload(&mut self, stock: &Replica, now: Instant) {
        let own: Vec<_> = self
            .replica
            .slot(&self.local.id)
            .into_iter()
            .flat_map(|slot| self.replica.records_of(slot))
            .map(Arc::clone)
            .collect();
        self.replica = stock.clone();
        for record in &own {
            self.replica.merge(record, |_, _| true);
        }
        let Some(local) = self.replica.slot(&self.local.id) else {
            return;
        };
        self.ways = Ways::over(local, &self.replica);
        self.graph = OnceLock::new();
        let known: Vec<Slot> = self.replica.owners().collect();
        for slot in known {
            let peer = self.replica.id(slot);
            if slot == local || self.ways.reaches(slot) {
                self.absent.remove(&peer);
            } else {
                self.absent.cut(peer, now);
            }
        }
        self.hear_all_of_space(now);
        self.neighbours.review_soon(now);
        self.events.push_back(Event::RoutesChanged);
    }
}
