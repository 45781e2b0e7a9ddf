//! Paths of every size, and paths that shrink.

use std::time::Instant;

use wove::engine::status::PathKind;

use crate::engine::{World, ledger::Audience, millis, secs, world::Flow};

/// What IPv4 and UDP add to a payload.
const HEADERS: usize = 28;
/// The smallest path that a handshake passes: its first message is padded, so
/// that no answer is longer.
const SMALLEST: usize = crypto::handshake::INITIATION + HEADERS;

fn two_over(mtu: usize, seed: u64) -> World {
    let mut world = World::new(seed);
    world.peers(2);
    for node in &mut world.nodes {
        node.datagram_limit = 9000 - HEADERS;
    }
    world.net.limit(0, 1, mtu - HEADERS);
    world.launch();
    world
}

/// A flow of frames of one length each way.
fn there_and_back(world: &mut World, [a, b]: [usize; 2], len: usize, until: Instant) {
    for (from, to) in [(a, b), (b, a)] {
        world.push_flow(Flow {
            from,
            to: Audience::Host(to),
            every: millis(20),
            len,
            until,
        });
    }
}

#[test]
fn frames_of_every_size_pass_paths_of_every_size() {
    for mtu in (SMALLEST..9000).step_by(97) {
        let mut world = two_over(mtu, mtu as u64);
        for len in [100, 1400, 9000] {
            world.send(0, Audience::Host(1), len);
            world.send(1, Audience::Host(0), len);
            world.send(0, Audience::Everybody, len);
        }
        world.run_for(secs(1)).assert_all_delivered();
        world.assert_path(0, 1, PathKind::Sleeve);
        let found = world.connection(0, 1).map_or(0, |c| c.mtu as usize);
        assert!(found <= mtu && found + 16 > mtu, "{found} of {mtu}");
    }
}

#[test]
fn frames_of_every_size_pass_a_relay_over_paths_of_every_size() {
    for (first, second) in [
        (SMALLEST, 9000),
        (9000, SMALLEST),
        (1280, 1500),
        (1500, 1280),
    ] {
        let mut world = World::new(first as u64);
        world.peers(3).line();
        for node in &mut world.nodes {
            node.datagram_limit = 9000 - HEADERS;
        }
        world.net.limit(0, 1, first - HEADERS);
        world.net.limit(1, 2, second - HEADERS);
        world.launch();
        for len in [100, 1400, 9000] {
            world.send(0, Audience::Host(2), len);
            world.send(2, Audience::Host(0), len);
            world.send(0, Audience::Everybody, len);
        }
        world.run_for(secs(2)).assert_all_delivered();
    }
}

#[test]
fn a_path_that_shrinks_under_a_flow_heals_within_5_s() {
    for (before, after) in [(9000, 1500), (1500, 1400), (1500, 1280), (1400, SMALLEST)] {
        let mut world = two_over(before, 7);
        let until = world.now + secs(20);
        there_and_back(&mut world, [0, 1], 1400, until);
        world.run_for(secs(5)).assert_all_delivered();
        let since = world.now;
        world.net.limit(0, 1, after - HEADERS);
        world.run_for(secs(5));
        let mark = world.mark();
        world.run_for(secs(9)).assert_delivered_since(mark);
        world.assert_no_link_lost_since(since);
    }
}

/// Though nothing but what is relayed tells a hop that it is used.
#[test]
fn a_hop_that_shrinks_under_a_relayed_flow_heals_within_5_s() {
    for hop in [(0, 1), (1, 2)] {
        let mut world = World::new(17);
        world.peers(3).line();
        world.launch();
        let until = world.now + secs(30);
        // One datagram, with the seal of the hop round it.
        there_and_back(&mut world, [0, 2], 1300, until);
        world.run_for(secs(15)).assert_all_delivered();
        let since = world.now;
        world.net.limit(hop.0, hop.1, 1300 - HEADERS);
        world.run_for(secs(5));
        let mark = world.mark();
        world.run_for(secs(9)).assert_delivered_since(mark);
        world.assert_no_link_lost_since(since);
    }
}

#[test]
fn a_device_that_refuses_large_datagrams_is_heeded() {
    let mut world = two_over(9000, 8);
    world.nodes[0].datagram_limit = 1200;
    world.run_for(millis(10));
    world.send(0, Audience::Host(1), 5000).run_for(secs(3));
    let mark = world.mark();
    for _ in 0..20 {
        world.send(0, Audience::Host(1), 5000);
    }
    world.run_for(secs(1)).assert_delivered_since(mark);
}

#[test]
fn a_path_that_grows_is_used_within_two_minutes() {
    let mut world = two_over(1280, 9);
    world.flow(0, 1, millis(100), secs(120));
    world.net.limit(0, 1, 9000 - HEADERS);
    world.run_until("the larger path is found", secs(120), |world| {
        world.connection(0, 1).is_some_and(|c| c.mtu > 8900)
    });
}
