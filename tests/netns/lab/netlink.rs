//! Interfaces, addresses and routes inside a namespace, over rtnetlink.
//!
//! Must not know daemons or the underlay. Everything panics with the kernel's
//! answer: a laboratory that cannot be set up is a failed test.

use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::tc::TcHandle;
use rtnetlink::{
    Error, Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, LinkVlan, LinkVxlan,
    RouteMessageBuilder,
};

use super::netns::Netns;

impl Netns {
    /// The index of an interface, if it exists.
    pub(crate) fn link_index(&self, name: &str) -> Option<u32> {
        self.find(name).map(|link| link.header.index)
    }

    /// The MAC address of an interface, if it exists.
    pub(crate) fn link_mac(&self, name: &str) -> Option<[u8; 6]> {
        let link = self.find(name)?;
        link.attributes
            .iter()
            .find_map(|attribute| match attribute {
                LinkAttribute::Address(mac) => mac.as_slice().try_into().ok(),
                _ => None,
            })
    }

    /// The names of all interfaces.
    pub(crate) fn links(&self) -> Vec<String> {
        self.messages().iter().filter_map(name_of).collect()
    }

    /// Sets an interface up.
    pub(crate) fn set_up(&self, name: &str) {
        self.change(name, |link| link.up());
    }

    /// Sets an interface down.
    pub(crate) fn set_down(&self, name: &str) {
        self.change(name, |link| link.down());
    }

    /// Takes an interface out of its bridge.
    pub(crate) fn leave_bridge(&self, name: &str) {
        self.change(name, |link| link.nocontroller());
    }

    /// Sets the MTU, in bytes of the IP packet.
    pub(crate) fn set_mtu(&self, name: &str, mtu: u32) {
        self.change(name, |link| link.mtu(mtu));
    }

    /// Sets the MAC address.
    pub(crate) fn set_mac(&self, name: &str, mac: [u8; 6]) {
        self.change(name, |link| link.address(mac.to_vec()));
    }

    /// Sets how many packets the interface queues.
    pub(crate) fn set_queue(&self, name: &str, packets: u32) {
        self.change(name, |link| link.txqueuelen(packets));
    }

    /// Removes an interface.
    pub(crate) fn delete_link(&self, name: &str) {
        let index = self.index(name);
        self.netlink("delete a link", async move |h| {
            h.link().del(index).execute().await
        });
    }

    /// Takes all programs (tc) off an interface.
    pub(crate) fn delete_programs(&self, name: &str) {
        let index = self.index(name).cast_signed();
        self.netlink("delete a qdisc", async move |h| {
            let mut request = h.qdisc().del(index);
            request.message_mut().header.parent = TcHandle::CLSACT;
            request.execute().await
        });
    }

    /// Makes a bridge.
    pub(crate) fn add_bridge(&self, name: &str) {
        let link = LinkBridge::new(name).build();
        self.netlink("add a bridge", async move |h| {
            h.link().add(link).execute().await
        });
    }

    /// Makes a veth pair with both ends here.
    pub(crate) fn add_veth(&self, name: &str, peer: &str) {
        let link = LinkVeth::new(name, peer).build();
        self.netlink("add a veth", async move |h| {
            h.link().add(link).execute().await
        });
    }

    /// Makes a veth pair with one end here and the other elsewhere.
    pub(crate) fn add_veth_to(&self, name: &str, other: &Self, peer: &str) {
        self.add_veth(name, peer);
        let fd = other.descriptor();
        self.change(peer, |link| link.setns_by_fd(fd));
    }

    /// Makes an interface for the frames of one VLAN of another; false where
    /// the kernel has none.
    pub(crate) fn add_vlan(&self, name: &str, base: &str, id: u16) -> bool {
        let link = LinkVlan::new(name, self.index(base), id).up().build();
        self.netlink("add a VLAN", async move |h| {
            match h.link().add(link).execute().await {
                Err(Error::NetlinkError(e)) if e.raw_code() == -libc::EOPNOTSUPP => Ok(false),
                done => done.map(|()| true),
            }
        })
    }

