//! The directory of names as an immutable value: read by the resolver's thread
//! without a lock, and made anew in those parts that changed.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use gossip::{Directory, names::Changed};

/// Parts; a change copies one of them.
const SHARDS: usize = 64;

/// Names and their addresses, and addresses and their names.
#[derive(Clone, Debug)]
pub struct NameMap {
    names: Box<[Arc<Names>]>,
    addresses: Box<[Arc<Addresses>]>,
}

type Names = HashMap<Arc<str>, Arc<[IpAddr]>>;
type Addresses = HashMap<IpAddr, Arc<[Arc<str>]>>;

impl NameMap {
    /// The addresses of a name; none at all if there is neither such a name nor
    /// one below it.
    pub fn lookup(&self, name: &str) -> Option<&[IpAddr]> {
        let shard = &self.names[shard_of(name.as_bytes())];
        shard.get(name).map(|addresses| &**addresses)
    }

    /// The names of an address.
    pub fn names_of(&self, address: &IpAddr) -> &[Arc<str>] {
        let shard = &self.addresses[shard_of_address(address)];
        shard.get(address).map_or(&[], |names| &**names)
    }

    /// Brings it in line with a directory in which this has changed.
    pub fn update(&mut self, directory: &Directory, changed: &Changed) {
        for name in &changed.names {
            let shard = Arc::make_mut(&mut self.names[shard_of(name.as_bytes())]);
            match directory.lookup(name) {
                Some(addresses) => drop(shard.insert(Arc::clone(name), addresses.into())),
                None => drop(shard.remove(name)),
            }
        }
        for address in &changed.addresses {
            let shard = Arc::make_mut(&mut self.addresses[shard_of_address(address)]);
            let names: Arc<[Arc<str>]> = directory.names_of(address).cloned().collect();
            match names.is_empty() {
                true => drop(shard.remove(address)),
                false => drop(shard.insert(*address, names)),
            }
        }
    }
}

impl Default for NameMap {
    fn default() -> Self {
        Self {
            names: vec![Arc::default(); SHARDS].into(),
            addresses: vec![Arc::default(); SHARDS].into(),
        }
    }
}

fn shard_of_address(address: &IpAddr) -> usize {
    match address {
        IpAddr::V4(address) => shard_of(&address.octets()),
        IpAddr::V6(address) => shard_of(&address.octets()),
    }
}

/// By FNV-1a.
fn shard_of(bytes: &[u8]) -> usize {
    let hash = bytes.iter().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    });
    (hash >> 8) as usize % SHARDS
}
