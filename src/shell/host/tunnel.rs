//! The VXLAN device of the fast path: made for each launch, looked after, removed.
//!
//! It is no port of the bridge, has no address and speaks no IP. It is raised
//! only once a program guards it, and that stays when the daemon is killed: so
//! nothing that comes out of VXLAN ever meets the host's own stack.

use std::io;

use anyhow::{Context, Result, bail};
use futures_util::TryStreamExt;
use netlink_packet_route::{
    link::InfoKind,
    tc::{TcAttribute, TcMessage},
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVxlan};

use super::{Host, bridge::close_to_ip, link::Link, names, netlink::explain};

/// What the fast path shall have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelConfig {
    /// Name of the bridge, by which the device is marked.
    pub bridge: String,
    /// Name of the device.
    pub name: String,
    /// Name of the TAP.
    pub tap: String,
    /// UDP port of VXLAN.
    pub port: u16,
    /// MTU of the overlay, in bytes.
    pub mtu: u32,
}

/// Interface indexes of the fast path's devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Of the VXLAN device.
    pub device: u32,
    /// Of the TAP.
    pub tap: u32,
}

/// The UDP port of the fast path, the same on every host.
const PORT: u16 = 6784;

impl TunnelConfig {
    /// That of a bridge's wove.
    pub fn new(bridge: &str, mtu: u32) -> Self {
        Self {
            bridge: bridge.to_owned(),
            name: names::device_name(bridge, "vx"),
            tap: names::device_name(bridge, "tap"),
            port: PORT,
            mtu,
        }
    }
}

impl Host {
    /// Makes the device, down. One that an earlier launch left is replaced: its
    /// programs know nothing of this launch.
    ///
    /// # Errors
    /// The name is taken by something that is not wove's; the kernel has no
    /// VXLAN, or something else uses the port.
    pub async fn make_tunnel(&self, config: &TunnelConfig) -> Result<Tunnel> {
        let name = config.name.as_str();
        if let Some(link) = self.netlink.link(name).await? {
            if !is_ours(&link, config) {
                bail!("interface '{name}' exists and is not wove's");
            }
            self.netlink.remove(&link).await?;
        }
        let message = LinkMessageBuilder::<LinkVxlan>::new(name)
            .collect_metadata(true)
            .learning(false)
            .port(config.port)
            .link_group(names::GROUP)
            .build();
        let made = self.netlink.create(name, message).await;
        made.map_err(|error| say_taken(error, config.port))?;
        close_to_ip(name);
        let link = self.present(name).await?;
        let change = LinkUnspec::new_with_index(link.index)
            .alias(names::mark(&config.bridge).as_str())
            .mtu(config.mtu);
        self.netlink.change(&link, change).await?;
        Ok(Tunnel {
            device: link.index,
            tap: self.present(&config.tap).await?.index,
        })
    }

    /// Sets the device up: its program is in place.
    pub async fn raise_tunnel(&self, config: &TunnelConfig) -> Result<()> {
        let link = self.present(&config.name).await?;
        let change = LinkUnspec::new_with_index(link.index).up();
        self.netlink.change(&link, change).await
    }

    /// Sets the device down, if it is there and wove's: nothing passes any more,
    /// and the port is still ours.
    pub async fn close_tunnel(&self, config: &TunnelConfig) -> Result<()> {
        match self.netlink.link(&config.name).await? {
            Some(link) if is_ours(&link, config) => {
                let down = LinkUnspec::new_with_index(link.index).down();
                self.netlink.change(&link, down).await
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Whether another VXLAN device of this host has the port: then what else
    /// there is for the fast path belongs to whoever made that.
    pub async fn tunnel_is_foreign(&self, config: &TunnelConfig) -> Result<bool> {
        let links = self.netlink.links().await?;
        let mut holders = links.iter().filter(|link| link.port == Some(config.port));
        Ok(holders.any(|link| link.name != config.name || !is_ours(link, config)))
    }

    /// Removes the device, if it is there and wove's.
    pub async fn remove_tunnel(&self, config: &TunnelConfig) -> Result<()> {
        match self.netlink.link(&config.name).await? {
            Some(link) if is_ours(&link, config) => self.netlink.remove(&link).await,
            Some(_) | None => Ok(()),
        }
    }

    /// What is wrong with the devices or their programs; none if all is well.
    pub async fn tunnel_fault(
        &self,
        config: &TunnelConfig,
        tunnel: Tunnel,
    ) -> Result<Option<String>> {
        let name = &config.name;
        let Some(link) = self.netlink.link(name).await? else {
            return Ok(Some(format!("interface '{name}' was missing")));
        };
        if link.index != tunnel.device {
            return Ok(Some(format!("interface '{name}' was replaced")));
        }
        if !link.up || link.mtu != config.mtu || link.controller.is_some() {
            return Ok(Some(format!("interface '{name}' was changed")));
        }
        for (device, ingress, what) in [
            (tunnel.tap, false, &config.tap),
            (tunnel.device, true, name),
            (tunnel.device, false, name),
        ] {
            if !self.has_program(device, ingress).await? {
                return Ok(Some(format!("interface '{what}' had lost its program")));
            }
        }
        Ok(None)
    }

    async fn has_program(&self, device: u32, ingress: bool) -> Result<bool> {
        let _one = self.netlink.dump.lock().await;
        let index = i32::try_from(device).context("an interface index has 31 bits")?;
        let mut filters = self.netlink.handle.traffic_filter(index);
        let request = if ingress {
            filters.get().ingress()
        } else {
            filters.get().egress()
        };
        let found: Result<Vec<TcMessage>, _> = request.execute().try_collect().await;
        match found {
            Ok(found) => Ok(found.iter().any(is_program)),
            // The qdisc is gone, and the program with it.
            Err(rtnetlink::Error::NetlinkError(_)) => Ok(false),
            Err(error) => Err(explain(error)),
        }
    }

    async fn present(&self, name: &str) -> Result<Link> {
        self.netlink
            .link(name)
            .await?
            .with_context(|| format!("interface '{name}' is gone"))
    }
}

/// The name is free, so what exists is a device with the port.
fn say_taken(error: anyhow::Error, port: u16) -> anyhow::Error {
    let cause = error.root_cause().downcast_ref::<io::Error>();
    if cause.is_some_and(|cause| cause.raw_os_error() == Some(libc::EEXIST)) {
        return error.context(format!(
            "another VXLAN device of this host has UDP port {port}; one wove of a host can have it"
        ));
    }
    error
}

fn is_program(filter: &TcMessage) -> bool {
    filter
        .attributes
        .iter()
        .any(|attribute| matches!(attribute, TcAttribute::Kind(kind) if kind == "bpf"))
}

fn is_ours(link: &Link, config: &TunnelConfig) -> bool {
    link.kind == Some(InfoKind::Vxlan)
        && (names::bears_mark(&link.alias, &config.bridge) || link.is_half_made())
}
