//! Finding the largest datagram a path carries, without ICMP (RFC 8899).
//!
//! Sizes are UDP payloads in bytes. The search never trusts a size that was
//! not acknowledged, and a path that silently shrinks is noticed because the
//! size in use is proven again while frames flow.
//!
//! ```text
//!            some acked               gap small
//!  Ladder ───────────────▶ Search ───────────────▶ Settled
//!    ▲ │ none acked: again │                       │   │ every minute
//!    └─┘                   │                       │   └──▶ Search (upwards)
//!    └──────────── size in use unanswered 4 times ─┘
//! ```

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// A payload that passes wherever IPv4 must (576 bytes, RFC 1122) and small
/// enough that nothing needs to be known about the path.
pub const SMALLEST: usize = 508;

/// Payloads tried at once on a new path: those of common links, over IPv4 and
/// IPv6.
const LADDER: [usize; 13] = [
    SMALLEST, 660, 1180, 1232, 1252, 1332, 1372, 1392, 1432, 1452, 1472, 4052, 8952,
];
/// The search ends when it knows the size this exactly, in bytes.
const EXACT: usize = 8;
/// How long a probe may take at least.
const PATIENCE: Duration = Duration::from_millis(250);
/// The same for a probe of the size in use: frames are lost until it is known.
const PROMPT: Duration = Duration::from_millis(90);
/// How often the size in use is proven again while frames flow.
const VERIFY: Duration = Duration::from_secs(1);
/// How often a larger size is tried.
const RAISE: Duration = Duration::from_secs(60);
/// Unanswered probes after which a size in use counts as lost.
const LOST: u8 = 4;
/// Unanswered probes after which a size above counts as too large.
const TOO_LARGE: u8 = 3;

/// The search for one path.
#[derive(Debug)]
pub struct Pmtu {
    proven: usize,
    limit: usize,
    phase: Phase,
    /// Unanswered probes for a larger size, and when the next is due.
    tries: u8,
    deadline: Instant,
    /// The same for the size in use.
    doubts: u8,
    prove_at: Instant,
    raise_at: Instant,
    outstanding: BTreeMap<u64, usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Ladder,
    Search { failed: usize, trying: usize },
    Settled,
}

impl Pmtu {
    /// Starts on a path whose first hop carries payloads up to `limit`.
    pub fn new(limit: usize, now: Instant) -> Self {
        Self {
            proven: SMALLEST,
            limit: limit.max(SMALLEST),
            phase: Phase::Ladder,
            tries: 0,
            deadline: now,
            doubts: 0,
            prove_at: now + VERIFY,
            raise_at: now + RAISE,
            outstanding: BTreeMap::new(),
        }
    }

    /// A path that carries datagrams of `size` for sure, as TCP does.
    pub fn given(size: usize, now: Instant) -> Self {
        let mut given = Self::new(size, now);
        given.proven = given.limit;
        given.phase = Phase::Settled;
        given
    }

    /// The largest payload proven to arrive.
    pub fn datagram(&self) -> usize {
        self.proven
    }

    /// The sizes to probe now. The caller sends each with a token and reports
    /// it by [`Pmtu::sent`]. `active` says whether frames flow.
    pub fn probes(&mut self, now: Instant, rtt: Duration, active: bool) -> Vec<usize> {
        let patience = PATIENCE.max(rtt * 3);
        let mut sizes = Vec::new();
        match self.phase {
            Phase::Ladder if now < self.deadline => return Vec::new(),
            Phase::Ladder => return self.climb(now, patience),
            Phase::Search { .. } if now < self.deadline => {}
            Phase::Search { .. } => sizes.extend(self.search(now, patience)),
            Phase::Settled if self.doubts == 0 && now >= self.raise_at => {
                self.raise_at = now + RAISE;
                self.narrow(self.limit, now);
                sizes.extend(self.search(now, patience));
            }
            Phase::Settled => {}
        }
        if self.doubts >= LOST && now >= self.prove_at {
            *self = Self::new(self.limit, now);
            return self.climb(now, patience);
        }
        sizes.extend(self.prove(now, rtt, active));
        sizes
    }

    /// Frames may not arrive: the size in use is proven now, and not when that
    /// would be due.
    pub fn doubt(&mut self, now: Instant) {
        if self.phase != Phase::Ladder && self.doubts == 0 {
            self.prove_at = now;
        }
    }

    fn climb(&mut self, now: Instant, patience: Duration) -> Vec<usize> {
        if self.tries > 0 && self.largest_answered() {
            self.narrow(self.next_rung(), now);
            return self.search(now, patience).into_iter().collect();
        }
        self.tries = self.tries.saturating_add(1);
        self.deadline = now + patience;
        self.outstanding.clear();
        let mut sizes: Vec<usize> = LADDER.into_iter().filter(|s| *s < self.limit).collect();
        sizes.push(self.limit);
        sizes
    }

    fn largest_answered(&self) -> bool {
        !self.outstanding.values().any(|size| *size <= self.proven)
    }

    fn next_rung(&self) -> usize {
        LADDER
            .into_iter()
            .find(|s| *s > self.proven && *s < self.limit)
            .unwrap_or(self.limit)
    }

