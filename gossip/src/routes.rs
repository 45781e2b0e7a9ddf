//! Shortest paths from this peer over the graph of links, kept up to date link
//! by link: a change costs in proportion to the ways it changes, which is what
//! lets a peer follow ten thousand others that come and go (after Ramalingam
//! and Reps, "On the computational complexity of dynamic graph problems").

use std::{cmp::Reverse, collections::BinaryHeap, mem, ops::Range};

use proto::{PeerId, record::RttCode};

use crate::{
    replica::{Replica, Slot},
    topology::{HOP_PENALTY_US, cost},
};

/// The way to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The neighbour to hand a frame to.
    pub next: PeerId,
    /// Links on the way.
    pub hops: u16,
    /// Cost of the way in microseconds. Falls with every hop towards the peer.
    pub cost: u32,
}

/// The shortest-path tree of the local peer, by slot.
#[derive(Clone, Debug)]
pub(crate) struct Ways {
    local: Slot,
    ways: Vec<Way>,
    /// Pairs whose link may have come, gone, or changed its cost.
    changed: Vec<(Slot, Slot)>,
    reached: usize,
}

#[derive(Clone, Copy, Debug)]
struct Way {
    /// In microseconds; [`FAR`] if there is no way.
    cost: u32,
    parent: Slot,
    /// The first hop.
    via: Slot,
    hops: u16,
    /// Changed by the present update; its state before is noted.
    touched: bool,
}

const FAR: u32 = u32::MAX;
/// No link costs less, in microseconds.
const CHEAPEST: u32 = HOP_PENALTY_US;
const NOBODY: Slot = Slot(u32::MAX);
const NO_WAY: Way = Way {
    cost: FAR,
    parent: NOBODY,
    via: NOBODY,
    hops: 0,
    touched: false,
};

/// Who can be reached since an update, and who no longer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reach {
    pub(crate) gained: Vec<Slot>,
    pub(crate) lost: Vec<Slot>,
    /// Ways that were cut, whether others were found or not: what an update costs.
    pub(crate) cut: usize,
}

/// Those who lose their way in an update, and the links that they claim: read
/// once, for to find whom a link leads to is most of the work.
#[derive(Debug, Default)]
struct Orphans {
    slots: Vec<Slot>,
    claims: Vec<(Slot, RttCode)>,
    /// Where the claims of each end.
    ends: Vec<usize>,
    /// By slot: the place among the orphans.
    places: Vec<u32>,
}

impl Orphans {
    /// Reads the claims of the next one; says where they are.
    fn read(&mut self, slot: Slot, replica: &Replica) -> Range<usize> {
        let start = self.claims.len();
        self.claims.extend(replica.claimed(slot));
        self.ends.push(self.claims.len());
        start..self.claims.len()
    }

    /// All are known: from now on they can be found.
    fn index(&mut self, slot_end: usize) {
        if !self.slots.is_empty() {
            self.places = vec![u32::MAX; slot_end];
        }
        for (place, slot) in (0..).zip(&self.slots) {
            self.places[slot.at()] = place;
        }
    }

    fn place(&self, slot: Slot) -> Option<usize> {
        let place = *self.places.get(slot.at())?;
        (place != u32::MAX).then_some(place as usize)
    }

    fn claims(&self, place: usize) -> &[(Slot, RttCode)] {
        let start = place.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.claims[start..self.ends[place]]
    }
}

/// A better way to a peer: cost and hops, the peer, and its parent.
type Offer = Reverse<(u32, u16, Slot, Slot)>;

impl Ways {
    pub(crate) fn new(local: Slot) -> Self {
        let mut ways = Self {
            local,
            ways: Vec::new(),
            changed: Vec::new(),
            reached: 0,
        };
        ways.grow(local.at() + 1);
        ways.ways[local.at()].cost = 0;
        ways
    }

