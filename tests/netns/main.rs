//! Real daemons across network namespaces: `cargo netns`, as root.
//!
//! Needs no program but the one under test, `nft` for `nat`, and `unshare` and
//! `mount` (util-linux) for `names`; `with_esp` starts a virtual machine where the
//! kernel has no ESP (`tests/vm/run`), `runtimes` container engines that are
//! fetched where they are missing (`tests/runtimes/fetch`). Namespaces are
//! anonymous and daemons die with this process, so nothing is left behind
//! however it ends.

#![expect(
    clippy::disallowed_methods,
    reason = "a laboratory has clocks, sockets and threads"
)]

mod basics;
mod broadcast;
mod churn;
mod failover;
mod fastdp;
mod faults;
mod hang;
mod hostile;
mod ipam;
mod ipam_families;
mod ipam_rings;
mod ipam_stories;
mod lab;
mod laboratory;
mod mtu;
mod names;
mod names_hosts;
mod names_load;
mod nat;
mod prediction;
mod relay;
mod repair;
mod roaming;
mod runtimes;
mod scale;
mod secrets;
mod sharing;
mod sleeve;
mod targets;
mod tcp;
mod with_esp;
