//! Gateways that translate addresses, made of the kernel's own NAT (nftables).
//!
//! A host behind one has a segment of its own, and the gateway for its way out.
//! Must not know daemons.

use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::Once;

use socket2::{Domain, Protocol, Socket, Type};

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

    /// Of a gateway that shows port [`PORT`] of `inside` as its own port `outside`,
    /// or as others that follow from that and from the destination.
    fn rules(self, inside: Ipv4Addr, outside: u16) -> String {
        let (set, learn) = match self {
            Self::Restricted => (
                "set met { type ipv4_addr; flags dynamic,timeout; timeout 2m; }",
                "oifname \"eth0\" meta l4proto udp update @met { ip daddr };",
            ),
            Self::FullCone | Self::PortRestricted | Self::Symmetric => ("", ""),
        };
        // What is for an address that the gateway had before is not for it.
        let door = format!("fib daddr type local udp dport {outside} dnat to {inside}:{PORT};");
        let enter = match self {
            Self::FullCone => format!("iifname \"eth0\" {door}"),
            Self::Restricted => format!("iifname \"eth0\" ip saddr @met {door}"),
            Self::PortRestricted | Self::Symmetric => String::new(),
        };
        let leave = match self {
            // Not at random: two destinations might be given one port.
            Self::Symmetric => format!(
                "oifname \"eth0\" meta l4proto udp masquerade to \
                 :jhash ip daddr . udp dport mod 40000 seed {outside} offset 20000;"
            ),
            Self::FullCone | Self::Restricted | Self::PortRestricted => {
                format!("oifname \"eth0\" udp sport {PORT} masquerade to :{outside};")
            }
        };
        // What comes in unasked is dropped before it is tracked: an entry of its
        // own would take the port that an answer is to come to.
        format!(
            "table ip gate
            delete table ip gate
            table ip gate {{
                {set}
                chain forward {{ type filter hook forward priority 0;
                    iifname \"eth0\" oifname \"eth0\" drop; {learn} }}
                chain input {{ type filter hook input priority 0; iifname \"eth0\" drop; }}
                chain enter {{ type nat hook prerouting priority dstnat; {enter} }}
                chain leave {{ type nat hook postrouting priority srcnat; {leave}
                    oifname \"eth0\" masquerade; }}
            }}"
        )
    }
}

/// A gateway with the host behind it.
pub(crate) struct Gate {
    /// The gateway; its `eth0` is outside.
    pub(crate) gateway: Host,
    /// The host, which has no other way out.
    pub(crate) inside: Host,
    nat: Nat,
    segment: usize,
    outside: u16,
}

impl Gate {
    /// Puts `inside`, which has the segment `segment` to itself and `gateway`,
    /// behind that gateway.
    pub(super) fn new(gateway: Host, inside: Host, segment: usize, nat: Nat) -> Self {
        gateway.netns.sysctl("net/ipv4/ip_forward", "1");
        let gate = Self {
            gateway,
            inside,
            nat,
            segment,
            outside: PORT,
        };
        gate.inside.netns.add_default_route(gate.door());
        gate.set_rules();
        gate
    }

    /// The gateway gets another address outside. What it had translated to the
    /// former goes with it, by a port of its own or by a rule: else packets would
    /// leave under an address that is no more.
    pub(crate) fn readdress(&mut self, to: Ipv4Addr) {
        self.gateway.readdress(to);
        forget_connections(&self.gateway.netns);
    }

    /// The gateway stands still for a moment, knows nothing of what it let through
    /// before, and shows another port outside.
    pub(crate) fn reboot(&mut self) {
        self.outside += 1;
        self.set_rules();
        forget_connections(&self.gateway.netns);
    }

    /// The host gets another address inside. The gateway shows that as another
    /// port; what it translates for the former stays as it is.
    pub(crate) fn readdress_inside(&mut self, to: Ipv4Addr) {
        self.inside.readdress(to);
        self.outside += 1;
        self.set_rules();
    }

    fn door(&self) -> Ipv4Addr {
        self.gateway.v4_on(self.segment)
    }

    fn set_rules(&self) {
        let rules = self.nat.rules(self.inside.v4(), self.outside);
        self.gateway.netns.nft(&rules);
    }
}

/// Forgets all connections that are tracked: `IPCTNL_MSG_CT_DELETE` without a
/// description of which.
fn forget_connections(netns: &Netns) {
    const NETFILTER: i32 = 12;
    // Length, type, flags (request, acknowledge), sequence, port; family, version, resource.
    let request: Vec<u8> = [
        &20_u32.to_ne_bytes()[..],
        &0x0102_u16.to_ne_bytes(),
        &5_u16.to_ne_bytes(),
        &1_u32.to_ne_bytes(),
        &0_u32.to_ne_bytes(),
        &[0, 0, 0, 0],
    ]
    .concat();
    let ask = || -> io::Result<i32> {
        let domain = Domain::from(libc::AF_NETLINK);
        let mut socket = Socket::new(domain, Type::RAW, Some(Protocol::from(NETFILTER)))?;
        socket.send(&request)?;
        let mut answer = [0; 256];
        let len = socket.read(&mut answer)?;
        let code = answer[..len].get(16..20).and_then(|c| c.try_into().ok());
        Ok(code.map_or(-1, i32::from_ne_bytes))
    };
    let answer = netns.run(ask);
    assert!(matches!(answer, Ok(0)), "connections stay: {answer:?}");
}

impl Netns {
    /// Carries out what is written in the language of `nft`.
    pub(crate) fn nft(&self, rules: &str) {
        static INSTALLED: Once = Once::new();
        INSTALLED.call_once(install);
        let mut command = Command::new("nft");
        command.args(["-f", "-"]).stdin(Stdio::piped());
        self.place(&mut command, None);
        let spawned = command.spawn();
        let mut child = spawned.unwrap_or_else(|e| panic!("nft does not start: {e}"));
        let mut input = child.stdin.take().expect("stdin is a pipe");
        input.write_all(rules.as_bytes()).expect("nft reads");
        drop(input);
        let status = child.wait().expect("nft is our child");
        assert!(status.success(), "nft refuses, {status}:\n{rules}");
    }
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
