//! A few peers with the real core, gossip that loses and reorders, partitions,
//! crashes, restarts from old state, operators; and what must always hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use proto::{
    ShortId,
    space::{Division, Guard, Space as Record},
};

use super::{Init, Outcome, Peers, Saved, Space, SpaceConfig, Span};
use crate::limits;

/// Silence after which an owner is dead.
pub(super) const DEAD: Duration = Duration::from_secs(60);

/// A version, as the mesh orders records.
type Version = (u64, u64);

#[derive(Clone, Debug, Default)]
struct Said {
    space: Option<(Version, Record)>,
    guard: Option<(Version, Guard)>,
    division: Option<(Version, Division)>,
}

/// One host: its daemon may run or not, its containers live on.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) id: ShortId,
    pub(super) space: Option<Space>,
    pub(super) saved: Vec<(u64, Saved)>,
    epoch: u64,
    sequence: u64,
    instance: u32,
    heard: BTreeMap<ShortId, Said>,
    pub(super) containers: BTreeSet<u32>,
    pub(super) destroyed: bool,
}

/// All of it.
#[derive(Clone)]
pub(super) struct World {
    pub(super) nodes: Vec<Node>,
    /// Which part of the network each is in.
    pub(super) part: Vec<u8>,
    pub(super) now: Instant,
    pub(super) prefix: u8,
    pub(super) init: Init,
    launches: u32,
    pub(super) refused: u32,
    pub(super) given: u32,
    pub(super) log: Vec<String>,
}

struct View {
    reached: BTreeSet<ShortId>,
    /// Launches that were heard of, of those that cannot be reached, too.
    launches: BTreeMap<ShortId, u32>,
}

impl Peers for View {
    fn reaches(&self, peer: ShortId) -> bool {
        self.reached.contains(&peer)
    }

    fn instance(&self, peer: ShortId) -> Option<u32> {
        self.launches.get(&peer).copied()
    }

    fn candidates(&self) -> Vec<ShortId> {
        self.reached.iter().copied().collect()
    }

    fn is_seen(&self, _: Ipv4Addr) -> bool {
        false
    }
}

pub(super) fn id(at: usize) -> ShortId {
    ShortId([at as u8 + 1; 8])
}

impl World {
    pub(super) fn new(count: usize, prefix: u8, init: Init) -> Self {
        let node = |at| Node {
            id: id(at),
            space: None,
            saved: Vec::new(),
            epoch: 0,
            sequence: 0,
            instance: 0,
            heard: BTreeMap::new(),
            containers: BTreeSet::new(),
            destroyed: false,
        };
        let mut world = Self {
            nodes: (0..count).map(node).collect(),
            part: vec![0; count],
            now: super::tests::some_instant(),
            prefix,
            init,
            launches: 0,
            refused: 0,
            given: 0,
            log: Vec::new(),
        };
        for at in 0..count {
            world.launch(at, usize::MAX);
        }
        world
    }

    fn connected(&self, a: usize, b: usize) -> bool {
        let up = |at: usize| self.nodes[at].space.is_some();
        a != b && up(a) && up(b) && self.part[a] == self.part[b]
    }

    fn view(&self, at: usize) -> View {
        let others = || (0..self.nodes.len()).filter(|other| *other != at);
        let reached = others().filter(|other| self.connected(at, *other));
        let is_known = |other: &usize| {
            let node = &self.nodes[*other];
            let heard = self.nodes[at].heard.get(&node.id);
            let said = heard.and_then(|said| said.division.as_ref());
            self.connected(at, *other) || said.is_some_and(|(said, _)| said.0 == node.epoch)
        };
        View {
            reached: reached.map(|other| self.nodes[other].id).collect(),
            launches: others()
                .filter(is_known)
                .map(|other| (self.nodes[other].id, self.nodes[other].instance))
                .collect(),
        }
    }

