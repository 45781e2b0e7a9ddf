//! Whom to make a neighbour, beside the operator's targets (design D7): in a
//! small mesh everybody, in a large one a few, drawn at random and spread over
//! networks, so that nobody can choose to be everybody's neighbour.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use proto::{PeerId, record::Node};
use rand::{Rng, RngCore};

use crate::{
    absent::Absent,
    backoff::Backoff,
    config::Config,
    event::DialId,
    networks::Crowds,
    replica::{Replica, Slot},
    routes::Ways,
};

/// Former peers whose addresses are kept, to heal a partition that outlasted their records.
const RESERVE: usize = 30;
/// Of so many former peers dropped in a row each has the same chance to be kept.
const DROPPED: usize = 1000;
/// Candidates compared for one free slot.
const DRAWS: usize = 6;
/// The peer with the higher id leaves the first attempt to the other.
const COURTESY: Duration = Duration::from_millis(300);
/// A full review happens at least so often while something is missing.
const AGAIN: Duration = Duration::from_secs(1);
/// An attempt that takes longer than this no longer holds back another: after a
/// disaster most of those who are dialled are dead.
const HOPEFUL: Duration = Duration::from_secs(1);
/// In a mesh of so many peers each explores at the configured pace; in larger
/// ones so much less often that all together do as many attempts.
const EXPLORERS: usize = 64;
/// Who has enough links of others waits at least and at most so long between two
/// attempts to gain one of its own choice: where few can be dialled there may be
/// none to be had, and every change of links goes to everybody.
const OWN_PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3600)];

/// What the choice depends on.
pub(crate) struct Situation<'a> {
    /// Ourselves.
    pub(crate) local: PeerId,
    /// The settings.
    pub(crate) config: &'a Config,
    /// Everybody known.
    pub(crate) replica: &'a Replica,
    /// Who can be reached.
    pub(crate) ways: &'a Ways,
    /// Who cannot.
    pub(crate) absent: &'a Absent,
    /// Address of each neighbour, and of those being probed.
    pub(crate) links: &'a BTreeMap<PeerId, SocketAddr>,
    /// How many of them this peer dialled.
    pub(crate) own: usize,
    /// The time.
    pub(crate) now: Instant,
}

