//! The address space within the mesh: records in and out, and what operators ask.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use proto::{
    PeerId, ShortId,
    record::{Body, Record, Topic},
    space::{CAN_SPACE, Range6},
};
use rand::RngCore;

use super::Mesh;
use crate::{
    claims::Claims,
    config::Authority,
    event::Event,
    replica::Replica,
    routes::{Routes, Ways},
    space::{Outcome, Peers, Saved, Space, SpaceConfig, SpaceView, Span},
};

/// What was heard waits so long for more...
const TOGETHER: Duration = Duration::from_millis(20);
/// ...and in a large mesh, where looking costs more and more is said, so long per peer.
const TOGETHER_PER_PEER: Duration = Duration::from_micros(100);
const TOGETHER_MAX: Duration = Duration::from_millis(250);

/// The mesh, as the space sees it.
struct View<'a> {
    local: PeerId,
    replica: &'a Replica,
    ways: &'a Ways,
    claims: &'a Claims,
    /// The first addresses of both ranges.
    bases: Option<(Ipv4Addr, Option<Range6>)>,
}

/// How another peer allocates otherwise than we do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stranger {
    /// Out of another range: its first address and prefix length.
    Range(Ipv4Addr, u8),
    /// Out of the same range, which was divided apart.
    Division,
    /// With another IPv6 range beside it, or none.
    Range6(Option<Range6>),
}

impl Stranger {
    fn from(space: &Space, said: &Body) -> Option<Self> {
        let config = space.config();
        let other_range = |base: u32, prefix: u8| {
            let is_other = (base, prefix) != (config.base.to_bits(), config.prefix);
            is_other.then_some(Self::Range(Ipv4Addr::from_bits(base), prefix))
        };
        let said = match said {
            Body::Space(said) => said,
            Body::Division(said) => return other_range(said.base, said.prefix),
            _ => return None,
        };
        let theirs = said.ring;
        if let Some(other) = other_range(theirs.base, theirs.prefix) {
            return Some(other);
        }
        if space.ring().is_some_and(|ring| ring != theirs) {
            return Some(Self::Division);
        }
        (said.range6 != config.range6).then_some(Self::Range6(said.range6))
    }
}

/// What the space said in a run, which waits until what it must not forget is kept.
#[derive(Clone, Debug)]
pub(super) struct Withheld {
    said: Vec<(Topic, Body)>,
    outcomes: Vec<Outcome>,
    /// The space was to be looked at meanwhile.
    overdue: bool,
}

/// A macro, so that the borrow checker sees that the space is not borrowed.
macro_rules! view {
    ($mesh:ident) => {
        View {
            local: $mesh.local.id,
            replica: &$mesh.replica,
            ways: &$mesh.ways,
            claims: &$mesh.claims,
            bases: $mesh.space.as_ref().map(|space| {
                let config = space.config();
                (config.base, config.range6)
            }),
        }
    };
}

impl Peers for View<'_> {
    fn reaches(&self, peer: ShortId) -> bool {
        let (replica, ways) = (self.replica, self.ways);
        let slot = self.replica.slot_of_short(&peer);
        slot.is_some_and(|slot| Routes { replica, ways }.reaches(&replica.id(slot)))
    }

    fn instance(&self, peer: ShortId) -> Option<u32> {
        let node = self.replica.node(self.replica.slot_of_short(&peer)?)?;
        Some(node.instance as u32)
    }

    fn candidates(&self) -> Vec<ShortId> {
        let able = self.replica.owners().filter(|slot| {
            let node = self.replica.node(*slot);
            self.ways.reaches(*slot) && node.is_some_and(|node| node.capabilities & CAN_SPACE != 0)
        });
        let ids = able.map(|slot| self.replica.id(slot));
        ids.filter(|id| *id != self.local)
            .map(|id| id.short_id())
            .collect()
    }

    fn is_seen(&self, address: Ipv4Addr) -> bool {
        let is_used = |ip: IpAddr| self.claims.rival_ip(&ip, &self.local).is_some();
        let twin = self.bases.and_then(|(base, range6)| {
            let at = address.to_bits().checked_sub(base.to_bits())?;
            Some(range6?.address(at))
        });
        is_used(address.into()) || twin.is_some_and(|twin| is_used(twin.into()))
    }
}

