//! Whole handshakes, honest and attacked.

use proptest::prelude::*;
use proto::datagram::{
    Datagram, Protection, TAG, TRANSPORT_HEADER, emit_cookie_reply, emit_reject,
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::{cipher::CipherSet, hello::Extension};

/// A peer with everything a handshake needs.
struct Peer {
    identity: Identity,
    hello: Hello,
    index: SessionIndex,
    rng: ChaCha8Rng,
}

fn peer(seed: u64) -> Peer {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let identity = Identity::generate(&mut rng);
    let mut hello = Hello::new(seed, seed * 1000, &format!("peer{seed}"));
    hello.ciphers = CipherSet::with_aes(true);
    Peer {
        identity,
        hello,
        index: 100 + u32::try_from(seed).unwrap(),
        rng,
    }
}

fn secret(seed: u64) -> Secret {
    Secret::generate(&mut ChaCha8Rng::seed_from_u64(seed))
}

fn handshake(datagram: &[u8]) -> Result<Handshake<'_>, HandshakeError> {
    match Datagram::parse(datagram) {
        Ok(Datagram::Handshake(message)) => Ok(message),
        _ => Err(HandshakeError::Stage),
    }
}

impl Peer {
    fn start(&mut self) -> (Initiator, Vec<u8>) {
        Initiator::start(&self.identity, &self.hello, self.index, &mut self.rng).unwrap()
    }

    fn accept(&mut self, datagram: &[u8]) -> Result<(Responder, Vec<u8>), HandshakeError> {
        Responder::accept(
            &self.identity,
            &self.hello,
            self.index,
            &handshake(datagram)?,
            &mut self.rng,
        )
    }
}

/// The outcome at both ends, and the three datagrams.
type Outcome = ((Established, Established), [Vec<u8>; 3]);

fn run(
    a: &mut Peer,
    b: &mut Peer,
    ours: &Secret,
    theirs: &[Secret],
) -> Result<Outcome, HandshakeError> {
    run_through(a, b, ours, theirs, |_, _| {})
}

/// Runs a handshake past somebody who may change each datagram.
fn run_through(
    a: &mut Peer,
    b: &mut Peer,
    ours: &Secret,
    theirs: &[Secret],
    mut meddle: impl FnMut(Stage, &mut Vec<u8>),
) -> Result<Outcome, HandshakeError> {
    let (mut initiator, mut first) = a.start();
    meddle(Stage::Initiation, &mut first);
    let (mut responder, mut second) = b.accept(&first)?;
    meddle(Stage::Response, &mut second);
    let (at_a, mut third) = initiator.read_response(&handshake(&second)?, ours)?;
    meddle(Stage::Completion, &mut third);
    let at_b = responder.complete(&handshake(&third)?, theirs)?;
    Ok(((at_a, at_b), [first, second, third]))
}

fn datagram(session: &Session, protection: Protection, plaintext: &[u8]) -> Vec<u8> {
    let mut buffer = [&[0; TRANSPORT_HEADER], plaintext, &[0; TAG]].concat();
    session.seal(protection, &mut buffer).unwrap();
    buffer
}

fn carries(from: &Session, to: &Session, protection: Protection) -> bool {
    let mut bytes = datagram(from, protection, b"content");
    let Ok(Datagram::Transport(header)) = Datagram::parse(&bytes) else {
        panic!("not a transport datagram")
    };
    to.open(&header, &mut bytes)
        .is_ok_and(|plaintext| plaintext == b"content")
}

#[test]
fn two_peers_establish_a_session() {
    let (mut a, mut b) = (peer(1), peer(2));
    let ((at_a, at_b), _) = run(&mut a, &mut b, &secret(1), &[secret(1)]).unwrap();
    assert_eq!((at_a.peer, at_b.peer), (b.identity.id(), a.identity.id()));
    assert_eq!(
        (at_a.keys, at_b.keys),
        (b.identity.public(), a.identity.public())
    );
    assert_eq!(
        (&at_a.hello.nickname[..], &at_b.hello.nickname[..]),
        ("peer2", "peer1")
    );
    assert_eq!((at_a.hello.epoch, at_a.hello.instance), (2, 2000));
    assert_eq!((at_a.version, at_b.version), (1, 1));
    assert_eq!((at_a.session.local(), at_a.session.remote()), (101, 102));
    assert_eq!((at_b.session.local(), at_b.session.remote()), (102, 101));
    assert!(at_a.session.is_initiator() && !at_b.session.is_initiator());
    assert!(carries(&at_a.session, &at_b.session, Protection::Sealed));
    assert!(carries(&at_b.session, &at_a.session, Protection::Sealed));
    assert_eq!(
        at_a.session.export_send(b"x"),
        at_b.session.export_receive(b"x")
    );
}

