//! Names appear, move, and go with whoever gave them.

use std::time::Duration;

use crate::world::{World, id, ip, mac};

const SECOND: Duration = Duration::from_secs(1);

fn give(world: &mut World, peer: usize, names: &[(&str, u16)]) {
    let names: Vec<_> = names
        .iter()
        .map(|(name, n)| ((*name).to_owned(), ip(*n)))
        .collect();
    world.with(peer, |mesh, now| mesh.set_names(names, now));
}

fn lookup(world: &World, peer: usize, name: &str) -> Option<usize> {
    world
        .mesh(peer)
        .directory()
        .lookup(name)
        .map(|addresses| addresses.len())
}

fn everywhere(world: &World, name: &str, count: Option<usize>) -> bool {
    world
        .alive()
        .into_iter()
        .all(|peer| lookup(world, peer, name) == count)
}

#[test]
fn a_name_is_known_everywhere_and_goes_with_its_owner() {
    let mut world = World::new(51).loss(0.05).peers(12);
    world.run_until(20 * SECOND, World::is_one_mesh);
    give(&mut world, 3, &[("web", 1), ("a.b", 2)]);
    give(&mut world, 7, &[("web", 3)]);
    world.run_until(10 * SECOND, |world| everywhere(world, "web", Some(2)));
    world.run_for(4 * SECOND).assert_one_mesh();
    assert!(everywhere(&world, "b", Some(0)));
    give(&mut world, 3, &[("a.b", 2)]);
    world.run_until(10 * SECOND, |world| everywhere(world, "web", Some(1)));
    world.crash(7);
    world.run_until(10 * SECOND, |world| everywhere(world, "web", None));
    assert!(everywhere(&world, "a.b", Some(1)));
}

#[test]
fn what_a_launch_before_said_does_not_come_back() {
    let mut world = World::new(52).peers(6);
    world.run_until(20 * SECOND, World::is_one_mesh);
    let many: Vec<(String, u16)> = (0..300).map(|n| (format!("name-{n}"), n)).collect();
    let many: Vec<(&str, u16)> = many.iter().map(|(name, n)| (name.as_str(), *n)).collect();
    give(&mut world, 5, &many);
    world.run_until(10 * SECOND, |world| everywhere(world, "name-299", Some(1)));
    world.crash(5);
    world.restart(5);
    give(&mut world, 5, &[("name-7", 7)]);
    world.run_until(20 * SECOND, |world| {
        everywhere(world, "name-7", Some(1)) && everywhere(world, "name-299", None)
    });
    world.run_for(6 * SECOND).assert_one_mesh();
    assert!(everywhere(&world, "name-299", None));
}

#[test]
fn names_given_on_both_sides_of_a_partition_are_joined() {
    let mut world = World::new(53).peers(8);
    world.run_until(20 * SECOND, World::is_one_mesh);
    world.partition(|peer| peer % 2 == 1);
    world.run_for(5 * SECOND);
    give(&mut world, 0, &[("web", 1)]);
    give(&mut world, 1, &[("web", 2)]);
    world.run_for(5 * SECOND);
    assert_eq!(lookup(&world, 2, "web"), Some(1));
    world.heal();
    world.run_until(20 * SECOND, |world| everywhere(world, "web", Some(2)));
}

/// Peers of the first version cannot read messages with names in them. They are
/// told none, lose nothing else, and compare as equal with those who hold names.
#[test]
fn peers_that_know_no_names_lose_nothing_else() {
    let mut world = World::new(54)
        .loss(0.05)
        .old(|peer| peer % 3 == 0)
        .peers(12);
    world.run_for(20 * SECOND);
    for peer in [1, 2, 4, 5] {
        give(&mut world, peer, &[("web", peer as u16)]);
    }
    world.run_for(20 * SECOND);
    let knows = |peer: &usize| lookup(&world, *peer, "web").is_some();
    let (old, new): (Vec<usize>, Vec<usize>) = (0..12).partition(|peer| peer % 3 == 0);
    assert!(!old.iter().any(knows));
    assert!(
        new.iter()
            .all(|peer| lookup(&world, *peer, "web") == Some(4))
    );
    world.with(1, |mesh, now| {
        mesh.learn_station(mac(1), &[ip(1)], true, now)
    });
    world.run_for(4 * SECOND);
    for peer in 0..12 {
        assert_eq!(world.mesh(peer).reachable_count(), 11);
        assert_eq!(world.mesh(peer).stations().peer_of(&mac(1)), Some(id(1)));
    }
    // Nothing keeps them comparing.
    let before = world.sent;
    world.run_for(20 * SECOND);
    let each = (world.sent - before) / 12 / 20;
    assert!(each < 40, "{each} messages a second and peer");
}
