//! What the host offers to the underlay: its MTU and the addresses it can be reached at.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use socket2::{Domain, Socket, Type};

use super::{Host, address::is_link_local, link::Link};

/// MTU taken for granted where there is nothing to ask, in bytes.
const ETHERNET: u32 = 1500;

impl Host {
    /// MTU of the device that the default route uses; without such a route the
    /// smallest of the devices that are up and not wove's; without any, 1500.
    pub async fn underlay_mtu(&self) -> Result<u32> {
        let links = self.netlink.links().await?;
        if let Some(index) = self.netlink.default_device().await? {
            let device = links
                .iter()
                .find(|link| link.index == index && !link.is_of_any_wove());
            if let Some(link) = device {
                return Ok(link.mtu);
            }
        }
        let smallest = links
            .iter()
            .filter(|link| is_underlay(link))
            .map(|link| link.mtu)
            .min();
        Ok(smallest.unwrap_or(ETHERNET))
    }

    /// Unicast addresses of devices that are up and not wove's: what others may
    /// reach this host at. Neither loopback nor link-local.
    pub async fn local_addresses(&self) -> Result<Vec<IpAddr>> {
        let links = self.netlink.links().await?;
        let is_offered = |index: u32| {
            links
                .iter()
                .any(|link| link.index == index && is_underlay(link))
        };
        let mut found: Vec<IpAddr> = self
            .netlink
            .addresses()
            .await?
            .into_iter()
            .filter(|address| !address.unusable && is_offered(address.index))
            .map(|address| address.net.addr())
            .filter(|&ip| {
                !ip.is_loopback()
                    && !ip.is_unspecified()
                    && !ip.is_multicast()
                    && !is_link_local(ip)
            })
            .collect();
        found.sort();
        found.dedup();
        Ok(found)
    }
}

fn is_underlay(link: &Link) -> bool {
    link.up && !link.loopback && !link.is_of_any_wove()
}

/// The addresses of this host from which datagrams to the rest of the world would leave.
pub fn outward() -> Vec<IpAddr> {
    // Addresses of documentation (RFC 5737, RFC 3849): to connect sends nothing.
    let ways: [SocketAddr; 2] = [
        ([192, 0, 2, 1], 9).into(),
        ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 9).into(),
    ];
    let from = |there: SocketAddr| {
        let socket = Socket::new(Domain::for_address(there), Type::DGRAM, None).ok()?;
        socket.connect(&there.into()).ok()?;
        Some(socket.local_addr().ok()?.as_socket()?.ip())
    };
    ways.into_iter().filter_map(from).collect()
}
