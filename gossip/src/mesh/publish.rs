//! Our own records, and the sending of everybody's.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use proto::{
    PeerId,
    record::{Body, Links, Node, Record, RecordKey, Stations, Topic},
};

use super::Mesh;
use crate::{
    config::{Authority, LocalPeer},
    event::Event,
    replica::{NODE_ENDPOINTS, NODE_NICKNAME, NODE_VERSION},
    topology::{HOP_PENALTY_US, RTT_LIMIT_US},
};

/// A published round-trip time is replaced only when it is off by a third and by this;
/// less would hardly change a way, as each hop costs as much.
const RTT_TOLERANCE_US: u32 = HOP_PENALTY_US;

/// Cuts what we say about ourselves to what a record may hold.
pub(super) fn clip(local: &mut LocalPeer) {
    clip_text(&mut local.nickname, NODE_NICKNAME);
    clip_text(&mut local.version, NODE_VERSION);
    local.endpoints.truncate(NODE_ENDPOINTS);
}

fn clip_text(text: &mut String, limit: usize) {
    let end = (0..=limit.min(text.len()))
        .rev()
        .find(|end| text.is_char_boundary(*end))
        .unwrap_or(0);
    text.truncate(end);
}

impl<A: Authority> Mesh<A> {
    /// Publishes all records in the present epoch.
    pub(super) fn publish_everything(&mut self, now: Instant) {
        self.publish_node(now);
        self.links.touch_all(1);
        self.publish_links(now);
        self.stations.touch_all();
        self.publish_stations(now);
    }

    pub(super) fn publish_node(&mut self, now: Instant) {
        let node = Node {
            nickname: self.local.nickname.clone(),
            instance: self.local.instance,
            endpoints: self.local.endpoints.clone(),
            version: self.local.version.clone(),
            capabilities: self.local.capabilities,
        };
        self.publish(Topic::Node, Body::Node(node), now);
    }

    /// Brings the links records in line with the links.
    pub(super) fn publish_links(&mut self, now: Instant) {
        self.timers.links = None;
        self.timers.links_done = now;
        let measured: Vec<(PeerId, Duration)> = self
            .sessions
            .iter()
            .filter_map(|(peer, session)| {
                Some((
                    *peer,
                    session.link.as_ref().filter(|l| l.state().is_usable())?,
                ))
            })
            .map(|(peer, link)| (peer, link.base_rtt().unwrap_or_default()))
            .collect();
        let gone: Vec<PeerId> = self
            .links
            .keys()
            .filter(|peer| measured.binary_search_by_key(peer, |(p, _)| p).is_err())
            .copied()
            .collect();
        for peer in gone {
            self.links.remove(&peer);
            self.published_rtt.remove(&peer);
        }
        for (peer, rtt) in measured {
            let rtt = u32::try_from(rtt.as_micros())
                .unwrap_or(u32::MAX)
                .min(RTT_LIMIT_US);
            let published = self.published_rtt.get(&peer).copied();
            if published.is_none_or(|published| is_off(published, rtt)) && self.links.put(peer, 1) {
                self.published_rtt.insert(peer, quantised(rtt));
            }
        }
        for part in self.links.take_dirty() {
            let rtt = |peer: PeerId| {
                (
                    peer,
                    self.published_rtt.get(&peer).copied().unwrap_or_default(),
                )
            };
            let links = Links {
                links: self.links.items(part).map(rtt).collect(),
            };
            let Ok(part) = u8::try_from(part) else {
                continue;
            };
            self.publish(Topic::Links(part), Body::Links(links), now);
        }
    }

    pub(super) fn stations_changed(&mut self, now: Instant) {
        self.timers
            .stations
            .get_or_insert(now + self.config.push_delay);
    }

    pub(super) fn publish_stations(&mut self, now: Instant) {
        self.timers.stations = None;
        for (part, stations) in self.stations.take_changed() {
            self.publish(Topic::Stations(part), Body::Stations(stations), now);
        }
    }

    /// Overwrites a record of an earlier launch about which we have nothing to say.
    pub(super) fn publish_nothing(&mut self, topic: Topic, now: Instant) {
        match topic {
            Topic::Node => self.publish_node(now),
            Topic::Links(_) => self.publish(topic, Body::Links(Links::default()), now),
            Topic::Stations(_) => self.publish(topic, Body::Stations(Stations::default()), now),
        }
    }

    fn publish(&mut self, topic: Topic, body: Body, now: Instant) {
        let mut record = Record {
            key: RecordKey {
                owner: self.local.id,
                topic,
            },
            keys: self.local.keys,
            version: self.own.next(topic),
            body: body.encode(),
            signature: Default::default(),
        };
        record.set_signature(&self.authority.sign(&record.signed_bytes()));
        let record = Arc::new(record);
        let merged = self.replica.merge(&record, |_| true);
        if !matches!(merged, crate::replica::Merge::New { .. }) {
            tracing::error!(?topic, ?merged, "our own record is not valid");
            return;
        }
        self.apply(&record, body, now);
        self.relay(record.key, None, now);
    }

