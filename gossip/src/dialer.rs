//! The operator's targets: each is tried until its peer is a neighbour, and
//! again when it is lost. Resolving names and opening sockets is done elsewhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use proto::PeerId;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::{backoff::Backoff, config::Config, event::DialId, target::Target};

/// A link that lasted longer than this was a good one: its loss is no failure of the target.
pub(crate) const GOOD_LINK: Duration = Duration::from_secs(10);

/// Where a target stands.
///
/// ```text
///  connect             due                 link up
/// ---------> Waiting ------> Connecting -----------> Connected
///               ^  ^           |   |  |                  |
///               |  +-----------+   |  +-> Ourselves, due |
///               |  no answer       | refused             |
///               |                  v                     |
///               |     due <---- Failed                   |
///               +----------------------------------------+
///                               link lost
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetState {
    /// To be dialled at a time.
    Waiting {
        /// When.
        retry_at: Instant,
        /// Why the attempt before came to nothing.
        reason: Option<String>,
    },
    /// Being dialled, or a session is there and the link is being probed.
    Connecting {
        /// Since when.
        since: Instant,
    },
    /// Its peer is a neighbour.
    Connected {
        /// Who it is.
        peer: PeerId,
    },
    /// It answered, but would not have us. Tried again at the longest pause, or
    /// when there may be room again.
    Failed {
        /// When.
        retry_at: Instant,
        /// Why.
        reason: String,
    },
    /// It leads back here. Tried again at the longest pause: a name may come to stand for
    /// somebody else, and a stranger may have sent back what we sent.
    Ourselves {
        /// When.
        retry_at: Instant,
    },
}

/// What it takes to plan the next attempt.
pub struct Turn<'a> {
    /// The settings.
    pub config: &'a Config,
    /// The time.
    pub now: Instant,
    /// For jitter.
    pub rng: &'a mut ChaCha8Rng,
}

impl Turn<'_> {
    fn pause(&mut self, backoff: &mut Backoff) -> Duration {
        backoff.next(self.config.backoff_min, self.config.backoff_max, self.rng)
    }

    /// The pause before an attempt that shall be made at once.
    fn moment(&mut self) -> Duration {
        Duration::from_millis(self.rng.random_range(50..300))
    }

    /// A factor that keeps peers from retrying in step.
    fn jitter(&mut self) -> f64 {
        self.rng.random_range(0.5..1.5)
    }
}

#[derive(Clone, Debug)]
struct Entry {
    state: TargetState,
    dial: Option<DialId>,
    backoff: Backoff,
    /// Who answered last.
    peer: Option<PeerId>,
}

/// The targets.
#[derive(Clone, Debug, Default)]
pub struct Dialer {
    targets: BTreeMap<Target, Entry>,
}

impl Dialer {
    /// Adds targets and re-arms those that are there; with `replace`, drops all others.
    pub fn connect(&mut self, targets: &[Target], replace: bool, now: Instant) {
        if replace {
            let keep: BTreeSet<&Target> = targets.iter().collect();
            self.targets.retain(|target, _| keep.contains(target));
        }
        for target in targets {
            let fresh = Entry {
                state: waiting(now, None),
                dial: None,
                backoff: Backoff::default(),
                peer: None,
            };
            let entry = self.targets.entry(target.clone()).or_insert(fresh);
            entry.backoff.reset();
            match entry.state {
                TargetState::Waiting { .. }
                | TargetState::Failed { .. }
                | TargetState::Ourselves { .. } => entry.state = waiting(now, None),
                TargetState::Connecting { .. } | TargetState::Connected { .. } => {}
            }
        }
    }

    /// Drops targets. Returns the peers they led to.
    pub fn forget(&mut self, targets: &[Target]) -> Vec<PeerId> {
        targets
            .iter()
            .filter_map(|target| self.targets.remove(target)?.peer)
            .collect()
    }

    /// All targets and where they stand.
    pub fn iter(&self) -> impl Iterator<Item = (&Target, &TargetState)> {
        self.targets
            .iter()
            .map(|(target, entry)| (target, &entry.state))
    }

