//! Three peers in a line, and what happens when the ends come to reach each other.

use wove::engine::status::PathKind;

use crate::engine::{World, frames, millis, secs};

fn line(seed: u64) -> World {
    let mut world = World::new(seed);
    world.peers(3).line();
    world.search_plaintext = true;
    world.launch();
    world
}

#[test]
fn frames_pass_a_relay_that_cannot_read_them() {
    let mut world = line(1);
    world.assert_linked(0, 1, true).assert_linked(0, 2, false);
    world.flow(0, 2, millis(10), secs(3));
    world.flow(2, 0, millis(10), secs(3)).run_for(secs(4));
    world.assert_all_delivered();
    world.assert_path(0, 2, PathKind::Relay);
    world.assert_path(2, 0, PathKind::Relay);
    assert_eq!(world.ledger.strays, 0, "the relay delivered a frame");
}

#[test]
fn a_direct_path_is_taken_without_losing_a_frame_and_given_up_again() {
    let mut world = line(2);
    world.flow(0, 2, millis(10), secs(22));
    world.flow(2, 0, millis(10), secs(22)).run_for(secs(2));
    world.heal(0, 2).run_for(secs(10));
    world.assert_path(0, 2, PathKind::Sleeve);
    world.assert_path(2, 0, PathKind::Sleeve);
    world.assert_all_delivered();
    world.cut(0, 2).run_for(secs(3));
    let mark = world.mark();
    world.run_for(secs(9)).assert_delivered_since(mark);
    world.assert_path(0, 2, PathKind::Relay);
}

#[test]
fn a_path_that_fails_one_way_is_not_used_either_way() {
    let mut world = line(3);
    world.heal(0, 2).run_for(secs(8));
    world.assert_path(0, 2, PathKind::Sleeve);
    world.net.netem.cut(2, 0, true);
    world.run_for(secs(4));
    let mark = world.mark();
    world.flow(0, 2, millis(20), secs(5));
    world.flow(2, 0, millis(20), secs(5)).run_for(secs(6));
    world.assert_delivered_since(mark);
}

#[test]
fn questions_about_known_stations_are_answered_on_the_spot() {
    let mut world = line(4);
    let (asker, about) = (world.container(0), world.container(2));
    world.net.netem.partition([(0, 1)].into());
    world.egress(0, frames::arp_request(&asker, &about));
    world.egress(0, frames::solicitation(&asker, &about));
    let answers = &world.nodes[0].other_frames;
    assert_eq!(answers.len(), 2);
    assert!(
        answers
            .iter()
            .all(|frame| frame[..6] == asker.mac.0 && frame[6..12] == about.mac.0)
    );
}

#[test]
fn one_seed_makes_one_trace() {
    let hash = |seed| {
        let mut world = line(seed);
        world.net.netem.loss = 0.1;
        world.net.duplicates = 0.1;
        world.flow(0, 2, millis(10), secs(3)).run_for(secs(4));
        world.trace_hash()
    };
    assert_eq!(hash(5), hash(5));
    assert_ne!(hash(5), hash(6));
}

#[test]
fn a_peer_that_appears_at_another_address_is_found_again() {
    let mut world = World::new(7);
    world.peers(3).launch();
    world.assert_full_reach();
    world.flow(0, 1, millis(20), secs(12));
    world.flow(1, 2, millis(20), secs(12)).run_for(secs(2));
    world.roam(1, 1).run_for(secs(4));
    let mark = world.mark();
    world.run_for(secs(7)).assert_delivered_since(mark);
    world.roam(1, 2).run_for(secs(6)).assert_full_reach();
}

/// A line of links although all reach each other: the mesh seeks no others.
fn sparse(seed: u64, count: usize) -> World {
    let mut world = World::new(seed);
    world.peers(count);
    for host in 0..count {
        world.nodes[host].targets = host.checked_sub(1).into_iter().collect();
        world.nodes[host].mesh.full_mesh_up_to = 0;
        world.nodes[host].mesh.degree = 1;
    }
    world.launch();
    for high in 1..count {
        for low in 0..high {
            world.assert_linked(low, high, low + 1 == high);
        }
    }
    world
}

/// Nobody looks after a direct path that carries neither frames nor a link.
#[test]
fn a_direct_path_that_died_unused_costs_no_frame() {
    let mut world = sparse(8, 3);
    world.flow(0, 2, millis(50), secs(10)).run_for(secs(9));
    world.assert_path(0, 2, PathKind::Sleeve).run_for(secs(20));
    world.cut(0, 2).ping(0, 2).ping(2, 0).run_for(secs(2));
    world.assert_all_delivered();
}

#[test]
fn a_relay_that_begins_to_talk_itself_costs_no_frame_of_others() {
    let mut world = sparse(9, 4);
    world.cut(0, 2).cut(0, 3).run_for(secs(2));
    world.flow(0, 3, millis(5), secs(10)).run_for(secs(3));
    world.flow(1, 3, millis(50), secs(5)).run_for(secs(8));
    world.assert_all_delivered();
}