    /// Launches the daemon with the state of some time ago, if somebody is there who
    /// knows what it knew and is heard first; else, or if `back` is beyond all, with the
    /// latest.
    pub(super) fn launch(&mut self, at: usize, back: usize) {
        self.launches += 1;
        let launches = self.launches;
        let config = SpaceConfig {
            base: Ipv4Addr::new(10, 32, 0, 0),
            prefix: self.prefix,
            range6: None,
            init: self.init.clone(),
            dead_after: DEAD,
        };
        let node = &self.nodes[at];
        if node.destroyed || node.space.is_some() {
            return;
        }
        let back = Some(back).filter(|back| (1..node.saved.len()).contains(back));
        let witness = back.and_then(|_| self.witness(at));
        let node = &mut self.nodes[at];
        if let Some(back) = back.filter(|_| witness.is_some()) {
            node.saved.truncate(node.saved.len() - back);
        }
        let state = node.saved.last().cloned();
        node.epoch = state.as_ref().map_or(0, |(epoch, _)| *epoch) + 1;
        node.sequence = 0;
        node.instance = launches;
        node.heard.clear();
        let saved = state.map(|(_, saved)| saved);
        // The epoch is saved by the launch itself.
        if let Some(saved) = &saved {
            node.saved.push((node.epoch, saved.clone()));
        }
        let seed = u64::from(launches);
        let mut space = Space::new(node.id, node.instance, config, saved, seed);
        for held in &node.containers {
            space.hold(*held);
        }
        node.space = Some(space);
        if let Some(witness) = witness {
            self.tell(witness, at, || false);
        }
        self.run(at);
    }

    /// A running peer in the same part that knows all that a killed one knew.
    fn witness(&self, at: usize) -> Option<usize> {
        let gone = &self.nodes[at];
        let (_, saved) = gone.saved.last()?;
        let knows = |other: &usize| {
            let node = &self.nodes[*other];
            let Some(space) = node
                .space
                .as_ref()
                .filter(|_| self.part[*other] == self.part[at])
            else {
                return false;
            };
            let heard = gone.heard.iter().all(|(owner, said)| {
                let theirs = node.heard.get(owner).cloned().unwrap_or_default();
                said.space.as_ref().map(|said| said.0) <= theirs.space.as_ref().map(|said| said.0)
                    && said.guard.as_ref().map(|said| said.0)
                        <= theirs.guard.as_ref().map(|said| said.0)
                    && said.division.as_ref().map(|said| said.0)
                        <= theirs.division.as_ref().map(|said| said.0)
            });
            heard
                && saved.wards.iter().all(|(ward, entry)| {
                    let known = match space.table.get(ward) {
                        Some(entry) => (entry.space.life, entry.space.serial),
                        None if *ward == node.id => (space.mine.life, space.mine.serial),
                        None => return false,
                    };
                    (entry.space.life, entry.space.serial) <= known
                })
        };
        (0..self.nodes.len()).find(knows)
    }

    /// Kills the daemon.
    pub(super) fn kill(&mut self, at: usize) {
        self.nodes[at].space = None;
    }

    /// The host is gone, and its containers.
    pub(super) fn destroy(&mut self, at: usize) {
        self.kill(at);
        self.nodes[at].destroyed = true;
        self.nodes[at].containers.clear();
    }

    /// Lets a daemon do what is due, and looks at what came of it.
    pub(super) fn run(&mut self, at: usize) {
        let view = self.view(at);
        let now = self.now;
        let node = &mut self.nodes[at];
        let Some(space) = &mut node.space else {
            return;
        };
        space.touch();
        space.run(&view, now);
        assert!(space.misses_nothing(), "peer {at} overlooks something");
        if let Some(saved) = space.take_saved() {
            node.saved.push((node.epoch, saved));
            if node.saved.len() > 20 {
                node.saved.remove(0);
            }
        }
        let own = node.heard.entry(node.id).or_default();
        let mut next = || {
            node.sequence += 1;
            (node.epoch, node.sequence)
        };
        // What others would refuse is never heard of again.
        if let Some(said) = space.take_space() {
            assert!(limits::is_space(&said), "{at} says {said:?}");
            own.space = Some((next(), said));
        }
        if let Some(said) = space.take_guard() {
            assert!(limits::is_guard(&said), "{at} says {said:?}");
            own.guard = Some((next(), said));
        }
        if let Some(said) = space.take_division() {
            assert!(limits::is_division(&said), "{at} says {said:?}");
            own.division = Some((next(), said));
        }
        let mut outcomes = Vec::new();
        while let Some(outcome) = space.poll_outcome() {
            outcomes.push(outcome);
        }
        while let Some(text) = space.poll_warning() {
            self.log.push(format!("{at}: {text}"));
        }
        for outcome in outcomes {
            self.settle(at, outcome);
        }
    }

