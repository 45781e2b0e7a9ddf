//! Changing the calling thread's network namespace in tests, in the words of
//! iproute2 but without it: a test needs nothing but root.

use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt;
use netlink_packet_route::{link::LinkMessage, route::RouteType};
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
};

/// Does what `ip ARGUMENTS` would; panics on a word it does not know.
pub(in crate::shell) fn ip(arguments: &str) {
    let words: Vec<&str> = arguments.split(' ').collect();
    with_netlink(async |net| match words[..] {
        [
            "link",
            "add",
            "name",
            name,
            ..,
            "type",
            "veth",
            "peer",
            "name",
            peer,
        ] => {
            net.link()
                .add(LinkVeth::new(name, peer).build())
                .execute()
                .await
                .unwrap();
            set(&net, name, &words[4..words.len() - 5]).await;
        }
        ["link", "add", "name", name, .., "type", "bridge"] => {
            net.link()
                .add(LinkBridge::new(name).build())
                .execute()
                .await
                .unwrap();
            set(&net, name, &words[4..words.len() - 2]).await;
        }
        ["link", "del", name] => net
            .link()
            .del(index(&net, name).await)
            .execute()
            .await
            .unwrap(),
        ["link", "set", name, ..] => set(&net, name, &words[3..]).await,
        ["addr", "add", address, "dev", name, ..] => add_address(&net, address, name).await,
        ["route", "add", "default", "via", gateway] => {
            let gateway: Ipv4Addr = gateway.parse().unwrap();
            let route = RouteMessageBuilder::<Ipv4Addr>::new()
                .gateway(gateway)
                .build();
            net.route().add(route).execute().await.unwrap();
        }
        ["route", "add", "blackhole", to] => {
            let to = to.strip_suffix("/32").unwrap().parse().unwrap();
            let route = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(to, 32)
                .kind(RouteType::BlackHole);
            net.route().add(route.build()).execute().await.unwrap();
        }
        _ => panic!("ip {arguments}"),
    });
}

/// All devices, as the kernel describes them.
pub(in crate::shell) fn links() -> Vec<LinkMessage> {
    with_netlink(async |net| net.link().get().execute().try_collect().await.unwrap())
}

/// All IPv4 routes, in their debug form.
pub(in crate::shell) fn routes() -> String {
    let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let routes: Vec<_> =
        with_netlink(async |net| net.route().get(all).execute().try_collect().await.unwrap());
    format!("{routes:?}")
}

/// A thread of its own: the caller may be inside a runtime.
fn with_netlink<T: Send>(work: impl AsyncFnOnce(Handle) -> T + Send) -> T {
    let body = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().unwrap();
            tokio::spawn(connection);
            work(handle).await
        })
    };
    std::thread::scope(|scope| scope.spawn(body).join().unwrap())
}

async fn set(net: &Handle, name: &str, words: &[&str]) {
    let mut change = LinkMessageBuilder::<LinkUnspec>::new().index(index(net, name).await);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        change = match *word {
            "up" => change.up(),
            "down" => change.down(),
            "nomaster" => change.nocontroller(),
            "name" => change.name((*words.next().unwrap()).to_owned()),
            "alias" => {
                change.append_extra_attribute(netlink_packet_route::link::LinkAttribute::IfAlias(
                    (*words.next().unwrap()).to_owned(),
                ))
            }
            "mtu" => change.mtu(words.next().unwrap().parse().unwrap()),
            "txqueuelen" => change.append_extra_attribute(
                netlink_packet_route::link::LinkAttribute::TxQueueLen(
                    words.next().unwrap().parse().unwrap(),
                ),
            ),
            "group" => {
                change.append_extra_attribute(netlink_packet_route::link::LinkAttribute::Group(
                    words.next().unwrap().parse().unwrap(),
                ))
            }
            other => panic!("ip link set {other}"),
        };
    }
    net.link().set(change.build()).execute().await.unwrap();
}

async fn add_address(net: &Handle, address: &str, name: &str) {
    let (ip, prefix) = address.split_once('/').unwrap();
    let ip: IpAddr = ip.parse().unwrap();
    let mut request = net
        .address()
        .add(index(net, name).await, ip, prefix.parse().unwrap());
    if ip.is_ipv6() {
        request.message_mut().header.flags |=
            netlink_packet_route::address::AddressHeaderFlags::Nodad;
    }
    request.execute().await.unwrap();
}

async fn index(net: &Handle, name: &str) -> u32 {
    let found = net
        .link()
        .get()
        .match_name(name.to_owned())
        .execute()
        .try_next()
        .await
        .unwrap();
    found.unwrap_or_else(|| panic!("no {name}")).header.index
}
