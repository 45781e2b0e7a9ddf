//! Single stories of the address space.

use std::{
    net::Ipv6Addr,
    time::{Duration, Instant},
};

use proto::{
    record::{Body, MAX_BODY},
    space::{self as wire, Block, Gift, Ring, Taken},
};

use super::{
    Init, Span,
    world::{DEAD, World, id},
};

#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some instant to count from"
)]
pub(super) fn some_instant() -> Instant {
    Instant::now()
}

/// Lets everybody hear everything, some times.
fn talk(world: &mut World, rounds: u32) {
    for _ in 0..rounds {
        world.talk();
        world.check();
    }
}

fn ask(world: &mut World, at: usize, wish: u64) {
    if let Some(space) = &mut world.nodes[at].space {
        space.allocate(wish, space.range());
    }
    world.run(at);
}

fn owned(world: &World, at: usize) -> u32 {
    let space = world.nodes[at].space.as_ref();
    space.map_or(0, |space| {
        space.mine.blocks.iter().map(|block| block.len).sum()
    })
}

#[test]
fn a_peer_alone_asks_nobody() {
    let mut world = World::new(1, 24, Init::Consensus(1));
    ask(&mut world, 0, 1);
    talk(&mut world, 3);
    assert_eq!((world.given, owned(&world, 0)), (1, 256));
}

#[test]
fn a_minority_divides_nothing() {
    let mut world = World::new(3, 24, Init::Consensus(3));
    world.part = vec![0, 1, 1];
    ask(&mut world, 0, 1);
    talk(&mut world, 20);
    assert_eq!(world.given, 0);
    world.part.fill(0);
    talk(&mut world, 20);
    assert_eq!(world.given, 1, "{}", world.story());
}

#[test]
fn who_has_nothing_is_given_some() {
    let mut world = World::new(3, 24, Init::Consensus(1));
    world.part = vec![0, 1, 2];
    ask(&mut world, 0, 1);
    talk(&mut world, 5);
    world.part.fill(0);
    ask(&mut world, 1, 2);
    ask(&mut world, 2, 3);
    talk(&mut world, 40);
    assert_eq!(world.given, 3, "{}", world.story());
    assert!(owned(&world, 1) > 0 && owned(&world, 2) > 0);
    world.check_calm();
}

#[test]
fn who_cannot_be_reached_yet_is_waited_for() {
    let mut world = World::new(2, 24, Init::Consensus(1));
    world.part = vec![0, 1];
    ask(&mut world, 0, 1);
    talk(&mut world, 5);
    world.part.fill(0);
    talk(&mut world, 3);
    world.part = vec![0, 1];
    ask(&mut world, 1, 2);
    talk(&mut world, 5);
    assert_eq!(world.refused, 0, "{}", world.story());
    world.part.fill(0);
    talk(&mut world, 20);
    assert_eq!(world.given, 2, "{}", world.story());
    // But not for ever.
    world.part = vec![0, 1];
    if let Some(space) = &mut world.nodes[1].space {
        space.allocate(3, Span::new(0, 64));
    }
    talk(&mut world, 40);
    assert_eq!(world.refused, 1, "{}", world.story());
}

#[test]
fn an_owner_that_falls_silent_while_its_guards_change_is_buried() {
    let mut world = World::new(3, 24, Init::Consensus(1));
    world.part = vec![0, 1, 2];
    ask(&mut world, 0, 1);
    talk(&mut world, 3);
    world.part = vec![0, 0, 1];
    talk(&mut world, 10);
    world.part.fill(0);
    world.run(0);
    world.tell(0, 1, || false);
    world.tell(0, 2, || false);
    world.kill(0);
    talk(&mut world, 10);
    world.now += DEAD;
    talk(&mut world, 40);
    let survivors = owned(&world, 1) + owned(&world, 2);
    assert_eq!(survivors, 192, "{}", world.story());
    world.launch(0, usize::MAX);
    talk(&mut world, 40);
    world.check_calm();
}

#[test]
fn former_guards_that_are_all_gone_are_not_waited_for() {
    let mut world = World::new(3, 24, Init::Consensus(1));
    world.part = vec![0, 1, 2];
    ask(&mut world, 0, 1);
    talk(&mut world, 3);
    world.part = vec![0, 0, 1];
    talk(&mut world, 10);
    world.part.fill(0);
    world.run(0);
    world.tell(0, 2, || false);
    world.destroy(0);
    world.destroy(1);
    talk(&mut world, 5);
    world.order(2, id(1), false);
    world.order(2, id(0), false);
    talk(&mut world, 40);
    assert_eq!(owned(&world, 2), 256, "{}", world.story());
    world.check_calm();
}

