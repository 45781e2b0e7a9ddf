//! What is measured of a peer's mesh, by the numbers of peers: the same whether
//! its sessions are modelled or a whole engine runs round it.

use std::sync::Arc;

use gossip::{Authority, Claims, Counters, Directory, Mesh, Routes};
use proto::{MacAddr, PeerId, record::Record};

use super::{cast::Cast, identity};

/// A look at the mesh of one peer.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    mesh: &'a dyn Observed,
    /// Who has which id, unless ids tell it.
    cast: Option<&'a Cast>,
}

/// A mesh, whoever signs for it.
trait Observed {
    fn routes(&self) -> Routes<'_>;
    fn stations(&self) -> &Claims;
    fn directory(&self) -> &Directory;
    fn counters(&self) -> &Counters;
    fn records(&self) -> Vec<Arc<Record>>;
    fn record_count(&self) -> usize;
    fn reachable_count(&self) -> usize;
    fn fingerprint(&self) -> u64;
}

impl<A: Authority> Observed for Mesh<A> {
    fn routes(&self) -> Routes<'_> {
        self.routes()
    }

    fn stations(&self) -> &Claims {
        self.stations()
    }

    fn directory(&self) -> &Directory {
        self.directory()
    }

    fn counters(&self) -> &Counters {
        self.counters()
    }

    fn records(&self) -> Vec<Arc<Record>> {
        self.records().cloned().collect()
    }

    fn record_count(&self) -> usize {
        self.record_count()
    }

    fn reachable_count(&self) -> usize {
        self.reachable_count()
    }

    fn fingerprint(&self) -> u64 {
        self.fingerprint()
    }
}

impl<'a> View<'a> {
    pub(crate) fn new<A: Authority>(mesh: &'a Mesh<A>, cast: Option<&'a Cast>) -> Self {
        Self { mesh, cast }
    }

    /// Whether frames can reach a peer, or it is this one.
    pub(crate) fn reaches(&self, peer: u32) -> bool {
        self.mesh.routes().reaches(&self.id(peer))
    }

    /// The neighbour on the way to a peer, how far the peer is, and how far it
    /// is from the neighbour.
    pub(crate) fn next_hop(&self, peer: u32) -> Option<(u32, u32, u32)> {
        let routes = self.mesh.routes();
        let hop = routes.next_hop(&self.id(peer))?;
        Some((self.number(&hop.next)?, hop.cost, routes.rest(&hop)))
    }

    /// Everybody that frames can reach, without this peer.
    pub(crate) fn reached(&self) -> Vec<u32> {
        let routes = self.mesh.routes();
        let numbers = routes.reachable().filter_map(|id| self.number(&id));
        numbers.collect()
    }

    /// How many that are.
    pub(crate) fn reachable_count(&self) -> usize {
        self.mesh.reachable_count()
    }

    /// The peer behind which a station is.
    pub(crate) fn peer_of(&self, mac: &MacAddr) -> Option<u32> {
        self.number(&self.mesh.stations().peer_of(mac)?)
    }

    /// Whether a name has an address.
    pub(crate) fn knows_name(&self, name: &str) -> bool {
        let found = self.mesh.directory().lookup(name);
        found.is_some_and(|addresses| !addresses.is_empty())
    }

    /// All records this peer holds.
    pub(crate) fn records(&self) -> Vec<Arc<Record>> {
        self.mesh.records()
    }

    /// How many those are.
    pub(crate) fn record_count(&self) -> usize {
        self.mesh.record_count()
    }

    /// Equal for equal records.
    pub(crate) fn fingerprint(&self) -> u64 {
        self.mesh.fingerprint()
    }

    pub(crate) fn counters(&self) -> &'a Counters {
        self.mesh.counters()
    }

    /// The number of a peer, if it is one of this world.
    pub(crate) fn number(&self, id: &PeerId) -> Option<u32> {
        match self.cast {
            Some(cast) => cast.number(id),
            None => Some(identity::number(id)),
        }
    }

    fn id(&self, number: u32) -> PeerId {
        match self.cast {
            Some(cast) => cast.id(number),
            None => identity::id(number),
        }
    }
}
