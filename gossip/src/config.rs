//! What the engine tells the mesh at the start. Plain values; no parsing here.

use std::{net::SocketAddr, time::Duration};

use proto::{PeerId, PublicKeys};

use crate::{event::DialId, sums::Scope};

/// Signs and verifies records, so that this crate needs no crypto.
pub trait Authority {
    /// The signature of the local peer over `bytes`.
    fn sign(&self, bytes: &[u8]) -> [u8; 64];

    /// Whether `owner` is the hash of `keys`, and the signature is theirs.
    fn verify(&self, owner: PeerId, keys: &PublicKeys, bytes: &[u8], signature: &[u8; 64]) -> bool;
}

/// How the mesh behaves. The defaults suit up to ten thousand peers.
#[derive(Clone, Debug)]
pub struct Config {
    /// Whether peers that were not named as targets are dialled.
    pub discovery: bool,
    /// Links of any kind, hard limit. 1..=320 (what the links records can hold).
    pub link_limit: usize,
    /// Up to this many peers everybody is everybody's neighbour. Keep at or below 2 * degree.
    pub full_mesh_up_to: usize,
    /// Links sought in a larger mesh; up to twice as many are accepted.
    pub degree: usize,
    /// In a very large mesh no more links are sought than make this many ends
    /// of links in all, for every change of one goes to everybody...
    pub link_ends: usize,
    /// ...but at least so many.
    pub degree_min: usize,
    /// Between pings on a link that is well.
    pub heartbeat: Duration,
    /// Between pings on a link that is being set up; twice as often if it is suspect.
    pub urgent: Duration,
    /// A link silent for so long is down.
    pub dead_after: Duration,
    /// First pause after a failed dial.
    pub backoff_min: Duration,
    /// Longest pause after failed dials.
    pub backoff_max: Duration,
    /// Longest pause for discovered peers while the mesh is small.
    pub backoff_small: Duration,
    /// A dial without result is given up after this.
    pub dial_timeout: Duration,
    /// Between attempts to reach one of the peers that are cut off (heals partitions); jittered.
    pub explore: Duration,
    /// A learnt station that is silent for so long is forgotten.
    pub station_age: Duration,
    /// A peer unreachable for so long is forgotten, with its records.
    pub peer_age: Duration,
    /// New records wait so long for others going to the same neighbour.
    pub push_delay: Duration,
    /// While much happens, news wait so long instead, and share datagrams.
    pub batch_delay: Duration,
    /// How news spread and links are pruned.
    pub pace: Pace,
    /// The same in a large mesh, where something happens always.
    pub pace_large: Pace,
    /// A mesh of so many peers is large.
    pub large_from: usize,
    /// Changes of links wait so long before they are published.
    pub links_delay: Duration,
    /// New links are published no more often than this, but for a few: a peer that
    /// joins gains several, and every record goes to everybody. Lost links do not wait.
    pub links_spacing: Duration,
    /// Datagrams to all neighbours together per `push_delay`.
    pub burst: usize,
    /// Copies of news, in bytes per second, that are borne before links are
    /// pruned down to three that bring news.
    pub spare: u32,
    /// A pruned link gets news again after this; jittered. At most 160 s.
    pub prune_for: Duration,
    /// Records of one owner accepted in a row.
    pub owner_burst: u16,
    /// Records of one owner accepted per second thereafter.
    pub owner_rate: u16,
    /// Peers of whom records are kept.
    pub owner_limit: usize,
    /// A MAC or IP address is claimed anew from another peer no more often than this.
    pub reclaim_after: Duration,
    /// Once an identity is known to be cloned, our records jump over the other's after pauses that grow to this.
    pub jump_pause: Duration,
}

/// What a mesh spends so that news come soon.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// News in bytes, at once and per second, that spend a store of which the upper
    /// half goes over pruned links, too: while little happens, what happens is known
    /// soonest.
    pub calm: (u32, u32),
    /// Links that bring news, at least, however dear the copies are.
    pub fewest: u8,
    /// Copies of news, in bytes per second, that are borne before links are
    /// pruned down to `fewest`.
    pub spare: u32,
    /// A link that was pruned for that gets news again after this; jittered. At most 160 s.
    pub prune_for: Duration,
    /// News that come over other links are named and asked for after this: once
    /// pushes that take a longer way have had their time.
    pub ripe: Duration,
    /// A peer that lacks news asks for pushes again only if it lacked most of two
    /// beats in a row, for over the many hops of a large mesh some are lost always.
    pub patient: bool,
    /// Between rounds of anti-entropy for their own sake; jittered by half of it.
    /// Beats start others as soon as two neighbours differ for good.
    pub anti_entropy: Duration,
    /// The loss of a link that fell silent is published after this.
    pub loss_delay: Duration,
}

