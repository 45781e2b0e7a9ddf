//! Sealing and opening, honest and attacked, and against an oracle.

use chacha20poly1305::{ChaCha20Poly1305, KeyInit, aead::AeadInPlace};
use proptest::prelude::*;
use proto::datagram::Datagram;

use super::*;

const SPLIT: Split = ([1; 32], [2; 32]);
const BOTH: [Cipher; 2] = [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305];

fn pair(cipher: Cipher, encrypt: bool) -> (Session, Session) {
    let end = |local, remote, initiator| {
        Session::new(&Material {
            local,
            remote,
            initiator,
            cipher,
            encrypt,
            split: &SPLIT,
            transcript: b"hash",
        })
    };
    (end(10, 20, true), end(20, 10, false))
}

fn sealed(session: &Session, protection: Protection, plaintext: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0xaa; TRANSPORT_HEADER];
    buffer.extend_from_slice(plaintext);
    buffer.extend_from_slice(&[0xbb; TAG]);
    session.seal(protection, &mut buffer).unwrap();
    buffer
}

fn opened(session: &Session, datagram: &[u8]) -> Result<Vec<u8>, OpenError> {
    let mut bytes = datagram.to_vec();
    let Ok(Datagram::Transport(header)) = Datagram::parse(datagram) else {
        return Err(OpenError::Size(datagram.len()));
    };
    session
        .open(&header, &mut bytes)
        .map(|plaintext| plaintext.to_vec())
}

#[test]
fn what_one_end_seals_the_other_opens() {
    for cipher in BOTH {
        let (a, b) = pair(cipher, true);
        for plaintext in [&b""[..], b"x", &[7; 1400]] {
            assert_eq!(
                opened(&b, &sealed(&a, Protection::Sealed, plaintext)).unwrap(),
                plaintext
            );
            assert_eq!(
                opened(&a, &sealed(&b, Protection::Sealed, plaintext)).unwrap(),
                plaintext
            );
        }
        assert_eq!((a.sent(), b.sent()), (3, 3));
    }
}

#[test]
fn sealing_hides_and_clear_does_not() {
    let (a, b) = pair(Cipher::Aes256Gcm, false);
    let content = b"a frame of somebody's";
    let hidden = sealed(&a, Protection::Sealed, content);
    assert!(!hidden.windows(content.len()).any(|w| w == content));
    let clear = sealed(&a, Protection::Clear, content);
    assert_eq!(&clear[TRANSPORT_HEADER..clear.len() - TAG], content);
    assert_eq!(opened(&b, &hidden).unwrap(), content);
    assert_eq!(opened(&b, &clear).unwrap(), content);
}

#[test]
fn every_changed_bit_is_noticed() {
    for (cipher, protection) in BOTH
        .into_iter()
        .flat_map(|c| [(c, Protection::Sealed), (c, Protection::Clear)])
    {
        let (a, b) = pair(cipher, false);
        let good = sealed(&a, protection, b"some content");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(
                opened(&b, &bad).is_err(),
                "{cipher} {protection:?} bit {bit}"
            );
        }
        for len in 0..good.len() {
            assert!(
                opened(&b, &good[..len]).is_err(),
                "{cipher} {protection:?} length {len}"
            );
        }
        assert!(opened(&b, &good).is_ok());
    }
}

#[test]
fn a_datagram_does_not_return_to_its_sender() {
    let (a, _) = pair(Cipher::Aes256Gcm, true);
    let mut datagram = sealed(&a, Protection::Sealed, b"x");
    assert_eq!(opened(&a, &datagram), Err(OpenError::Index));
    datagram[4..8].copy_from_slice(&a.local().to_be_bytes());
    assert_eq!(opened(&a, &datagram), Err(OpenError::Forged));
}

#[test]
fn an_encrypting_session_refuses_the_clear_both_ways() {
    let (a, _) = pair(Cipher::Aes256Gcm, true);
    assert_eq!(
        a.seal(Protection::Clear, &mut [0; 64]),
        Err(SealError::Protection)
    );
    assert_eq!(a.sent(), 0);
    let (_, lax) = pair(Cipher::Aes256Gcm, false);
    assert_eq!(
        opened(&a, &sealed(&lax, Protection::Clear, b"x")),
        Err(OpenError::Protection)
    );
}

