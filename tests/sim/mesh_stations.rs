//! Stations appear, move, and are looked for by many.

use std::time::Duration;

use crate::world::{World, id, ip, mac};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_station_that_moves_is_found_at_its_new_place() {
    let mut world = World::new(31).loss(0.05).peers(10);
    world.run_until(20 * SECOND, World::is_one_mesh);
    for place in [2, 7, 4, 2] {
        world.with(place, |mesh, now| {
            mesh.learn_station(mac(1), &[ip(1)], false, now)
        });
        world.run_for(4 * SECOND).assert_one_mesh();
        assert!(
            (0..10).all(|peer| world.mesh(peer).stations().peer_of(&mac(1)) == Some(id(place)))
        );
        assert!((0..10).all(
            |peer| world.mesh(peer).stations().station_of(&ip(1)) == Some((mac(1), id(place)))
        ));
    }
}

#[test]
fn a_container_that_makes_up_addresses_does_not_use_up_what_its_host_may_say() {
    let mut world = World::new(35).peers(3);
    world.run_until(20 * SECOND, World::is_one_mesh);
    world.run_for(20 * SECOND);
    let accepted = |world: &World| world.mesh(1).counters().accepted;
    let before = accepted(&world);
    for round in 0..1000 {
        world.with(0, |mesh, now| {
            mesh.learn_station(mac(1), &[ip(round)], false, now)
        });
        world.run_for(SECOND / 100);
    }
    let told = accepted(&world) - before;
    assert!((60..=160).contains(&told), "{told} records in ten seconds");
    world.run_for(SECOND).assert_one_mesh();
    assert_eq!(world.mesh(1).counters().limited, 0);
}

#[test]
fn an_address_reused_by_another_container_is_found_there() {
    let mut world = World::new(32).peers(3);
    world.run_until(20 * SECOND, World::is_one_mesh);
    world.with(0, |mesh, now| {
        mesh.learn_station(mac(1), &[ip(1)], true, now)
    });
    world.run_for(SECOND);
    world.with(0, |mesh, now| mesh.forget_station(mac(1), now));
    world.with(1, |mesh, now| {
        mesh.learn_station(mac(2), &[ip(1)], true, now)
    });
    world.run_for(SECOND).assert_one_mesh();
    assert!(
        (0..3).all(|peer| world.mesh(peer).stations().station_of(&ip(1)) == Some((mac(2), id(1))))
    );
    assert!((0..3).all(|peer| world.mesh(peer).stations().peer_of(&mac(1)).is_none()));
    // Moved without a word from the old holder: the newer claim wins.
    world.with(2, |mesh, now| {
        mesh.learn_station(mac(3), &[ip(1)], true, now)
    });
    world.run_for(SECOND).assert_one_mesh();
    assert!(
        (0..3).all(|peer| world.mesh(peer).stations().station_of(&ip(1)) == Some((mac(3), id(2))))
    );
}

#[test]
fn one_station_claimed_by_both_halves_of_a_partition_has_one_owner_afterwards() {
    let mut world = World::new(33).peers(8);
    world.run_until(20 * SECOND, World::is_one_mesh);
    world.partition(|peer| peer % 2 == 1);
    world.run_for(5 * SECOND);
    for peer in 0..8 {
        world.with(peer, |mesh, now| {
            mesh.learn_station(mac(9), &[ip(9)], false, now)
        });
    }
    world.run_for(5 * SECOND);
    world.heal();
    world.run_for(10 * SECOND).assert_one_mesh();
    assert!(world.mesh(0).stations().peer_of(&mac(9)).is_some());
}

#[test]
fn stations_of_a_peer_that_is_gone_are_not_found() {
    let mut world = World::new(34).peers(6);
    world.run_until(20 * SECOND, World::is_one_mesh);
    world.with(5, |mesh, now| {
        (0..300).for_each(|n| mesh.learn_station(mac(n), &[ip(n)], false, now))
    });
    world.run_for(2 * SECOND).assert_one_mesh();
    assert_eq!(world.mesh(0).stations().len(), 300);
    world.crash(5);
    world.run_for(4 * SECOND);
    assert!(world.mesh(0).stations().is_empty());
    world.restart(5);
    world.run_for(6 * SECOND).assert_one_mesh();
    assert!(
        world.mesh(0).stations().is_empty(),
        "stations of the launch before came back"
    );
}
