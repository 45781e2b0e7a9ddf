//! Per-interface settings below /proc/sys/net, in the calling thread's namespace.
//!
//! Writing is refused in many containers (a read-only /proc/sys); that is worth
//! a warning, never a failure.

use std::{fs, io::ErrorKind};

/// Keeps router advertisements of the overlay from giving `ifname` addresses and routes.
pub(super) fn ignore_router_advertisements(ifname: &str) {
    set("ipv6", ifname, "accept_ra", "0");
}

/// Switches IPv6 on an interface on or off; off also takes its addresses.
pub(super) fn enable_ipv6(ifname: &str, on: bool) {
    set("ipv6", ifname, "disable_ipv6", if on { "0" } else { "1" });
}

/// Lets the other IPv4 addresses of a subnet stay when the first of them is
/// taken; the kernel else removes them all, and every route with them.
pub(super) fn keep_secondary_addresses(ifname: &str) {
    set("ipv4", ifname, "promote_secondaries", "1");
}

fn set(family: &str, ifname: &str, setting: &str, value: &str) {
    let path = format!("/proc/sys/net/{family}/conf/{ifname}/{setting}");
    match fs::read_to_string(&path) {
        Ok(present) if present.trim() == value => return,
        // A kernel without IPv6 has nothing to switch off.
        Err(error) if error.kind() == ErrorKind::NotFound => return,
        _ => {}
    }
    if let Err(error) = fs::write(&path, value) {
        tracing::warn!(%path, value, %error, "setting not changed: is /proc/sys read-only?");
    }
}
