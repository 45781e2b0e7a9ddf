//! What a stranger gets out of a responder, and what it may cost.

use std::{net::SocketAddr, time::Duration};

use gossip::DialId;
use proto::Endpoint;

use super::{super::timing::REJECT_GRACE, *};

const ATTEMPT: Purpose = Purpose::Session(PeerId([9; 16]));

#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some origin of time; no result depends on it"
)]
fn origin() -> Instant {
    Instant::now()
}

fn secret(seed: u64) -> Secret {
    Secret::generate(&mut ChaCha20Rng::seed_from_u64(seed))
}

fn way(port: u16) -> Origin {
    Origin::Direct(Endpoint::Udp(SocketAddr::from(([10, 0, 0, 1], port))))
}

fn peer(seed: u64, secrets: &[Secret], now: Instant) -> Handshakes {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let identity = Arc::new(Identity::generate(&mut rng));
    let hello = Hello::new(seed, seed, "peer");
    Handshakes::new(identity, hello, secrets.to_vec(), rng.random(), now)
}

fn outcomes(of: &mut Handshakes) -> Vec<Outcome> {
    std::iter::from_fn(|| of.poll_outcome()).collect()
}

/// What there is to send, in turn.
fn sent(of: &mut Handshakes) -> Vec<Vec<u8>> {
    let sent = outcomes(of)
        .into_iter()
        .filter_map(|outcome| match outcome {
            Outcome::Send { datagram, .. } => Some(datagram),
            _ => None,
        });
    sent.collect()
}

/// An initiator's completion for a responder that already answered it.
fn completion(initiator: &mut Handshakes, responder: &mut Handshakes, now: Instant) -> Vec<u8> {
    let purpose = Purpose::Session(responder.identity.id());
    initiator.begin(purpose, vec![way(1)], now);
    let initiation = sent(initiator).remove(0);
    responder.handle_datagram(&initiation, way(2), now);
    let response = sent(responder).remove(0);
    initiator.handle_datagram(&response, way(1), now);
    sent(initiator).remove(0)
}

#[test]
fn a_wrong_secret_is_tried_and_told_of_once() {
    let now = origin();
    let mut a = peer(1, &[secret(1)], now);
    let mut b = peer(2, &[secret(2)], now);
    let right = completion(&mut a, &mut b, now);
    b.handle_datagram(&right, way(2), now);
    let first = outcomes(&mut b);
    let [Outcome::Send { datagram, .. }, Outcome::Refused { .. }] = &first[..] else {
        panic!("not refused");
    };
    let last = right.len() - 1;
    let mut other = right.clone();
    other[last] ^= 1;
    // It would fit by now, so that nothing is tried shows.
    b.set_secrets(vec![secret(1)]);
    for again in [&other, &right] {
        b.handle_datagram(again, way(2), now);
        let said = outcomes(&mut b);
        assert!(
            matches!(&said[..], [Outcome::Send { datagram: said, .. }] if said == datagram),
            "tried, or told of, again"
        );
    }
}

#[test]
fn a_spoilt_copy_of_a_completion_does_not_spoil_it() {
    let now = origin();
    let mut a = peer(1, &[secret(1)], now);
    let mut b = peer(2, &[secret(1)], now);
    let right = completion(&mut a, &mut b, now);
    let last = right.len() - 1;
    let spoilt = |with: u8| {
        let mut copy = right.clone();
        copy[last] ^= with;
        copy
    };
    for with in 1..MAX_COMPLETIONS as u8 {
        b.handle_datagram(&spoilt(with), way(2), now);
        let told = outcomes(&mut b);
        let told = told
            .iter()
            .filter(|said| matches!(said, Outcome::Refused { .. }));
        assert_eq!(told.count(), usize::from(with == 1));
    }
    b.handle_datagram(&right, way(2), now);
    let said = outcomes(&mut b);
    assert!(matches!(&said[..], [Outcome::Established { .. }]));
    // But not for ever: it is work.
    let mut c = peer(3, &[secret(1)], now);
    let right = completion(&mut c, &mut b, now);
    for with in 1..=MAX_COMPLETIONS as u8 {
        let mut copy = right.clone();
        copy[last] ^= with;
        b.handle_datagram(&copy, way(2), now);
    }
    outcomes(&mut b);
    b.handle_datagram(&right, way(2), now);
    let said = outcomes(&mut b);
    assert!(matches!(&said[..], [Outcome::Send { .. }]));
}

