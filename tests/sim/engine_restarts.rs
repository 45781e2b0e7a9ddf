//! Peers that end, with and without a word, and come back.

use crate::engine::{World, millis, secs};

fn trio(seed: u64) -> World {
    let mut world = World::new(seed);
    world.peers(3).launch();
    world.assert_full_reach();
    world
}

/// Runs until frames sent from now on pass both ways between two peers.
fn back_within_3_s(world: &mut World, a: usize, b: usize) {
    let mark = world.mark();
    world.flow(a, b, millis(50), secs(6));
    world.flow(b, a, millis(50), secs(6)).run_for(secs(7));
    let start = world.now - secs(7);
    let lost = world.lost_since(mark);
    if let Some((from, to, at)) = lost.iter().rev().find(|(.., at)| *at > start + secs(3)) {
        world.fail(&format!(
            "a frame from {from} to {to} was lost {:?} after the launch",
            *at - start
        ));
    }
}

#[test]
fn a_restarted_peer_is_back_within_3_s() {
    for stopped in [0, 1] {
        let mut world = trio(10 + stopped as u64);
        world.stop(stopped).run_for(secs(5)).start(stopped);
        back_within_3_s(&mut world, stopped, 2);
        world.assert_full_reach();
    }
}

#[test]
fn a_crashed_peer_is_back_within_3_s_while_frames_flow() {
    for (seed, pause) in [(20, 100), (21, 1000), (22, 2500), (23, 10_000)] {
        for crashed in [0, 1] {
            let mut world = trio(seed + 100 * crashed as u64);
            world.flow(2, crashed, millis(20), secs(30));
            world.flow(crashed, 2, millis(20), secs(30));
            world.run_for(secs(2)).crash(crashed).run_for(millis(pause));
            world.start(crashed);
            back_within_3_s(&mut world, crashed, 2);
            world.assert_full_reach();
        }
    }
}

#[test]
fn a_relayed_peer_is_back_within_3_s() {
    for (seed, crashed) in [(30, 0), (31, 1), (32, 2)] {
        let mut world = World::new(seed);
        world.peers(3).line().launch();
        world.flow(0, 2, millis(20), secs(30));
        world.flow(2, 0, millis(20), secs(30)).run_for(secs(3));
        world.crash(crashed).run_for(millis(700)).start(crashed);
        back_within_3_s(&mut world, 0, 2);
        world.assert_full_reach();
    }
}

/// The session with the launch before is of no use any more, and must not
/// swallow the first frame.
#[test]
fn a_peer_that_was_restarted_while_nothing_flowed_gets_the_first_frame() {
    let mut world = World::new(33);
    world.peers(3).line().launch();
    world.ping(0, 2).run_for(secs(20));
    world.crash(2).run_for(secs(5)).start(2).run_for(secs(5));
    world.ping(0, 2).run_for(secs(3)).assert_all_delivered();
}

#[test]
fn a_silent_peer_is_noticed_within_3_s() {
    for seed in 40..45 {
        let mut world = trio(seed);
        let id = world.nodes[2].id();
        world.crash(2);
        world.run_until("peer 2 is gone for the others", secs(3), |world| {
            [0, 1].into_iter().all(|host| {
                let status = world.status(host);
                let peer = status.peers.iter().find(|peer| peer.peer == id);
                peer.is_none_or(|peer| !peer.reachable)
            })
        });
    }
}

#[test]
fn loss_of_5_percent_raises_no_alarm_in_10_minutes() {
    let mut world = trio(50);
    world.net.netem.loss = 0.05;
    let since = world.now;
    for _ in 0..10 {
        world.run_for(secs(60)).assert_no_link_lost_since(since);
    }
    world.net.netem.loss = 0.0;
    world.run_for(secs(1)).assert_full_reach();
}

#[test]
fn peers_that_all_crash_find_each_other_again() {
    let mut world = World::new(60);
    world.peers(5).launch().assert_full_reach();
    for round in 0..3 {
        for host in 0..5 {
            world.crash(host);
        }
        world.run_for(millis(300 + 1900 * round)).launch();
        world.assert_full_reach();
    }
}