#[test]
fn the_cipher_is_what_both_do_well() {
    for (aes_a, aes_b, expected) in [
        (true, true, Cipher::Aes256Gcm),
        (true, false, Cipher::ChaCha20Poly1305),
        (false, true, Cipher::ChaCha20Poly1305),
        (false, false, Cipher::ChaCha20Poly1305),
    ] {
        let (mut a, mut b) = (peer(1), peer(2));
        (a.hello.ciphers, b.hello.ciphers) =
            (CipherSet::with_aes(aes_a), CipherSet::with_aes(aes_b));
        let ((at_a, at_b), _) = run(&mut a, &mut b, &secret(1), &[secret(1)]).unwrap();
        assert_eq!(
            (at_a.cipher, at_b.cipher, at_a.session.cipher()),
            (expected, expected, expected)
        );
        assert!(carries(&at_a.session, &at_b.session, Protection::Sealed));
    }
}

#[test]
fn one_end_that_wants_encryption_is_enough() {
    for (wants_a, wants_b) in [(true, true), (true, false), (false, true), (false, false)] {
        let (mut a, mut b) = (peer(1), peer(2));
        (a.hello.encrypt, b.hello.encrypt) = (wants_a, wants_b);
        let ((at_a, at_b), _) = run(&mut a, &mut b, &secret(1), &[secret(1)]).unwrap();
        let encrypt = wants_a || wants_b;
        assert_eq!((at_a.encrypt, at_b.encrypt), (encrypt, encrypt));
        assert!(carries(&at_a.session, &at_b.session, Protection::Sealed));
        if !encrypt {
            assert!(carries(&at_a.session, &at_b.session, Protection::Clear));
        } else {
            assert!(at_a.session.seal(Protection::Clear, &mut [0; 64]).is_err());
        }
    }
}

#[test]
fn secrets_rotate_without_a_gap() {
    let (old, new) = (secret(1), secret(2));
    for (ours, theirs, place) in [
        (&old, vec![new.clone(), old.clone()], 1),
        (&new, vec![new.clone(), old.clone()], 0),
        (&new, vec![old.clone(), new.clone()], 1),
        (&old, vec![old.clone(), new.clone()], 0),
        (
            &old,
            vec![secret(3), secret(4), new.clone(), old.clone()],
            3,
        ),
    ] {
        let ((at_a, at_b), _) = run(&mut peer(1), &mut peer(2), ours, &theirs).unwrap();
        assert_eq!(at_b.secret, place);
        assert!(carries(&at_a.session, &at_b.session, Protection::Sealed));
        assert!(carries(&at_b.session, &at_a.session, Protection::Sealed));
    }
}

#[test]
fn a_stranger_does_not_get_in() {
    for theirs in [vec![], vec![secret(2)], vec![secret(2), secret(3)]] {
        let error = run(&mut peer(1), &mut peer(2), &secret(1), &theirs).unwrap_err();
        assert_eq!(error, HandshakeError::Secret);
        assert_eq!(error.reject_reason(), Some(RejectReason::Secret));
    }
}

#[test]
fn a_responder_with_another_secret_cannot_speak() {
    // The initiator believes it has a session; nothing ever opens in it.
    let (mut a, mut b) = (peer(1), peer(2));
    let (mut initiator, first) = a.start();
    let (mut responder, second) = b.accept(&first).unwrap();
    let (at_a, third) = initiator
        .read_response(&handshake(&second).unwrap(), &secret(1))
        .unwrap();
    assert_eq!(
        responder
            .complete(&handshake(&third).unwrap(), &[secret(2)])
            .unwrap_err(),
        HandshakeError::Secret
    );
    // It learns its mistake; the same completion is still good.
    let at_b = responder
        .complete(&handshake(&third).unwrap(), &[secret(2), secret(1)])
        .unwrap();
    assert!(carries(&at_b.session, &at_a.session, Protection::Sealed));
}

#[test]
fn a_peer_refuses_itself_and_its_copy() {
    let (mut a, mut copy) = (peer(1), peer(1));
    copy.index = 999;
    assert_eq!(
        run(&mut a, &mut copy, &secret(1), &[secret(1)]).unwrap_err(),
        HandshakeError::Identity
    );

    // The responder notices by itself: an initiator that does not look.
    let (mut a, mut b) = (peer(1), peer(2));
    let (mut initiator, first) = a.start();
    let (mut responder, second) = b.accept(&first).unwrap();
    responder.end.public = a.identity.public();
    let (_, third) = initiator
        .read_response(&handshake(&second).unwrap(), &secret(1))
        .unwrap();
    let error = responder
        .complete(&handshake(&third).unwrap(), &[secret(1)])
        .unwrap_err();
    assert_eq!(error, HandshakeError::Identity);
}

