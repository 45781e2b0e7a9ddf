//! Numbered peers: ids, keys, names and addresses that tell the number, so that
//! no table is needed to get from one to the other; and an authority that signs
//! with a hash.

use std::net::{IpAddr, SocketAddr};

use gossip::{Authority, Target};
use proto::{MacAddr, PeerId, PublicKeys};

/// The UDP port of all peers.
pub(crate) const PORT: u16 = 6783;
/// Networks (/16) the hosts are spread over; see [`super::wan`] for their regions.
pub(crate) const NETWORKS: u32 = 40;

/// Signs with a hash that anybody could make; simulated peers do not, unless a
/// scenario makes liars of them, and even they only sign as themselves.
#[derive(Clone, Copy)]
pub(crate) struct FakeAuthority(pub(crate) PublicKeys);

impl Authority for FakeAuthority {
    fn sign(&self, bytes: &[u8]) -> [u8; 64] {
        fake_signature(&self.0, bytes)
    }

    fn verify(&self, owner: PeerId, keys: &PublicKeys, bytes: &[u8], signature: &[u8; 64]) -> bool {
        owner == id_of(keys) && *signature == fake_signature(keys, bytes)
    }
}

/// The id of the peer with a number.
pub(crate) fn id(number: u32) -> PeerId {
    id_of(&keys(number))
}

/// The number of the peer with an id.
pub(crate) fn number(id: &PeerId) -> u32 {
    let mut low = [0; 4];
    low.copy_from_slice(&id.0[12..]);
    u32::from_be_bytes(low)
}

/// The keys of the peer with a number.
pub(crate) fn keys(number: u32) -> PublicKeys {
    let mut sign = [0; 32];
    sign[..8].copy_from_slice(&u64::from(number).to_be_bytes());
    PublicKeys {
        sign,
        exchange: sign,
    }
}

/// The target text of the peer with a number.
pub(crate) fn name(number: u32) -> Target {
    Target::parse(&format!("host{number}"), PORT).expect("it is a host name")
}

/// The number in a target text.
pub(crate) fn number_of_name(name: &Target) -> Option<u32> {
    let rest = name.as_str().strip_prefix("host")?;
    rest.split(':').next()?.parse().ok()
}

/// The /16 network of a host.
pub(crate) fn network(number: u32) -> u32 {
    number % NETWORKS
}

/// Where a peer can be dialled: 10.network.x.y.
pub(crate) fn address(number: u32) -> SocketAddr {
    let [_, _, high, low] = (number / NETWORKS).to_be_bytes();
    SocketAddr::from(([10, network(number) as u8, high, low], PORT))
}

/// The number in an address; none for addresses that no host has.
pub(crate) fn number_of_address(address: &SocketAddr) -> Option<u32> {
    let IpAddr::V4(ip) = address.ip() else {
        return None;
    };
    let [ten, network, high, low] = ip.octets();
    let known = ten == 10 && u32::from(network) < NETWORKS;
    known.then(|| u32::from(u16::from_be_bytes([high, low])) * NETWORKS + u32::from(network))
}

/// A MAC address by number.
pub(crate) fn mac(number: u32) -> MacAddr {
    let [a, b, c, d] = number.to_be_bytes();
    MacAddr([2, 0, a, b, c, d])
}

/// Scatters a number over all 64-bit values.
pub(crate) fn scatter(number: u64) -> u64 {
    let mixed = number
        .wrapping_add(0x9e37_79b9_7f4a_7c15)
        .wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 29)
}

/// Scattered over the space of ids, but telling the peer's number at its end.
fn id_of(keys: &PublicKeys) -> PeerId {
    let mut low = [0; 8];
    low.copy_from_slice(&keys.sign[..8]);
    let mut id = [0; 16];
    id[..8].copy_from_slice(&scatter(u64::from_be_bytes(low)).to_be_bytes());
    id[8..].copy_from_slice(&low);
    PeerId(id)
}

fn fake_signature(keys: &PublicKeys, bytes: &[u8]) -> [u8; 64] {
    let mut state = 0xcbf2_9ce4_8422_2325;
    for chunk in keys.sign[..8].chunks(8).chain(bytes.chunks(8)) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        state = (state ^ u64::from_le_bytes(word))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15_u64)
            .rotate_left(31);
    }
    let mut signature = [0; 64];
    for (i, word) in signature.chunks_mut(8).enumerate() {
        word.copy_from_slice(&scatter(state ^ i as u64).to_le_bytes());
    }
    signature
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive_all_disguises() {
        for n in [0, 1, 39, 40, 41, 9_999, 100_000] {
            assert_eq!(number(&id(n)), n);
            assert_eq!(number_of_name(&name(n)), Some(n));
            assert_eq!(number_of_address(&address(n)), Some(n));
        }
    }

    #[test]
    fn only_the_owner_signs() {
        let (ours, theirs) = (FakeAuthority(keys(1)), FakeAuthority(keys(2)));
        let signature = ours.sign(b"text");
        assert!(theirs.verify(id(1), &keys(1), b"text", &signature));
        assert!(!theirs.verify(id(1), &keys(1), b"test", &signature));
        assert!(!theirs.verify(id(2), &keys(1), b"text", &signature));
        assert!(!theirs.verify(id(2), &keys(2), b"text", &signature));
    }
}
