//! A stand-in for the kernel's XFRM on one host: keys, policies, and what
//! passes. It outlives its peer, as the kernel does.

#![allow(clippy::unwrap_used, reason = "test code outside of test functions")]

use std::{collections::BTreeMap, net::IpAddr};

use wove::engine::{
    EspOrder, EspOutcome, EspStep,
    esp::{Direction, EspKey},
};

type Key = [u8; EspKey::LEN];

/// What is between the ends: in clear, or under an index and a key.
pub type Cover = Option<(u32, Key)>;

/// XFRM of one host.
#[derive(Debug, Default)]
pub struct Kernel {
    /// By the peer's address: the index that packets to it go under.
    policies: BTreeMap<IpAddr, Option<u32>>,
    keys: BTreeMap<(Direction, IpAddr, u32), Key>,
    /// Every key that was ever sent under: none may come twice.
    used: Vec<(u32, Key)>,
    /// For which fast path.
    paths: BTreeMap<IpAddr, u32>,
}

impl Kernel {
    /// What the shell does with an order.
    pub fn carry_out(&mut self, order: &EspOrder) -> Option<EspOutcome> {
        let EspOrder { address, index, .. } = *order;
        match &order.step {
            EspStep::Guard => {
                self.policies.insert(address, None);
                self.paths.insert(address, index);
                None
            }
            &EspStep::Install {
                direction,
                spi,
                ref key,
            } => {
                assert!(
                    self.policies.contains_key(&address),
                    "a key before policies"
                );
                let key = *key.as_bytes();
                if direction == Direction::Out {
                    assert!(!self.used.contains(&(spi, key)), "a key comes twice");
                    self.used.push((spi, key));
                }
                self.keys.insert((direction, address, spi), key);
                Some(EspOutcome::Installed { direction, spi })
            }
            &EspStep::Direct { spi } => {
                self.policies.insert(address, Some(spi));
                Some(EspOutcome::Directed { spi })
            }
            EspStep::Block => {
                self.policies.insert(address, None);
                None
            }
            &EspStep::Remove { direction, spi } => {
                self.keys.remove(&(direction, address, spi));
                None
            }
            EspStep::Unguard => {
                self.policies.remove(&address);
                self.paths.remove(&address);
                None
            }
        }
    }

    /// A new launch: what an earlier one left goes.
    pub fn clear(&mut self) {
        self.policies.clear();
        self.keys.clear();
        self.paths.clear();
    }

    /// Somebody removes all keys; what the shell tells the router of it.
    pub fn flush(&mut self) -> Vec<(u32, EspOutcome)> {
        let lost = std::mem::take(&mut self.keys);
        let path = |address: &IpAddr| self.paths.get(address).copied();
        lost.keys()
            .filter_map(|&(direction, address, spi)| {
                let why = "flushed".to_owned();
                let outcome = EspOutcome::Failed {
                    direction,
                    spi,
                    why,
                };
                Some((path(&address)?, outcome))
            })
            .collect()
    }

    /// How a packet for a peer leaves; an error if it does not.
    pub fn cover(&self, to: IpAddr) -> Result<Cover, ()> {
        match self.policies.get(&to) {
            None => Ok(None),
            Some(None) => Err(()),
            Some(Some(spi)) => {
                let key = self.keys.get(&(Direction::Out, to, *spi)).ok_or(())?;
                Ok(Some((*spi, *key)))
            }
        }
    }

    /// Whether a packet of a peer is let in.
    pub fn opens(&self, from: IpAddr, cover: Cover) -> bool {
        match cover {
            None => !self.policies.contains_key(&from),
            Some((spi, key)) => self.keys.get(&(Direction::In, from, spi)) == Some(&key),
        }
    }

    /// Keys and policies that it has.
    pub fn len(&self) -> (usize, usize) {
        (self.keys.len(), self.policies.len())
    }
}