impl<A: Authority> Mesh<A> {
    /// Takes part in the address space from now on.
    pub fn open_space(&mut self, config: SpaceConfig, saved: Option<Saved>, now: Instant) {
        let (me, instance) = (self.local.id.short_id(), self.local.instance as u32);
        let seed = self.rng.next_u64();
        self.space = Some(Box::new(Space::new(me, instance, config, saved, seed)));
        self.local.capabilities |= CAN_SPACE;
        self.publish_node(now);
        self.hear_all_of_space(now);
        self.space_soon(now);
    }

    /// What others said before we took part.
    pub(super) fn hear_all_of_space(&mut self, now: Instant) {
        if self.space.is_none() {
            return;
        }
        let records = self.records().filter(|record| is_about_space(record));
        let records: Vec<Arc<Record>> = records.map(Arc::clone).collect();
        for record in records {
            if let Some(body) = record.content() {
                self.apply_space(record.key.owner, body, now);
            }
        }
    }

    /// Wishes for an address; the answer is an [`Event::Space`] with this id.
    pub fn allocate(&mut self, id: u64, span: Span, now: Instant) {
        self.with_space(now, |space| space.allocate(id, span));
    }

    /// Gives up a wish.
    pub fn give_up(&mut self, id: u64, now: Instant) {
        self.with_space(now, |space| space.give_up(id));
    }

    /// Has the range divided.
    pub fn prime_space(&mut self, now: Instant) {
        self.with_space(now, Space::prime);
    }

    /// The addresses at an offset of the ranges are in use here.
    pub fn hold_address(&mut self, at: u32, now: Instant) {
        self.with_space(now, |space| space.hold(at));
    }

    /// The addresses at an offset of the ranges are not in use here any more.
    pub fn release_address(&mut self, at: u32, now: Instant) {
        self.with_space(now, |space| space.release(at));
    }

    /// Wants the space of a peer that is gone, or by force of one that lives.
    pub fn take_over(&mut self, peer: ShortId, force: bool, now: Instant) {
        let view = view!(self);
        if let Some(space) = &mut self.space {
            space.take_over(peer, force, &view);
        }
        self.run_space(now);
    }

    /// Begins to give back what we own. False: nobody is there to take it, or
    /// there is nothing.
    pub fn leave_space(&mut self, now: Instant) -> bool {
        let view = view!(self);
        let Some(space) = &mut self.space else {
            return false;
        };
        if space.has_left() || !space.has_heirs(&view) {
            return false;
        }
        space.leave();
        self.run_space(now);
        true
    }

    /// The address space, if this peer takes part in it.
    pub fn space(&self) -> Option<&Space> {
        self.space.as_deref()
    }

    /// The address space for people.
    pub fn space_view(&self) -> Option<SpaceView> {
        let view = view!(self);
        Some(self.space.as_ref()?.view(&view))
    }

    /// Who of those that can be reached allocates otherwise than we do, and how.
    pub fn space_strangers(&self) -> Vec<(PeerId, Stranger)> {
        let Some(space) = &self.space else {
            return Vec::new();
        };
        let mut strangers: Vec<(PeerId, Stranger)> = self
            .records()
            .filter(|record| is_about_space(record))
            .filter_map(|record| {
                let owner = record.key.owner;
                let is_other = owner != self.local.id && self.routes().reaches(&owner);
                let how = Stranger::from(space, record.content()?).filter(|_| is_other)?;
                Some((owner, how))
            })
            .collect();
        strangers.sort_unstable();
        strangers.dedup();
        strangers
    }

    /// What is to be kept over a restart. Nothing that follows from it is said before
    /// [`Mesh::space_kept`] is called; all else goes on.
    pub fn take_space_saved(&mut self) -> Option<Saved> {
        self.space_saved.take()
    }

    /// What was to be kept is kept: says what follows from it.
    pub fn space_kept(&mut self, now: Instant) {
        let Some(withheld) = self.withheld.take() else {
            return;
        };
        self.say_of_space(withheld.said, withheld.outcomes, now);
        if withheld.overdue {
            self.run_space(now);
        }
    }

    /// Whether something waits for [`Mesh::space_kept`].
    pub fn is_space_withheld(&self) -> bool {
        self.withheld.is_some()
    }

    /// The peer whose id starts so.
    pub fn peer_of_short(&self, short: &ShortId) -> Option<PeerId> {
        Some(self.replica.id(self.replica.slot_of_short(short)?))
    }

