//! What is compared, and how each is brought up.

mod hand;
mod nebula;
mod tap;
mod wireguard;
mod wove;

use std::{fmt, net::IpAddr, path::Path, time::Duration};

use anyhow::{Result, ensure};
use clap::ValueEnum;

use super::{
    options::Compare,
    stage::{Host, Stage, Topology},
};

/// Overlay addresses of the near and the far host.
const NEAR: &str = "10.99.0.1";
const FAR: &str = "10.99.0.2";
/// A device of the daemon's making is there after this.
const DEVICE: Duration = Duration::from_secs(10);

/// A way from host to host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Way {
    /// The underlay itself.
    Veth,
    /// Kernel VXLAN made by hand, which encrypts nothing.
    Hand,
    /// wove, as --wove-options say: through the sleeve.
    Wove,
    /// nebula of the distribution.
    Nebula,
    /// wireguard-go of the distribution.
    WireguardGo,
    /// boringtun-cli.
    Boringtun,
    /// tinc of the distribution, as a switch.
    Tinc,
    /// vpncloud, as a switch.
    Vpncloud,
    /// fastd of the distribution, with a TAP.
    Fastd,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Veth => "veth",
            Self::Hand => "hand",
            Self::Wove => "wove",
            Self::Nebula => "nebula",
            Self::WireguardGo => "wireguard-go",
            Self::Boringtun => "boringtun",
            Self::Tinc => "tinc",
            Self::Vpncloud => "vpncloud",
            Self::Fastd => "fastd",
        })
    }
}

/// A way that is up.
pub(super) struct Standing {
    /// The far host, seen from the near one.
    pub far: IpAddr,
}

impl Standing {
    fn overlay() -> Result<Self> {
        Ok(Self { far: FAR.parse()? })
    }
}

impl Way {
    /// Whether it is a rival: another overlay with encryption in userspace.
    pub(super) fn is_rival(self) -> bool {
        !matches!(self, Self::Veth | Self::Hand | Self::Wove)
    }

    /// Sets it up on a fresh stage, with the MTU it needs for an underlay of 1500.
    pub(super) fn up(self, stage: &mut Stage, options: &Compare) -> Result<Standing> {
        ensure!(
            stage.topology() == Topology::Direct || self == Self::Wove,
            "only wove relays: leave the others out"
        );
        match self {
            Self::Veth => Ok(Standing {
                far: stage.underlay(Host::Far),
            }),
            Self::Hand => hand::up(stage),
            Self::Wove => wove::up(stage, options),
            Self::Nebula => nebula::up(stage),
            Self::WireguardGo => wireguard::up(stage, "wireguard-go -f"),
            Self::Boringtun => wireguard::up(
                stage,
                "env WG_SUDO=1 boringtun-cli -f --disable-drop-privileges",
            ),
            Self::Tinc => tap::tinc(stage),
            Self::Vpncloud => tap::vpncloud(stage),
            Self::Fastd => tap::fastd(stage),
        }
    }
}

/// Waits for a device on both hosts, and gives it the overlay's address and an MTU.
fn address(stage: &mut Stage, device: &str, mtu: u16) -> Result<Standing> {
    for (host, address) in [(Host::Near, NEAR), (Host::Far, FAR)] {
        let show = format!("ip link show {device}");
        stage.until(DEVICE, &format!("device {device}"), |stage| {
            stage.run(host, &show).is_ok()
        })?;
        stage.run(host, &format!("ip address add {address}/24 dev {device}"))?;
        stage.run(host, &format!("ip link set {device} mtu {mtu} up"))?;
    }
    Standing::overlay()
}

/// The near host and the far one, with their names, and the underlay address of the other.
fn ends(stage: &Stage) -> [(Host, &'static str, IpAddr); 2] {
    [
        (Host::Near, "near", stage.underlay(Host::Far)),
        (Host::Far, "far", stage.underlay(Host::Near)),
    ]
}

fn shown(path: &Path) -> std::path::Display<'_> {
    path.display()
}
