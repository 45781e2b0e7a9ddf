//! Liveness of one neighbour, by ping and pong over a direct session.
//!
//! Of the two ends one leads: it pings every heartbeat, and its ping says
//! whether the one before was answered and how long that took. So the other end
//! need not ask anything itself unless the pings stay away, and a link that is
//! well costs two datagrams a heartbeat.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::config::Config;

/// Where a link stands.
///
/// ```text
///            Pong           Missed
///  Probing ------->  Up  ----------> Suspect
///     |               ^  <----------    |
///     |               |      Pong       |
///     | Expired, Bye  | Expired, Bye    | Expired, Bye
///     v               v                 v
///    Down <-----------+-----------------+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkState {
    /// No pong yet.
    Probing,
    /// Pings are answered.
    Up,
    /// A pong is missing; still in use, pinged more often.
    Suspect,
    /// Over. A new link must be made.
    Down,
}

/// What happens to a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// An answer came.
    Pong,
    /// An answer is late.
    Missed,
    /// No answer for too long.
    Expired,
    /// One end said goodbye.
    Bye,
}

impl LinkState {
    /// The next state.
    pub fn step(self, input: Input) -> Self {
        match (self, input) {
            (Self::Probing | Self::Up | Self::Suspect, Input::Pong) => Self::Up,
            (Self::Probing, Input::Missed) => Self::Probing,
            (Self::Up | Self::Suspect, Input::Missed) => Self::Suspect,
            (Self::Probing | Self::Up | Self::Suspect, Input::Expired | Input::Bye) => Self::Down,
            (Self::Down, Input::Pong | Input::Missed | Input::Expired | Input::Bye) => Self::Down,
        }
    }

    /// Whether frames and records go over the link.
    pub fn is_usable(self) -> bool {
        matches!(self, Self::Up | Self::Suspect)
    }
}

/// The liveness of one neighbour.
#[derive(Clone, Debug)]
pub struct Link {
    state: LinkState,
    /// Whether this end pings.
    leads: bool,
    /// When it was made, or came up.
    since: Instant,
    rtt: Option<Rtt>,
    /// Pings without a pong, oldest first.
    sent: VecDeque<(u8, Instant)>,
    /// When the other end was last known to hear us.
    last_pong: Instant,
    last_heard: Instant,
    next_ping: Instant,
    /// Of the next ping.
    token: u8,
    /// Whether the last ping that was due for an answer got one.
    answered: bool,
}

/// Pings remembered; more than a link sends until it is down.
const REMEMBERED: usize = 64;
/// A pong is never held for late before this.
const PATIENCE_MIN: Duration = Duration::from_millis(250);

impl Link {
    /// A link to be probed from `now` on.
    pub fn new(leads: bool, now: Instant) -> Self {
        Self {
            state: LinkState::Probing,
            leads,
            since: now,
            rtt: None,
            sent: VecDeque::new(),
            last_pong: now,
            last_heard: now,
            next_ping: now,
            token: 0,
            answered: false,
        }
    }

    /// Whether this end pings.
    pub fn leads(&self) -> bool {
        self.leads
    }

    /// What a ping says of the one before.
    pub fn answered(&self) -> Option<Duration> {
        self.rtt().filter(|_| self.answered)
    }

    /// Where it stands.
    pub fn state(&self) -> LinkState {
        self.state
    }

