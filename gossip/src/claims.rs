//! Which peer has which MAC and IP address: everybody's claims, merged.
//!
//! The highest claim of a peer that can be reached wins, ties go to the higher
//! id, so equal records and routes give the same owner on every peer. Each
//! change costs in proportion to itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use proto::{MacAddr, PeerId, record::Station};

/// Stations of one peer that are looked at.
pub const STATIONS_PER_PEER: usize = 4096;

/// The merged view.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    parts: BTreeMap<PeerId, BTreeMap<u16, Vec<Station>>>,
    macs: BTreeMap<MacAddr, BTreeMap<PeerId, MacClaim>>,
    ips: BTreeMap<IpAddr, BTreeMap<(PeerId, MacAddr), u32>>,
    by_mac: BTreeMap<MacAddr, PeerId>,
    by_ip: BTreeMap<IpAddr, (PeerId, MacAddr)>,
    changes: u64,
}

#[derive(Clone, Debug)]
struct MacClaim {
    claim: u32,
    ips: Vec<IpAddr>,
}

impl Claims {
    /// The peer behind which a MAC lives.
    pub fn peer_of(&self, mac: &MacAddr) -> Option<PeerId> {
        self.by_mac.get(mac).copied()
    }

    /// The station that has an IP address, and its peer.
    pub fn station_of(&self, ip: &IpAddr) -> Option<(MacAddr, PeerId)> {
        self.by_ip.get(ip).map(|(peer, mac)| (*mac, *peer))
    }

    /// All stations: MAC, peer, and the IP addresses that are theirs.
    pub fn iter(&self) -> impl Iterator<Item = (MacAddr, PeerId, Vec<IpAddr>)> {
        self.by_mac.iter().map(|(mac, peer)| {
            let claim = self.macs.get(mac).and_then(|claims| claims.get(peer));
            let claimed = claim.into_iter().flat_map(|claim| &claim.ips);
            (
                *mac,
                *peer,
                claimed
                    .filter(|ip| self.by_ip.get(ip) == Some(&(*peer, *mac)))
                    .copied()
                    .collect(),
            )
        })
    }

    /// How many stations.
    pub fn len(&self) -> usize {
        self.by_mac.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_mac.is_empty()
    }

    /// Rises whenever a lookup may answer differently.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// The highest claim to a MAC by anybody but `local`, reachable or not.
    pub fn rival(&self, mac: &MacAddr, local: &PeerId) -> Option<(u32, PeerId)> {
        let claims = self
            .macs
            .get(mac)?
            .iter()
            .filter(|(peer, _)| *peer != local);
        claims.map(|(peer, claim)| (claim.claim, *peer)).max()
    }

    /// The highest claim to an IP by anybody but `local`, reachable or not.
    pub fn rival_ip(&self, ip: &IpAddr, local: &PeerId) -> Option<(u32, PeerId)> {
        let claims = self
            .ips
            .get(ip)?
            .iter()
            .filter(|((peer, _), _)| peer != local);
        claims.map(|((peer, _), claim)| (*claim, *peer)).max()
    }

    /// Takes in one part of a peer's stations.
    pub(crate) fn report(
        &mut self,
        owner: PeerId,
        part: u16,
        mut stations: Vec<Station>,
        reach: impl Fn(&PeerId) -> bool,
    ) {
        let parts = self.parts.entry(owner).or_default();
        let others: usize = parts
            .iter()
            .filter(|(p, _)| **p != part)
            .map(|(_, stations)| stations.len())
            .sum();
        stations.truncate(STATIONS_PER_PEER.saturating_sub(others));
        let before = parts.insert(part, stations.clone()).unwrap_or_default();
        let gone: Vec<&Station> = before
            .iter()
            .filter(|station| !stations.contains(station))
            .collect();
        let come = stations.iter().filter(|station| !before.contains(station));
        let changed: BTreeSet<MacAddr> = gone.iter().copied().chain(come).map(|s| s.mac).collect();
        // A station that moves to another part is in both for a while, or in neither.
        let mut held: Vec<Station> = parts
            .values()
            .flatten()
            .filter(|station| changed.contains(&station.mac))
            .cloned()
            .collect();
        held.sort_by_key(|station| station.claim);
        let mut touched = Touched::default();
        for station in gone {
            self.withdraw(owner, station, &mut touched);
        }
        for station in &held {
            self.claim(owner, station, &mut touched);
        }
        self.elect(&touched, reach);
    }

    /// Forgets a peer's stations.
    pub(crate) fn remove(&mut self, owner: &PeerId) {
        let mut touched = Touched::default();
        for station in self
            .parts
            .remove(owner)
            .into_iter()
            .flat_map(BTreeMap::into_values)
            .flatten()
        {
            self.withdraw(*owner, &station, &mut touched);
        }
        // Whoever is forgotten was unreachable, so nothing was theirs.
        self.elect(&touched, |_| false);
    }

    /// Peers can be reached now, or no longer. What several of them claim is decided
    /// once, so all together cost no more than everything that is claimed.
    pub(crate) fn reach_changed(&mut self, owners: &[PeerId], reach: impl Fn(&PeerId) -> bool) {
        let mut touched = Touched::default();
        let parts = owners.iter().filter_map(|owner| self.parts.get(owner));
        for station in parts.flat_map(BTreeMap::values).flatten() {
            touched.note(station);
        }
        self.elect(&touched, reach);
    }

    fn claim(&mut self, owner: PeerId, station: &Station, touched: &mut Touched) {
        touched.note(station);
        let ips = station.ips.iter().map(|(ip, _)| *ip).collect();
        self.macs.entry(station.mac).or_default().insert(
            owner,
            MacClaim {
                claim: station.claim,
                ips,
            },
        );
        for (ip, claim) in &station.ips {
            self.ips
                .entry(*ip)
                .or_default()
                .insert((owner, station.mac), *claim);
        }
    }

