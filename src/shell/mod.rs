//! The only place that does I/O: sockets, devices, files, threads and clocks
//! around the pure [`engine`](crate::engine).

pub mod api;
pub mod barrier;
pub mod config;
pub mod daemon;
mod dataplane;
pub mod demo;
mod dns;
mod esp;
mod etc;
mod fastdp;
pub mod host;
pub mod logging;
pub mod metrics;
mod netlink;
pub mod netns;
pub mod reset;
pub mod serve;
pub mod store;
mod streams;
mod sys;
pub mod tap;
mod tunnel;
mod turns;
pub mod udp;
pub mod view;
pub mod wait;
pub mod web;
pub mod xfrm;

pub use config::Config;
pub use reset::reset_host;
