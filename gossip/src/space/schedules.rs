//! Random schedules of the real core: partitions, crashes, restarts from old
//! state, takeovers, lost messages. `WOVE_SCHEDULES` says how many, `WOVE_SEED`
//! from which on.

use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    Init,
    world::{World, id},
};

/// Runs in every test run.
const DEFAULT: u64 = 2000;

fn schedule(seed: u64) -> World {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let count = rng.random_range(2..=5);
    let prefix = rng.random_range(25..=28);
    let mut world = World::new(count, prefix, Init::Consensus(count));
    let steps = rng.random_range(50..300);
    let mut lossy = rng.random_bool(0.5);
    let mut request = 0;
    for step in 0..steps {
        let at = rng.random_range(0..count);
        let other = rng.random_range(0..count);
        match rng.random_range(0..100) {
            0..60 => {
                let loss = if lossy { 0.3 } else { 0.0 };
                world.tell(at, other, || rng.random_bool(loss));
                world.run(other);
            }
            60..70 => {
                let long = rng.random_bool(0.1);
                let pause = if long {
                    rng.random_range(30_000..90_000)
                } else {
                    rng.random_range(20..2000)
                };
                world.now += Duration::from_millis(pause);
                for node in 0..count {
                    world.run(node);
                }
            }
            70..84 => {
                request += 1;
                if let Some(space) = &mut world.nodes[at].space {
                    space.allocate(request, space.range());
                    world.log.push(format!("{at} is asked for an address"));
                }
                world.run(at);
            }
            84..88 => {
                let some = world.nodes[at].containers.iter().next().copied();
                let node = &mut world.nodes[at];
                if let (Some(gone), Some(space)) = (some, &mut node.space) {
                    node.containers.remove(&gone);
                    space.release(gone);
                }
            }
            88..91 => {
                let part = rng.random_range(0..2);
                world.log.push(format!("{at} goes to part {part}"));
                world.part[at] = part;
            }
            91..93 => {
                world.log.push("heal".into());
                world.part.fill(0);
            }
            93 => {
                world.log.push(format!("{at} is killed"));
                world.kill(at);
            }
            94 => {
                world.log.push(format!("{at} is launched"));
                world.launch(at, usize::MAX);
            }
            95 => {
                let back = rng.random_range(0..6);
                world
                    .log
                    .push(format!("{at} is launched with the state {back} saves ago"));
                world.launch(at, back);
            }
            96 => lossy = rng.random_bool(0.5),
            97 if step > 60
                && world.nodes.iter().filter(|node| node.destroyed).count() + 1 < count =>
            {
                world.log.push(format!("{at} is destroyed"));
                world.destroy(at);
            }
            98 => {
                // An operator who tells the truth.
                let gone: Vec<_> = world
                    .nodes
                    .iter()
                    .filter(|node| node.destroyed)
                    .map(|node| node.id)
                    .collect();
                for gone in gone {
                    world.log.push(format!("rmpeer {gone:?} at {at}"));
                    world.order(at, gone, false);
                }
            }
            99 if rng.random_bool(0.3) => {
                let victim = world.nodes[other].id;
                if other != at {
                    world.log.push(format!("rmpeer --force {victim:?} at {at}"));
                    world.order(at, victim, true);
                }
            }
            99 if step > 60 && step % 3 == 0 => {
                world.log.push(format!("{at} is reset"));
                world.leave(at);
            }
            _ => {}
        }
        world.let_go(false);
        world.check();
    }
    world
}

/// Operators say that peers are gone which are only down, and those come back at any time:
/// their containers are gone, what they own may have another owner.
fn schedule_of_returns(seed: u64) -> World {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let count = rng.random_range(3..=5);
    let founders = match rng.random_bool(0.5) {
        true => Init::Seeds(vec![id(0)]),
        false => Init::Seeds((0..count).map(id).collect()),
    };
    let mut world = World::new(count, rng.random_range(25..=28), founders);
    for at in 0..count {
        ask(&mut world, at);
        for _ in 0..rng.random_range(1..8) {
            world.talk();
        }
    }
    for _ in 0..rng.random_range(1..4) {
        // One at a time: of those who know, more than half must be left.
        let down = rng.random_range(0..count);
        world.log.push(format!("{down} is rebooted"));
        world.nodes[down].containers.clear();
        world.kill(down);
        let loss = [0.0, 0.3, 0.6][rng.random_range(0..3)];
        for at in (0..count).filter(|at| *at != down) {
            if rng.random_bool(0.8) {
                world.log.push(format!("rmpeer {down} at {at}"));
                world.order(at, id(down), false);
            }
        }
        let back = rng.random_range(0..60);
        for step in 0..rng.random_range(60..200) {
            let (at, other) = (rng.random_range(0..count), rng.random_range(0..count));
            match rng.random_range(0..10) {
                0 => ask(&mut world, at),
                1 => {
                    world.now += Duration::from_millis(rng.random_range(20..2000));
                    (0..count).for_each(|at| world.run(at));
                }
                _ => {
                    world.tell(at, other, || rng.random_bool(loss));
                    world.run(other);
                }
            }
            if step == back {
                world.log.push(format!("{down} is launched"));
                world.launch(down, usize::MAX);
            }
            world.check();
        }
        world.launch(down, usize::MAX);
        for _ in 0..rng.random_range(0..20) {
            world.talk();
            world.check();
        }
    }
    world
}