    /// The ways of a peer to all others of a replica.
    pub(crate) fn over(local: Slot, replica: &Replica) -> Self {
        let mut ways = Self::new(local);
        ways.grow(replica.slot_end());
        let mut offers = BinaryHeap::new();
        for (next, rtt) in replica.neighbours(local) {
            ways.offer(local, next, cost(rtt), &mut offers);
        }
        let mut before = Vec::new();
        ways.settle(offers, replica, &Orphans::default(), &mut before);
        ways.compare(&before);
        ways
    }

    /// How many peers can be reached, without ourselves.
    pub(crate) fn reached(&self) -> usize {
        self.reached
    }

    pub(crate) fn reaches(&self, slot: Slot) -> bool {
        self.ways.get(slot.at()).is_some_and(|way| way.cost != FAR)
    }

    pub(crate) fn hop(&self, slot: Slot, replica: &Replica) -> Option<Hop> {
        let way = self.ways.get(slot.at())?;
        (way.cost != FAR && slot != self.local).then(|| Hop {
            next: replica.id(way.via),
            hops: way.hops,
            cost: way.cost,
        })
    }

    /// Notes that the link of a pair may have changed.
    pub(crate) fn touch(&mut self, a: Slot, b: Slot) {
        self.changed.push((a, b));
    }

    /// Whether there is something to update.
    pub(crate) fn is_stale(&self) -> bool {
        !self.changed.is_empty()
    }

    /// The slot will be given to somebody else. Its links must have been touched.
    pub(crate) fn forget(&mut self, slot: Slot) {
        if let Some(way) = self.ways.get_mut(slot.at()) {
            self.reached -= usize::from(way.cost != FAR);
            *way = NO_WAY;
        }
    }

    /// Follows all changes since the last call.
    pub(crate) fn update(&mut self, replica: &Replica) -> Reach {
        self.grow(replica.slot_end());
        let changed = mem::take(&mut self.changed);
        let mut before = Vec::new();
        let orphans = self.cut(&changed, replica, &mut before);
        let mut offers = BinaryHeap::new();
        for place in 0..orphans.slots.len() {
            self.adopt(place, &orphans, replica, &mut offers);
        }
        for (a, b) in changed {
            let matters = self.is_better(a, b, CHEAPEST) || self.is_better(b, a, CHEAPEST);
            if let Some(rtt) = matters.then(|| replica.link(a, b)).flatten() {
                self.offer(a, b, cost(rtt), &mut offers);
                self.offer(b, a, cost(rtt), &mut offers);
            }
        }
        self.settle(offers, replica, &orphans, &mut before);
        Reach {
            cut: orphans.slots.len(),
            ..self.compare(&before)
        }
    }

    fn grow(&mut self, end: usize) {
        if self.ways.len() < end {
            self.ways.resize(end, NO_WAY);
        }
    }

    /// Takes the way from everybody whose way led over a link that is gone or
    /// dearer, and returns them.
    fn cut(
        &mut self,
        changed: &[(Slot, Slot)],
        replica: &Replica,
        before: &mut Vec<(Slot, Way)>,
    ) -> Orphans {
        let mut orphans = Orphans::default();
        for (a, b) in changed {
            for (parent, child) in [(*a, *b), (*b, *a)] {
                let way = self.ways[child.at()];
                if way.cost == FAR || way.parent != parent {
                    continue;
                }
                let above = self.ways[parent.at()].cost;
                let found = replica.link(parent, child).map(cost);
                if found.is_none_or(|cost| above.saturating_add(cost) > way.cost) {
                    self.orphan(child, before);
                    orphans.slots.push(child);
                }
            }
        }
        let mut at = 0;
        while let Some(parent) = orphans.slots.get(at).copied() {
            at += 1;
            // A link that a way leads over was confirmed, or it is among the changed ones.
            for claim in orphans.read(parent, replica) {
                let (child, _) = orphans.claims[claim];
                let way = self.ways[child.at()];
                if way.cost != FAR && way.parent == parent {
                    self.orphan(child, before);
                    orphans.slots.push(child);
                }
            }
        }
        orphans.index(replica.slot_end());
        orphans
    }

