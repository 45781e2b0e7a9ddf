//! Laws of every codec of the peers' own wire: what is written is read back,
//! no bytes make a reader panic, truncated and trailing input is refused where
//! the format has an end, and the headers keep the layout they were given.
//! (The codecs of a container's frames have theirs beside them.)

mod golden;
mod values;

use proptest::{collection::vec, prelude::*};
use wove_proto::{
    DecodeError, MacAddr, PeerId,
    content::{self, BroadcastHeader, Content, FragmentHeader, RelayHeader},
    datagram::{
        Datagram, Handshake, Protection, RejectReason, Stage, TAG, TransportHeader,
        emit_cookie_reply, emit_reject,
    },
    message::Message,
    record::{Body, MAX_RECORD, Record, RttCode},
    stream::{self, Deframer},
};

use values::{body, gossip, message, record};

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
