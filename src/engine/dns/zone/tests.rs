//! What is answered to what.

use std::collections::HashMap;

use gossip::Directory;
use hickory_proto::op::Query;
use proptest::prelude::*;
use proto::MacAddr;

use super::*;

/// Names as the mesh has them.
fn names(pairs: &[(&str, &str)]) -> NameMap {
    let mut map = NameMap::default();
    let pairs = pairs
        .iter()
        .map(|(name, address)| (*name, address.parse().unwrap()));
    let (directory, changed) = Directory::sample(pairs);
    map.update(&directory, &changed);
    map
}

struct Server {
    zone: Zone,
    names: NameMap,
    stations: StationMap,
    turn: usize,
    forwards: bool,
}

impl Server {
    fn new(pairs: &[(&str, &str)]) -> Self {
        let ips = HashMap::from([([10, 32, 0, 9].into(), MacAddr::default())]);
        Self {
            zone: Zone::new("Wove.Local.").unwrap(),
            names: names(pairs),
            stations: StationMap {
                ips,
                ..StationMap::default()
            },
            turn: 0,
            forwards: true,
        }
    }

    fn outcome(&mut self, query: &[u8], transport: Transport) -> Outcome {
        self.turn += 1;
        let view = View {
            names: &self.names,
            stations: &self.stations,
            networks: &["10.40.0.0/16".parse().unwrap()],
            forwards: self.forwards,
            turn: self.turn,
        };
        self.zone.answer(query, transport, view)
    }

    fn ask(&mut self, name: &str, kind: RecordType) -> Option<Message> {
        match self.outcome(&query(name, kind, None), Transport::Datagram) {
            Outcome::Answer { bytes, .. } => Some(Message::from_vec(&bytes).unwrap()),
            Outcome::Forward => None,
            Outcome::Drop => panic!("a query was dropped"),
        }
    }

    fn addresses(&mut self, name: &str, kind: RecordType) -> Vec<String> {
        let answer = self.ask(name, kind).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        answer.answers.iter().map(|r| r.data.to_string()).collect()
    }

    fn denial(&mut self, name: &str, kind: RecordType) -> ResponseCode {
        let answer = self.ask(name, kind).unwrap();
        assert!(answer.answers.is_empty());
        assert_eq!(answer.authorities.len(), 1, "a negative answer has an SOA");
        answer.metadata.response_code
    }
}

fn query(name: &str, kind: RecordType, payload: Option<u16>) -> Vec<u8> {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        message.set_edns(edns);
    }
    message.to_vec().unwrap()
}

#[test]
fn addresses_are_found_by_name_whatever_the_case() {
    let mut server = Server::new(&[
        ("web", "10.32.0.1"),
        ("web", "fd00::1"),
        ("db.x", "10.32.0.2"),
    ]);
    assert_eq!(
        server.addresses("web.wove.local.", RecordType::A),
        ["10.32.0.1"]
    );
    assert_eq!(
        server.addresses("WEB.Wove.LOCAL.", RecordType::AAAA),
        ["fd00::1"]
    );
    assert_eq!(
        server.addresses("db.X.wove.local.", RecordType::A),
        ["10.32.0.2"]
    );
    assert_eq!(server.addresses("web.", RecordType::A), ["10.32.0.1"]);
    let answer = server.ask("wEb.wove.local.", RecordType::A).unwrap();
    assert_eq!(answer.answers[0].name.to_string(), "wEb.wove.local.");
    assert_eq!((answer.answers[0].ttl, answer.metadata.id), (1, 77));
    let metadata = answer.metadata;
    assert!(metadata.authoritative && metadata.recursion_available && metadata.recursion_desired);
}

