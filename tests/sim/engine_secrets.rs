//! Network secrets: who gets in, and how they are changed under traffic.

use crypto::Secret;

use crate::engine::{World, millis, secs};

#[test]
fn peers_with_different_secrets_never_link() {
    let mut world = World::new(1);
    world.peers(3);
    world.nodes[2].secrets = vec![Secret::generate(&mut world.rng)];
    world.launch();
    world.run_for(secs(120)).assert_linked(0, 1, true);
    for host in [0, 1] {
        world.assert_linked(host, 2, false);
        assert!(world.connection(host, 2).is_none_or(|c| !c.link));
        assert!(world.status(host).peers.len() == 2);
    }
    assert_eq!(world.status(2).peers.len(), 1);
    // Both ends are told, each once.
    assert_eq!(
        world.nodes[2].warnings.len(),
        1,
        "{:?}",
        world.nodes[2].warnings
    );
    assert_eq!(
        world.nodes[0].warnings.len(),
        1,
        "{:?}",
        world.nodes[0].warnings
    );
    assert!(world.nodes[1].warnings.is_empty());
}

#[test]
fn a_secret_in_common_is_found_whatever_the_order() {
    let mut world = World::new(2);
    let (a, b, c) = (
        world.secret.clone(),
        Secret::generate(&mut world.rng),
        Secret::generate(&mut world.rng),
    );
    world.peers(2);
    world.nodes[0].secrets = vec![b, a.clone()];
    world.nodes[1].secrets = vec![c, a];
    world.launch().assert_linked(0, 1, true).assert_full_reach();
}

fn rotate(world: &mut World) {
    let old = world.secret.clone();
    let new = Secret::generate(&mut world.rng);
    let stages = [
        vec![old.clone(), new.clone()],
        vec![new.clone(), old],
        vec![new],
    ];
    let hosts = world.nodes.len();
    for secrets in stages {
        for host in 0..hosts {
            let secrets = secrets.clone();
            world.nodes[host].secrets = secrets.clone();
            world.control(host, |router, _| router.set_secrets(secrets));
            world.run_for(secs(45));
        }
    }
}

#[test]
fn a_secret_is_rotated_without_losing_a_frame() {
    let mut world = World::new(3);
    world
        .peers(4)
        .edges(&[(0, 1), (1, 2), (2, 3), (0, 2)])
        .launch();
    world.flow(0, 3, millis(50), secs(760));
    world.flow(1, 2, millis(50), secs(760));
    world.shouts(0, millis(200), secs(760));
    rotate(&mut world);
    world.run_for(secs(200)).assert_all_delivered();
    assert!(world.elapsed() < secs(760));
}

#[test]
fn after_a_rotation_the_old_secret_opens_nothing() {
    let mut world = World::new(4);
    world.peers(2).launch();
    rotate(&mut world);
    world.run_for(secs(200)).assert_full_reach();
    let late = world.add();
    world.nodes[late].targets = vec![0];
    world.start(late).run_for(secs(60));
    world
        .assert_linked(0, late, false)
        .assert_linked(0, 1, true);
    world.crash(late);
    world.nodes[late].secrets = world.nodes[0].secrets.clone();
    world.start(late).run_for(secs(6)).assert_full_reach();
}
