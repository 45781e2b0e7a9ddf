//! Laws of every codec of the peers' own wire: what is written is read back,
//! no bytes make a reader panic, truncated and trailing input is refused where
//! the format has an end, and the headers keep the layout they were given.
//! (The codecs of a container's frames have theirs beside them.)

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use proptest::{collection::vec, prelude::*};
use wove_proto::{
    DecodeError, MacAddr, PeerId, PublicKeys, ShortId,
    content::{self, BroadcastHeader, Content, FragmentHeader, RelayHeader},
    datagram::{
        Datagram, Handshake, Protection, RejectReason, Stage, TAG, TransportHeader,
        emit_cookie_reply, emit_reject,
    },
    message::{
        Beat, ByeReason, EspNotice, GossipMessage, Held, Message, Padding, PathMessage,
        RangeSummary, VxlanOffer,
    },
    record::{
        Body, LinkTo, Links, MAX_RECORD, Name, Names, Node, Record, RecordKey, RttCode, Station,
        Stations, Topic, Version,
    },
    space::{
        Ack, Ask, Ballot, Began, Block, Call, Cause, Census, Division, Founding, Gift, Guard, Lost,
        Range6, Ring, Space, Taken, Verdict, Vote,
    },
    stream::{self, Deframer},
};

mod golden {
    use super::*;

    const A: PeerId = PeerId([0xaa; 16]);
    const B: PeerId = PeerId([0xbb; 16]);

    #[test]
    fn transport_header() {
        let mut header = TransportHeader {
            protection: Protection::Sealed,
            receiver: 0x0102_0304,
            counter: 0x0a0b_0c0d_0e0f_1011,
        };
        let bytes = [0x10, 0, 0, 0, 1, 2, 3, 4, 10, 11, 12, 13, 14, 15, 16, 17];
        assert_eq!(header.emit(), bytes);
        header.protection = Protection::Clear;
        assert_eq!(header.emit()[0], 0x11);
    }

    #[test]
    fn handshake_header() {
        let stages = [
            (Stage::Initiation, 1),
            (Stage::Response, 2),
            (Stage::Completion, 3),
        ];
        for (stage, kind) in stages {
            let handshake = Handshake {
                stage,
                sender: 1,
                receiver: 2,
                cookie: [9; 16],
                noise: b"noise",
            };
            let mut bytes = vec![kind, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2];
            bytes.extend_from_slice(&[9; 16]);
            bytes.extend_from_slice(b"noise");
            assert_eq!(handshake.emit(), bytes);
        }
    }

    #[test]
    fn cookie_reply_and_rejections() {
        let mut cookie = vec![4, 1, 0, 0, 0, 0, 0, 7];
        cookie.extend_from_slice(&[5; 16]);
        assert_eq!(emit_cookie_reply(7, &[5; 16]), cookie);
        let reasons = [
            (RejectReason::Secret, 1),
            (RejectReason::Version, 2),
            (RejectReason::Limit, 3),
            (RejectReason::Identity, 4),
        ];
        for (reason, number) in reasons {
            assert_eq!(emit_reject(7, reason), [5, 1, number, 0, 0, 0, 0, 7]);
        }
    }

    #[test]
    fn content_headers() {
        assert_eq!((content::CONTROL, content::FRAME), ([1], [2]));

        let relay = RelayHeader {
            hops: 24,
            distance: 0x0102_0304,
            source: A,
            destination: B,
        }
        .emit();
        assert_eq!(relay[..6], [3, 24, 1, 2, 3, 4]);
        assert_eq!(
            (&relay[6..22], &relay[22..]),
            (&[0xaa; 16][..], &[0xbb; 16][..])
        );

        let broadcast = BroadcastHeader {
            hops: 3,
            source: A,
            sequence: 0x0102,
        }
        .emit();
        assert_eq!(broadcast[..2], [4, 3]);
        assert_eq!(broadcast[2..18], [0xaa; 16]);
        assert_eq!(broadcast[18..], [0, 0, 0, 0, 0, 0, 1, 2]);

        let fragment = FragmentHeader {
            id: 0x0102_0304,
            index: 5,
            count: 6,
        }
        .emit();
        assert_eq!(fragment, [5, 1, 2, 3, 4, 5, 6]);
    }
}