    /// Whether a target led to this peer.
    pub fn leads_to(&self, peer: &PeerId) -> bool {
        self.targets.values().any(|entry| entry.peer == Some(*peer))
    }

    /// Targets to be dialled now, with who answered last time.
    pub fn due(&self, now: Instant) -> Vec<(Target, Option<PeerId>)> {
        let due = self
            .targets
            .iter()
            .filter(|(_, entry)| entry.retry_at().is_some_and(|at| at <= now));
        due.map(|(target, entry)| (target.clone(), entry.peer))
            .collect()
    }

    /// When something is due.
    pub fn deadline(&self, config: &Config) -> Option<Instant> {
        self.targets
            .values()
            .filter_map(|entry| entry.retry_at().or_else(|| entry.give_up_at(config)))
            .min()
    }

    /// An attempt has begun; `dial` is none if a session exists already.
    pub fn dialling(&mut self, target: &Target, dial: Option<DialId>, now: Instant) {
        if let Some(entry) = self.targets.get_mut(target) {
            entry.state = TargetState::Connecting { since: now };
            entry.dial = dial;
        }
    }

    /// An attempt may not begin now.
    pub fn postpone(&mut self, target: &Target, reason: &str, turn: &mut Turn<'_>) {
        if let Some(entry) = self.targets.get_mut(target) {
            entry.back_off(Some(reason.to_owned()), turn);
        }
    }

    /// It is known who answered.
    pub fn answered(
        &mut self,
        target: &Target,
        peer: PeerId,
        (local, linked): (PeerId, bool),
        turn: &mut Turn<'_>,
    ) {
        let Some(entry) = self.targets.get_mut(target) else {
            return;
        };
        entry.peer = Some(peer);
        if peer == local {
            entry.backoff.exhaust();
            let retry_at = turn.now + turn.pause(&mut entry.backoff);
            entry.state = TargetState::Ourselves { retry_at };
            entry.dial = None;
        } else if linked {
            entry.connected(peer);
        }
    }

    /// An attempt came to nothing. `refused`: trying soon again is no use.
    pub fn failed(
        &mut self,
        target: &Target,
        dial: DialId,
        reason: String,
        refused: bool,
        turn: &mut Turn<'_>,
    ) {
        let Some(entry) = self
            .targets
            .get_mut(target)
            .filter(|entry| entry.dial == Some(dial))
        else {
            return;
        };
        if refused {
            entry.refuse(reason, turn);
        } else {
            entry.back_off(Some(reason), turn);
        }
    }

    /// Attempts without result for too long, which have now failed.
    pub fn give_up(&mut self, turn: &mut Turn<'_>) -> bool {
        let (config, now) = (turn.config, turn.now);
        let late = |entry: &&mut Entry| entry.give_up_at(config).is_some_and(|at| at <= now);
        let mut any = false;
        for entry in self.targets.values_mut().filter(late) {
            entry.back_off(Some("no answer".to_owned()), turn);
            any = true;
        }
        any
    }

    /// A peer became a neighbour. Says whether a target is concerned.
    pub fn link_up(&mut self, peer: PeerId) -> bool {
        let mut any = false;
        for entry in self
            .targets
            .values_mut()
            .filter(|entry| entry.peer == Some(peer))
        {
            entry.connected(peer);
            any = true;
        }
        any
    }

    /// A link ended. `lasted` is none if it never came up; with `patience` the
    /// peer had no room for us, and is asked again only after about so long.
    /// Says whether a target is concerned.
    pub fn link_down(
        &mut self,
        peer: PeerId,
        reason: &str,
        lasted: Option<Duration>,
        patience: Option<Duration>,
        turn: &mut Turn<'_>,
    ) -> bool {
        let concerned = |entry: &&mut Entry| {
            let active = matches!(
                entry.state,
                TargetState::Connected { .. } | TargetState::Connecting { .. }
            );
            active && entry.peer == Some(peer)
        };
        let mut any = false;
        for entry in self.targets.values_mut().filter(concerned) {
            any = true;
            if let Some(pause) = patience {
                entry.wait_for_room(reason.to_owned(), pause, turn);
            } else if lasted.is_some_and(|lasted| lasted > GOOD_LINK) {
                entry.backoff.reset();
                entry.dial = None;
                entry.state = waiting(turn.now + turn.moment(), Some(reason.to_owned()));
            } else {
                entry.back_off(Some(reason.to_owned()), turn);
            }
        }
        any
    }