#[test]
fn addresses_take_turns() {
    let mut server = Server::new(&[("w", "10.0.0.1"), ("w", "10.0.0.2"), ("w", "10.0.0.3")]);
    let mut firsts: Vec<String> = (0..3)
        .map(|_| {
            let all = server.addresses("w.wove.local.", RecordType::A);
            assert_eq!(all.len(), 3);
            all[0].clone()
        })
        .collect();
    firsts.sort();
    assert_eq!(firsts, ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
}

#[test]
fn what_is_not_there_is_denied_in_the_right_words() {
    let mut server = Server::new(&[("a.b", "10.32.0.1")]);
    let denied = |server: &mut Server, name, kind| server.denial(name, kind);
    assert_eq!(
        denied(&mut server, "nobody.wove.local.", RecordType::A),
        ResponseCode::NXDomain
    );
    assert_eq!(
        denied(&mut server, "x.a.b.wove.local.", RecordType::A),
        ResponseCode::NXDomain
    );
    assert_eq!(
        denied(&mut server, "a.b.wove.local.", RecordType::MX),
        ResponseCode::NoError
    );
    assert_eq!(
        denied(&mut server, "a.b.wove.local.", RecordType::AAAA),
        ResponseCode::NoError
    );
    assert_eq!(
        denied(&mut server, "b.wove.local.", RecordType::A),
        ResponseCode::NoError
    );
    assert_eq!(
        denied(&mut server, "wove.local.", RecordType::A),
        ResponseCode::NoError
    );
    assert_eq!(
        denied(&mut server, "*.wove.local.", RecordType::A),
        ResponseCode::NXDomain
    );
    assert_eq!(
        server
            .ask("wove.local.", RecordType::SOA)
            .unwrap()
            .answers
            .len(),
        1
    );
    assert_eq!(
        server
            .ask("wove.local.", RecordType::NS)
            .unwrap()
            .answers
            .len(),
        1
    );
}

#[test]
fn addresses_have_names() {
    let mut server = Server::new(&[("a", "10.32.0.1"), ("b", "10.32.0.1"), ("a", "fd00::1")]);
    let pointers = server.addresses("1.0.32.10.in-addr.arpa.", RecordType::PTR);
    assert_eq!(pointers, ["a.wove.local.", "b.wove.local."]);
    let reverse = super::super::reversed("fd00::1".parse().unwrap());
    assert_eq!(
        server.addresses(&reverse, RecordType::PTR),
        ["a.wove.local."]
    );
    // A station without a name, and an address of an overlay's network.
    for nameless in ["9.0.32.10.in-addr.arpa.", "9.9.40.10.in-addr.arpa."] {
        assert_eq!(
            server.denial(nameless, RecordType::PTR),
            ResponseCode::NXDomain
        );
    }
    assert_eq!(
        server.denial("1.0.32.10.in-addr.arpa.", RecordType::A),
        ResponseCode::NoError
    );
    for foreign in [
        "1.2.0.192.in-addr.arpa.",
        "x.0.32.10.in-addr.arpa.",
        "0.32.10.in-addr.arpa.",
    ] {
        assert_eq!(server.ask(foreign, RecordType::PTR), None, "{foreign}");
    }
}

#[test]
fn others_are_asked_for_the_rest_if_there_are_any_and_the_client_wishes() {
    let mut server = Server::new(&[]);
    assert_eq!(server.ask("example.com.", RecordType::A), None);
    assert_eq!(server.ask("local.", RecordType::A), None);
    server.forwards = false;
    let answer = server.ask("example.com.", RecordType::A).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert!(!answer.metadata.recursion_available);
    server.forwards = true;
    let mut plain = query("example.com.", RecordType::A, None);
    plain[2] &= !1;
    let Outcome::Answer { code, .. } = server.outcome(&plain, Transport::Datagram) else {
        panic!("not answered");
    };
    assert_eq!(code, ResponseCode::Refused);
}

#[test]
fn a_long_answer_is_cut_to_what_fits() {
    let pairs: Vec<(String, String)> = (0..100)
        .map(|n| ("many".to_owned(), format!("10.32.1.{n}")))
        .collect();
    let pairs: Vec<_> = pairs
        .iter()
        .map(|(a, b)| (a.as_str(), b.as_str()))
        .collect();
    let mut server = Server::new(&pairs);
    let mut ask = |payload, transport| {
        let query = query("many.wove.local.", RecordType::A, payload);
        let Outcome::Answer { bytes, .. } = server.outcome(&query, transport) else {
            panic!("not answered");
        };
        let message = Message::from_vec(&bytes).unwrap();
        (
            bytes.len(),
            message.answers.len(),
            message.metadata.truncation,
        )
    };
    let table = [
        (None, 512),
        (Some(100), 512),
        (Some(700), 700),
        (Some(9000), 1232),
    ];
    for (payload, limit) in table {
        let (size, count, cut) = ask(payload, Transport::Datagram);
        assert!(
            size <= limit && size + 16 > limit && cut,
            "{payload:?}: {size}, {count}"
        );
    }
    let (_, count, cut) = ask(None, Transport::Stream);
    assert_eq!((count, cut), (100, false));
}

#[test]
fn odd_queries_get_the_right_errors() {
    let mut server = Server::new(&[("a", "10.32.0.1")]);
    let good = query("a.wove.local.", RecordType::A, Some(1232));
    let mut code_of = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        match server.outcome(&bytes, Transport::Datagram) {
            Outcome::Answer { bytes, .. } => {
                Some(Message::from_vec(&bytes).unwrap().metadata.response_code)
            }
            Outcome::Forward => panic!("forwarded"),
            Outcome::Drop => None,
        }
    };
    let end = good.len();
    assert_eq!(code_of(&|b| b[2] |= 0x80), None, "an answer");
    assert_eq!(code_of(&|b| b.truncate(11)), None, "too short");
    assert_eq!(
        code_of(&|b| b[2] |= 0x20),
        Some(ResponseCode::NotImp),
        "a notification"
    );
    assert_eq!(
        code_of(&|b| b.truncate(end - 3)),
        Some(ResponseCode::FormErr),
        "cut"
    );
    assert_eq!(
        code_of(&|b| b[29] = 3),
        Some(ResponseCode::Refused),
        "class CHAOS"
    );
    // 16 has two names, and what is read back may be the other.
    let code = code_of(&|b| b[end - 5] = 1).map(u16::from);
    assert_eq!(code, Some(ResponseCode::BADVERS.into()), "EDNS 1");
}

proptest! {
    #[test]
    fn whatever_comes_is_answered_with_a_message_or_not_at_all(
        bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, value)| {
                let mut bytes = query("a.b.wove.local.", RecordType::A, Some(700));
                let at = at.index(bytes.len());
                bytes[at] = value;
                bytes
            }),
        ],
        stream in any::<bool>(),
    ) {
        let mut server = Server::new(&[("a.b", "10.32.0.1"), ("a", "fd00::1")]);
        let transport = if stream { Transport::Stream } else { Transport::Datagram };
        if let Outcome::Answer { bytes: answer, .. } = server.outcome(&bytes, transport) {
            let message = Message::from_vec(&answer).unwrap();
            prop_assert_eq!(message.metadata.message_type, MessageType::Response);
            prop_assert_eq!(&answer[..2], &bytes[..2]);
        }
    }
}
