//! What peers say about the address space: who owns which part of it, what a
//! peer knows of the others' parts, and votes (the argument is in
//! `wove-gossip`, module `space`).
//!
//! Addresses are offsets from the base of the range, so that they are small on
//! the wire. Peers are named by the starts of their ids.

use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};

use crate::peer::ShortId;

/// The bit of a node record's capabilities: the peer takes part in the address
/// space, and understands the records about it.
pub const CAN_SPACE: u64 = 1 << 4;

/// Longest prefix of a range: four addresses, of which two can be given out.
pub const RANGE_PREFIX_MAX: u8 = 30;
/// Shortest prefix of a range.
pub const RANGE_PREFIX_MIN: u8 = 8;
/// Guards of one owner, and former guards.
pub const GUARDS: usize = 7;
/// Blocks of one owner.
pub const BLOCKS: usize = 24;
/// Gifts of one owner that were not taken up yet.
pub const GIFTS: usize = 8;
/// Takeovers that one heir tells of.
pub const TAKEN: usize = 8;
/// Takeovers that an owner reminds its heirs of.
pub const LOST: usize = 3;
/// Addresses in use outside their user's blocks, that one peer tells of.
pub const CLAIMS: usize = 16;
/// Owners that one peer guards.
pub const WARDS: usize = 28;
/// Votes that one peer takes part in at once.
pub const VOTES: usize = 6;
/// Peers that one peer knows to be gone, by its operator's word.
pub const GONE: usize = 12;
/// Peers among which a range is first divided.
pub const FOUNDERS: usize = 48;
/// Peers that one peer ever met, as far as it says.
pub const ROLL: usize = 24;
/// Runs that a census is about.
pub const CENSUS: usize = 8;
/// Runs that were counted once, the latest, as far as one peer says.
pub const COUNTED: usize = 24;
/// The highest epoch of a block, and the highest life, that are believed.
pub const EPOCH_MAX: u32 = 1 << 30;

/// One division of one range. Two meshes that were formed apart have two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ring {
    /// Random, chosen with the division.
    pub id: u64,
    /// The range's first IPv4 address.
    pub base: u32,
    /// Its prefix length.
    pub prefix: u8,
}

/// A range of IPv6 addresses beside the IPv4 one: what an offset stands for in
/// one it stands for in both, so whoever owns the one address owns the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Range6 {
    /// The range's first address.
    pub base: Ipv6Addr,
    /// Its prefix length; there may be more addresses than offsets.
    pub prefix: u8,
}

impl Range6 {
    /// The address at an offset.
    pub fn address(&self, at: u32) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.base.to_bits().wrapping_add(at.into()))
    }

    /// The offset of an address; none below the range, or far above it.
    pub fn offset(&self, address: Ipv6Addr) -> Option<u32> {
        let at = address.to_bits().checked_sub(self.base.to_bits())?;
        u32::try_from(at).ok()
    }
}

/// What a peer owns, signed by it alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// Of which ring it speaks.
    pub ring: Ring,
    /// Rises with every vote about the owner that was decided.
    pub life: u32,
    /// Rises with every change within a life.
    pub serial: u64,
    /// Who keeps this record in mind and decides should the owner be dead.
    pub guards: Vec<ShortId>,
    /// Guards that are being replaced; until none is left, both sets decide.
    pub former: Vec<ShortId>,
    /// What it owns: ascending and disjoint.
    pub blocks: Vec<Block>,
    /// What it gave away.
    pub gifts: Vec<Gift>,
    /// Whose space it took over.
    pub taken: Vec<Taken>,
    /// Takeovers of its own space that the heir has not told of yet.
    pub lost: Vec<Lost>,
    /// Addresses that are in use here although the peer does not own them.
    pub claims: Vec<u32>,
    /// What it asks for.
    pub ask: Option<Ask>,
    /// Its IPv6 range, so that others see should theirs be another.
    pub range6: Option<Range6>,
    /// It leaves for good and gives everything back: nobody is to give it more.
    pub leaving: bool,
}

impl Space {
    /// Whether a peer is a guard, or a former one.
    pub fn is_guard(&self, peer: ShortId) -> bool {
        self.guards.contains(&peer) || self.former.contains(&peer)
    }
}

/// A part of the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Block {
    /// Offset of its first address.
    pub start: u32,
    /// How many addresses.
    pub len: u32,
    /// Rises when it changes hands.
    pub epoch: u32,
    /// The owner may use all of it without asking; the rest can be taken over
    /// when the owner has been silent for long.
    pub held: bool,
}

/// A part of the range on its way to another peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gift {
    /// Offset of its first address.
    pub start: u32,
    /// How many addresses.
    pub len: u32,
    /// Its epoch in the new hands.
    pub epoch: u32,
    /// Whose it becomes.
    pub to: ShortId,
    /// The giver's serial when it was given: once enough guards know that, it counts.
    pub since: u64,
}

