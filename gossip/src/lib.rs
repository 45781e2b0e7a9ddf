//! The mesh and its replicated state.
//!
//! This crate decides who is a neighbour of whom, keeps the signed records of
//! all peers equal on all peers, and derives routes and stations from them. It
//! knows no crypto (see [`Authority`]), no sockets and no clock: messages and
//! `now` come in, messages and [`Event`]s go out, so a whole mesh runs
//! reproducibly in one process.
//!
//! | module | what it holds |
//! |---|---|
//! | [`mesh`] | [`Mesh`]: composes all of the below |
//! | [`replica`], `order`, [`limits`], [`budget`] | the signed records of everybody, and what a record and an owner may hold |
//! | [`reconcile`] | finding and mending differences between two replicas |
//! | [`sums`] | what stands for many records, and which a neighbour can read |
//! | `news` | what was heard of late, for neighbours that get no pushes |
//! | [`topology`], [`routes`] | the graph of two-sided links, trees, and shortest paths over it |
//! | [`link`] | liveness of one neighbour |
//! | [`neighbours`], `absent`, [`dialer`] | whom to dial: of itself, and by the operator's order |
//! | [`space`] | the address space, shared out by the peers themselves |
//! | [`stations`], [`claims`] | MAC and IP addresses: ours, and everybody's |
//! | [`names`] | names: ours, and everybody's |

mod absent;
pub mod backoff;
pub mod bucket;
pub mod budget;
pub mod claims;
pub mod config;
pub mod dialer;
pub mod event;
mod hash;
pub mod limits;
pub mod link;
pub mod local;
pub mod mesh;
pub mod names;
pub mod neighbours;
mod networks;
mod news;
mod order;
mod outbox;
mod parts;
pub mod reconcile;
pub mod replica;
pub mod routes;
pub mod space;
pub mod stations;
pub mod sums;
pub mod target;
pub mod topology;

pub use claims::Claims;
pub use config::{Authority, Config, LocalPeer, Pace, SessionInfo};
pub use dialer::TargetState;
pub use event::{Counters, DialId, DialTarget, DownReason, Event, Warning};
pub use limits::Refusal;
pub use link::LinkState;
pub use mesh::{Mesh, NeighbourView, PeerView, Stranger};
pub use names::Directory;
pub use routes::{Hop, Routes};
pub use sums::Scope;
pub use target::Target;