#[test]
fn unknown_kinds_versions_and_tags_are_refused() {
    for kind in (0..=255).filter(|k| !matches!(k, 1..=6 | 0x10 | 0x11)) {
        let mut bytes = [0; 64];
        bytes[..2].copy_from_slice(&[kind, 1]);
        assert_eq!(
            Datagram::parse(&bytes),
            Err(DecodeError::Unknown),
            "kind {kind}"
        );
    }
    let mut later = emit_reject(1, RejectReason::Limit);
    later[1] = 2;
    assert_eq!(Datagram::parse(&later), Err(DecodeError::Unknown));
    let mut reason = emit_reject(1, RejectReason::Limit);
    reason[2] = 9;
    assert_eq!(Datagram::parse(&reason), Err(DecodeError::Unknown));
    for tag in (0..=255).filter(|t| !matches!(t, 1..=7)) {
        assert_eq!(
            Content::parse(&[tag; 64]),
            Err(DecodeError::Unknown),
            "tag {tag}"
        );
    }
}

#[test]
fn a_hostile_length_allocates_nothing() {
    // A gossip push of 2^63 records, and a body as long, in a few bytes.
    let endless = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    let push = [&[0, 2, 1][..], &endless].concat();
    assert!(Message::decode(&push).is_err());
    assert!(Body::decode(&[&[2][..], &endless].concat()).is_err());
}

#[test]
fn a_record_over_the_limit_is_refused_unread() {
    assert_eq!(
        Record::decode(&[0; MAX_RECORD + 1]),
        Err(DecodeError::Limit)
    );
    assert_eq!(Body::decode(&[0; MAX_RECORD + 1]), Err(DecodeError::Limit));
}