    fn settle(&mut self, at: usize, outcome: Outcome) {
        match outcome.result {
            Ok(grant) => {
                self.given += 1;
                self.log.push(format!("{at} gives out {}", grant.at));
                for other in 0..self.nodes.len() {
                    assert!(
                        !self.nodes[other].containers.contains(&grant.at),
                        "address {} of a container at {other} was given to one at {at}\n{}",
                        grant.at,
                        self.story()
                    );
                }
                self.nodes[at].containers.insert(grant.at);
            }
            Err(why) => {
                self.refused += 1;
                self.log.push(format!("{at} refuses: {why}"));
            }
        }
    }

    pub(super) fn story(&self) -> String {
        let from = self.log.len().saturating_sub(80);
        let mut story = self.log[from..].join("\n");
        for (at, node) in self.nodes.iter().enumerate() {
            if let Some(space) = &node.space {
                story += &format!(
                    "\n{at}: part {} {} life {} serial {} recovered {} guards {:?} former {:?} blocks {:?} gifts {:?} usable {:?} pending {:?} votes {:?} acks {:?} ask {:?} ordered {:?} roll {:?} census {:?} counted {:?} gone {:?} table {:?}",
                    self.part[at],
                    space.view(&self.view(at)).state,
                    space.mine.life,
                    space.mine.serial,
                    space.recovered,
                    space.mine.guards,
                    space.mine.former,
                    space.mine.blocks,
                    space.mine.gifts,
                    space.mine.usable,
                    space.mine.pending,
                    space.guard.votes,
                    space.guard.acks,
                    space.ask,
                    space.ordered,
                    space.roll,
                    space.census,
                    space.counted,
                    space.guard.gone,
                    space.table
                );
            } else {
                story += &format!("\n{at}: down, destroyed {}", node.destroyed);
            }
        }
        story
    }

    /// All that what happens next depends on.
    pub(super) fn state(&self) -> String {
        let nodes = self.nodes.iter().map(|node| {
            let at = node.space.as_ref().map(|space| space.rng.get_word_pos());
            let saved = node.saved.last();
            format!(
                "{:?}{at:?}{saved:?}{:?}{:?}{:?}{}{}",
                node.space,
                node.heard,
                node.containers,
                (node.epoch, node.sequence, node.instance),
                node.destroyed,
                self.launches
            )
        });
        let nodes: String = nodes.collect();
        format!("{nodes}{:?}{:?}", self.part, self.now)
    }

    /// Lets everybody hear everything once.
    pub(super) fn talk(&mut self) {
        let count = self.nodes.len();
        for from in 0..count {
            for to in 0..count {
                self.tell(from, to, || false);
            }
        }
        self.now += Duration::from_millis(300);
        (0..count).for_each(|at| self.run(at));
    }

    /// One way of one exchange: what `from` has goes to `to`; `lost` says of
    /// each record whether it is.
    pub(super) fn tell(&mut self, from: usize, to: usize, mut lost: impl FnMut() -> bool) {
        if !self.connected(from, to) {
            return;
        }
        let said = self.nodes[from].heard.clone();
        let reached = self.view(to);
        for (owner, said) in said {
            // Records of those that cannot be reached are not compared.
            if owner != self.nodes[to].id && !reached.reaches(owner) {
                continue;
            }
            if let Some((version, space)) = said.space.filter(|_| !lost()) {
                self.hear(
                    to,
                    owner,
                    version,
                    |held| &mut held.space,
                    space,
                    Space::hear_space,
                );
            }
            if let Some((version, guard)) = said.guard.filter(|_| !lost()) {
                self.hear(
                    to,
                    owner,
                    version,
                    |held| &mut held.guard,
                    guard,
                    Space::hear_guard,
                );
            }
            if let Some((version, division)) = said.division.filter(|_| !lost()) {
                self.hear(
                    to,
                    owner,
                    version,
                    |held| &mut held.division,
                    division,
                    Space::hear_division,
                );
            }
        }
    }

