//! Copied identities, hostile members, and datagrams from outside.

use std::net::SocketAddr;

use crypto::{Identity, Initiator, Responder};
use proto::{
    content::{self, BroadcastHeader, FragmentHeader, RelayHeader},
    datagram::{Datagram, Protection},
    message::{Beat, GossipMessage, Held, Message, PathMessage, RangeSummary},
    record::{Record, RecordKey, Topic, Version},
};
use rand::{Rng, RngCore, seq::IndexedRandom};
use wove::engine::{Effects, seal::send_content};

use crate::engine::{World, millis, secs};

#[test]
fn a_copied_identity_is_told_and_harms_nobody_else() {
    let mut world = World::new(1);
    world.peers(4);
    world.nodes[3].identity = world.nodes[2].identity;
    world.nodes[3].containers = world.nodes[2].containers.clone();
    world.launch().run_for(secs(120));
    let mark = world.mark();
    world.flow(0, 1, millis(20), secs(20));
    world.flow(1, 0, millis(20), secs(20)).run_for(secs(21));
    world.assert_delivered_since(mark).assert_linked(0, 1, true);
    let told: usize = (0..4)
        .map(|host| world.warnings(host, "copied") + world.warnings(host, "two daemons"))
        .sum();
    assert!(told > 0, "nobody noticed");
    assert_said_once(&world);
    // The operator stops the copy. The other one was refused until now, so its
    // dials are a minute or two apart.
    world.stop(3);
    world.run_until("peer 2 is whole again", secs(180), |world| {
        world.linked(0, 2)
    });
    world.run_for(secs(5)).assert_full_reach();
}

#[test]
fn a_nickname_clash_is_told_and_harms_nobody() {
    let mut world = World::new(2);
    world.peers(3);
    world.nodes[2].nickname = "HOST1".to_lowercase();
    world.launch().assert_full_reach();
    let name = "host1";
    assert!(world.warnings(1, name) == 1 && world.warnings(2, name) == 1);
    assert_said_once(&world);
}

/// Nobody said one thing twice, and nobody said very much.
fn assert_said_once(world: &World) {
    for node in &world.nodes {
        let mut sorted = node.warnings.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted.len(), node.warnings.len(), "{:?}", node.warnings);
        assert!(sorted.len() < 20, "{sorted:?}");
    }
}

#[test]
fn a_hostile_member_harms_nobody_else() {
    for seed in 10..13 {
        let mut world = World::new(seed);
        // Nobody's way leads through the member: what it passes on is its affair.
        let equal = millis(10);
        world.net.netem.latency = (equal, equal);
        world.peers(4).launch().assert_full_reach();
        let (mark, since) = (world.mark(), world.now);
        world.flow(0, 1, millis(20), secs(20));
        world.flow(1, 2, millis(20), secs(20));
        world.shouts(2, millis(100), secs(20));
        for _ in 0..2000 {
            for victim in 0..3 {
                let (header, body) = nonsense(&mut world);
                say(&mut world, 3, victim, &header, &body);
            }
            world.run_for(millis(10));
        }
        world.run_for(secs(5));
        // What the member itself gets, or how it is heard, does not matter.
        let lost = world.lost_since(mark);
        if let Some(lost) = lost.iter().find(|lost| lost.1 != 3) {
            world.fail(&format!("a frame was lost: {lost:?}"));
        }
        for (a, b) in [(0, 1), (1, 2), (0, 2)] {
            world.assert_linked(a, b, true);
        }
        world.crash(3);
        for host in 0..3 {
            let status = world.status(host);
            assert!(status.counters.records < 2000 && status.counters.sessions < 20);
            let links = world.nodes[host].links.iter();
            let others = links.filter(|(at, peer, _)| *at >= since && *peer != world.nodes[3].id());
            assert_eq!(others.count(), 0, "SEED={seed}");
        }
        assert_said_once(&world);
        world.run_for(secs(5)).assert_full_reach();
    }
}

