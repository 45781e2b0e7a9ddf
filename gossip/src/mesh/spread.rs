//! How records spread: news at once over the links, differences by comparison.
//!
//! News are flooded as long as the copies cost little, since then the shortest
//! way wins and no loss matters. When copies cost more than is spared for them,
//! the links that bring them late are pruned: first down to three per peer, for
//! a random graph of degree three still holds together; then, if even that costs
//! too much, to two, and in a large mesh to one: nearly a tree, and not always in
//! one piece. So news begin in many places, over all links of their owner and of
//! its neighbours, and beats name them over the pruned links (see [`crate::news`]).

use std::time::{Duration, Instant};

use proto::{
    PeerId,
    message::{Beat, GossipMessage},
    record::{Record, RecordKey},
};

use super::{Mesh, Session};
use crate::{config::Authority, hash::digest, reconcile, sums::Scope};

/// Bytes of copies borne at once, before few and before the fewest links bring news.
pub(super) const SPARE_BURSTS: [u32; 2] = [4096, 8192];
/// Links that bring news, at least, while copies are not too dear for that.
const FEW: u8 = 3;
/// Repairs passed on as news: at once, and per second. More are a catching-up,
/// which the neighbours do for themselves.
pub(super) const REPAIR_BURST: u32 = 64;
const REPAIR_RATE: u32 = 32;
/// After so many repairs that were not passed on, the neighbours are told to compare.
/// Where much happens every comparison repairs a few that are on their way anyway:
/// if these began others, there would be no end of it.
const CAUGHT_UP: u32 = 64;
/// A neighbour that pushes all the same is asked again no sooner than this.
const PRUNE_AGAIN: Duration = Duration::from_secs(1);
/// After so long without another record a catching-up is over.
const FED: Duration = Duration::from_millis(300);
/// After a catching-up, neighbours are told to compare; spread over this.
const WAVE: Duration = Duration::from_millis(200);
/// A neighbour that is to bring us a lot has so long to begin.
const FEED: Duration = Duration::from_secs(1);
/// Nobody keeps all others waiting for longer.
const FEAST: Duration = Duration::from_secs(10);
/// A first comparison without an answer is repeated after this.
const UNANSWERED: Duration = Duration::from_millis(500);
/// A link is told of within this time.
const YOUNG: Duration = Duration::from_secs(10);
/// Digests of one beat that are looked at.
const NAMED: usize = 256;

impl<A: Authority> Mesh<A> {
    /// Queues news for all neighbours but the one it came from.
    pub(super) fn relay(&mut self, record: &Record, from: Option<PeerId>, now: Instant) {
        let (key, digest) = (record.key, digest(record));
        let (mut any, mut lazy) = (false, false);
        let size = record.encoded_len() as u32;
        let calm = self.is_calm(size, now);
        let near = from.is_none_or(|from| from == key.owner);
        for (peer, session) in &mut self.sessions {
            let usable = session
                .link
                .as_ref()
                .is_some_and(|link| link.state().is_usable());
            let readable = session.info.scope.has(key.topic);
            if !usable || !readable || Some(*peer) == from || *peer == key.owner {
                continue;
            }
            let pruned = session.is_lazy(now);
            lazy |= pruned;
            if calm || !pruned || near {
                session.outbox.tell(key);
                any = true;
            }
        }
        self.news.see(digest);
        if lazy {
            let from = from.and_then(|peer| self.replica.slot(&peer));
            self.news.add(digest, key, from, now);
        }
        if any && (calm || near) {
            self.flush_soon(now);
        } else if any {
            let at = now + self.config.batch_delay;
            self.timers.flush.get_or_insert(at);
        }
    }

    /// Whether little happens; spends so many bytes of the store that says so.
    fn is_calm(&mut self, size: u32, now: Instant) -> bool {
        let (burst, rate) = self.pace().calm;
        self.calm.drain(size, burst, rate, now) >= burst / 2
    }

    /// Passes on a record that was accepted.
    pub(super) fn pass_on(&mut self, record: &Record, from: PeerId, fresh: bool, now: Instant) {
        if fresh || self.repairs.take(REPAIR_BURST, REPAIR_RATE, now) {
            self.relay(record, Some(from), now);
        } else {
            self.kept_back += 1;
            if self.kept_back >= CAUGHT_UP {
                self.timers.wave = Some(now + WAVE);
            }
        }
        if !fresh && self.fed_by.is_some_and(|(feeder, _)| feeder == from) {
            self.feed(from, FED, now);
        }
    }

