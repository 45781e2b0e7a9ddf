//! Where others see this peer: behind a NAT it does not know that by itself.
//!
//! Each other peer is believed for one address, and what is announced changes
//! seldom: it goes to everybody, and whoever reports may make it up.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use proto::PeerId;

use super::limiter::TokenBucket;

/// Peers whose reports are kept; the one that was silent longest makes room.
const REPORTERS: usize = 64;
/// Addresses that are announced.
const ANNOUNCED: usize = 8;
/// How long a report holds without being repeated.
const AGE: Duration = Duration::from_secs(300);
/// Changes a second, and at once, of what is announced.
const CHANGE_RATE: u64 = 1;
const CHANGE_BURST: u64 = 8;

/// What others reported, and what is announced of it.
#[derive(Debug)]
pub struct Observed {
    reports: BTreeMap<PeerId, (SocketAddr, Instant)>,
    announced: Vec<SocketAddr>,
    changes: TokenBucket,
}

impl Default for Observed {
    fn default() -> Self {
        Self {
            reports: BTreeMap::new(),
            announced: Vec::new(),
            changes: TokenBucket::new(CHANGE_RATE, CHANGE_BURST),
        }
    }
}

impl Observed {
    /// A peer sees this one at an address. Says whether it said another before, or none.
    pub fn report(&mut self, by: PeerId, address: SocketAddr, now: Instant) -> bool {
        if self.reports.len() >= REPORTERS && !self.reports.contains_key(&by) {
            let oldest = self.reports.iter().min_by_key(|(_, (_, at))| *at);
            if let Some(oldest) = oldest.map(|(by, _)| *by) {
                self.reports.remove(&oldest);
            }
        }
        let before = self.reports.insert(by, (address, now));
        before.is_none_or(|(before, _)| before != address)
    }

    /// The addresses to announce.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.announced
    }

    /// Brings the addresses to announce up to date, unless that was so too often of
    /// late: then the next call may. Says whether they changed.
    pub fn update(&mut self, now: Instant) -> bool {
        self.reports
            .retain(|_, (_, at)| now.saturating_duration_since(*at) < AGE);
        let mut found: BTreeMap<SocketAddr, u32> = BTreeMap::new();
        for (address, _) in self.reports.values() {
            *found.entry(*address).or_default() += 1;
        }
        // Behind some NATs each peer sees another address: those that are announced stay.
        let mut ranked: Vec<(SocketAddr, u32)> = found.into_iter().collect();
        ranked.sort_by_key(|(address, times)| Reverse((*times, self.announced.contains(address))));
        ranked.truncate(ANNOUNCED);
        let mut next: Vec<SocketAddr> = ranked.into_iter().map(|(address, _)| address).collect();
        next.sort_unstable();
        if next == self.announced || !self.changes.take(now, 1) {
            return false;
        }
        self.announced = next;
        true
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some instant to count from"
)]
mod tests {
    use super::*;

    fn id(n: u8) -> PeerId {
        PeerId([n; 16])
    }

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    #[test]
    fn what_most_report_comes_first_and_what_is_announced_stays() {
        let (mut observed, now) = (Observed::default(), Instant::now());
        for n in 0..ANNOUNCED as u8 {
            observed.report(id(n), at(100 + u16::from(n)), now);
            assert!(observed.update(now));
        }
        let before = observed.addresses().to_vec();
        // One more of which nobody else tells changes nothing, two do.
        observed.report(id(20), at(7), now);
        let later = now + Duration::from_secs(60);
        assert!(!observed.update(later));
        assert_eq!(observed.addresses(), before);
        observed.report(id(21), at(7), later);
        assert!(observed.update(later));
        assert!(observed.addresses().contains(&at(7)));
        assert_eq!(observed.addresses().len(), ANNOUNCED);
    }

    #[test]
    fn a_peer_is_believed_for_one_address_and_not_too_often() {
        let (mut observed, start) = (Observed::default(), Instant::now());
        let mut changes = 0;
        for ms in 0..10_000 {
            let now = start + Duration::from_millis(ms);
            observed.report(id(1), at(1000 + ms as u16), now);
            changes += u64::from(observed.update(now));
            assert!(observed.addresses().len() <= 1);
        }
        assert!(changes <= CHANGE_BURST + 10 * CHANGE_RATE, "{changes}");
        // What was held back is said when it may.
        let now = start + Duration::from_secs(12);
        observed.update(now);
        assert_eq!(observed.addresses(), [at(1000 + 9999)]);
    }

    #[test]
    fn reports_age_and_are_bounded() {
        let (mut observed, now) = (Observed::default(), Instant::now());
        for n in 0..200 {
            observed.report(id(n), at(1), now + Duration::from_millis(u64::from(n)));
        }
        assert_eq!(observed.reports.len(), REPORTERS);
        assert!(observed.update(now + Duration::from_secs(1)));
        assert!(observed.update(now + AGE + Duration::from_secs(1)));
        assert!(observed.addresses().is_empty());
    }
}
