//! `Noise_XXpsk3_25519_ChaChaPoly_BLAKE2s` by `snow`, with its randomness
//! drawn from a seed. Knows no datagrams and no hello.
//!
//! ```text
//! -> e
//! <- e, ee, s, es
//! -> s, se, psk
//! ```
//!
//! A state is a function of role, key, seed and the messages so far, so it can
//! be built again at will. That matters twice. `snow` puts its hash back after
//! a failed read, but not its cipher key: once a completion got as far as the
//! `psk` token, the state is of no use for the next secret. And an initiator
//! that reads each response with a fresh state loses nothing to a forged one.

use proto::datagram::VERSION;
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha20Rng;
use snow::{
    Builder, Error, HandshakeState,
    params::{CipherChoice, DHChoice, HashChoice},
    resolvers::{CryptoResolver, DefaultResolver},
    types::{Cipher, Dh, Hash, Random},
};
use zeroize::Zeroizing;

/// Bytes of an X25519 public key.
pub(crate) const KEY: usize = 32;
/// Bytes of a Noise tag.
pub(crate) const NOISE_TAG: usize = 16;

const PATTERN: &str = "Noise_XXpsk3_25519_ChaChaPoly_BLAKE2s";
const PROLOGUE: &[u8] = b"wove session handshake";
const PSK_SLOT: usize = 3;

/// What makes a state reproducible. Wiped from memory when dropped.
pub(crate) struct Secrets {
    /// The static X25519 key.
    pub(crate) exchange: Zeroizing<[u8; 32]>,
    /// Where the ephemeral key comes from.
    pub(crate) seed: Zeroizing<[u8; 32]>,
}

/// The initiator's sending key, then the responder's.
pub(crate) type Split = ([u8; 32], [u8; 32]);

/// One handshake in progress.
pub(crate) struct Noise(HandshakeState);

impl Noise {
    pub(crate) fn initiator(secrets: &Secrets) -> Self {
        Self::build(secrets, |builder| builder.build_initiator())
    }

    pub(crate) fn responder(secrets: &Secrets) -> Self {
        Self::build(secrets, |builder| builder.build_responder())
    }

    fn build(
        secrets: &Secrets,
        role: impl FnOnce(Builder<'_>) -> Result<HandshakeState, Error>,
    ) -> Self {
        let prologue = [PROLOGUE, &[VERSION]].concat();
        let resolver = Seeded {
            seed: secrets.seed.clone(),
        };
        let state = PATTERN
            .parse()
            .map(|params| Builder::with_resolver(params, Box::new(resolver)))
            .and_then(|builder| builder.prologue(&prologue))
            .and_then(|builder| builder.local_private_key(&*secrets.exchange))
            .and_then(role);
        Self(state.expect("pattern and key sizes are constants that snow supports"))
    }

    /// Writes the next message. Fails only if the other end's key is one with
    /// which no secret can be shared.
    pub(crate) fn write(&mut self, payload: &[u8]) -> Result<Vec<u8>, Error> {
        // The most a message adds: an ephemeral and an encrypted static key,
        // and the payload's tag.
        let mut message = vec![0; 2 * KEY + 2 * NOISE_TAG + payload.len()];
        let len = self.0.write_message(payload, &mut message)?;
        message.truncate(len);
        Ok(message)
    }

    /// Reads the next message and returns its payload.
    pub(crate) fn read(&mut self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let mut payload = vec![0; message.len()];
        let len = self.0.read_message(message, &mut payload)?;
        payload.truncate(len);
        Ok(payload)
    }

    pub(crate) fn set_psk(&mut self, psk: &[u8; 32]) {
        self.0
            .set_psk(PSK_SLOT, psk)
            .expect("slot 3 exists and a key has 32 bytes");
    }

    /// The other end's static key, once a message with it was read.
    pub(crate) fn remote_static(&self) -> Option<[u8; KEY]> {
        self.0.get_remote_static()?.try_into().ok()
    }

    /// The keys after the last message, and the hash of all messages.
    pub(crate) fn split(mut self) -> (Zeroizing<Split>, Vec<u8>) {
        let transcript = self.0.get_handshake_hash().to_vec();
        (
            Zeroizing::new(self.0.dangerously_get_raw_split()),
            transcript,
        )
    }
}

/// Snow's own primitives, with seeded randomness and stricter Diffie-Hellman.
struct Seeded {
    seed: Zeroizing<[u8; 32]>,
}

impl CryptoResolver for Seeded {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(SeededRandom(ChaCha20Rng::from_seed(*self.seed))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        Some(Box::new(ContributoryDh(
            DefaultResolver.resolve_dh(choice)?,
        )))
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

struct SeededRandom(ChaCha20Rng);

impl Random for SeededRandom {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), Error> {
        self.0.fill_bytes(dest);
        Ok(())
    }
}

/// X25519 that refuses keys of small order, whose shared secret is zero
/// whatever our key is (RFC 7748, section 6.1).
struct ContributoryDh(Box<dyn Dh>);

impl Dh for ContributoryDh {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn pub_len(&self) -> usize {
        self.0.pub_len()
    }

