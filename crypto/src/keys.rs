//! A peer's long-term keys (design D2): an Ed25519 pair that signs its records
//! and an X25519 pair that is its Noise static key. Knows nothing of files.

use std::fmt;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use proto::{PeerId, PublicKeys};
use rand::CryptoRng;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use crate::hash::hash;

/// The secret keys of this peer. Wiped from memory when dropped.
///
/// `Debug` shows the peer id, never a secret.
pub struct Identity {
    sign: SigningKey,
    exchange: StaticSecret,
    public: PublicKeys,
}

impl Identity {
    /// Bytes of a stored identity.
    pub const LEN: usize = 64;

    /// Makes a new identity.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut bytes = Zeroizing::new([0; Self::LEN]);
        rng.fill_bytes(&mut *bytes);
        Self::from_bytes(&bytes)
    }

    /// Restores an identity: 32 bytes of Ed25519 seed (RFC 8032), then 32
    /// bytes of X25519 secret (RFC 7748). Any 64 bytes are an identity, so the
    /// caller guards its file against damage.
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        seed.copy_from_slice(&bytes[..32]);
        let sign = SigningKey::from_bytes(&seed);
        seed.copy_from_slice(&bytes[32..]);
        let exchange = StaticSecret::from(*seed);
        let public = PublicKeys {
            sign: sign.verifying_key().to_bytes(),
            exchange: PublicKey::from(&exchange).to_bytes(),
        };
        Self {
            sign,
            exchange,
            public,
        }
    }

    /// The bytes to store, in the order of [`Self::from_bytes`].
    pub fn to_bytes(&self) -> Zeroizing<[u8; Self::LEN]> {
        let mut bytes = Zeroizing::new([0; Self::LEN]);
        bytes[..32].copy_from_slice(self.sign.as_bytes());
        bytes[32..].copy_from_slice(self.exchange.as_bytes());
        bytes
    }

    /// The public halves.
    pub fn public(&self) -> PublicKeys {
        self.public
    }

    /// The name of this peer.
    pub fn id(&self) -> PeerId {
        peer_id(&self.public)
    }

    /// Signs a message with Ed25519.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.sign.sign(message).to_bytes()
    }

    pub(crate) fn exchange_secret(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.exchange.to_bytes())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({:.8})", self.id())
    }
}

/// The name of the peer with these keys: the first 16 bytes of BLAKE2s-256
/// over a label and both keys, so neither key can be swapped for another.
pub fn peer_id(keys: &PublicKeys) -> PeerId {
    let digest = hash("wove peer id v1", &[&keys.sign, &keys.exchange]);
    let mut id = [0; PeerId::LEN];
    id.copy_from_slice(&digest[..PeerId::LEN]);
    PeerId(id)
}

/// Whether `signature` is this peer's over `message`.
///
/// Strict: a non-canonical signature or a key of small order is refused, so
/// there is exactly one valid encoding and nobody can vary it.
pub fn verify(keys: &PublicKeys, message: &[u8], signature: &[u8; 64]) -> bool {
    let Ok(key) = VerifyingKey::from_bytes(&keys.sign) else {
        return false;
    };
    key.verify_strict(message, &Signature::from_bytes(signature))
        .is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn identity(seed: u64) -> Identity {
        Identity::generate(&mut ChaCha8Rng::seed_from_u64(seed))
    }

    #[test]
    fn the_same_seed_gives_the_same_peer() {
        assert_eq!(identity(1).id(), identity(1).id());
        assert_ne!(identity(1).id(), identity(2).id());
    }

    #[test]
    fn an_identity_survives_storage() {
        let old = identity(3);
        let new = Identity::from_bytes(&old.to_bytes());
        assert_eq!(new.public(), old.public());
        assert_eq!(new.sign(b"m"), old.sign(b"m"));
        assert_eq!(*new.to_bytes(), *old.to_bytes());
    }

    #[test]
    fn the_id_depends_on_both_keys() {
        let (a, b) = (identity(1).public(), identity(2).public());
        assert_ne!(peer_id(&a), peer_id(&PublicKeys { sign: b.sign, ..a }));
        assert_ne!(
            peer_id(&a),
            peer_id(&PublicKeys {
                exchange: b.exchange,
                ..a
            })
        );
    }

    #[test]
    fn the_signing_key_is_that_of_rfc_8032() {
        // Section 7.1, test 1: the seed and its public key.
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&hex(
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        ));
        let public = Identity::from_bytes(&bytes).public();
        assert_eq!(
            public.sign,
            hex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
        );
    }

    #[test]
    fn only_the_signer_and_only_the_message_verify() {
        let (a, b) = (identity(1), identity(2));
        let signature = a.sign(b"message");
        assert!(verify(&a.public(), b"message", &signature));
        assert!(!verify(&a.public(), b"massage", &signature));
        assert!(!verify(&b.public(), b"message", &signature));
        for i in 0..64 {
            let mut bad = signature;
            bad[i] ^= 1;
            assert!(!verify(&a.public(), b"message", &bad));
        }
    }

    #[test]
    fn a_key_of_small_order_verifies_nothing() {
        // With the neutral element as key, this "signature" satisfies the lax
        // equation for every message.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        let mut signature = [0; 64];
        signature[0] = 1;
        assert!(!verify(
            &PublicKeys {
                sign: neutral,
                exchange: [0; 32]
            },
            b"m",
            &signature
        ));
    }

    #[test]
    fn debug_shows_no_secret() {
        let a = identity(1);
        assert_eq!(format!("{a:?}"), format!("Identity({:.8})", a.id()));
    }

    proptest! {
        #[test]
        fn hostile_keys_and_signatures_never_panic(sign: [u8; 32], halves: ([u8; 32], [u8; 32]), message: Vec<u8>) {
            let mut signature = [0; 64];
            signature[..32].copy_from_slice(&halves.0);
            signature[32..].copy_from_slice(&halves.1);
            let keys = PublicKeys { sign, exchange: sign };
            prop_assert!(!verify(&keys, &message, &signature));
        }
    }

    fn hex(text: &str) -> [u8; 32] {
        std::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
    }
}
