//! What wove puts on a host: one bridge with the TAP and the containers' veths as ports.
//!
//! Everything goes through netlink, /proc/sys and packet sockets; no program is
//! run. Every device bears wove's mark, so that it is found again after a crash,
//! put right when somebody damages it, and removed on request; what does not
//! bear it is never touched. It knows nothing of peers.
//!
//! | file | kernel object |
//! |---|---|
//! | `bridge` | the bridge and its port to userspace |
//! | `veth`, `places` | a container's interface; which there are, and where |
//! | `tunnel` | the VXLAN device of the fast path |
//! | `link`, `address`, `route`, `sysctl` | what any device has |
//! | `announce` | the frames that say where an address is now |
//! | `underlay`, `watch` | what the host has besides wove |
//! | `names`, `netlink` | marks and names; the connection |

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result, anyhow, bail};
use ipnet::IpNet;
use proto::MacAddr;
use rand::{TryRngCore, rngs::OsRng};

use super::netns::{Identity, Namespace};
use address::new_among;
use announce::announce;
use link::Link;
use netlink::Netlink;

mod address;
mod announce;
mod bridge;
mod link;
mod names;
mod netlink;
mod places;
mod route;
mod sysctl;
mod tunnel;
mod underlay;
mod veth;
mod watch;

pub use address::{NoIpv6, Stays};
pub use bridge::Repair;
pub(in crate::shell) use link::switch_loopback_on;
pub use names::device_name;
pub use tunnel::{Tunnel, TunnelConfig};
pub use underlay::outward;
pub use veth::Attached;
pub use watch::{Change, Watch};

/// What the host shall have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostConfig {
    /// Name of the bridge; also what tells several wove on one host apart.
    pub bridge: String,
    /// Name of the TAP device, opened before with [`super::tap::Tap::open`].
    pub tap: String,
    /// MTU of the overlay, in bytes.
    pub mtu: u32,
}

/// The host's part of the overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interfaces {
    /// Interface index of the bridge.
    pub bridge: u32,
    /// Interface index of the TAP.
    pub tap: u32,
    /// MAC address of the bridge: the host's own station.
    pub mac: MacAddr,
    /// MTU of both, in bytes.
    pub mtu: u32,
}

/// A connection to the kernel that sets up this host. Used on one tokio
/// runtime whose thread stays in one network namespace.
#[derive(Debug)]
pub struct Host {
    netlink: Netlink,
    own: Identity,
    memory: Mutex<Memory>,
}

/// What must be put back when somebody removes it.
#[derive(Debug, Default)]
struct Memory {
    config: Option<HostConfig>,
    mac: Option<MacAddr>,
    exposed: BTreeSet<IpNet>,
}

impl Host {
    /// Connects to the kernel; must be called within a tokio runtime.
    pub fn new() -> Result<Self> {
        let own = Namespace::current()?.identity();
        Ok(Self {
            netlink: Netlink::open()?,
            own,
            memory: Mutex::default(),
        })
    }

    /// Makes the bridge, or finds it and puts it right, with the TAP as its port.
    /// Doing it again changes nothing that is as it should be.
    ///
    /// # Errors
    /// The bridge's name is taken by something that is not wove's; the TAP is
    /// missing; the kernel refuses.
    pub async fn set_up(&self, config: HostConfig) -> Result<Interfaces> {
        names::check_ifname(&config.bridge)?;
        names::check_ifname(&config.tap)?;
        let (interfaces, _) = self.ensure(&config).await?;
        self.memory().config = Some(config);
        Ok(interfaces)
    }

    /// Puts back what somebody removed or changed since [`Host::set_up`], and tells what.
    ///
    /// # Errors
    /// The TAP is gone (only its owner can make it), or the kernel refuses.
    pub async fn repair(&self) -> Result<Vec<Repair>> {
        let config = self.config()?;
        let (_, mut repairs) = self.ensure(&config).await?;
        let exposed: Vec<IpNet> = self.memory().exposed.iter().copied().collect();
        let lost = self.give_to_bridge(&exposed).await?;
        repairs.extend(
            lost.into_iter()
                .map(|address| Repair::Addressed { address }),
        );
        Ok(repairs)
    }

    /// A route of this host into a network, or one that the network is in, that is not
    /// by the bridge: where to, and by which device.
    pub async fn route_within(&self, net: IpNet) -> Result<Option<String>> {
        let bridge = self.bridge().await?.index;
        let mut routes = self.netlink.route_within(net).await?;
        routes.retain(|(_, device)| *device != Some(bridge));
        let Some((to, device)) = routes.first() else {
            return Ok(None);
        };
        let links = self.netlink.links().await?;
        let link = links.iter().find(|link| Some(link.index) == *device);
        Ok(Some(match link {
            Some(link) => format!("{to} by {}", link.name),
            None => to.to_string(),
        }))
    }