#[test]
fn an_address_that_is_ours_too_keeps_nobody_else_out() {
    let now = origin();
    let mut a = peer(1, &[secret(1)], now);
    let mut b = peer(2, &[secret(1)], now);
    let purpose = Purpose::Dial(DialId(1));
    a.begin(purpose, vec![way(1), way(9)], now);
    let initiation = sent(&mut a).remove(0);
    a.handle_datagram(&initiation, way(9), now);
    assert!(outcomes(&mut a).is_empty() && a.is_under_way(purpose));
    b.handle_datagram(&initiation, way(2), now);
    let response = sent(&mut b).remove(0);
    a.handle_datagram(&response, way(1), now);
    let said = outcomes(&mut a);
    assert!(matches!(said[0], Outcome::Established { .. }));
    // Where nobody else answers, it is we who are there.
    let mut c = peer(3, &[secret(1)], now);
    c.begin(purpose, vec![way(9)], now);
    let initiation = sent(&mut c).remove(0);
    c.handle_datagram(&initiation, way(9), now);
    assert!(outcomes(&mut c).is_empty());
    c.handle_timeout(now + HANDSHAKE_PATIENCE);
    let said = outcomes(&mut c);
    assert!(matches!(&said[..], [Outcome::Ourselves { dial }] if *dial == DialId(1)));
}

#[test]
fn who_is_nearer_and_of_another_network_keeps_nobody_else_out() {
    let now = origin();
    let mut a = peer(1, &[secret(1), secret(5)], now);
    let mut b = peer(2, &[secret(1)], now);
    let mut stranger = peer(3, &[secret(3)], now);
    a.begin(Purpose::Dial(DialId(1)), vec![way(1), way(4)], now);
    // It refuses the one secret, and the other, and then it is the turn of the rest.
    for _ in 0..2 {
        let initiation = sent(&mut a).remove(0);
        stranger.handle_datagram(&initiation, way(2), now);
        a.handle_datagram(&sent(&mut stranger).remove(0), way(4), now);
        stranger.handle_datagram(&sent(&mut a).remove(0), way(2), now);
        a.handle_datagram(&sent(&mut stranger).remove(0), way(4), now);
        a.handle_timeout(now + REJECT_GRACE);
    }
    let said = outcomes(&mut a);
    let Some(Outcome::Send { way: to, datagram }) = said.last() else {
        panic!("the other address is not tried");
    };
    assert_eq!(*to, way(1));
    b.handle_datagram(datagram, way(2), now);
    a.handle_datagram(&sent(&mut b).remove(0), way(1), now);
    b.handle_datagram(&sent(&mut a).remove(0), way(2), now);
    let said = outcomes(&mut b);
    assert!(matches!(&said[..], [Outcome::Established { .. }]));
}

#[test]
fn what_does_not_authenticate_leaves_a_handshake_open() {
    let now = origin();
    let mut a = peer(1, &[secret(1)], now);
    let mut b = peer(2, &[secret(1)], now);
    let right = completion(&mut a, &mut b, now);
    let mut forged = right.clone();
    forged[HANDSHAKE_HEADER] ^= 1;
    b.handle_datagram(&forged, way(2), now);
    assert!(outcomes(&mut b).is_empty());
    b.handle_datagram(&right, way(2), now);
    let said = outcomes(&mut b);
    assert!(matches!(&said[..], [Outcome::Established { .. }]));
    b.handle_datagram(&right, way(2), now);
    let said = outcomes(&mut b);
    assert!(matches!(&said[..], [Outcome::Reconfirm { .. }]));
}

