//! News of late: which records this peer has seen, and which it has yet to name
//! to the neighbours that get no pushes (Plumtree's lazy links; Leitao et al.,
//! "Epidemic Broadcast Trees", 2007).
//!
//! A beat names what was not pushed over its link. Whoever has not seen a named
//! record asks for it and for pushes from then on. So a lost push costs a beat,
//! and records come to everybody once rather than once over every link.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use proto::record::RecordKey;

use crate::replica::Slot;

/// News remembered; more than a few seconds bring only where reconciliation is at work.
const LOG: usize = 512;
/// Buckets of digests seen, two each.
const BUCKETS: usize = 2048;
/// News named in one beat.
const NAMED: usize = 100;

/// What came of late.
#[derive(Clone, Debug, Default)]
pub(crate) struct News {
    log: VecDeque<Item>,
    /// Number of the first item of the log.
    first: u64,
    /// Digests seen, the latest first in each bucket. Empty until the first comes.
    seen: Vec<[u32; 2]>,
}

#[derive(Clone, Copy, Debug)]
struct Item {
    digest: u32,
    key: RecordKey,
    at: Instant,
    from: Option<Slot>,
}

impl News {
    /// A record was seen.
    pub(crate) fn see(&mut self, digest: u32) {
        if self.seen.is_empty() {
            self.seen = vec![[0; 2]; BUCKETS];
        }
        let bucket = &mut self.seen[place(digest)];
        if !bucket.contains(&digest) {
            *bucket = [digest, bucket[0]];
        }
    }

    /// Whether a record was seen of late.
    pub(crate) fn has_seen(&self, digest: u32) -> bool {
        self.seen
            .get(place(digest))
            .is_some_and(|bucket| bucket.contains(&digest))
    }

    /// A record is to be told; `from` told us.
    pub(crate) fn add(&mut self, digest: u32, key: RecordKey, from: Option<Slot>, now: Instant) {
        if self.log.len() == LOG {
            self.log.pop_front();
            self.first += 1;
        }
        let at = now;
        self.log.push_back(Item {
            digest,
            key,
            at,
            from,
        });
    }

    /// The number that the next item will have.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.log.len() as u64
    }

    /// What of the news that are `ripe` old to name to `to`, to whom everything
    /// before the item `told` was named or pushed. Moves `told` on.
    pub(crate) fn name(
        &self,
        told: &mut u64,
        to: Option<Slot>,
        ripe: Duration,
        now: Instant,
    ) -> Vec<u32> {
        let start = told.saturating_sub(self.first) as usize;
        let mut named = Vec::new();
        *told = (*told).max(self.first);
        for item in self.log.range(start.min(self.log.len())..) {
            if now < item.at + ripe || named.len() == NAMED {
                break;
            }
            *told += 1;
            if item.from != to || to.is_none() {
                named.push(item.digest);
            }
        }
        named
    }

    /// The keys of named records that are still remembered.
    pub(crate) fn keys(&self, digests: &[u32]) -> Vec<RecordKey> {
        let asked = |item: &&Item| digests.contains(&item.digest);
        self.log.iter().filter(asked).map(|item| item.key).collect()
    }
}

fn place(digest: u32) -> usize {
    digest as usize % BUCKETS
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some instant to count from"
)]
mod tests {
    use proto::{PeerId, record::Topic};

    use super::*;

    const RIPE: Duration = Duration::from_secs(1);

    fn key(owner: u8) -> RecordKey {
        RecordKey {
            owner: PeerId([owner; 16]),
            topic: Topic::Node,
        }
    }

    #[test]
    fn news_are_named_once_when_ripe_and_not_to_their_teller() {
        let (mut news, now) = (News::default(), Instant::now());
        let mut told = news.end();
        news.add(7, key(1), Some(Slot(3)), now);
        news.add(8, key(2), None, now);
        assert!(news.name(&mut told, None, RIPE, now).is_empty());
        let mut to_teller = told;
        assert_eq!(
            news.name(&mut to_teller, Some(Slot(3)), RIPE, now + RIPE),
            [8]
        );
        assert_eq!(
            news.name(&mut told, Some(Slot(4)), RIPE, now + RIPE),
            [7, 8]
        );
        assert!(
            news.name(&mut told, Some(Slot(4)), RIPE, now + RIPE)
                .is_empty()
        );
        assert_eq!(news.keys(&[8, 9]), [key(2)]);
    }

    #[test]
    fn what_was_seen_is_known_for_a_while() {
        let mut news = News::default();
        assert!(!news.has_seen(5));
        news.see(5);
        news.see(5 + BUCKETS as u32);
        assert!(news.has_seen(5) && news.has_seen(5 + BUCKETS as u32));
        news.see(5 + 2 * BUCKETS as u32);
        assert!(!news.has_seen(5));
    }

    #[test]
    fn the_log_is_bounded_and_a_late_teller_skips_what_fell_out() {
        let (mut news, now) = (News::default(), Instant::now());
        let mut told = 0;
        (0..2000).for_each(|n| news.add(n, key(1), None, now));
        let named = news.name(&mut told, None, RIPE, now + RIPE);
        assert_eq!(named.first(), Some(&(2000 - LOG as u32)));
        assert_eq!((named.len(), told), (NAMED, 2000 - (LOG - NAMED) as u64));
    }
}
