//! Building the snapshot, part by part.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Instant};

use proto::{PeerId, datagram::Protection, message::CAN_SHARE};

use super::{
    super::{
        peers::{Direct, Peer},
        snapshot::{Incoming, Path, Route, Snapshot, StationMap, Straight},
        timing::DOUBT,
    },
    Dirty, Router,
};

/// Addresses doubted at once; beyond, gossip has to do.
const MAX_DOUBTS: usize = 1024;
/// Doubts that are heeded at once, in a row and per second.
pub(super) const DOUBTS_BURST: u64 = 16;
pub(super) const DOUBTS_RATE: u64 = 16;

impl Router {
    /// Brings the snapshot up to date.
    pub(super) fn publish(&mut self) {
        let dirty = std::mem::take(&mut self.dirty);
        let Dirty {
            sessions,
            paths,
            stations,
            trees,
            fast,
            names,
            wanted,
        } = dirty;
        if !(sessions || paths || stations || trees || fast || names || wanted) {
            return;
        }
        let mut next = Snapshot::clone(&self.snapshot);
        next.generation += 1;
        if sessions {
            next.sessions = Arc::new(self.incoming());
        }
        if paths {
            next.paths = Arc::new(self.paths());
        }
        // Whatever ends a session or a path ends the fast path.
        if sessions || paths || fast {
            let table = self.fast_table();
            if table != *next.fast {
                next.fast = Arc::new(table);
            }
        }
        if stations {
            next.stations = Arc::new(self.station_map());
        }
        if names {
            let changed = self.mesh.take_changed_names();
            Arc::make_mut(&mut next.names).update(self.mesh.directory(), &changed);
        }
        if trees {
            next.neighbours = Arc::new(
                self.peers
                    .iter()
                    .filter(|(_, p)| p.link)
                    .map(|(id, _)| *id)
                    .collect(),
            );
            next.trees = Arc::new(self.lingering_trees(&next.trees));
        } else if wanted {
            self.add_wanted(Arc::make_mut(&mut next.trees));
        }
        self.snapshot = Arc::new(next);
        self.unpublished = true;
    }

    fn incoming(&self) -> HashMap<u32, Incoming> {
        let sessions = self.peers.iter().flat_map(|(id, peer)| {
            peer.sessions.iter().map(|held| {
                let incoming = Incoming {
                    peer: *id,
                    session: Arc::clone(&held.session),
                    counters: Arc::clone(&peer.counters),
                };
                (held.session.local(), incoming)
            })
        });
        sessions.collect()
    }

    fn paths(&self) -> HashMap<PeerId, Arc<Path>> {
        let known = self
            .peers
            .iter()
            .map(|(id, peer)| (*id, Arc::new(self.path(*id, peer))));
        let routes = self.mesh.routes();
        let others = routes
            .reachable()
            .filter(|id| !self.peers.contains_key(id))
            .map(|id| {
                let path = Path {
                    session: None,
                    protection: Protection::Sealed,
                    route: self.relay(id),
                    straight: None,
                    shares: false,
                    counters: Arc::default(),
                };
                (id, Arc::new(path))
            });
        known
            .chain(others)
            .filter(|(id, _)| *id != self.local)
            .collect()
    }

    fn path(&self, id: PeerId, peer: &Peer) -> Path {
        let held = peer.sending();
        let relay = self.way_round(id, peer);
        let straight = peer.direct.as_ref().map(Straight::of);
        // Until keys are confirmed, what others send through here goes on as before.
        let chosen = relay == Route::None
            || held.is_some() && !peer.direct.as_ref().is_some_and(Direct::is_second_choice);
        let route = straight.filter(|_| chosen).map_or(relay, Route::Direct);
        Path {
            session: held.map(|h| Arc::clone(&h.session)),
            protection: held.map_or(Protection::Sealed, |h| h.protection),
            route,
            straight,
            shares: peer.capabilities & CAN_SHARE != 0,
            counters: Arc::clone(&peer.counters),
        }
    }

    /// Whether frames are relayed to a peer although there is a direct path: it
    /// owes an answer, or is TCP, which stands still for a lost segment.
    pub(super) fn is_bypassed(&self, id: PeerId, peer: &Peer) -> bool {
        peer.direct.as_ref().is_some_and(Direct::is_second_choice)
            && self.way_round(id, peer) != Route::None
    }

    /// The relay to a peer. The routes know none while they believe in the link;
    /// if its path owes an answer or has just been given up, a common neighbour
    /// is the way.
    fn way_round(&self, id: PeerId, peer: &Peer) -> Route {
        let relay = self.relay(id);
        let sound = peer.direct.as_ref().is_some_and(|d| !d.suspect);
        if sound || relay != Route::None {
            return relay;
        }
        match self.mesh.routes().detour(&id) {
            Some(hop) if self.has_path(&hop.next) => Route::Relay {
                next: hop.next,
                distance: hop.cost,
                rest: 0,
            },
            Some(_) | None => Route::None,
        }
    }

    fn has_path(&self, next: &PeerId) -> bool {
        let sound = |p: &Peer| p.current.is_some() && p.direct.as_ref().is_some_and(|d| !d.suspect);
        self.peers.get(next).is_some_and(sound)
    }

    fn relay(&self, id: PeerId) -> Route {
        let direct = |next: &PeerId| {
            self.peers
                .get(next)
                .is_some_and(|p| p.direct.is_some() && p.current.is_some())
        };
        match self.mesh.routes().next_hop(&id) {
            Some(hop) if hop.next != id && direct(&hop.next) => Route::Relay {
                next: hop.next,
                distance: hop.cost,
                rest: self.mesh.routes().rest(&hop),
            },
            Some(_) | None => Route::None,
        }
    }

    fn station_map(&self) -> StationMap {
        let mut map = StationMap::default();
        for (mac, peer, ips) in self.mesh.stations().iter() {
            map.macs.insert(mac, peer);
            let sure = ips.into_iter().filter(|ip| !self.doubts.contains_key(ip));
            map.ips.extend(sure.map(|ip| (ip, mac)));
        }
        map
    }

    /// An announcement contradicts what gossip says of an address.
    pub(super) fn doubt(&mut self, ip: IpAddr, now: Instant) {
        if self.doubts.len() < MAX_DOUBTS && self.doubts.insert(ip, now + DOUBT).is_none() {
            // The map is made anew for it: at once for a few, together for many.
            match self.doubts_pace.take(now, 1) {
                true => self.dirty.stations = true,
                false => self.doubts_wait = true,
            }
        }
    }

    /// Gossip had its time.
    pub(super) fn end_doubts(&mut self, now: Instant) {
        let before = self.doubts.len();
        self.doubts.retain(|_, until| now < *until);
        let waits = std::mem::take(&mut self.doubts_wait);
        self.dirty.stations |= waits || self.doubts.len() != before;
    }
}