    /// A neighbour brought news that were none.
    pub(super) fn copy_came(&mut self, from: PeerId, record: &Record, now: Instant) {
        self.news.see(digest(record));
        // While little happens copies are meant to come, and cost nothing to speak of.
        if record.key.owner == from || self.is_calm(0, now) {
            return;
        }
        let size = record.encoded_len() as u32;
        let pace = *self.pace();
        let rates = [self.config.spare, pace.spare];
        let [soft, hard] =
            std::array::from_fn(|i| self.spare[i].take_many(size, SPARE_BURSTS[i], rates[i], now));
        let (keep, pause) = match (soft, hard) {
            (true, _) => return,
            (false, true) => (FEW, self.config.prune_for),
            (false, false) => (pace.fewest, pace.prune_for),
        };
        let others = self.eager_but(&from, now);
        let seconds = u8::try_from(self.jittered(pause).as_secs()).unwrap_or(u8::MAX);
        let Some(session) = self.sessions.get_mut(&from) else {
            return;
        };
        if others < usize::from(keep) || now < session.pruned_at + PRUNE_AGAIN {
            return;
        }
        session.lazy_until = Some(now + Duration::from_secs(seconds.into()));
        session.pruned_at = now;
        session.told = self.news.end();
        session.outbox.prune(seconds, keep);
        self.flush_soon(now);
    }

    /// How many links bring news, this one not counted.
    fn eager_but(&self, peer: &PeerId, now: Instant) -> usize {
        let is_eager = |session: &Session| {
            let usable = session
                .link
                .as_ref()
                .is_some_and(|link| link.state().is_usable());
            usable && !session.is_lazy(now)
        };
        let others = self.sessions.iter().filter(|(other, _)| *other != peer);
        others.filter(|(_, session)| is_eager(session)).count()
    }

    /// A neighbour wants no pushes. It gets them all the same if without them
    /// we would be cut off from news.
    pub(super) fn receive_prune(&mut self, from: PeerId, seconds: u8, keep: u8, now: Instant) {
        let until = now + Duration::from_secs(seconds.into());
        let (end, others) = (self.news.end(), self.eager_but(&from, now));
        let Some(session) = self.sessions.get_mut(&from) else {
            return;
        };
        if others < usize::from(keep.min(FEW)) {
            session.outbox.graft(true, []);
            self.flush_soon(now);
        } else {
            session.lazy_until = Some(until);
            session.told = end;
        }
    }

    /// A neighbour wants what it missed, and perhaps pushes from now on.
    pub(super) fn receive_graft(
        &mut self,
        from: PeerId,
        resume: bool,
        digests: &[u32],
        now: Instant,
    ) {
        let keys = self.news.keys(&digests[..digests.len().min(NAMED)]);
        if let Some(session) = self.sessions.get_mut(&from) {
            if resume {
                session.lazy_until = None;
            }
            keys.into_iter().for_each(|key| session.outbox.tell(key));
            self.flush_soon(now);
        }
    }

    /// A way by which news came is gone: all others bring them again.
    pub(super) fn graft_all(&mut self, now: Instant) {
        let mut any = false;
        for session in self.sessions.values_mut() {
            if session.lazy_until.take().is_some_and(|until| now < until) {
                session.outbox.graft(true, []);
                any = true;
            }
        }
        if any {
            self.flush_soon(now);
        }
    }

    /// What to say of our replica in a ping or pong.
    pub(super) fn beat(&mut self, to: &PeerId, now: Instant) -> Beat {
        let fingerprint = self.fingerprint_in_short(to);
        let ripe = self.pace().ripe;
        let news = match self.sessions.get_mut(to) {
            Some(session) if session.is_lazy(now) => {
                let slot = self.replica.slot(to);
                self.news.name(&mut session.told, slot, ripe, now)
            }
            Some(_) | None => Vec::new(),
        };
        Beat { fingerprint, news }
    }

