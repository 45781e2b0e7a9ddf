//! Everybody this peer has heard of, and since when they are cut off.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use proto::{PeerId, PublicKeys, record::Node};
use rand::RngCore;

/// What a peer says about itself.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its node record.
    pub node: Node,
    /// Its keys.
    pub keys: PublicKeys,
}

/// The known peers, ourselves included.
#[derive(Clone, Debug, Default)]
pub struct Members {
    peers: BTreeMap<PeerId, Arc<Member>>,
    /// Owners of records that no route leads to, the unknown ones too.
    cut_off: BTreeMap<PeerId, Instant>,
}

/// What a node record changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A peer not known before.
    Appeared,
    /// A peer was launched again.
    Restarted,
    /// Something else, or nothing.
    Updated,
}

impl Members {
    /// Takes in a node record.
    pub fn update(&mut self, peer: PeerId, keys: PublicKeys, node: Node) -> Change {
        let instance = node.instance;
        match self.peers.insert(peer, Arc::new(Member { node, keys })) {
            None => Change::Appeared,
            Some(before) if before.node.instance != instance => Change::Restarted,
            Some(_) => Change::Updated,
        }
    }

    /// What is known of a peer.
    pub fn member(&self, peer: &PeerId) -> Option<&Arc<Member>> {
        self.peers.get(peer)
    }

    /// All of them, by id.
    pub fn iter(&self) -> impl Iterator<Item = (&PeerId, &Arc<Member>)> {
        self.peers.iter()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Whether nobody is known, not even ourselves.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// A random peer. Ids are hashes, so the one after a random id is nearly uniform.
    pub fn sample(&self, rng: &mut impl RngCore) -> Option<(&PeerId, &Arc<Member>)> {
        let mut id = [0; 16];
        rng.fill_bytes(&mut id);
        self.peers
            .range(PeerId(id)..)
            .next()
            .or_else(|| self.peers.first_key_value())
    }

    /// A random peer of those cut off, if its node record is known.
    pub fn sample_cut_off(&self, rng: &mut impl RngCore) -> Option<(&PeerId, &Arc<Member>)> {
        let mut id = [0; 16];
        rng.fill_bytes(&mut id);
        let (peer, _) = self
            .cut_off
            .range(PeerId(id)..)
            .next()
            .or_else(|| self.cut_off.first_key_value())?;
        self.peers.get_key_value(peer)
    }

    /// Marks a peer as cut off; keeps the earlier time if it is already.
    pub fn cut(&mut self, peer: PeerId, now: Instant) {
        self.cut_off.entry(peer).or_insert(now);
    }

    /// Marks a peer as reachable. Says whether it was cut off.
    pub fn joined(&mut self, peer: &PeerId) -> bool {
        self.cut_off.remove(peer).is_some()
    }

    /// Who is cut off, and since when.
    pub fn cut_off(&self) -> &BTreeMap<PeerId, Instant> {
        &self.cut_off
    }

    /// Forgets a peer.
    pub fn remove(&mut self, peer: &PeerId) -> Option<Arc<Member>> {
        self.cut_off.remove(peer);
        self.peers.remove(peer)
    }
}