#[test]
fn nobody_else_ends_a_handshake() {
    let now = origin();
    let mut a = peer(1, &[secret(1)], now);
    let mut b = peer(2, &[secret(1)], now);
    let purpose = Purpose::Session(b.identity.id());
    a.begin(purpose, vec![way(1)], now);
    let initiation = sent(&mut a).remove(0);
    let answer = |of: &mut Handshakes| {
        of.handle_datagram(&initiation, way(2), now);
        sent(of).remove(0)
    };
    let index = match Datagram::parse(&initiation) {
        Ok(Datagram::Handshake(message)) => message.sender,
        _ => panic!("no handshake"),
    };
    let refusal = datagram::emit_reject(index, RejectReason::Limit);
    // A refusal before there is anything to refuse, and answers that are not the peer's:
    // however many they are, and whatever they claim to be.
    a.handle_datagram(&refusal, way(3), now);
    for seed in 10..30 {
        let mut stranger = peer(seed, &[secret(3)], now);
        if seed % 2 == 0 {
            (stranger.hello.min_version, stranger.hello.max_version) = (9, 9);
        }
        a.handle_datagram(&answer(&mut stranger), way(3), now);
    }
    a.handle_timeout(now + REJECT_GRACE);
    assert!(sent(&mut a).iter().all(|datagram| *datagram == initiation));
    a.handle_datagram(&answer(&mut b), way(1), now);
    let said = outcomes(&mut a);
    assert!(matches!(
        &said[..],
        [Outcome::Established { .. }, Outcome::Send { .. }]
    ));
    // What was refused in its name the peer may confirm, but not for ever.
    a.handle_datagram(&refusal, way(3), now);
    assert!(outcomes(&mut a).is_empty() && a.is_under_way(purpose));
    a.handle_timeout(now + REJECT_GRACE);
    let said = outcomes(&mut a);
    assert!(matches!(
        &said[..],
        [
            Outcome::Abandoned { .. },
            Outcome::Failed { refused: true, .. }
        ]
    ));
}

/// Initiations of so many strangers by a relay, which proves their addresses.
fn relayed(to: &mut Handshakes, strangers: u32, now: Instant) -> usize {
    let mut answered = 0;
    for _ in 0..strangers {
        let mut stranger = peer(to.rng.random(), &[secret(1)], now);
        stranger.begin(ATTEMPT, vec![way(1)], now);
        let initiation = sent(&mut stranger).remove(0);
        to.handle_datagram(&initiation, Origin::Relayed(PeerId([7; 16])), now);
        answered += sent(to).len();
    }
    answered
}

#[test]
fn a_proof_of_address_does_not_admit_without_bound() {
    let now = origin();
    let mut b = peer(2, &[secret(1)], now);
    b.limiter = HandshakeLimiter::new(1, 2, now);
    b.proven = HandshakeLimiter::new(4, 3, now);
    assert_eq!(relayed(&mut b, 10, now), 5);
    assert_eq!(b.take_over_rate(), 5);
    assert_eq!(b.take_over_rate(), 0);
    assert_eq!(relayed(&mut b, 10, now + Duration::from_secs(1)), 1 + 3);
}

#[test]
fn a_repeated_initiation_is_answered_beyond_the_rate() {
    let now = origin();
    let mut a = peer(1, &[secret(1)], now);
    let mut b = peer(2, &[secret(1)], now);
    b.limiter = HandshakeLimiter::new(1, 1, now);
    b.proven = HandshakeLimiter::new(1, 1, now);
    let relay = Origin::Relayed(PeerId([7; 16]));
    a.begin(ATTEMPT, vec![way(1)], now);
    let initiation = sent(&mut a).remove(0);
    b.handle_datagram(&initiation, relay, now);
    let answer = sent(&mut b);
    for _ in 0..5 {
        b.handle_datagram(&initiation, relay, now);
        assert_eq!(sent(&mut b), answer);
    }
    assert_eq!(b.take_over_rate(), 0);
}

#[test]
fn a_large_mesh_that_is_launched_at_once_is_answered() {
    let now = origin();
    let mut b = peer(2, &[secret(1)], now);
    assert_eq!(relayed(&mut b, 1000, now), 1000);
    assert_eq!(b.take_over_rate(), 0);
}