    /// Makes a VXLAN device from one address to another, on a UDP port.
    pub(crate) fn add_vxlan(&self, name: &str, (local, remote): (IpAddr, IpAddr), port: u16) {
        let link = LinkVxlan::new(name, 42).port(port);
        let link = match local {
            IpAddr::V4(local) => link.local(local),
            IpAddr::V6(local) => link.local6(local),
        };
        let link = match remote {
            IpAddr::V4(remote) => link.remote(remote),
            IpAddr::V6(remote) => link.remote6(remote),
        };
        let link = link.build();
        self.netlink("add a VXLAN device", async move |h| {
            h.link().add(link).execute().await
        });
    }

    /// Gives an interface an address.
    pub(crate) fn add_address(&self, name: &str, address: IpAddr, prefix: u8) {
        let index = self.index(name);
        self.netlink("add an address", async move |h| {
            let mut request = h.address().add(index, address, prefix);
            if address.is_ipv6() {
                // Until it is known that nobody else has it datagrams would leave from
                // another, on a busy machine for long enough to stay there.
                request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
            }
            request.execute().await
        });
    }

    /// Takes an address from an interface.
    pub(crate) fn delete_address(&self, name: &str, address: IpAddr) {
        let index = self.index(name);
        self.netlink("delete an address", async move |h| {
            let mut found = h
                .address()
                .get()
                .set_link_index_filter(index)
                .set_address_filter(address)
                .execute();
            while let Some(message) = found.try_next().await? {
                h.address().del(message).execute().await?;
            }
            Ok(())
        });
    }

    /// Sends what has no other way to `gateway`.
    pub(crate) fn add_default_route(&self, gateway: Ipv4Addr) {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .gateway(gateway)
            .build();
        self.netlink("add a route", async move |h| {
            h.route().add(route).execute().await
        });
    }

    /// The addresses of an interface, those of its own making included.
    pub(crate) fn addresses(&self, name: &str) -> Vec<IpAddr> {
        let index = self.index(name);
        let messages = self.netlink("list addresses", async move |h| {
            let all = h.address().get().set_link_index_filter(index).execute();
            all.try_collect::<Vec<_>>().await
        });
        let attributes = messages.into_iter().flat_map(|m| m.attributes);
        attributes
            .filter_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(address),
                _ => None,
            })
            .collect()
    }

    fn index(&self, name: &str) -> u32 {
        self.link_index(name)
            .unwrap_or_else(|| panic!("there is no interface {name}"))
    }

    fn find(&self, name: &str) -> Option<LinkMessage> {
        let mut links = self.messages().into_iter();
        links.find(|link| name_of(link).as_deref() == Some(name))
    }

    fn messages(&self) -> Vec<LinkMessage> {
        self.netlink("list links", async |h| {
            h.link().get().execute().try_collect::<Vec<_>>().await
        })
    }

    fn change(
        &self,
        name: &str,
        how: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
    ) {
        let message = how(LinkUnspec::new_with_index(self.index(name))).build();
        let what = format!("change {name}");
        self.netlink(&what, async move |h| h.link().set(message).execute().await);
    }

    fn netlink<T, F>(&self, what: &str, work: F) -> T
    where
        T: Send,
        F: AsyncFnOnce(Handle) -> Result<T, Error> + Send,
    {
        let done = self.run(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime needs a few descriptors only");
            runtime.block_on(async move {
                let (connection, handle, _) =
                    rtnetlink::new_connection().expect("a netlink socket needs a descriptor only");
                tokio::spawn(connection);
                work(handle).await
            })
        });
        done.unwrap_or_else(|e| panic!("netlink, {what}: {e}"))
    }
}

fn name_of(link: &LinkMessage) -> Option<String> {
    link.attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        })
}
