//! The links over sessions: who gets one, how it begins and how it ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use proto::{
    PeerId,
    message::{ByeReason, GossipMessage},
    record::{RecordKey, RttCode, Topic},
};
use rand::Rng;

use super::{Mesh, Session, situation, turn};
use crate::{
    config::Authority,
    dialer::GOOD_LINK,
    event::{DownReason, Event},
    limits::LINK_PARTS,
    link::{Link, LinkState},
    neighbours::own_links,
    networks::Crowds,
    outbox::Outbox,
    reconcile::Given,
};

/// Node records told to somebody we refuse.
const REFERRALS: usize = 8;
/// Whoever has fewer links is one loss away from being cut off.
const SAFE: usize = 2;
/// Rejections and time with so few links after which a peer asks to be let in for need.
const REJECTIONS: u32 = 2;
const EXPOSED: Duration = Duration::from_secs(5);
/// Between the first comparisons with several new neighbours.
const TURN: Duration = Duration::from_millis(250);
/// The first of these comparisons may be lost, and a newcomer is not to wait for a beat.
const GREETINGS: u8 = 2;
/// So long the first neighbour has to tell who is there.
const GREETED: Duration = Duration::from_millis(600);
/// If most are out of reach, the first comparison waits for links to be told, at most so long.
const RECOGNISED: Duration = Duration::from_secs(2);
/// So long the withdrawal of a link by its other end is waited for.
const WITHDRAWN: Duration = Duration::from_millis(500);
/// New links that are published without a pause between them, for whoever joins is not
/// reached before; one more each second. Not for so long after a launch, which gains
/// all its links in a row.
pub(super) const NEW_LINKS: u32 = 3;
const LAUNCHING: Duration = Duration::from_secs(10);
/// A target that has no room is asked again at the longest pause, times the mesh's
/// size in so many peers, up to so many times.
const CROWD: usize = 64;
const CROWDS_MAX: usize = 10;
/// A link younger than this is not pruned: its other end may still be settling.
const SETTLED: Duration = Duration::from_secs(10);
/// More links than this are not borne, whatever it costs to be rid of them.
const BORNE: usize = 16;
/// Links too many that are borne are given up one after the other, each after this
/// for every peer, so that the whole mesh gives up a few a second: everybody hears
/// of each, and after a launch of all at once everybody has some.
const THINNING: Duration = Duration::from_millis(200);

impl<A: Authority> Mesh<A> {
    /// Whether somebody who wants a link may have it.
    pub(super) fn admit(&self, peer: &PeerId, needy: bool) -> Result<(), ByeReason> {
        let links = self.link_count();
        if links >= self.config.link_limit {
            return Err(ByeReason::Full);
        }
        // Many may come at once before we know how many there are. To refuse one that
        // nobody knows yet costs it half a second, and what is too much is pruned later.
        let known = self.routes().reaches(peer);
        let room = self.degree() * if known { 2 } else { 4 };
        let room = if self.is_small() {
            room.max(self.config.full_mesh_up_to)
        } else {
            room
        };
        let welcome = needy || links < room || self.dialer.leads_to(peer);
        if welcome {
            Ok(())
        } else {
            Err(ByeReason::Pruned)
        }
    }

    /// Says no, and names others to try.
    pub(super) fn refuse_link(&mut self, peer: PeerId, reason: ByeReason) {
        self.counters.links_refused += 1;
        // Whoever is in the mesh already finds others without us.
        let referrals = if self.routes().reaches(&peer) {
            0
        } else {
            REFERRALS
        };
        let mut owners = BTreeSet::new();
        for _ in 0..referrals {
            let place = self.random_index(self.replica.owner_count());
            let reached = self
                .replica
                .owner_at(place)
                .filter(|slot| self.ways.reaches(*slot));
            owners.extend(reached.map(|slot| self.replica.id(slot)));
        }
        owners.remove(&peer);
        let topic = Topic::Node;
        self.refer(
            peer,
            owners.into_iter().map(|owner| RecordKey { owner, topic }),
        );
        self.out.push_back((peer, GossipMessage::Bye { reason }));
    }

