//! Signing and verifying for gossip, which knows no crypto.

use std::sync::Arc;

use crypto::Identity;
use gossip::Authority;
use proto::{PeerId, PublicKeys};

/// The peer's own keys.
#[derive(Clone)]
pub struct Keyring {
    identity: Arc<Identity>,
}

impl Keyring {
    /// Signs as `identity`.
    pub fn new(identity: Arc<Identity>) -> Self {
        Self { identity }
    }
}

impl Authority for Keyring {
    fn sign(&self, bytes: &[u8]) -> [u8; 64] {
        self.identity.sign(bytes)
    }

    fn verify(&self, owner: PeerId, keys: &PublicKeys, bytes: &[u8], signature: &[u8; 64]) -> bool {
        crypto::peer_id(keys) == owner && crypto::verify(keys, bytes, signature)
    }
}
