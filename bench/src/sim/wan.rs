//! The underlay: five regions of a wide-area network that delays, jitters,
//! reorders, loses and cuts. Knows nothing of what it carries.
//!
//! A host's network (/16) decides its region: network % 5, so each region has
//! eight networks. The one-way delay of a pair is half of the regions' round
//! trip plus up to 2 ms of access at either end, the same both ways.

use std::time::Duration;

use rand::RngCore;
use rand_chacha::ChaCha8Rng;

use super::{
    identity::{network, scatter},
    time::{Time, WINDOW, nanos},
};

/// No datagram is faster one way.
pub(crate) const FASTEST: Duration = Duration::from_millis(10);
const _: () = assert!(nanos(FASTEST) >= nanos(WINDOW));

const REGIONS: usize = 5;
/// Round-trip times between regions, in milliseconds: Europe, America's east
/// and west, Asia, Oceania.
const RTT_MS: [[u64; REGIONS]; REGIONS] = [
    [20, 80, 130, 140, 150],
    [80, 20, 60, 150, 145],
    [130, 60, 20, 100, 120],
    [140, 150, 100, 20, 90],
    [150, 145, 120, 90, 20],
];
/// The longest access delay of a host, one way.
const ACCESS: Duration = Duration::from_millis(2);
/// The longest jitter of a datagram.
const JITTER: Duration = Duration::from_millis(5);
/// Share of datagrams held back, in 1/65536, and for how long.
const HELD: u64 = 655;
const HELD_FOR: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(30));

/// Who can exchange datagrams at all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Reach {
    /// Everybody with everybody.
    All,
    /// Hosts of one group (number % `groups`) with each other, and this share
    /// of the pairs of different groups.
    Groups { groups: u32, share: f64 },
    /// Hosts of one group (number % `groups`) with each other, and the first
    /// `bridges` hosts with everybody.
    Bridged { groups: u32, bridges: u32 },
}

/// The underlay of numbered hosts. Changes only between windows.
pub(crate) struct Wan {
    /// Share of datagrams lost.
    pub(crate) loss: f64,
    /// Share of ordered pairs of hosts between which everything is lost.
    pub(crate) one_way: f64,
    /// Share of hosts behind address translation.
    nat: f64,
    pub(crate) reach: Reach,
    /// By host; hosts of different groups do not reach each other.
    groups: Vec<u8>,
    /// Pairs that are cut, lower number first; sorted.
    cuts: Vec<(u32, u32)>,
    access: Vec<u32>,
}

impl Wan {
    pub(crate) fn new(hosts: usize, loss: f64, one_way: f64, nat: f64, reach: Reach) -> Self {
        let access = |host| (scatter(host as u64 ^ 0xacce55) % nanos(ACCESS)) as u32;
        Self {
            loss,
            one_way,
            nat,
            reach,
            groups: vec![0; hosts],
            cuts: Vec::new(),
            access: (0..hosts).map(access).collect(),
        }
    }

    /// How many hosts there are.
    pub(crate) fn hosts(&self) -> usize {
        self.groups.len()
    }

    /// Puts each host in a group; groups do not reach each other.
    pub(crate) fn partition(&mut self, group: impl Fn(u32) -> u8) {
        (0..)
            .zip(&mut self.groups)
            .for_each(|(host, place)| *place = group(host));
    }

    /// Undoes [`Wan::partition`].
    pub(crate) fn heal(&mut self) {
        self.groups.fill(0);
    }

    /// Cuts these pairs and no others.
    pub(crate) fn cut(&mut self, pairs: impl IntoIterator<Item = (u32, u32)>) {
        let ordered = |(a, b): (u32, u32)| (a.min(b), a.max(b));
        self.cuts = pairs.into_iter().map(ordered).collect();
        self.cuts.sort_unstable();
    }

    /// Whether a host is behind address translation.
    pub(crate) fn is_natted(&self, host: u32) -> bool {
        self.nat > 0.0 && chance(scatter(u64::from(host) ^ 0x4a7), self.nat)
    }

    /// Whether datagrams can get through in this direction, ever.
    pub(crate) fn passes(&self, from: u32, to: u32) -> bool {
        self.groups[from as usize] == self.groups[to as usize]
            && self.meets(from, to)
            && !(self.one_way > 0.0 && chance(directed(from, to), self.one_way))
            && (self.cuts.is_empty()
                || self
                    .cuts
                    .binary_search(&(from.min(to), from.max(to)))
                    .is_err())
    }

    /// Whether two hosts can hold a session that either may begin.
    pub(crate) fn connects(&self, a: u32, b: u32) -> bool {
        let dialled = !self.is_natted(a) || !self.is_natted(b);
        dialled && self.passes(a, b) && self.passes(b, a)
    }

