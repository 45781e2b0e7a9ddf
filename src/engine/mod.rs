//! The pure composition of gossip and crypto: it forwards frames, decides
//! paths, and knows no socket, no clock and no thread.
//!
//! | part | what it does |
//! |---|---|
//! | [`Router`] | the control machine: mesh, handshakes, paths; publishes snapshots |
//! | [`Snapshot`] | the immutable forwarding view that the data path reads |
//! | [`Egress`] | a container's frame to datagrams |
//! | [`Ingress`] | a datagram to a frame, a relay, or the control machine |
//! | [`Status`], [`Command`] | what operators see and ask |

pub mod command;
pub mod counters;
mod dedup;
mod egress;
mod fragment;
mod handshakes;
mod ingress;
mod keyring;
mod limiter;
mod mss;
mod neighbour;
mod output;
mod peers;
mod pmtu;
mod router;
mod seal;
pub mod snapshot;
pub mod status;
pub mod text;
mod timing;

pub use command::{Attachment, Command, Failure, Reply, TokenCommand};
pub use counters::DropReason;
pub use egress::Egress;
pub use ingress::Ingress;
pub use output::{Origin, Output, Upcall};
pub use router::{Config as RouterConfig, Event, Router, Transmit};
pub use snapshot::Snapshot;
pub use status::Status;