    /// Begins to probe over an existing session.
    pub(super) fn start_link(&mut self, peer: PeerId, now: Instant) {
        if let Some(session) = self.sessions.get_mut(&peer)
            && session.link.is_none()
        {
            session.link = Some(Link::new(self.local.id < peer, now));
            self.look_at_session(&peer);
            self.run_links(now);
        }
    }

    /// The first pong came.
    pub(super) fn link_up(&mut self, peer: PeerId, now: Instant) {
        tracing::debug!(%peer, "link up");
        self.events.push_back(Event::LinkUp(peer));
        if self.dialer.link_up(peer) {
            self.events.push_back(Event::TargetsChanged);
        }
        self.neighbours.link_up(&peer);
        self.neighbours.review_soon(now);
        self.rejections = 0;
        self.tell_of_new_link(now);
        self.greet(peer, now);
    }

    /// Publishes a new link soon, if there were few of late.
    fn tell_of_new_link(&mut self, now: Instant) {
        let soon = now + self.config.links_delay;
        let launched = now >= self.start + LAUNCHING;
        let spare = launched && self.new_links.take(NEW_LINKS, 1, now);
        let spaced = self
            .timers
            .links_done
            .filter(|_| !spare)
            .map(|done| done + self.config.links_spacing);
        let at = spaced.map_or(soon, |spaced| spaced.max(soon));
        self.timers.links = Some(self.timers.links.map_or(at, |links| links.min(at)));
    }

    /// Tells a new neighbour about ourselves, and starts to compare the rest.
    fn greet(&mut self, peer: PeerId, now: Instant) {
        // Comparing with several at once would bring everything several times:
        // one after the other. Of the two ends, the lower id begins.
        let busy = self
            .sessions
            .values()
            .filter(|s| s.summary_at.is_some_and(|at| at > now))
            .count() as u32;
        let turn = if self.local.id < peer { busy } else { busy + 1 };
        let owner = self.local.id;
        let Some(session) = self.sessions.get_mut(&peer) else {
            return;
        };
        let topics = std::iter::once(Topic::Node).chain((0..LINK_PARTS).map(Topic::Links));
        topics.for_each(|topic| session.outbox.tell(RecordKey { owner, topic }));
        session.told = self.news.end();
        session.greetings = GREETINGS;
        let at = if self.absent.len() > self.ways.reached() {
            now + RECOGNISED
        } else {
            now + TURN * turn.min(32)
        };
        session.summary_at = Some(at);
        self.timers.session_due(at, "summary");
        // Who knows nobody waits for the answer before it chooses others.
        if self.fed_by.is_none() {
            self.feed(peer, GREETED, now);
        }
        self.flush_soon(now);
    }

    /// A neighbour can be reached. If others by way of it were only waiting for
    /// that, the first comparison no longer finds a difference in all of them.
    pub(super) fn recognise(&mut self, peer: &PeerId, now: Instant) {
        if let Some(session) = self
            .sessions
            .get_mut(peer)
            .filter(|s| s.greetings == GREETINGS)
        {
            let at = session.summary_at.map_or(now, |at| at.min(now));
            session.summary_at = Some(at);
            self.timers.session_due(at, "summary");
        }
    }

    /// Ends a link and draws the consequences. The session stays.
    pub(super) fn end_link(&mut self, peer: PeerId, reason: DownReason, now: Instant) {
        let Some(session) = self.sessions.get_mut(&peer) else {
            return;
        };
        let Some(mut link) = session.link.take() else {
            return;
        };
        let was_up = link.state().is_usable();
        let brought_news = !session.is_lazy(now);
        link.bye(now);
        session.outbox = Outbox::default();
        session.given = Given::default();
        session.summary_at = None;
        session.lazy_until = None;
        session.missed_most = false;
        session.differed = None;
        self.link_over(peer, was_up.then(|| link.since()), reason, now);
        // What was given up and brought no news leaves no gap in their ways.
        let given_up = matches!(reason, DownReason::Pruned | DownReason::Full);
        if was_up && (brought_news || !given_up) {
            self.graft_all(now);
        }
    }

