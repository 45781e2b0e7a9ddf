//! IP addresses of the host and of containers.

use std::net::IpAddr;

use anyhow::{Context, Result};
use futures_util::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage},
};

use super::{
    link::Link,
    netlink::{Netlink, explain, unless},
    sysctl,
};

/// A device cannot have IPv6 addresses.
#[derive(Debug, thiserror::Error)]
#[error(
    "IPv6 is switched off here (net.ipv6.conf.*.disable_ipv6, ipv6.disable at boot, or an MTU below 1280)"
)]
pub struct NoIpv6;

/// Something failed, and the addresses that it had given could not be taken back.
#[derive(Debug, thiserror::Error)]
#[error("new addresses stay on '{ifname}', take them off by hand ({why})")]
pub struct Stays {
    ifname: String,
    why: String,
}

impl Stays {
    /// What failed, and that it stays if it could not be undone.
    pub fn unless(undone: Result<()>, ifname: &str, error: anyhow::Error) -> anyhow::Error {
        let Err(undoing) = undone else { return error };
        error.context(Self {
            ifname: ifname.to_owned(),
            why: format!("{undoing:#}"),
        })
    }
}

/// What the kernel says where there is no IPv6 at all, or not on a device.
const NO_IPV6: [i32; 3] = [libc::EACCES, libc::EAFNOSUPPORT, libc::EOPNOTSUPP];
/// What it says where the MTU is too small for IPv6, depending on its version.
const TOO_SMALL: [i32; 2] = [libc::EINVAL, libc::ENOBUFS];
/// The smallest MTU of a device with IPv6 (RFC 8200, section 5).
const LEAST_MTU: u32 = 1280;

/// An address of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) index: u32,
    pub(super) net: IpNet,
    /// The kernel would not yet, or not any more, use it as a source.
    pub(super) unusable: bool,
}

impl Netlink {
    /// All addresses of the namespace.
    pub(super) async fn addresses(&self) -> Result<Vec<Address>> {
        let _one = self.dump.lock().await;
        let found: Vec<AddressMessage> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(explain)?;
        Ok(found.iter().filter_map(parse).collect())
    }

    /// A device's addresses, without link-local ones, which the kernel gives by itself.
    pub(super) async fn addresses_of(&self, link: &Link) -> Result<Vec<IpNet>> {
        let mut found: Vec<IpNet> = self
            .addresses()
            .await?
            .into_iter()
            .filter(|address| address.index == link.index && !is_link_local(address.net.addr()))
            .map(|address| address.net)
            .collect();
        found.sort();
        Ok(found)
    }

    /// Gives a device the addresses it lacks, and tells which those were; all of
    /// them or none.
    ///
    /// IPv6 addresses are not probed for duplicates (RFC 4862 5.4): the address
    /// space is wove's, and a container wants to talk at once.
    pub(super) async fn add_addresses(&self, link: &Link, wanted: &[IpNet]) -> Result<Vec<IpNet>> {
        let present = self.addresses_of(link).await?;
        let mut added = Vec::new();
        for &net in wanted {
            if present.contains(&net) || added.contains(&net) {
                continue;
            }
            if let Err(error) = self.add_address(link, net).await {
                for net in added {
                    self.remove_address(link, net).await?;
                }
                return Err(error);
            }
            added.push(net);
        }
        Ok(added)
    }

    async fn add_address(&self, link: &Link, net: IpNet) -> Result<()> {
        let mut request = self
            .handle
            .address()
            .add(link.index, net.addr(), net.prefix_len());
        if net.addr().is_ipv6() {
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        let answer = request.execute().await;
        let result = match &answer {
            Err(rtnetlink::Error::NetlinkError(message))
                if net.addr().is_ipv6()
                    && lacks_ipv6(link.mtu, message.raw_code().saturating_neg()) =>
            {
                Err(NoIpv6.into())
            }
            _ => unless(answer, &[libc::EEXIST]),
        };
        result.with_context(|| format!("address {net} cannot be given to '{}'", link.name))?;
        Ok(())
    }

    /// Takes addresses from a device; those it lacks are fine, and all others stay.
    pub(super) async fn remove_addresses(&self, link: &Link, unwanted: &[IpNet]) -> Result<()> {
        sysctl::keep_secondary_addresses(&link.name);
        let mut others = self.addresses_of(link).await?;
        others.retain(|net| !unwanted.contains(net));
        for net in unwanted {
            self.remove_address(link, *net).await?;
        }
        // Where the setting could not be changed, the kernel took them as well.
        self.add_addresses(link, &others).await?;
        Ok(())
    }

    async fn remove_address(&self, link: &Link, net: IpNet) -> Result<()> {
        let mut message = AddressMessage::default();
        message.header.index = link.index;
        message.header.prefix_len = net.prefix_len();
        message.header.family = match net {
            IpNet::V4(_) => AddressFamily::Inet,
            IpNet::V6(_) => AddressFamily::Inet6,
        };
        message
            .attributes
            .push(AddressAttribute::Address(net.addr()));
        message.attributes.push(AddressAttribute::Local(net.addr()));
        let result = unless(
            self.handle.address().del(message).execute().await,
            &[libc::EADDRNOTAVAIL],
        );
        result.with_context(|| format!("address {net} cannot be taken from '{}'", link.name))?;
        Ok(())
    }
}

/// Whether a device of that MTU refuses an address because it has no IPv6.
fn lacks_ipv6(mtu: u32, errno: i32) -> bool {
    NO_IPV6.contains(&errno) || (mtu < LEAST_MTU && TOO_SMALL.contains(&errno))
}

fn parse(message: &AddressMessage) -> Option<Address> {
    let find =
        |pick: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(pick);
    // On a point-to-point device the first is the other side's address.
    let local = find(|a| match a {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    let address = local.or_else(|| {
        find(|a| match a {
            AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        })
    })?;
    let flags = message.attributes.iter().find_map(|a| match a {
        AddressAttribute::Flags(flags) => Some(*flags),
        _ => None,
    });
    let passing = AddressFlags::Tentative | AddressFlags::Dadfailed | AddressFlags::Deprecated;
    Some(Address {
        index: message.header.index,
        net: IpNet::new(address, message.header.prefix_len).ok()?,
        unusable: flags.is_some_and(|flags| flags.intersects(passing)),
    })
}

/// Those of `wanted` that were not there before.
pub(super) fn new_among(wanted: &[IpNet], before: &[IpNet]) -> Vec<IpNet> {
    let is_new = |net: &&IpNet| !before.contains(net);
    wanted.iter().filter(is_new).copied().collect()
}

/// Whether an address means something on one link only.
pub(super) fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_address_is_not_taken_for_a_device_without_ipv6() {
        assert!(lacks_ipv6(1500, libc::EACCES));
        assert!(lacks_ipv6(1279, libc::EINVAL) && lacks_ipv6(1279, libc::ENOBUFS));
        assert!(!lacks_ipv6(1280, libc::EINVAL) && !lacks_ipv6(1279, libc::EPERM));
    }

    #[test]
    fn what_failed_is_still_known_where_it_could_not_be_undone() {
        let failed = || anyhow::Error::from(NoIpv6).context("failed");
        let undone = Stays::unless(Ok(()), "wove0", failed());
        assert!(undone.is::<NoIpv6>() && !undone.is::<Stays>());
        let stays = Stays::unless(Err(anyhow::anyhow!("refused")), "wove0", failed());
        assert!(stays.is::<NoIpv6>() && stays.is::<Stays>());
        let text = format!("{stays:#}");
        assert!(
            text.contains("stay on 'wove0'") && text.contains("refused"),
            "{text}"
        );
    }
}
