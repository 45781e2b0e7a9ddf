//! Gateways that translate addresses, made of the kernel's own NAT (nftables).
//!
//! A host behind one has a segment of its own, and the gateway for its way out.
//! Must not know daemons.

use std::io::Write;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::Once;

use super::host::{Host, PORT};
use super::netns::Netns;

/// How a gateway translates UDP, in the words of RFC 3489.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nat {
    /// One port for all destinations; lets everybody in.
    FullCone,
    /// One port for all destinations; lets in addresses that were sent to.
    Restricted,
    /// One port for all destinations; lets in addresses and ports that were sent to.
    PortRestricted,
    /// A port for each destination; lets in addresses and ports that were sent to.
    Symmetric,
}

impl Nat {
    /// All kinds.
    pub(crate) const ALL: [Self; 4] = [
        Self::FullCone,
        Self::Restricted,
        Self::PortRestricted,
        Self::Symmetric,
    ];

    /// Whether two hosts behind such gateways can reach each other directly,
    /// if both send at the same time and no port is guessed.
    pub(crate) fn can_meet(self, other: Self) -> bool {
        !matches!(
            (self, other),
            (Self::Symmetric, Self::Symmetric | Self::PortRestricted)
                | (Self::PortRestricted, Self::Symmetric)
        )
    }

    fn rules(self, inside: Ipv4Addr) -> String {
        let (set, learn, enter, leave) = match self {
            Self::FullCone => (
                "",
                "",
                format!("iifname \"eth0\" udp dport {PORT} dnat to {inside};"),
                "",
            ),
            Self::Restricted => (
                "set met { type ipv4_addr; flags dynamic,timeout; timeout 2m; }",
                "oifname \"eth0\" meta l4proto udp update @met { ip daddr };",
                format!("iifname \"eth0\" ip saddr @met udp dport {PORT} dnat to {inside};"),
                "",
            ),
            Self::PortRestricted => ("", "", String::new(), ""),
            Self::Symmetric => (
                "",
                "",
                String::new(),
                "oifname \"eth0\" meta l4proto udp masquerade to :20000-60000 fully-random;",
            ),
        };
        // What comes in unasked is dropped before it is tracked: an entry of its
        // own would take the port that an answer is to come to.
        format!(
            "table ip gate {{
                {set}
                chain forward {{ type filter hook forward priority 0; {learn} }}
                chain input {{ type filter hook input priority 0; iifname \"eth0\" drop; }}
                chain enter {{ type nat hook prerouting priority dstnat; {enter} }}
                chain leave {{ type nat hook postrouting priority srcnat; {leave}
                    oifname \"eth0\" masquerade; }}
            }}"
        )
    }
}

/// Puts `inside`, which has the segment `segment` to itself and `gateway`, behind
/// that gateway, whose `eth0` is outside.
pub(crate) fn put_behind(inside: &Host, gateway: &Host, segment: usize, nat: Nat) {
    let door = gateway.v4_on(segment);
    gateway.netns.sysctl("net/ipv4/ip_forward", "1");
    inside.netns.add_default_route(door);
    nft(&gateway.netns, &nat.rules(inside.v4()));
}

fn nft(netns: &Netns, rules: &str) {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(install);
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped());
    netns.place(&mut command, None);
    let spawned = command.spawn();
    let mut child = spawned.unwrap_or_else(|e| panic!("nft does not start: {e}"));
    let mut input = child.stdin.take().expect("stdin is a pipe");
    input.write_all(rules.as_bytes()).expect("nft reads");
    drop(input);
    let status = child.wait().expect("nft is our child");
    assert!(status.success(), "nft refuses, {status}:\n{rules}");
}

// As `tests/vm/run` does for its programs.
fn install() {
    let runs = |command: &mut Command| {
        let command = command.stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if runs(Command::new("nft").arg("--version")) {
        return;
    }
    let installed = runs(Command::new("apt-get").args(["install", "-y", "nftables"]))
        || runs(Command::new("apt-get").arg("update"))
            && runs(Command::new("apt-get").args(["install", "-y", "nftables"]));
    assert!(
        installed,
        "the tests of NAT need nft: apt-get install nftables"
    );
}
