//! Valid encodings of everything, for the harness to damage.

pub(crate) mod frames;

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use proto::{
    MacAddr, PeerId, PublicKeys, ShortId,
    arp::Operation,
    content::{self, BroadcastHeader, FragmentHeader, RelayHeader, SharedFrame},
    datagram::{
        Handshake, Protection, RejectReason, Stage, TransportHeader, emit_cookie_reply, emit_reject,
    },
    message::{
        Beat, ByeReason, EspNotice, GossipMessage, Held, Message, Padding, PathMessage,
        RangeSummary, VxlanOffer,
    },
    record::{
        Body, LinkTo, Links, Name, Names, Node, Record, RecordKey, RttCode, Station, Stations,
        Topic, Version,
    },
    space::{
        Ack, Ask, Ballot, Began, Block, Call, Census, Counted, Division, Founding, Gift, Guard,
        Lost, Range6, Ring, Space, Taken, Verdict, Vote,
    },
};

const PEER: PeerId = PeerId([7; 16]);
/// The station that asks in the frames.
const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const IP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);

pub(crate) fn datagrams() -> Vec<Vec<u8>> {
    let handshake = |stage, noise| {
        Handshake {
            stage,
            sender: 1,
            receiver: 2,
            cookie: [3; 16],
            noise,
        }
        .emit()
    };
    let transport = |protection| {
        let header = TransportHeader {
            protection,
            receiver: 9,
            counter: 1 << 40,
        };
        [&header.emit()[..], &[0xee; 60]].concat()
    };
    vec![
        handshake(Stage::Initiation, &[1; 96]),
        handshake(Stage::Response, &[2; 200]),
        handshake(Stage::Completion, &[3; 150]),
        emit_cookie_reply(5, &[6; 16]),
        emit_reject(5, RejectReason::Version),
        transport(Protection::Sealed),
        transport(Protection::Clear),
    ]
}

/// Connections that hold datagrams, whole and cut off.
pub(crate) fn streams() -> Vec<Vec<u8>> {
    let framed = |datagram: &Vec<u8>| {
        let prefix = proto::stream::prefix(datagram.len());
        [&prefix.expect("none is empty")[..], datagram].concat()
    };
    let all: Vec<u8> = datagrams().iter().flat_map(framed).collect();
    let cut = all[..all.len() - 7].to_vec();
    vec![all, cut]
}

pub(crate) fn contents() -> Vec<Vec<u8>> {
    let relay = RelayHeader {
        hops: 24,
        distance: 70_000,
        source: PEER,
        destination: PeerId([8; 16]),
    };
    let broadcast = BroadcastHeader {
        hops: 24,
        source: PEER,
        sequence: 1 << 33,
    };
    let fragment = FragmentHeader {
        id: 1,
        index: 2,
        count: 3,
    };
    let frame = frames::arp(Operation::Request);
    let mut all = vec![
        [&content::FRAME[..], &frame].concat(),
        [&relay.emit()[..], &datagrams()[5]].concat(),
        [&broadcast.emit()[..], &frame].concat(),
        [&fragment.emit()[..], &[1; 99]].concat(),
        [&content::UNSUMMED[..], &frame].concat(),
        shared(&[(&frame, false), (&frames::syn_v4(), true)]),
    ];
    all.extend(
        messages()
            .iter()
            .map(|message| [&content::CONTROL[..], message].concat()),
    );
    all
}

fn shared(frames: &[(&[u8], bool)]) -> Vec<u8> {
    let mut out = content::FRAMES.to_vec();
    for &(bytes, unsummed) in frames {
        SharedFrame { unsummed, bytes }.emit(&mut out);
    }
    out
}

/// Queries of each kind that is told apart, with and without EDNS.
pub(crate) fn queries() -> Vec<Vec<u8>> {
    let labels = |name: &str| -> Vec<u8> {
        let labels = name.split('.').filter(|label| !label.is_empty());
        labels
            .flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat())
            .chain([0])
            .collect()
    };
    let query = |name: &str, kind: u8, edns: bool| {
        let header = [0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns)];
        let edns: &[u8] = if edns {
            &[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]
        } else {
            &[]
        };
        [&header[..], &labels(name), &[0, kind, 0, 1], edns].concat()
    };
    vec![
        query("a.b.wove.local", 1, false),
        query("WEB.wove.local", 28, true),
        query("b.wove.local", 15, true),
        query("wove.local", 6, false),
        query("web", 255, true),
        query("1.0.32.10.in-addr.arpa", 12, false),
        query(&format!("{}d.f.ip6.arpa", "0.".repeat(30)), 12, true),
        query("example.com", 1, true),
    ]
}

