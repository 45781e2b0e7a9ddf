//! What the programs' maps shall hold, made from a snapshot, and what has to
//! be written to get there. Knows no kernel, so that it can be tested.
//!
//! Peers come before the stations that point to them, and go after them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use proto::{MacAddr, PeerId};

use crate::engine::{
    Snapshot,
    counters::PeerCounters,
    snapshot::{FastPeer, FastTable, StationMap},
};

/// Flags of `struct peer`.
const UP: u32 = 1;
const IPV6: u32 = 2;
const FROM_IPV4: u32 = 4;
const FROM_IPV6: u32 = 8;

/// One thing to write.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change {
    /// A peer is there, or has changed.
    Peer(u32, PeerEntry),
    NoPeer(u32),
    /// A station is behind the peer of this index.
    Station(MacAddr, u32),
    NoStation(MacAddr),
    /// A station is on this host.
    Local(MacAddr),
    NoLocal(MacAddr),
}

/// A peer as the programs see it.
#[derive(Clone, Debug)]
pub(super) struct PeerEntry {
    /// `struct peer`.
    pub(super) value: [u32; 14],
    pub(super) counters: Arc<PeerCounters>,
}

impl PartialEq for PeerEntry {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

/// What the maps hold.
#[derive(Default)]
pub(super) struct Table {
    made_from: Option<(Arc<FastTable>, Arc<StationMap>)>,
    peers: BTreeMap<u32, [u32; 14]>,
    stations: HashMap<MacAddr, u32>,
    locals: BTreeSet<MacAddr>,
}

impl Table {
    /// What has to be written to get to this snapshot.
    pub(super) fn update(&mut self, snapshot: &Snapshot, bound: Option<IpAddr>) -> Vec<Change> {
        let from = (Arc::clone(&snapshot.fast), Arc::clone(&snapshot.stations));
        let (mut same_peers, mut same_stations) = (false, false);
        if let Some((fast, stations)) = &self.made_from {
            same_peers = Arc::ptr_eq(fast, &from.0);
            same_stations = Arc::ptr_eq(stations, &from.1);
        }
        if same_peers && same_stations {
            return Vec::new();
        }
        let mut changes = Vec::new();
        let gone = if same_peers {
            Vec::new()
        } else {
            self.update_peers(&from.0, bound, &mut changes)
        };
        self.update_stations(snapshot, &from.0, &mut changes);
        changes.extend(gone.into_iter().map(Change::NoPeer));
        self.made_from = Some(from);
        changes
    }

    /// The peers' entries, by index.
    pub(super) fn peers(&self) -> &BTreeMap<u32, [u32; 14]> {
        &self.peers
    }

    /// The stations of this host.
    pub(super) fn locals(&self) -> &BTreeSet<MacAddr> {
        &self.locals
    }

    /// Writes new and changed peers; returns those that are gone.
    fn update_peers(
        &mut self,
        fast: &FastTable,
        bound: Option<IpAddr>,
        changes: &mut Vec<Change>,
    ) -> Vec<u32> {
        for (index, peer) in fast {
            let value = value(peer, bound);
            if self.peers.insert(*index, value) != Some(value) {
                let counters = Arc::clone(&peer.counters);
                changes.push(Change::Peer(*index, PeerEntry { value, counters }));
            }
        }
        let gone: Vec<u32> = self
            .peers
            .keys()
            .filter(|index| !fast.contains_key(index))
            .copied()
            .collect();
        gone.iter().for_each(|index| {
            self.peers.remove(index);
        });
        gone
    }

