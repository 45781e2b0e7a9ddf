//! Which networks neighbours are in: links are spread over them, so that whoever
//! has many addresses of one network is not everybody around somebody.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use proto::PeerId;

/// A /16 of IPv4 or a /32 of IPv6: roughly one operator's network.
type Network = [u8; 5];

fn network(address: &SocketAddr) -> Network {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => [4, ip.octets()[0], ip.octets()[1], 0, 0],
        IpAddr::V6(ip) => [
            6,
            ip.octets()[0],
            ip.octets()[1],
            ip.octets()[2],
            ip.octets()[3],
        ],
    }
}

/// How many are in each network.
#[derive(Clone, Debug, Default)]
pub(crate) struct Crowds(BTreeMap<Network, usize>);

impl Crowds {
    /// Those at these addresses, each in one network.
    pub(crate) fn of<'a>(addresses: impl IntoIterator<Item = &'a SocketAddr>) -> Self {
        let mut crowds = Self::default();
        for address in addresses {
            *crowds.0.entry(network(address)).or_default() += 1;
        }
        crowds
    }

    /// How many are in the fullest of the networks that somebody claims to be in.
    /// He has to name the one he is in, or nobody could reach him; what he claims
    /// beside it makes him no better.
    pub(crate) fn around(&self, claimed: &[SocketAddr]) -> usize {
        let counts = claimed.iter().map(|address| self.at(address));
        counts.max().unwrap_or(0)
    }

    /// Takes in somebody who may be at any of these addresses.
    pub(crate) fn add(&mut self, claimed: &[SocketAddr]) {
        let mut networks: Vec<Network> = claimed.iter().map(network).collect();
        networks.sort_unstable();
        networks.dedup();
        for network in networks {
            *self.0.entry(network).or_default() += 1;
        }
    }

    fn at(&self, address: &SocketAddr) -> usize {
        self.0.get(&network(address)).copied().unwrap_or(0)
    }

    /// Those of `links` that are in the fullest network of all these.
    pub(crate) fn fullest(&self, links: &[(PeerId, SocketAddr)]) -> Vec<PeerId> {
        let most = links.iter().map(|(_, address)| self.at(address)).max();
        let fullest = links
            .iter()
            .filter(|(_, address)| Some(self.at(address)) == most);
        fullest.map(|(peer, _)| *peer).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::topology::tests::id;

    fn at(a: u8, b: u8) -> SocketAddr {
        SocketAddr::from(([a, b, 0, 1], 1))
    }

    #[test]
    fn a_claim_beside_the_truth_makes_nobody_better() {
        let crowds = Crowds::of(&[at(10, 1), at(10, 1), at(10, 2)]);
        assert_eq!(crowds.around(&[at(99, 9)]), 0);
        assert_eq!(crowds.around(&[at(99, 9), at(10, 1), at(10, 2)]), 2);
        assert_eq!(crowds.around(&[]), 0);
    }

    #[test]
    fn ipv6_counts_by_32_bits_and_mapped_addresses_as_ipv4() {
        let six: SocketAddr = "[2001:db8:1::1]:1".parse().unwrap();
        let same: SocketAddr = "[2001:db8:ffff::9]:2".parse().unwrap();
        let mapped: SocketAddr = "[::ffff:10.1.0.9]:2".parse().unwrap();
        let crowds = Crowds::of(&[six, at(10, 1)]);
        assert_eq!((crowds.at(&same), crowds.at(&mapped)), (1, 1));
    }

    proptest! {
        #[test]
        fn who_is_given_up_is_of_the_fullest_network(networks in prop::collection::vec(0u8..5, 1..40)) {
            let links: Vec<_> = (0..).zip(&networks).map(|(n, net)| (id(n), at(10, *net))).collect();
            let crowds = Crowds::of(links.iter().map(|(_, address)| address));
            let count = |net| networks.iter().filter(|n| **n == net).count();
            let most = networks.iter().map(|net| count(*net)).max();
            let fullest = crowds.fullest(&links);
            prop_assert!(!fullest.is_empty());
            for (peer, address) in links {
                let full = Some(crowds.at(&address)) == most;
                prop_assert_eq!(fullest.contains(&peer), full);
            }
        }
    }
}
