//! The stations behind this peer, and how strongly it claims them.
//!
//! A station that is seen here while another peer claims it is claimed one
//! higher, so an address that moves is found at once. A higher claim elsewhere
//! withdraws ours, unless a container with the address is attached here.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use proto::{
    MacAddr, PeerId,
    record::{MAX_BODY, Station, Stations},
};

use crate::{
    claims::{Claims, STATIONS_PER_PEER},
    limits::{STATION_IPS, STATION_PARTS},
    parts::Parts,
};

/// Moves remembered, to limit flapping.
const RELEASES: usize = 4096;

/// What came of learning a station.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learnt {
    /// Nothing new.
    Known,
    /// A record must be published.
    Changed,
    /// There is no room for it.
    Full,
}

/// The stations of this peer.
#[derive(Clone, Debug)]
pub struct LocalStations {
    local: PeerId,
    reclaim_after: Duration,
    table: BTreeMap<MacAddr, Entry>,
    /// Which of our stations has an IP address.
    ips: BTreeMap<IpAddr, MacAddr>,
    parts: Parts<MacAddr>,
    /// When a MAC was last lost to another peer.
    released: BTreeMap<MacAddr, Instant>,
}

#[derive(Clone, Debug)]
struct Entry {
    claim: u32,
    claimed: Instant,
    pinned: bool,
    seen: Instant,
    ips: BTreeMap<IpAddr, IpEntry>,
}

#[derive(Clone, Copy, Debug)]
struct IpEntry {
    claim: u32,
    claimed: Instant,
    seen: Instant,
}

impl LocalStations {
    /// None yet.
    pub fn new(local: PeerId, reclaim_after: Duration) -> Self {
        let (table, ips, released) = Default::default();
        let parts = Parts::new(MAX_BODY - 4, usize::from(STATION_PARTS));
        Self {
            local,
            reclaim_after,
            table,
            ips,
            parts,
            released,
        }
    }

    /// A frame from `mac` was seen here, or a container with it is attached (`pinned`).
    pub fn learn(
        &mut self,
        mac: MacAddr,
        ips: &[IpAddr],
        pinned: bool,
        claims: &Claims,
        now: Instant,
    ) -> Learnt {
        if mac.is_multicast() || mac == MacAddr::default() || self.lost_just_now(&mac, pinned, now)
        {
            return Learnt::Known;
        }
        let known = self.table.contains_key(&mac);
        if !known && self.table.len() >= STATIONS_PER_PEER {
            return Learnt::Full;
        }
        let mut changed = !known | self.claim_mac(mac, pinned, claims, now);
        for ip in ips.iter().map(IpAddr::to_canonical) {
            changed |= self.claim_ip(mac, ip, claims, now);
        }
        match changed {
            false => Learnt::Known,
            true if self.place(mac) => Learnt::Changed,
            true => {
                self.drop_station(&mac);
                Learnt::Full
            }
        }
    }

    /// The container is gone.
    pub fn forget(&mut self, mac: &MacAddr) -> bool {
        self.drop_station(mac)
    }

    /// The container no longer has the address.
    pub fn forget_ip(&mut self, mac: &MacAddr, ip: &IpAddr) -> bool {
        let removed = self
            .table
            .get_mut(mac)
            .is_some_and(|entry| entry.ips.remove(ip).is_some());
        if removed {
            self.ips.remove(ip);
            self.place(*mac);
        }
        removed
    }

    /// Another peer published these stations. Withdraws what it claims higher;
    /// returns whether there was such, and a MAC that is attached at both, if any.
    pub fn yield_to(
        &mut self,
        owner: PeerId,
        stations: &[Station],
        now: Instant,
    ) -> (bool, Option<MacAddr>) {
        let (mut changed, mut duplicate) = (false, None);
        for theirs in stations {
            if let Some(ours) = self.table.get(&theirs.mac)
                && (theirs.claim, owner) > (ours.claim, self.local)
            {
                if ours.pinned {
                    duplicate = Some(theirs.mac);
                } else {
                    changed |= self.drop_station(&theirs.mac);
                    self.note_release(theirs.mac, now);
                }
            }
            for (ip, claim) in &theirs.ips {
                changed |= self.yield_ip(ip, (*claim, owner));
            }
        }
        (changed, duplicate)
    }