#[test]
fn versions_must_meet() {
    let (mut a, mut b) = (peer(1), peer(2));
    (a.hello.min_version, a.hello.max_version) = (1, 3);
    (b.hello.min_version, b.hello.max_version) = (2, 9);
    let ((at_a, at_b), _) = run(&mut a, &mut b, &secret(1), &[secret(1)]).unwrap();
    assert_eq!((at_a.version, at_b.version), (3, 3));
    (b.hello.min_version, b.hello.max_version) = (4, 9);
    assert_eq!(
        run(&mut a, &mut b, &secret(1), &[secret(1)]).unwrap_err(),
        HandshakeError::Version
    );
}

#[test]
fn no_answer_is_longer_than_its_question() {
    let (mut a, mut b) = (peer(1), peer(2));
    b.hello.nickname = "x".repeat(64);
    b.hello.extensions = vec![Extension {
        tag: 1,
        value: vec![0; 300],
    }];
    let (_, [first, second, third]) = run(&mut a, &mut b, &secret(1), &[secret(1)]).unwrap();
    assert_eq!(first.len(), INITIATION);
    assert!(second.len() <= first.len());
    assert!(third.len() <= first.len());
    // Nor is it for an initiation somebody cut short, at any length.
    for len in 0..first.len() {
        assert!(b.accept(&first[..len]).is_err(), "{len}");
    }
    assert!(emit_cookie_reply(1, &[0; 16]).len() < HANDSHAKE_HEADER);
    assert!(emit_reject(1, RejectReason::Secret).len() < HANDSHAKE_HEADER);
}

#[test]
fn an_initiation_of_another_size_works_within_bounds() {
    // A later version may say more, or pad less.
    let mut b = peer(2);
    let mut initiation = |payload: usize| {
        let secrets = Secrets {
            exchange: Zeroizing::new([1; 32]),
            seed: Zeroizing::new([2; 32]),
        };
        let mut bytes = vec![7; payload];
        bytes[..INDICES].copy_from_slice(&indices(101, 0));
        let noise = Noise::initiator(&secrets).write(&bytes).unwrap();
        let message = Handshake {
            stage: Stage::Initiation,
            sender: 101,
            receiver: 0,
            cookie: NO_COOKIE,
            noise: &noise,
        };
        let size = message.emit().len();
        b.accept(&message.emit())
            .map(|(_, answer)| answer.len() <= size)
            .map_err(|e| (e, size))
    };
    assert_eq!(initiation(1090), Ok(true));
    assert_eq!(
        initiation(1091),
        Err((HandshakeError::Size, MAX_INITIATION + 1))
    );
    assert_eq!(initiation(300), Ok(true));
    assert_eq!(initiation(8), Err((HandshakeError::Size, 84)));
}

#[test]
fn the_first_message_says_nothing() {
    let mut a = peer(1);
    a.hello.nickname = "a-telling-nickname".to_owned();
    let (_, [first, second, third]) = run(&mut a, &mut peer(2), &secret(1), &[secret(1)]).unwrap();
    let public = a.identity.public();
    for needle in [a.hello.nickname.as_bytes(), &public.sign, &public.exchange] {
        for datagram in [&first, &second, &third] {
            assert!(!datagram.windows(needle.len()).any(|w| w == needle));
        }
    }
}

#[test]
fn a_cookie_changes_nothing_else() {
    let (mut a, mut b) = (peer(1), peer(2));
    let (mut initiator, first) = a.start();
    let again = initiator.with_cookie(&[9; 16]);
    assert_eq!(handshake(&again).unwrap().cookie, [9; 16]);
    assert_eq!(
        handshake(&again).unwrap().noise,
        handshake(&first).unwrap().noise
    );
    assert_eq!(initiator.datagram(), first);

    let (mut responder, second) = b.accept(&again).unwrap();
    assert!(responder.answers(&handshake(&first).unwrap()));
    assert!(!responder.answers(&handshake(&second).unwrap()));
    assert!(!responder.answers(&handshake(&peer(3).start().1).unwrap()));
    assert_eq!(responder.datagram(), second);
    let (_, third) = initiator
        .read_response(&handshake(&second).unwrap(), &secret(1))
        .unwrap();
    assert!(
        responder
            .complete(&handshake(&third).unwrap(), &[secret(1)])
            .is_ok()
    );
}