#[test]
fn sizes_are_checked() {
    let (a, b) = pair(Cipher::ChaCha20Poly1305, true);
    for len in [
        0,
        TRANSPORT_HEADER,
        TRANSPORT_OVERHEAD - 1,
        MAX_DATAGRAM + 1,
    ] {
        assert_eq!(
            a.seal(Protection::Sealed, &mut vec![0; len]),
            Err(SealError::Size(len))
        );
    }
    assert_eq!(a.sent(), 0);
    let largest = vec![9; MAX_DATAGRAM - TRANSPORT_OVERHEAD];
    assert_eq!(
        opened(&b, &sealed(&a, Protection::Sealed, &largest)).unwrap(),
        largest
    );
    let header = TransportHeader {
        protection: Protection::Sealed,
        receiver: 20,
        counter: 0,
    };
    assert_eq!(b.open(&header, &mut [0; 31]), Err(OpenError::Size(31)));
}

#[test]
fn the_counter_stops_before_its_end() {
    let (a, b) = pair(Cipher::Aes256Gcm, true);
    a.next.store(REJECT_AFTER_MESSAGES - 1, Ordering::Relaxed);
    let last = sealed(&a, Protection::Sealed, b"last");
    assert_eq!(opened(&b, &last).unwrap(), b"last");
    for _ in 0..3 {
        assert_eq!(
            a.seal(Protection::Sealed, &mut [0; 64]),
            Err(SealError::Exhausted)
        );
    }
    assert_eq!(a.sent(), REJECT_AFTER_MESSAGES);
    let beyond = TransportHeader {
        protection: Protection::Sealed,
        receiver: 20,
        counter: REJECT_AFTER_MESSAGES,
    };
    assert_eq!(b.open(&beyond, &mut [0; 64]), Err(OpenError::Counter));
}

#[test]
fn sealers_share_no_counter_and_end_with_the_session() {
    let (a, b) = pair(Cipher::Aes256Gcm, true);
    let start = REJECT_AFTER_MESSAGES - 100;
    a.next.store(start, Ordering::Relaxed);
    let (mut some, mut others) = (a.sealer(), a.sealer());
    some.expect(60);
    others.expect(usize::MAX);
    let mut counters = Vec::new();
    let mut ended = 0;
    for turn in 0..300 {
        let sealer = if turn % 3 == 0 {
            &mut some
        } else {
            &mut others
        };
        let mut datagram = [0; TRANSPORT_OVERHEAD + 1];
        match sealer.seal(Protection::Sealed, &mut datagram) {
            Ok(()) => {
                let Ok(Datagram::Transport(header)) = Datagram::parse(&datagram) else {
                    panic!("a datagram");
                };
                counters.push(header.counter);
                assert!(opened(&b, &datagram).is_ok());
            }
            Err(error) => {
                assert_eq!(error, SealError::Exhausted);
                ended += 1;
            }
        }
    }
    counters.sort_unstable();
    assert_eq!(counters, (start..REJECT_AFTER_MESSAGES).collect::<Vec<_>>());
    assert_eq!(ended, 200);
    assert_eq!(a.sent(), REJECT_AFTER_MESSAGES);
}

#[test]
fn threads_never_share_a_counter() {
    let (a, b) = pair(Cipher::Aes256Gcm, true);
    let mut counters = std::thread::scope(|scope| {
        let seal = || -> Vec<u64> {
            let one = |_| match Datagram::parse(&sealed(&a, Protection::Sealed, b"x")) {
                Ok(Datagram::Transport(header)) => header.counter,
                other => panic!("{other:?}"),
            };
            (0..500).map(one).collect()
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(seal)).collect();
        threads
            .into_iter()
            .flat_map(|t| t.join().unwrap())
            .collect::<Vec<_>>()
    });
    counters.sort_unstable();
    assert!(counters.into_iter().eq(0..2000));
    assert_eq!(b.sent(), 0);
}