    fn narrow(&mut self, failed: usize, now: Instant) {
        self.tries = 0;
        self.deadline = now;
        self.phase = if self.proven + EXACT >= failed || self.proven >= self.limit {
            self.outstanding.retain(|_, size| *size == self.proven);
            Phase::Settled
        } else {
            Phase::Search {
                failed,
                trying: self.proven + (failed - self.proven).div_ceil(2),
            }
        };
    }

    fn search(&mut self, now: Instant, patience: Duration) -> Option<usize> {
        let Phase::Search { trying, .. } = self.phase else {
            return None;
        };
        if self.tries >= TOO_LARGE {
            self.narrow(trying, now);
            return self.search(now, patience);
        }
        self.tries += 1;
        self.deadline = now + patience;
        Some(trying)
    }

    /// The size in use, when it is to be probed.
    fn prove(&mut self, now: Instant, rtt: Duration, active: bool) -> Option<usize> {
        if now < self.prove_at {
            return None;
        }
        if !active && self.doubts == 0 {
            self.prove_at = now + VERIFY;
            return None;
        }
        self.doubts += 1;
        self.prove_at = now + PROMPT.max(rtt * 3);
        Some(self.proven)
    }

    /// A probe of `size` left under `token`.
    pub fn sent(&mut self, token: u64, size: usize) {
        self.outstanding.insert(token, size);
    }

    /// A probe was acknowledged. Returns whether the proven size changed.
    pub fn acked(&mut self, token: u64, now: Instant) -> bool {
        let Some(size) = self.outstanding.remove(&token) else {
            return false;
        };
        let grown = size > self.proven;
        self.proven = self.proven.max(size);
        if size == self.proven && self.phase != Phase::Ladder {
            self.doubts = 0;
            self.prove_at = now + VERIFY;
            self.outstanding.retain(|_, size| *size > self.proven);
        }
        if let Phase::Search { failed, trying } = self.phase
            && size >= trying
        {
            self.narrow(failed, now);
        }
        grown
    }

    /// The local kernel refused a datagram of `size`: the first hop shrank.
    /// Returns whether the proven size changed.
    pub fn refused(&mut self, size: usize, now: Instant) -> bool {
        if size > self.proven || size <= SMALLEST {
            return false;
        }
        // It may grow again: what is too large until then is refused like this one.
        let limit = self.limit;
        *self = Self::new(size - 1, now);
        self.limit = limit;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the search against a path that carries `carries` bytes.
    fn settle(pmtu: &mut Pmtu, now: &mut Instant, carries: usize, steps: usize) {
        let mut token = 0;
        for _ in 0..steps {
            for size in pmtu.probes(*now, Duration::ZERO, true) {
                token += 1;
                pmtu.sent(token, size);
                if size <= carries {
                    pmtu.acked(token, *now);
                }
            }
            *now += Duration::from_millis(100);
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as origin")]
    fn every_size_is_found_and_shrinking_is_noticed() {
        for carries in [600, 1000, 1252, 1333, 1472, 5000, 8952] {
            let mut now = Instant::now();
            let mut pmtu = Pmtu::new(8972, now);
            settle(&mut pmtu, &mut now, carries, 120);
            assert!(
                pmtu.datagram() <= carries && pmtu.datagram() + EXACT > carries,
                "{carries}: {}",
                pmtu.datagram()
            );
            settle(&mut pmtu, &mut now, 700, 50);
            assert!(pmtu.datagram() <= 700, "{carries}: {}", pmtu.datagram());
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as origin")]
    fn a_size_in_doubt_is_proven_or_lost_within_half_a_second() {
        let mut now = Instant::now();
        let mut pmtu = Pmtu::new(1472, now);
        settle(&mut pmtu, &mut now, 1472, 20);
        pmtu.doubt(now);
        settle(&mut pmtu, &mut now, 1472, 1);
        assert_eq!(pmtu.datagram(), 1472);
        pmtu.doubt(now);
        settle(&mut pmtu, &mut now, 1400, 5);
        assert!(pmtu.datagram() <= 1400, "{}", pmtu.datagram());
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as origin")]
    fn a_path_that_shrinks_while_a_larger_size_is_searched_is_noticed_as_soon() {
        let mut now = Instant::now();
        let mut pmtu = Pmtu::new(8972, now);
        settle(&mut pmtu, &mut now, 1472, 120);
        while pmtu.phase == Phase::Settled {
            settle(&mut pmtu, &mut now, 1472, 1);
        }
        settle(&mut pmtu, &mut now, 1472, 1);
        // A second until it would be proven again, and four probes without an answer.
        settle(&mut pmtu, &mut now, 1400, 18);
        assert!(pmtu.datagram() <= 1400, "{}", pmtu.datagram());
        settle(&mut pmtu, &mut now, 1400, 150);
        assert!(pmtu.datagram() + EXACT > 1400, "{}", pmtu.datagram());
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as origin")]
    fn a_first_hop_that_shrank_for_a_while_limits_nothing_later() {
        let mut now = Instant::now();
        let mut pmtu = Pmtu::new(1472, now);
        settle(&mut pmtu, &mut now, 1472, 20);
        assert!(pmtu.refused(1443, now));
        settle(&mut pmtu, &mut now, 1372, 60);
        assert!(pmtu.datagram() <= 1372 && pmtu.datagram() + EXACT > 1372);
        settle(&mut pmtu, &mut now, 1472, 900);
        assert!(pmtu.datagram() + EXACT > 1472, "{}", pmtu.datagram());
    }
}