    /// Forgets what was not seen for `age`.
    pub fn expire(&mut self, age: Duration, now: Instant) -> bool {
        let old = |seen: Instant| now.saturating_duration_since(seen) >= age;
        let unpinned = || self.table.iter().filter(|(_, entry)| !entry.pinned);
        let stations: Vec<_> = unpinned()
            .filter(|(_, e)| old(e.seen))
            .map(|(mac, _)| *mac)
            .collect();
        let addresses =
            unpinned().flat_map(|(mac, e)| e.ips.iter().map(|(ip, e)| (*mac, *ip, e.seen)));
        let addresses: Vec<_> = addresses.filter(|(.., seen)| old(*seen)).collect();
        self.released.retain(|_, at| now < *at + self.reclaim_after);
        for (mac, ip, _) in &addresses {
            self.forget_ip(mac, ip);
        }
        for mac in &stations {
            self.drop_station(mac);
        }
        !stations.is_empty() || !addresses.is_empty()
    }

    /// Whether the MAC is ours.
    pub fn contains(&self, mac: &MacAddr) -> bool {
        self.table.contains_key(mac)
    }

    /// Whether a part has changed since it was last taken.
    pub fn take_changed(&mut self) -> Vec<(u16, Stations)> {
        let table = &self.table;
        self.parts
            .take_changed(|parts, part| stations_of(table, parts, part))
    }

    /// Everything must be published again.
    pub fn touch_all(&mut self) {
        self.parts.touch_all(0);
    }

    fn lost_just_now(&self, mac: &MacAddr, pinned: bool, now: Instant) -> bool {
        !pinned
            && self
                .released
                .get(mac)
                .is_some_and(|at| now < *at + self.reclaim_after)
    }

    fn note_release(&mut self, mac: MacAddr, now: Instant) {
        if self.released.len() == RELEASES {
            self.released.pop_first();
        }
        self.released.insert(mac, now);
    }

    fn claim_mac(&mut self, mac: MacAddr, pinned: bool, claims: &Claims, now: Instant) -> bool {
        let rival = claims.rival(&mac, &self.local);
        let above = rival.map_or(1, |(claim, _)| claim.saturating_add(1));
        let fresh = Entry {
            claim: above,
            claimed: now,
            pinned,
            seen: now,
            ips: BTreeMap::new(),
        };
        let entry = self.table.entry(mac).or_insert(fresh);
        entry.seen = now;
        entry.pinned |= pinned;
        let beaten = rival.is_some_and(|rival| rival > (entry.claim, self.local));
        if !beaten || now < entry.claimed + self.reclaim_after {
            return false;
        }
        entry.claim = above;
        entry.claimed = now;
        true
    }

    fn claim_ip(&mut self, mac: MacAddr, ip: IpAddr, claims: &Claims, now: Instant) -> bool {
        if ip.is_unspecified() || ip.is_multicast() {
            return false;
        }
        let rival = claims.rival_ip(&ip, &self.local);
        let before = self.ips.get(&ip).filter(|holder| **holder != mac).copied();
        let moved = before.and_then(|holder| {
            let entry = self.table.get_mut(&holder)?.ips.remove(&ip)?;
            self.place(holder);
            Some(entry.claim)
        });
        let above = rival
            .map(|(claim, _)| claim)
            .max(moved)
            .map_or(1, |claim| claim.saturating_add(1));
        let Some(station) = self.table.get_mut(&mac) else {
            return false;
        };
        if let Some(entry) = station.ips.get_mut(&ip) {
            entry.seen = now;
            let beaten = rival.is_some_and(|rival| rival > (entry.claim, self.local));
            if !beaten || now < entry.claimed + self.reclaim_after {
                return false;
            }
        } else if station.ips.len() >= STATION_IPS {
            let oldest = station
                .ips
                .iter()
                .min_by_key(|(_, entry)| entry.seen)
                .map(|(ip, _)| *ip);
            if let Some(oldest) = oldest {
                station.ips.remove(&oldest);
                self.ips.remove(&oldest);
            }
        }
        station.ips.insert(
            ip,
            IpEntry {
                claim: above,
                claimed: now,
                seen: now,
            },
        );
        self.ips.insert(ip, mac);
        true
    }