    /// There is no other way into the mesh any more: all that wait are due.
    pub fn hurry(&mut self, turn: &mut Turn<'_>) {
        for entry in self.targets.values_mut() {
            let soon = turn.now + turn.moment();
            let reason = match &mut entry.state {
                TargetState::Waiting { reason, .. } => reason.take(),
                TargetState::Failed { reason, .. } => Some(std::mem::take(reason)),
                TargetState::Connecting { .. }
                | TargetState::Connected { .. }
                | TargetState::Ourselves { .. } => continue,
            };
            entry.backoff.reset();
            entry.state = waiting(soon, reason);
        }
    }

    /// No way leads to a peer any more: a target that has no room may be the way back.
    pub fn lost(&mut self, peer: &PeerId, turn: &mut Turn<'_>) {
        let entries = self.targets.values_mut();
        for entry in entries.filter(|entry| entry.peer.as_ref() == Some(peer)) {
            if let TargetState::Failed { retry_at, .. } = &mut entry.state {
                let pause = turn.config.backoff_max.mul_f64(turn.jitter());
                *retry_at = (turn.now + pause).min(*retry_at);
            }
        }
    }
}

impl Entry {
    fn retry_at(&self) -> Option<Instant> {
        match self.state {
            TargetState::Waiting { retry_at, .. }
            | TargetState::Failed { retry_at, .. }
            | TargetState::Ourselves { retry_at } => Some(retry_at),
            TargetState::Connecting { .. } | TargetState::Connected { .. } => None,
        }
    }

    fn give_up_at(&self, config: &Config) -> Option<Instant> {
        match self.state {
            TargetState::Connecting { since } => Some(since + config.dial_timeout),
            _ => None,
        }
    }

    fn connected(&mut self, peer: PeerId) {
        self.state = TargetState::Connected { peer };
        self.dial = None;
    }

    fn back_off(&mut self, reason: Option<String>, turn: &mut Turn<'_>) {
        let pause = turn.pause(&mut self.backoff);
        self.state = waiting(turn.now + pause, reason);
        self.dial = None;
    }

    /// Whoever refuses us is full, and everybody whose seed it is comes back.
    fn wait_for_room(&mut self, reason: String, pause: Duration, turn: &mut Turn<'_>) {
        let pause = pause.mul_f64(turn.jitter());
        self.state = TargetState::Failed {
            retry_at: turn.now + pause,
            reason,
        };
        self.dial = None;
    }

    fn refuse(&mut self, reason: String, turn: &mut Turn<'_>) {
        self.backoff.exhaust();
        let pause = turn.pause(&mut self.backoff);
        self.state = TargetState::Failed {
            retry_at: turn.now + pause,
            reason,
        };
        self.dial = None;
    }
}

