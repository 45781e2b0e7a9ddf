//! Shortest paths over the graph of links: next hops, and the trees along which
//! broadcasts travel. Equal graphs give equal trees on every peer, because ties
//! are broken by fewer hops and then by lower id.

use std::{cmp::Reverse, collections::BinaryHeap, sync::OnceLock};

use proto::PeerId;

use crate::topology::Graph;

/// The way to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The neighbour to hand a frame to.
    pub next: PeerId,
    /// Links on the way.
    pub hops: u16,
    /// Cost of the way in microseconds.
    pub cost: u64,
}

/// The routes of one peer over one graph. Immutable; shared with the data plane.
#[derive(Debug, Default)]
pub struct Routes {
    local: PeerId,
    graph: Graph,
    hops: Vec<Option<Hop>>,
    /// By source, made when first asked for.
    children: OnceLock<Box<[Children]>>,
}

impl Routes {
    /// Calculates the routes of `local`.
    pub fn new(local: PeerId, graph: Graph) -> Self {
        let hops = match graph.index(&local) {
            Some(source) => first_hops(&graph, source, &Tree::new(&graph, source)),
            None => vec![None; graph.len()],
        };
        Self {
            local,
            graph,
            hops,
            children: OnceLock::new(),
        }
    }

    /// The way to a peer, if there is one. There is none to ourselves.
    pub fn next_hop(&self, peer: &PeerId) -> Option<Hop> {
        self.hops[self.graph.index(peer)?]
    }

    /// Whether frames can reach the peer, or it is ourselves.
    pub fn reaches(&self, peer: &PeerId) -> bool {
        *peer == self.local || self.next_hop(peer).is_some()
    }

    /// The neighbours to which this peer forwards what `source` broadcasts.
    /// Calculated once per source and graph.
    pub fn children(&self, source: &PeerId) -> &[PeerId] {
        let Some(source) = self.graph.index(source) else {
            return &[];
        };
        let trees = self.children.get_or_init(|| self.graph_sized());
        trees[source].get_or_init(|| self.children_of(source).into())
    }

    /// Everybody that frames can reach, without ourselves, by id.
    pub fn reachable(&self) -> impl Iterator<Item = (PeerId, Hop)> {
        let hops = self.hops.iter().enumerate();
        hops.filter_map(|(index, hop)| Some((self.graph.peer(index), (*hop)?)))
    }

    /// The graph they were calculated over.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    fn graph_sized(&self) -> Box<[Children]> {
        (0..self.graph.len()).map(|_| OnceLock::new()).collect()
    }

    fn children_of(&self, source: usize) -> Vec<PeerId> {
        let Some(local) = self.graph.index(&self.local) else {
            return Vec::new();
        };
        let tree = Tree::new(&self.graph, source);
        let links = self.graph.links(local).iter().map(|(to, _)| *to as usize);
        let ours = links.filter(|to| tree.parent[*to] == local as u32);
        ours.map(|to| self.graph.peer(to)).collect()
    }
}

/// The neighbours that get what one source broadcasts, once calculated.
type Children = OnceLock<Box<[PeerId]>>;

const NONE: u32 = u32::MAX;

/// The shortest-path tree of a source.
struct Tree {
    /// Cost and hops from the source.
    distance: Vec<(u64, u16)>,
    parent: Vec<u32>,
    /// The reached peers, near to far.
    order: Vec<u32>,
}

impl Tree {
    /// Dijkstra's algorithm. Every link costs something, so a parent is settled before its children.
    fn new(graph: &Graph, source: usize) -> Self {
        let len = graph.len();
        let mut tree = Self {
            distance: vec![(u64::MAX, u16::MAX); len],
            parent: vec![NONE; len],
            order: Vec::with_capacity(len),
        };
        let mut settled = vec![false; len];
        let mut open = BinaryHeap::from([Reverse((0, 0, source as u32))]);
        tree.distance[source] = (0, 0);
        while let Some(Reverse((_, _, at))) = open.pop() {
            if std::mem::replace(&mut settled[at as usize], true) {
                continue;
            }
            tree.order.push(at);
            let (cost, hops) = tree.distance[at as usize];
            for (to, price) in graph.links(at as usize) {
                let to_index = *to as usize;
                let found = (cost + u64::from(*price), hops.saturating_add(1));
                let before = (tree.distance[to_index], tree.parent[to_index]);
                if !settled[to_index] && (found, at) < before {
                    tree.distance[to_index] = found;
                    tree.parent[to_index] = at;
                    open.push(Reverse((found.0, found.1, *to)));
                }
            }
        }
        tree
    }
}

