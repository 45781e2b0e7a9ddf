//! The way frames take: from next hop to next hop, as each peer on it routes.

use super::world::World;

/// Why frames do not get there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// A peer on the way knows no next hop.
    NoRoute,
    /// The next hop does not run, has no session with the one before, or
    /// datagrams do not get through to it.
    Severed,
    /// The frame comes no nearer: the peer refuses it, as the relays of wove do,
    /// for their views differ at the moment.
    Refused,
    /// A peer hands the same frame on twice.
    Loop,
}

impl World {
    /// The peers that a frame passes, both ends included.
    pub(crate) fn chain(&self, from: u32, to: u32) -> Result<Vec<u32>, Broken> {
        let mut path = vec![from];
        let (mut at, mut distance, mut surprised) = (from, u32::MAX, false);
        while at != to {
            let view = self.view(at).ok_or(Broken::Severed)?;
            let (next, cost, rest) = view.next_hop(to).ok_or(Broken::NoRoute)?;
            // As `wove::engine::seal` has it.
            let handed_back = path.iter().nth_back(1) == Some(&next);
            if handed_back || cost >= distance && (rest >= distance || surprised) {
                return Err(Broken::Refused);
            }
            surprised |= cost >= distance;
            distance = distance.min(cost);
            if path[..path.len() - 1].contains(&at) {
                return Err(Broken::Loop);
            }
            if !self.carries(at, next) {
                return Err(Broken::Severed);
            }
            path.push(next);
            at = next;
        }
        match self.host(to).runs() {
            true => Ok(path),
            false => Err(Broken::Severed),
        }
    }

    /// Whether frames get from a peer to another now. A peer that has frames for
    /// another, to whom it knows a way, tries its address and the relays at once.
    pub(crate) fn joins(&self, from: u32, to: u32) -> bool {
        let knows = |a: u32, b: u32| self.view(a).is_some_and(|view| view.reaches(b));
        let direct = self.shared.wan.connects(from, to) && knows(from, to) && knows(to, from);
        direct || self.chain(from, to).is_ok()
    }

    /// Whether there is a way from a peer to another over hosts on which peers
    /// run, whatever links they have.
    pub(crate) fn underlay_joins(&self, from: u32, to: u32) -> bool {
        let mut rest = self.running();
        let mut found = vec![from];
        while let Some(at) = found.pop() {
            if at == to {
                return true;
            }
            let met = rest.extract_if(.., |host| self.shared.wan.connects(at, *host));
            found.extend(met);
        }
        false
    }

    /// Whether a frame gets from a peer to a neighbour now.
    pub(crate) fn carries(&self, from: u32, to: u32) -> bool {
        let (here, there) = (self.host(from), self.host(to));
        let wan = &self.shared.wan;
        here.runs()
            && there.runs()
            && here.is_linked(to)
            && here.is_heard_by(there)
            && there.is_heard_by(here)
            && wan.passes(from, to)
            && wan.passes(to, from)
    }

    /// The one-way delay along a chain in seconds, without jitter.
    pub(crate) fn chain_delay(&self, path: &[u32]) -> f64 {
        let hops = path.windows(2);
        hops.map(|hop| self.shared.wan.delay(hop[0], hop[1]) as f64 / 1e9)
            .sum()
    }

    /// How many links a peer has that are in use.
    pub(crate) fn links(&self, number: u32) -> usize {
        self.host(number).link_count()
    }

    /// The most links of any peer.
    pub(crate) fn links_max(&self) -> usize {
        self.numbers()
            .map(|number| self.links(number))
            .max()
            .unwrap_or_default()
    }
}
