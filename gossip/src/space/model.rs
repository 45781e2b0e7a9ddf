//! All interleavings of a few steps of three peers, with the real core: before the
//! division, and from a settled one on, whatever happens next and in whatever order.
//! `WOVE_DEPTH` says how many steps.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use super::{
    Init,
    world::{DEAD, World, id},
};

/// Steps in every test run.
const DEPTH: u32 = 4;
const PEERS: usize = 3;

/// One thing that can happen.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// All that one peer knows reaches another.
    Tell(usize, usize),
    /// Some time passes.
    Wait,
    /// So much time passes that silence is death.
    Silence,
    Allocate(usize),
    /// A daemon is killed, or launched.
    Toggle(usize),
    /// One peer is cut off, or not any more.
    Cut,
    /// The host of one peer is gone.
    Destroy,
    /// The operator says so.
    Order,
    /// The operator takes from one that lives.
    Force,
}

fn steps() -> Vec<Step> {
    let pairs = (0..PEERS).flat_map(|a| (0..PEERS).map(move |b| (a, b)));
    let told = pairs.filter(|(a, b)| a != b).map(|(a, b)| Step::Tell(a, b));
    let each = (0..PEERS).flat_map(|at| [Step::Allocate(at), Step::Toggle(at)]);
    let rest = [
        Step::Wait,
        Step::Silence,
        Step::Cut,
        Step::Destroy,
        Step::Order,
        Step::Force,
    ];
    told.chain(each).chain(rest).collect()
}

impl World {
    fn take(&mut self, step: Step) {
        match step {
            Step::Tell(from, to) => {
                self.tell(from, to, || false);
                self.run(to);
            }
            Step::Wait => self.pass(Duration::from_millis(400)),
            Step::Silence => self.pass(DEAD),
            Step::Allocate(at) => {
                let number = self.given + self.refused;
                if let Some(space) = &mut self.nodes[at].space {
                    space.allocate(u64::from(number), space.range());
                }
                self.run(at);
            }
            Step::Toggle(at) if self.nodes[at].space.is_some() => self.kill(at),
            Step::Toggle(at) => self.launch(at, usize::MAX),
            Step::Cut => self.part[0] = 1 - self.part[0],
            Step::Destroy => self.destroy(2),
            Step::Order if self.nodes[2].destroyed => self.order(0, id(2), false),
            Step::Order => {}
            Step::Force => self.order(0, id(1), true),
        }
        self.check();
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        for at in 0..self.nodes.len() {
            self.run(at);
        }
    }
}

/// All that can follow in so many steps; a world that was seen before with as many
/// steps to go is not gone through again.
fn explore(world: &World, depth: u32, all: &[Step], seen: &mut HashMap<u64, u32>) {
    let mut hasher = DefaultHasher::new();
    world.state().hash(&mut hasher);
    let known = seen.entry(hasher.finish()).or_insert(0);
    if *known > depth {
        return;
    }
    *known = depth + 1;
    if depth == 0 {
        return;
    }
    for step in all {
        let mut next = world.clone();
        next.log.push(format!("{step:?}"));
        next.take(*step);
        explore(&next, depth - 1, all, seen);
    }
}

fn depth() -> u32 {
    let depth = std::env::var("WOVE_DEPTH").ok();
    depth.and_then(|n| n.parse().ok()).unwrap_or(DEPTH)
}

/// From the very beginning: the first division.
#[test]
fn no_interleaving_divides_the_range_twice() {
    let mut world = World::new(PEERS, 28, Init::Consensus(PEERS));
    for at in 0..PEERS {
        world.take(Step::Allocate(at));
    }
    let mut seen = HashMap::new();
    explore(&world, depth(), &steps(), &mut seen);
    eprintln!("{} states from before the division", seen.len());
}

#[test]
fn no_interleaving_gives_an_address_twice() {
    let mut world = World::new(PEERS, 28, Init::Consensus(PEERS));
    world.take(Step::Allocate(0));
    for _ in 0..20 {
        for at in 0..PEERS {
            for other in 0..PEERS {
                world.take(Step::Tell(at, other));
            }
        }
        world.take(Step::Wait);
    }
    assert_eq!(world.given, 1, "{}", world.story());
    let mut seen = HashMap::new();
    explore(&world, depth(), &steps(), &mut seen);
    eprintln!("{} states from a settled division on", seen.len());
}
