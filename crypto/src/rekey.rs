//! When a session must be replaced, and when it is dead. Policy only: it reads
//! no clock and starts no handshake.
//!
//! ```text
//! born        120 s          140 s          180 s
//!  |-------------|--------------|--------------|
//!     use        | initiator    | responder    | expired: seal and open
//!                | rekeys       | rekeys too   | nothing any more
//! ```
//!
//! Both ends know who began, so normally only the initiator renews. The
//! responder comes in when that did not work, still 40 s before the end. A peer
//! may be told to renew sooner; then a responder waits at most twice as long.

use std::time::{Duration, Instant};

/// Age at which the initiator replaces a session, unless told to do so sooner.
pub const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
/// How much longer the responder waits, at most.
pub const RESPONDER_PATIENCE: Duration = Duration::from_secs(20);
/// Age at which a session is dead.
pub const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// Datagrams sent after which a session is replaced.
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 34;
/// Datagrams sent after which a session refuses to seal. Far below the end of
/// the counter, and within what AES-GCM can carry under one key.
pub const REJECT_AFTER_MESSAGES: u64 = 1 << 35;

/// The age of a session, seen from one end.
#[derive(Clone, Copy, Debug)]
pub struct Rekey {
    born: Instant,
    after: Duration,
    messages: u64,
}

impl Rekey {
    /// A session made now, by this end (`initiator`) or by the other, that is
    /// to be replaced `after` so long, or after [`REKEY_AFTER_TIME`] if that is sooner.
    pub fn new(initiator: bool, after: Duration, now: Instant) -> Self {
        let after = after.min(REKEY_AFTER_TIME);
        if initiator {
            return Self {
                born: now,
                after,
                messages: REKEY_AFTER_MESSAGES,
            };
        }
        Self {
            born: now,
            after: after + after.min(RESPONDER_PATIENCE),
            messages: REKEY_AFTER_MESSAGES + REKEY_AFTER_MESSAGES / 4,
        }
    }

    /// Whether this end should start a handshake, `sent` being
    /// [`crate::Session::sent`].
    pub fn due(&self, now: Instant, sent: u64) -> bool {
        now >= self.next() || sent >= self.messages
    }

    /// When it becomes due if few datagrams are sent.
    pub fn next(&self) -> Instant {
        self.born + self.after
    }

    /// Whether the session must neither seal nor open any more.
    pub fn expired(&self, now: Instant, sent: u64) -> bool {
        now >= self.expires() || sent >= REJECT_AFTER_MESSAGES
    }

    /// When it expires if few datagrams are sent.
    pub fn expires(&self) -> Instant {
        self.born + REJECT_AFTER_TIME
    }

    /// How old the session is.
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.born)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs some origin of time; no result depends on it"
    )]
    fn origin() -> Instant {
        Instant::now()
    }

    fn ends(after: Duration, now: Instant) -> (Rekey, Rekey) {
        (Rekey::new(true, after, now), Rekey::new(false, after, now))
    }

    #[test]
    fn it_may_be_sooner_but_not_later() {
        let born = origin();
        for (after, first, second) in [(1, 1, 2), (30, 30, 50), (120, 120, 140), (900, 120, 140)] {
            let (initiator, responder) = ends(Duration::from_secs(after), born);
            assert_eq!(initiator.next(), born + Duration::from_secs(first));
            assert_eq!(responder.next(), born + Duration::from_secs(second));
            assert_eq!(initiator.expires(), born + REJECT_AFTER_TIME);
        }
    }

    #[test]
    fn the_initiator_renews_first_by_age() {
        let born = origin();
        let (initiator, responder) = ends(REKEY_AFTER_TIME, born);
        for (age, first, second, dead) in [
            (0, false, false, false),
            (119, false, false, false),
            (120, true, false, false),
            (139, true, false, false),
            (140, true, true, false),
            (179, true, true, false),
            (180, true, true, true),
        ] {
            let now = born + Duration::from_secs(age);
            assert_eq!(initiator.due(now, 0), first, "{age}");
            assert_eq!(responder.due(now, 0), second, "{age}");
            assert_eq!(initiator.expired(now, 0), dead, "{age}");
            assert_eq!(responder.expired(now, 0), dead, "{age}");
        }
        assert_eq!(initiator.next(), born + REKEY_AFTER_TIME);
        assert_eq!(
            initiator.age(born + Duration::from_secs(7)),
            Duration::from_secs(7)
        );
    }

    #[test]
    fn many_datagrams_renew_too_and_then_stop() {
        let now = origin();
        let (initiator, responder) = ends(REKEY_AFTER_TIME, now);
        assert!(!initiator.due(now, REKEY_AFTER_MESSAGES - 1));
        assert!(initiator.due(now, REKEY_AFTER_MESSAGES));
        assert!(!responder.due(now, REKEY_AFTER_MESSAGES));
        assert!(responder.due(now, REJECT_AFTER_MESSAGES - 1));
        assert!(!initiator.expired(now, REJECT_AFTER_MESSAGES - 1));
        assert!(initiator.expired(now, REJECT_AFTER_MESSAGES));
    }
}