    fn update_stations(
        &mut self,
        snapshot: &Snapshot,
        fast: &FastTable,
        changes: &mut Vec<Change>,
    ) {
        // A peer may have several by which frames are only taken.
        let sending = fast.iter().filter(|(_, peer)| peer.vni.is_some());
        let index_of: HashMap<PeerId, u32> = sending.map(|(i, p)| (p.peer, *i)).collect();
        let (mut stations, mut locals) = (HashMap::new(), BTreeSet::new());
        // With nobody to reach this way there is nothing to know.
        if !fast.is_empty() {
            let macs = &snapshot.stations.macs;
            let behind = macs
                .iter()
                .filter_map(|(mac, peer)| Some((*mac, *index_of.get(peer)?)));
            stations = behind.collect();
            let local = snapshot.shared.local;
            let here = macs.iter().filter(|(_, peer)| **peer == local);
            locals = here.map(|(mac, _)| *mac).collect();
        }
        let mut differ: Vec<Change> = stations
            .iter()
            .filter(|(mac, index)| self.stations.get(mac) != Some(index))
            .map(|(mac, index)| Change::Station(*mac, *index))
            .collect();
        let left = self
            .stations
            .keys()
            .filter(|mac| !stations.contains_key(mac));
        differ.extend(left.map(|mac| Change::NoStation(*mac)));
        changes.append(&mut differ);
        changes.extend(locals.difference(&self.locals).copied().map(Change::Local));
        changes.extend(
            self.locals
                .difference(&locals)
                .copied()
                .map(Change::NoLocal),
        );
        (self.stations, self.locals) = (stations, locals);
    }
}

/// The same entry of a peer that no frames are sent to.
pub(super) fn not_up(mut value: [u32; 14]) -> [u32; 14] {
    value[0] &= !UP;
    value
}

/// `struct peer` of the programs.
fn value(peer: &FastPeer, bound: Option<IpAddr>) -> [u32; 14] {
    let mut value = [0; 14];
    let up = if peer.up && peer.vni.is_some() { UP } else { 0 };
    value[0] = up | if peer.address.is_ipv6() { IPV6 } else { 0 };
    value[1] = peer.vni.unwrap_or(0);
    value[2..6].copy_from_slice(&words(peer.address));
    if let Some(source) = peer.source {
        value[0] |= if source.is_ipv6() {
            FROM_IPV6
        } else {
            FROM_IPV4
        };
        value[10..].copy_from_slice(&words(source));
    }
    // An address of the other family is not the one to send from.
    if let Some(bound) = bound.filter(|b| b.is_ipv6() == peer.address.is_ipv6()) {
        value[6..10].copy_from_slice(&words(bound));
    }
    value
}

/// An address as in `struct bpf_tunnel_key`: IPv4 in host order, IPv6 as it is.
fn words(address: IpAddr) -> [u32; 4] {
    match address {
        IpAddr::V4(ip) => [ip.to_bits(), 0, 0, 0],
        IpAddr::V6(ip) => {
            let bytes = ip.octets();
            std::array::from_fn(|i| {
                let word: [u8; 4] = std::array::from_fn(|k| bytes[4 * i + k]);
                u32::from_ne_bytes(word)
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::snapshot::Shared;

    const LOCAL: PeerId = PeerId([1; 16]);
    const OTHER: PeerId = PeerId([2; 16]);
    const HERE: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const THERE: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    fn snapshot(fast: &[(u32, bool)], macs: &[(MacAddr, PeerId)]) -> Snapshot {
        let mut snapshot = Snapshot::empty(Arc::new(Shared::new(LOCAL, 1)));
        let peer = |up| FastPeer {
            peer: OTHER,
            address: "192.0.2.2".parse().unwrap(),
            source: None,
            vni: Some(9),
            up,
            esp: false,
            counters: Arc::default(),
        };
        snapshot.fast = Arc::new(fast.iter().map(|(i, up)| (*i, peer(*up))).collect());
        snapshot.stations = Arc::new(StationMap {
            macs: macs.iter().copied().collect(),
            ..StationMap::default()
        });
        snapshot
    }

    fn kinds(changes: &[Change]) -> Vec<String> {
        let name = |change: &Change| match change {
            Change::Peer(index, entry) => format!("peer {index} {}", entry.value[0]),
            other => format!("{other:?}"),
        };
        changes.iter().map(name).collect()
    }

    #[test]
    fn only_differences_are_written_and_peers_outlive_their_stations() {
        let mut table = Table::default();
        let macs = [(HERE, LOCAL), (THERE, OTHER)];
        assert!(table.update(&snapshot(&[], &macs), None).is_empty());
        let first = table.update(&snapshot(&[(7, false)], &macs), None);
        assert_eq!(
            kinds(&first),
            [
                "peer 7 0".to_owned(),
                format!("Station({THERE:?}, 7)"),
                format!("Local({HERE:?})")
            ]
        );
        let up = snapshot(&[(7, true)], &macs);
        assert_eq!(kinds(&table.update(&up, None)), ["peer 7 1"]);
        assert!(table.update(&up, None).is_empty(), "the same snapshot");
        let moved = table.update(&snapshot(&[(8, true)], &macs), None);
        assert_eq!(
            kinds(&moved),
            [
                "peer 8 1".to_owned(),
                format!("Station({THERE:?}, 8)"),
                "NoPeer(7)".to_owned()
            ]
        );
        // What lingers takes frames, and stations stay behind what sends.
        let mut two = snapshot(&[(8, true), (9, false)], &macs);
        let lingers = |(index, peer): (&u32, &FastPeer)| {
            let vni = peer.vni.filter(|_| *index != 9);
            let peer = peer.clone();
            (*index, FastPeer { vni, ..peer })
        };
        two.fast = Arc::new(two.fast.iter().map(lingers).collect());
        assert_eq!(kinds(&table.update(&two, None)), ["peer 9 0"]);
        let gone = table.update(&snapshot(&[(8, true)], &macs), None);
        assert_eq!(kinds(&gone), ["NoPeer(9)"]);
        let gone = table.update(&snapshot(&[], &macs), None);
        assert_eq!(gone.last(), Some(&Change::NoPeer(8)));
        assert_eq!(gone.len(), 3);
    }

    #[test]
    fn addresses_are_as_the_kernel_wants_them() {
        assert_eq!(words("192.0.2.1".parse().unwrap()), [0xc000_0201, 0, 0, 0]);
        let six = words("2001:db8::7".parse().unwrap());
        assert_eq!(six[0].to_ne_bytes(), [0x20, 1, 0x0d, 0xb8]);
        assert_eq!(six[3].to_ne_bytes(), [0, 0, 0, 7]);
        let peer = FastPeer {
            peer: OTHER,
            address: "2001:db8::7".parse().unwrap(),
            source: Some("192.0.2.2".parse().unwrap()),
            vni: None,
            up: true,
            esp: false,
            counters: Arc::default(),
        };
        let value = value(&peer, Some("192.0.2.1".parse().unwrap()));
        assert_eq!(value[0], IPV6 | FROM_IPV4, "no identifier, not up");
        assert_eq!((value[6], value[10]), (0, 0xc000_0202));
    }
}