    fn hear<T>(
        &mut self,
        to: usize,
        owner: ShortId,
        version: Version,
        field: impl Fn(&mut Said) -> &mut Option<(Version, T)>,
        said: T,
        hear: impl Fn(&mut Space, ShortId, &T),
    ) {
        let node = &mut self.nodes[to];
        let held = field(node.heard.entry(owner).or_default());
        if held.as_ref().is_some_and(|(known, _)| *known >= version) {
            return;
        }
        let Some(space) = &mut node.space else {
            return;
        };
        hear(space, owner, &said);
        *held = Some((version, said));
        if owner == node.id && version.0 >= node.epoch {
            node.epoch = version.0 + 1;
            node.sequence = 0;
            space.publish_again();
        }
    }

    /// No address may be used by two, whatever happens next.
    pub(super) fn check(&self) {
        let mut all: Vec<(Span, usize)> = Vec::new();
        for (at, node) in self.nodes.iter().enumerate() {
            let spans = node.space.iter().filter(|space| space.recovered);
            all.extend(
                spans.flat_map(|space| space.mine.usable.iter().map(move |span| (*span, at))),
            );
        }
        all.sort_unstable();
        for pair in all.windows(2) {
            assert!(
                pair[0].0.end <= pair[1].0.start,
                "{:?} and {:?} overlap\n{}",
                pair[0],
                pair[1],
                self.story()
            );
        }
    }

    /// After all is well again: nothing is stuck and nothing is lost.
    pub(super) fn check_calm(&self) {
        let trouble = self.trouble();
        assert!(trouble.is_none(), "{trouble:?}\n{}", self.story());
    }

    /// What is stuck or lost although all is well again.
    pub(super) fn trouble(&self) -> Option<String> {
        let mut all: Vec<Span> = Vec::new();
        let spaces = || self.nodes.iter().filter_map(|node| node.space.as_ref());
        for space in spaces().filter(|space| space.ring.is_some()) {
            let calm = space.recovered
                && space.requests.is_empty()
                && space.mine.pending.is_empty()
                && space.mine.former.is_empty()
                && space.mine.gifts.is_empty()
                && space.guard.votes.is_empty()
                && space.census.is_none()
                && space.ordered.is_empty();
            if !calm {
                return Some(format!("{:?} is stuck", space.me));
            }
            all.extend(space.mine.blocks.iter().map(Span::of));
        }
        all.sort_unstable();
        let total: u32 = all.iter().map(Span::len).sum();
        let whole = 1 << (32 - self.prefix);
        assert!(
            all.is_sorted_by(|a, b| a.end <= b.start),
            "an address has two owners\n{}",
            self.story()
        );
        let divided = spaces().any(|space| space.ring.is_some());
        (divided && total != whole).then(|| format!("{total} of {whole} addresses have an owner"))
    }
}

impl World {
    /// An operator's order at a host.
    pub(super) fn order(&mut self, at: usize, peer: ShortId, force: bool) {
        let view = self.view(at);
        if let Some(space) = &mut self.nodes[at].space
            && view.reaches(peer) == force
        {
            space.take_over(peer, force, &view);
        }
        self.run(at);
    }

    /// A host is reset: it gives everything back.
    pub(super) fn leave(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if let Some(space) = node.space.as_mut().filter(|space| space.ring.is_some()) {
            node.containers.clear();
            space.leave();
        }
        self.run(at);
    }

    /// Whether a peer is gone for good or about to go.
    fn ends(&self, at: usize) -> bool {
        let node = &self.nodes[at];
        node.destroyed || node.space.as_ref().is_some_and(|space| space.leaving)
    }

    /// Who has given everything back ends for good, and so do the last ones; their farewell
    /// is heard or not.
    pub(super) fn let_go(&mut self, heard: bool) {
        for at in 0..self.nodes.len() {
            let mut others = (0..self.nodes.len()).filter(|other| *other != at);
            let is_last = others.clone().all(|other| self.ends(other));
            let is_met = others.any(|other| self.connected(at, other));
            let space = self.nodes[at].space.as_ref();
            let leaving = space.filter(|space| space.leaving);
            if leaving.is_some_and(|space| is_last || (is_met && space.has_left())) {
                for other in 0..self.nodes.len() {
                    self.tell(at, other, || !heard);
                }
                self.destroy(at);
            }
        }
    }
}
