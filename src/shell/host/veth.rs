//! A container's interface: a veth with one end in its namespace and one in the bridge.
//!
//! The pair is made in one request, its inner end already in place and named,
//! so there is no state in between that a crash could leave. Everything after
//! that is put right by asking again.

use std::{
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use ipnet::IpNet;
use netlink_packet_route::link::{InfoData, InfoVeth};
use proto::MacAddr;
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::{
    Host, HostConfig, Stays,
    address::new_among,
    announce::announce,
    bridge::{Repair, Wanted, close_to_ip},
    link::Link,
    names,
    netlink::{Netlink, block_on},
    random_mac, sysctl,
};
use crate::{
    engine::Attachment,
    shell::netns::{self, Namespace},
};

/// How long the bridge may take to see a new port's carrier.
const CARRIER: Duration = Duration::from_secs(1);

/// An interface that a container has now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// MAC address of the container's end.
    pub mac: MacAddr,
    /// Name of the host's end.
    pub host_ifname: String,
    /// All its addresses, link-local ones left out.
    pub addresses: Vec<IpNet>,
}

/// What a container has by the name of its interface.
enum Inside {
    Nothing,
    /// Something that is not wove's.
    Other,
    /// Wove's interface, with these addresses left; gone if there is none.
    Left(Vec<IpNet>),
}

/// The two ends of a veth as they were found.
struct Pair {
    inside: Option<Link>,
    outside: Option<Link>,
    host_ifname: String,
}

impl Host {
    /// Gives the namespace an interface on the overlay, or adds the addresses it lacks.
    ///
    /// # Errors
    /// The namespace is missing, is none, or is the host's own; the interface
    /// name is taken by something that is not wove's; the kernel refuses. Then the
    /// namespace has what it had before, or the error is [`Stays`].
    pub async fn attach(
        &self,
        netns: &Path,
        ifname: &str,
        addresses: &[IpNet],
        mtu: u32,
    ) -> Result<Attached> {
        names::check_ifname(ifname)?;
        let config = self.config()?;
        let namespace = self.open_foreign(netns)?;
        let pair = self.find_pair(&namespace, &config, ifname).await?;
        let is_new = pair.inside.is_none();
        if is_new {
            self.make_pair(&namespace, &pair, &config.bridge, ifname, mtu)
                .await?;
        }
        let place = Place {
            namespace,
            netns: netns.to_owned(),
            ifname: ifname.to_owned(),
            mtu,
        };
        let before = match is_new {
            true => Vec::new(),
            false => place.addresses().await?,
        };
        let done = self
            .configure(&place, &config, &pair.host_ifname, addresses)
            .await;
        let Err(error) = done else { return done };
        let undone = match is_new {
            true => self.remove_by_name(&pair.host_ifname).await,
            false => place.take_back(new_among(addresses, &before)).await,
        };
        Err(Stays::unless(undone, ifname, error))
    }

