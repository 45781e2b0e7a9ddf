//! The trees along which the broadcasts of each source go.
//!
//! In a small mesh all of them are in the snapshot. In a larger one a source's tree
//! is made when a broadcast of its came; until then it floods, and the receivers'
//! filters keep that exact. Each tree is a search through the whole graph, again at
//! every change of it, so only those are kept that were asked for of late.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use proto::PeerId;

use super::Router;

/// Ticks during which a child that a tree lost still gets its broadcasts: until
/// the others know of the change too. The receivers' filters keep that exact.
const LINGER: u64 = 6;

/// Up to so many peers every source's tree is in the snapshot; beyond, those
/// of sources that were heard.
const ALL_TREES: usize = 16;
/// Of these so many, the last.
const WANTED: usize = 64;
/// And for so long; then the next broadcast asks again.
const WANTED_AGE: Duration = Duration::from_secs(60);
/// Trees a second, and at once, that are made because a broadcast came: anybody can
/// make up sources.
pub(super) const WANTED_RATE: u64 = 100;
pub(super) const WANTED_BURST: u64 = 100;

impl Router {
    /// A broadcast came whose source's tree is not in the snapshot.
    pub(super) fn want_tree(&mut self, source: PeerId, now: Instant) {
        // Others may have come before the tree was there.
        let known = self.wanted_trees.contains_key(&source);
        if known || !self.mesh.routes().reaches(&source) || !self.new_trees.take(now, 1) {
            return;
        }
        if self.wanted_trees.len() >= WANTED {
            let oldest = self.wanted_trees.iter().min_by_key(|(_, at)| **at);
            if let Some(oldest) = oldest.map(|(source, _)| *source) {
                self.wanted_trees.remove(&oldest);
            }
        }
        self.wanted_trees.insert(source, now);
        self.dirty.wanted = true;
    }

    /// Lets go of trees that nobody may want any more.
    pub(super) fn end_wanted(&mut self, now: Instant) {
        let before = self.wanted_trees.len();
        self.wanted_trees
            .retain(|_, at| now.saturating_duration_since(*at) < WANTED_AGE);
        self.dirty.wanted |= self.wanted_trees.len() != before;
    }

    /// Brings in the trees that are wanted since, over the same graph.
    pub(super) fn add_wanted(&self, trees: &mut HashMap<PeerId, Vec<PeerId>>) {
        if self.has_all_trees() {
            return;
        }
        trees.retain(|source, _| *source == self.local || self.wanted_trees.contains_key(source));
        let routes = self.mesh.routes();
        for source in self.wanted_trees.keys() {
            if !trees.contains_key(source) && routes.reaches(source) {
                trees.insert(*source, self.mesh.children(source));
            }
        }
    }

    fn has_all_trees(&self) -> bool {
        self.mesh.peer_count() <= ALL_TREES
    }

    /// The trees, with children added that a tree lost of late.
    pub(super) fn lingering_trees(
        &mut self,
        before: &HashMap<PeerId, Vec<PeerId>>,
    ) -> HashMap<PeerId, Vec<PeerId>> {
        let (mut trees, ticks) = (self.trees(), self.ticks);
        let lost = |source: &PeerId, child: &PeerId| {
            trees.get(source).is_some_and(|now| !now.contains(child))
        };
        let edges = before
            .iter()
            .flat_map(|(source, children)| children.iter().map(|child| (*source, *child)));
        for edge in edges.filter(|(source, child)| lost(source, child)) {
            // Who lingers since before is in `before` too, and gets no more time.
            self.lingering.entry(edge).or_insert(ticks + LINGER);
        }
        self.lingering
            .retain(|(source, child), _| lost(source, child));
        for (source, child) in self
            .lingering
            .iter()
            .filter(|(_, until)| ticks < **until)
            .map(|(edge, _)| edge)
        {
            if self.peers.get(child).is_some_and(|peer| peer.link)
                && let Some(children) = trees.get_mut(source)
            {
                children.push(*child);
            }
        }
        self.lingering.retain(|_, until| ticks < *until);
        trees
    }

    /// Has the trees made anew without the children that had their time.
    pub(super) fn end_lingering(&mut self) {
        self.ticks += 1;
        self.dirty.trees |= self.lingering.values().any(|until| self.ticks >= *until);
    }

    fn trees(&self) -> HashMap<PeerId, Vec<PeerId>> {
        let routes = self.mesh.routes();
        let all = self.has_all_trees();
        let sources = routes
            .reachable()
            .filter(|id| all || self.wanted_trees.contains_key(id));
        let mut trees: HashMap<PeerId, Vec<PeerId>> = sources
            .map(|source| (source, self.mesh.children(&source)))
            .collect();
        trees.insert(self.local, self.mesh.children(&self.local));
        trees
    }
}
