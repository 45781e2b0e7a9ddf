//! Sessions come, move and go; what becomes of the links over them follows.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use proto::{PeerId, message::ByeReason};

use super::{Dialling, Mesh, Session};
use crate::{
    bucket::TokenBucket,
    config::{Authority, SessionInfo},
    event::{DownReason, Event},
    mesh::receive::CHECK_BURST,
    neighbours::own_links,
    outbox::Outbox,
    reconcile::Given,
};

impl<A: Authority> Mesh<A> {
    /// A direct, authenticated session exists, or was replaced by a new one.
    pub fn session_opened(&mut self, peer: PeerId, info: SessionInfo, now: Instant) {
        let dialled = info.dial.and_then(|dial| self.dials.remove(&dial));
        let ordered = matches!(dialled, Some(Dialling::Target(_)));
        let sought = dialled.is_some();
        match dialled {
            Some(Dialling::Target(target)) => {
                self.target_answered(&target, peer, now);
                self.neighbours.remember(&peer);
                self.events.push_back(Event::TargetsChanged);
            }
            Some(Dialling::Peer(expected)) if expected != peer => {
                self.attempt_failed(expected, true, now)
            }
            Some(Dialling::Peer(_)) | None => {}
        }
        if peer == self.local.id {
            self.events.push_back(Event::CloseSession(peer));
            return;
        }
        self.neighbours.reached(&peer);
        if let Some(session) = self.sessions.get_mut(&peer) {
            session.info = info;
        } else {
            let checks = TokenBucket::full(CHECK_BURST, now);
            let session = Session {
                info,
                link: None,
                outbox: Outbox::default(),
                given: Given::default(),
                summary_at: None,
                greetings: 0,
                lazy_until: None,
                pruned_at: self.start,
                told: self.news.end(),
                missed_most: false,
                differed: None,
                needy: false,
                checks,
            };
            self.sessions.insert(peer, session);
        }
        if self.is_probed(&peer) {
            return;
        }
        if self.link_count() >= self.config.link_limit {
            self.refuse_link(peer, ByeReason::Full);
            return;
        }
        // Somebody who was cut off when we sought it may have been back for long.
        let missed = sought && !self.routes().reaches(&peer);
        let own = sought && self.own_link_count() < own_links(self.degree());
        let room = match (self.is_small(), missed) {
            (true, _) => self.config.full_mesh_up_to,
            (false, true) => 2 * self.degree(),
            (false, false) => self.degree(),
        };
        if ordered || own || self.dialer.leads_to(&peer) || self.link_count() < room {
            self.start_link(peer, now);
        }
    }

    /// A session goes on over another path, which was just proven. The link stays,
    /// and what it costs is told anew.
    pub fn session_moved(
        &mut self,
        peer: PeerId,
        address: SocketAddr,
        handicap: Duration,
        now: Instant,
    ) {
        let Some(session) = self.sessions.get_mut(&peer) else {
            return;
        };
        session.info.address = address;
        let before = std::mem::replace(&mut session.info.handicap, handicap);
        let Some(link) = &mut session.link else {
            return;
        };
        link.moved(now);
        let due = link.deadline(&self.config);
        self.timers.session_due(due, "ping");
        if before != handicap {
            let at = now + self.config.links_delay;
            self.timers.links = Some(self.timers.links.map_or(at, |links| links.min(at)));
        }
    }

    /// The session is gone.
    pub fn session_closed(&mut self, peer: PeerId, now: Instant) {
        self.end_link(peer, DownReason::SessionClosed, now);
        self.sessions.remove(&peer);
        self.wants.forget(&peer);
    }

    /// The peer at the other end is a new incarnation: nothing of its liveness holds.
    pub fn session_restarted(&mut self, peer: PeerId, now: Instant) {
        if self.is_probed(&peer) {
            self.end_link(peer, DownReason::Restarted, now);
            self.start_link(peer, now);
        }
    }
}