    /// Takes addresses from the namespace's interface, and the interface when
    /// none is left or none is given. Gives what is left. The container may have
    /// renamed its end, or taken the mark off it: the host's end decides whether it is
    /// attached.
    ///
    /// # Errors
    /// The interface is not wove's, or the kernel refuses; addresses are to be taken
    /// from an end that cannot be found. That there is nothing to detach is fine.
    pub async fn detach(
        &self,
        netns: &Path,
        ifname: &str,
        addresses: &[IpNet],
    ) -> Result<Vec<IpNet>> {
        names::check_ifname(ifname)?;
        let config = self.config()?;
        let namespace = match self.open_foreign(netns) {
            Ok(namespace) => namespace,
            Err(error) if netns::is_missing(&error) => {
                self.remove_orphan(&config, netns, ifname).await?;
                return Ok(Vec::new());
            }
            Err(error) => return Err(error),
        };
        let (wanted, bridge, taken) = (
            ifname.to_owned(),
            config.bridge.clone(),
            addresses.to_owned(),
        );
        let work = async move |netlink: Netlink| {
            let Some(link) = netlink.link(&wanted).await? else {
                return Ok(Inside::Nothing);
            };
            if !link.is_veth_of(&bridge) {
                return Ok(Inside::Other);
            }
            netlink.remove_addresses(&link, &taken).await?;
            let left = netlink.addresses_of(&link).await?;
            if taken.is_empty() || left.is_empty() {
                netlink.remove(&link).await?;
                return Ok(Inside::Left(Vec::new()));
            }
            Ok(Inside::Left(left))
        };
        let found = namespace.run_async(|| block_on(work)).await?;
        let end = match found {
            Inside::Left(left) => return Ok(left),
            Inside::Nothing | Inside::Other => {
                let name = names::host_ifname(&config.bridge, namespace.identity(), ifname);
                let end = self.netlink.link(&name).await?;
                end.filter(|end| end.is_veth_of(&config.bridge))
            }
        };
        match (end, found) {
            (Some(end), _) => {
                ensure!(
                    addresses.is_empty(),
                    "the container has renamed its end of '{ifname}', or taken wove's mark off it: \
                     detach it without addresses"
                );
                self.netlink.remove(&end).await?;
            }
            (None, Inside::Other) => {
                bail!("interface '{ifname}' in the namespace is not wove's: left as it is")
            }
            (None, _) => {}
        }
        Ok(Vec::new())
    }

    /// The attachments of a list kept by the caller that are still there, as they are now.
    ///
    /// # Errors
    /// None for a single attachment that is gone; only what makes asking impossible.
    pub async fn attachments(&self, known: &[Attachment]) -> Result<Vec<Attachment>> {
        let config = self.config()?;
        let mut found = Vec::new();
        for attachment in known {
            let Ok(namespace) = self.open_foreign(Path::new(&attachment.netns)) else {
                continue;
            };
            let (ifname, bridge) = (attachment.ifname.clone(), config.bridge.clone());
            let work = async move |netlink: Netlink| {
                let Some(link) = netlink
                    .link(&ifname)
                    .await?
                    .filter(|link| link.is_veth_of(&bridge))
                else {
                    return Ok(None);
                };
                Ok(Some((link.mac, netlink.addresses_of(&link).await?)))
            };
            if let Some((mac, addresses)) = namespace.run_async(|| block_on(work)).await? {
                found.push(Attachment {
                    mac,
                    addresses,
                    ..attachment.clone()
                });
            }
        }
        Ok(found)
    }

    /// Those of a list kept by the caller whose interface is gone, with their
    /// namespace as a rule.
    ///
    /// # Errors
    /// Only what makes asking impossible.
    pub async fn vanished(&self, known: &[Attachment]) -> Result<Vec<Attachment>> {
        let config = self.config()?;
        let links = self.netlink.links().await?;
        let has_end = |attachment: &&Attachment| {
            let alias = names::mark_of_veth(&config.bridge, &attachment.ifname, &attachment.netns);
            links
                .iter()
                .any(|link| link.alias == alias && link.is_veth_of(&config.bridge))
        };
        let missed: Vec<Attachment> = known.iter().filter(|a| !has_end(a)).cloned().collect();
        if missed.is_empty() {
            return Ok(missed);
        }
        // Somebody may have changed the mark.
        let left = self.attachments(&missed).await?;
        let is_left = |a: &Attachment| left.iter().any(|l| l.mac == a.mac && l.netns == a.netns);
        Ok(missed.into_iter().filter(|a| !is_left(a)).collect())
    }

    /// Puts the host's ends of all veths back into the bridge.
    pub(super) async fn repair_veths(
        &self,
        config: &HostConfig,
        bridge: &Link,
        repairs: &mut Vec<Repair>,
    ) -> Result<()> {
        for link in self.netlink.links().await? {
            // A half-made one belongs to an attach that is under way or will be repeated.
            if link.is_veth_of(&config.bridge) && !link.is_half_made() {
                let wanted = Wanted {
                    mtu: None,
                    controller: Some(bridge.index),
                    alias: link.alias.clone(),
                };
                self.netlink.settle(link, &wanted, repairs).await?;
            }
        }
        Ok(())
    }