#[test]
fn the_same_seeds_give_the_same_bytes() {
    let with = |seed| run(&mut peer(1), &mut peer(seed), &secret(1), &[secret(1)]).unwrap();
    let (((a, _), bytes), ((b, _), same)) = (with(2), with(2));
    assert_eq!(bytes, same);
    assert_eq!(
        datagram(&a.session, Protection::Sealed, b"x"),
        datagram(&b.session, Protection::Sealed, b"x")
    );
    let (_, other) = with(3);
    assert_ne!(bytes[1], other[1]);
}

/// Bytes outside the transcript, from which nothing is derived: the reserved
/// ones everywhere, the cookie in an initiation.
fn is_free(stage: Stage, at: usize) -> bool {
    matches!(at, 2 | 3)
        || (stage == Stage::Initiation && (COOKIE_AT..HANDSHAKE_HEADER).contains(&at))
}

fn sizes() -> [(Stage, usize); 3] {
    let (_, datagrams) = run(&mut peer(1), &mut peer(2), &secret(1), &[secret(1)]).unwrap();
    let [first, second, third] = datagrams.map(|d| d.len());
    [
        (Stage::Initiation, first),
        (Stage::Response, second),
        (Stage::Completion, third),
    ]
}

fn changed_byte_fails(target: Stage, at: usize, mask: u8) -> bool {
    let meddle = |stage, bytes: &mut Vec<u8>| {
        if stage == target {
            bytes[at] ^= mask;
        }
    };
    run_through(&mut peer(1), &mut peer(2), &secret(1), &[secret(1)], meddle).is_err()
}

#[test]
fn every_changed_byte_ends_the_handshake() {
    for (stage, len) in sizes() {
        // The padding is one AEAD block of zeros: a sample of it will do.
        let step = |at: usize| {
            stage != Stage::Initiation || at < 100 || at + 20 > len || at.is_multiple_of(37)
        };
        for at in (0..len).filter(|at| step(*at)) {
            assert_ne!(
                changed_byte_fails(stage, at, 0x01),
                is_free(stage, at),
                "{stage:?} byte {at}"
            );
        }
    }
}

#[test]
fn every_truncation_and_extension_ends_the_handshake() {
    for (target, len) in sizes() {
        for new in (0..len)
            .step_by(if target == Stage::Initiation { 41 } else { 3 })
            .chain([len - 1, len + 1])
        {
            let meddle = |stage, bytes: &mut Vec<u8>| {
                if stage == target {
                    bytes.resize(new, 0);
                }
            };
            let result = run_through(&mut peer(1), &mut peer(2), &secret(1), &[secret(1)], meddle);
            assert!(result.is_err(), "{target:?} {new}");
        }
    }
}

#[test]
fn a_forged_response_does_not_end_the_attempt() {
    let (mut a, mut b) = (peer(1), peer(2));
    let (mut initiator, first) = a.start();
    let (mut responder, second) = b.accept(&first).unwrap();
    for at in HANDSHAKE_HEADER..second.len() {
        let mut forged = second.clone();
        forged[at] ^= 0x80;
        assert!(
            initiator
                .read_response(&handshake(&forged).unwrap(), &secret(1))
                .is_err()
        );
    }
    // An impostor without the secret answers first, correctly.
    let (_, impostor) = peer(66).accept(&first).unwrap();
    let (fake, _) = initiator
        .read_response(&handshake(&impostor).unwrap(), &secret(1))
        .unwrap();
    assert_eq!(fake.peer, peer(66).identity.id());

    let (at_a, third) = initiator
        .read_response(&handshake(&second).unwrap(), &secret(1))
        .unwrap();
    let at_b = responder
        .complete(&handshake(&third).unwrap(), &[secret(1)])
        .unwrap();
    assert!(carries(&at_b.session, &at_a.session, Protection::Sealed));
}

#[test]
fn a_forged_completion_does_not_end_the_attempt() {
    let (mut a, mut b) = (peer(1), peer(2));
    let (mut initiator, first) = a.start();
    let (mut responder, second) = b.accept(&first).unwrap();
    let (at_a, third) = initiator
        .read_response(&handshake(&second).unwrap(), &secret(1))
        .unwrap();
    let secrets = [secret(5), secret(1)];
    for at in HANDSHAKE_HEADER..third.len() {
        let mut forged = third.clone();
        forged[at] ^= 0x80;
        let error = responder
            .complete(&handshake(&forged).unwrap(), &secrets)
            .unwrap_err();
        // The static key and its tag come first; behind them lies the secret.
        let behind_key = at >= HANDSHAKE_HEADER + KEY + NOISE_TAG;
        assert_eq!(
            error,
            if behind_key {
                HandshakeError::Secret
            } else {
                HandshakeError::Forged
            }
        );
    }
    let at_b = responder
        .complete(&handshake(&third).unwrap(), &secrets)
        .unwrap();
    assert_eq!(at_b.secret, 1);
    assert!(carries(&at_b.session, &at_a.session, Protection::Sealed));
}

