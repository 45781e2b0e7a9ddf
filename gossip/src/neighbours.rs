//! Whom to make a neighbour, beside the operator's targets (design D7): in a
//! small mesh everybody, in a large one a few, drawn at random and spread over
//! networks, so that nobody can choose to be everybody's neighbour.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use proto::PeerId;
use rand::{Rng, RngCore};

use crate::{
    backoff::Backoff,
    config::Config,
    event::DialId,
    members::{Member, Members},
    routes::Routes,
};

/// Former peers whose addresses are kept, to heal a partition that outlasted their records.
const RESERVE: usize = 30;
/// Candidates compared for one free slot.
const DRAWS: usize = 6;
/// The peer with the higher id leaves the first attempt to the other.
const COURTESY: Duration = Duration::from_millis(300);
/// A full review happens at least so often while something is missing.
const AGAIN: Duration = Duration::from_secs(1);

/// What the choice depends on.
pub struct Situation<'a> {
    /// Ourselves.
    pub local: PeerId,
    /// The settings.
    pub config: &'a Config,
    /// Everybody known.
    pub members: &'a Members,
    /// Who can be reached.
    pub routes: &'a Routes,
    /// How many can be reached.
    pub reachable: usize,
    /// Address of each neighbour, and of those being probed.
    pub links: &'a BTreeMap<PeerId, SocketAddr>,
    /// The time.
    pub now: Instant,
}

impl Situation<'_> {
    /// Whether everybody is to be a neighbour.
    pub fn is_small(&self) -> bool {
        self.reachable < self.config.full_mesh_up_to
    }
}

/// Somebody to dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Who.
    pub peer: PeerId,
    /// Where.
    pub addresses: Vec<SocketAddr>,
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    /// In flight, and since when.
    dial: Option<(DialId, Instant)>,
    retry_at: Instant,
    backoff: Backoff,
}

/// Attempts to gain neighbours.
#[derive(Clone, Debug)]
pub struct Neighbours {
    attempts: BTreeMap<PeerId, Attempt>,
    /// Not dialled while no route leads to them: the operator forgot their target.
    forgotten: BTreeSet<PeerId>,
    reserve: VecDeque<Candidate>,
    explore_at: Instant,
    review_at: Instant,
}

impl Neighbours {
    /// Nobody yet.
    pub fn new(now: Instant) -> Self {
        let (attempts, forgotten, reserve) = Default::default();
        Self {
            attempts,
            forgotten,
            reserve,
            explore_at: now,
            review_at: now,
        }
    }

    /// When to call [`Neighbours::review`].
    pub fn deadline(&self) -> Instant {
        self.review_at
    }

    /// Something changed that the choice depends on.
    pub fn review_soon(&mut self, at: Instant) {
        self.review_at = self.review_at.min(at);
    }

    /// Chooses whom to dial now.
    pub fn review(&mut self, situation: &Situation<'_>, rng: &mut impl RngCore) -> Vec<Candidate> {
        let now = situation.now;
        self.give_up(situation, rng);
        self.review_at = now + situation.config.explore;
        if !situation.config.discovery || situation.links.len() >= situation.config.link_limit {
            return Vec::new();
        }
        let mut chosen = if situation.is_small() {
            self.everybody(situation)
        } else {
            self.few(situation, rng)
        };
        chosen.extend(self.explore(situation, rng));
        chosen
    }

    /// An attempt has begun.
    pub fn dialling(&mut self, peer: PeerId, dial: DialId, now: Instant) {
        self.attempt(peer, now).dial = Some((dial, now));
    }

    /// An attempt came to nothing.
    pub fn failed(
        &mut self,
        peer: PeerId,
        refused: bool,
        situation: &Situation<'_>,
        rng: &mut impl RngCore,
    ) {
        let longest = longest_pause(situation);
        let Some(attempt) = self.attempts.get_mut(&peer) else {
            return;
        };
        attempt.dial = None;
        if refused {
            attempt.backoff.exhaust();
        }
        attempt.retry_at = situation.now
            + attempt
                .backoff
                .next(situation.config.backoff_min, longest, rng);
        let retry_at = attempt.retry_at;
        self.review_soon(retry_at);
    }

    /// A session is there; whatever happens next is about the link.
    pub fn reached(&mut self, peer: &PeerId) {
        if let Some(attempt) = self.attempts.get_mut(peer) {
            attempt.dial = None;
        }
    }

    /// The peer is a neighbour.
    pub fn link_up(&mut self, peer: &PeerId) {
        self.attempts.remove(peer);
        self.forgotten.remove(peer);
        self.reserve.retain(|kept| kept.peer != *peer);
    }

    /// The link ended. `patient`: the peer would not have us.
    pub fn link_down(
        &mut self,
        peer: PeerId,
        patient: bool,
        situation: &Situation<'_>,
        rng: &mut impl RngCore,
    ) {
        let (config, now) = (situation.config, situation.now);
        let attempt = self.attempt(peer, now);
        attempt.dial = None;
        attempt.retry_at = now
            + match patient {
                true => config.backoff_max.mul_f64(rng.random_range(0.5..1.5)),
                false => Duration::from_millis(rng.random_range(50..300)),
            };
        self.review_soon(now);
    }