    /// Finds the best way to somebody who lost its own, over those who kept theirs.
    fn adopt(
        &self,
        place: usize,
        orphans: &Orphans,
        replica: &Replica,
        offers: &mut BinaryHeap<Offer>,
    ) {
        let orphan = orphans.slots[place];
        let kept = orphans.claims(place).iter();
        let kept = kept.filter(|(from, _)| self.reaches(*from));
        // What the other end says can only make a link dearer.
        let mut hopes: Vec<_> = kept
            .map(|(from, claim)| (self.onward(*from, cost(*claim)), *from, *claim))
            .collect();
        hopes.sort_unstable();
        let mut best = None;
        for (least, from, claim) in hopes {
            if best.is_some_and(|best| best <= (least, from)) {
                break;
            }
            if let Some(rtt) = replica.confirmed(orphan, from, claim) {
                let found = (self.onward(from, cost(rtt)), from);
                best = Some(best.map_or(found, |best| found.min(best)));
            }
        }
        if let Some(((found, hops), from)) = best {
            offers.push(Reverse((found, hops, orphan, from)));
        }
    }

    fn orphan(&mut self, slot: Slot, before: &mut Vec<(Slot, Way)>) {
        self.note(slot, before);
        let way = &mut self.ways[slot.at()];
        (way.cost, way.parent, way.via) = (FAR, NOBODY, NOBODY);
    }

    fn note(&mut self, slot: Slot, before: &mut Vec<(Slot, Way)>) {
        let way = &mut self.ways[slot.at()];
        if !way.touched {
            before.push((slot, *way));
            way.touched = true;
        }
    }

    fn offer(&self, from: Slot, to: Slot, price: u32, offers: &mut BinaryHeap<Offer>) {
        if self.is_better(from, to, price) {
            let (found, hops) = self.onward(from, price);
            offers.push(Reverse((found, hops, to, from)));
        }
    }

    fn is_better(&self, from: Slot, to: Slot, price: u32) -> bool {
        let way = &self.ways[to.at()];
        self.reaches(from) && self.onward(from, price) < (way.cost, way.hops)
    }

    /// Cost and hops of a way that leads over a peer and a link of its.
    fn onward(&self, from: Slot, price: u32) -> (u32, u16) {
        let above = &self.ways[from.at()];
        let cost = above.cost.saturating_add(price).min(FAR - 1);
        (cost, above.hops.saturating_add(1))
    }

    /// Dijkstra's algorithm over the offers and what follows from them.
    fn settle(
        &mut self,
        mut offers: BinaryHeap<Offer>,
        replica: &Replica,
        orphans: &Orphans,
        before: &mut Vec<(Slot, Way)>,
    ) {
        while let Some(Reverse((found, hops, slot, parent))) = offers.pop() {
            let way = &self.ways[slot.at()];
            if (found, hops) >= (way.cost, way.hops) {
                continue;
            }
            self.note(slot, before);
            let via = match parent == self.local {
                true => slot,
                false => self.ways[parent.at()].via,
            };
            self.ways[slot.at()] = Way {
                cost: found,
                parent,
                via,
                hops,
                touched: true,
            };
            let mut pass_on = |(next, claim): (Slot, RttCode)| {
                // Most claims lead nowhere better, whatever the other end says.
                if self.is_better(slot, next, cost(claim))
                    && let Some(rtt) = replica.confirmed(slot, next, claim)
                {
                    self.offer(slot, next, cost(rtt), &mut offers);
                }
            };
            match orphans.place(slot) {
                Some(place) => orphans.claims(place).iter().copied().for_each(&mut pass_on),
                None => replica.claimed(slot).for_each(&mut pass_on),
            }
        }
    }

    fn compare(&mut self, before: &[(Slot, Way)]) -> Reach {
        let mut reach = Reach::default();
        for (slot, old) in before {
            let way = &mut self.ways[slot.at()];
            way.touched = false;
            match (old.cost == FAR, way.cost == FAR) {
                (true, false) => reach.gained.push(*slot),
                (false, true) => reach.lost.push(*slot),
                (true, true) | (false, false) => {}
            }
        }
        self.reached += reach.gained.len();
        self.reached -= reach.lost.len();
        reach
    }
}

