//! Meshes come together, stay together and say little.

use std::time::Duration;

use crate::world::{World, id, mac};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_handful_of_peers_becomes_a_full_mesh() {
    let mut world = World::new(1).peers(8);
    world.run_for(8 * SECOND).assert_one_mesh();
    for peer in 0..8 {
        assert_eq!(
            world
                .mesh(peer)
                .neighbours()
                .filter(|n| n.state.is_usable())
                .count(),
            7
        );
        assert_eq!(
            world
                .mesh(peer)
                .peers()
                .filter(|peer| peer.reachable)
                .count(),
            8
        );
    }
}

#[test]
fn a_hundred_peers_converge_under_loss_with_bounded_degree() {
    let mut world = World::new(2).loss(0.05).reorder(0.1).peers(100);
    let took = world.run_until(30 * SECOND, World::is_one_mesh);
    assert!(took <= 15 * SECOND, "{took:?}");
    world.run_for(10 * SECOND);
    for peer in 0..100 {
        let links = world.mesh(peer).neighbours().count();
        assert!((4..=20).contains(&links), "peer {peer} has {links} links");
    }
    assert!(world.slots.iter().all(|slot| slot.warnings.is_empty()));
}

#[test]
fn a_change_is_known_everywhere_at_once() {
    let mut world = World::new(3).peers(60);
    world.run_until(30 * SECOND, World::is_one_mesh);
    // The storm of the launch is over, and its pruned links are back.
    world.run_for(20 * SECOND);
    world.with(17, |mesh, now| mesh.learn_station(mac(1), &[], false, now));
    let known =
        |world: &World| (0..60).all(|p| world.mesh(p).stations().peer_of(&mac(1)) == Some(id(17)));
    let took = world.run_until(3 * SECOND, known);
    assert!(took <= 800 * SECOND / 1000, "{took:?}");
}

#[test]
fn links_too_many_are_given_up_one_after_the_other() {
    const PEERS: usize = 60;
    let most = |world: &World| {
        let links = |peer| world.mesh(peer).neighbours().count();
        (0..PEERS).map(links).max().unwrap_or_default()
    };
    let changes = |world: &World| world.mesh(0).counters().accepted;
    let mut world = World::new(11).peers(PEERS);
    world.run_until(30 * SECOND, World::is_one_mesh);
    // More than are borne go as soon as they are settled...
    world.run_for(20 * SECOND);
    assert!((13..=16).contains(&most(&world)), "{}", most(&world));
    // ...the others over minutes, each told by both ends or by one.
    let before = changes(&world);
    world.run_for(10 * SECOND);
    let changed = changes(&world) - before;
    assert!((1..=100).contains(&changed), "{changed}");
    world.run_until(600 * SECOND, |world| most(world) <= 12);
}

#[test]
fn a_quiet_mesh_is_quiet() {
    let mut world = World::new(4).peers(40);
    world.run_until(30 * SECOND, World::is_one_mesh);
    // Links too many are given up.
    world.run_for(300 * SECOND);
    let pushed = |world: &World| -> u64 { (0..40).map(|p| world.mesh(p).counters().pushed).sum() };
    let sent = world.sent;
    let moves = |world: &mut World| {
        let before = pushed(world);
        world.run_for(30 * SECOND);
        pushed(world) > before
    };
    // Those whom all dialled seek links of their own choice, ever more seldom.
    let busy = (0..20).filter(|_| moves(&mut world)).count();
    assert!(busy <= 6, "records are pushed in {busy} of 20 half minutes");
    // A ping and a pong per link and heartbeat, from both ends, and now and then a sum.
    let per_peer_and_second = (world.sent - sent) as f64 / (40.0 * 600.0);
    assert!(per_peer_and_second < 4.5 * 16.0, "{per_peer_and_second}");
}

#[test]
fn the_same_seed_runs_the_same_way() {
    let run = |seed| {
        let mut world = World::new(seed).loss(0.05).reorder(0.2).peers(25);
        world.run_for(6 * SECOND);
        world.crash(3);
        world.run_for(6 * SECOND);
        (world.trace, world.steps)
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}

/// Three hundred in a release build; fewer where that would take minutes.
#[test]
fn hundreds_of_peers_launched_at_once_converge() {
    let peers = if cfg!(debug_assertions) { 120 } else { 300 };
    let (first, last) = (peers / 2, peers - 1);
    let mut world = World::new(7).loss(0.01).peers(peers);
    world.run_until(60 * SECOND, World::is_one_mesh);
    world.run_for(60 * SECOND);
    let most = (0..peers)
        .map(|peer| world.mesh(peer).neighbours().count())
        .max();
    assert!(most <= Some(16), "a bounded degree: {most:?}");
    world.with(last, |mesh, now| {
        mesh.learn_station(mac(1), &[], false, now)
    });
    world.run_until(2 * SECOND, |world: &World| {
        (0..peers).all(|p| world.mesh(p).stations().peer_of(&mac(1)) == Some(id(last)))
    });
    world.crash(first);
    world.run_until(5 * SECOND, |world: &World| {
        world
            .alive()
            .iter()
            .all(|p| !world.mesh(*p).routes().reaches(&id(first)))
    });
}
