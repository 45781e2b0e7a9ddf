//! Paths that change under a session: to TCP and back, to another address, round
//! a link that broke; and copies from elsewhere, which change nothing.

use std::{cell::RefCell, net::SocketAddr, rc::Rc, time::Duration};

use wove::engine::status::PathKind;

use crate::engine::{World, millis, secs, underlay::Fate};

/// A mesh of some peers that has settled.
fn settled(seed: u64, peers: usize) -> World {
    let mut world = World::new(seed);
    world.peers(peers).launch();
    world.run_for(secs(12)).assert_full_reach();
    world
}

/// The time from the first to the last frame lost since `mark`.
fn outage(world: &World, mark: u64) -> Duration {
    let lost = world.lost_since(mark);
    let times = lost.iter().map(|(_, _, at)| *at);
    let (first, last) = (times.clone().min(), times.max());
    first
        .zip(last)
        .map_or(Duration::ZERO, |(first, last)| last - first)
}

fn assert_outage_below(world: &mut World, mark: u64, most: Duration) {
    let outage = outage(world, mark);
    if outage >= most {
        world.fail(&format!("{outage:?} without frames"));
    }
}

#[test]
fn tcp_carries_while_udp_is_dropped_and_going_back_loses_nothing() {
    let mut world = settled(1, 2);
    world.flow(0, 1, millis(10), secs(30));
    world.flow(1, 0, millis(10), secs(30)).run_for(secs(2));
    let mark = world.mark();
    world.net.rule = Some(Box::new(|leaving| match leaving.tcp {
        true => Fate::Pass,
        false => Fate::Drop,
    }));
    world.run_for(secs(8));
    assert_outage_below(&mut world, mark, secs(1));
    world.assert_path(0, 1, PathKind::Tcp);
    world.assert_path(1, 0, PathKind::Tcp);
    world.assert_linked(0, 1, true);
    let mark = world.mark();
    world.net.rule = None;
    world.run_for(secs(8)).assert_delivered_since(mark);
    world.assert_path(0, 1, PathKind::Sleeve);
    world.assert_path(1, 0, PathKind::Sleeve);
}

#[test]
fn peers_that_udp_never_reached_join_by_tcp() {
    let mut world = World::new(2);
    world.net.rule = Some(Box::new(|leaving| match leaving.tcp {
        true => Fate::Pass,
        false => Fate::Drop,
    }));
    world.peers(4).launch();
    world.run_for(secs(12)).assert_full_reach();
}

#[test]
fn a_relay_is_better_than_tcp() {
    let mut world = settled(3, 3);
    world.net.rule = Some(Box::new(|leaving| {
        let pair = (leaving.from.min(leaving.to), leaving.from.max(leaving.to));
        match pair == (0, 2) && !leaving.tcp {
            true => Fate::Drop,
            false => Fate::Pass,
        }
    }));
    world.flow(0, 2, millis(10), secs(40)).run_for(secs(20));
    world.assert_path(0, 2, PathKind::Relay);
    let mark = world.mark();
    world.run_for(secs(10)).assert_delivered_since(mark);
}

#[test]
fn a_broken_link_is_gone_round_before_it_is_given_up() {
    let mut world = settled(4, 3);
    world.flow(0, 2, millis(10), secs(20));
    world.flow(2, 0, millis(10), secs(20)).run_for(secs(2));
    let mark = world.mark();
    world.cut(0, 2).run_for(secs(5));
    assert_outage_below(&mut world, mark, secs(1));
    let mark = world.mark();
    world
        .heal(0, 2)
        .run_for(secs(8))
        .assert_delivered_since(mark);
    world.assert_path(0, 2, PathKind::Sleeve);
}

#[test]
fn a_peer_that_moves_is_followed_without_a_handshake() {
    let mut world = settled(5, 2);
    world.flow(0, 1, millis(10), secs(60));
    world.flow(1, 0, millis(10), secs(60)).run_for(secs(2));
    let keys = world.connection(0, 1).map(|c| c.key_age_s);
    for moves in 1..5 {
        let mark = world.mark();
        world.roam(1, moves).run_for(secs(4));
        assert_outage_below(&mut world, mark, secs(1));
        world.assert_path(0, 1, PathKind::Sleeve);
    }
    let now = world.connection(0, 1).map(|c| c.key_age_s);
    assert!(now > keys, "the session is another: {keys:?}, then {now:?}");
}

#[test]
fn a_copy_from_elsewhere_does_not_steal_the_path() {
    let mut world = settled(6, 2);
    world.flow(0, 1, millis(10), secs(30));
    world.flow(1, 0, millis(10), secs(30)).run_for(secs(2));
    // Somebody on the way from 0 to 1 lets nothing through but copies that seem
    // to come from him.
    let copies: Rc<RefCell<Vec<Vec<u8>>>> = Rc::default();
    let kept = Rc::clone(&copies);
    world.net.rule = Some(Box::new(move |leaving| {
        if leaving.from == 0 && !leaving.tcp {
            kept.borrow_mut().push(leaving.datagram.to_vec());
            return Fate::Drop;
        }
        Fate::Pass
    }));
    let thief = SocketAddr::from(([203, 0, 113, 9], 6783));
    world.astray.clear();
    for _ in 0..150 {
        world.run_for(millis(1));
        let to = world.nodes[1].address;
        for copy in copies.borrow_mut().drain(..) {
            world.inject_after(millis(1), to, thief, copy);
        }
    }
    let mark = world.mark();
    world.net.rule = None;
    world.run_for(secs(5)).assert_delivered_since(mark);
    let stolen = world.astray.iter().filter(|(to, _)| to.ip() == thief.ip());
    let longest = stolen.map(|(_, datagram)| datagram.len()).max();
    assert!(longest < Some(150), "frames went to the thief: {longest:?}");
}

#[test]
fn a_datagram_that_was_heard_before_tells_nothing_of_where_a_peer_is() {
    let mut world = settled(7, 2);
    world.flow(0, 1, millis(10), secs(30));
    world.flow(1, 0, millis(10), secs(30)).run_for(secs(2));
    let copies: Rc<RefCell<Vec<Vec<u8>>>> = Rc::default();
    let kept = Rc::clone(&copies);
    world.net.rule = Some(Box::new(move |leaving| {
        if leaving.from == 0 {
            kept.borrow_mut().push(leaving.datagram.to_vec());
        }
        Fate::Pass
    }));
    let thief = SocketAddr::from(([203, 0, 113, 9], 6783));
    let mark = world.mark();
    world.astray.clear();
    for _ in 0..50 {
        world.run_for(millis(100));
        let to = world.nodes[1].address;
        for copy in copies.borrow_mut().drain(..) {
            // Later than any datagram takes: the window has moved over it.
            world.inject_after(millis(50), to, thief, copy);
        }
    }
    world.run_for(secs(1)).assert_delivered_since(mark);
    let to_thief = world.astray.iter().filter(|(to, _)| *to == thief);
    assert_eq!(to_thief.count(), 0, "he is not even asked");
    world.assert_path(0, 1, PathKind::Sleeve);
}

#[test]
fn who_only_answers_notices_that_the_path_broke() {
    // 0 sends; 1 is to be found after its address changed, and has nothing to say.
    for moves in 1..6 {
        let mut world = settled(20 + u64::from(moves), 3);
        world.flow(0, 1, millis(10), secs(20)).run_for(secs(2));
        let mark = world.mark();
        world.roam(1, moves).run_for(secs(4));
        assert_outage_below(&mut world, mark, secs(1));
    }
}