impl Situation<'_> {
    /// Whether everybody is to be a neighbour.
    fn is_small(&self) -> bool {
        self.config
            .is_small(self.ways.reached(), self.replica.owner_count())
    }

    /// How many links to have.
    fn degree(&self) -> usize {
        self.config.degree_of(self.ways.reached())
    }

    /// A known peer at random, unless it is ourselves or cannot be dialled.
    fn sample(&self, rng: &mut impl RngCore) -> Option<(PeerId, &Node)> {
        let place = rng.random_range(0..self.replica.owner_count().max(1));
        let slot = self.replica.owner_at(place)?;
        let node = self.dialable(slot)?;
        self.ways
            .reaches(slot)
            .then_some((self.replica.id(slot), node))
    }

    fn dialable(&self, slot: Slot) -> Option<&Node> {
        let node = self.replica.node(slot)?;
        (!node.endpoints.is_empty()).then_some(node)
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
    reserve: Vec<Candidate>,
    /// How many were offered to the reserve, up to [`DROPPED`].
    dropped: usize,
    /// No link of our own choice is sought before this while there are enough.
    own_at: Instant,
    own_pause: Backoff,
    /// Who is cut off was last looked for then; the next time comes after the pause of
    /// the moment, times this.
    explored: (Instant, f64),
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
            dropped: 0,
            own_at: now,
            own_pause: Backoff::default(),
            explored: (now, 0.0),
            review_at: now,
        }
    }

    /// When to call `Neighbours::review`.
    pub fn deadline(&self) -> Instant {
        self.review_at
    }

    /// Something changed that the choice depends on.
    pub fn review_soon(&mut self, at: Instant) {
        self.review_at = self.review_at.min(at);
    }

    /// Nothing is to be chosen before this.
    pub(crate) fn wait_until(&mut self, at: Instant) {
        self.review_at = at;
    }

    /// Chooses whom to dial now.
    pub(crate) fn review(
        &mut self,
        situation: &Situation<'_>,
        rng: &mut impl RngCore,
    ) -> Vec<Candidate> {
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
    pub(crate) fn failed(
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
    }

    /// The peer can be reached again, so its addresses are in its records.
    pub fn found(&mut self, peer: &PeerId) {
        self.reserve.retain(|kept| kept.peer != *peer);
    }

    /// The link ended. `patient`: the peer would not have us.
    pub(crate) fn link_down(
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
    ///
    /// Of a thousand dropped at once each is as likely to be kept, so that after a
    /// long partition peers do not all try the same few (Vitter, "Random sampling
    /// with a reservoir").
    pub(crate) fn keep_in_reserve(&mut self, peer: PeerId, node: &Node, rng: &mut impl RngCore) {
        self.attempts.remove(&peer);
        if self.forgotten.remove(&peer) || node.endpoints.is_empty() {
            return;
        }
        let kept = candidate(peer, node);
        self.dropped = (self.dropped + 1).min(DROPPED);
        if self.reserve.len() < RESERVE {
            self.reserve.push(kept);
        } else if let Some(place) = self.reserve.get_mut(rng.random_range(0..self.dropped)) {
            *place = kept;
        }
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
        let replica = situation.replica;
        let of_interest = |slot: Slot| {
            let (peer, reached) = (replica.id(slot), situation.ways.reaches(slot));
            peer != situation.local
                && !situation.links.contains_key(&peer)
                && (reached || !self.forgotten.contains(&peer))
        };
        let interesting = replica.owners().filter(|slot| of_interest(*slot));
        let wanted: Vec<Candidate> = interesting
            .filter_map(|slot| Some(candidate(replica.id(slot), situation.dialable(slot)?)))
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
        let hopeful = |attempt: &&Attempt| {
            attempt
                .dial
                .is_some_and(|(_, since)| situation.now < since + HOPEFUL)
        };
        let in_flight = self.attempts.values().filter(hopeful).count();
        let (degree, links) = (situation.degree(), situation.links.len());
        // Every change of links goes to everybody, so a link less is borne.
        let missing = if links >= degree - degree / 4 {
            usize::from(self.own_is_due(situation, rng))
        } else {
            self.review_soon(situation.now + AGAIN);
            (degree - links).saturating_sub(in_flight)
        };
        let mut crowds = Crowds::of(situation.links.values());
        let mut chosen: Vec<Candidate> = Vec::new();
        for _ in 0..missing {
            let free = |peer: &PeerId| {
                *peer != situation.local
                    && !situation.links.contains_key(peer)
                    && chosen.iter().all(|candidate| candidate.peer != *peer)
                    && self
                        .attempts
                        .get(peer)
                        .is_none_or(|a| a.dial.is_none() && a.retry_at <= situation.now)
            };
            let draws = (0..DRAWS).filter_map(|_| situation.sample(rng));
            let drawn = draws.filter(|(peer, _)| free(peer));
            let drawn = drawn.min_by_key(|(_, node)| crowds.around(&node.endpoints));
            let Some((peer, node)) = drawn else {
                continue;
            };
            crowds.add(&node.endpoints);
            chosen.push(candidate(peer, node));
        }
        chosen
    }

    /// Whether to seek a link of our own choice though there are enough.
    fn own_is_due(&mut self, situation: &Situation<'_>, rng: &mut impl RngCore) -> bool {
        if situation.own >= own_links(situation.degree()) {
            self.own_at = situation.now;
            self.own_pause.reset();
            return false;
        }
        let due = self.own_at <= situation.now;
        if due {
            self.own_at = situation.now + self.own_pause.next(OWN_PAUSES[0], OWN_PAUSES[1], rng);
        }
        self.review_soon(self.own_at);
        due
    }

    /// Now and then, one of those who are cut off.
    fn explore(&mut self, situation: &Situation<'_>, rng: &mut impl RngCore) -> Option<Candidate> {
        let now = situation.now;
        let (pause, settled) = explore_pauses(situation);
        let (last, share) = self.explored;
        let at = last + pause.mul_f64(share);
        if now < at {
            self.review_soon(at);
            return None;
        }
        let share = rng.random_range(0.5..1.5);
        self.explored = (now, share);
        self.review_soon(now + pause.mul_f64(share));
        let before = now.checked_sub(settled).unwrap_or(now);
        let (lost, kept) = (situation.absent.len(), self.reserve.len());
        // In turn by how many there are: the dead of today must not keep us from
        // those who were cut off long ago.
        let at = rng.random_range(0..(lost.min(RESERVE) + kept).max(1));
        let chosen = match self.reserve.get(at) {
            Some(kept) => kept.clone(),
            None => {
                let peer = situation.absent.sample(before, rng)?;
                let node = situation.dialable(situation.replica.slot(&peer)?)?;
                candidate(peer, node)
            }
        };
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

/// So many links are of a peer's own choice, at least, and not given up for those of
/// others: whoever is dialled by many of one mind still hears somebody else. One is
/// enough for that, and each one more is a change of links for everybody.
pub(crate) fn own_links(degree: usize) -> usize {
    degree / 4
}

fn candidate(peer: PeerId, node: &Node) -> Candidate {
    Candidate {
        peer,
        addresses: node.endpoints.clone(),
    }
}

/// The pause between two attempts to reach one of those who are cut off, and how
/// long somebody must have been cut off: no time for whoever lost everybody at once,
/// however seldom it had to look before.
fn explore_pauses(situation: &Situation<'_>) -> (Duration, Duration) {
    let explore = situation.config.explore;
    if situation.links.is_empty() {
        return (explore / 4, Duration::ZERO);
    }
    let crowd = (situation.ways.reached() / EXPLORERS).max(1) as u32;
    (explore * crowd, explore)
}

fn longest_pause(situation: &Situation<'_>) -> Duration {
    let config = situation.config;
    if situation.is_small() {
        config.backoff_small.min(config.backoff_max)
    } else {
        config.backoff_max
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some instant to count from"
)]
mod tests;