#[test]
fn one_message_makes_one_session() {
    let (mut a, mut b) = (peer(1), peer(2));
    let (mut initiator, first) = a.start();
    let (mut responder, second) = b.accept(&first).unwrap();
    let (_, third) = initiator
        .read_response(&handshake(&second).unwrap(), &secret(1))
        .unwrap();
    for other in [secret(1), secret(2)] {
        let again = initiator.read_response(&handshake(&second).unwrap(), &other);
        assert_eq!(again.unwrap_err(), HandshakeError::Spent);
    }
    responder
        .complete(&handshake(&third).unwrap(), &[secret(1)])
        .unwrap();
    assert_eq!(
        responder
            .complete(&handshake(&third).unwrap(), &[secret(1)])
            .unwrap_err(),
        HandshakeError::Spent
    );
    // And impostors cannot make this end remember without bound.
    for seed in 10..10 + MAX_ANSWERS as u64 {
        let (_, response) = peer(seed).accept(&first).unwrap();
        let _ = initiator.read_response(&handshake(&response).unwrap(), &secret(1));
    }
    assert_eq!(initiator.answered.len(), MAX_ANSWERS);
}

#[test]
fn messages_out_of_place_are_refused() {
    let (mut a, mut b) = (peer(1), peer(2));
    let (mut initiator, first) = a.start();
    let (mut responder, second) = b.accept(&first).unwrap();
    let (first, second) = (handshake(&first).unwrap(), handshake(&second).unwrap());
    let stage = HandshakeError::Stage;
    assert_eq!(
        initiator.read_response(&first, &secret(1)).unwrap_err(),
        stage
    );
    assert_eq!(
        responder.complete(&second, &[secret(1)]).unwrap_err(),
        stage
    );
    let elsewhere = Handshake {
        receiver: 5,
        ..second
    };
    assert_eq!(
        initiator.read_response(&elsewhere, &secret(1)).unwrap_err(),
        stage
    );
    assert!(b.accept(&second.emit()).is_err_and(|e| e == stage));
    assert!(
        b.accept(
            &Handshake {
                receiver: 5,
                ..first
            }
            .emit()
        )
        .is_err_and(|e| e == stage)
    );

    // A completion of another handshake with the same peer.
    let (mut other, start) = a.start();
    let (_, answer) = b.accept(&start).unwrap();
    let (_, third) = other
        .read_response(&handshake(&answer).unwrap(), &secret(1))
        .unwrap();
    assert_eq!(
        responder
            .complete(&handshake(&third).unwrap(), &[secret(1)])
            .unwrap_err(),
        HandshakeError::Forged
    );
}

#[test]
fn a_hello_over_its_limit_is_the_callers_error() {
    let mut a = peer(1);
    a.hello.nickname = "x".repeat(65);
    let error = Initiator::start(&a.identity, &a.hello, 1, &mut a.rng).err();
    assert_eq!(error, Some(HandshakeError::Hello(HelloError::Limit)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_change_of_any_byte_ends_the_handshake(which in 0_usize..3, at: prop::sample::Index, mask in 1_u8..) {
        let (stage, len) = sizes()[which];
        let at = at.index(len);
        prop_assume!(!is_free(stage, at));
        prop_assert!(changed_byte_fails(stage, at, mask));
    }

    #[test]
    fn hostile_bytes_never_panic_at_any_stage(noise in prop::collection::vec(any::<u8>(), 0..1300), sender: u32) {
        let (mut a, mut b) = (peer(1), peer(2));
        let (mut initiator, first) = a.start();
        let (mut responder, _) = b.accept(&first).unwrap();
        let message = |stage, receiver| Handshake { stage, sender, receiver, cookie: NO_COOKIE, noise: &noise };
        prop_assert!(b.accept(&message(Stage::Initiation, 0).emit()).is_err());
        prop_assert!(initiator.read_response(&message(Stage::Response, a.index), &secret(1)).is_err());
        let completion = Handshake { sender: a.index, ..message(Stage::Completion, b.index) };
        prop_assert!(responder.complete(&completion, &[secret(1), secret(2)]).is_err());
    }
}