/// `from` sends a content of choice to `to`, inside their session.
fn say(world: &mut World, from: usize, to: usize, header: &[u8], body: &[u8]) {
    let id = world.nodes[to].id();
    let Some(peer) = &world.nodes[from].running else {
        return;
    };
    let (snapshot, mut sink) = (peer.snapshot.clone(), Effects::default());
    if let Some(path) = snapshot.paths.get(&id) {
        let sealed = (&snapshot, (id, path.as_ref()), Protection::Sealed);
        // A session that just ended cannot be spoken with.
        let _ = send_content(sealed.0, sealed.1, sealed.2, (header, body), &mut sink);
    }
    world.carry_out(from, sink);
}

/// Something that may open, and means no good.
fn nonsense(world: &mut World) -> (Vec<u8>, Vec<u8>) {
    let ids: Vec<_> = world.nodes.iter().map(|node| node.id()).collect();
    let frame = vec![0x55; world.rng.random_range(0..200)];
    let rng = &mut world.rng;
    let source = ids.choose(rng).copied().unwrap_or_default();
    let destination = ids.choose(rng).copied().unwrap_or_default();
    let mut noise = vec![0; rng.random_range(0..300)];
    rng.fill_bytes(&mut noise);
    match rng.random_range(0..6) {
        0 => (vec![rng.random_range(0..8)], noise),
        1 => (content::CONTROL.to_vec(), gossip(world, noise).encode()),
        2 => {
            let hops = rng.random();
            let header = RelayHeader {
                distance: rng.random(),
                hops,
                source,
                destination,
            };
            (header.emit().to_vec(), noise)
        }
        3 => {
            // In another's name, too.
            let made_up = BroadcastHeader {
                hops: rng.random(),
                source,
                sequence: rng.random(),
            };
            (made_up.emit().to_vec(), frame)
        }
        4 => {
            let (id, count) = (rng.random(), rng.random_range(2..=255));
            let header = FragmentHeader {
                id,
                index: rng.random_range(0..count),
                count,
            };
            (header.emit().to_vec(), noise)
        }
        _ => (content::FRAME.to_vec(), frame),
    }
}

fn gossip(world: &mut World, noise: Vec<u8>) -> Message {
    let owners: Vec<_> = world.nodes.iter().map(|node| node.id()).collect();
    let rng = &mut world.rng;
    let key = RecordKey {
        owner: owners.choose(rng).copied().unwrap_or_default(),
        topic: Topic::Links(rng.random_range(0..9)),
    };
    let version = Version {
        epoch: rng.random(),
        sequence: rng.random(),
    };
    let (a, b): (u64, u64) = (rng.random(), rng.random());
    let (first, last) = (a.min(b), a.max(b));
    let range = RangeSummary {
        first,
        last,
        fingerprint: rng.random(),
        count: rng.random(),
    };
    let mut record = Record::new(key, version, noise);
    record.signature = ([7; 32], [9; 32]);
    let held = Held {
        key,
        version,
        digest: 7,
    };
    let (token, session) = (rng.random(), rng.random());
    match rng.random_range(0..8) {
        0 => Message::Gossip(GossipMessage::Push {
            fresh: true,
            records: vec![record.into()],
        }),
        1 => Message::Gossip(GossipMessage::Summary {
            ranges: vec![range; 8],
        }),
        2 => Message::Gossip(GossipMessage::Versions {
            first,
            last,
            held: vec![held],
        }),
        3 => Message::Gossip(GossipMessage::Want { keys: vec![key; 8] }),
        4 => Message::Gossip(GossipMessage::Pong {
            token: token as u8,
            beat: Beat {
                fingerprint: [7; 2],
                news: vec![token as u32; 40],
            },
        }),
        5 => Message::Path(PathMessage::Ack {
            token,
            observed: Some(SocketAddr::from(([10, 9, 8, 7], 53))),
        }),
        6 => Message::Path(PathMessage::Meet {
            endpoints: vec![SocketAddr::from((OUTSIDE, 53)); 40],
        }),
        _ => Message::Path(PathMessage::Probe {
            token: session,
            padding: proto::message::Padding(300),
        }),
    }
}

