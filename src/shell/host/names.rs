//! Names and marks: how wove finds its own devices again and leaves others alone.

use anyhow::{Result, ensure};

use crate::shell::netns::Identity;

/// Group number of every device that wove makes. Unlike the alias it is set in
/// the very request that makes a device, so a crash cannot leave one unmarked.
pub(super) const GROUP: u32 = 0x0077_6f76;

/// The longest alias that the kernel keeps, in bytes.
const ALIAS: usize = 255;

/// The alias of every device made for the bridge of that name.
pub(super) fn mark(bridge: &str) -> String {
    format!("wove/{bridge}")
}

/// The alias of the host's end of a veth: the mark, and what it belongs to.
pub(super) fn mark_of_veth(bridge: &str, ifname: &str, netns: &str) -> String {
    let mut alias = format!("{} {ifname}@{netns}", mark(bridge));
    while alias.len() > ALIAS {
        alias.pop();
    }
    alias
}

/// Name inside and path of the namespace, from [`mark_of_veth`].
pub(super) fn place_of_mark<'a>(alias: &'a str, bridge: &str) -> Option<(&'a str, &'a str)> {
    let place = alias.strip_prefix(&mark(bridge))?.strip_prefix(' ')?;
    // An interface name may contain '@', a namespace's path begins with '/'.
    let at = place.find("@/")?;
    (alias.len() < ALIAS).then(|| (&place[..at], &place[at + 1..]))
}

/// The name of another device of ours, of at most 15 bytes, derived from the
/// bridge's. `what` has up to 3.
pub fn device_name(bridge: &str, what: &str) -> String {
    let stem: String = bridge.chars().take(11).collect();
    format!("{stem}-{what}")
}

/// Whether an alias was made by [`mark`] or [`mark_of_veth`] for this bridge.
pub(super) fn bears_mark(alias: &str, bridge: &str) -> bool {
    alias
        .strip_prefix(&mark(bridge))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
}

/// The host's end of the veth to `ifname` in a namespace: always the same name
/// for the same place, so that an interrupted attach is found again.
pub(super) fn host_ifname(bridge: &str, netns: Identity, ifname: &str) -> String {
    let place = format!("{bridge} {} {} {ifname}", netns.device, netns.inode);
    // FNV-1a: stable across builds, and spread enough for a handful of names.
    let hash = place.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("wv-{:012x}", (hash ^ hash >> 48) & 0xffff_ffff_ffff)
}

/// Refuses what the kernel would not take as an interface name, and what would
/// mean something else in a path below /proc/sys.
pub(super) fn check_ifname(name: &str) -> Result<()> {
    let sane = (1..=15).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_graphic() && !b"/:%".contains(&b))
        && name != "."
        && name != "..";
    ensure!(
        sane,
        "'{name}' is not an interface name: 1 to 15 letters, digits, '-', '_' or '.'"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_tells_bridges_apart() {
        assert!(bears_mark("wove/wove", "wove"));
        assert!(bears_mark(
            &mark_of_veth("wove", "eth0", "/run/netns/c1"),
            "wove"
        ));
        for foreign in ["", "wove", "wove/wove2", "my bridge", "wove/wov"] {
            assert!(!bears_mark(foreign, "wove"), "{foreign}");
        }
        assert_eq!(mark_of_veth("b", "i", &"ü".repeat(300)).len(), 255);
        let mark = mark_of_veth("wove", "eth0", "/run/netns/c1");
        assert_eq!(
            place_of_mark(&mark, "wove"),
            Some(("eth0", "/run/netns/c1"))
        );
        assert_eq!(place_of_mark("wove/wove", "wove"), None);
    }

    #[test]
    fn the_host_end_has_a_valid_name_of_its_own() {
        let place = |inode| Identity { device: 4, inode };
        let name = host_ifname("wove", place(1), "wove0");
        assert!(check_ifname(&name).is_ok(), "{name}");
        assert_eq!(name, host_ifname("wove", place(1), "wove0"));
        for other in [
            host_ifname("wove", place(2), "wove0"),
            host_ifname("wove", place(1), "wove1"),
            host_ifname("other", place(1), "wove0"),
        ] {
            assert_ne!(name, other);
        }
    }

    #[test]
    fn names_that_are_no_names_are_refused() {
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "a b",
            "a:1",
            "eth%d",
            "sixteen-letters-",
            "ü",
            "a\nb",
        ] {
            assert!(check_ifname(bad).is_err(), "{bad:?}");
        }
        for good in ["wove0", "eth0.100", "a", "fifteen-letters"] {
            assert!(check_ifname(good).is_ok(), "{good}");
        }
    }
}
