//! Members that say whatever the limits let pass: whoever hears it must not come to say
//! what others refuse, for that would be its last word.

use std::time::Duration;

use proto::{
    ShortId,
    space::{
        self as wire, Ack, Ask, Began, Block, Counted, Gift, Guard, Lost, Space as Record, Taken,
        Vote,
    },
};
use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

use super::{
    Init,
    hear::WARDS,
    world::{World, id},
};
use crate::limits;

const HONEST: usize = 2;
const LIAR: usize = 2;
const RANGE: u32 = 256;

/// Three peers with a share each; the last has become a liar since.
fn world() -> World {
    let mut world = World::new(HONEST + 1, 24, Init::Consensus(HONEST + 1));
    if let Some(space) = &mut world.nodes[0].space {
        space.prime();
    }
    talk(&mut world, 20);
    for at in 0..HONEST {
        let space = world.nodes[at].space.as_ref();
        assert!(space.is_some_and(|space| !space.mine.blocks.is_empty()));
    }
    world
}

fn talk(world: &mut World, rounds: u32) {
    (0..rounds).for_each(|_| world.talk());
}

/// What the liar said last, in honesty.
fn truth(world: &World) -> Option<Record> {
    let space = world.nodes[0].space.as_ref()?;
    Some(space.table.get(&id(LIAR))?.space.clone())
}

/// Has the honest hear it if it passes; then goes on with them.
fn hear(world: &mut World, said: &Record, guard: &Guard) {
    for at in 0..HONEST {
        let Some(space) = &mut world.nodes[at].space else {
            continue;
        };
        if limits::is_space(said) {
            space.hear_space(id(LIAR), said);
        }
        if limits::is_guard(guard) {
            space.hear_guard(id(LIAR), guard);
        }
    }
    for _ in 0..3 {
        for at in 0..HONEST {
            world.run(at);
            world.tell(at, 1 - at, || false);
        }
        world.now += Duration::from_millis(300);
    }
}

fn high(rng: &mut ChaCha8Rng) -> u32 {
    wire::EPOCH_MAX + 1 - rng.random_range(0..4)
}

fn began(heir: ShortId) -> Began {
    Began {
        serial: u64::MAX,
        heir,
        gone: false,
    }
}

/// A lie of each kind that a record has room for, near the highest of what is believed.
fn lie(truth: &Record, rng: &mut ChaCha8Rng) -> (Record, Guard) {
    let mut said = truth.clone();
    let all = [id(0), id(1), id(LIAR)];
    let some = |rng: &mut ChaCha8Rng| *all.choose(rng).unwrap_or(&all[0]);
    said.serial += rng.random_range(1..100);
    if rng.random_bool(0.3) {
        said.life = high(rng);
    }
    if rng.random_bool(0.5) {
        let peer = some(rng);
        said.taken = vec![Taken {
            peer,
            life: high(rng),
            serial: rng.random_range(0..9),
            gone: rng.random_bool(0.5),
            runs: Vec::new(),
        }];
    }
    if rng.random_bool(0.5) {
        let (life, began) = (high(rng), began(some(rng)));
        said.lost = vec![Lost { life, began }];
    }
    if rng.random_bool(0.5) {
        let step = rng.random_range(1..12);
        let epoch = high(rng);
        let block = |start| Block {
            start,
            len: 1,
            epoch,
            held: start % 4 == 0,
        };
        let starts = (0..RANGE).step_by(step).take(wire::BLOCKS);
        said.blocks = starts.map(block).collect();
    }
    if rng.random_bool(0.5) {
        let gift = |rng: &mut ChaCha8Rng| Gift {
            start: rng.random_range(0..RANGE - 8),
            len: rng.random_range(1..8),
            epoch: high(rng),
            to: some(rng),
            since: 0,
        };
        said.gifts = (0..wire::GIFTS).map(|_| gift(rng)).collect();
    }
    said.ask = rng.random_bool(0.7).then(|| Ask {
        donor: some(rng),
        start: 0,
        len: *[1, RANGE].choose(rng).unwrap_or(&1),
    });
    let vote = Vote {
        ward: some(rng),
        life: high(rng),
        promised: wire::Ballot {
            round: rng.random_range(0..9),
            proposer: id(LIAR),
        },
        accepted: None,
    };
    let ack = Ack {
        ward: some(rng),
        instance: 0,
        life: high(rng),
        serial: u64::MAX,
        began: rng.random_bool(0.5).then(|| began(id(LIAR))),
    };
    let guard = Guard {
        acks: vec![ack],
        votes: vec![vote],
        gone: Vec::new(),
        counted: vec![Counted {
            start: rng.random_range(0..1 << 8),
            len: rng.random_range(1..u32::MAX / 2),
            epoch: high(rng),
        }],
    };
    (said, guard)
}