#[test]
fn no_member_has_others_send_much_to_whom_it_names() {
    let mut world = World::new(50);
    world.peers(4).launch().assert_full_reach();
    world.astray.clear();
    let victim = std::net::Ipv4Addr::from(OUTSIDE);
    let seconds = 10;
    for turn in 0..seconds * 100 {
        for to in 0..3 {
            // Other ports each time, and what is no address of a peer.
            let named = (0..13).map(|n| SocketAddr::from((victim, 1000 + n + 13 * (turn % 100))));
            let nowhere = ["0.0.0.0:53", "224.0.0.1:53", "203.0.113.9:0"];
            let nowhere = nowhere
                .into_iter()
                .filter_map(|address| address.parse().ok());
            let endpoints = named.chain(nowhere).collect();
            let meet = Message::Path(PathMessage::Meet { endpoints });
            say(&mut world, 3, to, &content::CONTROL, &meet.encode());
        }
        world.run_for(millis(10));
    }
    let (mut count, mut bytes) = (0, 0);
    for (to, datagram) in &world.astray {
        assert_eq!(to.ip(), victim, "{to} is no place to look for a peer");
        (count, bytes) = (count + 1, bytes + datagram.len());
    }
    // Three peers, three rounds of at most 16 addresses, every 1.5 s.
    let most = 3 * 3 * 16 * (usize::from(seconds) * 2 / 3 + 1);
    assert!((1..=most).contains(&count), "{count} datagrams");
    assert!(bytes <= most * 64, "{bytes} bytes");
    for (a, b) in [(0, 1), (1, 2), (0, 2)] {
        world.assert_linked(a, b, true);
    }
}

#[test]
fn nobody_dials_where_no_peer_can_be() {
    let mut world = World::new(52);
    world.peers(3).line().launch();
    let nowhere = ["127.0.0.1:22", "[::1]:22", "0.0.0.0:53", "224.0.0.1:53"];
    let nowhere = nowhere.map(|address| address.parse().unwrap());
    // The other end of the line, which everybody would like to reach directly.
    world.control(2, |router, now| router.set_endpoints(nowhere.into(), now));
    world.run_for(secs(60)).assert_full_reach();
    let mut dialled = world.astray.iter().map(|(to, _)| to);
    assert_eq!(dialled.find(|to| nowhere.contains(to)), None);
}

const OUTSIDE: [u8; 4] = [203, 0, 113, 9];

/// A stranger sends a datagram; nobody may send it more in return.
fn assert_no_longer_answer(world: &mut World, datagram: Vec<u8>) {
    let (source, size) = (SocketAddr::from((OUTSIDE, 4000)), datagram.len());
    let to = world.nodes[0].address;
    let what = datagram.first().copied();
    world.astray.clear();
    world.inject_after(millis(1), to, source, datagram);
    world.run_for(secs(1));
    let answers = world.astray.iter().filter(|(to, _)| *to == source);
    let answered: usize = answers.map(|(_, answer)| answer.len()).sum();
    if answered > size {
        world.fail(&format!(
            "{answered} bytes answer {size} bytes of kind {what:?}"
        ));
    }
}

#[test]
fn no_stranger_gets_more_bytes_than_it_sends() {
    let mut world = World::new(20);
    world.peers(2).launch();
    for datagram in stages(&mut world) {
        for len in [datagram.len(), datagram.len() - 1, 100, 28, 17, 16, 12, 1] {
            assert_no_longer_answer(&mut world, datagram[..len.min(datagram.len())].to_vec());
        }
    }
    for kind in 0..=0x12 {
        for len in [0, 1, 8, 16, 17, 28, 32, 33, 60, 660, 1400] {
            let mut noise = vec![0; len];
            world.rng.fill_bytes(&mut noise);
            if let [first, version, ..] = noise.as_mut_slice() {
                (*first, *version) = (kind, 1);
            }
            assert_no_longer_answer(&mut world, noise);
        }
    }
    world.assert_linked(0, 1, true).assert_full_reach();
}

