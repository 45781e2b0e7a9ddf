//! The graph of links, as the peers report them. A link counts when both ends
//! report it, so nobody can invent one to somebody else (design D3).

use std::collections::BTreeMap;

use proto::PeerId;

/// Added to every hop, in microseconds: a detour must be this much faster to be worth it.
pub const HOP_PENALTY_US: u32 = 2000;
/// Longer round-trip times than this (134 s) are reported as this.
pub const RTT_LIMIT_US: u32 = (1 << 27) - 1;

/// What each peer reports of its links.
#[derive(Clone, Debug, Default)]
pub struct Topology {
    reports: BTreeMap<PeerId, BTreeMap<u8, Vec<(PeerId, u32)>>>,
}

impl Topology {
    /// Takes in one part of a peer's links. Says whether anything changed.
    pub fn report(&mut self, owner: PeerId, part: u8, links: Vec<(PeerId, u32)>) -> bool {
        let parts = self.reports.entry(owner).or_default();
        let before = if links.is_empty() {
            parts.remove(&part)
        } else {
            parts.insert(part, links)
        };
        before.as_ref() != parts.get(&part)
    }

    /// Forgets what a peer reported.
    pub fn remove(&mut self, owner: &PeerId) -> bool {
        self.reports.remove(owner).is_some()
    }

    /// To whom a peer reports links, confirmed or not.
    pub fn links_of(&self, owner: &PeerId) -> impl Iterator<Item = PeerId> {
        let parts = self
            .reports
            .get(owner)
            .into_iter()
            .flat_map(BTreeMap::values);
        parts.flatten().map(|(peer, _)| *peer)
    }

    /// The graph of confirmed links.
    pub fn graph(&self) -> Graph {
        let peers: Vec<PeerId> = self.reports.keys().copied().collect();
        let reported: Vec<Vec<(u32, u32)>> = self
            .reports
            .values()
            .map(|parts| indexed(&peers, parts))
            .collect();
        let mut graph = Graph {
            peers,
            starts: Vec::with_capacity(reported.len() + 1),
            edges: Vec::new(),
        };
        for (from, links) in reported.iter().enumerate() {
            graph.starts.push(graph.edges.len() as u32);
            for (to, rtt) in links {
                let back = &reported[*to as usize];
                let Ok(at) = back.binary_search_by_key(&(from as u32), |(peer, _)| *peer) else {
                    continue;
                };
                let rtt = back[at].1.max(*rtt).min(RTT_LIMIT_US);
                graph.edges.push((*to, rtt + HOP_PENALTY_US));
            }
        }
        graph.starts.push(graph.edges.len() as u32);
        graph
    }
}

fn indexed(peers: &[PeerId], parts: &BTreeMap<u8, Vec<(PeerId, u32)>>) -> Vec<(u32, u32)> {
    let known = |(peer, rtt): &(PeerId, u32)| Some((peers.binary_search(peer).ok()? as u32, *rtt));
    let mut links: Vec<_> = parts.values().flatten().filter_map(known).collect();
    links.sort_unstable();
    links.dedup_by_key(|(peer, _)| *peer);
    links
}

/// Peers by index in the order of their ids, and the confirmed links of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Graph {
    peers: Vec<PeerId>,
    starts: Vec<u32>,
    edges: Vec<(u32, u32)>,
}

impl Graph {
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

    /// The peer with an index below [`Graph::len`].
    pub fn peer(&self, index: usize) -> PeerId {
        self.peers[index]
    }

    /// Where the links of a peer lead and what they cost in microseconds.
    pub fn links(&self, index: usize) -> &[(u32, u32)] {
        &self.edges[self.starts[index] as usize..self.starts[index + 1] as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_links_that_both_ends_report_count() {
        let id = |n: u8| PeerId([n; 16]);
        let mut topology = Topology::default();
        assert!(topology.report(id(1), 0, vec![(id(2), 500), (id(3), 500)]));
        assert!(topology.report(id(2), 5, vec![(id(1), 900)]));
        topology.report(id(3), 0, vec![(id(9), 1)]);
        let graph = topology.graph();
        assert_eq!(graph.links(0), [(1, 900 + HOP_PENALTY_US)]);
        assert_eq!(graph.links(1), [(0, 900 + HOP_PENALTY_US)]);
        assert_eq!(graph.links(2), []);
        assert!(!topology.report(id(2), 5, vec![(id(1), 900)]));
        assert!(topology.report(id(2), 5, vec![]));
        assert_eq!(topology.graph().links(0), []);
    }
}