/// Most of the guards that were just named fall silent: those before still decide, so the
/// lost ones give way to them.
#[test]
fn new_guards_that_are_lost_at_once_hold_up_nobody() {
    let mut world = World::new(5, 24, Init::Consensus(1));
    world.part = vec![0, 1, 2, 3, 4];
    ask(&mut world, 0, 1);
    talk(&mut world, 3);
    world.part[1] = 0;
    talk(&mut world, 10);
    world.part.fill(0);
    world.run(0);
    for at in 2..5 {
        world.kill(at);
    }
    let wishes = 2..120;
    wishes.for_each(|wish| ask(&mut world, 0, wish));
    talk(&mut world, 5);
    assert_eq!(world.given, 63, "{}", world.story());
    world.now += DEAD;
    talk(&mut world, 10);
    assert_eq!(world.given, 119, "{}", world.story());
    for at in 2..5 {
        world.launch(at, usize::MAX);
    }
    talk(&mut world, 40);
    world.check_calm();
}

/// A guard that heard of nothing that a dead peer owned votes with one that did.
#[test]
fn who_knows_less_of_the_dead_votes_all_the_same() {
    let mut world = World::new(3, 24, Init::Consensus(1));
    world.part = vec![0, 1, 2];
    ask(&mut world, 0, 1);
    talk(&mut world, 5);
    world.part.fill(0);
    talk(&mut world, 10);
    ask(&mut world, 1, 2);
    world.run(1);
    world.tell(1, 2, || false);
    world.run(2);
    for _ in 0..10 {
        world.now += Duration::from_millis(300);
        world.run(1);
        world.tell(1, 0, || false);
        world.run(0);
        world.tell(0, 1, || false);
    }
    assert!(owned(&world, 1) > 0, "{}", world.story());
    world.destroy(1);
    // Too many were ever there for a census.
    for at in [0, 2] {
        if let Some(space) = &mut world.nodes[at].space {
            space.roll.extend((100..100 + wire::ROLL).map(id));
        }
        world.order(at, id(1), false);
    }
    talk(&mut world, 40);
    assert_eq!(owned(&world, 0), 256, "{}", world.story());
    world.check_calm();
}

/// Who left is not waited for by those who were launched anew since.
#[test]
fn a_farewell_outlives_those_who_heard_it() {
    let mut world = World::new(4, 24, Init::Consensus(4));
    ask(&mut world, 0, 1);
    talk(&mut world, 20);
    world.leave(3);
    for _ in 0..20 {
        talk(&mut world, 1);
        world.let_go(true);
    }
    assert!(world.nodes[3].destroyed, "{}", world.story());
    for at in 0..3 {
        world.kill(at);
        world.launch(at, usize::MAX);
    }
    talk(&mut world, 20);
    world.destroy(0);
    world.destroy(1);
    for gone in [0, 1] {
        world.order(2, id(gone), false);
    }
    talk(&mut world, 40);
    assert_eq!(owned(&world, 2), 256, "{}", world.story());
    world.check_calm();
}

#[test]
fn silence_brings_back_what_was_not_held() {
    let mut world = World::new(3, 24, Init::Consensus(3));
    ask(&mut world, 0, 1);
    talk(&mut world, 20);
    let all: u32 = (0..3).map(|at| owned(&world, at)).sum();
    assert_eq!(all, 256);
    world.kill(2);
    talk(&mut world, 20);
    assert_eq!(owned(&world, 0) + owned(&world, 1), 170);
    world.now += DEAD;
    talk(&mut world, 40);
    let survivors = owned(&world, 0) + owned(&world, 1);
    assert_eq!(survivors, 170 + 43, "{}", world.story());
    world.launch(2, usize::MAX);
    talk(&mut world, 20);
    assert_eq!(owned(&world, 2), 43);
    world.check_calm();
}

#[test]
fn a_share_can_be_taken_before_its_owner_said_a_word() {
    let mut world = World::new(2, 24, Init::Consensus(2));
    ask(&mut world, 0, 1);
    // Both know of the division, and neither has heard what the other owns.
    while world
        .nodes
        .iter()
        .any(|node| node.space.as_ref().is_none_or(|space| space.ring.is_none()))
    {
        world.tell(0, 1, || false);
        world.run(1);
        world.tell(1, 0, || false);
        world.run(0);
        world.now += Duration::from_millis(300);
    }
    world.order(1, id(0), true);
    talk(&mut world, 20);
    assert_eq!(owned(&world, 0), 64, "{}", world.story());
    assert_eq!(owned(&world, 1), 192, "{}", world.story());
    world.check_calm();
}