proptest! {
    #[test]
    fn handshakes_round_trip(
        stage in prop::sample::select(vec![Stage::Initiation, Stage::Response, Stage::Completion]),
        sender: u32, receiver: u32, cookie: [u8; 16], noise in vec(any::<u8>(), 0..200),
    ) {
        let handshake = Handshake { stage, sender, receiver, cookie, noise: &noise };
        let bytes = handshake.emit();
        prop_assert_eq!(Datagram::parse(&bytes), Ok(Datagram::Handshake(handshake)));
        prop_assert_eq!(Datagram::parse(&bytes[..27]), Err(DecodeError::Truncated));
    }

    #[test]
    fn short_answers_round_trip(receiver: u32, cookie: [u8; 16], cut in 0usize..8) {
        let reply = emit_cookie_reply(receiver, &cookie);
        prop_assert_eq!(Datagram::parse(&reply), Ok(Datagram::CookieReply { receiver, cookie }));
        let reason = RejectReason::Limit;
        let reject = emit_reject(receiver, reason);
        prop_assert_eq!(Datagram::parse(&reject), Ok(Datagram::Reject { receiver, reason }));
        for whole in [reply, reject] {
            prop_assert_eq!(Datagram::parse(&whole[..cut]), Err(DecodeError::Truncated));
            let longer = [&whole[..], &[0]].concat();
            prop_assert_eq!(Datagram::parse(&longer), Err(DecodeError::Trailing));
        }
    }

    #[test]
    fn transport_headers_round_trip(sealed: bool, receiver: u32, counter: u64, body in 0usize..40) {
        let protection = if sealed { Protection::Sealed } else { Protection::Clear };
        let header = TransportHeader { protection, receiver, counter };
        let bytes = [&header.emit()[..], &vec![0; body]].concat();
        let expected =
            if body < TAG { Err(DecodeError::Truncated) } else { Ok(Datagram::Transport(header)) };
        prop_assert_eq!(Datagram::parse(&bytes), expected);
    }

    #[test]
    fn contents_round_trip(
        hops: u8, distance: u32, source: [u8; 16], destination: [u8; 16], sequence: u64, id: u32,
        count in 2u8.., index: u8, rest in vec(any::<u8>(), 0..60),
    ) {
        let relay = RelayHeader { hops, distance, source: PeerId(source), destination: PeerId(destination) };
        let broadcast = BroadcastHeader { hops, source: PeerId(source), sequence };
        let fragment = FragmentHeader { id, index: index % count, count };
        for (header, value) in [
            (content::CONTROL.to_vec(), Content::Control(&rest)),
            (content::FRAME.to_vec(), Content::Frame(&rest)),
            (relay.emit().to_vec(), Content::Relay(relay, &rest)),
            (broadcast.emit().to_vec(), Content::Broadcast(broadcast, &rest)),
            (fragment.emit().to_vec(), Content::Fragment(fragment, &rest)),
        ] {
            let bytes = [&header[..], &rest].concat();
            prop_assert_eq!(Content::parse(&bytes), Ok(value));
            for cut in 0..header.len() {
                prop_assert_eq!(Content::parse(&header[..cut]), Err(DecodeError::Truncated));
            }
        }
    }

    #[test]
    fn impossible_fragments_are_refused(id: u32, index: u8, count: u8) {
        let header = FragmentHeader { id, index, count };
        let possible = count >= 2 && index < count;
        prop_assert_eq!(Content::parse(&header.emit()).is_ok(), possible);
    }

    #[test]
    fn messages_round_trip(message in message(), cut: prop::sample::Index) {
        let bytes = message.encode();
        prop_assert_eq!(Message::decode(&bytes), Ok(message));
        prop_assert!(Message::decode(&bytes[..cut.index(bytes.len())]).is_err());
        let longer = [&bytes[..], &[0]].concat();
        prop_assert_eq!(Message::decode(&longer), Err(DecodeError::Trailing));
    }

    #[test]
    fn records_round_trip(record in record(), signature in vec(any::<u8>(), 64), cut: prop::sample::Index) {
        let mut record = record;
        let unsigned = record.signed_bytes();
        let signature: [u8; 64] = signature.try_into().unwrap();
        record.set_signature(&signature);
        prop_assert_eq!(record.signature_bytes(), signature);
        prop_assert_eq!(record.signed_bytes(), unsigned, "a signature does not cover itself");
        let bytes = record.encode();
        prop_assert_eq!(bytes.len(), record.encoded_len());
        if bytes.len() > MAX_RECORD {
            prop_assert_eq!(Record::decode(&bytes), Err(DecodeError::Limit));
            return Ok(());
        }
        prop_assert_eq!(Record::decode(&bytes), Ok(record));
        prop_assert!(Record::decode(&bytes[..cut.index(bytes.len())]).is_err());
    }

    #[test]
    fn everything_but_the_signature_is_signed(record in record(), other in record()) {
        let mut signed_alike = record.clone();
        signed_alike.signature = other.signature;
        let same = signed_alike == other;
        prop_assert_eq!(record.signed_bytes() == other.signed_bytes(), same);
    }

    #[test]
    fn lengths_are_known_without_encoding(message in gossip()) {
        let length = message.encoded_len();
        prop_assert_eq!(Message::Gossip(message).encode().len(), length);
    }

    #[test]
    fn round_trip_times_are_told_to_an_eighth(us in 4u32..134_217_728) {
        let told = RttCode::from_micros(us).micros();
        prop_assert!(told.abs_diff(us) <= us / 8 + 1, "{us} {told}");
        prop_assert_eq!(RttCode::from_micros(told).micros(), told);
    }

    #[test]
    fn bodies_round_trip(body in body(), cut: prop::sample::Index) {
        let bytes = body.encode();
        prop_assume!(bytes.len() <= MAX_RECORD);
        prop_assert_eq!(Body::decode(&bytes), Ok(body));
        prop_assert!(Body::decode(&bytes[..cut.index(bytes.len())]).is_err());
    }

    #[test]
    fn ids_survive_their_text_form(id: [u8; 16]) {
        prop_assert_eq!(PeerId(id).to_string().parse(), Ok(PeerId(id)));
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in vec(any::<u8>(), 0..1200), first in 0u8..20) {
        let mut bytes = bytes;
        for _ in 0..2 {
            let _ = Datagram::parse(&bytes);
            let _ = Content::parse(&bytes);
            let _ = Message::decode(&bytes);
            let _ = Record::decode(&bytes);
            let _ = Body::decode(&bytes);
            // Once more with a first byte that a reader knows.
            if let Some(byte) = bytes.first_mut() {
                *byte = first;
            }
        }
    }

    #[test]
    fn no_text_makes_a_parser_panic(text: String) {
        let _ = text.parse::<PeerId>();
        let _ = text.parse::<MacAddr>();
    }
}

fn peer() -> impl Strategy<Value = PeerId> {
    any::<[u8; 16]>().prop_map(PeerId)
}