    /// When it was made or came up.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// The smoothed round-trip time.
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt.map(|rtt| rtt.smoothed)
    }

    /// The round-trip time of the path without the waits of the moment: what
    /// routes are made of, so that a busy host makes no gossip.
    pub fn base_rtt(&self) -> Option<Duration> {
        self.rtt.map(|rtt| rtt.floor)
    }

    /// Something authentic came from the neighbour.
    pub fn heard(&mut self, now: Instant) {
        self.last_heard = now;
    }

    /// The other end pinged. `answered` is the round-trip time it measured, if
    /// it heard our last pong.
    pub fn pinged(&mut self, answered: Option<Duration>, config: &Config, now: Instant) {
        if self.leads || self.state == LinkState::Probing {
            return;
        }
        if let Some(sample) = answered {
            self.rtt = Some(
                self.rtt
                    .map_or_else(|| Rtt::first(sample), |rtt| rtt.with(sample)),
            );
            self.last_pong = now;
            self.sent.clear();
            self.input(Input::Pong, now);
            self.next_ping = now + config.heartbeat * 5 / 4;
        }
    }

    /// This end stood still for so long, and cannot blame the other for it.
    pub fn forgive(&mut self, pause: Duration, now: Instant) {
        self.last_pong = (self.last_pong + pause).min(now);
        self.last_heard = (self.last_heard + pause).min(now);
        self.sent.clear();
    }

    /// The session goes on over another path, which was just proven both ways:
    /// what stayed unanswered says nothing of it.
    pub fn moved(&mut self, now: Instant) {
        if !self.state.is_usable() {
            return;
        }
        (self.last_pong, self.last_heard) = (now, now);
        self.sent.clear();
        self.input(Input::Pong, now);
        self.next_ping = self.next_ping.min(now);
    }

    /// A pong came. Unknown tokens are ignored.
    pub fn pong(&mut self, token: u8, now: Instant) {
        let Some(at) = self.sent.iter().position(|(sent, _)| *sent == token) else {
            return;
        };
        let (_, sent) = self.sent[at];
        self.sent.drain(..=at);
        let sample = now.saturating_duration_since(sent);
        self.rtt = Some(
            self.rtt
                .map_or_else(|| Rtt::first(sample), |rtt| rtt.with(sample)),
        );
        self.last_pong = now;
        self.answered = true;
        self.input(Input::Pong, now);
    }

    /// Ends the link.
    pub fn bye(&mut self, now: Instant) {
        self.input(Input::Bye, now);
    }

    /// Does what is due. Returns the token of a ping to send. `jitter` is a
    /// random factor about 1: neighbours should not ping in step.
    pub fn handle_timeout(&mut self, jitter: f64, config: &Config, now: Instant) -> Option<u8> {
        if now >= self.expiry(config) {
            self.input(Input::Expired, now);
        } else if self.late(now) {
            if self.state == LinkState::Up {
                self.next_ping = now;
            }
            self.answered = false;
            self.input(Input::Missed, now);
        }
        if self.state == LinkState::Down || now < self.next_ping {
            return None;
        }
        if self.sent.len() == REMEMBERED {
            self.sent.pop_front();
        }
        let token = self.token;
        self.token = token.wrapping_add(1);
        self.sent.push_back((token, now));
        let pause = match self.state {
            LinkState::Up => config.heartbeat,
            LinkState::Suspect => config.urgent / 2,
            LinkState::Probing | LinkState::Down => config.urgent,
        };
        self.next_ping = now + pause.mul_f64(jitter);
        Some(token)
    }

    /// When something is due.
    pub fn deadline(&self, config: &Config) -> Instant {
        let due = self.next_ping.min(self.expiry(config));
        match (self.state, self.sent.front()) {
            (LinkState::Up, Some((_, sent))) => due.min(*sent + self.patience()),
            _ => due,
        }
    }

    fn input(&mut self, input: Input, now: Instant) {
        let before = self.state;
        self.state = before.step(input);
        if before == LinkState::Probing && self.state == LinkState::Up {
            self.since = now;
            self.next_ping = self.next_ping.max(now);
        }
    }

    fn late(&self, now: Instant) -> bool {
        self.state == LinkState::Up
            && self
                .sent
                .front()
                .is_some_and(|(_, sent)| now >= *sent + self.patience())
    }

    /// Held for late too soon, a pong costs one ping more; too late, and of a far
    /// neighbour too few pings are left before it is held for dead.
    fn patience(&self) -> Duration {
        self.rtt
            .map_or(PATIENCE_MIN, |rtt| {
                rtt.smoothed + (rtt.variation * 4).max(rtt.smoothed / 2)
            })
            .max(PATIENCE_MIN)
    }

    /// Down comes when neither pongs nor anything else arrives, or when pongs
    /// alone stay away for twice as long: then the way there is broken and only
    /// the way back works. Heavy loss alone must not look like either.
    fn expiry(&self, config: &Config) -> Instant {
        let dead = config
            .dead_after
            .max(self.rtt.map_or(Duration::ZERO, |rtt| rtt.smoothed * 6));
        if self.state == LinkState::Probing {
            return self.since + 2 * dead;
        }
        (self.last_pong.max(self.last_heard) + dead).min(self.last_pong + 2 * dead)
    }
}