    /// Gives the host addresses on the overlay; those it has are fine.
    ///
    /// # Errors
    /// The kernel refuses; then it has those that it had before, or the error is
    /// [`Stays`].
    pub async fn expose(&self, addresses: &[IpNet]) -> Result<()> {
        let mut before = self.exposed().await?;
        // Also what somebody took, and will be given again.
        before.extend(&self.memory().exposed);
        let Err(error) = self.try_expose(addresses).await else {
            return Ok(());
        };
        let added = new_among(addresses, &before);
        let undone = match added.is_empty() {
            true => Ok(()),
            false => self.hide(&added).await.map(drop),
        };
        Err(Stays::unless(undone, &self.config()?.bridge, error))
    }

    async fn try_expose(&self, addresses: &[IpNet]) -> Result<()> {
        self.give_to_bridge(addresses).await?;
        let link = self.bridge().await?;
        announce(&link, addresses)?;
        self.memory().exposed.extend(addresses);
        Ok(())
    }

    /// Takes addresses from the host, all if none is given; gives those taken.
    pub async fn hide(&self, addresses: &[IpNet]) -> Result<Vec<IpNet>> {
        let link = self.bridge().await?;
        let present = self.netlink.addresses_of(&link).await?;
        let taken: Vec<IpNet> = present
            .iter()
            .copied()
            .filter(|net| addresses.is_empty() || addresses.contains(net))
            .collect();
        self.memory()
            .exposed
            .retain(|net| !(addresses.is_empty() || addresses.contains(net)));
        self.netlink.remove_addresses(&link, &taken).await?;
        if !present
            .iter()
            .any(|net| net.addr().is_ipv6() && !taken.contains(net))
        {
            sysctl::enable_ipv6(&link.name, false);
        }
        Ok(taken)
    }

    /// The host's addresses on the overlay.
    pub async fn exposed(&self) -> Result<Vec<IpNet>> {
        let link = self.bridge().await?;
        self.netlink.addresses_of(&link).await
    }

    /// Removes every device that wove made for the bridge of that name,
    /// containers' interfaces included. Needs no [`Host::set_up`] before.
    ///
    /// # Errors
    /// All that went wrong, in one; what could be removed is.
    pub async fn tear_down(&self, bridge: &str) -> Result<()> {
        *self.memory() = Memory::default();
        let mut doomed = self.netlink.links().await?;
        doomed.retain(|link| {
            link.is_of(bridge) || link.is_veth_of(bridge) || link.is_half_made_tunnel()
        });
        // The bridge last: an interrupted tear-down is then still found by its name.
        doomed.sort_by_key(Link::is_bridge);
        let mut errors = Vec::new();
        for link in doomed {
            if let Err(error) = self.netlink.remove(&link).await {
                errors.push(format!("{error:#}"));
            }
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(anyhow!(errors.join("; ")))
        }
    }

    /// Takes all addresses from containers and host, with the containers' interfaces.
    ///
    /// # Errors
    /// The kernel refuses; some may be gone by then.
    pub async fn empty(&self) -> Result<()> {
        let bridge = self.config()?.bridge;
        for link in self.netlink.links().await? {
            if link.is_veth_of(&bridge) {
                self.netlink.remove(&link).await?;
            }
        }
        self.hide(&[]).await.map(drop)
    }

    async fn ensure(&self, config: &HostConfig) -> Result<(Interfaces, Vec<Repair>)> {
        let mut repairs = Vec::new();
        let mac = match self.memory().mac {
            Some(mac) => mac,
            None => random_mac()?,
        };
        let bridge = self
            .netlink
            .ensure_bridge(config, mac, &mut repairs)
            .await?;
        self.memory().mac = Some(bridge.mac);
        let tap = self
            .netlink
            .ensure_tap(config, &bridge, &mut repairs)
            .await?;
        self.repair_veths(config, &bridge, &mut repairs).await?;
        let interfaces = Interfaces {
            bridge: bridge.index,
            tap: tap.index,
            mac: bridge.mac,
            mtu: config.mtu,
        };
        Ok((interfaces, repairs))
    }

    async fn give_to_bridge(&self, addresses: &[IpNet]) -> Result<Vec<IpNet>> {
        let link = self.bridge().await?;
        if addresses.iter().any(|net| net.addr().is_ipv6()) {
            sysctl::enable_ipv6(&link.name, true);
        }
        self.netlink.add_addresses(&link, addresses).await
    }

    async fn bridge(&self) -> Result<Link> {
        let name = self.config()?.bridge;
        self.netlink
            .link(&name)
            .await?
            .with_context(|| format!("bridge '{name}' is gone"))
    }

    fn config(&self) -> Result<HostConfig> {
        match &self.memory().config {
            Some(config) => Ok(config.clone()),
            None => bail!("the host is not set up yet"),
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // What it holds is consistent after each single statement.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A random unicast MAC address from the locally administered range.
fn random_mac() -> Result<MacAddr> {
    let mut mac = [0; 6];
    OsRng
        .try_fill_bytes(&mut mac)
        .context("no randomness from the operating system")?;
    mac[0] = mac[0] & 0xfc | 0x02;
    Ok(MacAddr(mac))
}

#[cfg(test)]
mod tests;