    fn with_space(&mut self, now: Instant, act: impl FnOnce(&mut Space)) {
        if let Some(space) = &mut self.space {
            act(space);
        }
        self.run_space(now);
    }

    pub(super) fn apply_space(&mut self, owner: PeerId, body: &Body, now: Instant) {
        let (local, owner_short) = (self.local.id, owner.short_id());
        let Some(space) = self.space.as_mut().filter(|_| owner != local) else {
            return;
        };
        match body {
            Body::Space(said) => space.hear_space(owner_short, said),
            Body::Guard(said) => space.hear_guard(owner_short, said),
            Body::Division(said) => space.hear_division(owner_short, said),
            Body::Node(_) | Body::Links(_) | Body::Stations(_) | Body::Names(_) => {}
        }
        self.space_soon(now);
    }

    /// Others bring what we said before this launch: it stays said until we say
    /// something else, and it may be later than what we know.
    pub(super) fn recall_space(&mut self, record: &Arc<Record>, now: Instant) {
        if !is_about_space(record) {
            return;
        }
        let me = self.local.id.short_id();
        if let (Some(space), Some(body)) = (&mut self.space, record.content()) {
            match body {
                Body::Space(said) => space.hear_space(me, said),
                Body::Guard(said) => space.hear_guard(me, said),
                Body::Division(said) => space.hear_division(me, said),
                Body::Node(_) | Body::Links(_) | Body::Stations(_) | Body::Names(_) => {}
            }
        }
        if record.version.epoch < self.own.epoch() {
            self.replica.merge(record, |_, _| true);
        }
        self.space_soon(now);
    }

    pub(super) fn touch_space(&mut self, now: Instant) {
        if let Some(space) = &mut self.space {
            space.touch();
            self.space_soon(now);
        }
    }

    pub(super) fn forget_in_space(&mut self, peer: PeerId) {
        if let Some(space) = &mut self.space {
            space.forget(peer.short_id());
        }
    }

    pub(super) fn publish_space_again(&mut self, now: Instant) {
        if let Some(space) = &mut self.space {
            space.publish_again();
            self.space_soon(now);
        }
    }

    /// Has the space looked at when it is due, with a pause for more to come in.
    pub(super) fn space_soon(&mut self, now: Instant) {
        let due = self.space.as_ref().and_then(|space| space.deadline(now));
        if let Some(due) = due {
            let pause = TOGETHER_PER_PEER * self.replica.owner_count() as u32;
            let at = due.max(now + pause.clamp(TOGETHER, TOGETHER_MAX));
            self.timers.space = Some(self.timers.space.map_or(at, |before| before.min(at)));
        }
    }

    pub(super) fn run_space(&mut self, now: Instant) {
        self.timers.space = None;
        if let Some(withheld) = &mut self.withheld {
            withheld.overdue = true;
            return;
        }
        let view = view!(self);
        let Some(space) = &mut self.space else {
            return;
        };
        space.run(&view, now);
        self.space_saved = space.take_saved();
        let said = [
            (Topic::Space, space.take_space().map(Body::Space)),
            (Topic::Guard, space.take_guard().map(Body::Guard)),
            (Topic::Division, space.take_division().map(Body::Division)),
        ];
        let said = said
            .into_iter()
            .filter_map(|(topic, body)| Some((topic, body?)))
            .collect();
        let outcomes = std::iter::from_fn(|| space.poll_outcome()).collect();
        while let Some(text) = space.poll_warning() {
            self.events.push_back(Event::SpaceWarning(text));
        }
        if self.space_saved.is_some() {
            self.withheld = Some(Withheld {
                said,
                outcomes,
                overdue: false,
            });
        } else {
            self.say_of_space(said, outcomes, now);
        }
    }

    fn say_of_space(&mut self, said: Vec<(Topic, Body)>, outcomes: Vec<Outcome>, now: Instant) {
        let outcomes = outcomes.into_iter().map(Event::Space);
        self.events.extend(outcomes);
        for (topic, body) in said {
            self.publish(topic, body, now);
        }
        self.space_soon(now);
    }
}

fn is_about_space(record: &Record) -> bool {
    matches!(
        record.key.topic,
        Topic::Space | Topic::Guard | Topic::Division
    )
}