    /// When a datagram sent now arrives, unless it is lost.
    pub(crate) fn carry(
        &self,
        rng: &mut ChaCha8Rng,
        from: u32,
        to: u32,
        now: Time,
    ) -> Option<Time> {
        if !self.passes(from, to) {
            return None;
        }
        // One draw for all: 24 bits for loss, 16 for jitter, 16 for holding back, 8 for how long.
        let bits = rng.next_u64();
        if ((bits & 0xff_ffff) as f64) < self.loss * 16_777_216.0 {
            return None;
        }
        let jitter = nanos(JITTER) * ((bits >> 24) & 0xffff) / 0x1_0000;
        let held = if (bits >> 40) & 0xffff < HELD {
            let (least, most) = (nanos(HELD_FOR.0), nanos(HELD_FOR.1));
            least + (most - least) * (bits >> 56) / 0x100
        } else {
            0
        };
        Some(Time(now.0 + self.delay(from, to) + jitter + held))
    }

    /// The one-way delay of a pair without jitter, in nanoseconds.
    pub(crate) fn delay(&self, from: u32, to: u32) -> u64 {
        let rtt = RTT_MS[region(from)][region(to)] * 1_000_000;
        let access = |host: u32| u64::from(self.access[host as usize]);
        rtt / 2 + access(from) + access(to)
    }

    fn meets(&self, from: u32, to: u32) -> bool {
        match self.reach {
            Reach::All => true,
            Reach::Groups { groups, share } => {
                let pair = u64::from(from.min(to)) << 32 | u64::from(from.max(to));
                from % groups == to % groups || chance(scatter(pair), share)
            }
            Reach::Bridged { groups, bridges } => {
                from % groups == to % groups || from.min(to) < bridges
            }
        }
    }
}

fn region(host: u32) -> usize {
    network(host) as usize % REGIONS
}

fn directed(from: u32, to: u32) -> u64 {
    scatter((u64::from(from) << 32 | u64::from(to)) ^ 0x01e_3a7)
}

/// Whether a scattered value falls into a share of all values.
fn chance(scattered: u64, share: f64) -> bool {
    ((scattered >> 11) as f64) < share * (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn wan(loss: f64, one_way: f64, nat: f64) -> Wan {
        Wan::new(1000, loss, one_way, nat, Reach::All)
    }

    #[test]
    fn delays_are_within_their_bounds() {
        let (wan, mut rng) = (wan(0.0, 0.0, 0.0), ChaCha8Rng::seed_from_u64(1));
        let (least, most) = (nanos(FASTEST), 75_000_000 + 4_000_000 + 35_000_000);
        for pair in 0..20_000 {
            let (from, to) = (pair % 997, pair % 991);
            let at = wan.carry(&mut rng, from, to, Time(5)).unwrap();
            assert!((least..=most).contains(&(at.0 - 5)), "{from} {to} {at:?}");
            assert_eq!(wan.delay(from, to), wan.delay(to, from));
        }
    }

    #[test]
    fn losses_have_the_share_that_was_asked_for() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut lost = |wan: &Wan| {
            let lost =
                (0..100_000).filter(|i| wan.carry(&mut rng, 1, 2 + i % 900, Time(0)).is_none());
            lost.count() as f64 / 1e5
        };
        assert!((lost(&wan(0.05, 0.0, 0.0)) - 0.05).abs() < 0.005);
        assert!((lost(&wan(0.0, 0.2, 0.0)) - 0.2).abs() < 0.05);
        assert_eq!(lost(&wan(0.0, 0.0, 0.0)), 0.0);
    }

    #[test]
    fn partitions_and_cuts_work_and_heal() {
        let mut wan = wan(0.0, 0.0, 0.0);
        wan.partition(|host| (host % 2) as u8);
        assert!(wan.passes(1, 3) && !wan.passes(1, 2));
        wan.heal();
        wan.cut([(9, 4)]);
        assert!(wan.passes(1, 2) && !wan.passes(4, 9) && !wan.passes(9, 4));
    }

    #[test]
    fn a_partly_connected_underlay_joins_groups_and_a_share_of_the_rest() {
        let (groups, share) = (10, 0.15);
        let wan = Wan::new(1000, 0.0, 0.0, 0.5, Reach::Groups { groups, share });
        assert!(wan.passes(3, 13));
        let open = (0..900).filter(|other| other % 10 != 7 && wan.passes(7, *other));
        assert!((90..150).contains(&open.count()));
        let natted = (0..1000).filter(|host| wan.is_natted(*host)).count();
        assert!((430..570).contains(&natted), "{natted}");
    }

    #[test]
    fn bridges_reach_everybody_and_others_their_group() {
        let (groups, bridges) = (4, 3);
        let wan = Wan::new(40, 0.0, 0.0, 0.0, Reach::Bridged { groups, bridges });
        let reached = |from| {
            (0..40)
                .filter(|to| *to != from && wan.passes(from, *to))
                .count()
        };
        assert_eq!(reached(2), 39);
        // Nine of its own group, and the bridges of other groups.
        assert_eq!(reached(4), 9 + 2);
        assert_eq!(reached(7), 9 + 3);
        assert!((0..40).all(|to| wan.passes(7, to) == wan.passes(to, 7)));
    }
}
