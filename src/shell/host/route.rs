//! Routes: where the underlay leads, and multicast inside a container.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use futures_util::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteScope,
};
use rtnetlink::RouteMessageBuilder;

use super::{
    link::Link,
    netlink::{Netlink, unless},
};

const MULTICAST: (Ipv4Addr, u8) = (Ipv4Addr::new(224, 0, 0, 0), 4);

impl Netlink {
    /// Index of the device that the preferred default route uses; IPv4 before IPv6.
    pub(super) async fn default_device(&self) -> Result<Option<u32>> {
        let four = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let six = RouteMessageBuilder::<Ipv6Addr>::new().build();
        for family in [four, six] {
            let best = self
                .routes(family)
                .await?
                .iter()
                .filter_map(default_route)
                .min();
            if let Some((_, index)) = best {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    /// Routes into a network, or that the network is in, and their devices.
    /// Default routes do not count.
    pub(super) async fn route_within(&self, net: IpNet) -> Result<Vec<(IpNet, Option<u32>)>> {
        let family = match net {
            IpNet::V4(_) => RouteMessageBuilder::<Ipv4Addr>::new().build(),
            IpNet::V6(_) => RouteMessageBuilder::<Ipv6Addr>::new().build(),
        };
        let routes = self.routes(family).await?;
        let overlaps =
            |(to, _): &(IpNet, _)| to.contains(&net.network()) || net.contains(&to.network());
        let found = routes.iter().filter_map(destination);
        Ok(found.filter(overlaps).collect())
    }

    /// Sends IPv4 multicast out of `link` unless something else is said for all of it.
    pub(super) async fn route_multicast(&self, link: &Link) -> Result<()> {
        let (address, prefix) = MULTICAST;
        let routes = self
            .routes(RouteMessageBuilder::<Ipv4Addr>::new().build())
            .await?;
        if routes.iter().any(is_multicast) {
            return Ok(());
        }
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(address, prefix)
            .output_interface(link.index)
            .scope(RouteScope::Link)
            .build();
        let result = unless(
            self.handle.route().add(route).execute().await,
            &[libc::EEXIST],
        );
        result.with_context(|| format!("no multicast route through '{}'", link.name))?;
        Ok(())
    }

    async fn routes(&self, family: RouteMessage) -> Result<Vec<RouteMessage>> {
        let _one = self.dump.lock().await;
        let found = unless(
            self.handle
                .route()
                .get(family)
                .execute()
                .try_collect()
                .await,
            // A kernel without IPv6 knows no such routes.
            &[libc::EAFNOSUPPORT, libc::EOPNOTSUPP],
        )?;
        Ok(found.unwrap_or_default())
    }
}

/// Where a route of the main table leads, and by which device; none for a default route.
fn destination(route: &RouteMessage) -> Option<(IpNet, Option<u32>)> {
    let prefix = route.header.destination_prefix_length;
    if prefix == 0 || route.header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let address = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
            RouteAttribute::Destination(RouteAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
            _ => None,
        })?;
    let device = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        });
    Some((IpNet::new(address, prefix).ok()?, device))
}

/// Metric and device of a default route of the main table.
fn default_route(route: &RouteMessage) -> Option<(u32, u32)> {
    if route.header.destination_prefix_length != 0
        || route.header.table != RouteHeader::RT_TABLE_MAIN
    {
        return None;
    }
    let mut metric = 0;
    let mut device = None;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::MultiPath(hops) => {
                device = device.or(hops.first().map(|hop| hop.interface_index))
            }
            _ => {}
        }
    }
    Some((metric, device?))
}

fn is_multicast(route: &RouteMessage) -> bool {
    let (address, prefix) = MULTICAST;
    let destination = RouteAttribute::Destination(RouteAddress::Inet(address));
    route.header.destination_prefix_length == prefix && route.attributes.contains(&destination)
}