/// A takeover that was decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// Whose space.
    pub peer: ShortId,
    /// In which of its lives.
    pub life: u32,
    /// As its record with this serial had it.
    pub serial: u64,
    /// All of it, by an operator's word; else what it did not hold.
    pub gone: bool,
    /// What that was: offset and length. The rest is its former owner's again.
    pub runs: Vec<(u32, u32)>,
}

/// A takeover, as the one that lost by it knows: the heir may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// The life that it ended.
    pub life: u32,
    /// Who took over, and what.
    pub began: Began,
}

/// A wish for space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Who is asked.
    pub donor: ShortId,
    /// The part of the range from which it should be: offset...
    pub start: u32,
    /// ...and length; one address alone if it is 1.
    pub len: u32,
}

/// What a peer knows of those it guards, and its votes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    /// Which records it keeps in mind.
    pub acks: Vec<Ack>,
    /// Votes under way.
    pub votes: Vec<Vote>,
    /// Peers that are gone, by an operator's word.
    pub gone: Vec<ShortId>,
    /// What all agreed once, with it, that nobody owns: who had some of that has it no more.
    #[serde(default)]
    pub counted: Vec<Counted>,
}

/// A run of which all who were left agreed once that nobody owned it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// Offset of its first address.
    pub start: u32,
    /// How many addresses.
    pub len: u32,
    /// The epoch in the new hands.
    pub epoch: u32,
}

/// "I keep this record in mind."
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// Whose record.
    pub ward: ShortId,
    /// The start of the ward's instance: which launch of it was heard of.
    pub instance: u32,
    /// The record's life.
    pub life: u32,
    /// The record's serial.
    pub serial: u64,
    /// The takeover with which this life began, if it was one.
    pub began: Option<Began>,
}

/// A takeover, as the guards remember it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Began {
    /// As the owner's record with this serial had it.
    pub serial: u64,
    /// Who took over.
    pub heir: ShortId,
    /// Everything; else what the owner did not hold.
    pub gone: bool,
}

/// The number of an attempt to decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Ballot {
    /// Higher ones win.
    pub round: u32,
    /// Whose attempt.
    pub proposer: ShortId,
}

/// One peer's part in a vote about the space of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// Whose space.
    pub ward: ShortId,
    /// In which of its lives.
    pub life: u32,
    /// No lower ballot is accepted any more.
    pub promised: Ballot,
    /// What was accepted last.
    pub accepted: Option<(Ballot, Verdict)>,
}

/// What can be decided about a peer's space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// The peer lives: nothing changes.
    Lives,
    /// Another takes it over.
    Inherits {
        /// As the owner's record with this serial has it.
        serial: u64,
        /// Who.
        heir: ShortId,
        /// Why.
        cause: Cause,
    },
}

/// Why space is taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// The owner has been silent for long: what it holds stays its own.
    Silent,
    /// An operator says that it is gone: everything is taken.
    Gone,
    /// An operator wants it although the owner may live: as for silence.
    Forced,
}

/// One peer's part in the division of the range: at first, and of what was lost later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Division {
    /// The range's first IPv4 address.
    pub base: u32,
    /// Its prefix length.
    pub prefix: u8,
    /// No lower ballot is accepted any more.
    pub promised: Ballot,
    /// What was accepted last.
    pub accepted: Option<(Ballot, Founding)>,
    /// That was decided; said also by those who had no part in it.
    pub decided: bool,
    /// Whom it ever met or heard of; one more than [`ROLL`] are too many to say.
    pub roll: Vec<ShortId>,
    /// Whom it asks to confirm its launch.
    pub call: Option<Call>,
    /// The census it agrees with, or proposes.
    pub census: Option<Census>,
    /// The latest census that it proposed, by its id; 0 if none.
    #[serde(default)]
    pub begun: u64,
    /// The latest of its own that it carried out; what it proposed and neither carried out
    /// nor proposes any more, it gave up.
    #[serde(default)]
    pub done: u64,
}

/// A peer was launched, and asks those who keep its record in mind what they know.
/// They may not have heard that they are its guards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// The ring's id.
    pub ring: u64,
    /// In which life it thinks it is.
    pub life: u32,
    /// Its guards, former ones included.
    pub guards: Vec<ShortId>,
}

/// "Nobody who is left owns this, so it becomes mine": it does once all who are
/// left agree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Census {
    /// The ring's id.
    pub ring: u64,
    /// Who proposes it.
    pub proposer: ShortId,
    /// Rises with every census of its proposer.
    pub id: u64,
    /// The epoch in the new hands.
    pub epoch: u32,
    /// What it is about: offset and length.
    pub runs: Vec<(u32, u32)>,
}

/// How the range is first divided: evenly, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founding {
    /// Names the ring.
    pub id: u64,
    /// How many must agree.
    pub quorum: u16,
    /// Who gets a share, strictly ascending.
    pub founders: Vec<ShortId>,
}
