//! Fast paths between complete peers in virtual time: the control machines and
//! real sessions, with a stand-in for the kernel.

#![allow(clippy::unwrap_used, reason = "test code outside of test functions")]

use std::time::Duration;

use wove::engine::status::PathKind;

use crate::engine::World;

/// Peers without encryption whose kernels have a fast path.
fn world(seed: u64, peers: usize) -> World {
    let mut world = World::new(seed);
    world.peers(peers);
    for node in &mut world.nodes {
        (node.encrypt, node.fastdp) = (false, true);
    }
    world
}

fn path(world: &World, from: usize, to: usize) -> PathKind {
    let router = &world.nodes[from].running.as_ref().unwrap().router;
    let status = router.status(world.now);
    let id = world.nodes[to].id();
    let connection = status.connections.iter().find(|c| c.peer == id);
    connection.map_or(PathKind::Relay, |c| c.path)
}

/// Checks all pairs.
fn assert_paths(world: &World, expected: PathKind) {
    for a in 0..world.nodes.len() {
        for b in (0..world.nodes.len()).filter(|b| *b != a) {
            let found = path(world, a, b);
            if found != expected {
                world.fail(&format!("{a} to {b}: {found:?}, not {expected:?}"));
            }
        }
    }
}

/// The identifiers in use, all of one host different.
fn identifiers(world: &World, host: usize) -> Vec<u32> {
    let running = world.nodes[host].running.as_ref().unwrap();
    running.snapshot.fast.keys().copied().collect()
}

#[test]
fn peers_without_encryption_are_up_at_once_and_stay_over_new_keys() {
    for seed in 0..8 {
        let mut world = world(seed, 5);
        world.launch();
        assert_paths(&world, PathKind::Fastdp);
        let before = identifiers(&world, 0);
        assert_eq!(before.len(), 4);
        // Several rekeys.
        for _ in 0..20 {
            world.run_for(Duration::from_secs(20));
            assert_paths(&world, PathKind::Fastdp);
        }
        assert_eq!(identifiers(&world, 0), before);
        // Probes that outran the offer of where they come from.
        assert!(world.foreign < 20, "{}", world.foreign);
    }
}

#[test]
fn encryption_or_a_kernel_without_it_keeps_a_pair_on_sleeve() {
    let mut world = world(1, 4);
    world.nodes[1].encrypt = true;
    world.nodes[2].fastdp = false;
    world.launch();
    for (a, b, expected) in [
        (0, 1, PathKind::Sleeve),
        (0, 2, PathKind::Sleeve),
        (1, 2, PathKind::Sleeve),
        (0, 3, PathKind::Fastdp),
    ] {
        assert_eq!(path(&world, a, b), expected, "{a} to {b}");
        assert_eq!(path(&world, b, a), expected, "{b} to {a}");
    }
}

#[test]
fn a_blocked_direction_ends_both_and_they_come_back() {
    for seed in 0..8 {
        let mut world = world(seed, 3);
        world.launch();
        world.blocked.insert((0, 1));
        world.run_for(Duration::from_secs(4));
        assert_eq!(path(&world, 0, 1), PathKind::Sleeve);
        assert_eq!(path(&world, 1, 0), PathKind::Sleeve);
        assert_eq!(path(&world, 0, 2), PathKind::Fastdp, "others do not mind");
        world.blocked.clear();
        world.run_for(Duration::from_secs(20));
        assert_paths(&world, PathKind::Fastdp);
    }
}

#[test]
fn a_new_launch_has_new_identifiers() {
    for seed in 0..8 {
        let mut world = world(seed, 3);
        world.launch();
        let before = identifiers(&world, 0);
        world.crash(1);
        world.run_for(Duration::from_millis(300));
        world.start(1);
        world.run_for(Duration::from_secs(20));
        assert_paths(&world, PathKind::Fastdp);
        let after = identifiers(&world, 0);
        let kept = after.iter().filter(|vni| before.contains(vni)).count();
        assert_eq!((after.len(), kept), (2, 1), "only the other's is kept");
    }
}

#[test]
fn it_follows_a_peer_that_moves() {
    for seed in 0..8 {
        let mut world = world(seed, 3);
        world.launch();
        world.roam(1, 1);
        world.run_for(Duration::from_secs(40));
        assert_paths(&world, PathKind::Fastdp);
        let running = world.nodes[0].running.as_ref().unwrap();
        let mut ways = running.snapshot.fast.values();
        let address = world.nodes[1].address.ip();
        assert!(ways.any(|way| way.address == address && way.source == Some(address)));
    }
}

#[test]
fn it_stands_loss() {
    for seed in 0..40 {
        let mut world = world(seed, 4);
        world.launch();
        world.net.netem.loss = 0.1;
        world.run_for(Duration::from_secs(120));
        world.net.netem.loss = 0.0;
        world.run_for(Duration::from_secs(20));
        assert_paths(&world, PathKind::Fastdp);
    }
}
