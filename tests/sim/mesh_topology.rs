//! Partly connected networks, targets and discovery.

use std::time::Duration;

use gossip::TargetState;

use crate::world::{World, id, name};

const SECOND: Duration = Duration::from_secs(1);

/// Peers in a line reach only the next one.
fn line(from: usize, to: usize) -> bool {
    from.abs_diff(to) == 1
}

#[test]
fn a_chain_relays_and_becomes_direct_when_it_can() {
    let mut world = World::new(11).dialable(line);
    for peer in 0..3 {
        world.launch(&if peer > 0 { vec![peer - 1] } else { vec![] });
    }
    for (a, b) in [(0, 2), (2, 0)] {
        world.net.cut(a, b, true);
    }
    world.run_for(5 * SECOND).assert_one_mesh();
    let hop = world.mesh(0).routes().next_hop(&id(2)).unwrap();
    assert_eq!((hop.next, hop.hops), (id(1), 2));
    world = world.dialable(|_, _| true);
    for (a, b) in [(0, 2), (2, 0)] {
        world.net.cut(a, b, false);
    }
    world.run_until(5 * SECOND, |world| {
        world.mesh(0).routes().next_hop(&id(2)).unwrap().hops == 1
    });
    world.stop(1);
    world.run_for(3 * SECOND).assert_one_mesh();
}

#[test]
fn without_discovery_traffic_is_relayed_until_the_middle_stops() {
    let mut world = World::new(12).configure(|config| config.discovery = false);
    for targets in [vec![], vec![0], vec![1]] {
        world.launch(&targets);
    }
    world.run_for(20 * SECOND).assert_one_mesh();
    assert_eq!(world.mesh(0).routes().next_hop(&id(2)).unwrap().hops, 2);
    world.stop(1);
    world.run_for(SECOND);
    assert_eq!(world.mesh(0).routes().next_hop(&id(2)), None);
    assert_eq!(world.components().len(), 2);
}

#[test]
fn a_hub_without_discovery_takes_all_its_spokes() {
    let mut world = World::new(13).configure(|config| config.discovery = false);
    world.launch(&[]);
    for _ in 0..60 {
        world.launch(&[0]);
    }
    world.run_for(10 * SECOND).assert_one_mesh();
    assert_eq!(world.mesh(0).neighbours().count(), 60);
}

#[test]
fn a_long_line_is_reached_from_end_to_end() {
    let mut world = World::new(14).dialable(line);
    for peer in 0..24 {
        world.launch(&if peer > 0 { vec![peer - 1] } else { vec![] });
    }
    world.run_for(15 * SECOND).assert_one_mesh();
    assert_eq!(world.mesh(0).routes().next_hop(&id(23)).unwrap().hops, 23);
}

#[test]
fn connect_replace_and_forget_are_exact() {
    let mut world = World::new(15);
    world.launch(&[]);
    world.launch(&[]);
    let names = |world: &World| {
        world
            .mesh(0)
            .targets()
            .map(|(name, _)| name.clone())
            .collect::<Vec<_>>()
    };
    world.with(0, |mesh, now| {
        mesh.connect(&[name(1), name(77), name(88)], false, now)
    });
    world.run_for(2 * SECOND).assert_one_mesh();
    assert_eq!(names(&world), [name(1), name(77), name(88)]);
    world.with(0, |mesh, now| mesh.connect(&[name(99)], true, now));
    assert_eq!(names(&world), [name(99)]);
    world.with(0, |mesh, now| mesh.connect(&[name(1)], true, now));
    world.run_for(2 * SECOND).assert_one_mesh();
    let (_, state) = world.mesh(0).targets().next().unwrap();
    assert_eq!(*state, TargetState::Connected { peer: id(1) });
    world.with(0, |mesh, _| mesh.forget(&[name(1)]));
    assert_eq!(names(&world), []);
    world.run_for(SECOND).assert_one_mesh();
    world.stop(1);
    world.run_for(SECOND);
    world.restart(1);
    world.run_for(30 * SECOND);
    assert_eq!(
        world.mesh(0).neighbours().count(),
        0,
        "a forgotten peer was dialled"
    );
}

#[test]
fn a_target_that_is_ourselves_or_known_already_is_noticed() {
    let mut world = World::new(16);
    world.launch(&[0]);
    world.launch(&[0, 1]);
    world.run_for(3 * SECOND).assert_one_mesh();
    let states = |peer: usize| {
        world
            .mesh(peer)
            .targets()
            .map(|(_, state)| state.clone())
            .collect::<Vec<_>>()
    };
    assert!(matches!(states(0)[..], [TargetState::Ourselves { .. }]));
    assert!(matches!(
        states(1)[..],
        [TargetState::Connected { peer }, TargetState::Ourselves { .. }] if peer == id(0)
    ));
}

#[test]
fn the_link_limit_holds_and_its_reason_is_shown() {
    let mut world =
        World::new(17).configure(|config| (config.link_limit, config.discovery) = (2, false));
    world.launch(&[]);
    for _ in 0..4 {
        world.launch(&[0]);
    }
    world.run_for(10 * SECOND);
    assert_eq!(world.mesh(0).neighbours().count(), 2);
    let refused = |world: &World, peer: usize| {
        let mut targets = world.mesh(peer).targets();
        targets.any(|(_, state)| matches!(state, TargetState::Failed { reason, .. } if reason.contains("limit")))
    };
    assert_eq!((1..5).filter(|peer| refused(&world, *peer)).count(), 2);
}

#[test]
fn any_one_seed_is_enough_and_none_is_needed_later() {
    let mut world = World::new(18).peers(3);
    for _ in 0..30 {
        world.launch(&[500, 1, 600]);
    }
    world.run_until(20 * SECOND, World::is_one_mesh);
    (0..3).for_each(|seed| world.crash(seed));
    world.run_for(15 * SECOND).assert_one_mesh();
}
