//! How far others know what we own: guards chosen, restarts, what may be used.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use proto::{
    ShortId,
    space::{self as wire, Block},
};

use super::{
    Peers, Space,
    span::{self, Span},
};

/// Serials leap at every launch, so that none is used for two different things.
pub(super) const LEAP: u64 = 1 << 20;
/// A guard that is silent for so long is replaced if there is another.
const REPLACE: Duration = Duration::from_secs(60);

/// Of so many guards as many make a majority together with their ward.
pub(super) fn enough(guards: usize) -> usize {
    guards.div_ceil(2)
}

/// The highest serial that enough of the guards, of both sets, keep in mind. Those who
/// are gone may have voted before, so as many of the living must know as of all; or all
/// of them, where they are fewer.
fn known_serial(
    (guards, former): (&[ShortId], &[ShortId]),
    gone: impl Fn(ShortId) -> bool,
    guard: impl Fn(ShortId) -> Option<u64>,
) -> u64 {
    let of = |set: &[ShortId]| {
        let alive: Vec<ShortId> = set.iter().copied().filter(|peer| !gone(*peer)).collect();
        let needed = enough(set.len()).min(alive.len());
        let Some(last) = needed.checked_sub(1) else {
            return u64::MAX;
        };
        let mut known: Vec<u64> = alive.iter().map(|peer| guard(*peer).unwrap_or(0)).collect();
        known.sort_unstable_by(|a, b| b.cmp(a));
        known[last]
    };
    of(guards).min(of(former))
}

impl Space {
    /// Notes who cannot be reached of those that matter.
    pub(super) fn note_absent(&mut self, peers: &impl Peers, now: Instant) {
        let guards = self.mine.guards.iter().chain(&self.mine.former);
        let matter: BTreeSet<ShortId> = self.wards.iter().chain(guards).copied().collect();
        self.absent
            .retain(|peer, _| matter.contains(peer) && !peers.reaches(*peer));
        for peer in matter {
            if !peers.reaches(peer) {
                self.absent.entry(peer).or_insert(now);
            }
        }
    }

    /// What a guard says of an owner.
    pub(super) fn ack_of(&self, guard: ShortId, ward: ShortId) -> Option<&wire::Ack> {
        let said = if guard == self.me {
            &self.guard
        } else {
            self.heard.get(&guard)?
        };
        said.acks.iter().find(|ack| ack.ward == ward)
    }

    /// Whether an operator said that a peer is gone, and it is.
    pub(super) fn is_gone(&self, peer: ShortId) -> bool {
        self.gone.contains(&peer)
    }

    /// Looks again who is gone, because somebody says something else.
    pub(super) fn note_gone(&mut self) {
        let said = self.heard.values().chain([&self.guard]);
        let said = said.flat_map(|guard| &guard.gone);
        self.gone = said.chain(&self.farewells).copied().collect();
    }

    /// How far enough guards know what an owner said in its present life.
    pub(super) fn settled_serial(&self, ward: ShortId, space: &wire::Space) -> u64 {
        known_serial(
            (&space.guards, &space.former),
            |peer| self.is_gone(peer),
            |guard| {
                let ack = self.ack_of(guard, ward)?;
                (ack.life == space.life).then_some(ack.serial)
            },
        )
    }

    /// A launch uses nothing until enough guards have heard of it and know
    /// nothing later.
    pub(super) fn recover(&mut self) {
        if self.recovered {
            return;
        }
        let mine = &self.mine;
        let (me, life, serial) = (self.me, mine.life, mine.serial);
        let mut all = mine.guards.iter().chain(&mine.former);
        let behind = all.any(|guard| {
            !self.is_gone(*guard)
                && self
                    .ack_of(*guard, me)
                    .is_some_and(|ack| (ack.life, ack.serial) > (life, serial))
        });
        self.behind = behind;
        if behind {
            return;
        }
        let mine = &self.mine;
        let fresh = |guard: ShortId| {
            let ack = self.ack_of(guard, me)?;
            let answers = ack.instance == self.instance && ack.life == life;
            // Who agreed that another takes everything may not know yet that it is decided.
            (answers && !self.is_buried_by(guard, me, life)).then_some(ack.serial)
        };
        // Who answered counts, however little it knows.
        let answered = known_serial(
            (&mine.guards, &mine.former),
            |peer| self.is_gone(peer),
            |guard| fresh(guard).map(|serial| serial.saturating_add(1)),
        );
        if answered == 0 {
            return;
        }
        self.yield_to_census();
        self.recovered = true;
        self.stale = true;
        self.mine.serial += LEAP;
        let serial = self.mine.serial + 1;
        let mine = &mut self.mine;
        // Not so what was gained: guards may know it by the serial it had.
        for waiting in &mut mine.pending {
            waiting.0 = serial;
        }
        let unknown: Vec<Span> = self.unaccounted();
        self.mine
            .pending
            .extend(unknown.into_iter().map(|span| (serial, span)));
        self.changed = !self.mine.blocks.is_empty() || !self.used.is_empty() || serial > LEAP + 1;
    }

