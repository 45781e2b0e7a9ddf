//! Fresh keys under a steady flow.

use crate::engine::{World, millis, secs};

/// Runs 10 minutes of flow both ways between two peers, and checks that keys
/// were renewed several times and no frame was lost.
fn ten_minutes(world: &mut World, a: usize, b: usize) {
    let before = world.status(a).counters.handshakes;
    world.flow(a, b, millis(10), secs(600));
    world.flow(b, a, millis(10), secs(600));
    for _ in 0..120 {
        world.run_for(secs(5));
        for (from, to) in [(a, b), (b, a)] {
            let age = world.connection(from, to).map(|c| c.key_age_s);
            if age.is_none_or(|age| age >= 150) {
                world.fail(&format!(
                    "the keys of {from} for {to} are {age:?} seconds old"
                ));
            }
        }
    }
    world.run_for(secs(1)).assert_all_delivered();
    let renewals = world.status(a).counters.handshakes - before;
    assert!(
        (4..40).contains(&renewals),
        "keys were renewed {renewals} times"
    );
}

#[test]
fn keys_change_under_a_flow_between_neighbours() {
    let mut world = World::new(1);
    world.peers(2).launch();
    ten_minutes(&mut world, 0, 1);
}

#[test]
fn keys_change_under_a_flow_across_a_relay() {
    let mut world = World::new(2);
    world.peers(3).line().launch();
    ten_minutes(&mut world, 0, 2);
}

#[test]
fn keys_change_although_datagrams_get_lost() {
    let mut world = World::new(3);
    world.peers(2).launch();
    world.net.netem.loss = 0.2;
    world.net.netem.reorder = 0.1;
    world.flow(0, 1, millis(500), secs(900));
    for _ in 0..90 {
        world.run_for(secs(10));
        let age = world.connection(0, 1).map(|c| c.key_age_s);
        if age.is_none_or(|age| age >= 150) {
            world.fail(&format!("the keys are {age:?} seconds old"));
        }
    }
}

/// One end is told to renew every second, whichever of them began the session.
#[test]
fn keys_change_every_second_and_nothing_is_lost() {
    for hasty in [0, 1] {
        let mut world = World::new(5);
        world.peers(2);
        world.nodes[hasty].rekey_after = secs(1);
        world.launch();
        let before = world.status(0).counters.handshakes;
        world.flow(0, 1, millis(1), secs(120));
        world.flow(1, 0, millis(1), secs(120));
        world.run_for(secs(121)).assert_all_delivered();
        let renewals = world.status(0).counters.handshakes - before;
        assert!(
            (40..140).contains(&renewals),
            "keys were renewed {renewals} times"
        );
    }
}

/// A link without frames needs fresh keys as well: gossip flows over it.
#[test]
fn keys_change_on_a_quiet_link() {
    let mut world = World::new(4);
    world.peers(2).launch();
    let since = world.now;
    for _ in 0..60 {
        world.run_for(secs(10));
        let age = world.connection(0, 1).map(|c| c.key_age_s);
        assert!(age.is_some_and(|age| age < 150), "{age:?}");
    }
    world.assert_no_link_lost_since(since).assert_full_reach();
}