    fn withdraw(&mut self, owner: PeerId, station: &Station, touched: &mut Touched) {
        touched.note(station);
        if let Some(claims) = self.macs.get_mut(&station.mac) {
            claims.remove(&owner);
            if claims.is_empty() {
                self.macs.remove(&station.mac);
            }
        }
        for (ip, _) in &station.ips {
            let Some(claims) = self.ips.get_mut(ip) else {
                continue;
            };
            claims.remove(&(owner, station.mac));
            if claims.is_empty() {
                self.ips.remove(ip);
            }
        }
    }

    fn elect(&mut self, touched: &Touched, reach: impl Fn(&PeerId) -> bool) {
        let mut changed = false;
        for mac in &touched.macs {
            let claims = self
                .macs
                .get(mac)
                .into_iter()
                .flatten()
                .filter(|(peer, _)| reach(peer));
            let winner = claims
                .map(|(peer, claim)| (claim.claim, *peer))
                .max()
                .map(|(_, peer)| peer);
            changed |= set(&mut self.by_mac, *mac, winner);
        }
        for ip in &touched.ips {
            let claims = self
                .ips
                .get(ip)
                .into_iter()
                .flatten()
                .filter(|((peer, _), _)| reach(peer));
            let winner = claims
                .map(|(station, claim)| (*claim, *station))
                .max()
                .map(|(_, station)| station);
            changed |= set(&mut self.by_ip, *ip, winner);
        }
        self.changes += u64::from(changed);
    }
}

/// Addresses whose owner may have changed.
#[derive(Default)]
struct Touched {
    macs: BTreeSet<MacAddr>,
    ips: BTreeSet<IpAddr>,
}

impl Touched {
    fn note(&mut self, station: &Station) {
        self.macs.insert(station.mac);
        self.ips.extend(station.ips.iter().map(|(ip, _)| *ip));
    }
}

fn set<K: Ord, V: PartialEq>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) -> bool {
    let same = map.get(&key) == value.as_ref();
    match value {
        _ if same => {}
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
    !same
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> PeerId {
        PeerId([n; 16])
    }

    fn station(n: u8, claim: u32, ip_claim: u32) -> Station {
        Station {
            mac: MacAddr([2, 0, 0, 0, 0, n]),
            claim,
            ips: vec![([10, 0, 0, 1].into(), ip_claim)],
        }
    }

    #[test]
    fn the_highest_claim_of_a_reachable_peer_wins() {
        let (mac, ip) = (station(1, 0, 0).mac, [10, 0, 0, 1].into());
        let mut claims = Claims::default();
        claims.report(id(1), 0, vec![station(1, 1, 1)], |_| true);
        claims.report(id(2), 0, vec![station(1, 1, 1)], |_| true);
        assert_eq!(claims.peer_of(&mac), Some(id(2)));
        claims.report(id(1), 0, vec![station(1, 2, 2)], |_| true);
        assert_eq!(claims.peer_of(&mac), Some(id(1)));
        assert_eq!(claims.station_of(&ip), Some((mac, id(1))));
        let before = claims.changes();
        claims.reach_changed(&[id(1)], |peer| *peer != id(1));
        assert_eq!(claims.peer_of(&mac), Some(id(2)));
        assert!(claims.changes() > before);
        assert_eq!(claims.rival(&mac, &id(2)), Some((2, id(1))));
        claims.report(id(2), 0, vec![], |_| true);
        claims.remove(&id(1));
        assert!(claims.is_empty());
    }

    #[test]
    fn a_station_that_moves_to_another_part_stays() {
        let two = || vec![station(1, 1, 1), station(2, 1, 1)];
        let renewed = || {
            let mut renewed = station(2, 1, 2);
            renewed.ips.push(([10, 0, 0, 2].into(), 1));
            renewed
        };
        // Where it was, where it is now, and which part is told first.
        for (from, to) in [(1, 0), (0, 1)] {
            for first in [from, to] {
                let mut claims = Claims::default();
                claims.report(id(1), from, two(), |_| true);
                claims.report(id(1), to, vec![station(3, 1, 0)], |_| true);
                for part in [first, from + to - first] {
                    let stations = match part == to {
                        true => vec![station(3, 1, 0), renewed()],
                        false => vec![station(1, 1, 1)],
                    };
                    claims.report(id(1), part, stations, |_| true);
                }
                let case = format!("{from} to {to}, {first} first");
                let (mac, second) = (renewed().mac, [10, 0, 0, 2].into());
                assert_eq!(claims.peer_of(&mac), Some(id(1)), "{case}");
                assert_eq!(claims.station_of(&second), Some((mac, id(1))), "{case}");
                assert_eq!(claims.len(), 3, "{case}");
                claims.report(id(1), to, vec![], |_| true);
                assert_eq!(claims.peer_of(&mac), None, "{case}");
                claims.report(id(1), from, vec![], |_| true);
                assert!(claims.is_empty() && claims.ips.is_empty() && claims.macs.is_empty());
            }
        }
    }

    #[test]
    fn an_address_that_moves_leaves_the_old_station() {
        let mut claims = Claims::default();
        claims.report(id(1), 0, vec![station(1, 1, 1)], |_| true);
        claims.report(id(2), 0, vec![station(2, 1, 2)], |_| true);
        let all: Vec<_> = claims
            .iter()
            .map(|(_, peer, ips)| (peer, ips.len()))
            .collect();
        assert_eq!(all, [(id(1), 0), (id(2), 1)]);
    }
}
