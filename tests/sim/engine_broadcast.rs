//! Frames for everybody, over a ring with chords whose links flap.

use proto::MacAddr;

use crate::engine::{World, frames, ledger::Audience, millis, secs};

const SIZE: usize = 8;
const CHORDS: [(usize, usize); 3] = [(0, 4), (1, 6), (3, 7)];

fn ring(seed: u64) -> World {
    let mut world = World::new(seed);
    let around = (0..SIZE).map(|n| (n, (n + 1) % SIZE));
    let edges: Vec<_> = around.chain(CHORDS).collect();
    world.peers(SIZE).edges(&edges).launch();
    world
}

#[test]
fn each_broadcast_comes_once_to_everybody() {
    let mut world = ring(1);
    for host in 0..SIZE {
        world.shouts(host, millis(100), secs(5));
    }
    world.run_for(secs(6)).assert_all_delivered();
}

#[test]
fn multicast_comes_once_to_everybody() {
    let mut world = ring(2);
    let groups = [
        MacAddr([0x01, 0, 0x5e, 1, 2, 3]),
        MacAddr([0x33, 0x33, 0, 0, 0, 0xfb]),
    ];
    for to in groups {
        let (id, source) = (world.mark(), world.container(3));
        let frame = frames::group(&source, to, id, 120);
        world.ledger.sent(3, Audience::Everybody, &frame, world.now);
        world.egress(3, frame);
    }
    world.run_for(secs(1)).assert_all_delivered();
}

#[test]
fn a_question_nobody_knows_the_answer_to_comes_to_everybody() {
    let mut world = ring(3);
    let nobody = frames::Container::new(999);
    world.egress(2, frames::arp_request(&world.container(2), &nobody));
    world.run_for(secs(1));
    let heard = world.nodes.iter().map(|node| node.other_frames.len());
    assert_eq!(heard.collect::<Vec<_>>(), [1, 1, 0, 1, 1, 1, 1, 1]);
}

/// The ledger refuses a second arrival as it happens; here is checked that
/// frames get lost around the changes only.
#[test]
fn broadcasts_get_lost_around_changes_only_and_never_double() {
    let mut world = ring(4);
    for host in 0..SIZE {
        world.shouts(host, millis(50), secs(60));
    }
    for round in 0..5 {
        let (a, b) = CHORDS[round % CHORDS.len()];
        let (c, d) = (round, (round + 1) % SIZE);
        world.cut(a, b).cut(c, d).run_for(secs(4));
        let settled = world.mark();
        world.run_for(secs(1)).assert_delivered_since(settled);
        world.heal(a, b).heal(c, d).run_for(secs(6));
        let settled = world.mark();
        world.run_for(secs(1)).assert_delivered_since(settled);
    }
}

#[test]
fn a_link_that_comes_up_costs_no_broadcast() {
    let mut world = ring(5);
    world.cut(0, 4).run_for(secs(5));
    let mark = world.mark();
    for host in 0..SIZE {
        world.shouts(host, millis(20), secs(10));
    }
    world.run_for(secs(1)).heal(0, 4).run_for(secs(10));
    world.assert_linked(0, 4, true).assert_delivered_since(mark);
}

#[test]
fn duplicates_and_overtaking_on_the_underlay_double_nothing() {
    let mut world = ring(6);
    world.net.duplicates = 0.3;
    world.net.netem.reorder = 0.3;
    world.net.netem.jitter = millis(10);
    for host in 0..SIZE {
        world.shouts(host, millis(50), secs(5));
        world.flow(host, (host + 3) % SIZE, millis(50), secs(5));
    }
    world.run_for(secs(6)).assert_all_delivered();
}
