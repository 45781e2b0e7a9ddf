//! Links: what the kernel says of a network device, and what can be changed on any kind.

use anyhow::{Context, Result};
use futures_util::TryStreamExt;
use netlink_packet_route::link::{
    BridgeStpState, InfoBridge, InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo,
    LinkLayerType, LinkMessage, State,
};
use proto::MacAddr;
use rtnetlink::{LinkMessageBuilder, LinkUnspec};

use super::{
    names,
    netlink::{Netlink, block_on, explain, unless},
};

/// A network device.
#[derive(Clone, Debug, Default)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mac: MacAddr,
    pub(super) mtu: u32,
    /// Packets that may wait to be sent.
    pub(super) queue: u32,
    /// Administratively up.
    pub(super) up: bool,
    /// Up, with carrier, and seen so by whatever it is a port of.
    pub(super) running: bool,
    pub(super) loopback: bool,
    /// Index of the bridge it is a port of.
    pub(super) controller: Option<u32>,
    /// Index of the other end of a veth, in that one's namespace.
    pub(super) other_end: Option<u32>,
    pub(super) alias: String,
    pub(super) group: u32,
    pub(super) kind: Option<InfoKind>,
    /// UDP port of a VXLAN device.
    pub(super) port: Option<u16>,
    /// Of a bridge: it has a spanning tree, or snoops on multicast.
    pub(super) meddles: bool,
}

impl Link {
    /// Whether wove made it for the bridge of that name. A device that bears
    /// our group and no alias yet was left by a crash between two requests.
    pub(super) fn is_of(&self, bridge: &str) -> bool {
        names::bears_mark(&self.alias, bridge) || (self.is_half_made() && self.name == bridge)
    }

    /// Whether wove made it, for whichever bridge.
    pub(super) fn is_of_any_wove(&self) -> bool {
        self.group == names::GROUP || self.alias.starts_with("wove/")
    }

    /// Made by wove, and not yet marked with its bridge.
    pub(super) fn is_half_made(&self) -> bool {
        self.group == names::GROUP && self.alias.is_empty()
    }

    /// A tunnel of the fast path that a crash left without its mark.
    pub(super) fn is_half_made_tunnel(&self) -> bool {
        self.is_half_made() && self.kind == Some(InfoKind::Vxlan)
    }

    /// Whether it is an end of a veth that wove made for the bridge of that name.
    pub(super) fn is_veth_of(&self, bridge: &str) -> bool {
        let is_veth = self.kind == Some(InfoKind::Veth);
        is_veth && (names::bears_mark(&self.alias, bridge) || self.is_half_made())
    }

    pub(super) fn is_bridge(&self) -> bool {
        self.kind == Some(InfoKind::Bridge)
    }
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let flags = message.header.flags;
        let mut link = Self {
            index: message.header.index,
            up: flags.contains(LinkFlags::Up),
            loopback: message.header.link_layer_type == LinkLayerType::Loopback,
            ..Self::default()
        };
        for attribute in message.attributes {
            link.take(attribute);
        }
        link
    }
}

impl Link {
    fn take(&mut self, attribute: LinkAttribute) {
        match attribute {
            LinkAttribute::IfName(name) => self.name = name,
            LinkAttribute::IfAlias(alias) => self.alias = alias,
            LinkAttribute::Group(group) => self.group = group,
            LinkAttribute::Mtu(mtu) => self.mtu = mtu,
            LinkAttribute::TxQueueLen(queue) => self.queue = queue,
            LinkAttribute::Controller(index) => self.controller = Some(index),
            LinkAttribute::Link(index) => self.other_end = Some(index),
            LinkAttribute::OperState(state) => self.running = state == State::Up,
            LinkAttribute::Address(bytes) => {
                self.mac = bytes.try_into().map(MacAddr).unwrap_or_default()
            }
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(kind) => self.kind = Some(kind),
                        LinkInfo::Data(InfoData::Vxlan(data)) => {
                            self.port = data.iter().find_map(|one| match one {
                                InfoVxlan::Port(port) => Some(*port),
                                _ => None,
                            });
                        }
                        LinkInfo::Data(InfoData::Bridge(data)) => {
                            self.meddles = data.iter().any(meddles);
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
}

fn meddles(info: &InfoBridge) -> bool {
    match info {
        InfoBridge::StpState(state) => *state != BridgeStpState::Disabled,
        InfoBridge::MulticastSnooping(on) => *on,
        _ => false,
    }
}

/// Switches the loopback device of the calling thread's namespace on. To be called
/// outside any runtime.
pub(in crate::shell) fn switch_loopback_on() -> Result<()> {
    block_on(async |netlink: Netlink| {
        let Some(link) = netlink.link("lo").await?.filter(|link| !link.up) else {
            return Ok(());
        };
        let up = LinkMessageBuilder::<LinkUnspec>::new().up();
        netlink.change(&link, up).await
    })
}

impl Netlink {
    /// All devices of the namespace.
    pub(super) async fn links(&self) -> Result<Vec<Link>> {
        let _one = self.dump.lock().await;
        let found: Vec<LinkMessage> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(explain)?;
        Ok(found.into_iter().map(Link::from).collect())
    }

    /// The device of that name, if there is one.
    pub(super) async fn link(&self, name: &str) -> Result<Option<Link>> {
        let found = self
            .handle
            .link()
            .get()
            .match_name(name)
            .execute()
            .try_next()
            .await;
        let found = unless(found, &[libc::ENODEV])?;
        Ok(found.flatten().map(Link::from))
    }

    /// Changes a device.
    pub(super) async fn change(
        &self,
        link: &Link,
        change: LinkMessageBuilder<LinkUnspec>,
    ) -> Result<()> {
        let request = self.handle.link().change(change.index(link.index).build());
        request
            .execute()
            .await
            .map_err(explain)
            .with_context(|| format!("interface '{}' cannot be changed", link.name))
    }

    /// Makes a device.
    pub(super) async fn create(&self, name: &str, message: LinkMessage) -> Result<()> {
        let request = self.handle.link().add(message);
        request
            .execute()
            .await
            .map_err(explain)
            .with_context(|| format!("interface '{name}' cannot be made"))
    }

    /// Removes a device; one that is gone is fine.
    pub(super) async fn remove(&self, link: &Link) -> Result<()> {
        let removed = self.handle.link().del(link.index).execute().await;
        unless(removed, &[libc::ENODEV])
            .with_context(|| format!("interface '{}' cannot be removed", link.name))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_that_does_not_do_as_told_is_seen() {
        let meddles = |stp: BridgeStpState, snoops: bool| {
            let data = vec![
                InfoBridge::StpState(stp),
                InfoBridge::MulticastSnooping(snoops),
            ];
            let mut message = LinkMessage::default();
            message.attributes.push(LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Bridge),
                LinkInfo::Data(InfoData::Bridge(data)),
            ]));
            Link::from(message).meddles
        };
        assert!(!meddles(BridgeStpState::Disabled, false));
        assert!(meddles(BridgeStpState::KernelStp, false));
        assert!(meddles(BridgeStpState::Disabled, true));
    }
}