fn waiting(retry_at: Instant, reason: Option<String>) -> TargetState {
    TargetState::Waiting { retry_at, reason }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some instant to count from"
)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    struct Bench {
        dialer: Dialer,
        config: Config,
        rng: ChaCha8Rng,
        now: Instant,
        target: Target,
    }

    impl Bench {
        fn new() -> Self {
            let (dialer, target) = (Dialer::default(), Target::parse("a", 1).unwrap());
            let (config, rng) = (Config::default(), ChaCha8Rng::seed_from_u64(1));
            let mut bench = Self {
                dialer,
                config,
                rng,
                now: Instant::now(),
                target,
            };
            bench
                .dialer
                .connect(std::slice::from_ref(&bench.target), false, bench.now);
            bench
        }

        fn turn(&mut self) -> (&mut Dialer, Turn<'_>) {
            let turn = Turn {
                config: &self.config,
                now: self.now,
                rng: &mut self.rng,
            };
            (&mut self.dialer, turn)
        }

        fn dial(&mut self) {
            let (target, _) = self.dialer.due(self.now).pop().expect("it is due");
            self.dialer.dialling(&target, Some(DialId(7)), self.now);
        }

        fn answer(&mut self, peer: PeerId) {
            let (target, local) = (self.target.clone(), PeerId([1; 16]));
            let (dialer, mut turn) = self.turn();
            dialer.answered(&target, peer, (local, false), &mut turn);
        }

        fn fail(&mut self, refused: bool) -> Duration {
            let reason = "down".to_owned();
            let target = self.target.clone();
            let (dialer, mut turn) = self.turn();
            dialer.failed(&target, DialId(7), reason, refused, &mut turn);
            let wait = self.dialer.deadline(&self.config).unwrap() - self.now;
            self.now += wait;
            wait
        }

        fn state(&self) -> TargetState {
            self.dialer.iter().next().unwrap().1.clone()
        }
    }

    #[test]
    fn failures_back_off_and_connect_re_arms() {
        let mut bench = Bench::new();
        for _ in 0..10 {
            bench.dial();
            bench.fail(false);
        }
        bench.dial();
        assert!(bench.fail(false) >= bench.config.backoff_max / 2);
        bench
            .dialer
            .connect(&[bench.target.clone()], true, bench.now);
        bench.dial();
        assert!(bench.fail(false) < Duration::from_secs(2));
    }

    #[test]
    fn a_refusal_is_shown_and_retried_at_the_longest_pause() {
        let mut bench = Bench::new();
        bench.dial();
        assert!(bench.fail(true) >= bench.config.backoff_max / 2);
        assert!(matches!(bench.state(), TargetState::Failed { .. }));
        bench.dial();
    }

    #[test]
    fn ourselves_is_dialled_again_at_the_longest_pause_or_when_told_to() {
        let mut bench = Bench::new();
        for told in [false, true] {
            bench.dial();
            bench.answer(PeerId([1; 16]));
            let TargetState::Ourselves { retry_at } = bench.state() else {
                panic!("it is not noticed");
            };
            assert!(retry_at >= bench.now + bench.config.backoff_max / 2);
            if told {
                let targets = [bench.target.clone()];
                bench.dialer.connect(&targets, false, bench.now);
            } else {
                bench.now = retry_at;
            }
        }
        bench.dial();
    }

    #[test]
    fn a_lost_link_is_dialled_at_once_and_a_short_one_after_a_pause() {
        let mut bench = Bench::new();
        let peer = PeerId([2; 16]);
        for (lasted, soon) in [(60, true), (1, false)] {
            bench.dial();
            bench.answer(peer);
            assert!(bench.dialer.link_up(peer));
            assert_eq!(bench.state(), TargetState::Connected { peer });
            let lasted = Some(Duration::from_secs(lasted));
            let (dialer, mut turn) = bench.turn();
            dialer.link_down(peer, "silent", lasted, None, &mut turn);
            let wait = bench.dialer.deadline(&bench.config).unwrap() - bench.now;
            assert_eq!(wait < Duration::from_millis(300), soon);
            bench.now += wait;
        }
    }

    #[test]
    fn a_full_target_is_left_alone_until_no_way_leads_to_it() {
        let (mut bench, peer) = (Bench::new(), PeerId([2; 16]));
        bench.dial();
        bench.answer(peer);
        let (dialer, mut turn) = bench.turn();
        let hour = Duration::from_secs(3600);
        assert!(dialer.link_down(peer, "full", None, Some(hour), &mut turn));
        let wait = |bench: &Bench| bench.dialer.deadline(&bench.config).unwrap() - bench.now;
        assert!(wait(&bench) >= hour / 2);
        let (dialer, mut turn) = bench.turn();
        dialer.lost(&peer, &mut turn);
        assert!(wait(&bench) < 2 * bench.config.backoff_max);
        let (dialer, mut turn) = bench.turn();
        dialer.hurry(&mut turn);
        assert!(wait(&bench) < Duration::from_secs(1), "no other way in");
    }

    #[test]
    fn an_attempt_without_result_is_given_up() {
        let mut bench = Bench::new();
        bench.dial();
        bench.now = bench.dialer.deadline(&bench.config).unwrap();
        let (dialer, mut turn) = bench.turn();
        assert!(dialer.give_up(&mut turn));
        assert!(matches!(bench.state(), TargetState::Waiting { .. }));
    }
}
