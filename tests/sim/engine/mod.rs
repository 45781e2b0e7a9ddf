//! Whole peers in virtual time: router, data path and containers of each host,
//! with real sessions and without sockets.
//!
//! | part | what it does |
//! |---|---|
//! | [`World`] | the hosts, the clock, the queue of what happens next |
//! | `story` | what a test tells the world to do |
//! | [`node`] | one host: its peer and its containers |
//! | [`kernel`] | a stand-in for its kernel's XFRM |
//! | [`underlay`] | the network between hosts |
//! | [`frames`] | what containers send |
//! | [`ledger`] | which frames were sent, and where they arrived |
//! | `verdict` | what must hold |
//! | [`watch`] | fails a run in which something was logged as an error |
//!
//! A greeting names the ciphers of the CPU it runs on, so a trace is the same
//! on every machine of one kind, not on all machines.

pub mod frames;
pub mod kernel;
pub mod ledger;
pub mod node;
mod story;
pub mod underlay;
mod verdict;
pub mod watch;
pub mod world;

pub use world::World;

use std::time::Duration;

/// So many seconds.
pub fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// So many milliseconds.
pub fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}