    /// What is held and neither usable nor about to be.
    fn unaccounted(&self) -> Vec<Span> {
        let mut held: Vec<Span> = Vec::new();
        for block in self.mine.blocks.iter().filter(|block| block.held) {
            span::insert(&mut held, Span::of(block));
        }
        let pending = self.mine.pending.iter().map(|(_, span)| span);
        for known in self.mine.usable.iter().chain(pending) {
            span::remove(&mut held, *known);
        }
        held
    }

    /// What enough guards know by now may be used.
    pub(super) fn settle(&mut self) {
        let mine = &self.mine;
        let awaits = !(mine.pending.is_empty() && mine.former.is_empty() && mine.gains.is_empty());
        if !self.recovered || !awaits || self.is_sentenced() {
            return;
        }
        let settled = self.own_settled();
        let mine = &mut self.mine;
        let before = mine.pending.len();
        for (serial, span) in mine.pending.iter().filter(|(serial, _)| *serial <= settled) {
            span::insert(&mut mine.usable, *span);
            mine.effective = mine.effective.map(|effective| effective.max(*serial));
        }
        mine.pending.retain(|(serial, _)| *serial > settled);
        mine.gains.retain(|(serial, _)| *serial > settled);
        self.dirty.saved |= mine.pending.len() != before;
        if !mine.former.is_empty() && settled >= mine.serial && !self.changed {
            mine.former.clear();
            self.changed = true;
        }
    }

    /// How far enough guards know what we said in this launch.
    pub(super) fn own_settled(&self) -> u64 {
        let mine = &self.mine;
        known_serial(
            (&mine.guards, &mine.former),
            |peer| self.is_gone(peer),
            |guard| {
                let ack = self.ack_of(guard, self.me)?;
                let ours = ack.life == mine.life && ack.instance == self.instance;
                ours.then_some(ack.serial)
            },
        )
    }

    /// Names enough guards, and replaces those that are gone for long. While the former ones
    /// are still asked, whoever is lost of the new ones gives way at once: each set between
    /// counts only together with the former, and so shares a guard with all others.
    pub(super) fn choose_guards(&mut self, peers: &impl Peers, now: Instant) {
        let needed = self.recovered && (!self.mine.blocks.is_empty() || self.ask.is_some());
        if !needed {
            return;
        }
        let changes = !self.mine.former.is_empty();
        let is_lost = |peer: &ShortId| {
            let since = self.absent.get(peer);
            self.is_gone(*peer) || since.is_some_and(|since| *since + REPLACE <= now)
        };
        let mine = &self.mine;
        let is_full = changes || mine.guards.len() >= wire::GUARDS;
        if is_full && !mine.guards.iter().any(is_lost) {
            return;
        }
        let mut others = peers.candidates();
        others.retain(|peer| !mine.guards.contains(peer) && *peer != self.me);
        others.sort_by_key(|peer| (weight(self.me, *peer), *peer));
        let mut guards = mine.guards.clone();
        guards.retain(|peer| !self.is_gone(*peer));
        let lost: Vec<ShortId> = guards.iter().copied().filter(is_lost).collect();
        let replaced = if changes { lost.len() } else { others.len() };
        for old in lost.iter().take(replaced) {
            guards.retain(|peer| peer != old);
        }
        let room = wire::GUARDS.saturating_sub(guards.len());
        guards.extend(others.into_iter().take(room));
        guards.sort_unstable();
        let mut before = mine.guards.clone();
        before.sort_unstable();
        if guards == before || (changes && guards.is_empty()) {
            return;
        }
        if !changes {
            self.mine.former = before;
        }
        self.mine.guards = guards;
        self.changed = true;
    }

    /// Adds a run that became ours: part of it is held, the rest is spare.
    pub(super) fn gain(&mut self, span: Span, epoch: u32) {
        let held = span::held_share(span.len());
        let parts = [
            (Span::new(span.start, held), true),
            (Span::new(span.start + held, span.len() - held), false),
        ];
        for (part, held) in parts {
            let block = Block {
                start: part.start,
                len: part.len(),
                epoch,
                held,
            };
            span::put(&mut self.mine.blocks, block);
            if held {
                span::insert(&mut self.mine.usable, part);
            }
        }
        // The serial that this change will get.
        self.mine.gains.push((self.mine.serial + 1, span));
        self.mine.effective = Some(self.mine.serial + 1);
        self.tried.clear();
        self.rounds = 0;
        self.asking_since = None;
        self.changed = true;
        self.stale = true;
    }

    /// Takes a run away from what we own.
    pub(super) fn lose(&mut self, gone: Span) -> Vec<Block> {
        let lost = span::cut(&mut self.mine.blocks, gone);
        span::remove(&mut self.mine.usable, gone);
        let pending = std::mem::take(&mut self.mine.pending);
        self.mine.pending = pending
            .into_iter()
            .flat_map(|(serial, span)| span.minus(gone).map(move |part| (serial, part)))
            .collect();
        if !lost.is_empty() {
            self.changed = true;
            self.stale = true;
        }
        lost
    }
}

/// Spreads wards evenly over guards (rendezvous hashing).
pub(super) fn weight(ward: ShortId, guard: ShortId) -> u64 {
    let (a, b) = (u64::from_be_bytes(ward.0), u64::from_be_bytes(guard.0));
    let x = (a ^ b.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x ^ x >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ x >> 32
}