/// Smoothed round-trip time and its variation (RFC 6298, section 2).
#[derive(Clone, Copy, Debug)]
struct Rtt {
    smoothed: Duration,
    variation: Duration,
    /// Follows the shortest samples: down at once, up slowly.
    floor: Duration,
}

impl Rtt {
    fn first(sample: Duration) -> Self {
        Self {
            smoothed: sample,
            variation: sample / 2,
            floor: sample,
        }
    }

    fn with(self, sample: Duration) -> Self {
        let error = self.smoothed.abs_diff(sample);
        Self {
            smoothed: (self.smoothed * 7 + sample) / 8,
            variation: (self.variation * 3 + error) / 4,
            floor: sample.min((self.floor * 31 + sample) / 32),
        }
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some instant to count from"
)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn every_state_answers_every_input() {
        use Input::{Bye, Expired, Missed, Pong};
        use LinkState::{Down, Probing, Suspect, Up};
        let table = [
            (Probing, [Up, Probing, Down, Down]),
            (Up, [Up, Suspect, Down, Down]),
            (Suspect, [Up, Suspect, Down, Down]),
            (Down, [Down, Down, Down, Down]),
        ];
        for (state, nexts) in table {
            for (input, next) in [Pong, Missed, Expired, Bye].into_iter().zip(nexts) {
                assert_eq!(state.step(input), next, "{state:?} {input:?}");
            }
        }
    }

    #[derive(Clone, Copy)]
    enum Datagram {
        Ping(Option<Duration>),
        Pong,
    }

    /// Two ends of a link in virtual time; returns when each went down.
    struct Pair {
        ends: [Link; 2],
        loss: [f64; 2],
        /// One way, in milliseconds.
        delay: std::ops::Range<u64>,
        flying: Vec<(Instant, usize, Datagram, u8)>,
        rng: ChaCha8Rng,
        now: Instant,
        sent: u32,
    }

    impl Pair {
        fn new(seed: u64, loss: f64) -> Self {
            let now = Instant::now();
            let ends = [Link::new(true, now), Link::new(false, now)];
            Self {
                ends,
                loss: [loss; 2],
                delay: 10..30,
                flying: vec![],
                rng: ChaCha8Rng::seed_from_u64(seed),
                now,
                sent: 0,
            }
        }

        fn send(&mut self, to: usize, datagram: Datagram, token: u8) {
            self.sent += 1;
            if !self.rng.random_bool(self.loss[to]) {
                let delay = Duration::from_millis(self.rng.random_range(self.delay.clone()));
                self.flying.push((self.now + delay, to, datagram, token));
            }
        }

        fn run(&mut self, time: Duration) {
            let (config, end) = (Config::default(), self.now + time);
            while self.now < end && self.ends.iter().all(|link| link.state() != LinkState::Down) {
                let timers = self.ends.iter().map(|link| link.deadline(&config));
                self.now = timers
                    .chain(self.flying.iter().map(|f| f.0))
                    .min()
                    .unwrap()
                    .max(self.now);
                let due = self.flying.iter().position(|f| f.0 <= self.now);
                if let Some((_, to, datagram, token)) = due.map(|at| self.flying.swap_remove(at)) {
                    self.ends[to].heard(self.now);
                    match datagram {
                        Datagram::Ping(answered) => {
                            self.ends[to].pinged(answered, &config, self.now);
                            self.send(1 - to, Datagram::Pong, token);
                        }
                        Datagram::Pong => self.ends[to].pong(token, self.now),
                    }
                    continue;
                }
                for end in 0..2 {
                    let jitter = self.rng.random_range(0.95..1.05);
                    if self.now >= self.ends[end].deadline(&config)
                        && let Some(token) =
                            self.ends[end].handle_timeout(jitter, &config, self.now)
                    {
                        let answered = self.ends[end].answered();
                        self.send(1 - end, Datagram::Ping(answered), token);
                    }
                }
            }
        }
    }

