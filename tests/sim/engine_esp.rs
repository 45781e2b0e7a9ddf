//! Encrypted fast paths between complete peers in virtual time, with a stand-in
//! for each kernel's XFRM. That nothing leaves in clear is checked with every
//! packet.

#![allow(clippy::unwrap_used, reason = "test code outside of test functions")]

use std::time::Duration;

use proto::message::CAN_ESP;
use wove::engine::{CAPABILITIES, status::PathKind};

use crate::engine::{World, secs};

fn world(seed: u64, peers: usize) -> World {
    let mut world = World::new(seed);
    world.peers(peers);
    for node in &mut world.nodes {
        (node.fastdp, node.esp) = (true, true);
    }
    world
}

/// Path, cipher and reason of one end.
fn seen(world: &World, from: usize, to: usize) -> (PathKind, String, String) {
    let connection = world.connection(from, to).unwrap();
    (connection.path, connection.cipher, connection.reason)
}

fn is_fast(world: &World, from: usize, to: usize) -> bool {
    let (path, cipher, _) = seen(world, from, to);
    path == PathKind::Fastdp && cipher == "AES-256-GCM"
}

fn assert_all_fast(world: &World) {
    for a in 0..world.nodes.len() {
        for b in (0..world.nodes.len()).filter(|b| *b != a) {
            if !is_fast(world, a, b) {
                let there = seen(world, b, a);
                let [near, far] = [a, b].map(|host| world.nodes[host].kernel.len());
                let here = seen(world, a, b);
                world.fail(&format!("{a} to {b}: {here:?} {near:?}, {there:?} {far:?}"));
            }
        }
    }
}

#[test]
fn it_stands_over_fresh_keys_and_nothing_is_lost() {
    for seed in 0..8 {
        let mut world = world(seed, 4);
        world.launch();
        assert_all_fast(&world);
        world.unopened = 0;
        for _ in 0..30 {
            world.run_for(secs(20));
            assert_all_fast(&world);
        }
        assert_eq!(world.unopened, 0);
        // Those in use, and at most those that linger.
        let (keys, policies) = world.nodes[0].kernel.len();
        assert!(
            (6..=12).contains(&keys) && policies == 3,
            "{keys} {policies}"
        );
    }
}

#[test]
fn without_esp_at_one_end_it_stays_on_sleeve_and_says_why() {
    let mut world = world(1, 3);
    world.nodes[1].esp = false;
    world.launch();
    let (path, _, reason) = seen(&world, 1, 0);
    assert_eq!(path, PathKind::Sleeve);
    assert!(reason.contains("the kernel has no ESP"), "{reason}");
    let (path, _, reason) = seen(&world, 0, 1);
    assert_eq!(path, PathKind::Sleeve);
    assert!(reason.contains("the peer encrypts"), "{reason}");
    assert!(is_fast(&world, 0, 2) && is_fast(&world, 2, 0));
}

/// A version that has the fast path and no ESP: an offer inside ESP it could not
/// read, so it has to be told none.
fn old(world: &mut World, host: usize) {
    world.nodes[host].esp = false;
    world.nodes[host].capabilities = CAPABILITIES & !CAN_ESP;
}

#[test]
fn a_peer_of_before_esp_is_reached_by_sleeve() {
    for seed in 0..8 {
        let mut world = world(seed, 3);
        old(&mut world, 1);
        world.launch();
        for _ in 0..10 {
            let (path, cipher, reason) = seen(&world, 0, 1);
            assert_eq!(path, PathKind::Sleeve);
            assert_ne!(cipher, "none");
            assert!(reason.contains("the peer's version has no ESP"), "{reason}");
            assert_eq!(seen(&world, 1, 0).0, PathKind::Sleeve);
            assert!(is_fast(&world, 0, 2) && is_fast(&world, 2, 0));
            world.run_for(secs(20));
        }
        // Updated, without anything else being launched anew.
        world.crash(1);
        world.nodes[1].esp = true;
        world.nodes[1].capabilities = CAPABILITIES;
        world.start(1);
        world.run_for(secs(20));
        assert_all_fast(&world);
    }
}

#[test]
fn a_peer_of_before_esp_gets_clear_frames_only_where_both_ends_trust() {
    let trusted = || vec!["192.0.0.0/8".parse().unwrap()];
    for (trusting, expected) in [
        (&[0, 1][..], (PathKind::Fastdp, "none")),
        (&[0], (PathKind::Sleeve, "AES-256-GCM")),
        (&[1], (PathKind::Sleeve, "AES-256-GCM")),
    ] {
        let mut world = world(1, 2);
        old(&mut world, 1);
        for host in trusting {
            world.nodes[*host].trusted = trusted();
        }
        world.launch();
        world.run_for(secs(60));
        for (from, to) in [(0, 1), (1, 0)] {
            let (path, cipher, _) = seen(&world, from, to);
            assert_eq!((path, cipher.as_str()), expected, "{trusting:?}");
        }
    }
}

#[test]
fn trust_of_one_end_is_no_reason_for_clear() {
    for seed in 0..8 {
        let mut world = world(seed, 3);
        for trusting in [0, 1] {
            world.nodes[trusting].trusted = vec!["192.0.0.0/8".parse().unwrap()];
        }
        world.launch();
        for (a, b) in [(0, 2), (1, 2)] {
            assert!(is_fast(&world, a, b), "{:?}", seen(&world, a, b));
            assert!(is_fast(&world, b, a), "{:?}", seen(&world, b, a));
        }
        let (path, cipher, _) = seen(&world, 0, 1);
        assert_eq!((path, cipher.as_str()), (PathKind::Fastdp, "none"));
    }
}

#[test]
fn flushed_keys_are_replaced() {
    for seed in 0..8 {
        let mut world = world(seed, 3);
        world.launch();
        for _ in 0..5 {
            world.flush(1);
            assert!(!is_fast(&world, 1, 0), "at once: nothing would pass");
            world.run_for(secs(12));
            assert_all_fast(&world);
        }
    }
}

#[test]
fn it_comes_back_with_a_new_launch_and_follows_who_moves() {
    for seed in 0..8 {
        let mut world = world(seed, 3);
        world.launch();
        world.crash(1);
        world.run_for(Duration::from_millis(300 + 700 * seed));
        world.start(1);
        world.run_for(secs(20));
        assert_all_fast(&world);
        world.roam(2, 1);
        world.run_for(secs(40));
        assert_all_fast(&world);
        let (_, policies) = world.nodes[0].kernel.len();
        assert_eq!(policies, 2, "none is left for the old address");
    }
}

#[test]
fn a_path_that_is_lost_at_one_end_only_comes_back() {
    for seed in 0..8 {
        let mut world = world(seed, 3);
        world.launch();
        // One direction: the ends see different things.
        world.net.netem.cut(0, 1, true);
        world.run_for(Duration::from_millis(1500 + 400 * seed));
        world.net.netem.cut(0, 1, false);
        world.run_for(secs(40));
        assert_all_fast(&world);
    }
}

#[test]
fn it_stands_loss() {
    for seed in 0..20 {
        let mut world = world(seed, 4);
        world.launch();
        world.net.netem.loss = 0.1;
        world.run_for(secs(400));
        world.net.netem.loss = 0.0;
        world.run_for(secs(20));
        assert_all_fast(&world);
    }
}

#[test]
fn who_stops_leaves_no_keys_at_the_others() {
    let mut world = world(4, 3);
    world.launch();
    world.stop(2);
    world.run_for(secs(20));
    assert_eq!(world.nodes[0].kernel.len(), (2, 1));
}