#[test]
fn a_word_brings_back_all_of_it() {
    let mut world = World::new(3, 24, Init::Consensus(3));
    ask(&mut world, 0, 1);
    talk(&mut world, 20);
    world.destroy(2);
    for at in 0..2 {
        world.order(at, id(2), false);
    }
    talk(&mut world, 20);
    assert_eq!(
        owned(&world, 0) + owned(&world, 1),
        256,
        "{}",
        world.story()
    );
    world.check_calm();
}

#[test]
fn who_leaves_gives_everything_back() {
    let mut world = World::new(3, 24, Init::Consensus(3));
    ask(&mut world, 0, 1);
    talk(&mut world, 20);
    if let Some(space) = &mut world.nodes[2].space {
        space.leave();
    }
    talk(&mut world, 20);
    assert_eq!(
        owned(&world, 0) + owned(&world, 1),
        256,
        "{}",
        world.story()
    );
    assert!(
        world.nodes[2]
            .space
            .as_ref()
            .is_some_and(super::Space::has_left)
    );
}

#[test]
fn all_are_reset_in_turn() {
    let mut world = World::new(6, 24, Init::Consensus(1));
    (3..6).for_each(|later| world.kill(later));
    world.part = (0..6).collect();
    ask(&mut world, 0, 1);
    talk(&mut world, 3);
    world.part.fill(0);
    talk(&mut world, 10);
    for at in 0..3 {
        world.leave(at);
        for _ in 0..20 {
            talk(&mut world, 1);
            world.let_go(true);
        }
        assert!(world.nodes[at].destroyed, "{}", world.story());
        let all: u32 = (0..6).map(|at| owned(&world, at)).sum();
        assert_eq!(all, 256, "{}", world.story());
        // Its next self wants one, and gives it back at once.
        world.launch(at + 3, 0);
        talk(&mut world, 4);
        ask(&mut world, at + 3, 10 + at as u64);
        talk(&mut world, 10);
        let node = &mut world.nodes[at + 3];
        assert_eq!(node.containers.len(), 1);
        for gone in std::mem::take(&mut node.containers) {
            node.space.iter_mut().for_each(|space| space.release(gone));
        }
    }
    assert_eq!(world.refused, 0, "{}", world.story());
}

#[test]
fn the_fullest_record_fits() {
    let peer = id(1);
    let mut space = wire::Space {
        ring: Ring {
            id: u64::MAX,
            base: u32::MAX,
            prefix: 8,
        },
        life: 1 << 20,
        serial: 1 << 40,
        guards: vec![peer; wire::GUARDS],
        former: vec![peer; wire::GUARDS],
        blocks: Vec::new(),
        gifts: Vec::new(),
        taken: Vec::new(),
        lost: Vec::new(),
        claims: Vec::new(),
        ask: Some(wire::Ask {
            donor: peer,
            start: 1 << 23,
            len: 1 << 24,
        }),
        range6: Some(wire::Range6 {
            base: Ipv6Addr::from_bits(u128::MAX),
            prefix: 128,
        }),
        leaving: true,
    };
    // Claims and tales of takeovers give way to these.
    let (start, len, epoch) = ((1 << 24) - 1, 1 << 23, 1000);
    let block = Block {
        start,
        len,
        epoch,
        held: true,
    };
    space.blocks = vec![block; wire::BLOCKS];
    let gift = Gift {
        start,
        len,
        epoch,
        to: peer,
        since: 1 << 40,
    };
    space.gifts = vec![gift; wire::GIFTS];
    let taken = Taken {
        peer,
        life: 3,
        serial: 1 << 40,
        gone: true,
        runs: vec![(start, len); 2],
    };
    space.taken = vec![taken; 1];
    let began = wire::Began {
        serial: 1 << 40,
        heir: peer,
        gone: true,
    };
    space.lost = vec![wire::Lost { life: 3, began }; wire::LOST];
    let len = Body::Space(space).encode().len();
    assert!(len <= MAX_BODY, "{len}");
}

#[test]
fn the_fullest_division_fits() {
    let peer = id(1);
    let ballot = wire::Ballot {
        round: u32::MAX,
        proposer: peer,
    };
    let founding = wire::Founding {
        id: u64::MAX,
        quorum: u16::MAX,
        founders: vec![peer; wire::FOUNDERS],
    };
    let division = wire::Division {
        base: u32::MAX,
        prefix: 8,
        promised: ballot,
        accepted: Some((ballot, founding)),
        decided: true,
        roll: vec![peer; wire::ROLL + 1],
        call: Some(wire::Call {
            ring: u64::MAX,
            life: 1 << 20,
            guards: vec![peer; 2 * wire::GUARDS],
        }),
        census: Some(wire::Census {
            ring: u64::MAX,
            proposer: peer,
            id: u64::MAX,
            epoch: 1 << 20,
            runs: vec![((1 << 24) - 1, 1 << 23); wire::CENSUS],
        }),
        begun: u64::MAX,
        done: u64::MAX,
    };
    let len = Body::Division(division).encode().len();
    assert!(len <= MAX_BODY, "{len}");
}