    fn yield_ip(&mut self, ip: &IpAddr, theirs: (u32, PeerId)) -> bool {
        let Some(mac) = self.ips.get(ip).copied() else {
            return false;
        };
        let Some(entry) = self.table.get(&mac) else {
            return false;
        };
        let beaten = entry
            .ips
            .get(ip)
            .is_some_and(|ours| theirs > (ours.claim, self.local));
        beaten && !entry.pinned && self.forget_ip(&mac, ip)
    }

    fn place(&mut self, mac: MacAddr) -> bool {
        let Some(entry) = self.table.get(&mac) else {
            return false;
        };
        let ips: usize = entry
            .ips
            .keys()
            .map(|ip| if ip.is_ipv4() { 10 } else { 22 })
            .sum();
        // MAC, claim and count; each address with its tag and claim; claims at their longest.
        self.parts.put(mac, 6 + 5 + 1 + ips)
    }

    fn drop_station(&mut self, mac: &MacAddr) -> bool {
        let Some(entry) = self.table.remove(mac) else {
            return false;
        };
        for ip in entry.ips.keys() {
            self.ips.remove(ip);
        }
        self.parts.remove(mac);
        true
    }
}

/// One part as it now is.
fn stations_of(table: &BTreeMap<MacAddr, Entry>, parts: &Parts<MacAddr>, part: usize) -> Stations {
    let items = parts
        .items(part)
        .filter_map(|mac| Some((*mac, table.get(mac)?)));
    let station = |(mac, entry): (MacAddr, &Entry)| Station {
        mac,
        claim: entry.claim,
        ips: entry
            .ips
            .iter()
            .map(|(ip, entry)| (*ip, entry.claim))
            .collect(),
    };
    Stations {
        stations: items.map(station).collect(),
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some instant to count from"
)]
mod tests {
    use proptest::prelude::*;
    use proto::record::Body;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn mac(n: u16) -> MacAddr {
        let [high, low] = n.to_be_bytes();
        MacAddr([2, 0, 0, 0, high, low])
    }

    fn ip(n: u8) -> IpAddr {
        [10, 0, 0, n].into()
    }

    fn local() -> LocalStations {
        LocalStations::new(PeerId([5; 16]), SECOND)
    }

    fn foreign(peer: u8, station: Station) -> Claims {
        let mut claims = Claims::default();
        claims.report(PeerId([peer; 16]), 0, vec![station], |_| true);
        claims
    }

    #[test]
    fn a_station_that_moves_here_is_claimed_higher() {
        let theirs = Station {
            mac: mac(1),
            claim: 7,
            ips: vec![(ip(1), 3)],
        };
        let mut stations = local();
        let learnt = stations.learn(mac(1), &[ip(1)], false, &foreign(9, theirs), Instant::now());
        assert_eq!(learnt, Learnt::Changed);
        assert_eq!(
            stations.take_changed()[0].1.stations,
            [Station {
                mac: mac(1),
                claim: 8,
                ips: vec![(ip(1), 4)]
            }]
        );
    }

