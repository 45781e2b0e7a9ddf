//! The address space within the mesh: what it says waits for the disk.

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use gossip::{
    Event, Mesh,
    space::{Init, Saved, Space, SpaceConfig},
};
use proto::record::Topic;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::world::{FakeAuthority, World, id};

const SECOND: Duration = Duration::from_secs(1);

fn config(init: Init) -> SpaceConfig {
    SpaceConfig {
        base: Ipv4Addr::new(10, 32, 0, 0),
        prefix: 16,
        range6: None,
        init,
        dead_after: 600 * SECOND,
    }
}

/// Whether the first peer's word about its space has come to the second.
fn is_said(world: &World) -> bool {
    let mut records = world.mesh(1).records();
    records.any(|record| record.key.owner == id(0) && record.key.topic == Topic::Space)
}

/// Whether an address was given just now.
fn is_granted(mesh: &mut Mesh<FakeAuthority>) -> bool {
    let mut events = std::iter::from_fn(|| mesh.poll_event());
    events.any(|event| matches!(event, Event::Space(outcome) if outcome.result.is_ok()))
}

/// What a disk does, for both.
fn keep(world: &mut World) {
    for peer in 0..2 {
        world.with(peer, |mesh, now| {
            while mesh.take_space_saved().is_some() {
                mesh.space_kept(now);
            }
        });
    }
}

#[test]
fn nothing_of_the_space_is_said_before_it_is_kept_and_links_do_not_wait() {
    let mut world = World::new(73).peers(2);
    world.run_until(10 * SECOND, World::is_one_mesh);
    let founder = config(Init::Seeds(vec![id(0).short_id()]));
    world.with(0, |mesh, now| {
        mesh.open_space(founder, None, now);
        mesh.prime_space(now);
    });
    world.with(1, |mesh, now| {
        mesh.open_space(config(Init::Observer), None, now);
    });
    world.run_for(30 * SECOND).assert_one_mesh();
    assert!(world.mesh(0).is_space_withheld(), "something is to be kept");
    assert!(!is_said(&world));
    // What the disk did not take is not lost: it waits as long as it has to.
    for _ in 0..20 {
        keep(&mut world);
        world.run_for(SECOND);
    }
    assert!(is_said(&world));
    world.with(0, |mesh, now| {
        let range = mesh.space().map(Space::range).expect("it takes part");
        mesh.allocate(1, range, now);
        assert!(is_granted(mesh), "what is held and kept can be given out");
    });
}

/// Lets time pass; disks take a while, and the last that each kept is remembered.
fn pass(world: &mut World, time: Duration, kept: &mut [Option<Saved>; 3]) {
    for peer in world.alive() {
        world.with(peer, |mesh, now| {
            if let Some(saved) = mesh.take_space_saved() {
                kept[peer] = Some(saved);
                mesh.space_kept(now);
            }
        });
    }
    world.run_for(time);
}

/// The owner of everything dies, both others say at once that it is gone, and it comes back
/// at any time after that: no address is given out by it that another gives out, too.
#[test]
fn an_owner_that_was_said_to_be_gone_gives_out_nothing_of_what_was_taken() {
    for seed in 0..60 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut world = World::new(seed).loss(0.1).reorder(0.3).peers(3);
        world.run_until(20 * SECOND, World::is_one_mesh);
        let founder = config(Init::Seeds(vec![id(0).short_id()]));
        let mut kept = [const { None }; 3];
        world.with(0, |mesh, now| {
            mesh.open_space(founder.clone(), None, now);
            mesh.prime_space(now);
        });
        for peer in 1..3 {
            let config = config(Init::Observer);
            world.with(peer, |mesh, now| mesh.open_space(config, None, now));
        }
        for _ in 0..150 {
            pass(&mut world, SECOND / 20, &mut kept);
        }
        world.crash(0);
        let is_missed = |world: &World| {
            let mut others = (1..3).map(|peer| world.mesh(peer).routes());
            others.all(|routes| !routes.reaches(&id(0)))
        };
        world.run_until(20 * SECOND, is_missed);
        for peer in 1..3 {
            world.with(peer, |mesh, now| {
                mesh.take_over(id(0).short_id(), false, now)
            });
        }
        for _ in 0..rng.random_range(0..60) {
            pass(&mut world, SECOND / 50, &mut kept);
        }
        world.restart(0);
        let saved = kept[0].clone();
        world.with(0, |mesh, now| mesh.open_space(founder, saved, now));
        for wish in 0..300 {
            for peer in 0..3 {
                world.with(peer, |mesh, now| {
                    let range = mesh.space().map(Space::range).expect("it takes part");
                    mesh.allocate(wish, range, now);
                });
            }
            pass(&mut world, SECOND / 50, &mut kept);
        }
        let mut given = BTreeMap::new();
        for (peer, slot) in world.slots.iter().enumerate() {
            let granted = slot
                .outcomes
                .iter()
                .filter_map(|outcome| outcome.result.as_ref().ok());
            assert!(granted.clone().count() > 0, "{peer} is served, seed {seed}");
            for grant in granted {
                let other = given.insert(grant.at, peer);
                assert_eq!(
                    other, None,
                    "{} is given by {peer}, too, seed {seed}",
                    grant.at
                );
            }
        }
    }
}
