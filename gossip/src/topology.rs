//! The graph of links that both ends report, and the trees along which
//! broadcasts travel over it. Equal graphs give equal trees on every peer,
//! because ties are broken by fewer hops and then by lower id.
//!
//! A link counts when both ends report it, so nobody can invent one to somebody
//! else (design D3).

use std::{cmp::Reverse, collections::BinaryHeap};

use proto::{PeerId, record::RttCode};

use crate::replica::{Replica, Slot};

/// Added to every hop, in microseconds: a detour must be this much faster to be worth it.
pub const HOP_PENALTY_US: u32 = 2000;

/// What a link costs, in microseconds.
pub(crate) fn cost(rtt: RttCode) -> u32 {
    rtt.micros() + HOP_PENALTY_US
}

/// Peers by index in the order of their ids, and the confirmed links of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Graph {
    peers: Vec<PeerId>,
    starts: Vec<u32>,
    /// Index and cost.
    edges: Vec<(u32, u32)>,
}

impl Graph {
    /// The graph that all records together describe.
    pub fn new(replica: &Replica) -> Self {
        let slots: Vec<Slot> = replica.owners().collect();
        let mut index = vec![u32::MAX; replica.slot_end()];
        for (at, slot) in slots.iter().enumerate() {
            index[slot.at()] = at as u32;
        }
        let mut graph = Self {
            peers: slots.iter().map(|slot| replica.id(*slot)).collect(),
            starts: Vec::with_capacity(slots.len() + 1),
            edges: Vec::new(),
        };
        for slot in slots {
            let start = graph.edges.len();
            graph.starts.push(start as u32);
            let links = replica.neighbours(slot);
            graph
                .edges
                .extend(links.map(|(to, rtt)| (index[to.at()], cost(rtt))));
            graph.edges[start..].sort_unstable();
        }
        graph.starts.push(graph.edges.len() as u32);
        graph
    }

    /// How many peers.
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Whether there is no peer.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// The index of a peer.
    pub fn index(&self, peer: &PeerId) -> Option<usize> {
        self.peers.binary_search(peer).ok()
    }

    /// Where the links of a peer lead and what they cost in microseconds.
    pub fn links(&self, index: usize) -> &[(u32, u32)] {
        &self.edges[self.starts[index] as usize..self.starts[index + 1] as usize]
    }

    /// The neighbours to which `local` forwards what `source` broadcasts.
    pub fn children(&self, local: &PeerId, source: &PeerId) -> Vec<PeerId> {
        let (Some(local), Some(source)) = (self.index(local), self.index(source)) else {
            return Vec::new();
        };
        let parents = self.tree(source);
        let links = self.links(local).iter().map(|(to, _)| *to as usize);
        let ours = links.filter(|to| parents[*to] == local as u32);
        ours.map(|to| self.peers[to]).collect()
    }

    /// The parent of each peer in the shortest-path tree of a source, by
    /// Dijkstra's algorithm. Every link costs something, so a parent is settled
    /// before its children.
    fn tree(&self, source: usize) -> Vec<u32> {
        const NONE: u32 = u32::MAX;
        let mut parents = vec![NONE; self.len()];
        let mut distances = vec![(u64::MAX, u16::MAX); self.len()];
        let mut settled = vec![false; self.len()];
        let mut open = BinaryHeap::from([Reverse((0, 0, source as u32))]);
        distances[source] = (0, 0);
        while let Some(Reverse((_, _, at))) = open.pop() {
            if std::mem::replace(&mut settled[at as usize], true) {
                continue;
            }
            let (cost, hops) = distances[at as usize];
            for (to, price) in self.links(at as usize) {
                let index = *to as usize;
                let found = (cost + u64::from(*price), hops.saturating_add(1));
                if !settled[index] && (found, at) < (distances[index], parents[index]) {
                    distances[index] = found;
                    parents[index] = at;
                    open.push(Reverse((found.0, found.1, *to)));
                }
            }
        }
        parents
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use proptest::prelude::*;
    use proto::record::{Body, LinkTo, Links, Record, RecordKey, Topic, Version};

    use super::*;
    use crate::replica::tests::record;

    pub(crate) fn id(n: usize) -> PeerId {
        PeerId([n as u8; 16])
    }

    /// What a peer reports of its links: neighbours and round-trip times.
    pub(crate) fn report(owner: usize, sequence: u64, links: &BTreeMap<usize, u32>) -> Arc<Record> {
        let links = links.iter().map(|(to, rtt)| LinkTo {
            peer: id(*to).short_id(),
            rtt: RttCode::from_micros(*rtt),
        });
        let links = Links {
            links: links.collect(),
        };
        let key = RecordKey {
            owner: id(owner),
            topic: Topic::Links(0),
        };
        let version = Version { epoch: 1, sequence };
        Arc::new(Record::new(key, version, Body::Links(links).encode()))
    }

    pub(crate) fn empty_mesh(size: usize) -> Replica {
        let mut replica = Replica::new(1000, 1);
        for n in 0..size {
            replica.merge(&record(n as u8, Topic::Node, 1, 0), |_, _| true);
        }
        replica
    }

    fn mesh(size: usize, links: &[(usize, usize, u32)]) -> Graph {
        let mut reported = vec![BTreeMap::new(); size];
        for (a, b, rtt) in links {
            reported[*a % size].insert(*b % size, *rtt);
            reported[*b % size].insert(*a % size, *rtt);
        }
        let mut replica = empty_mesh(size);
        for (n, links) in reported.iter().enumerate() {
            replica.merge(&report(n, 1, links), |_, _| true);
        }
        Graph::new(&replica)
    }

    #[test]
    fn only_links_that_both_ends_report_count() {
        let mut replica = empty_mesh(4);
        let links = |links: &[(usize, u32)]| links.iter().copied().collect();
        replica.merge(
            &report(1, 1, &links(&[(2, 512), (3, 512), (1, 8)])),
            |_, _| true,
        );
        replica.merge(&report(2, 1, &links(&[(1, 1024)])), |_, _| true);
        replica.merge(&report(3, 1, &links(&[(9, 8)])), |_, _| true);
        let graph = Graph::new(&replica);
        assert_eq!(graph.links(1), [(2, 1024 + HOP_PENALTY_US)]);
        assert_eq!(graph.links(2), [(1, 1024 + HOP_PENALTY_US)]);
        assert_eq!(graph.links(3), []);
        replica.merge(&report(2, 2, &links(&[])), |_, _| true);
        assert_eq!(Graph::new(&replica).links(1), []);
    }

    proptest! {
        #[test]
        fn broadcasts_reach_everybody_once(
            size in 2usize..14,
            links in prop::collection::vec((0usize..14, 0usize..14, prop_oneof![Just(1u32), 0u32..9000]), 0..40),
        ) {
            let graph = mesh(size, &links);
            for from in 0..size {
                let mut copies = vec![0; size];
                let mut open = vec![from];
                while let Some(at) = open.pop() {
                    copies[at] += 1;
                    prop_assert!(copies[at] == 1);
                    open.extend(graph.children(&id(at), &id(from)).iter().map(|peer| peer.0[0] as usize));
                }
                let parents = graph.tree(from);
                for (to, count) in copies.iter().enumerate() {
                    prop_assert_eq!(*count == 1, to == from || parents[to] != u32::MAX);
                }
            }
        }
    }
}