pub(crate) fn messages() -> Vec<Vec<u8>> {
    let key = RecordKey {
        owner: PEER,
        topic: Topic::Names(300),
    };
    let version = Version {
        epoch: 3,
        sequence: 1000,
    };
    let range = RangeSummary {
        first: 0,
        last: u64::MAX,
        fingerprint: 0x1234_5678,
        count: 99,
    };
    let observed = SocketAddr::new(IP6.into(), 6783);
    let beat = Beat {
        fingerprint: [7, 8],
        news: vec![1, u32::MAX, 3],
    };
    let gossip = [
        GossipMessage::Ping {
            token: 200,
            needy: true,
            answered: Some(RttCode(40)),
            beat: beat.clone(),
        },
        GossipMessage::Pong { token: 2, beat },
        GossipMessage::Prune {
            seconds: 60,
            keep: 3,
        },
        GossipMessage::Graft {
            resume: true,
            digests: vec![7, 1 << 30],
        },
        GossipMessage::Push {
            fresh: true,
            records: bodies().into_iter().map(record_of).map(Arc::new).collect(),
        },
        GossipMessage::Summary {
            ranges: vec![range; 16],
        },
        GossipMessage::Versions {
            first: 1,
            last: 2,
            held: vec![
                Held {
                    key,
                    version,
                    digest: 7
                };
                20
            ],
        },
        GossipMessage::Want {
            keys: vec![key; 30],
        },
        GossipMessage::Bye {
            reason: ByeReason::Pruned,
        },
    ];
    let path = [
        PathMessage::Confirm,
        PathMessage::Probe {
            token: 3,
            padding: Padding(400),
        },
        PathMessage::Ack {
            token: 3,
            observed: Some(observed),
        },
        PathMessage::Ack {
            token: 4,
            observed: None,
        },
        PathMessage::Close,
        PathMessage::Offer(VxlanOffer {
            vni: 0x00ab_cdef,
            port: 6784,
            room: 1400,
        }),
        PathMessage::Decline(1),
        PathMessage::OfferEsp(VxlanOffer {
            vni: 1,
            port: 6784,
            room: u16::MAX,
        }),
        PathMessage::Esp(EspNotice::Offer(0x1234_5678)),
        PathMessage::Esp(EspNotice::Taken(256)),
        PathMessage::Esp(EspNotice::Lost(u32::MAX)),
        PathMessage::Meet {
            endpoints: vec![observed; 3],
        },
    ];
    let gossip = gossip.into_iter().map(Message::Gossip);
    gossip
        .chain(path.into_iter().map(Message::Path))
        .map(|message| message.encode())
        .collect()
}

pub(crate) fn records() -> Vec<Vec<u8>> {
    bodies()
        .into_iter()
        .map(|body| record_of(body).encode())
        .collect()
}