    /// Queues a record for all neighbours but the one it came from.
    pub(super) fn relay(&mut self, key: RecordKey, from: Option<PeerId>, now: Instant) {
        let mut any = false;
        for (peer, session) in &mut self.sessions {
            let usable = session
                .link
                .as_ref()
                .is_some_and(|link| link.state().is_usable());
            if usable && Some(*peer) != from && *peer != key.owner {
                session.outbox.push(key);
                any = true;
            }
        }
        if any {
            self.flush_soon(now);
        }
    }

    pub(super) fn flush_soon(&mut self, now: Instant) {
        self.timers
            .flush
            .get_or_insert(now + self.config.push_delay);
    }

    /// Sends what waits, as much as the pace allows.
    pub(super) fn flush(&mut self, now: Instant) {
        self.timers.flush = None;
        let mut rest = false;
        for (peer, session) in &mut self.sessions {
            for _ in 0..self.config.burst {
                let Some(message) = session
                    .outbox
                    .next(&self.replica, &mut self.counters.pushed)
                else {
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

    /// Derives what follows from a record that is new.
    pub(super) fn apply(&mut self, record: &Record, body: Body, now: Instant) {
        let owner = record.key.owner;
        if owner != self.local.id && !self.routes.reaches(&owner) {
            self.members.cut(owner, now);
        }
        match (record.key.topic, body) {
            (Topic::Node, Body::Node(node)) => self.apply_node(owner, record, node, now),
            (Topic::Links(part), Body::Links(links)) => {
                if self.topology.report(owner, part, links.links) {
                    self.calculate_routes_soon(now);
                }
            }
            (Topic::Stations(part), Body::Stations(stations)) => {
                self.apply_stations(owner, part, stations, now)
            }
            (Topic::Node | Topic::Links(_) | Topic::Stations(_), _) => {
                tracing::error!(key = ?record.key, "a body passed that is not about its topic");
            }
        }
    }

    fn apply_node(&mut self, owner: PeerId, record: &Record, node: Node, now: Instant) {
        use crate::members::Change;
        let clash = owner != self.local.id && node.nickname == self.local.nickname;
        if clash {
            let warning = crate::event::Warning::NicknameClash {
                peer: owner,
                nickname: node.nickname.clone(),
            };
            self.warn(owner, "nickname", warning);
        }
        let change = self.members.update(owner, record.keys, node);
        if owner == self.local.id {
            return;
        }
        match change {
            Change::Appeared => self.events.push_back(Event::PeerAppeared(owner)),
            Change::Restarted => self.events.push_back(Event::PeerRestarted { peer: owner }),
            Change::Updated => {}
        }
        self.neighbours.review_soon(now + self.config.push_delay);
    }

    fn apply_stations(&mut self, owner: PeerId, part: u16, stations: Stations, now: Instant) {
        let (local, routes) = (self.local.id, Arc::clone(&self.routes));
        let reach = |peer: &PeerId| *peer == local || routes.reaches(peer);
        if owner != local {
            let (withdrawn, duplicate) = self.stations.yield_to(owner, &stations.stations, now);
            if withdrawn {
                self.stations_changed(now);
            }
            if let Some(mac) = duplicate {
                self.warn(
                    owner,
                    "station",
                    crate::event::Warning::DuplicateStation { mac, peer: owner },
                );
            }
        }
        self.claims.report(owner, part, stations.stations, reach);
    }
}

fn is_off(published: u32, measured: u32) -> bool {
    published.abs_diff(measured) > RTT_TOLERANCE_US.max(published / 3)
}

/// The nearest of four steps per octave from below, so that equal ways look equal.
fn quantised(rtt: u32) -> u32 {
    let octave = rtt.max(4).ilog2();
    let step = 1 << (octave - 2);
    (rtt + step / 2) / step * step
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_moves_no_published_round_trip_time() {
        for rtt in [0, 3, 150, 9_000, 120_000, RTT_LIMIT_US] {
            let published = quantised(rtt);
            assert!(published.abs_diff(rtt) <= rtt / 8 + 1, "{rtt} {published}");
            assert!(!is_off(published, rtt));
            assert!(!is_off(published, rtt - rtt / 10));
        }
        assert!(is_off(quantised(20_000), 40_000));
    }

    #[test]
    fn texts_are_cut_at_a_character() {
        let mut text = "\u{e4}".repeat(40);
        clip_text(&mut text, 63);
        assert_eq!(text.len(), 62);
    }
}
