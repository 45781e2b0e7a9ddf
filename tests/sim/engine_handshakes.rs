//! Handshakes that cross, get lost, are replayed or mutated.

use std::{cell::RefCell, rc::Rc};

use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use crate::engine::{World, millis, secs, underlay::Fate};

fn pair(seed: u64) -> World {
    let mut world = World::new(seed);
    world.peers(2);
    world.nodes[0].targets = vec![1];
    world
}

#[test]
fn handshakes_that_cross_end_in_one_pair_of_keys() {
    for seed in 0..20 {
        let mut world = pair(seed);
        world.launch().assert_linked(0, 1, true);
        let mark = world.mark();
        world.flow(0, 1, millis(10), secs(40));
        world.flow(1, 0, millis(10), secs(40));
        world.run_for(secs(41)).assert_delivered_since(mark);
        // Sessions that were replaced are gone by now.
        for host in [0, 1] {
            assert_eq!(world.status(host).counters.sessions, 1, "SEED={seed}");
        }
    }
}

#[test]
fn the_loss_of_any_one_of_the_first_datagrams_is_made_up_for() {
    for dropped in 0..30 {
        let mut world = pair(100 + dropped);
        let mut seen = 0;
        world.net.rule = Some(Box::new(move |_| {
            seen += 1;
            if seen == dropped + 1 {
                Fate::Drop
            } else {
                Fate::Pass
            }
        }));
        world.launch().assert_linked(0, 1, true).assert_full_reach();
    }
}

#[test]
fn the_loss_of_the_first_datagrams_one_way_is_made_up_for() {
    for (seed, from) in [(200, 0), (201, 1)] {
        for dropped in [1, 2, 4, 8] {
            let mut world = pair(seed);
            let mut seen = 0;
            world.net.rule = Some(Box::new(move |leaving| {
                seen += u32::from(leaving.from == from);
                if leaving.from == from && seen <= dropped {
                    Fate::Drop
                } else {
                    Fate::Pass
                }
            }));
            world.launch().run_for(secs(6));
            world.assert_linked(0, 1, true).assert_full_reach();
        }
    }
}

/// Every datagram comes again later, many times over; the ledger refuses a
/// frame that arrives twice.
#[test]
fn replayed_datagrams_change_nothing() {
    let mut world = pair(300);
    let store: Rc<RefCell<Vec<Vec<u8>>>> = Rc::default();
    let (shared, mut rng) = (Rc::clone(&store), ChaCha8Rng::seed_from_u64(300));
    world.net.rule = Some(Box::new(move |leaving| {
        let mut store = shared.borrow_mut();
        store.push(leaving.datagram.to_vec());
        let again = rng.random_range(0..store.len());
        Fate::Become(vec![leaving.datagram.to_vec(), store[again].clone()])
    }));
    world.launch().flow(0, 1, millis(10), secs(10));
    world.flow(1, 0, millis(10), secs(10)).run_for(secs(11));
    world.assert_all_delivered().assert_linked(0, 1, true);
    assert!(store.borrow().len() > 2000);
}

#[test]
fn mutated_datagrams_change_nothing() {
    for seed in 400..405 {
        let mut world = pair(seed);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        world.net.rule = Some(Box::new(move |leaving| {
            let mut mutated = leaving.datagram.to_vec();
            for _ in 0..rng.random_range(1..4) {
                let at = rng.random_range(0..mutated.len());
                mutated[at] ^= 1 << rng.random_range(0..8);
            }
            if rng.random_bool(0.2) {
                mutated.truncate(rng.random_range(0..mutated.len()));
            }
            Fate::Become(vec![mutated, leaving.datagram.to_vec()])
        }));
        world.launch().flow(0, 1, millis(10), secs(10));
        world.flow(1, 0, millis(10), secs(10)).run_for(secs(11));
        world.assert_all_delivered().assert_linked(0, 1, true);
    }
}

#[test]
fn what_was_said_to_one_peer_is_of_no_use_with_another() {
    let mut world = World::new(500);
    world.peers(3);
    let addresses: Vec<_> = world.nodes.iter().map(|node| node.address).collect();
    let overheard: Rc<RefCell<Vec<Vec<u8>>>> = Rc::default();
    let shared = Rc::clone(&overheard);
    world.net.rule = Some(Box::new(move |leaving| {
        if (leaving.from, leaving.to) == (0, 1) {
            shared.borrow_mut().push(leaving.datagram.to_vec());
        }
        Fate::Pass
    }));
    world.launch();
    let since = world.now;
    for datagram in overheard.take() {
        world.inject_after(millis(1), addresses[2], addresses[0], datagram);
    }
    world.run_for(secs(10)).assert_no_link_lost_since(since);
    world.assert_full_reach();
}

#[test]
fn a_bad_network_does_not_keep_peers_apart() {
    for seed in 600..610 {
        let mut world = pair(seed);
        world.net.netem.loss = 0.3;
        world.net.netem.reorder = 0.2;
        world.net.duplicates = 0.2;
        world.launch();
        world.run_until("the two are linked", secs(20), |world| world.linked(0, 1));
        world.net.netem.loss = 0.0;
        world.run_for(secs(5)).assert_full_reach();
    }
}
