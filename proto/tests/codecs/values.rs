//! Values of every kind, as they may be sent.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use proptest::{collection::vec, prelude::*};
use wove_proto::{
    MacAddr, PeerId, PublicKeys, ShortId,
    message::{
        Beat, ByeReason, EspNotice, GossipMessage, Held, Message, Padding, PathMessage,
        RangeSummary, VxlanOffer,
    },
    record::{
        Body, LinkTo, Links, Name, Names, Node, Record, RecordKey, RttCode, Station, Stations,
        Topic, Version,
    },
    space::{
        Ack, Ask, Ballot, Began, Block, Call, Cause, Census, Counted, Division, Founding, Gift,
        Guard, Lost, Range6, Ring, Space, Taken, Verdict, Vote,
    },
};

pub(crate) fn peer() -> impl Strategy<Value = PeerId> {
    any::<[u8; 16]>().prop_map(PeerId)
}

pub(crate) fn topic() -> impl Strategy<Value = Topic> {
    prop_oneof![
        Just(Topic::Node),
        any::<u8>().prop_map(Topic::Links),
        any::<u16>().prop_map(Topic::Stations),
        any::<u16>().prop_map(Topic::Names),
        Just(Topic::Space),
        Just(Topic::Guard),
        Just(Topic::Division)
    ]
}

pub(crate) fn key() -> impl Strategy<Value = RecordKey> {
    (peer(), topic()).prop_map(|(owner, topic)| RecordKey { owner, topic })
}

pub(crate) fn version() -> impl Strategy<Value = Version> {
    any::<(u64, u64)>().prop_map(|(epoch, sequence)| Version { epoch, sequence })
}

prop_compose! {
    pub(crate) fn record()(
        key in key(), version in version(), body in vec(any::<u8>(), 0..950),
        signature in any::<([u8; 32], [u8; 32])>(),
    ) -> Record {
        let mut record = Record::new(key, version, body);
        record.signature = signature;
        record
    }
}

