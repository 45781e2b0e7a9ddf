//! What is done because time passes: timers, routes, ageing.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use proto::PeerId;

use super::{Mesh, Session, turn};
use crate::{
    config::{Authority, Config},
    event::Event,
    routes::{Reach, Routes},
};

/// Changes of links wait so long for others before routes are calculated.
const ROUTES_DELAY: Duration = Duration::from_millis(10);
/// Calculations are spaced by this per known peer, so that they never take a large share of the time.
const ROUTES_SPACING: Duration = Duration::from_micros(100);
/// The longest spacing while few ways are cut.
const ROUTES_SPACING_MAX: Duration = Duration::from_millis(250);
/// The longest one, in a storm: half a large mesh is gone, and everybody says so.
const ROUTES_SPACING_STORM: Duration = Duration::from_secs(1);
/// Published round-trip times are looked at so often.
const REFRESH_RTT: Duration = Duration::from_secs(5);
/// Records of somebody to whom no way was ever found are compared for so long:
/// the records that make the way may be the next ones.
const FOUND: Duration = Duration::from_secs(10);
/// Ages are looked at so often, or oftener if they are short.
const UPKEEP: Duration = Duration::from_secs(10);

/// When things are due.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timers {
    pub(super) flush: Option<Instant>,
    pub(super) links: Option<Instant>,
    /// When new links were published last.
    pub(super) links_done: Option<Instant>,
    pub(super) stations: Option<Instant>,
    pub(super) names: Option<Instant>,
    pub(super) space: Option<Instant>,
    pub(super) routes: Option<Instant>,
    pub(super) routes_done: Instant,
    /// Ways that the last calculation cut.
    pub(super) routes_cut: u32,
    /// Sums go to all neighbours, because much came in from one.
    pub(super) wave: Option<Instant>,
    pub(super) anti_entropy: Instant,
    pub(super) refresh_rtt: Instant,
    pub(super) upkeep: Instant,
    /// No ping and no comparison is due before this. It may be too early, for what is
    /// due later than before is only noticed then: most answers put off a ping.
    pub(super) sessions: Option<(Instant, &'static str)>,
}

impl Timers {
    pub(super) fn new(config: &Config, now: Instant) -> Self {
        Self {
            flush: None,
            links: None,
            links_done: None,
            stations: None,
            names: None,
            space: None,
            routes: None,
            routes_done: now,
            routes_cut: 0,
            wave: None,
            anti_entropy: now + config.pace.anti_entropy,
            refresh_rtt: now,
            upkeep: now,
            sessions: None,
        }
    }

    /// Something is due at a session then.
    pub(super) fn session_due(&mut self, at: Instant, what: &'static str) {
        self.sessions = soonest([self.sessions, Some((at, what))]);
    }

    /// Whether something may be due at a session.
    pub(super) fn is_session_due(&self, now: Instant) -> bool {
        self.sessions.is_some_and(|(at, _)| at <= now)
    }
}

