//! What is done because time passes: timers, routes, ageing.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use proto::PeerId;

use super::Mesh;
use crate::{config::Authority, event::Event, routes::Routes};

/// Changes of links wait so long for others before routes are calculated.
const ROUTES_DELAY: Duration = Duration::from_millis(10);
/// Calculations are spaced by this per known peer, so that they never take a large share of the time.
const ROUTES_SPACING: Duration = Duration::from_micros(100);
/// The longest spacing.
const ROUTES_SPACING_MAX: Duration = Duration::from_millis(250);
/// Published round-trip times are looked at so often.
const REFRESH_RTT: Duration = Duration::from_secs(5);
/// Ages are looked at so often, or oftener if they are short.
const UPKEEP: Duration = Duration::from_secs(10);

impl<A: Authority> Mesh<A> {
    pub(super) fn next_due(&self) -> Option<(Instant, &'static str)> {
        let timers = &self.timers;
        let fixed = [
            (timers.flush, "push"),
            (timers.links, "links record"),
            (timers.stations, "stations record"),
            (timers.routes, "routes"),
            (Some(timers.anti_entropy), "anti-entropy"),
            (Some(timers.refresh_rtt), "round-trip times"),
            (Some(timers.upkeep), "upkeep"),
            (Some(self.neighbours.deadline()), "neighbours"),
            (self.dialer.deadline(&self.config), "targets"),
            (self.wants.deadline(), "wants"),
        ];
        let links = self.sessions.values().flat_map(|session| {
            let ping = session
                .link
                .as_ref()
                .map(|link| link.deadline(&self.config));
            [(ping, "ping"), (session.summary_at, "summary")]
        });
        let due = fixed
            .into_iter()
            .chain(links)
            .filter_map(|(at, what)| Some((at?, what)));
        due.min_by_key(|(at, _)| *at)
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
        if now >= self.timers.upkeep {
            self.upkeep(now);
        }
        if is_due(self.timers.routes) {
            self.calculate_routes(now);
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
    }

    pub(super) fn calculate_routes_soon(&mut self, now: Instant) {
        let spacing = (ROUTES_SPACING * self.members.len() as u32).min(ROUTES_SPACING_MAX);
        let at = (now + ROUTES_DELAY).max(self.timers.routes_done + spacing);
        self.timers.routes.get_or_insert(at);
    }

    pub(super) fn calculate_routes(&mut self, now: Instant) {
        self.timers.routes = None;
        self.timers.routes_done = now;
        let graph = self.topology.graph();
        if graph == *self.routes.graph() {
            return;
        }
        self.counters.route_runs += 1;
        let routes = Arc::new(Routes::new(self.local.id, graph));
        let before = std::mem::replace(&mut self.routes, Arc::clone(&routes));
        self.reachable = routes.reachable().count();
        for index in 0..routes.graph().len() {
            let peer = routes.graph().peer(index);
            let reached = routes.reaches(&peer);
            if reached != before.reaches(&peer) {
                self.reach_changed(peer, reached, now);
            }
        }
        self.neighbours.review_soon(now);
        self.events.push_back(Event::RoutesChanged);
    }

    fn reach_changed(&mut self, peer: PeerId, reached: bool, now: Instant) {
        let (local, routes) = (self.local.id, Arc::clone(&self.routes));
        if reached {
            self.members.joined(&peer);
            self.replica.set_hidden(&peer, false);
        } else {
            self.members.cut(peer, now);
        }
        self.claims
            .reach_changed(&peer, |peer| *peer == local || routes.reaches(peer));
    }

    /// Lets old things go: peers long cut off, silent stations, spent budgets.
    fn upkeep(&mut self, now: Instant) {
        let age = self.config.peer_age;
        self.timers.upkeep = now
            + UPKEEP
                .min(age / 8)
                .min(self.config.station_age / 4)
                .max(ROUTES_DELAY);
        let cut_off: Vec<(PeerId, Instant)> = self
            .members
            .cut_off()
            .iter()
            .map(|(p, at)| (*p, *at))
            .collect();
        for (peer, since) in cut_off {
            let lost = now.saturating_duration_since(since);
            if lost >= age {
                self.drop_peer(peer, now);
            } else if lost >= age / 2 {
                // Those who forget it first must not be told of it again by us.
                self.replica.set_hidden(&peer, true);
            }
        }
        if self.stations.expire(self.config.station_age, now) {
            self.stations_changed(now);
        }
        let (burst, rate) = (self.config.owner_burst, self.config.owner_rate);
        self.budgets
            .retain(|_, bucket| !bucket.is_full(burst, rate, now));
    }

    fn drop_peer(&mut self, peer: PeerId, now: Instant) {
        tracing::debug!(%peer, "cut off for too long: forgotten");
        if let Some(member) = self.members.remove(&peer) {
            self.neighbours.keep_in_reserve(peer, &member);
        }
        self.replica.remove_owner(&peer);
        self.claims.remove(&peer);
        if self.topology.remove(&peer) {
            self.calculate_routes_soon(now);
        }
    }
}