/// Two of three founders are gone, and with them all who ever heard of the share of
/// one; then the last one has everything.
#[test]
fn what_nobody_knows_of_comes_back_by_a_census() {
    let mut world = World::new(3, 24, Init::Consensus(3));
    ask(&mut world, 0, 1);
    talk(&mut world, 20);
    ask(&mut world, 1, 2);
    talk(&mut world, 3);
    world.destroy(0);
    world.destroy(1);
    talk(&mut world, 5);
    assert_eq!(owned(&world, 2), 86, "{}", world.story());
    world.order(2, id(0), false);
    talk(&mut world, 20);
    assert_eq!(
        owned(&world, 2),
        86,
        "one of two that are not there may live"
    );
    world.order(2, id(1), false);
    talk(&mut world, 20);
    assert_eq!(owned(&world, 2), 256, "{}", world.story());
    world.check_calm();
}

/// A guard that is cut off may have been given some of it.
#[test]
fn a_census_waits_for_all_who_live() {
    let mut world = World::new(4, 24, Init::Consensus(4));
    ask(&mut world, 0, 1);
    talk(&mut world, 20);
    world.part = vec![0, 1, 0, 0];
    world.destroy(2);
    world.destroy(3);
    for gone in [2, 3] {
        world.order(0, id(gone), false);
    }
    talk(&mut world, 40);
    assert_eq!(owned(&world, 0), 64, "{}", world.story());
    world.part.fill(0);
    talk(&mut world, 40);
    assert_eq!(
        owned(&world, 0) + owned(&world, 1),
        256,
        "{}",
        world.story()
    );
    world.check_calm();
}

/// An owner whose state is deleted is another peer from then on, and what it was is gone.
#[test]
fn an_owner_that_forgets_its_state_is_followed_at_once() {
    let mut world = World::new(4, 24, Init::Consensus(1));
    world.kill(3);
    world.part = vec![0, 1, 2, 3];
    for wish in 1..4 {
        ask(&mut world, 0, wish);
    }
    talk(&mut world, 5);
    world.part.fill(0);
    talk(&mut world, 10);
    world.destroy(0);
    world.launch(3, 0);
    // Its containers run on.
    let used: Vec<u32> = (1..4).collect();
    if let Some(space) = &mut world.nodes[3].space {
        used.iter().for_each(|at| space.hold(*at));
    }
    talk(&mut world, 8);
    world.order(1, id(0), false);
    world.order(2, id(0), false);
    talk(&mut world, 2);
    println!("{}", world.story());
    ask(&mut world, 1, 10);
    ask(&mut world, 2, 11);
    ask(&mut world, 3, 12);
    talk(&mut world, 40);
    assert_eq!(world.refused, 0, "{}", world.story());
    assert_eq!(world.given, 6, "{}", world.story());
    world.check_calm();
}

/// An heir gave what it took to somebody, and is gone before the former owner hears of it.
#[test]
fn what_an_heir_gave_away_is_not_taken_back_when_it_is_gone() {
    let mut world = World::new(5, 26, Init::Consensus(5));
    ask(&mut world, 4, 1);
    talk(&mut world, 20);
    let spans = |world: &World, at: usize| -> Vec<Span> {
        let space = world.nodes[at].space.iter();
        let blocks = space.flat_map(|space| &space.mine.blocks);
        blocks.map(Span::of).collect()
    };
    let before = spans(&world, 4);
    world.part[4] = 1;
    world.run(4);
    talk(&mut world, 2);
    world.now += DEAD;
    talk(&mut world, 20);
    let meets = |world: &World, at: usize| {
        let mut now = spans(world, at).into_iter();
        now.any(|span| before.iter().any(|had| had.meet(span).is_some()))
    };
    let heirs: Vec<usize> = (0..4).filter(|at| meets(&world, *at)).collect();
    let [heir] = *heirs else {
        panic!("{heirs:?}\n{}", world.story());
    };
    let given_to = (heir + 1) % 4;
    for wish in 10..60 {
        if !meets(&world, given_to) {
            ask(&mut world, given_to, wish);
            talk(&mut world, 4);
        }
    }
    assert!(meets(&world, given_to), "{}", world.story());
    // The former owner hears of it all by those who are neither.
    world.part = vec![1; 5];
    world.part[given_to] = 0;
    world.destroy(heir);
    talk(&mut world, 10);
    world.order(4, id(heir), false);
    for wish in 100..120 {
        ask(&mut world, 4, wish);
    }
    talk(&mut world, 40);
    world.part.fill(0);
    talk(&mut world, 60);
    world.check_calm();
}