/// `World::run` holds all that is said against the limits.
#[test]
fn no_accepted_lie_makes_our_own_record_invalid() {
    for seed in 0..300 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut world = world();
        let Some(mut truth) = truth(&world) else {
            panic!("nothing is known of the liar");
        };
        for _ in 0..rng.random_range(1..6) {
            let (said, guard) = lie(&truth, &mut rng);
            truth.serial = said.serial;
            hear(&mut world, &said, &guard);
        }
        match seed % 3 {
            0 => world.leave(0),
            1 => {
                world.destroy(LIAR);
                world.order(0, id(LIAR), false);
            }
            _ => world.order(0, id(LIAR), true),
        }
        hear(&mut world, &truth, &Guard::default());
        talk(&mut world, 10);
        // And nobody who is launched anew says otherwise.
        world.kill(1);
        world.launch(1, usize::MAX);
        talk(&mut world, 10);
    }
}

#[test]
fn owners_that_are_gone_leave_room_to_speak_of_those_who_are_there() {
    let mut world = world();
    let Some(truth) = truth(&world) else {
        panic!("nothing is known of the liar");
    };
    let said = Record {
        guards: vec![id(0), id(1)],
        blocks: Vec::new(),
        ..truth
    };
    // Lower ids than any that is there.
    let names = (0..2 * wire::WARDS as u8).map(|n| ShortId([0, 0, 0, 0, 0, 0, 0, n]));
    for at in 0..HONEST {
        if let Some(space) = &mut world.nodes[at].space {
            names.clone().for_each(|name| space.hear_space(name, &said));
        }
    }
    talk(&mut world, 20);
    for at in 0..HONEST {
        let Some(space) = &world.nodes[at].space else {
            continue;
        };
        let acks = &space.guard.acks;
        assert_eq!(acks.len(), wire::WARDS);
        assert!(acks.is_sorted_by(|a, b| a.ward < b.ward));
        for living in [1 - at, LIAR] {
            assert!(acks.iter().any(|ack| ack.ward == id(living)));
        }
    }
}

#[test]
fn the_highest_life_is_never_passed() {
    let mut world = world();
    let Some(mut said) = truth(&world) else {
        panic!("nothing is known of the liar");
    };
    let taken = |life| Taken {
        peer: id(0),
        life,
        serial: u64::MAX,
        gone: false,
        runs: Vec::new(),
    };
    said.serial += 1;
    said.taken = vec![taken(wire::EPOCH_MAX)];
    assert!(!limits::is_space(&said));
    said.taken = vec![taken(wire::EPOCH_MAX - 1)];
    assert!(limits::is_space(&said));
    hear(&mut world, &said, &Guard::default());
    let space = world.nodes[0].space.as_ref();
    assert_eq!(space.map(|space| space.mine.life), Some(wire::EPOCH_MAX));
    // Nobody can end that life any more, and nobody is held up by that.
    world.order(1, id(0), true);
    talk(&mut world, 20);
    let space = world.nodes[0].space.as_ref();
    assert_eq!(space.map(|space| space.mine.life), Some(wire::EPOCH_MAX));
}

/// Guards that lie may say again and again that somebody's space was taken over.
#[test]
fn what_heirs_may_take_is_remembered_for_so_many_lives() {
    let mut world = World::new(1, 24, Init::Consensus(1));
    let space = world.nodes[0].space.as_mut().unwrap();
    let began = Began {
        serial: u64::MAX,
        heir: id(9),
        gone: true,
    };
    for life in 1..500 {
        space.mine.blocks = vec![Block {
            start: 0,
            len: 256,
            epoch: life,
            held: false,
        }];
        space.live_on(life, Some(began));
    }
    let lives: Vec<u32> = space.mine.ceded.iter().map(|(_, life, _)| *life).collect();
    assert_eq!(lives, (371..499).collect::<Vec<_>>());
}

/// A member comes by ever new names, each of which takes us for its guard or allocates
/// from another range, and is forgotten by the mesh.
#[test]
fn of_members_that_come_and_go_only_so_many_are_kept_in_mind() {
    let mut world = world();
    let said = truth(&world).unwrap();
    let space = world.nodes[0].space.as_mut().unwrap();
    let (known, wards) = (space.table.len(), space.wards.len());
    for n in 0..2 * WARDS as u64 {
        let name = ShortId(n.to_be_bytes());
        let mut ward = said.clone();
        ward.guards = vec![id(0)];
        space.hear_space(name, &ward);
        space.forget(name);
        let name = ShortId((n + (1 << 32)).to_be_bytes());
        let mut foreign = said.clone();
        foreign.ring.prefix = 8;
        space.hear_space(name, &foreign);
        space.forget(name);
    }
    assert_eq!(space.wards.len(), WARDS);
    assert_eq!(space.table.len(), known + WARDS - wards);
    assert!(space.foreign.is_empty());
    // Those that we guarded before are among them.
    assert!((1..=HONEST).all(|peer| space.table.contains_key(&id(peer))));
}
