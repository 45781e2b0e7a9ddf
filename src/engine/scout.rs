//! Looking for another way to a peer than the one in use: probes of addresses
//! that may work, and what is made of a peer that was heard from elsewhere.
//!
//! ```text
//!            heard from elsewhere          it answers there
//!  settled ────────────────────▶ asked ──────────────────▶ answered
//!     ▲                            │                       │      │
//!     ├──── no answer for 1 s ─────┘                       │      └─ the path in use is
//!     └──── the path in use answers: the lower id's choice ┘         silent: moved
//! ```
//!
//! A datagram alone moves nothing, though it was sealed by the peer: somebody
//! on the way may have sent a copy of it on from an address of his own. So both
//! addresses are asked, and only what answers can become the path.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use proto::Endpoint;

use super::timing::{GRACE, HOLD, ROUNDS};

/// Probes remembered for each peer; the oldest give way.
const MAX_PROBES: usize = 96;
/// Addresses looked at, and addresses held off, at once.
const MAX_SIGHTINGS: usize = 4;
const MAX_HELD: usize = 16;
/// How long an answer to a probe is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the peer has to answer at the address it was heard from.
const ASKED: Duration = Duration::from_secs(1);

/// What one peer's scout knows.
#[derive(Debug, Default)]
pub struct Scout {
    /// Where UDP last worked.
    pub udp: Option<SocketAddr>,
    /// Until when no request to meet is heeded.
    pub met_until: Option<Instant>,
    /// When TCP is tried next, while UDP is silent.
    pub tcp_at: Option<Instant>,
    probes: BTreeMap<u64, (Instant, Endpoint)>,
    search: Option<Search>,
    sightings: Vec<Sighting>,
    held: BTreeMap<Endpoint, Instant>,
}

/// Addresses that are probed in several rounds.
#[derive(Debug)]
struct Search {
    endpoints: Vec<Endpoint>,
    /// Whether the peer is to search, too.
    asks: bool,
    began: Instant,
    rounds: usize,
}

/// What is to be done in one round of a search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// The addresses to probe.
    pub endpoints: Vec<Endpoint>,
    /// Whether the peer is asked to do the same. In every round: what asked it
    /// before may be lost, for the way to it may just be changing.
    pub asks: bool,
}

/// The peer was heard from an address that is not its path.
#[derive(Debug)]
struct Sighting {
    from: Endpoint,
    since: Instant,
    /// How long the path in use has to answer.
    grace: Duration,
    /// Whether the peer answered there.
    answered: bool,
}

/// What becomes of a sighting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet.
    Wait,
    /// It was a copy, or did not last.
    Nothing(Endpoint),
    /// The peer answers there, and no more where it was.
    Moved(Endpoint),
    /// Both ways work.
    Both(Endpoint),
}

impl Scout {
    /// Begins to probe these addresses, and to ask the peer for the same if `asks`;
    /// what was sought before is given up.
    pub fn search(&mut self, endpoints: Vec<Endpoint>, asks: bool, now: Instant) {
        self.search = Some(Search {
            endpoints,
            asks,
            began: now,
            rounds: 0,
        });
    }

    /// Ends the search: a path was found.
    pub fn found(&mut self) {
        self.search = None;
    }

    /// The round that is due.
    pub fn round(&mut self, now: Instant) -> Option<Round> {
        let search = self.search.as_mut()?;
        let Some(after) = ROUNDS.get(search.rounds) else {
            self.search = None;
            return None;
        };
        if now < search.began + *after {
            return None;
        }
        search.rounds += 1;
        Some(Round {
            endpoints: search.endpoints.clone(),
            asks: search.asks,
        })
    }

    /// A probe left.
    pub fn sent(&mut self, token: u64, to: Endpoint, now: Instant) {
        if self.probes.len() >= MAX_PROBES
            && let Some(oldest) = self.probes.iter().min_by_key(|(_, (at, _))| *at)
        {
            let oldest = *oldest.0;
            self.probes.remove(&oldest);
        }
        self.probes.insert(token, (now, to));
    }

    /// A probe was answered from where it was sent to. Gives when it left.
    pub fn answered(&mut self, token: u64, from: Endpoint) -> Option<Instant> {
        let (sent, to) = self.probes.remove(&token)?;
        if to != from {
            return None;
        }
        if let Some(sighting) = self.sightings.iter_mut().find(|s| s.from == from) {
            sighting.answered = true;
        }
        Some(sent)
    }

    /// The peer was heard from an address that is not its path, whose
    /// round-trip time is `rtt`. Whether both are to be asked now.
    pub fn sighted(&mut self, from: Endpoint, rtt: Duration, now: Instant) -> bool {
        if self.held.get(&from).is_some_and(|until| now < *until)
            || self.sightings.len() >= MAX_SIGHTINGS
            || self.sightings.iter().any(|s| s.from == from)
        {
            return false;
        }
        self.sightings.push(Sighting {
            from,
            since: now,
            grace: GRACE.max(rtt * 3),
            answered: false,
        });
        true
    }