/// The routes of one peer, by the ids of the others.
#[derive(Clone, Copy)]
pub struct Routes<'a> {
    pub(crate) replica: &'a Replica,
    pub(crate) ways: &'a Ways,
}

impl Routes<'_> {
    /// The way to a peer, if there is one. There is none to ourselves.
    pub fn next_hop(&self, peer: &PeerId) -> Option<Hop> {
        self.ways.hop(self.replica.slot(peer)?, self.replica)
    }

    /// What of the cost of a way is left from the next hop on, in microseconds.
    pub fn rest(&self, hop: &Hop) -> u32 {
        let there = self.next_hop(&hop.next).map_or(0, |next| next.cost);
        hop.cost.saturating_sub(there)
    }

    /// The way to a peer through a neighbour of both, whatever the best way is:
    /// for the time until it is known that a link is gone.
    pub fn detour(&self, peer: &PeerId) -> Option<Hop> {
        let (replica, local) = (self.replica, self.ways.local);
        let there = replica.slot(peer).filter(|there| *there != local)?;
        let common = replica.neighbours(there).filter_map(|(next, rest)| {
            let first = replica.link(local, next)?;
            let cost = cost(first).saturating_add(cost(rest));
            (next != local).then_some((cost, next))
        });
        let (cost, next) = common.min()?;
        Some(Hop {
            next: replica.id(next),
            hops: 2,
            cost,
        })
    }

    /// Whether frames can reach the peer, or it is ourselves.
    pub fn reaches(&self, peer: &PeerId) -> bool {
        self.replica
            .slot(peer)
            .is_some_and(|slot| self.ways.reaches(slot))
    }

    /// Everybody that frames can reach, without ourselves, in no order.
    pub fn reachable(&self) -> impl Iterator<Item = PeerId> {
        let ways = (0..).map(Slot).zip(&self.ways.ways);
        let reached = ways.filter(|(slot, way)| way.cost != FAR && *slot != self.ways.local);
        reached.map(|(slot, _)| self.replica.id(slot))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::topology::tests::{empty_mesh, id, report};

    /// Every peer's routes over one replica, updated as links change.
    struct Mesh {
        replica: Replica,
        reported: Vec<BTreeMap<usize, u32>>,
        ways: Vec<Ways>,
        sequence: u64,
    }

    impl Mesh {
        fn new(size: usize) -> Self {
            let replica = empty_mesh(size);
            let slot = |n| replica.slot(&id(n)).unwrap();
            let ways = (0..size).map(|n| Ways::new(slot(n))).collect();
            Self {
                replica,
                reported: vec![BTreeMap::new(); size],
                ways,
                sequence: 0,
            }
        }

        /// Changes what `a` says of its link to `b`; none takes it away.
        fn report(&mut self, a: usize, b: usize, rtt: Option<u32>) {
            match rtt {
                Some(rtt) => self.reported[a].insert(b, rtt),
                None => self.reported[a].remove(&b),
            };
            self.sequence += 1;
            let record = report(a, self.sequence, &self.reported[a]);
            self.replica.merge(&record, |_, _| true);
            let slot = |n| self.replica.slot(&id(n)).unwrap();
            let (a, b) = (slot(a), slot(b));
            self.ways.iter_mut().for_each(|ways| ways.touch(a, b));
        }

        fn link(&mut self, a: usize, b: usize, rtt: u32) {
            self.report(a, b, Some(rtt));
            self.report(b, a, Some(rtt));
        }

        fn update(&mut self) {
            for ways in &mut self.ways {
                ways.update(&self.replica);
            }
        }

        fn hop(&self, from: usize, to: usize) -> Option<Hop> {
            let ways = &self.ways[from];
            let replica = &self.replica;
            Routes { replica, ways }.next_hop(&id(to))
        }

        fn detour(&self, from: usize, to: usize) -> Option<Hop> {
            let ways = &self.ways[from];
            let replica = &self.replica;
            Routes { replica, ways }.detour(&id(to))
        }

        /// Costs from a peer by Bellman and Ford's algorithm.
        fn costs(&self, from: usize) -> Vec<Option<u32>> {
            let size = self.reported.len();
            let mut costs = vec![None; size];
            costs[from] = Some(0);
            for _ in 0..size {
                for a in 0..size {
                    let slot = self.replica.slot(&id(a)).unwrap();
                    for (to, rtt) in self.replica.neighbours(slot) {
                        let to = self.replica.id(to).0[0] as usize;
                        let found = costs[a].map(|above: u32| above + cost(rtt));
                        costs[to] = [costs[to], found].into_iter().flatten().min();
                    }
                }
            }
            costs
        }
    }

    #[test]
    fn a_detour_must_be_worth_a_hop() {
        let mut mesh = Mesh::new(3);
        for (a, b, rtt) in [(0, 1, 1000), (1, 2, 1000), (0, 2, 3000)] {
            mesh.link(a, b, rtt);
        }
        mesh.update();
        assert_eq!(mesh.hop(0, 2).unwrap().next, id(2));
        mesh.link(0, 2, 90_000);
        mesh.update();
        assert_eq!(mesh.hop(0, 2).unwrap().next, id(1));
        assert_eq!(mesh.hop(0, 0), None);
    }

    proptest! {
        #[test]
        fn updated_ways_are_shortest_ways(
            size in 2usize..12,
            steps in prop::collection::vec((0usize..12, 0usize..12, prop::option::of(prop_oneof![Just(8u32), 0u32..9000]), any::<bool>()), 1..80),
        ) {
            let mut mesh = Mesh::new(size);
            for (a, b, rtt, update) in steps {
                let (a, b) = (a % size, b % size);
                mesh.report(a, b, rtt);
                if rtt.is_some() {
                    mesh.report(b, a, rtt);
                }
                if !update {
                    continue;
                }
                mesh.update();
                for from in 0..size {
                    let costs = mesh.costs(from);
                    let anew = Ways::over(mesh.ways[from].local, &mesh.replica);
                    let reached = costs.iter().filter(|cost| cost.is_some()).count() - 1;
                    prop_assert_eq!(mesh.ways[from].reached(), reached);
                    for to in (0..size).filter(|to| *to != from) {
                        let hop = mesh.hop(from, to);
                        prop_assert_eq!(hop.map(|hop| hop.cost), costs[to]);
                        let slot = mesh.replica.slot(&id(to)).unwrap();
                        prop_assert_eq!(anew.hop(slot, &mesh.replica).map(|hop| hop.cost), costs[to]);
                        let Some(hop) = hop else { continue };
                        let next = hop.next.0[0] as usize;
                        let after = mesh.hop(next, to).map_or((0, 0), |hop| (hop.cost, hop.hops));
                        prop_assert!(after.0 < hop.cost, "costs fall towards the peer");
                        let (replica, ways) = (&mesh.replica, &mesh.ways[from]);
                        prop_assert_eq!(Routes { replica, ways }.rest(&hop), after.0);
                    }
                }
            }
        }
    }

    #[test]
    fn a_detour_leads_over_the_nearest_common_neighbour() {
        let mut mesh = Mesh::new(5);
        for (a, b, rtt) in [
            (0, 1, 100),
            (0, 2, 1000),
            (2, 1, 1000),
            (0, 3, 9000),
            (3, 1, 10),
        ] {
            mesh.link(a, b, rtt);
        }
        mesh.update();
        let hop = mesh.detour(0, 1).unwrap();
        assert_eq!((hop.next, hop.hops), (id(2), 2));
        assert!(hop.cost > mesh.hop(0, 1).unwrap().cost);
        assert_eq!(mesh.detour(0, 0), None);
        assert_eq!(mesh.detour(0, 4), None);
        // A link that only one end reports is none.
        mesh.report(2, 1, None);
        assert_eq!(mesh.detour(0, 1).unwrap().next, id(3));
    }
}
