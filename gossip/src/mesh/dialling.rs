//! Attempts to dial: for targets, and for peers we chose ourselves.

use std::time::Instant;

use proto::PeerId;

use super::{Dialling, Mesh, situation, turn};
use crate::{
    config::Authority,
    event::{DialId, DialTarget, Event},
    neighbours::Candidate,
    target::Target,
};

impl<A: Authority> Mesh<A> {
    /// An attempt came to nothing. `refused`: wrong secret, version or identity.
    pub fn dial_failed(&mut self, dial: DialId, reason: String, refused: bool, now: Instant) {
        match self.dials.remove(&dial) {
            Some(Dialling::Target(target)) => {
                tracing::debug!(%target, %reason, refused, "target not reached");
                self.dialer
                    .failed(&target, dial, reason, refused, &mut turn!(self, now));
                self.events.push_back(Event::TargetsChanged);
            }
            Some(Dialling::Peer(peer)) => self.attempt_failed(peer, refused, now),
            None => {}
        }
    }

    /// It is known who answers a dial: perhaps ourselves, perhaps a peer with which a session exists.
    pub fn dial_answered(&mut self, dial: DialId, peer: PeerId, now: Instant) {
        let Some(dialling) = self.dials.get(&dial).cloned() else {
            return;
        };
        let has_session = self.sessions.contains_key(&peer);
        if has_session || peer == self.local.id {
            self.dials.remove(&dial);
        }
        match dialling {
            Dialling::Target(target) => {
                self.target_answered(&target, peer, now);
                self.neighbours.remember(&peer);
                self.events.push_back(Event::TargetsChanged);
            }
            Dialling::Peer(expected) if expected != peer => {
                self.dials.remove(&dial);
                self.attempt_failed(expected, true, now);
                return;
            }
            Dialling::Peer(_) if has_session => self.neighbours.reached(&peer),
            Dialling::Peer(_) => {}
        }
        if has_session {
            self.start_link(peer, now);
        }
    }

    /// It is known who is behind a target.
    pub(super) fn target_answered(&mut self, target: &Target, peer: PeerId, now: Instant) {
        let ends = (self.local.id, self.is_linked(&peer));
        self.dialer
            .answered(target, peer, ends, &mut turn!(self, now));
    }

    /// Dials the targets that are due, and gives up those that do not answer.
    pub(super) fn dial_targets(&mut self, now: Instant) {
        let mut changed = self.dialer.give_up(&mut turn!(self, now));
        for (target, peer) in self.dialer.due(now) {
            changed = true;
            let session = peer.filter(|peer| self.sessions.contains_key(peer));
            if session.is_none_or(|peer| !self.is_probed(&peer))
                && self.link_count() >= self.config.link_limit
            {
                let reason = "not dialled: this peer has reached its link limit (--conn-limit)";
                self.dialer.postpone(&target, reason, &mut turn!(self, now));
                continue;
            }
            if let Some(peer) = session {
                self.dialer.dialling(&target, None, now);
                self.target_answered(&target, peer, now);
                self.start_link(peer, now);
                continue;
            }
            let dial = self.new_dial(Dialling::Target(target.clone()));
            self.dialer.dialling(&target, Some(dial), now);
            self.events.push_back(Event::Dial {
                dial,
                target: DialTarget::Name(target),
            });
        }
        if changed {
            self.events.push_back(Event::TargetsChanged);
        }
    }

    /// Dials those whom we want as neighbours.
    pub(super) fn review_neighbours(&mut self, now: Instant) {
        self.prune(now);
        // A newcomer first hears who is there, and then chooses.
        if let Some((_, until)) = self.fed_by.filter(|(_, until)| now < *until) {
            self.neighbours.wait_until(until);
            return;
        }
        let links = self.link_addresses();
        let situation = situation!(self, links, now);
        let chosen = self.neighbours.review(&situation, &mut self.rng);
        for candidate in chosen {
            self.seek(candidate, now);
        }
    }

    fn seek(&mut self, candidate: Candidate, now: Instant) {
        let Candidate { peer, addresses } = candidate;
        if self.sessions.contains_key(&peer) {
            self.start_link(peer, now);
            return;
        }
        let dial = self.new_dial(Dialling::Peer(peer));
        self.neighbours.dialling(peer, dial, now);
        self.events.push_back(Event::Dial {
            dial,
            target: DialTarget::Peer { peer, addresses },
        });
    }

    pub(super) fn attempt_failed(&mut self, peer: PeerId, refused: bool, now: Instant) {
        let links = self.link_addresses();
        let situation = situation!(self, links, now);
        self.neighbours
            .failed(peer, refused, &situation, &mut self.rng);
    }

    fn new_dial(&mut self, dialling: Dialling) -> DialId {
        // Dials without any answer are given up elsewhere; only their names are kept here.
        const OPEN: usize = 1024;
        if self.dials.len() >= OPEN {
            self.dials.pop_first();
        }
        self.next_dial += 1;
        let dial = DialId(self.next_dial);
        self.dials.insert(dial, dialling);
        dial
    }
}
