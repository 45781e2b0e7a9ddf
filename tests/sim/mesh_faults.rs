//! Crashes, partitions, churn, clones and liars.

use std::{sync::Arc, time::Duration};

use gossip::Warning;
use proto::{
    message::GossipMessage,
    record::{Body, Links, Record, RecordKey, Topic, Version},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::world::{World, id, mac, name};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_crash_is_known_everywhere_within_seconds() {
    let mut world = World::new(41).peers(60);
    world.run_until(30 * SECOND, World::is_one_mesh);
    world.run_for(5 * SECOND);
    world.crash(30);
    let noticed = |world: &World| {
        world
            .alive()
            .iter()
            .all(|p| !world.mesh(*p).routes().reaches(&id(30)))
    };
    let took = world.run_until(10 * SECOND, noticed);
    assert!(took <= 4 * SECOND, "{took:?}");
    world.run_for(3 * SECOND).assert_one_mesh();
}

#[test]
fn two_meshes_that_meet_are_soon_one() {
    let mut world = World::new(53).loss(0.01).peers(200);
    world.partition(|peer| peer >= 200);
    world.launch(&[]);
    for _ in 201..400 {
        world.launch(&[200]);
    }
    world.run_for(60 * SECOND);
    world.heal();
    world.with(0, |mesh, now| mesh.connect(&[name(200)], false, now));
    let took = world.run_until(30 * SECOND, World::is_one_mesh);
    assert!(took <= 4 * SECOND, "{took:?}");
}

/// The seed's news of its own links never come to a newcomer.
fn loses_links_of_the_seed(from: usize, to: usize, message: &GossipMessage) -> bool {
    let GossipMessage::Push { fresh, records } = message else {
        return false;
    };
    let told =
        |record: &Arc<Record>| record.key.owner == id(0) && record.key.topic == Topic::Links(0);
    *fresh && (from, to) == (0, 64) && records.iter().any(told)
}

#[test]
fn a_newcomer_asks_for_the_record_that_lets_it_in() {
    let mut world = World::new(51).peers(60);
    world.run_until(30 * SECOND, World::is_one_mesh);
    world.run_for(20 * SECOND);
    world.loses = loses_links_of_the_seed;
    // So many in a row that the last one's link is published after it has compared.
    for _ in 60..64 {
        world.launch(&[0]);
        world.run_for(SECOND / 5);
    }
    assert_eq!(world.launch(&[0]), 64);
    let joined = |world: &World| world.mesh(64).routes().reaches(&id(0));
    let took = world.run_until(10 * SECOND, joined);
    assert!(took <= 3 * SECOND, "{took:?}");
}

#[test]
fn a_restarted_peer_is_back_with_its_new_records() {
    let mut world = World::new(42).peers(12);
    world.run_until(20 * SECOND, World::is_one_mesh);
    world.with(4, |mesh, now| mesh.learn_station(mac(1), &[], false, now));
    world.run_for(SECOND);
    world.crash(4);
    world.restart(4);
    world.run_for(8 * SECOND).assert_one_mesh();
    assert_eq!(world.mesh(0).stations().peer_of(&mac(1)), None);
}

#[test]
fn a_peer_that_lost_its_epoch_overtakes_its_past() {
    let mut world = World::new(43).peers(6);
    world.run_until(20 * SECOND, World::is_one_mesh);
    world.crash(3);
    world.restart_in(3, 50);
    world.run_for(5 * SECOND).assert_one_mesh();
    world.crash(3);
    world.restart_in(3, 1);
    world.run_for(8 * SECOND).assert_one_mesh();
    assert!(world.mesh(3).epoch() > 50);
    assert!(
        world.slots[3].warnings.is_empty(),
        "{:?}",
        world.slots[3].warnings
    );
}

#[test]
fn halves_of_a_partition_work_on_and_merge_again() {
    let mut world = World::new(44).loss(0.02).peers(40);
    world.run_until(30 * SECOND, World::is_one_mesh);
    world.partition(|peer| peer % 2 == 0);
    world.run_for(20 * SECOND).assert_converged();
    assert_eq!(
        world.components().iter().map(Vec::len).collect::<Vec<_>>(),
        [20, 20]
    );
    world.with(1, |mesh, now| mesh.learn_station(mac(1), &[], false, now));
    world.with(2, |mesh, now| mesh.learn_station(mac(2), &[], false, now));
    world.run_for(5 * SECOND);
    world.heal();
    let took = world.run_until(20 * SECOND, World::is_one_mesh);
    assert!(took <= 10 * SECOND, "{took:?}");
    assert_eq!(world.mesh(0).stations().len(), 2);
}

#[test]
fn a_partition_longer_than_the_memory_of_peers_heals_too() {
    let short = |config: &mut gossip::Config| config.peer_age = 40 * SECOND;
    let mut world = World::new(45).configure(short).peers(12);
    world.run_until(20 * SECOND, World::is_one_mesh);
    world.partition(|peer| peer >= 6);
    world.run_for(60 * SECOND).assert_converged();
    assert_eq!(world.mesh(0).peers().count(), 6);
    world.heal();
    world.run_for(15 * SECOND).assert_one_mesh();
    assert_eq!(world.mesh(0).peers().count(), 12);
}

#[test]
fn the_dead_are_forgotten_by_all() {
    let short = |config: &mut gossip::Config| config.peer_age = 30 * SECOND;
    let mut world = World::new(46).configure(short).loss(0.05).peers(20);
    world.run_until(20 * SECOND, World::is_one_mesh);
    (10..20).for_each(|peer| world.crash(peer));
    world.run_for(60 * SECOND).assert_one_mesh();
    for peer in 0..10 {
        assert_eq!(world.mesh(peer).peers().count(), 10);
        assert_eq!(world.mesh(peer).record_count(), 20);
    }
}

#[test]
fn a_cut_in_one_direction_is_routed_around() {
    let mut world = World::new(47).peers(6);
    world.run_until(20 * SECOND, World::is_one_mesh);
    world.net.cut(0, 1, true);
    world.run_for(6 * SECOND).assert_one_mesh();
    let hop = world.mesh(1).routes().next_hop(&id(0)).unwrap();
    assert_eq!(hop.hops, 2);
}

#[test]
fn half_of_all_peers_may_die_at_once() {
    for seed in 48..56 {
        let mut world = World::new(seed).peers(80);
        world.run_until(30 * SECOND, World::is_one_mesh);
        (0..40).for_each(|peer| world.crash(peer * 2));
        let took = world.run_until(30 * SECOND, World::is_one_mesh);
        assert!(took <= 10 * SECOND, "seed {seed}: {took:?}");
    }
}

#[test]
fn churn_under_loss_leaves_one_mesh() {
    for seed in 0..3 {
        let mut world = World::new(100 + seed).loss(0.05).reorder(0.1).peers(50);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for step in 0..120 {
            world.run_for(Duration::from_millis(rng.random_range(50..500)));
            let peer = rng.random_range(3..50);
            match (world.slots[peer].mesh.is_some(), step % 4) {
                (true, 0) => world.crash(peer),
                (true, 1) => world.stop(peer),
                (true, _) => world.with(peer, |mesh, now| {
                    mesh.learn_station(mac(step % 20), &[], false, now)
                }),
                (false, _) => world.restart(peer),
            }
        }
        world.run_for(30 * SECOND).assert_one_mesh();
    }
}

#[test]
fn forged_and_broken_records_are_counted_and_cut_no_link() {
    let mut world = World::new(49).peers(4);
    world.run_until(20 * SECOND, World::is_one_mesh);
    let liar = id(3);
    let key = RecordKey {
        owner: id(2),
        topic: Topic::Links(0),
    };
    let version = Version {
        epoch: 9,
        sequence: 9,
    };
    let body = Body::Links(Links::default()).encode();
    let forged = Arc::new(Record::new(key, version, body));
    let mut broken = (*forged).clone();
    broken.body = vec![0xff; 40];
    let records = vec![forged, Arc::new(broken)];
    for _ in 0..50 {
        let records = records.clone();
        world.with(0, |mesh, now| {
            mesh.handle_message(
                liar,
                GossipMessage::Push {
                    fresh: true,
                    records,
                },
                now,
            )
        });
    }
    world.run_for(5 * SECOND).assert_one_mesh();
    let counters = world.mesh(0).counters();
    assert_eq!((counters.forged, counters.quarantined), (50, 50));
    let warnings = &world.slots[0].warnings;
    assert_eq!(warnings.len(), 2, "once per cause: {warnings:?}");
    assert!(
        warnings
            .iter()
            .all(|warning| matches!(warning, Warning::BadRecord { .. }))
    );
    assert_eq!(world.mesh(0).neighbours().count(), 3);
}

#[test]
fn a_cloned_identity_is_said_once() {
    let mut world = World::new(50).peers(4);
    world.run_until(20 * SECOND, World::is_one_mesh);
    for round in 0..5 {
        let clone = world.record_by(3, Topic::Node, 100 + round * 10);
        world.with(3, |mesh, now| {
            mesh.handle_message(
                id(0),
                GossipMessage::Push {
                    fresh: true,
                    records: vec![clone],
                },
                now,
            );
        });
        world.run_for(SECOND);
    }
    assert_eq!(
        world.slots[3].warnings,
        [Warning::ClonedIdentity { peer: id(3) }]
    );
}
