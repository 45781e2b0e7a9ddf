//! Tests of the choice of neighbours, beside it because of their length.

use std::sync::Arc;

use proto::record::{Body, Topic};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::topology::tests::{id, report};

/// Peers 0..count in eight networks, all linked to peer 1.
fn world(count: usize) -> (Replica, Ways) {
    let mut replica = Replica::new(1000, 1);
    for n in 0..count {
        let mut record = (*crate::replica::tests::record(n as u8, Topic::Node, 1, 0)).clone();
        let mut node = match record.content() {
            Some(Body::Node(node)) => node.clone(),
            other => panic!("{other:?}"),
        };
        node.endpoints = vec![SocketAddr::from(([10, n as u8 % 8, 0, n as u8], 1))];
        record.body = Body::Node(node).encode();
        replica.merge(&Arc::new(record.clone()), |_, _| true);
    }
    let mut ways = Ways::new(replica.slot(&id(0)).unwrap());
    let hub = (0..count).filter(|n| *n != 1).map(|n| (n, 1)).collect();
    replica.merge(&report(1, 1, &hub), |_, _| true);
    for n in (0..count).filter(|n| *n != 1) {
        replica.merge(&report(n, 1, &BTreeMap::from([(1, 1)])), |_, _| true);
        let slot = |n| replica.slot(&id(n)).unwrap();
        ways.touch(slot(1), slot(n));
    }
    ways.update(&replica);
    (replica, ways)
}

/// What a choice depends on, owned.
struct Scene {
    replica: Replica,
    ways: Ways,
    config: Config,
    absent: Absent,
    links: BTreeMap<PeerId, SocketAddr>,
    now: Instant,
}

impl Scene {
    fn new((replica, ways): (Replica, Ways), links: BTreeMap<PeerId, SocketAddr>) -> Self {
        Self {
            replica,
            ways,
            config: Config::default(),
            absent: Absent::default(),
            links,
            now: Instant::now(),
        }
    }

    fn situation(&self, own: usize) -> Situation<'_> {
        Situation {
            local: id(0),
            config: &self.config,
            replica: &self.replica,
            ways: &self.ways,
            absent: &self.absent,
            links: &self.links,
            own,
            now: self.now,
        }
    }
}

fn choose(count: usize) -> Vec<Candidate> {
    let links = BTreeMap::from([(id(1), SocketAddr::from(([10, 1, 0, 1], 1)))]);
    let scene = Scene::new(world(count), links);
    let (mut situation, now) = (scene.situation(0), scene.now);
    let mut neighbours = Neighbours::new(now);
    let mut chosen = neighbours.review(&situation, &mut ChaCha8Rng::seed_from_u64(3));
    for candidate in &chosen {
        neighbours.dialling(candidate.peer, DialId(1), now);
    }
    situation.now += COURTESY;
    chosen.extend(neighbours.review(&situation, &mut ChaCha8Rng::seed_from_u64(4)));
    chosen
}

#[test]
fn in_a_small_mesh_everybody_is_dialled() {
    assert_eq!(choose(12).len(), 10);
}

#[test]
fn in_a_large_mesh_a_few_are_dialled_spread_over_networks() {
    let chosen = choose(80);
    assert_eq!(chosen.len(), Config::default().degree - 1);
    let second = |c: &Candidate| match c.addresses[0].ip() {
        std::net::IpAddr::V4(ip) => ip.octets()[1],
        std::net::IpAddr::V6(_) => 0,
    };
    let networks: BTreeSet<_> = chosen.iter().map(second).collect();
    assert!(networks.len() >= 4, "{networks:?}");
}

/// A mesh of eighty, of whom these are one attacker's: they are in
/// one network, and each claims another beside it. Gives whom of them a peer
/// chooses that has these links for an hour, over some histories.
fn chosen_of(attackers: std::ops::Range<usize>, links: &[usize], own: usize) -> Vec<[usize; 2]> {
    let real = |n: usize| SocketAddr::from(([66, 6, 0, n as u8], 1));
    let (mut replica, ways) = world(80);
    for n in attackers.clone() {
        let mut record = (*crate::replica::tests::record(n as u8, Topic::Node, 2, 0)).clone();
        let Some(Body::Node(node)) = record.content() else {
            panic!("it is a node");
        };
        let mut node = node.clone();
        node.endpoints = vec![SocketAddr::from(([n as u8, n as u8, 0, 1], 1)), real(n)];
        record.body = Body::Node(node).encode();
        replica.merge(&Arc::new(record), |_, _| true);
    }
    let address = |n: usize| match attackers.contains(&n) {
        true => real(n),
        false => SocketAddr::from(([10, n as u8 % 8, 0, n as u8], 1)),
    };
    let links: BTreeMap<_, _> = links.iter().map(|n| (id(*n), address(*n))).collect();
    let scene = Scene::new((replica, ways), links);
    let now = scene.now;
    let history = |seed| {
        let mut neighbours = Neighbours::new(now);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut situation = scene.situation(own);
        let mut chosen = neighbours.review(&situation, &mut rng);
        while chosen.is_empty() && neighbours.deadline() < now + Duration::from_secs(3600) {
            situation.now = neighbours.deadline();
            chosen = neighbours.review(&situation, &mut rng);
        }
        let theirs = chosen
            .iter()
            .filter(|c| attackers.clone().any(|n| id(n) == c.peer));
        [theirs.count(), chosen.len()]
    };
    (0..50).map(history).collect()
}

#[test]
fn many_of_one_network_are_not_chosen_whatever_they_claim_beside_it() {
    // Nearly a third, and then three quarters of all.
    for (attackers, most) in [(56..80, 2), (20..80, 10)] {
        let histories = chosen_of(attackers, &[1, 2], 2);
        let theirs: usize = histories.iter().map(|[theirs, _]| theirs).sum();
        let all: usize = histories.iter().map(|[_, all]| all).sum();
        assert!(all >= 150, "{all}");
        // One of them is as good as anybody; a second is not.
        assert!(theirs <= 50 + 50 * most / 10, "{theirs} of {all}");
    }
}

#[test]
fn whoever_is_dialled_by_many_still_chooses_some_itself() {
    let inbound: Vec<usize> = (56..68).collect();
    for [theirs, all] in chosen_of(56..80, &inbound, 0) {
        assert_eq!((theirs, all), (0, 1));
    }
    for [_, all] in chosen_of(56..80, &inbound, 2) {
        assert_eq!(all, 0, "it has its own, and enough");
    }
}

/// Explored last when all was well, in a mesh so large that it is seldom done.
#[test]
fn whoever_lost_all_links_looks_for_the_lost_at_once() {
    let links = BTreeMap::from([(id(1), SocketAddr::from(([10, 1, 0, 1], 1)))]);
    let mut scene = Scene::new(world(250), links);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut neighbours = Neighbours::new(scene.now);
    neighbours.explore(&scene.situation(0), &mut rng);
    (1..250).for_each(|n| scene.absent.cut(id(n), scene.now));
    scene.now += Duration::from_secs(1);
    let explored = neighbours.explore(&scene.situation(0), &mut rng);
    assert_eq!(explored, None, "there is no hurry");
    scene.links.clear();
    for _ in 0..5 {
        scene.now += Duration::from_secs(2);
        let explored = neighbours.explore(&scene.situation(0), &mut rng);
        assert!(explored.is_some_and(|lost| lost.peer != id(0)));
    }
}
