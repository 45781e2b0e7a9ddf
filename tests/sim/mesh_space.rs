//! The address space within the mesh: what it says waits for the disk.

use std::{net::Ipv4Addr, time::Duration};

use gossip::{
    Event, Mesh,
    space::{Init, Space, SpaceConfig},
};
use proto::record::Topic;

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
