//! What must hold, and what a test may ask.

use std::time::{Duration, Instant};

use proto::PeerId;
use wove::engine::{
    Status,
    status::{ConnectionStatus, PathKind, StationStatus},
};

use super::{ledger::Audience, world::World};

/// A frame that is younger may still be under way.
const UNDER_WAY: Duration = Duration::from_millis(400);

impl World {
    /// The whole state of a running peer.
    pub fn status(&self, host: usize) -> Status {
        match &self.nodes[host].running {
            Some(peer) => peer.router.status(self.now),
            None => self.fail(&format!("peer {host} does not run")),
        }
    }

    /// The connection of one peer with another, if it has one.
    pub fn connection(&self, host: usize, other: usize) -> Option<ConnectionStatus> {
        let id = self.nodes[other].id();
        let connections = self.status(host).connections.into_iter();
        connections.into_iter().find(|c| c.peer == id)
    }

    /// Whether two peers are neighbours, in the view of both.
    pub fn linked(&self, a: usize, b: usize) -> bool {
        let link = |a, b| self.connection(a, b).is_some_and(|c| c.link);
        link(a, b) && link(b, a)
    }

    /// The present number in the ledger: what is sent from here on.
    pub fn mark(&self) -> u64 {
        self.ledger.next()
    }

    /// Frames sent since a mark that did not arrive everywhere they should, as
    /// (sender, receiver, when sent). A broadcast should come to all that run.
    pub fn lost_since(&self, mark: u64) -> Vec<(usize, usize, Instant)> {
        let alive = self.alive();
        let mut lost = Vec::new();
        let due = |at: Instant| at + UNDER_WAY <= self.now;
        for (_, sent) in self.ledger.since(mark).filter(|(_, sent)| due(sent.at)) {
            let due: Vec<usize> = match sent.to {
                Audience::Host(host) => vec![host],
                Audience::Everybody => alive.iter().copied().filter(|n| *n != sent.from).collect(),
            };
            let missing = due.into_iter().filter(|n| sent.arrival(*n).is_none());
            lost.extend(missing.map(|n| (sent.from, n, sent.at)));
        }
        lost
    }

    /// Every frame sent since a mark arrived.
    pub fn assert_delivered_since(&mut self, mark: u64) -> &mut Self {
        let lost = self.lost_since(mark);
        if let Some((from, to, at)) = lost.first() {
            let start = self.now - self.elapsed();
            let last = lost.last().map(|(.., at)| *at - start);
            self.fail(&format!(
                "{} of {} frames were lost, the first from {from} to {to} at {:?}, the last at {last:?}",
                lost.len(),
                self.mark() - mark,
                *at - start
            ));
        }
        self
    }

    /// Every frame ever sent arrived.
    pub fn assert_all_delivered(&mut self) -> &mut Self {
        self.assert_delivered_since(0)
    }

    /// Now everybody reaches everybody, and everybody's shouts come to all.
    pub fn assert_full_reach(&mut self) -> &mut Self {
        let mark = self.mark();
        self.try_full_reach();
        self.assert_delivered_since(mark)
    }

    /// Everybody sends to everybody, and shouts; returns how many frames were lost.
    pub fn try_full_reach(&mut self) -> usize {
        let mark = self.mark();
        self.ping_all().run_for(Duration::from_secs(1));
        for host in self.alive() {
            self.shout(host);
        }
        self.run_for(Duration::from_secs(1));
        self.lost_since(mark).len()
    }

    /// How frames travel from one peer to another.
    pub fn assert_path(&mut self, host: usize, other: usize, path: PathKind) -> &mut Self {
        let found = self.connection(host, other).map(|c| c.path);
        if found != Some(path) {
            self.fail(&format!(
                "the path from {host} to {other} is {found:?}, not {path:?}"
            ));
        }
        self
    }

    /// Two peers are neighbours, or are not.
    pub fn assert_linked(&mut self, a: usize, b: usize, expected: bool) -> &mut Self {
        if self.linked(a, b) != expected {
            self.fail(&format!(
                "{a} and {b} are linked: {}, expected: {expected}",
                !expected
            ));
        }
        self
    }

    /// All running peers place stations alike.
    pub fn assert_stations_agree(&mut self) -> &mut Self {
        let view = |host: usize| -> Vec<StationStatus> { self.status(host).stations };
        let alive = self.alive();
        let Some((first, others)) = alive.split_first() else {
            return self;
        };
        let expected = view(*first);
        if let Some(other) = others.iter().find(|other| view(**other) != expected) {
            self.fail(&format!(
                "peers {first} and {other} place stations differently"
            ));
        }
        self
    }

    /// No link went down since an instant, in anybody's view.
    pub fn assert_no_link_lost_since(&mut self, since: Instant) -> &mut Self {
        for node in &self.nodes {
            let down = |(at, peer, reason): &(Instant, PeerId, Option<String>)| {
                (*at >= since).then(|| reason.as_ref().map(|why| format!("{peer}: {why}")))?
            };
            if let Some(what) = node.links.iter().find_map(down) {
                self.fail(&format!("peer {} lost a link with {what}", node.number));
            }
        }
        self
    }

    /// Warnings of a host that hold a text.
    pub fn warnings(&self, host: usize, text: &str) -> usize {
        let warnings = self.nodes[host].warnings.iter();
        warnings.filter(|w| w.contains(text)).count()
    }

    /// Runs until something holds; fails if it does not within `limit`.
    pub fn run_until(
        &mut self,
        what: &str,
        limit: Duration,
        done: impl Fn(&Self) -> bool,
    ) -> Duration {
        let start = self.now;
        while !done(self) {
            if self.now - start >= limit {
                self.fail(&format!("not within {limit:?}: {what}"));
            }
            self.run_for(Duration::from_millis(50));
        }
        self.now - start
    }
}