fn first_hops(graph: &Graph, source: usize, tree: &Tree) -> Vec<Option<Hop>> {
    let mut hops: Vec<Option<Hop>> = vec![None; graph.len()];
    for at in tree
        .order
        .iter()
        .map(|at| *at as usize)
        .filter(|at| *at != source)
    {
        let parent = tree.parent[at] as usize;
        let next = if parent == source {
            Some(graph.peer(at))
        } else {
            hops[parent].map(|hop| hop.next)
        };
        let (cost, count) = tree.distance[at];
        hops[at] = next.map(|next| Hop {
            next,
            hops: count,
            cost,
        });
    }
    hops
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::topology::Topology;

    fn id(n: usize) -> PeerId {
        PeerId([n as u8; 16])
    }

    fn mesh(size: usize, links: &[(usize, usize, u32)]) -> Vec<Routes> {
        let mut reported: BTreeMap<usize, BTreeMap<PeerId, u32>> =
            (0..size).map(|n| (n, BTreeMap::new())).collect();
        for (a, b, rtt) in links.iter().filter(|(a, b, _)| a % size != b % size) {
            let (a, b) = (a % size, b % size);
            reported.entry(a).or_default().insert(id(b), *rtt);
            reported.entry(b).or_default().insert(id(a), *rtt);
        }
        let mut topology = Topology::default();
        for (n, links) in &reported {
            topology.report(id(*n), 0, links.clone().into_iter().collect());
        }
        (0..size)
            .map(|n| Routes::new(id(n), topology.graph()))
            .collect()
    }

    #[test]
    fn a_detour_must_be_worth_a_hop() {
        let slightly = mesh(3, &[(0, 1, 1000), (1, 2, 1000), (0, 2, 3000)]);
        assert_eq!(slightly[0].next_hop(&id(2)).unwrap().next, id(2));
        let much = mesh(3, &[(0, 1, 1000), (1, 2, 1000), (0, 2, 90_000)]);
        assert_eq!(much[0].next_hop(&id(2)).unwrap().next, id(1));
        assert_eq!(much[0].next_hop(&id(0)), None);
        assert!(much[0].reaches(&id(0)));
    }

    proptest! {
        #[test]
        fn routes_end_and_broadcasts_reach_everybody_once(
            size in 2usize..14,
            links in prop::collection::vec((0usize..14, 0usize..14, prop_oneof![Just(1u32), 0u32..9000]), 0..40),
        ) {
            let routes = mesh(size, &links);
            for from in 0..size {
                for (to, hop) in routes[from].reachable() {
                    let (mut at, mut cost, mut steps) = (id(from), hop.cost + 1, 0);
                    while at != to {
                        let hop = routes[at.0[0] as usize].next_hop(&to).unwrap();
                        prop_assert!(hop.cost < cost);
                        (at, cost, steps) = (hop.next, hop.cost, steps + 1);
                    }
                    prop_assert_eq!(steps, hop.hops);
                }
                let mut copies = vec![0; size];
                let mut open = vec![from];
                while let Some(at) = open.pop() {
                    copies[at] += 1;
                    prop_assert!(copies[at] == 1);
                    open.extend(routes[at].children(&id(from)).iter().map(|peer| peer.0[0] as usize));
                }
                for (to, count) in copies.iter().enumerate() {
                    prop_assert_eq!(*count == 1, routes[from].reaches(&id(to)));
                }
            }
        }
    }
}