    #[test]
    fn five_percent_loss_raises_no_false_alarm_however_far_the_other_end_is() {
        for delay in [0..1, 10..30, 10..90, 70..80, 300..320] {
            for seed in 0..200 {
                let mut pair = Pair::new(seed, 0.0);
                pair.delay = delay.clone();
                pair.run(Duration::from_secs(10));
                pair.loss = [0.05; 2];
                pair.run(Duration::from_secs(30 * 60));
                assert!(
                    pair.ends.iter().all(|link| link.state().is_usable()),
                    "{delay:?} ms, seed {seed}"
                );
            }
        }
    }

    #[test]
    fn a_link_that_is_well_costs_two_datagrams_a_heartbeat() {
        let mut pair = Pair::new(3, 0.0);
        pair.run(Duration::from_secs(100));
        assert!((195..220).contains(&pair.sent), "{}", pair.sent);
        let [lead, other] = &pair.ends;
        let rtt = lead.base_rtt().unwrap();
        assert!(rtt.abs_diff(other.base_rtt().unwrap()) < rtt / 2);
    }

    #[test]
    fn an_end_that_stood_still_blames_nobody() {
        let mut pair = Pair::new(4, 0.0);
        pair.run(Duration::from_secs(10));
        let (pause, config) = (Duration::from_secs(10), Config::default());
        pair.now += pause;
        pair.ends[1].forgive(pause, pair.now);
        pair.ends[1].handle_timeout(1.0, &config, pair.now);
        assert!(pair.ends[1].state().is_usable());
    }

    #[test]
    fn silence_is_noticed_within_dead_after() {
        let mut pair = Pair::new(1, 0.0);
        pair.run(Duration::from_secs(10));
        assert_eq!(pair.ends[0].state(), LinkState::Up);
        pair.loss = [1.0; 2];
        let start = pair.now;
        pair.run(Duration::from_secs(10));
        assert!(pair.now - start <= Duration::from_millis(2100));
    }

    #[test]
    fn a_link_whose_path_is_another_is_not_blamed_for_the_former() {
        let mut pair = Pair::new(5, 0.0);
        pair.run(Duration::from_secs(10));
        pair.loss = [1.0; 2];
        while pair.ends.iter().all(|end| end.state() == LinkState::Up) {
            pair.run(Duration::from_millis(50));
        }
        let now = pair.now;
        pair.ends.iter_mut().for_each(|end| end.moved(now));
        pair.loss = [0.0; 2];
        pair.run(Duration::from_secs(10));
        assert!(pair.ends.iter().all(|end| end.state() == LinkState::Up));
        // It does not bring back what is over, nor vouch for what never began.
        for (state, input) in [(LinkState::Down, true), (LinkState::Probing, false)] {
            let mut link = Link::new(true, now);
            if input {
                link.bye(now);
            }
            link.moved(now);
            assert_eq!(link.state(), state);
        }
    }

    #[test]
    fn a_link_that_works_one_way_goes_down_at_both_ends() {
        for deaf in 0..2 {
            let mut pair = Pair::new(2, 0.0);
            pair.run(Duration::from_secs(10));
            pair.loss[deaf] = 1.0;
            let start = pair.now;
            pair.run(Duration::from_secs(20));
            assert_eq!(pair.ends[deaf].state(), LinkState::Down);
            assert!(pair.now - start <= Duration::from_millis(2100));
        }
    }
}