fn topic() -> impl Strategy<Value = Topic> {
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

fn key() -> impl Strategy<Value = RecordKey> {
    (peer(), topic()).prop_map(|(owner, topic)| RecordKey { owner, topic })
}

fn version() -> impl Strategy<Value = Version> {
    any::<(u64, u64)>().prop_map(|(epoch, sequence)| Version { epoch, sequence })
}

prop_compose! {
    fn record()(
        key in key(), version in version(), body in vec(any::<u8>(), 0..950),
        signature in any::<([u8; 32], [u8; 32])>(),
    ) -> Record {
        let mut record = Record::new(key, version, body);
        record.signature = signature;
        record
    }
}

/// Addresses as they survive serde: it drops scope and flow label.
fn address() -> impl Strategy<Value = SocketAddr> {
    any::<(IpAddr, u16)>().prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn station() -> impl Strategy<Value = Station> {
    let ips = vec(any::<(IpAddr, u32)>(), 0..8);
    (any::<[u8; 6]>(), any::<u32>(), ips).prop_map(|(mac, claim, ips)| Station {
        mac: MacAddr(mac),
        claim,
        ips,
    })
}

fn body() -> impl Strategy<Value = Body> {
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

fn short() -> impl Strategy<Value = ShortId> {
    any::<[u8; 8]>().prop_map(ShortId)
}

fn space() -> impl Strategy<Value = Space> {
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

fn ballot() -> impl Strategy<Value = Ballot> {
    (any::<u32>(), short()).prop_map(|(round, proposer)| Ballot { round, proposer })
}

fn began() -> impl Strategy<Value = Began> {
    (any::<(u64, bool)>(), short()).prop_map(|((serial, gone), heir)| Began { serial, heir, gone })
}

fn guard() -> impl Strategy<Value = Guard> {
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
    (vec(ack, 0..29), vec(vote, 0..7), vec(short(), 0..13)).prop_map(|(acks, votes, gone)| Guard {
        acks,
        votes,
        gone,
    })
}

fn division() -> impl Strategy<Value = Division> {
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
    let later = (prop::option::of(call), prop::option::of(census));
    (
        any::<(u32, u8)>(),
        ballot(),
        accepted,
        vec(short(), 0..26),
        later,
    )
        .prop_map(
            |((base, prefix), promised, (accepted, decided), roll, (call, census))| Division {
                base,
                prefix,
                promised,
                accepted,
                decided,
                roll,
                call,
                census,
            },
        )
}

fn range() -> impl Strategy<Value = RangeSummary> {
    any::<(u64, u64, u64, u32)>().prop_map(|(first, last, fingerprint, count)| RangeSummary {
        first,
        last,
        fingerprint,
        count,
    })
}

fn beat() -> impl Strategy<Value = Beat> {
    (any::<[u8; 2]>(), vec(any::<u32>(), 0..20))
        .prop_map(|(fingerprint, news)| Beat { fingerprint, news })
}

fn gossip() -> impl Strategy<Value = GossipMessage> {
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

fn message() -> impl Strategy<Value = Message> {
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

proptest! {
    /// However a connection cuts them, the same datagrams come out.
    #[test]
    fn a_stream_gives_back_its_datagrams(
        datagrams in vec(vec(any::<u8>(), 1..300), 0..20),
        cuts in vec(1usize..400, 1..40),
    ) {
        let framed = datagrams.iter().flat_map(|datagram| {
            let prefix = stream::prefix(datagram.len()).expect("neither empty nor long");
            prefix.into_iter().chain(datagram.iter().copied())
        });
        let framed: Vec<u8> = framed.collect();
        let (mut deframer, mut out, mut rest) = (Deframer::new(), Vec::new(), &framed[..]);
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (part, after) = rest.split_at((*cut).min(rest.len()));
            rest = after;
            deframer.extend(part);
            while let Some(datagram) = deframer.next(300).expect("none is longer") {
                out.push(datagram.to_vec());
            }
        }
        prop_assert_eq!(out, datagrams);
    }

    /// Whatever comes, no datagram is empty or longer than allowed.
    #[test]
    fn a_hostile_stream_gives_bounded_datagrams(
        parts in vec(vec(any::<u8>(), 0..200), 0..20),
        limit in 1usize..3000,
    ) {
        let mut deframer = Deframer::new();
        'parts: for part in parts {
            deframer.extend(&part);
            loop {
                match deframer.next(limit) {
                    Ok(Some(datagram)) => prop_assert!((1..=limit).contains(&datagram.len())),
                    Ok(None) => break,
                    Err(error) => {
                        prop_assert_eq!(error, DecodeError::Limit);
                        break 'parts;
                    }
                }
            }
        }
    }
}