    /// The operator no longer wants this peer dialled for its own sake.
    pub fn forget(&mut self, peer: PeerId) {
        self.forgotten.insert(peer);
    }

    /// The operator wants it after all.
    pub fn remember(&mut self, peer: &PeerId) {
        self.forgotten.remove(peer);
    }

    /// The peer's records are dropped; its addresses may still be worth a try.
    pub fn keep_in_reserve(&mut self, peer: PeerId, member: &Member) {
        self.attempts.remove(&peer);
        if self.forgotten.remove(&peer) || member.node.endpoints.is_empty() {
            return;
        }
        if self.reserve.len() == RESERVE {
            self.reserve.pop_front();
        }
        self.reserve.push_back(Candidate {
            peer,
            addresses: member.node.endpoints.clone(),
        });
    }

    fn attempt(&mut self, peer: PeerId, now: Instant) -> &mut Attempt {
        let fresh = Attempt {
            dial: None,
            retry_at: now,
            backoff: Backoff::default(),
        };
        self.attempts.entry(peer).or_insert(fresh)
    }

    /// Ends attempts without result, and forgets old ones of no more interest.
    fn give_up(&mut self, situation: &Situation<'_>, rng: &mut impl RngCore) {
        let timeout = situation.config.dial_timeout;
        let late = |attempt: &Attempt| {
            attempt
                .dial
                .is_some_and(|(_, since)| situation.now >= since + timeout)
        };
        let late: Vec<PeerId> = self
            .attempts
            .iter()
            .filter(|(_, a)| late(a))
            .map(|(peer, _)| *peer)
            .collect();
        for peer in late {
            self.failed(peer, false, situation, rng);
        }
        let keep_until = situation.config.backoff_max * 2;
        self.attempts.retain(|_, attempt| {
            attempt.dial.is_some() || situation.now < attempt.retry_at + keep_until
        });
    }

    fn everybody(&mut self, situation: &Situation<'_>) -> Vec<Candidate> {
        // After a collapse of a large mesh most of the known are gone; they are left to `explore`.
        let known = situation.members.len() <= 4 * situation.config.full_mesh_up_to;
        let of_interest = |peer: &PeerId| {
            let reached = situation.routes.reaches(peer);
            *peer != situation.local
                && !situation.links.contains_key(peer)
                && (reached || known)
                && (reached || !self.forgotten.contains(peer))
        };
        let all = situation
            .members
            .iter()
            .filter(|(_, member)| !member.node.endpoints.is_empty());
        let wanted: Vec<Candidate> = all
            .filter(|(peer, _)| of_interest(peer))
            .map(|(peer, member)| candidate(peer, member))
            .collect();
        let mut due = Vec::new();
        for wanted in wanted {
            let courtesy = if wanted.peer < situation.local {
                COURTESY
            } else {
                Duration::ZERO
            };
            let fresh = Attempt {
                dial: None,
                retry_at: situation.now + courtesy,
                backoff: Backoff::default(),
            };
            let attempt = self.attempts.entry(wanted.peer).or_insert(fresh);
            if attempt.dial.is_some() {
                continue;
            }
            if attempt.retry_at <= situation.now {
                due.push(wanted);
            } else {
                self.review_at = self.review_at.min(attempt.retry_at);
            }
        }
        due
    }

    fn few(&mut self, situation: &Situation<'_>, rng: &mut impl RngCore) -> Vec<Candidate> {
        let in_flight = self
            .attempts
            .values()
            .filter(|attempt| attempt.dial.is_some())
            .count();
        let missing = situation
            .config
            .degree
            .saturating_sub(situation.links.len() + in_flight);
        if missing > 0 {
            self.review_soon(situation.now + AGAIN);
        }
        let mut networks: BTreeMap<Network, usize> = BTreeMap::new();
        for address in situation.links.values() {
            *networks.entry(network(address)).or_default() += 1;
        }
        let mut chosen: Vec<Candidate> = Vec::new();
        for _ in 0..missing {
            let free = |peer: &PeerId| {
                *peer != situation.local
                    && !situation.links.contains_key(peer)
                    && chosen.iter().all(|candidate| candidate.peer != *peer)
                    && situation.routes.reaches(peer)
                    && self
                        .attempts
                        .get(peer)
                        .is_none_or(|a| a.dial.is_none() && a.retry_at <= situation.now)
            };
            let crowd = |member: &Member| {
                let first = member.node.endpoints.first();
                first
                    .and_then(|address| networks.get(&network(address)))
                    .copied()
                    .unwrap_or(0)
            };
            let draws = (0..DRAWS).filter_map(|_| situation.members.sample(rng));
            let drawn =
                draws.filter(|(peer, member)| free(peer) && !member.node.endpoints.is_empty());
            let Some((peer, member)) = drawn.min_by_key(|(_, member)| crowd(member)) else {
                continue;
            };
            if let Some(address) = member.node.endpoints.first() {
                *networks.entry(network(address)).or_default() += 1;
            }
            chosen.push(candidate(peer, member));
        }
        chosen
    }