    /// Of what a neighbour can read.
    fn fingerprint_in_short(&self, peer: &PeerId) -> [u8; 2] {
        let scope = self
            .sessions
            .get(peer)
            .map_or(Scope::ALL, |session| session.info.scope);
        let [.., a, b] = self.replica.sum(scope).fingerprint.to_be_bytes();
        [a, b]
    }

    fn is_young(&self, peer: &PeerId, now: Instant) -> bool {
        let link = self.sessions.get(peer).and_then(|s| s.link.as_ref());
        link.is_some_and(|link| now < link.since() + YOUNG)
    }

    /// What a neighbour says of its replica.
    pub(super) fn receive_beat(&mut self, from: PeerId, beat: &Beat, now: Instant) {
        let ours = self.fingerprint_in_short(&from);
        // What both hear of cancels out, so a record that one side lacks shows as long
        // as it does, whatever else happens.
        let difference = [0, 1].map(|i| beat.fingerprint[i] ^ ours[i]);
        // Whoever holds what the other end does has its side of the link. But that of a
        // young one may have been told, and lost, since the beat left.
        if difference != [0, 0] || self.is_young(&from, now) {
            self.ask_for_link(&from, now);
        }
        let named = &beat.news[..beat.news.len().min(NAMED)];
        let missing = named.iter().filter(|digest| !self.news.has_seen(**digest));
        let missing: Vec<u32> = missing.copied().collect();
        let patient = self.pace().patient;
        let Some(session) = self.sessions.get_mut(&from) else {
            return;
        };
        // What is missing mostly means that no way is left by which it comes.
        let most = 2 * missing.len() > named.len();
        let before = std::mem::replace(&mut session.missed_most, most);
        let resume = !patient || (most && before);
        session.missed_most &= most || named.is_empty();
        if !missing.is_empty() {
            if resume {
                session.lazy_until = None;
            }
            session.outbox.graft(resume, missing);
            self.timers
                .flush
                .get_or_insert(now + self.config.push_delay);
        }
        let leads = session.link.as_ref().is_some_and(|link| link.leads());
        if difference == [0, 0] {
            session.differed = None;
        } else if session.differed.replace(difference) == Some(difference) && leads {
            let at = *session.summary_at.get_or_insert(now);
            self.timers.session_due(at, "summary");
        }
    }

    /// Starts rounds of anti-entropy that are due.
    pub(super) fn run_anti_entropy(&mut self, now: Instant) {
        if self.timers.wave.is_some_and(|at| at <= now) {
            // As long as more of it comes, each round would find most of it again.
            let fed = self.fed_by.map(|(_, until)| until);
            self.timers.wave = fed.filter(|until| now < *until);
            if self.timers.wave.is_none() {
                self.kept_back = 0;
                self.compare_with_all(now);
            }
        }
        if now >= self.timers.anti_entropy {
            self.timers.anti_entropy = now + self.jittered(self.pace().anti_entropy);
            self.kept_back = 0;
            let linked: Vec<PeerId> = self.linked().collect();
            let at = self.random_index(linked.len());
            if let Some(session) = linked.get(at).and_then(|peer| self.sessions.get_mut(peer)) {
                session.summary_at = Some(now);
                self.timers.session_due(now, "summary");
            }
        }
        if self.timers.is_session_due(now) {
            self.start_comparisons(now);
        }
        for (peer, key) in self.wants.overdue(now) {
            if let Some(session) = self.sessions.get_mut(&peer) {
                session.outbox.want([key]);
                self.timers
                    .flush
                    .get_or_insert(now + self.config.push_delay);
            }
        }
    }

    /// Begins the comparisons that are due, but none while another brings a lot: it
    /// would find all that is still to come.
    fn start_comparisons(&mut self, now: Instant) {
        let fed = self.fed_by.filter(|(_, until)| now < *until);
        let mut any = false;
        for (peer, session) in &mut self.sessions {
            if session.summary_at.is_none_or(|at| at > now) {
                continue;
            }
            if let Some((_, until)) = fed.filter(|(feeder, _)| feeder != peer) {
                session.summary_at = Some(until);
                self.timers.session_due(until, "summary");
                continue;
            }
            session.greetings = session.greetings.saturating_sub(1);
            session.summary_at = (session.greetings > 0).then(|| now + UNANSWERED);
            let root = reconcile::root(&self.replica, session.info.scope);
            session.outbox.summarise([root]);
            any = true;
        }
        if any {
            self.flush_soon(now);
        }
    }

