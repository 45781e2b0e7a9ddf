//! Names: which are this peer's, and everybody's merged into one directory.
//!
//! A name stands for the addresses that all reachable owners give it together.
//! What an owner said in an earlier launch counts no more once it has been
//! launched anew: its containers may be gone, and it will say which are not.
//! A change costs in proportion to what its owner says. Knows no domain and no DNS.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use proto::{
    PeerId,
    record::{MAX_BODY, Name, Names},
};

use crate::{
    limits::{NAME_PARTS, NAMES_PER_PEER, is_name},
    parts::Parts,
};

/// Bytes of a record that one pair takes at most, besides the name: its length,
/// the number of addresses, and an IPv6 address with its tag.
const PAIR: usize = 2 + 1 + 17;

/// A name as records have it, from what people type: in lower case, and without
/// a dot at the end. None if it cannot be a name.
pub fn canonical(text: &str) -> Option<String> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let name = text.to_ascii_lowercase();
    is_name(&name).then_some(name)
}

/// The names of this peer.
#[derive(Clone, Debug)]
pub struct LocalNames {
    parts: Parts<Pair>,
}

impl LocalNames {
    /// None yet.
    pub fn new() -> Self {
        Self {
            parts: Parts::new(MAX_BODY - 4, usize::from(NAME_PARTS)),
        }
    }

    /// Makes these the names. False if there is no room for all of them; what is
    /// not a name is left out.
    pub fn set(&mut self, names: impl IntoIterator<Item = (String, IpAddr)>) -> bool {
        let wanted: Pairs = names
            .into_iter()
            .filter(|(name, _)| is_name(name))
            .map(|(name, address)| (name.into(), address.to_canonical()))
            .collect();
        let gone: Vec<_> = self
            .parts
            .keys()
            .filter(|pair| !wanted.contains(pair))
            .cloned()
            .collect();
        for pair in &gone {
            self.parts.remove(pair);
        }
        let known: Pairs = self.parts.keys().cloned().collect();
        let room = NAMES_PER_PEER.saturating_sub(known.len());
        let fresh: Vec<_> = wanted.difference(&known).cloned().collect();
        let mut fits = fresh.len() <= room;
        for pair in fresh.into_iter().take(room) {
            let size = PAIR + pair.0.len();
            fits &= self.parts.put(pair, size);
        }
        fits
    }

    /// Whether there is something to take.
    pub fn has_changed(&self) -> bool {
        self.parts.is_dirty()
    }

    /// The parts that have changed since they were last taken.
    pub fn take_changed(&mut self) -> Vec<(u16, Names)> {
        self.parts.take_changed(names_of)
    }

    /// Everything must be published again.
    pub fn touch_all(&mut self) {
        self.parts.touch_all(0);
    }
}

/// One part as it now is.
fn names_of(parts: &Parts<Pair>, part: usize) -> Names {
    let mut names: Vec<Name> = Vec::new();
    for (name, address) in parts.items(part) {
        match names.last_mut().filter(|last| *last.name == **name) {
            Some(last) => last.addresses.push(*address),
            None => names.push(Name {
                name: name.to_string(),
                addresses: vec![*address],
            }),
        }
    }
    Names { names }
}

impl Default for LocalNames {
    fn default() -> Self {
        Self::new()
    }
}

/// What may be answered differently than before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// These names, those above them included.
    pub names: BTreeSet<Arc<str>>,
    /// The names of these addresses.
    pub addresses: BTreeSet<IpAddr>,
}

/// Everybody's names.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    owners: BTreeMap<PeerId, Owner>,
    /// By name, of owners that can be reached.
    names: BTreeMap<Arc<str>, Entry>,
    /// Backwards, likewise.
    addresses: BTreeMap<IpAddr, BTreeMap<Arc<str>, usize>>,
    changed: Changed,
    /// Somebody was told that there is something to take.
    told: bool,
}

/// What decides whether a peer's names count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Whether it can be reached.
    pub(crate) reachable: bool,
    /// The launch that its node record speaks of.
    pub(crate) launch: u64,
}

#[derive(Clone, Debug)]
struct Owner {
    standing: Standing,
    parts: BTreeMap<u16, Part>,
}

#[derive(Clone, Debug, Default)]
struct Part {
    epoch: u64,
    pairs: Pairs,
}

type Pair = (Arc<str>, IpAddr);
type Pairs = BTreeSet<Pair>;

#[derive(Clone, Debug, Default)]
struct Entry {
    /// Who gives it which address.
    given: BTreeSet<(IpAddr, PeerId)>,
    /// How many names there are below it.
    below: usize,
}

impl Directory {
    /// The addresses of a name, without those that a name below has; none if
    /// there is neither such a name nor one below it.
    pub fn lookup(&self, name: &str) -> Option<Vec<IpAddr>> {
        let mut addresses: Vec<IpAddr> = self
            .names
            .get(name)?
            .given
            .iter()
            .map(|(a, _)| *a)
            .collect();
        addresses.dedup();
        Some(addresses)
    }

    /// The names of an address, in order.
    pub fn names_of(&self, address: &IpAddr) -> impl Iterator<Item = &Arc<str>> {
        self.addresses
            .get(address)
            .into_iter()
            .flat_map(BTreeMap::keys)
    }

    /// Every name with its addresses and who gives it each.
    pub fn iter(&self) -> impl Iterator<Item = (&str, IpAddr, PeerId)> {
        self.names.iter().flat_map(|(name, entry)| {
            let given = entry.given.iter();
            given.map(move |(address, owner)| (&**name, *address, *owner))
        })
    }