impl Pace {
    /// Of a mesh in which mostly little happens.
    pub const USUAL: Self = Self {
        calm: (1024, 64),
        fewest: 2,
        spare: 200,
        prune_for: Duration::from_secs(100),
        ripe: Duration::from_secs(1),
        patient: false,
        anti_entropy: Duration::from_secs(15),
        loss_delay: Duration::from_millis(20),
    };

    /// Of a mesh in which something happens always: copies are most of what it
    /// costs, rounds always find something that is on its way, and the link that
    /// takes the place of a lost one is told of together with the loss.
    pub const LARGE: Self = Self {
        calm: (4096, 128),
        fewest: 1,
        spare: 50,
        prune_for: Duration::from_secs(40),
        ripe: Duration::from_secs(2),
        patient: true,
        anti_entropy: Duration::from_secs(90),
        loss_delay: Duration::from_millis(500),
    };
}

impl Default for Config {
    fn default() -> Self {
        Self {
            discovery: true,
            link_limit: 200,
            full_mesh_up_to: 16,
            degree: 6,
            link_ends: 16_000,
            degree_min: 4,
            heartbeat: Duration::from_secs(1),
            urgent: Duration::from_millis(200),
            dead_after: Duration::from_secs(2),
            backoff_min: Duration::from_secs(1),
            backoff_max: Duration::from_secs(60),
            backoff_small: Duration::from_secs(3),
            dial_timeout: Duration::from_secs(15),
            explore: Duration::from_secs(4),
            station_age: Duration::from_secs(600),
            peer_age: Duration::from_secs(600),
            push_delay: Duration::from_millis(10),
            batch_delay: Duration::from_millis(100),
            pace: Pace::USUAL,
            pace_large: Pace::LARGE,
            large_from: 3000,
            links_delay: Duration::from_millis(20),
            links_spacing: Duration::from_secs(1),
            burst: 64,
            spare: 32,
            prune_for: Duration::from_secs(60),
            owner_burst: 300,
            owner_rate: 20,
            owner_limit: 20_000,
            reclaim_after: Duration::from_secs(1),
            jump_pause: Duration::from_secs(60),
        }
    }
}

impl Config {
    /// Whether everybody is to be a neighbour, with so many others in reach and
    /// so many peers known. Many may be known before there are ways to them.
    pub(crate) fn is_small(&self, others: usize, known: usize) -> bool {
        others < self.full_mesh_up_to && known <= 4 * self.full_mesh_up_to
    }

    /// How many links to have, with so many others in reach.
    pub fn degree_of(&self, others: usize) -> usize {
        let share = self.link_ends / others.max(1);
        share.clamp(self.degree_min.min(self.degree), self.degree)
    }
}

/// What the local peer says about itself.
#[derive(Clone, Debug)]
pub struct LocalPeer {
    /// The hash of `keys`.
    pub id: PeerId,
    /// Published with every record.
    pub keys: PublicKeys,
    /// Higher than at the launch before.
    pub epoch: u64,
    /// Random per launch.
    pub instance: u64,
    /// For people. Cut to 64 bytes.
    pub nickname: String,
    /// The version of wove. Cut to 32 bytes.
    pub version: String,
    /// Where the peer can be dialled. Cut to 16.
    pub endpoints: Vec<SocketAddr>,
    /// Bits for what it can do.
    pub capabilities: u64,
}

/// How a direct session came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// The other end, as seen from here.
    pub address: SocketAddr,
    /// Whether we dialled.
    pub outbound: bool,
    /// The dial that led to it, if one did.
    pub dial: Option<DialId>,
    /// What the other end can read.
    pub scope: Scope,
    /// Added to the round-trip time that a link over it is published with, so
    /// that it is taken only where there is no other way.
    pub handicap: Duration,
}