/// Addresses as they survive serde: it drops scope and flow label.
pub(crate) fn address() -> impl Strategy<Value = SocketAddr> {
    any::<(IpAddr, u16)>().prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

pub(crate) fn station() -> impl Strategy<Value = Station> {
    let ips = vec(any::<(IpAddr, u32)>(), 0..8);
    (any::<[u8; 6]>(), any::<u32>(), ips).prop_map(|(mac, claim, ips)| Station {
        mac: MacAddr(mac),
        claim,
        ips,
    })
}

pub(crate) fn body() -> impl Strategy<Value = Body> {
    let keys = any::<([u8; 32], [u8; 32])>();
    let node = (
        keys,
        "\\PC{0,16}",
        any::<u64>(),
        vec(address(), 0..16),
        "\\PC{0,8}",
        any::<u64>(),
    );
    prop_oneof![
        node.prop_map(
            |((sign, exchange), nickname, instance, endpoints, version, capabilities)| {
                Body::Node(Node {
                    keys: PublicKeys { sign, exchange },
                    nickname,
                    instance,
                    endpoints,
                    version,
                    capabilities,
                })
            }
        ),
        vec(any::<([u8; 8], u8)>(), 0..90).prop_map(|links| {
            let link = |(peer, rtt)| LinkTo {
                peer: ShortId(peer),
                rtt: RttCode(rtt),
            };
            Body::Links(Links {
                links: links.into_iter().map(link).collect(),
            })
        }),
        vec(station(), 0..10).prop_map(|stations| Body::Stations(Stations { stations })),
        vec(("[a-z.]{0,16}", vec(any::<IpAddr>(), 0..4)), 0..10).prop_map(|names| {
            let name = |(name, addresses)| Name { name, addresses };
            Body::Names(Names {
                names: names.into_iter().map(name).collect(),
            })
        }),
        space().prop_map(Body::Space),
        guard().prop_map(Body::Guard),
        division().prop_map(Body::Division),
    ]
}

pub(crate) fn short() -> impl Strategy<Value = ShortId> {
    any::<[u8; 8]>().prop_map(ShortId)
}

pub(crate) fn space() -> impl Strategy<Value = Space> {
    let ring = any::<(u64, u32, u8)>().prop_map(|(id, base, prefix)| Ring { id, base, prefix });
    let block = any::<(u32, u32, u32, bool)>().prop_map(|(start, len, epoch, held)| Block {
        start,
        len,
        epoch,
        held,
    });
    let gift =
        (any::<(u32, u32, u32, u64)>(), short()).prop_map(|((start, len, epoch, since), to)| {
            Gift {
                start,
                len,
                epoch,
                to,
                since,
            }
        });
    let taken = (
        short(),
        any::<(u32, u64, bool)>(),
        vec(any::<(u32, u32)>(), 0..4),
    )
        .prop_map(|(peer, (life, serial, gone), runs)| Taken {
            peer,
            life,
            serial,
            gone,
            runs,
        });
    let ask =
        (short(), any::<(u32, u32)>()).prop_map(|(donor, (start, len))| Ask { donor, start, len });
    let range6 = any::<(u128, u8)>().prop_map(|(base, prefix)| Range6 {
        base: base.into(),
        prefix,
    });
    let guards = || vec(short(), 0..8);
    let lost = (any::<u32>(), began()).prop_map(|(life, began)| Lost { life, began });
    let takeovers = (vec(taken, 0..9), vec(lost, 0..4));
    let lists = (vec(block, 0..25), vec(gift, 0..9), takeovers);
    let claims = vec(any::<u32>(), 0..17);
    let sets = (guards(), guards());
    (
        ring,
        any::<(u32, u64)>(),
        sets,
        lists,
        claims,
        (
            prop::option::of(ask),
            prop::option::of(range6),
            any::<bool>(),
        ),
    )
        .prop_map(
            |(
                ring,
                (life, serial),
                (guards, former),
                (blocks, gifts, (taken, lost)),
                claims,
                (ask, range6, leaving),
            )| Space {
                ring,
                life,
                serial,
                guards,
                former,
                blocks,
                gifts,
                taken,
                lost,
                claims,
                ask,
                range6,
                leaving,
            },
        )
}

pub(crate) fn ballot() -> impl Strategy<Value = Ballot> {
    (any::<u32>(), short()).prop_map(|(round, proposer)| Ballot { round, proposer })
}

pub(crate) fn began() -> impl Strategy<Value = Began> {
    (any::<(u64, bool)>(), short()).prop_map(|((serial, gone), heir)| Began { serial, heir, gone })
}

pub(crate) fn guard() -> impl Strategy<Value = Guard> {
    let ack = (short(), any::<(u32, u32, u64)>(), prop::option::of(began())).prop_map(
        |(ward, (instance, life, serial), began)| Ack {
            ward,
            instance,
            life,
            serial,
            began,
        },
    );
    let cause = prop_oneof![Just(Cause::Silent), Just(Cause::Gone), Just(Cause::Forced)];
    let inherits =
        (any::<u64>(), short(), cause).prop_map(|(serial, heir, cause)| Verdict::Inherits {
            serial,
            heir,
            cause,
        });
    let verdict = prop_oneof![Just(Verdict::Lives), inherits];
    let accepted = prop::option::of((ballot(), verdict));
    let vote =
        (short(), any::<u32>(), ballot(), accepted).prop_map(|(ward, life, promised, accepted)| {
            Vote {
                ward,
                life,
                promised,
                accepted,
            }
        });
    let counted = any::<(u32, u32, u32)>();
    let counted = counted.prop_map(|(start, len, epoch)| Counted { start, len, epoch });
    (
        vec(ack, 0..29),
        vec(vote, 0..7),
        vec(short(), 0..13),
        vec(counted, 0..25),
    )
        .prop_map(|(acks, votes, gone, counted)| Guard {
            acks,
            votes,
            gone,
            counted,
        })
}

pub(crate) fn division() -> impl Strategy<Value = Division> {
    let founding =
        (any::<(u64, u16)>(), vec(short(), 0..49)).prop_map(|((id, quorum), founders)| Founding {
            id,
            quorum,
            founders,
        });
    let accepted = (prop::option::of((ballot(), founding)), any::<bool>());
    let call = (any::<(u64, u32)>(), vec(short(), 0..15)).prop_map(|((ring, life), guards)| Call {
        ring,
        life,
        guards,
    });
    let census = (
        any::<(u64, u64, u32)>(),
        short(),
        vec(any::<(u32, u32)>(), 0..9),
    )
        .prop_map(|((ring, id, epoch), proposer, runs)| Census {
            ring,
            proposer,
            id,
            epoch,
            runs,
        });
    let later = (
        prop::option::of(call),
        prop::option::of(census),
        any::<(u64, u64)>(),
    );
    (
        any::<(u32, u8)>(),
        ballot(),
        accepted,
        vec(short(), 0..26),
        later,
    )
        .prop_map(
            |(
                (base, prefix),
                promised,
                (accepted, decided),
                roll,
                (call, census, (begun, done)),
            )| Division {
                base,
                prefix,
                promised,
                accepted,
                decided,
                roll,
                call,
                census,
                begun,
                done,
            },
        )
}

pub(crate) fn range() -> impl Strategy<Value = RangeSummary> {
    any::<(u64, u64, u64, u32)>().prop_map(|(first, last, fingerprint, count)| RangeSummary {
        first,
        last,
        fingerprint,
        count,
    })
}

pub(crate) fn beat() -> impl Strategy<Value = Beat> {
    (any::<[u8; 2]>(), vec(any::<u32>(), 0..20))
        .prop_map(|(fingerprint, news)| Beat { fingerprint, news })
}

pub(crate) fn gossip() -> impl Strategy<Value = GossipMessage> {
    let held = vec((key(), version(), any::<u32>()), 0..20);
    let held = held.prop_map(|held| {
        held.into_iter()
            .map(|(key, version, digest)| Held {
                key,
                version,
                digest,
            })
            .collect()
    });
    prop_oneof![
        (any::<(u8, bool, Option<u8>)>(), beat()).prop_map(|((token, needy, answered), beat)| {
            let answered = answered.map(RttCode);
            GossipMessage::Ping {
                token,
                needy,
                answered,
                beat,
            }
        }),
        (any::<u8>(), beat()).prop_map(|(token, beat)| GossipMessage::Pong { token, beat }),
        (any::<bool>(), vec(record().prop_map(Arc::new), 0..3))
            .prop_map(|(fresh, records)| GossipMessage::Push { fresh, records }),
        any::<(u8, u8)>().prop_map(|(seconds, keep)| GossipMessage::Prune { seconds, keep }),
        (any::<bool>(), vec(any::<u32>(), 0..20))
            .prop_map(|(resume, digests)| GossipMessage::Graft { resume, digests }),
        vec(range(), 0..20).prop_map(|ranges| GossipMessage::Summary { ranges }),
        (any::<u64>(), any::<u64>(), held)
            .prop_map(|(first, last, held)| GossipMessage::Versions { first, last, held }),
        vec(key(), 0..20).prop_map(|keys| GossipMessage::Want { keys }),
        prop::sample::select(vec![ByeReason::Stopping, ByeReason::Pruned])
            .prop_map(|reason| GossipMessage::Bye { reason }),
    ]
}

pub(crate) fn message() -> impl Strategy<Value = Message> {
    let path = prop_oneof![
        Just(PathMessage::Confirm),
        (any::<u64>(), 0u16..2000).prop_map(|(token, n)| PathMessage::Probe {
            token,
            padding: Padding(n)
        }),
        (any::<u64>(), prop::option::of(address()))
            .prop_map(|(token, observed)| PathMessage::Ack { token, observed }),
        Just(PathMessage::Close),
        (0u32..1 << 24, any::<u16>(), any::<u16>()).prop_flat_map(|(vni, port, room)| {
            let offer = VxlanOffer { vni, port, room };
            prop_oneof![
                Just(PathMessage::Offer(offer)),
                Just(PathMessage::OfferEsp(offer))
            ]
        }),
        any::<u8>().prop_map(PathMessage::Decline),
        vec(address(), 0..16).prop_map(|endpoints| PathMessage::Meet { endpoints }),
        (0..3, any::<u32>()).prop_map(|(kind, spi)| {
            PathMessage::Esp(match kind {
                0 => EspNotice::Offer(spi),
                1 => EspNotice::Taken(spi),
                _ => EspNotice::Lost(spi),
            })
        }),
    ];
    prop_oneof![
        gossip().prop_map(Message::Gossip),
        path.prop_map(Message::Path)
    ]
}
