//! The bridge and the TAP that is its port: made, found again, put right.

use std::fmt;

use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;
use netlink_packet_route::link::{BridgeStpState, InfoKind, LinkAttribute};
use proto::MacAddr;
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkUnspec};

use super::{
    HostConfig,
    link::Link,
    names,
    netlink::{Netlink, explain},
    sysctl,
};

/// Frames that may wait in a TAP: unless somebody says otherwise, by the kernel, and
/// here. At hundreds of thousands of small frames a second the kernel's are gone
/// while the thread that reads them waits for a processor.
const QUEUE_OF_KERNEL: u32 = 1000;
const QUEUE: u32 = 3000;

/// Something that was not as it must be, and was put right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repair {
    /// A device was missing.
    Made {
        /// Its name.
        name: String,
    },
    /// A device was down.
    Raised {
        /// Its name.
        name: String,
    },
    /// A device was no port of the bridge.
    Joined {
        /// Its name.
        name: String,
    },
    /// A device had another MTU.
    Resized {
        /// Its name.
        name: String,
        /// The MTU now, in bytes.
        mtu: u32,
    },
    /// The host had lost an address on the overlay.
    Addressed {
        /// The address.
        address: IpNet,
    },
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Made { name } => write!(f, "interface '{name}' was missing: made"),
            Self::Raised { name } => write!(f, "interface '{name}' was down: set up"),
            Self::Joined { name } => {
                write!(f, "interface '{name}' was not in the bridge: put there")
            }
            Self::Resized { name, mtu } => {
                write!(f, "interface '{name}' had another MTU: set to {mtu}")
            }
            Self::Addressed { address } => write!(f, "address {address} was gone: given again"),
        }
    }
}

/// What a device must be like.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    pub(super) mtu: Option<u32>,
    pub(super) controller: Option<u32>,
    pub(super) alias: String,
}

impl Netlink {
    /// Makes the bridge, or finds it and puts it right. `mac` is used for a new one.
    ///
    /// # Errors
    /// The name belongs to a device that wove did not make.
    pub(super) async fn ensure_bridge(
        &self,
        config: &HostConfig,
        mac: MacAddr,
        repairs: &mut Vec<Repair>,
    ) -> Result<Link> {
        let name = config.bridge.as_str();
        let link = match self.link(name).await? {
            Some(link) if link.is_bridge() && link.is_of(name) => link,
            Some(_) => {
                bail!("bridge '{name}' exists and is not wove's: choose another name with --bridge")
            }
            None => {
                repairs.push(Repair::Made { name: name.into() });
                self.make_bridge(name, mac).await?
            }
        };
        // Spanning tree would block ports for 30 s; a peer that snoops would
        // keep multicast from containers whose reports it cannot see. Not without
        // need: the kernel reports it as a change, and a change is looked into.
        if link.meddles {
            self.quieten(&link).await?;
        }
        sysctl::ignore_router_advertisements(name);
        let wanted = Wanted {
            mtu: Some(config.mtu),
            controller: None,
            alias: names::mark(name),
        };
        self.settle(link, &wanted, repairs).await
    }

    /// Makes the TAP, which exists already, a port of the bridge.
    pub(super) async fn ensure_tap(
        &self,
        config: &HostConfig,
        bridge: &Link,
        repairs: &mut Vec<Repair>,
    ) -> Result<Link> {
        let name = config.tap.as_str();
        let Some(link) = self.link(name).await? else {
            bail!("TAP device '{name}' is gone");
        };
        // Never pull another kind of device, the uplink for one, into the bridge.
        ensure!(
            link.kind == Some(InfoKind::Tun),
            "interface '{name}' is not a TAP device: choose another name"
        );
        close_to_ip(name);
        if link.queue == QUEUE_OF_KERNEL {
            let queue = LinkAttribute::TxQueueLen(QUEUE);
            let change = LinkUnspec::new_with_index(link.index).append_extra_attribute(queue);
            self.change(&link, change).await?;
        }
        let wanted = Wanted {
            mtu: Some(config.mtu),
            controller: Some(bridge.index),
            alias: names::mark(&config.bridge),
        };
        self.settle(link, &wanted, repairs).await
    }

    /// Changes what differs, and tells what mattered of it.
    pub(super) async fn settle(
        &self,
        mut link: Link,
        wanted: &Wanted,
        repairs: &mut Vec<Repair>,
    ) -> Result<Link> {
        let mut change = LinkUnspec::new_with_index(link.index);
        let name = || link.name.clone();
        let mut differs = false;
        if link.alias != wanted.alias {
            change = change.alias(wanted.alias.as_str());
            differs = true;
        }
        if let Some(mtu) = wanted.mtu.filter(|&mtu| mtu != link.mtu) {
            change = change.mtu(mtu);
            repairs.push(Repair::Resized { name: name(), mtu });
            differs = true;
        }
        if let Some(controller) = wanted
            .controller
            .filter(|_| link.controller != wanted.controller)
        {
            change = change.controller(controller);
            repairs.push(Repair::Joined { name: name() });
            differs = true;
        }
        if !link.up {
            change = change.up();
            repairs.push(Repair::Raised { name: name() });
            differs = true;
        }
        if !differs {
            return Ok(link);
        }
        self.change(&link, change).await?;
        link.mtu = wanted.mtu.unwrap_or(link.mtu);
        link.controller = wanted.controller.or(link.controller);
        link.alias.clone_from(&wanted.alias);
        link.up = true;
        Ok(link)
    }

    async fn quieten(&self, bridge: &Link) -> Result<()> {
        // By index alone: before Linux 6.2, naming a device that is up is an
        // attempt to rename it, and refused (EBUSY).
        let quiet = LinkMessageBuilder::<LinkBridge>::new_with_info_kind(InfoKind::Bridge)
            .stp_state(BridgeStpState::Disabled)
            .mcast_snooping(false)
            .index(bridge.index)
            .build();
        let changed = self.handle.link().change(quiet).execute().await;
        changed
            .map_err(explain)
            .with_context(|| format!("bridge '{}' cannot be configured", bridge.name))
    }

    async fn make_bridge(&self, name: &str, mac: MacAddr) -> Result<Link> {
        // An address of its own: else the bridge takes the lowest of its ports',
        // and the host's changes whenever a container comes or goes.
        let message = LinkMessageBuilder::<LinkBridge>::new(name)
            .address(mac.0.to_vec())
            .link_group(names::GROUP)
            .build();
        self.create(name, message).await?;
        // No IPv6 chatter of the host on the overlay until it has an address there.
        sysctl::enable_ipv6(name, false);
        self.link(name)
            .await?
            .with_context(|| format!("bridge '{name}' was made and is gone again"))
    }
}

/// A port of the bridge carries frames for others and speaks no IP itself.
pub(super) fn close_to_ip(name: &str) {
    sysctl::ignore_router_advertisements(name);
    sysctl::enable_ipv6(name, false);
}
