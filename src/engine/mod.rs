//! The pure composition of gossip and crypto: it forwards frames, decides
//! paths, and knows no socket, no clock and no thread.
//!
//! | part | what it does |
//! |---|---|
//! | [`Router`] | the control machine: mesh, handshakes, paths; publishes snapshots |
//! | [`Snapshot`] | the immutable forwarding view that the data path reads |
//! | [`Egress`] | a container's frame to datagrams |
//! | [`Ingress`] | a datagram to a frame, a relay, or the control machine |
//! | [`dns`] | what is asked for a name |
//! | [`Status`], [`Command`] | what operators see and ask |

pub mod coalesce;
pub mod command;
pub mod counters;
pub mod dedup;
pub mod dns;
pub mod egress;
pub mod esp;
pub mod fastdp;
pub mod fragment;
pub mod handshakes;
pub mod ingress;
pub mod keyring;
pub mod layers;
pub mod limiter;
pub mod mss;
pub mod neighbour;
pub mod observed;
#[cfg(test)]
mod offload_testing;
pub mod output;
pub mod peers;
pub mod pmtu;
pub mod ranges;
pub mod router;
pub mod scout;
pub mod seal;
pub mod segment;
pub mod sender;
pub mod snapshot;
pub mod standing;
pub mod status;
pub mod text;
pub mod timing;
pub mod warnings;

pub use coalesce::Coalescer;
pub use command::{
    Attachment, Command, DnsCommand, Failure, Naming, Reply, TakenOver, TokenCommand,
};
pub use counters::DropReason;
pub use egress::Egress;
pub use ingress::Ingress;
pub use output::{Effects, Origin, Output, Upcall};
pub use ranges::{Ranges, Wanted};
pub use router::{
    CAPABILITIES, Config as RouterConfig, EspOrder, EspOutcome, EspStep, Event, FastSetup, Router,
    SpaceSetup, Transmit, Tunnelled,
};
pub use snapshot::Snapshot;
pub use status::Status;
