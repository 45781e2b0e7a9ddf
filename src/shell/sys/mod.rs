//! The system calls that have no safe wrapper in our dependencies.
//!
//! This folder is the only one that may say `unsafe`. It knows bytes,
//! descriptors and interface indexes, and nothing of peers or frames.

pub(super) mod nsfs;
pub(super) mod packet;
pub(super) mod tun;