    /// Now and then, one of those who are cut off.
    fn explore(&mut self, situation: &Situation<'_>, rng: &mut impl RngCore) -> Option<Candidate> {
        if situation.now < self.explore_at {
            self.review_soon(self.explore_at);
            return None;
        }
        let pause = if situation.links.is_empty() {
            situation.config.explore / 4
        } else {
            situation.config.explore
        };
        self.explore_at = situation.now + pause.mul_f64(rng.random_range(0.5..1.5));
        self.review_soon(self.explore_at);
        let lost = situation
            .members
            .sample_cut_off(rng)
            .map(|(peer, member)| candidate(peer, member));
        let kept = || {
            let at = rng.random_range(0..self.reserve.len().max(1));
            self.reserve.get(at).cloned()
        };
        let chosen = lost.or_else(kept)?;
        let idle = self
            .attempts
            .get(&chosen.peer)
            .is_none_or(|attempt| attempt.dial.is_none());
        let linked = situation.links.contains_key(&chosen.peer) || chosen.peer == situation.local;
        let wanted = idle
            && !linked
            && !chosen.addresses.is_empty()
            && !self.forgotten.contains(&chosen.peer);
        wanted.then_some(chosen)
    }
}

fn candidate(peer: &PeerId, member: &Member) -> Candidate {
    Candidate {
        peer: *peer,
        addresses: member.node.endpoints.clone(),
    }
}

fn longest_pause(situation: &Situation<'_>) -> Duration {
    let config = situation.config;
    if situation.is_small() {
        config.backoff_small.min(config.backoff_max)
    } else {
        config.backoff_max
    }
}

/// A /16 of IPv4 or a /32 of IPv6: roughly one operator's network.
type Network = [u8; 5];

fn network(address: &SocketAddr) -> Network {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => [4, ip.octets()[0], ip.octets()[1], 0, 0],
        IpAddr::V6(ip) => [
            6,
            ip.octets()[0],
            ip.octets()[1],
            ip.octets()[2],
            ip.octets()[3],
        ],
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some instant to count from"
)]
mod tests {
    use proto::{PublicKeys, record::Node};
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::topology::Topology;

    fn id(n: u8) -> PeerId {
        PeerId([n.wrapping_mul(97); 16])
    }

    /// Peers 0..count in two networks, all linked to peer 1.
    fn world(count: u8) -> (Members, Routes) {
        let (mut members, mut topology) = (Members::default(), Topology::default());
        for n in 0..count {
            let endpoints = vec![SocketAddr::from(([10, n % 8, 0, n], 1))];
            let node = Node {
                nickname: String::new(),
                instance: 1,
                endpoints,
                version: String::new(),
                capabilities: 0,
            };
            members.update(
                id(n),
                PublicKeys {
                    sign: [n; 32],
                    exchange: [n; 32],
                },
                node,
            );
            if n != 1 {
                topology.report(id(n), 0, vec![(id(1), 1)]);
            }
        }
        topology.report(
            id(1),
            0,
            (0..count).filter(|n| *n != 1).map(|n| (id(n), 1)).collect(),
        );
        (members, Routes::new(id(0), topology.graph()))
    }

    fn choose(count: u8) -> Vec<Candidate> {
        let (members, routes) = world(count);
        let now = Instant::now();
        let links = BTreeMap::from([(id(1), SocketAddr::from(([10, 1, 0, 1], 1)))]);
        let config = Config::default();
        let reachable = routes.reachable().count();
        let mut situation = Situation {
            local: id(0),
            config: &config,
            members: &members,
            routes: &routes,
            reachable,
            links: &links,
            now,
        };
        let mut neighbours = Neighbours::new(now);
        let mut chosen = neighbours.review(&situation, &mut ChaCha8Rng::seed_from_u64(3));
        for candidate in &chosen {
            neighbours.dialling(candidate.peer, DialId(1), now);
        }
        situation.now += COURTESY;
        chosen.extend(neighbours.review(&situation, &mut ChaCha8Rng::seed_from_u64(4)));
        chosen
    }

    #[test]
    fn in_a_small_mesh_everybody_is_dialled() {
        assert_eq!(choose(12).len(), 10);
    }

    #[test]
    fn in_a_large_mesh_a_few_are_dialled_spread_over_networks() {
        let chosen = choose(120);
        assert_eq!(chosen.len(), 7);
        let networks: BTreeSet<_> = chosen.iter().map(|c| network(&c.addresses[0])).collect();
        assert!(networks.len() >= 5, "{networks:?}");
    }
}