    fn link_over(
        &mut self,
        peer: PeerId,
        up_since: Option<Instant>,
        reason: DownReason,
        now: Instant,
    ) {
        self.wants.forget(&peer);
        if up_since.is_some() {
            tracing::debug!(%peer, %reason, "link down");
            self.events.push_back(Event::LinkDown { peer, reason });
            self.exposed_since = now;
            let at = now + self.withdrawal_delay(reason);
            self.timers.links = Some(self.timers.links.map_or(at, |links| links.min(at)));
        }
        let lasted = up_since.map(|since| now.saturating_duration_since(since));
        let refused = matches!(reason, DownReason::Pruned | DownReason::Full);
        let patient = refused && (reason == DownReason::Full || !self.is_exposed());
        let text = reason.to_string();
        // The seeds of a large mesh are everybody's targets: they cannot have all,
        // nor hear from all every minute.
        let crowd = (self.ways.reached() / CROWD).clamp(1, CROWDS_MAX);
        let patience = patient.then_some(self.config.backoff_max * crowd as u32);
        let concerned = self
            .dialer
            .link_down(peer, &text, lasted, patience, &mut turn!(self, now));
        // The last way into the mesh: whoever was full may take us in now. A link
        // that did not last must not keep us dialling without a pause.
        let lost = lasted.is_some_and(|lasted| lasted > GOOD_LINK);
        let cut_off = lost && self.linked().next().is_none();
        if cut_off {
            self.dialer.hurry(&mut turn!(self, now));
        }
        if concerned || cut_off {
            self.events.push_back(Event::TargetsChanged);
        }
        let links = self.link_addresses();
        let situation = situation!(self, links, now);
        self.neighbours
            .link_down(peer, refused, &situation, &mut self.rng);
    }

    /// How long the loss of a link waits to be published.
    fn withdrawal_delay(&self, reason: DownReason) -> Duration {
        match reason {
            // The other end withdraws it, or will soon have it again.
            DownReason::Stopping
            | DownReason::Pruned
            | DownReason::Full
            | DownReason::Restarted => WITHDRAWN,
            DownReason::Silent => self.pace().loss_delay,
            DownReason::SessionClosed => self.config.links_delay,
        }
    }