    #[test]
    fn a_station_that_moves_away_is_withdrawn_and_not_claimed_back_at_once() {
        let (mut stations, now) = (local(), Instant::now());
        stations.learn(mac(1), &[ip(1)], false, &Claims::default(), now);
        let theirs = Station {
            mac: mac(1),
            claim: 2,
            ips: vec![(ip(1), 2)],
        };
        assert_eq!(
            stations.yield_to(PeerId([1; 16]), std::slice::from_ref(&theirs), now),
            (true, None)
        );
        let claims = foreign(1, theirs);
        assert_eq!(
            stations.learn(mac(1), &[], false, &claims, now),
            Learnt::Known
        );
        assert!(!stations.contains(&mac(1)));
        assert_eq!(
            stations.learn(mac(1), &[], false, &claims, now + SECOND),
            Learnt::Changed
        );
    }

    #[test]
    fn equal_claims_go_to_the_higher_id_and_attached_ones_stay() {
        let (mut stations, now) = (local(), Instant::now());
        stations.learn(mac(1), &[], false, &Claims::default(), now);
        let theirs = [Station {
            mac: mac(1),
            claim: 1,
            ips: vec![],
        }];
        assert_eq!(
            stations.yield_to(PeerId([1; 16]), &theirs, now),
            (false, None)
        );
        assert_eq!(
            stations.yield_to(PeerId([9; 16]), &theirs, now),
            (true, None)
        );
        stations.learn(mac(1), &[], true, &Claims::default(), now);
        assert_eq!(
            stations.yield_to(PeerId([9; 16]), &theirs, now),
            (false, Some(mac(1)))
        );
    }

    #[test]
    fn an_address_moves_between_two_stations_here() {
        let (mut stations, now) = (local(), Instant::now());
        stations.learn(mac(1), &[ip(1)], true, &Claims::default(), now);
        stations.learn(mac(2), &[ip(1)], true, &Claims::default(), now);
        let all = &stations.take_changed()[0].1.stations;
        assert_eq!(all[0].ips, []);
        assert_eq!(all[1].ips, [(ip(1), 2)]);
    }

    #[test]
    fn silent_stations_expire_and_attached_ones_do_not() {
        let (mut stations, now) = (local(), Instant::now());
        stations.learn(mac(1), &[ip(1)], false, &Claims::default(), now);
        stations.learn(mac(2), &[ip(2)], true, &Claims::default(), now);
        assert!(!stations.expire(10 * SECOND, now + 9 * SECOND));
        assert!(stations.expire(10 * SECOND, now + 10 * SECOND));
        assert!(!stations.contains(&mac(1)) && stations.contains(&mac(2)));
    }

    #[test]
    fn the_number_of_stations_is_bounded() {
        let (mut stations, now) = (local(), Instant::now());
        let learnt = (0..5000).map(|n| stations.learn(mac(n), &[], false, &Claims::default(), now));
        assert_eq!(
            learnt.filter(|learnt| *learnt == Learnt::Changed).count(),
            STATIONS_PER_PEER
        );
    }

    proptest! {
        #[test]
        fn parts_fit_a_record(steps in prop::collection::vec((0u16..200, prop::collection::vec(any::<u8>(), 0..9)), 0..150)) {
            let (mut stations, now) = (local(), Instant::now());
            for (n, ips) in steps {
                let ips: Vec<IpAddr> = ips.iter().map(|n| if n % 2 == 0 { ip(*n) } else { [0xfd00, 0, 0, 0, 0, 0, 0, u16::from(*n)].into() }).collect();
                stations.learn(mac(n), &ips, false, &foreign(9, Station { mac: mac(n), claim: u32::MAX, ips: vec![] }), now);
            }
            for (_, part) in stations.take_changed() {
                prop_assert!(part.stations.is_sorted_by(|a, b| a.mac < b.mac));
                prop_assert!(Body::Stations(part).encode().len() <= MAX_BODY);
            }
        }
    }
}