    fn priv_len(&self) -> usize {
        self.0.priv_len()
    }

    fn set(&mut self, privkey: &[u8]) {
        self.0.set(privkey);
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), Error> {
        self.0.generate(rng)
    }

    fn pubkey(&self) -> &[u8] {
        self.0.pubkey()
    }

    fn privkey(&self) -> &[u8] {
        self.0.privkey()
    }

    fn dh(&self, pubkey: &[u8], out: &mut [u8]) -> Result<(), Error> {
        self.0.dh(pubkey, out)?;
        let zero = out.iter().take(KEY).fold(0, |acc, byte| acc | byte) == 0;
        if zero { Err(Error::Dh) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(key: u8, seed: u8) -> Secrets {
        Secrets {
            exchange: Zeroizing::new([key; 32]),
            seed: Zeroizing::new([seed; 32]),
        }
    }

    fn psk(mut noise: Noise) -> Noise {
        noise.set_psk(&[9; 32]);
        noise
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        let first = |seed| Noise::initiator(&secrets(1, seed)).write(b"hi").unwrap();
        assert_eq!(first(1), first(1));
        assert_ne!(first(1), first(2));
    }

    #[test]
    fn both_ends_agree() {
        let (mut a, mut b) = (
            psk(Noise::initiator(&secrets(1, 1))),
            psk(Noise::responder(&secrets(2, 2))),
        );
        assert_eq!(b.read(&a.write(b"one").unwrap()).unwrap(), b"one");
        assert_eq!(a.read(&b.write(b"two").unwrap()).unwrap(), b"two");
        assert_eq!(b.read(&a.write(b"three").unwrap()).unwrap(), b"three");
        assert_eq!(a.split(), b.split());
    }

    #[test]
    fn a_key_of_small_order_is_refused() {
        let mut b = Noise::responder(&secrets(2, 2));
        let mut evil = Builder::with_resolver(
            PATTERN.parse().unwrap(),
            Box::new(ZeroKey(Seeded {
                seed: Zeroizing::new([1; 32]),
            })),
        )
        .prologue(&[PROLOGUE, &[VERSION]].concat())
        .unwrap()
        .local_private_key(&[1; 32])
        .unwrap()
        .build_initiator()
        .unwrap();
        let mut message = [0; 256];
        let len = evil.write_message(b"", &mut message).unwrap();
        assert_eq!(&message[..KEY], &[0; KEY]);
        assert!(b.read(&message[..len]).is_ok());
        assert!(b.write(b"").is_err());
    }

    /// Sends the zero point as every public key.
    struct ZeroKey(Seeded);
    struct ZeroDh;

    impl CryptoResolver for ZeroKey {
        fn resolve_rng(&self) -> Option<Box<dyn Random>> {
            self.0.resolve_rng()
        }
        fn resolve_dh(&self, _: &DHChoice) -> Option<Box<dyn Dh>> {
            Some(Box::new(ZeroDh))
        }
        fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
            self.0.resolve_hash(choice)
        }
        fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
            self.0.resolve_cipher(choice)
        }
    }

    impl Dh for ZeroDh {
        fn name(&self) -> &'static str {
            "25519"
        }
        fn pub_len(&self) -> usize {
            KEY
        }
        fn priv_len(&self) -> usize {
            KEY
        }
        fn set(&mut self, _: &[u8]) {}
        fn generate(&mut self, _: &mut dyn Random) -> Result<(), Error> {
            Ok(())
        }
        fn pubkey(&self) -> &[u8] {
            &[0; KEY]
        }
        fn privkey(&self) -> &[u8] {
            &[0; KEY]
        }
        fn dh(&self, _: &[u8], out: &mut [u8]) -> Result<(), Error> {
            out[..KEY].fill(0);
            Ok(())
        }
    }
}