    fn open_foreign(&self, netns: &Path) -> Result<Namespace> {
        let namespace = Namespace::open(netns)?;
        ensure!(
            namespace.identity() != self.own,
            "{} is the host's own network namespace: use `wove expose` to give the host an address",
            netns.display()
        );
        Ok(namespace)
    }

    async fn find_pair(
        &self,
        namespace: &Namespace,
        config: &HostConfig,
        ifname: &str,
    ) -> Result<Pair> {
        let wanted = ifname.to_owned();
        let inside = namespace
            .run_async(|| block_on(async move |netlink: Netlink| netlink.link(&wanted).await))
            .await?;
        let host_ifname = names::host_ifname(&config.bridge, namespace.identity(), ifname);
        let Some(link) = &inside else {
            let outside = self.netlink.link(&host_ifname).await?;
            return Ok(Pair {
                inside,
                outside,
                host_ifname,
            });
        };
        let links = self.netlink.links().await?;
        let is_other_end = |end: &Link| {
            let joined = Some(end.index) == link.other_end && end.other_end == Some(link.index);
            joined && end.is_veth_of(&config.bridge)
        };
        let Some(outside) = links
            .into_iter()
            .find(is_other_end)
            .filter(|_| link.is_veth_of(&config.bridge))
        else {
            bail!(
                "interface '{ifname}' exists in the namespace and is not wove's: choose another name with --ifname"
            );
        };
        // Whatever its name: somebody may have renamed it.
        let host_ifname = outside.name.clone();
        Ok(Pair {
            inside,
            outside: Some(outside),
            host_ifname,
        })
    }

    async fn make_pair(
        &self,
        namespace: &Namespace,
        pair: &Pair,
        bridge: &str,
        ifname: &str,
        mtu: u32,
    ) -> Result<()> {
        if let Some(orphan) = &pair.outside {
            ensure!(
                orphan.is_veth_of(bridge),
                "interface '{}' is not wove's: rename it",
                orphan.name
            );
            self.netlink.remove(orphan).await?;
        }
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(ifname)
            .mtu(mtu)
            .link_group(names::GROUP)
            .address(random_mac()?.0.to_vec())
            .setns_by_fd(namespace.as_fd().as_raw_fd())
            .build();
        let message = LinkMessageBuilder::<LinkVeth>::new(&pair.host_ifname, ifname)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .mtu(mtu)
            .link_group(names::GROUP)
            .build();
        self.netlink.create(&pair.host_ifname, message).await
    }

    async fn configure(
        &self,
        place: &Place,
        config: &HostConfig,
        host_ifname: &str,
        addresses: &[IpNet],
    ) -> Result<Attached> {
        let bridge = self.netlink.link(&config.bridge).await?;
        let bridge = bridge.with_context(|| format!("bridge '{}' is gone", config.bridge))?;
        let outside = self.netlink.link(host_ifname).await?;
        let outside = outside.with_context(|| format!("interface '{host_ifname}' is gone"))?;
        close_to_ip(host_ifname);
        let alias = names::mark_of_veth(
            &config.bridge,
            &place.ifname,
            &place.netns.to_string_lossy(),
        );
        let wanted = Wanted {
            mtu: Some(place.mtu),
            controller: Some(bridge.index),
            alias,
        };
        self.netlink
            .settle(outside, &wanted, &mut Vec::new())
            .await?;

        let (link, present) = place.configure(config, addresses).await?;
        self.await_carrier(host_ifname).await?;
        place.announce(&link, addresses).await?;
        Ok(Attached {
            mac: link.mac,
            host_ifname: host_ifname.to_owned(),
            addresses: present,
        })
    }