    /// Pings what is due and ends what is silent.
    pub(super) fn run_links(&mut self, now: Instant) {
        if !self.timers.is_session_due(now) {
            return;
        }
        let exposed = now >= self.exposed_since + EXPOSED && self.is_exposed();
        let needy = !self.config.discovery || (self.rejections >= REJECTIONS && exposed);
        let (mut pings, mut silent) = (Vec::new(), Vec::new());
        for (peer, session) in &mut self.sessions {
            let Some(link) = session
                .link
                .as_mut()
                .filter(|link| link.deadline(&self.config) <= now)
            else {
                continue;
            };
            let was_up = link.state().is_usable();
            let jitter = self.rng.random_range(0.95..1.05);
            if let Some(token) = link.handle_timeout(jitter, &self.config, now) {
                let rtt = |rtt: Duration| u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX);
                let answered = link
                    .answered()
                    .map(|sample| RttCode::from_micros(rtt(sample)));
                pings.push((*peer, token, answered));
            }
            if link.state() == LinkState::Down {
                silent.push((*peer, was_up.then(|| link.since())));
            }
        }
        for (peer, token, answered) in pings {
            let beat = self.beat(&peer, now);
            let ping = GossipMessage::Ping {
                token,
                needy,
                answered,
                beat,
            };
            self.out.push_back((peer, ping));
        }
        for (peer, up_since) in silent {
            // Whoever does not answer pings does not answer on this session any more.
            self.sessions.remove(&peer);
            self.link_over(peer, up_since, DownReason::Silent, now);
            if up_since.is_some() {
                self.graft_all(now);
            }
            self.events.push_back(Event::CloseSession(peer));
        }
    }

    /// Asks the other end for the record that makes a link mutual, if it should have come:
    /// nobody is reached by a link before, and the news of it may be lost.
    pub(super) fn ask_for_link(&mut self, peer: &PeerId, now: Instant) {
        let told = self.published_rtt.contains_key(peer) && !self.is_mutual(peer);
        let Some(session) = self.sessions.get_mut(peer).filter(|_| told) else {
            return;
        };
        let settles = |link: &Link| {
            let there_and_back = link.rtt().unwrap_or_default() + self.config.links_delay * 2;
            now >= link.since() + there_and_back
        };
        if session.link.as_ref().is_some_and(settles) {
            let (owner, topics) = (*peer, (0..LINK_PARTS).map(Topic::Links));
            let keys = topics.map(|topic| RecordKey { owner, topic });
            session.outbox.want(keys);
            self.flush_soon(now);
        }
    }

    /// Ends one link too many, if its other end can do without.
    pub(super) fn prune(&mut self, now: Instant) {
        if self.is_small() || self.link_count() <= 2 * self.degree() {
            self.surplus = None;
        } else if self.is_thinning_due(now)
            && let Some(peer) = self.spare_link(now)
        {
            self.surplus = None;
            self.out.push_back((
                peer,
                GossipMessage::Bye {
                    reason: ByeReason::Pruned,
                },
            ));
            self.end_link(peer, DownReason::Pruned, now);
            self.timers.links = Some(now + self.config.links_delay);
        }
    }

    /// Whether links too many have been borne for long enough.
    fn is_thinning_due(&mut self, now: Instant) -> bool {
        let rng = &mut self.rng;
        let surplus = self
            .surplus
            .get_or_insert_with(|| (now, rng.random_range(0.0..2.0)));
        let (since, patience) = *surplus;
        let pause = THINNING * u32::try_from(self.ways.reached()).unwrap_or(u32::MAX);
        self.link_count() > BORNE.max(2 * self.degree()) || now >= since + pause.mul_f64(patience)
    }

    /// A link to end: from the fullest network, and rather one that brings no news.
    fn spare_link(&mut self, now: Instant) -> Option<PeerId> {
        let settled = |link: &Link| {
            link.state() == LinkState::Up && now.saturating_duration_since(link.since()) >= SETTLED
        };
        let keep_own = self.own_link_count() <= own_links(self.degree());
        let spare = self.sessions.iter().filter(|(peer, session)| {
            let settled = session.link.as_ref().is_some_and(settled);
            let own = session.info.outbound && keep_own;
            settled && !own && !session.needy && !self.dialer.leads_to(peer)
        });
        let spare: Vec<_> = spare
            .map(|(peer, session)| (*peer, session.info.address))
            .collect();
        let fullest = Crowds::of(self.link_addresses().values()).fullest(&spare);
        let is_pruned = |peer: &&PeerId| self.sessions.get(peer).is_some_and(|s| s.is_lazy(now));
        let silent: Vec<PeerId> = fullest.iter().filter(is_pruned).copied().collect();
        let spare = if silent.is_empty() { fullest } else { silent };
        let at = self.random_index(spare.len());
        spare.get(at).copied()
    }

    /// Links that this peer dialled, those being probed included.
    pub(super) fn own_link_count(&self) -> usize {
        let own = |session: &&Session| session.link.is_some() && session.info.outbound;
        self.sessions.values().filter(own).count()
    }

    /// Whether so few links are usable that another loss may cut us off.
    fn is_exposed(&self) -> bool {
        self.linked().take(SAFE).count() < SAFE
    }

    /// Whether a link exists, in whatever state.
    pub(super) fn is_probed(&self, peer: &PeerId) -> bool {
        self.sessions
            .get(peer)
            .is_some_and(|session| session.link.is_some())
    }

    /// Whether a link is usable.
    pub(super) fn is_linked(&self, peer: &PeerId) -> bool {
        let link = self
            .sessions
            .get(peer)
            .and_then(|session| session.link.as_ref());
        link.is_some_and(|link| link.state().is_usable())
    }

    /// Addresses of all links, those being probed included.
    pub(super) fn link_addresses(&self) -> BTreeMap<PeerId, SocketAddr> {
        let links = self
            .sessions
            .iter()
            .filter(|(_, session)| session.link.is_some());
        links
            .map(|(peer, session)| (*peer, session.info.address))
            .collect()
    }
}