/// The first of several things that are due.
fn soonest(
    due: impl IntoIterator<Item = Option<(Instant, &'static str)>>,
) -> Option<(Instant, &'static str)> {
    due.into_iter().flatten().min_by_key(|(at, _)| *at)
}

impl<A: Authority> Mesh<A> {
    pub(super) fn next_due(&self) -> Option<(Instant, &'static str)> {
        let timers = &self.timers;
        let fixed = [
            (timers.flush, "push"),
            (timers.links, "links record"),
            (timers.stations, "stations record"),
            (timers.names, "names record"),
            (timers.space, "address space"),
            (timers.routes, "routes"),
            (timers.wave, "comparison with all"),
            (Some(timers.anti_entropy), "anti-entropy"),
            (Some(timers.refresh_rtt), "round-trip times"),
            (Some(timers.upkeep), "upkeep"),
            (Some(self.neighbours.deadline()), "neighbours"),
            (self.dialer.deadline(&self.config), "targets"),
            (self.wants.deadline(), "wants"),
        ];
        debug_assert!(
            soonest([timers.sessions, self.sessions_due()]) == timers.sessions,
            "something at a session would be overlooked"
        );
        let fixed = fixed.map(|(at, what)| Some((at?, what)));
        soonest(fixed.into_iter().chain([timers.sessions]))
    }

    /// What is due first at any session.
    fn sessions_due(&self) -> Option<(Instant, &'static str)> {
        soonest(self.sessions.values().map(|session| self.due_at(session)))
    }

    fn due_at(&self, session: &Session) -> Option<(Instant, &'static str)> {
        let link = session.link.as_ref();
        let ping = link.map(|link| (link.deadline(&self.config), "ping"));
        soonest([ping, session.summary_at.map(|at| (at, "summary"))])
    }

    /// Something may be due sooner at a session.
    pub(super) fn look_at_session(&mut self, peer: &PeerId) {
        let session = self.sessions.get(peer);
        if let Some((at, what)) = session.and_then(|session| self.due_at(session)) {
            self.timers.session_due(at, what);
        }
    }

    pub(super) fn run_due(&mut self, now: Instant) {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        self.run_links(now);
        self.run_anti_entropy(now);
        if now >= self.timers.refresh_rtt {
            self.timers.refresh_rtt = now + REFRESH_RTT;
            self.timers.links.get_or_insert(now);
        }
        if is_due(self.timers.links) {
            self.publish_links(now);
        }
        if is_due(self.timers.stations) {
            self.publish_stations(now);
        }
        if is_due(self.timers.names) {
            self.publish_names(now);
        }
        if now >= self.timers.upkeep {
            self.upkeep(now);
        }
        if is_due(self.timers.routes) {
            self.calculate_routes(now);
        }
        if is_due(self.timers.space) {
            self.run_space(now);
        }
        if is_due(self.dialer.deadline(&self.config)) {
            self.dial_targets(now);
        }
        if now >= self.neighbours.deadline() {
            self.review_neighbours(now);
        }
        if is_due(self.timers.flush) {
            self.flush(now);
        }
        if self.timers.is_session_due(now) {
            self.timers.sessions = self.sessions_due();
        }
    }

    pub(super) fn calculate_routes_soon(&mut self, now: Instant) {
        let spacing = (ROUTES_SPACING * self.replica.owner_count() as u32).min(ROUTES_SPACING_MAX);
        let storm = (ROUTES_SPACING * self.timers.routes_cut).min(ROUTES_SPACING_STORM);
        let spacing = spacing.max(storm);
        let at = (now + ROUTES_DELAY).max(self.timers.routes_done + spacing);
        self.timers.routes.get_or_insert(at);
    }

    /// Finds out who can be reached now. Whoever cannot is left out of comparisons
    /// at once: who can be reached follows from the records alone, so peers that
    /// compare leave out the same ones, and nobody's clock decides when those who
    /// are gone are no longer told of.
    pub(super) fn calculate_routes(&mut self, now: Instant) {
        self.timers.routes = None;
        self.timers.routes_done = now;
        if !self.ways.is_stale() {
            return;
        }
        self.counters.route_runs += 1;
        self.graph = OnceLock::new();
        let reach = self.ways.update(&self.replica);
        self.timers.routes_cut = u32::try_from(reach.cut).unwrap_or(u32::MAX);
        for slot in &reach.gained {
            let peer = self.replica.id(*slot);
            self.absent.remove(&peer);
            self.neighbours.found(&peer);
            self.replica.set_hidden(*slot, false);
            self.recognise(&peer, now);
        }
        for slot in &reach.lost {
            let peer = self.replica.id(*slot);
            self.absent.cut(peer, now);
            self.dialer.lost(&peer, &mut turn!(self, now));
            self.replica.set_hidden(*slot, true);
        }
        self.reach_changed(&reach);
        self.neighbours.review_soon(now);
        self.touch_space(now);
        self.events.push_back(Event::RoutesChanged);
    }

    fn reach_changed(&mut self, changed: &Reach) {
        let (replica, ways) = (&self.replica, &self.ways);
        let slots = changed.gained.iter().chain(&changed.lost);
        let peers: Vec<PeerId> = slots.map(|slot| replica.id(*slot)).collect();
        let reach = |peer: &PeerId| Routes { replica, ways }.reaches(peer);
        self.claims.reach_changed(&peers, reach);
        for peer in &peers {
            self.directory.reach_changed(peer, reach(peer));
        }
    }

    /// Lets old things go: peers long cut off, silent stations, spent budgets.
    fn upkeep(&mut self, now: Instant) {
        let age = self.config.peer_age;
        self.timers.upkeep = now
            + UPKEEP
                .min(age / 8)
                .min(self.config.station_age / 4)
                .max(ROUTES_DELAY);
        let absent: Vec<(PeerId, Instant)> = self.absent.iter().collect();
        for (peer, since) in absent {
            let lost = now.saturating_duration_since(since);
            if lost >= age {
                self.drop_peer(peer);
            } else if lost >= FOUND
                && let Some(slot) = self.replica.slot(&peer)
            {
                self.replica.set_hidden(slot, true);
            }
        }
        if self.stations.expire(self.config.station_age, now) {
            self.stations_changed(now);
        }
    }

    /// Notices that this peer itself stood still, and does not blame others for
    /// what it missed (self-suspicion; Dadgar, Phillips and Currey, "Lifeguard",
    /// 2018). Each link is heard at least once a heartbeat.
    pub(super) fn wake(&mut self, now: Instant) {
        let pause = now.saturating_duration_since(self.awake);
        self.awake = now;
        if pause > self.config.heartbeat * 3 / 2 {
            for link in self.sessions.values_mut().filter_map(|s| s.link.as_mut()) {
                link.forgive(pause, now);
            }
        }
    }

    /// Forgets a peer that no route leads to.
    pub(super) fn drop_peer(&mut self, peer: PeerId) {
        tracing::debug!(%peer, "out of reach for too long: forgotten");
        self.absent.remove(&peer);
        let Some(slot) = self.replica.slot(&peer) else {
            return;
        };
        if let Some(node) = self.replica.node(slot) {
            self.neighbours.keep_in_reserve(peer, node, &mut self.rng);
        }
        self.claims.remove(&peer);
        self.directory.remove(&peer);
        self.forget_in_space(peer);
        self.ways.forget(slot);
        self.replica.remove_owner(slot);
    }
}