    /// The bridge lets frames of a port in only after it has seen its carrier;
    /// an announcement before that would be lost.
    async fn await_carrier(&self, host_ifname: &str) -> Result<()> {
        let step = Duration::from_millis(2);
        let mut left = CARRIER;
        while let Some(rest) = left.checked_sub(step) {
            if self
                .netlink
                .link(host_ifname)
                .await?
                .is_some_and(|link| link.running)
            {
                return Ok(());
            }
            tokio::time::sleep(step).await;
            left = rest;
        }
        tracing::warn!(
            interface = host_ifname,
            "no carrier: the container's addresses were not announced in time"
        );
        Ok(())
    }

    async fn remove_by_name(&self, name: &str) -> Result<()> {
        match self.netlink.link(name).await? {
            Some(link) => self.netlink.remove(&link).await,
            None => Ok(()),
        }
    }

    /// A namespace whose path is gone can live on in a process; its veth then still has our end.
    async fn remove_orphan(&self, config: &HostConfig, netns: &Path, ifname: &str) -> Result<()> {
        let alias = names::mark_of_veth(&config.bridge, ifname, &netns.to_string_lossy());
        for link in self.netlink.links().await? {
            if link.is_veth_of(&config.bridge) && link.alias == alias {
                self.netlink.remove(&link).await?;
            }
        }
        Ok(())
    }
}

/// Where the inner end is.
struct Place {
    namespace: Namespace,
    netns: PathBuf,
    ifname: String,
    mtu: u32,
}

impl Place {
    /// Puts the inner end right; gives it with all its addresses.
    async fn configure(
        &self,
        config: &HostConfig,
        addresses: &[IpNet],
    ) -> Result<(Link, Vec<IpNet>)> {
        let (ifname, addresses) = (self.ifname.clone(), addresses.to_owned());
        let wanted = Wanted {
            mtu: Some(self.mtu),
            controller: None,
            alias: names::mark(&config.bridge),
        };
        let work = async move |netlink: Netlink| {
            let link = netlink.link(&ifname).await?;
            let link =
                link.with_context(|| format!("interface '{ifname}' is gone from the namespace"))?;
            sysctl::ignore_router_advertisements(&ifname);
            if addresses.iter().any(|net| net.addr().is_ipv6()) {
                sysctl::enable_ipv6(&ifname, true);
            }
            let link = netlink.settle(link, &wanted, &mut Vec::new()).await?;
            netlink.add_addresses(&link, &addresses).await?;
            netlink.route_multicast(&link).await?;
            let present = netlink.addresses_of(&link).await?;
            Ok((link, present))
        };
        self.namespace.run_async(|| block_on(work)).await
    }

    /// The addresses of the inner end.
    async fn addresses(&self) -> Result<Vec<IpNet>> {
        let ifname = self.ifname.clone();
        let work = async move |netlink: Netlink| match netlink.link(&ifname).await? {
            Some(link) => netlink.addresses_of(&link).await,
            None => Ok(Vec::new()),
        };
        self.namespace.run_async(|| block_on(work)).await
    }

    /// Takes addresses from the inner end, as far as they are there.
    async fn take_back(&self, mut addresses: Vec<IpNet>) -> Result<()> {
        let ifname = self.ifname.clone();
        let work = async move |netlink: Netlink| {
            let Some(link) = netlink.link(&ifname).await? else {
                return Ok(());
            };
            let present = netlink.addresses_of(&link).await?;
            addresses.retain(|net| present.contains(net));
            netlink.remove_addresses(&link, &addresses).await
        };
        self.namespace.run_async(|| block_on(work)).await
    }

    async fn announce(&self, link: &Link, addresses: &[IpNet]) -> Result<()> {
        let (link, addresses) = (link.clone(), addresses.to_owned());
        self.namespace
            .run_async(move || announce(&link, &addresses))
            .await
    }
}