fn ask(world: &mut World, at: usize) {
    if let Some(space) = &mut world.nodes[at].space {
        space.allocate(0, space.range());
    }
    world.run(at);
}

/// All that is not destroyed comes up, can reach all, and the operator says who is gone.
fn calm_down(world: &mut World, seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x5eed);
    world.part.fill(0);
    world.log.push("all is well again".into());
    let count = world.nodes.len();
    for at in 0..count {
        world.launch(at, usize::MAX);
    }
    let mut calm = 0;
    for round in 0..400 {
        calm = if round > 60 && world.trouble().is_none() {
            calm + 1
        } else {
            0
        };
        if calm > 20 {
            break;
        }
        if round == 40 {
            let gone: Vec<_> = world
                .nodes
                .iter()
                .filter(|node| node.destroyed)
                .map(|node| node.id)
                .collect();
            for at in 0..count {
                for gone in &gone {
                    world.order(at, *gone, false);
                }
            }
        }
        for from in 0..count {
            for to in 0..count {
                world.tell(from, to, || rng.random_bool(0.05));
            }
        }
        world.now += Duration::from_millis(300);
        for at in 0..count {
            world.run(at);
        }
        world.let_go(true);
        world.check();
    }
}

/// Schedules in which something once went wrong.
const REGRESSIONS: [u64; 40] = [
    66, 653, 792, 913, 1201, 1371, 1454, 1974, 2289, 4006, 5413, 6152, 16_815, 28_640, 40_484,
    43_694, 44_400, 616_656, 618_489, 673_273, 690_472, 55_865, 114_146, 189_295, 251_729, 303_344,
    2_000_590, 10_000_464, 10_022_044, 10_025_194, 10_079_257, 10_120_561, 10_230_592, 10_940_167,
    10_846_267, 40_222_839, 40_647_960, 40_817_724, 40_879_367, 40_899_867,
];

#[test]
fn what_went_wrong_once_does_not_again() {
    for seed in REGRESSIONS {
        let mut world = schedule(seed);
        calm_down(&mut world, seed);
        world.check_calm();
    }
}

#[test]
fn no_schedule_gives_an_address_twice_or_loses_space() {
    all_go_well(schedule);
}

#[test]
fn whoever_was_said_to_be_gone_finds_that_out_before_it_gives_anything() {
    all_go_well(schedule_of_returns);
}

/// Goes through as many schedules as are wanted, and names those that go wrong.
fn all_go_well(schedule: fn(u64) -> World) {
    let count = std::env::var("WOVE_SCHEDULES")
        .ok()
        .and_then(|n| n.parse().ok());
    let from: u64 = std::env::var("WOVE_SEED")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0);
    let (mut given, mut refused, mut wrong) = (0, 0, Vec::new());
    let count = count.unwrap_or(DEFAULT);
    for seed in from..from + count {
        let result = std::panic::catch_unwind(|| {
            let mut world = schedule(seed);
            calm_down(&mut world, seed);
            world
        });
        match result {
            Ok(world) => {
                given += world.given;
                refused += world.refused;
                if let Some(trouble) = world.trouble() {
                    eprintln!("schedule {seed}: {trouble}");
                    if count == 1 {
                        eprintln!("{}", world.story());
                    }
                    wrong.push(seed);
                }
            }
            Err(_) => {
                eprintln!("schedule {seed} failed");
                wrong.push(seed);
            }
        }
    }
    eprintln!("{given} addresses given, {refused} refused");
    assert!(wrong.is_empty(), "{} of {count}: {wrong:?}", wrong.len());
}
