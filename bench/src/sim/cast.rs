//! Who the peers are when whole engines run: real identities, whose ids do not
//! tell the peer's number, and the secret of their network.

use std::collections::BTreeMap;

use crypto::{Identity, Secret};
use proto::PeerId;
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::identity::scatter;

/// Sets the draws for identities apart from all others of a seed.
const SALT: u64 = 0x1de_2717;

/// The peers of all hosts, by number.
pub(crate) struct Cast {
    secret: Secret,
    identities: Vec<[u8; Identity::LEN]>,
    ids: Vec<PeerId>,
    numbers: BTreeMap<PeerId, u32>,
}

impl Cast {
    pub(crate) fn new(hosts: usize, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(scatter(seed ^ SALT));
        let secret = Secret::generate(&mut rng);
        let mut draw = |_| {
            let mut identity = [0; Identity::LEN];
            rng.fill_bytes(&mut identity);
            identity
        };
        let identities: Vec<_> = (0..hosts).map(&mut draw).collect();
        let ids: Vec<_> = identities
            .iter()
            .map(|identity| Identity::from_bytes(identity).id())
            .collect();
        let numbers = ids.iter().copied().zip(0..).collect();
        Self {
            secret,
            identities,
            ids,
            numbers,
        }
    }

    pub(crate) fn identity(&self, number: u32) -> Identity {
        Identity::from_bytes(&self.identities[number as usize])
    }

    pub(crate) fn secret(&self) -> Secret {
        self.secret.clone()
    }

    pub(crate) fn id(&self, number: u32) -> PeerId {
        self.ids[number as usize]
    }

    /// The number of the peer with an id, if it is one of these.
    pub(crate) fn number(&self, id: &PeerId) -> Option<u32> {
        self.numbers.get(id).copied()
    }
}