    /// One in which a single owner, who can be reached, gives these names; with all of
    /// them as changed. For tests and benchmarks of what reads it.
    pub fn sample<'a>(pairs: impl IntoIterator<Item = (&'a str, IpAddr)>) -> (Self, Changed) {
        let mut directory = Self::default();
        for (name, address) in pairs {
            directory.give(PeerId::default(), &(name.into(), address));
        }
        let changed = directory.take_changed();
        (directory, changed)
    }

    /// Whether [`Directory::take_changed`] has something; once for each time.
    pub(crate) fn has_changed(&mut self) -> bool {
        !self.changed.names.is_empty() && !std::mem::replace(&mut self.told, true)
    }

    /// What changed since the last call.
    pub(crate) fn take_changed(&mut self) -> Changed {
        self.told = false;
        std::mem::take(&mut self.changed)
    }

    /// Takes in one part of a peer's names, said in the launch `epoch`.
    pub(crate) fn report(
        &mut self,
        peer: PeerId,
        part: u16,
        (epoch, names): (u64, &[Name]),
        standing: Standing,
    ) {
        let owner = self.owners.entry(peer).or_insert(Owner {
            standing,
            parts: BTreeMap::new(),
        });
        let others = owner.parts.iter().filter(|(number, _)| **number != part);
        let others: usize = others.map(|(_, part)| part.pairs.len()).sum();
        let pairs = names.iter().flat_map(|name| {
            let text: Arc<str> = name.name.as_str().into();
            let addresses = name.addresses.iter();
            addresses.map(move |address| (Arc::clone(&text), address.to_canonical()))
        });
        let pairs = pairs.take(NAMES_PER_PEER.saturating_sub(others)).collect();
        self.change(peer, |owner| {
            owner.standing = standing;
            owner.parts.insert(part, Part { epoch, pairs });
            owner.parts.retain(|_, part| !part.pairs.is_empty());
        });
        if self.owners[&peer].parts.is_empty() {
            self.owners.remove(&peer);
        }
    }

    /// A peer's node record is of this launch: what it said before counts no more.
    pub(crate) fn relaunched(&mut self, peer: PeerId, epoch: u64) {
        self.change(peer, |owner| owner.standing.launch = epoch);
    }

    /// A peer can be reached now, or no longer.
    pub(crate) fn reach_changed(&mut self, peer: &PeerId, reachable: bool) {
        self.change(*peer, |owner| owner.standing.reachable = reachable);
    }

    /// Forgets a peer's names.
    pub(crate) fn remove(&mut self, peer: &PeerId) {
        self.change(*peer, |owner| owner.standing.reachable = false);
        self.owners.remove(peer);
    }

    fn change(&mut self, peer: PeerId, change: impl FnOnce(&mut Owner)) {
        let Some(owner) = self.owners.get_mut(&peer) else {
            return;
        };
        let before = owner.all();
        change(owner);
        let after = owner.all();
        for pair in before.difference(&after) {
            self.withdraw(peer, pair);
        }
        for pair in after.difference(&before) {
            self.give(peer, pair);
        }
    }

    fn give(&mut self, peer: PeerId, (name, address): &(Arc<str>, IpAddr)) {
        let entry = self.names.entry(Arc::clone(name)).or_default();
        let is_new = entry.given.is_empty();
        if !entry.given.insert((*address, peer)) {
            return;
        }
        let names = self.addresses.entry(*address).or_default();
        *names.entry(Arc::clone(name)).or_default() += 1;
        self.note(name, *address);
        if is_new {
            for above in ancestors(name) {
                self.names.entry(above.into()).or_default().below += 1;
                self.changed.names.insert(above.into());
            }
        }
    }

    fn withdraw(&mut self, peer: PeerId, (name, address): &(Arc<str>, IpAddr)) {
        let Some(entry) = self.names.get_mut(name) else {
            return;
        };
        if !entry.given.remove(&(*address, peer)) {
            return;
        }
        let is_gone = entry.given.is_empty();
        if is_gone && entry.below == 0 {
            self.names.remove(name);
        }
        if let Some(names) = self.addresses.get_mut(address) {
            if let Some(count) = names.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    names.remove(name);
                }
            }
            if names.is_empty() {
                self.addresses.remove(address);
            }
        }
        self.note(name, *address);
        if is_gone {
            for above in ancestors(name) {
                if let Some(entry) = self.names.get_mut(above) {
                    entry.below -= 1;
                    if entry.below == 0 && entry.given.is_empty() {
                        self.names.remove(above);
                    }
                }
                self.changed.names.insert(above.into());
            }
        }
    }

    fn note(&mut self, name: &Arc<str>, address: IpAddr) {
        self.changed.names.insert(Arc::clone(name));
        self.changed.addresses.insert(address);
    }
}

impl Owner {
    /// What counts of it. A pair that is in two parts counts once.
    fn all(&self) -> Pairs {
        let parts = self
            .parts
            .values()
            .filter(|part| part.epoch >= self.standing.launch);
        parts
            .filter(|_| self.standing.reachable)
            .flat_map(|part| part.pairs.iter().cloned())
            .collect()
    }
}

/// The names above a name: `b.c` and `c` of `a.b.c`.
fn ancestors(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('.').map(|(dot, _)| &name[dot + 1..])
}

#[cfg(test)]
mod tests;