    /// A neighbour compares, so that we need not begin. But if most are out of our
    /// reach, it will find more once they are.
    pub(super) fn note_compared(&mut self, from: &PeerId) {
        let waits = self.absent.len() > self.ways.reached();
        if let Some(session) = self.sessions.get_mut(from)
            && session.greetings > 0
            && !waits
        {
            session.greetings = 0;
            session.summary_at = None;
        }
    }

    /// Much has come from one neighbour: the others may lack it, or have more.
    fn compare_with_all(&mut self, now: Instant) {
        let linked: Vec<PeerId> = self.linked().collect();
        for peer in linked {
            let at = now + self.jittered(WAVE / 2);
            if let Some(session) = self.sessions.get_mut(&peer) {
                let at = *session.summary_at.get_or_insert(at);
                self.timers.session_due(at, "summary");
            }
        }
    }

    /// Whether a neighbour may bring us a lot now: not while another does.
    pub(super) fn may_feed(&mut self, peer: PeerId, now: Instant) -> bool {
        let busy = |(feeder, until): (PeerId, Instant)| feeder != peer && now < until;
        // After its feast the others come first: else whoever only claims to have much
        // keeps them waiting for ever.
        let over = self.fed_since + FEAST;
        let sated = |(feeder, _): (PeerId, Instant)| {
            feeder == peer && now >= over && now < over + FEED && self.linked().nth(1).is_some()
        };
        if self.fed_by.is_some_and(|fed| busy(fed) || sated(fed)) {
            if let Some(session) = self.sessions.get_mut(&peer) {
                let at = *session.summary_at.get_or_insert(now + FED * 2);
                self.timers.session_due(at, "summary");
            }
            return false;
        }
        self.feed(peer, FEED, now);
        true
    }

    /// A neighbour brings us a lot, for so long at least. All others wait meanwhile, so
    /// that must end, whatever it goes on bringing.
    pub(super) fn feed(&mut self, peer: PeerId, time: Duration, now: Instant) {
        let goes_on = |(feeder, until): (PeerId, Instant)| feeder == peer && now < until;
        if !self.fed_by.is_some_and(goes_on) {
            self.fed_since = now;
        }
        self.fed_by = Some((peer, (now + time).min(self.fed_since + FEAST)));
    }

    pub(super) fn flush_soon(&mut self, now: Instant) {
        let at = now + self.config.push_delay;
        self.timers.flush = Some(self.timers.flush.map_or(at, |flush| flush.min(at)));
    }

    /// Sends what waits, as much as the pace allows, by turns.
    pub(super) fn flush(&mut self, now: Instant) {
        self.timers.flush = None;
        let waiting = self.sessions.values().filter(|s| !s.outbox.is_empty());
        let share = self.config.burst / waiting.count().max(1);
        let mut rest = false;
        for (peer, session) in &mut self.sessions {
            for _ in 0..share.max(1) {
                let (scope, pushed) = (session.info.scope, &mut self.counters.pushed);
                let Some(message) = session.outbox.next(&self.replica, scope, pushed) else {
                    break;
                };
                self.out.push_back((*peer, message));
            }
            rest |= !session.outbox.is_empty();
        }
        if rest {
            self.flush_soon(now);
        }
    }

    /// Tells somebody who is no neighbour about peers.
    pub(super) fn refer(&mut self, peer: PeerId, keys: impl IntoIterator<Item = RecordKey>) {
        let mut referral = crate::outbox::Outbox::default();
        keys.into_iter().for_each(|key| referral.repair(key));
        let pushed = &mut self.counters.pushed;
        while let Some(message) = referral.next(&self.replica, Scope::of(0), pushed) {
            self.out.push_back((peer, message));
        }
    }

    /// Answers for a link that is pinged.
    pub(super) fn pong(&mut self, to: PeerId, token: u8, now: Instant) {
        let beat = self.beat(&to, now);
        self.out
            .push_back((to, GossipMessage::Pong { token, beat }));
    }
}