pub(crate) fn bodies() -> Vec<Vec<u8>> {
    let keys = PublicKeys {
        sign: [1; 32],
        exchange: [2; 32],
    };
    let node = Node {
        keys,
        nickname: "north-1".into(),
        instance: u64::MAX,
        endpoints: vec![
            SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 6783),
            SocketAddr::new(IP6.into(), 6783),
        ],
        version: "0.1.0".into(),
        capabilities: 5,
    };
    let link = |n| LinkTo {
        peer: ShortId([n; 8]),
        rtt: RttCode(n),
    };
    let links = Links {
        links: (0..8).map(link).collect(),
    };
    let station = Station {
        mac: MAC,
        claim: 2,
        ips: vec![(Ipv4Addr::new(10, 32, 0, 1).into(), 1), (IP6.into(), 2)],
    };
    let stations = Stations {
        stations: vec![station; 5],
    };
    let peer = ShortId([7; 8]);
    let ballot = Ballot {
        round: 3,
        proposer: peer,
    };
    let space = Space {
        ring: Ring {
            id: 9,
            base: 0x0a20_0000,
            prefix: 12,
        },
        life: 1,
        serial: 300,
        guards: vec![peer; 2],
        former: vec![peer],
        blocks: vec![Block {
            start: 1,
            len: 300,
            epoch: 2,
            held: true,
        }],
        gifts: vec![Gift {
            start: 500,
            len: 8,
            epoch: 4,
            to: peer,
            since: 299,
        }],
        taken: vec![Taken {
            peer,
            life: 0,
            serial: 7,
            gone: true,
            runs: vec![(4, 2)],
        }],
        lost: vec![Lost {
            life: 0,
            began: Began {
                serial: 7,
                heir: peer,
                gone: false,
            },
        }],
        claims: vec![900],
        ask: Some(Ask {
            donor: peer,
            start: 0,
            len: 1 << 20,
        }),
        range6: Some(Range6 {
            base: IP6,
            prefix: 64,
        }),
        leaving: true,
    };
    let guard = Guard {
        acks: vec![Ack {
            ward: peer,
            instance: 1,
            life: 1,
            serial: 300,
            began: Some(Began {
                serial: 7,
                heir: peer,
                gone: false,
            }),
        }],
        votes: vec![Vote {
            ward: peer,
            life: 1,
            promised: ballot,
            accepted: Some((ballot, Verdict::Lives)),
        }],
        gone: vec![peer],
        counted: vec![Counted {
            start: 64,
            len: 64,
            epoch: 128,
        }],
    };
    let division = Division {
        base: 0x0a20_0000,
        prefix: 12,
        promised: ballot,
        accepted: Some((
            ballot,
            Founding {
                id: 9,
                quorum: 2,
                founders: vec![peer; 2],
            },
        )),
        decided: true,
        roll: vec![peer; 3],
        call: Some(Call {
            ring: 9,
            life: 1,
            guards: vec![peer; 2],
        }),
        census: Some(Census {
            ring: 9,
            proposer: peer,
            id: 11,
            epoch: 64,
            runs: vec![(16, 8)],
        }),
        begun: 11,
        done: 7,
    };
    let name = Name {
        name: "web.api".into(),
        addresses: vec![Ipv4Addr::new(10, 32, 0, 1).into(), IP6.into()],
    };
    let names = Names {
        names: vec![name; 5],
    };
    [
        Body::Node(node),
        Body::Links(links),
        Body::Stations(stations),
        Body::Names(names),
        Body::Space(space),
        Body::Guard(guard),
        Body::Division(division),
    ]
    .map(|b| b.encode())
    .into()
}

fn record_of(body: Vec<u8>) -> Record {
    let key = RecordKey {
        owner: PEER,
        topic: Topic::Node,
    };
    let version = Version {
        epoch: 1,
        sequence: 2,
    };
    let mut record = Record::new(key, version, body);
    record.signature = ([3; 32], [4; 32]);
    record
}

pub(crate) fn texts() -> Vec<Vec<u8>> {
    vec![
        PEER.to_string().into_bytes(),
        MAC.to_string().into_bytes(),
        "é:ü".into(),
    ]
}

/// Steps for [`crate::targets::fragment`]: contents of 2, 3 and 255 pieces.
pub(crate) fn fragment_steps() -> Vec<Vec<u8>> {
    let content = |session: u8, id: u8, count: u8, len: u16| -> Vec<u8> {
        let [high, low] = len.to_be_bytes();
        let piece = |index| [session, id, index, count, high, low, 0];
        (0..count.min(12)).flat_map(piece).collect()
    };
    vec![
        content(1, 1, 2, 700),
        content(1, 2, 3, 1400),
        content(2, 1, 255, 1300),
        [
            content(1, 1, 2, 60_000),
            content(2, 9, 4, 0),
            content(1, 1, 2, 60_000),
        ]
        .concat(),
    ]
}

/// Steps for [`crate::targets::dedup`].
pub(crate) fn dedup_steps() -> Vec<Vec<u8>> {
    let step = |source: u8, scale: u8, sequence: u8| [source, scale, sequence];
    vec![
        (0..20).flat_map(|n| step(1, 0, n)).collect(),
        (0..20).flat_map(|n| step(n, 16, n)).collect(),
        (0..20).flat_map(|n| step(n % 2, 56, n)).collect(),
    ]
}
