//! Our own records, and what follows from everybody's.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use proto::{
    PeerId,
    record::{
        Body, LinkTo, Links, Names, Node, Record, RecordKey, RttCode, Station, Stations, Topic,
    },
};

use super::Mesh;
use crate::{
    config::{Authority, LocalPeer},
    event::{Event, Warning},
    limits::{NODE_ENDPOINTS, NODE_NICKNAME, NODE_VERSION},
    replica::Merge,
    topology::HOP_PENALTY_US,
};

/// A published round-trip time is replaced only when it is off by a third and by this;
/// less would hardly change a way, as each hop costs as much.
const RTT_TOLERANCE_US: u32 = HOP_PENALTY_US;

/// Changes of stations that are published soon, at once and per second; more wait for each
/// other: a container that makes up addresses must not use up what others let us say.
pub(super) const STATIONS_BURST: u32 = 40;
const STATIONS_RATE: u32 = 8;

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
        self.names.touch_all();
        self.publish_names(now);
        self.publish_space_again(now);
    }

    pub(super) fn publish_node(&mut self, now: Instant) {
        let node = Node {
            keys: self.local.keys,
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
        let measured: Vec<(PeerId, Duration)> = self
            .sessions
            .iter()
            .filter_map(|(peer, session)| {
                let link = session.link.as_ref().filter(|l| l.state().is_usable())?;
                let rtt = link.base_rtt().unwrap_or_default();
                Some((*peer, rtt + session.info.handicap))
            })
            .collect();
        let gone: Vec<PeerId> = self
            .links
            .keys()
            .filter(|peer| measured.binary_search_by_key(peer, |(p, _)| p).is_err())
            .copied()
            .collect();
        let changed: Vec<(PeerId, u32)> = measured
            .into_iter()
            .map(|(peer, rtt)| (peer, u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX)))
            .filter(|(peer, rtt)| {
                let published = self.published_rtt.get(peer);
                published.is_none_or(|published| is_off(*published, *rtt))
            })
            .collect();
        // It takes two to have a link. One that the other end has withdrawn already
        // may stay in our record until that changes anyway.
        if !changed.is_empty() || gone.iter().any(|peer| self.is_mutual(peer)) {
            for peer in gone {
                self.links.remove(&peer);
                self.published_rtt.remove(&peer);
            }
        }
        for (peer, rtt) in changed {
            if self.links.put(peer, 1) {
                self.timers.links_done = Some(now);
                self.published_rtt.insert(peer, RttCode::from_micros(rtt));
            }
        }
        for part in self.links.take_dirty() {
            let link = |peer: PeerId| LinkTo {
                peer: peer.short_id(),
                rtt: self.published_rtt.get(&peer).copied().unwrap_or_default(),
            };
            let links = Links {
                links: self.links.items(part).copied().map(link).collect(),
            };
            let Ok(part) = u8::try_from(part) else {
                continue;
            };
            self.publish(Topic::Links(part), Body::Links(links), now);
        }
    }

    /// Whether both we and the other end report a link.
    pub(super) fn is_mutual(&self, peer: &PeerId) -> bool {
        let ends = self
            .replica
            .slot(&self.local.id)
            .zip(self.replica.slot(peer));
        ends.is_some_and(|(ours, theirs)| self.replica.link(ours, theirs).is_some())
    }

    /// Says that we have no links any more, so that nobody else needs to.
    pub(super) fn withdraw_links(&mut self, now: Instant) {
        self.links.touch_all(1);
        for part in self.links.take_dirty() {
            if let Ok(part) = u8::try_from(part) {
                self.publish_nothing(Topic::Links(part), now);
            }
        }
    }

    pub(super) fn stations_changed(&mut self, now: Instant) {
        if self.timers.stations.is_some() {
            return;
        }
        let pause = match self.stations_pace.take(STATIONS_BURST, STATIONS_RATE, now) {
            true => self.config.push_delay,
            false => Duration::from_secs(1) / STATIONS_RATE,
        };
        self.timers.stations = Some(now + pause);
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
            Topic::Names(_) => self.publish(topic, Body::Names(Names::default()), now),
            // What was said of the space stays said, see `recall_space`.
            Topic::Space | Topic::Guard | Topic::Division => {}
        }
    }

    pub(super) fn publish(&mut self, topic: Topic, body: Body, now: Instant) {
        let key = RecordKey {
            owner: self.local.id,
            topic,
        };
        let mut record = Record::new(key, self.own.next(topic), body.encode());
        record.set_signature(&self.authority.sign(&record.signed_bytes()));
        let record = Arc::new(record);
        match self.replica.merge(&record, |_, _| true) {
            Merge::New { before, .. } => {
                self.apply(&record, before.as_deref(), now);
                self.relay(&record, None, now);
            }
            refused => tracing::error!(?topic, ?refused, "our own record is not valid"),
        }
    }

    /// Derives what follows from a record that is new, and from the one it replaced.
    pub(super) fn apply(&mut self, record: &Record, before: Option<&Record>, now: Instant) {
        let owner = record.key.owner;
        if owner != self.local.id && !self.routes().reaches(&owner) {
            self.absent.cut(owner, now);
        }
        match (record.key.topic, record.content()) {
            (Topic::Node, Some(Body::Node(node))) => {
                self.directory.relaunched(owner, record.version.epoch);
                self.apply_node(owner, before, node, now);
            }
            (Topic::Links(_), Some(Body::Links(links))) => {
                self.apply_links(owner, before, links, now);
            }
            (Topic::Stations(part), Some(Body::Stations(stations))) => {
                self.apply_stations(owner, part, &stations.stations, now);
            }
            (Topic::Names(part), Some(Body::Names(names))) => {
                self.apply_names(owner, part, record.version.epoch, &names.names);
            }
            (Topic::Space | Topic::Guard | Topic::Division, Some(body)) => {
                self.apply_space(owner, body, now);
            }
            (_, _) => {
                tracing::error!(key = ?record.key, "a body passed that is not about its topic");
            }
        }
    }

    fn apply_node(&mut self, owner: PeerId, before: Option<&Record>, node: &Node, now: Instant) {
        if owner == self.local.id {
            return;
        }
        if node.nickname == self.local.nickname {
            let warning = Warning::NicknameClash {
                peer: owner,
                nickname: node.nickname.clone(),
            };
            self.warn(owner, "nickname", warning);
        }
        match before.and_then(Record::content) {
            Some(Body::Node(before)) if before.instance == node.instance => {}
            Some(_) => self.events.push_back(Event::PeerRestarted { peer: owner }),
            None => self.events.push_back(Event::PeerAppeared(owner)),
        }
        self.neighbours.review_soon(now + self.config.push_delay);
        self.touch_space(now);
    }

    /// Notes which links may have come, gone or changed.
    fn apply_links(&mut self, owner: PeerId, before: Option<&Record>, links: &Links, now: Instant) {
        let Some(slot) = self.replica.slot(&owner) else {
            return;
        };
        let before = match before.and_then(Record::content) {
            Some(Body::Links(before)) => before.links.as_slice(),
            _ => &[],
        };
        // Links are in order in every record that is taken.
        let lacks = |links: &[LinkTo], link: &LinkTo| links.binary_search(link).is_err();
        let after = links.links.as_slice();
        let gone = before.iter().filter(|link| lacks(after, link));
        let come = after.iter().filter(|link| lacks(before, link));
        for link in gone.chain(come) {
            if let Some(other) = self.replica.slot_of_short(&link.peer) {
                self.ways.touch(slot, other);
            }
        }
        if self.ways.is_stale() {
            self.calculate_routes_soon(now);
        }
    }

    fn apply_stations(&mut self, owner: PeerId, part: u16, stations: &[Station], now: Instant) {
        if owner != self.local.id {
            let (withdrawn, duplicate) = self.stations.yield_to(owner, stations, now);
            if withdrawn {
                self.stations_changed(now);
            }
            if let Some(mac) = duplicate {
                let peer = owner;
                self.warn(owner, "station", Warning::DuplicateStation { mac, peer });
            }
        }
        let (replica, ways) = (&self.replica, &self.ways);
        let reach = |peer: &PeerId| crate::routes::Routes { replica, ways }.reaches(peer);
        self.claims.report(owner, part, stations.to_vec(), reach);
    }
}

fn is_off(published: RttCode, measured: u32) -> bool {
    let published = published.micros();
    published.abs_diff(measured) > RTT_TOLERANCE_US.max(published / 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_moves_no_published_round_trip_time() {
        for rtt in [0, 3, 150, 9_000, 120_000, RttCode::MAX.micros()] {
            let published = RttCode::from_micros(rtt);
            assert!(!is_off(published, rtt));
            assert!(!is_off(published, rtt - rtt / 10));
        }
        assert!(is_off(RttCode::from_micros(20_000), 40_000));
    }

    #[test]
    fn texts_are_cut_at_a_character() {
        let mut text = "\u{e4}".repeat(40);
        clip_text(&mut text, 63);
        assert_eq!(text.len(), 62);
    }
}