/// One datagram of each stage of a handshake with host 0, made by a stranger
/// that knows the secret, and one that does not.
fn stages(world: &mut World) -> Vec<Vec<u8>> {
    let stranger = Identity::generate(&mut world.rng);
    let hello = crypto::Hello::new(1, 2, "stranger");
    let secrets = [
        world.secret.clone(),
        crypto::Secret::generate(&mut world.rng),
    ];
    let mut out = Vec::new();
    for secret in secrets {
        let started = Initiator::start(&stranger, &hello, 77, &mut world.rng);
        let Ok((mut initiator, initiation)) = started else {
            continue;
        };
        out.push(initiation.clone());
        let answer = answer_to(world, &initiation);
        let response = answer.as_deref().map(Datagram::parse);
        let Some(Ok(Datagram::Handshake(response))) = response else {
            world.fail("host 0 did not answer an initiation");
        };
        if let Ok((_, completion)) = initiator.read_response(&response, &secret) {
            out.push(completion);
        }
        out.push(own_response(world, &stranger, &hello, &initiation));
    }
    out
}

/// What host 0 answers to a stranger.
fn answer_to(world: &mut World, datagram: &[u8]) -> Option<Vec<u8>> {
    let source = SocketAddr::from((OUTSIDE, 4000));
    world.astray.clear();
    world.inject_after(millis(1), world.nodes[0].address, source, datagram.to_vec());
    world.run_for(millis(100));
    world.astray.pop().map(|(_, answer)| answer)
}

/// A response that nobody asked for.
fn own_response(
    world: &mut World,
    stranger: &Identity,
    hello: &crypto::Hello,
    initiation: &[u8],
) -> Vec<u8> {
    let Ok(Datagram::Handshake(message)) = Datagram::parse(initiation) else {
        return Vec::new();
    };
    let accepted = Responder::accept(stranger, hello, 79, &message, &mut world.rng);
    accepted.map(|(_, answer)| answer).unwrap_or_default()
}

#[test]
fn replayed_datagrams_are_answered_with_no_more_than_they_are() {
    use std::{cell::RefCell, rc::Rc};
    let mut world = World::new(30);
    world.peers(2);
    let heard: Rc<RefCell<Vec<Vec<u8>>>> = Rc::default();
    let shared = Rc::clone(&heard);
    world.net.rule = Some(Box::new(move |leaving| {
        if leaving.to == 0 && shared.borrow().len() < 300 {
            shared.borrow_mut().push(leaving.datagram.to_vec());
        }
        crate::engine::underlay::Fate::Pass
    }));
    world.launch();
    for datagram in heard.take() {
        assert_no_longer_answer(&mut world, datagram);
    }
    world.assert_linked(0, 1, true);
}

#[test]
fn a_flood_of_handshakes_leaves_memory_bounded_and_members_alone() {
    let mut world = World::new(40);
    world.peers(2).launch();
    let since = world.now;
    world.flow(0, 1, millis(20), secs(10));
    let to = world.nodes[0].address;
    let hello = crypto::Hello::new(1, 2, "flood");
    let stranger = Identity::generate(&mut world.rng);
    let mut sent = 0;
    for _ in 0..1000 {
        for port in 0..5 {
            let started = Initiator::start(&stranger, &hello, world.rng.random(), &mut world.rng);
            let Ok((_, initiation)) = started else {
                continue;
            };
            sent += initiation.len();
            let source = SocketAddr::from((OUTSIDE, 1000 + port));
            world.inject_after(millis(1), to, source, initiation);
        }
        world.run_for(millis(10));
    }
    let outside = |to: &SocketAddr| to.ip() == std::net::IpAddr::from(OUTSIDE);
    let answers = world.astray.iter().filter(|(to, _)| outside(to));
    let answered: usize = answers.map(|(_, answer)| answer.len()).sum();
    assert!(answered <= sent, "{answered} bytes answer {sent}");
    assert!(world.status(0).counters.sessions <= 3);
    world.run_for(secs(2)).assert_all_delivered();
    world.assert_no_link_lost_since(since);
    // The members' own handshakes get through: a newcomer joins.
    let late = world.add();
    world.nodes[late].targets = vec![0];
    world.start(late).run_for(secs(5)).assert_full_reach();
}
