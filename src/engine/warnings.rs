//! What a person should know: logged once, and shown for as long as it is so.
//!
//! Members and strangers can bring about as many warnings as they like. They have
//! shares of their own, so that none of theirs keeps another from being seen.

use std::time::{Duration, Instant};

use super::limiter::TokenBucket;

/// Warnings shown of each share.
const SHOWN: usize = 32;
/// What comes again while it lasts is over when it has not come for so long.
const LASTS: Duration = Duration::from_secs(3600);
/// So many may be new at once, and then one in so many seconds.
const BURST: u64 = 32;
const PAUSE_S: u64 = 30;

/// How a warning comes. Each kind has a share of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recurrence {
    /// Once, however long it is so: what members say.
    Once,
    /// Again and again, while it is so: what this peer meets.
    Again,
    /// The same, at the will of whoever sends a datagram.
    Stranger,
}

/// The warnings of a peer.
#[derive(Debug)]
pub struct Warnings {
    again: Share,
    once: Share,
    strangers: Share,
}

#[derive(Debug)]
struct Share {
    /// The oldest first, each with when it came last.
    held: Vec<(String, Instant)>,
    lasts: Option<Duration>,
    fresh: TokenBucket,
}

impl Default for Warnings {
    fn default() -> Self {
        Self {
            again: Share::new(Some(LASTS)),
            once: Share::new(None),
            strangers: Share::new(Some(LASTS)),
        }
    }
}

impl Warnings {
    /// Takes a warning in; says whether it is new and to be logged.
    pub fn say(&mut self, text: &str, recurrence: Recurrence, now: Instant) -> bool {
        let share = match recurrence {
            Recurrence::Again => &mut self.again,
            Recurrence::Once => &mut self.once,
            Recurrence::Stranger => &mut self.strangers,
        };
        share.say(text, now)
    }

    /// What is so now, as far as is known; that of strangers last.
    pub fn current(&self, now: Instant) -> impl Iterator<Item = &str> {
        let shares = [&self.again, &self.once, &self.strangers];
        shares.into_iter().flat_map(move |share| share.current(now))
    }
}

impl Share {
    fn new(lasts: Option<Duration>) -> Self {
        Self {
            held: Vec::new(),
            lasts,
            fresh: TokenBucket::new(1, BURST * PAUSE_S),
        }
    }

    fn say(&mut self, text: &str, now: Instant) -> bool {
        let lasts = self.lasts;
        self.held.retain(|(_, last)| is_current(*last, lasts, now));
        if let Some((_, last)) = self.held.iter_mut().find(|(known, _)| known == text) {
            *last = now;
            return false;
        }
        if !self.fresh.take(now, PAUSE_S) {
            return false;
        }
        if self.held.len() >= SHOWN {
            let places = 0..self.held.len();
            let stalest = places.min_by_key(|at| self.held[*at].1);
            stalest.map(|at| self.held.remove(at));
        }
        self.held.push((text.to_owned(), now));
        true
    }

    fn current(&self, now: Instant) -> impl Iterator<Item = &str> {
        let lasts = self.lasts;
        let current = move |(_, last): &&(String, Instant)| is_current(*last, lasts, now);
        let current = self.held.iter().filter(current);
        current.map(|(text, _)| text.as_str())
    }
}

fn is_current(last: Instant, lasts: Option<Duration>, now: Instant) -> bool {
    lasts.is_none_or(|lasts| now.saturating_duration_since(last) < lasts)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any instant will do as origin")]
mod tests {
    use super::*;

    fn shown(warnings: &Warnings, now: Instant) -> Vec<&str> {
        warnings.current(now).collect()
    }

    #[test]
    fn a_warning_is_logged_once_and_shown_while_it_lasts() {
        let (mut warnings, mut now) = (Warnings::default(), Instant::now());
        assert!(warnings.say("clash", Recurrence::Once, now));
        assert!(warnings.say("refused", Recurrence::Again, now));
        for _ in 0..3 {
            now += LASTS / 2;
            assert!(!warnings.say("refused", Recurrence::Again, now));
            assert!(!warnings.say("clash", Recurrence::Once, now));
        }
        assert_eq!(shown(&warnings, now), ["refused", "clash"]);
        now += LASTS;
        assert_eq!(shown(&warnings, now), ["clash"]);
        // It began anew.
        assert!(warnings.say("refused", Recurrence::Again, now));
        assert!(!warnings.say("clash", Recurrence::Once, now));
    }

    #[test]
    fn a_flood_of_strangers_hides_nothing_and_fills_no_log() {
        let (mut warnings, mut now) = (Warnings::default(), Instant::now());
        assert!(warnings.say("copied", Recurrence::Again, now));
        let mut logged = 0;
        for n in 0..100_000 {
            now += Duration::from_millis(10);
            let text = format!("refused {n}");
            logged += u64::from(warnings.say(&text, Recurrence::Stranger, now));
        }
        assert!(logged <= BURST + 1000 / PAUSE_S, "{logged}");
        let current = shown(&warnings, now);
        assert_eq!(current[0], "copied");
        assert_eq!(current.len(), 1 + SHOWN);
        assert!(warnings.say("another", Recurrence::Again, now));
        assert_eq!(shown(&warnings, now)[1], "another");
    }

    #[test]
    fn of_more_than_are_shown_the_stalest_goes() {
        let (mut warnings, mut now) = (Warnings::default(), Instant::now());
        for n in 0..SHOWN {
            now += Duration::from_secs(PAUSE_S);
            assert!(warnings.say(&n.to_string(), Recurrence::Once, now));
        }
        now += Duration::from_secs(PAUSE_S);
        assert!(!warnings.say("0", Recurrence::Once, now));
        assert!(warnings.say("more", Recurrence::Once, now));
        let current = shown(&warnings, now);
        assert_eq!(current.len(), SHOWN);
        assert!(current.contains(&"0") && !current.contains(&"1"));
    }
}