    /// What the present sightings come to, if the path in use last answered at
    /// `path_answered`.
    pub fn judge(&mut self, path_answered: Instant, now: Instant) -> Verdict {
        let verdicts: Vec<Verdict> = self
            .sightings
            .iter()
            .map(|sighting| sighting.judge(path_answered, now))
            .collect();
        for verdict in &verdicts {
            if let Verdict::Both(from) | Verdict::Nothing(from) = *verdict {
                self.hold(from, now);
            }
        }
        let moved = |v: &&Verdict| matches!(v, Verdict::Moved(_));
        let both = |v: &&Verdict| matches!(v, Verdict::Both(_));
        let verdict = verdicts.iter().find(moved);
        verdict
            .or_else(|| verdicts.iter().find(both))
            .copied()
            .unwrap_or(Verdict::Wait)
    }

    /// Whether the path in use is to be asked whether it still works.
    pub fn is_judging(&self) -> bool {
        !self.sightings.is_empty()
    }

    /// The path is another now: what was thought of the former does not hold.
    pub fn moved(&mut self) {
        self.sightings.clear();
        self.held.clear();
        self.search = None;
    }

    /// Forgets probes that will not be answered any more.
    pub fn forget(&mut self, now: Instant) {
        self.probes
            .retain(|_, (sent, _)| now.duration_since(*sent) < PATIENCE);
        self.held.retain(|_, until| now < *until);
    }

    fn hold(&mut self, from: Endpoint, now: Instant) {
        self.sightings.retain(|s| s.from != from);
        if self.held.len() < MAX_HELD {
            self.held.insert(from, now + HOLD);
        }
    }
}

impl Sighting {
    fn judge(&self, path_answered: Instant, now: Instant) -> Verdict {
        match self.answered {
            false if now < self.since + ASKED => Verdict::Wait,
            false => Verdict::Nothing(self.from),
            true if path_answered > self.since => Verdict::Both(self.from),
            true if now >= self.since + self.grace => Verdict::Moved(self.from),
            true => Verdict::Wait,
        }
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some instant to count from"
)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(100);

    fn at(port: u16) -> Endpoint {
        Endpoint::Udp(SocketAddr::from(([192, 0, 2, 1], port)))
    }

    fn asked(scout: &mut Scout, now: Instant) {
        assert!(scout.sighted(at(2), Duration::ZERO, now));
        scout.sent(7, at(2), now);
    }

    #[test]
    fn a_peer_has_moved_when_it_answers_there_and_no_more_here() {
        let (mut scout, start) = (Scout::default(), Instant::now());
        asked(&mut scout, start);
        assert_eq!(scout.answered(7, at(2)), Some(start));
        assert_eq!(scout.judge(start, start + TICK), Verdict::Wait);
        assert_eq!(scout.judge(start, start + GRACE), Verdict::Moved(at(2)));
    }

    #[test]
    fn a_copy_from_elsewhere_moves_nothing() {
        let (mut scout, start) = (Scout::default(), Instant::now());
        asked(&mut scout, start);
        assert_eq!(scout.answered(7, at(3)), None, "not from where it was sent");
        assert_eq!(scout.judge(start, start + ASKED), Verdict::Wait);
        assert!(!scout.sighted(at(2), Duration::ZERO, start + ASKED));
        assert!(scout.sighted(at(2), Duration::ZERO, start + ASKED + HOLD));
    }

    #[test]
    fn two_ways_that_work_are_told_apart_from_a_move() {
        let (mut scout, start) = (Scout::default(), Instant::now());
        asked(&mut scout, start);
        scout.answered(7, at(2));
        assert_eq!(
            scout.judge(start + TICK, start + GRACE),
            Verdict::Both(at(2))
        );
        assert!(!scout.sighted(at(2), Duration::ZERO, start + GRACE));
    }

    #[test]
    fn a_search_has_its_rounds_and_ends() {
        let (mut scout, start) = (Scout::default(), Instant::now());
        scout.search(vec![at(1), at(2)], true, start);
        let mut rounds = 0;
        for tick in 0..20 {
            rounds += usize::from(scout.round(start + TICK * tick).is_some());
        }
        assert_eq!(rounds, ROUNDS.len());
    }

    #[test]
    fn probes_are_bounded_and_forgotten() {
        let (mut scout, start) = (Scout::default(), Instant::now());
        for token in 0..1000 {
            scout.sent(token, at(1), start);
        }
        assert_eq!(scout.probes.len(), MAX_PROBES);
        scout.forget(start + PATIENCE);
        assert_eq!(scout.answered(999, at(1)), None);
    }
}