#[test]
fn both_ends_export_the_same_keys_and_no_two_are_alike() {
    let (a, b) = pair(Cipher::Aes256Gcm, true);
    assert_eq!(a.export_send(b"esp"), b.export_receive(b"esp"));
    assert_eq!(a.export_receive(b"esp"), b.export_send(b"esp"));
    assert_ne!(a.export_send(b"esp"), a.export_receive(b"esp"));
    assert_ne!(a.export_send(b"esp"), a.export_send(b"other"));
}

#[test]
fn exported_keys_are_those_that_python_derives() {
    // import hashlib
    // def prf(key, label, *parts):
    //     text = bytes([len(label)]) + label + b"".join(parts)
    //     return hashlib.blake2s(text, key=key).digest()
    // exporter = prf(b"\x01" * 32, b"wove v1 exporter", b"hash", bytes([cipher]))
    // prf(exporter, b"wove v1 export", b"esp").hex()
    for (cipher, expected) in [
        (
            Cipher::Aes256Gcm,
            "2446eecc4cc1b42030ac0e140f0dc307a71dd424fcce6dbfb836003161a68e98",
        ),
        (
            Cipher::ChaCha20Poly1305,
            "52cd476babd95eca7cbe12ef22a4ec064ff31d46422a51b3f827583efd2a138b",
        ),
    ] {
        let (a, _) = pair(cipher, true);
        let hex = a.export_send(b"esp").map(|byte| format!("{byte:02x}"));
        assert_eq!(hex.concat(), expected);
    }
}

#[test]
fn transcript_and_cipher_separate_keys() {
    let key = |transcript: &[u8], cipher| {
        let material = Material {
            local: 1,
            remote: 2,
            initiator: true,
            cipher,
            encrypt: true,
            split: &SPLIT,
            transcript,
        };
        Session::new(&material).export_send(b"x")
    };
    assert_ne!(
        key(b"one", Cipher::Aes256Gcm),
        key(b"two", Cipher::Aes256Gcm)
    );
    assert_ne!(
        key(b"one", Cipher::Aes256Gcm),
        key(b"one", Cipher::ChaCha20Poly1305)
    );
}

#[test]
fn a_session_can_be_shared() {
    fn shared<T: Send + Sync>() {}
    shared::<Session>();
}

/// The same datagram, made by the independent RustCrypto implementation.
fn oracle(protection: Protection, counter: u64, plaintext: &[u8]) -> Vec<u8> {
    let label = match protection {
        Protection::Sealed => "wove v1 sealed",
        Protection::Clear => "wove v1 clear",
    };
    let key = derive(&SPLIT.0, label, &[b"hash", &[2]]);
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_be_bytes());
    let mut datagram = TransportHeader {
        protection,
        receiver: 20,
        counter,
    }
    .emit()
    .to_vec();
    let mut body = plaintext.to_vec();
    let cipher = ChaCha20Poly1305::new(&key.into());
    let tag = match protection {
        Protection::Sealed => cipher.encrypt_in_place_detached(&nonce.into(), &datagram, &mut body),
        Protection::Clear => {
            let covered = [&datagram[..], plaintext].concat();
            cipher.encrypt_in_place_detached(&nonce.into(), &covered, &mut [])
        }
    };
    datagram.extend_from_slice(&body);
    datagram.extend_from_slice(&tag.unwrap());
    datagram
}

proptest! {
    #[test]
    fn the_bytes_are_those_of_another_implementation(
        plaintext in prop::collection::vec(any::<u8>(), 0..2000),
        counter in 0..REJECT_AFTER_MESSAGES,
        clear: bool,
    ) {
        let protection = if clear { Protection::Clear } else { Protection::Sealed };
        let (a, _) = pair(Cipher::ChaCha20Poly1305, false);
        a.next.store(counter, Ordering::Relaxed);
        prop_assert_eq!(sealed(&a, protection, &plaintext), oracle(protection, counter, &plaintext));
    }

    #[test]
    fn hostile_datagrams_never_open(mut bytes in prop::collection::vec(any::<u8>(), 0..200), counter: u64, clear: bool) {
        let protection = if clear { Protection::Clear } else { Protection::Sealed };
        for cipher in BOTH {
            let (_, b) = pair(cipher, false);
            let header = TransportHeader { protection, receiver: b.local(), counter };
            prop_assert!(b.open(&header, &mut bytes).is_err());
            prop_assert!(opened(&b, &bytes).is_err());
        }
    }
}
