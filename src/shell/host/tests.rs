//! The host against a real kernel, each test in a network namespace of its own.

use std::{
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
    time::Duration,
};

use netlink_packet_route::link::{LinkAttribute, LinkMessage};

use super::*;
use crate::{
    engine::Attachment,
    shell::{
        netns::{
            lab::{self, ip},
            testing::in_fresh_namespace,
        },
        tap::{FrameBatch, Tap},
    },
};

/// A host in a namespace of its own, with its TAP open.
struct World {
    host: Host,
    tap: Tap,
}

impl World {
    fn config() -> HostConfig {
        HostConfig {
            bridge: "wove".into(),
            tap: "wovetap".into(),
            mtu: 1400,
        }
    }

    async fn set_up() -> Self {
        let world = Self::bare();
        world.host.set_up(Self::config()).await.unwrap();
        world
    }

    fn bare() -> Self {
        let tap = Tap::open("wovetap").unwrap();
        Self {
            host: Host::new().unwrap(),
            tap,
        }
    }

    async fn link(&self, name: &str) -> Link {
        self.host
            .netlink
            .link(name)
            .await
            .unwrap()
            .unwrap_or_else(|| panic!("no {name}"))
    }

    async fn names(&self) -> Vec<String> {
        self.host
            .netlink
            .links()
            .await
            .unwrap()
            .into_iter()
            .map(|link| link.name)
            .collect()
    }

    /// Frames that came out of the TAP within a moment.
    async fn captured(&self) -> Vec<Vec<u8>> {
        let mut batch = FrameBatch::new(64, 1 << 16);
        let mut frames = Vec::new();
        for _ in 0..50 {
            self.tap.recv_batch(&mut batch).unwrap();
            frames.extend(batch.frames().map(|(_, frame)| frame.to_vec()));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        frames
    }
}

fn story(work: impl AsyncFnOnce() + Send) {
    in_fresh_namespace(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(work());
    });
}

/// A container: a namespace and a path to it.
fn container() -> (Namespace, PathBuf) {
    let namespace = Namespace::fresh().unwrap();
    let path = PathBuf::from(format!("/proc/self/fd/{}", namespace.as_fd().as_raw_fd()));
    (namespace, path)
}

/// What the kernel says of a device of the present namespace.
fn detail(name: &str) -> String {
    let is_named = |link: &LinkMessage| {
        link.attributes
            .contains(&LinkAttribute::IfName(name.to_owned()))
    };
    format!("{:?}", lab::links().into_iter().find(is_named))
}

fn nets(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|net| net.parse().unwrap()).collect()
}

#[test]
fn setting_up_twice_changes_nothing_and_a_new_process_finds_it_again() {
    story(async || {
        let world = World::bare();
        let first = world.host.set_up(World::config()).await.unwrap();
        assert_eq!(world.host.set_up(World::config()).await.unwrap(), first);
        assert_eq!(world.host.repair().await.unwrap(), []);
        let bridge = world.link("wove").await;
        assert!(bridge.up && bridge.mtu == 1400 && bridge.mac == first.mac);
        assert_eq!(world.link("wovetap").await.controller, Some(first.bridge));
        assert!(world.link("wovetap").await.queue > 1000);
        ip("link set wovetap txqueuelen 500");
        assert_eq!(world.host.repair().await.unwrap(), []);
        assert_eq!(
            world.link("wovetap").await.queue,
            500,
            "it is the operator's"
        );
        let detail = detail("wove");
        assert!(
            detail.contains("StpState(Disabled)") && detail.contains("MulticastSnooping(false)"),
            "{detail}"
        );
        for device in ["wove", "wovetap"] {
            let path = format!("/proc/sys/net/ipv6/conf/{device}/accept_ra");
            assert_eq!(
                std::fs::read_to_string(path).unwrap().trim(),
                "0",
                "{device}"
            );
        }

        // kill -9: the TAP goes with its process, the bridge stays.
        drop(world);
        let again = World::bare().host.set_up(World::config()).await.unwrap();
        assert_eq!((again.bridge, again.mac), (first.bridge, first.mac));
    });
}

#[test]
fn a_bridge_that_is_not_ours_is_refused_and_left_alone() {
    story(async || {
        for kind in ["bridge", "dummy"] {
            if kind == "dummy" {
                ip("link add name wove type veth peer name other");
            } else {
                ip("link add name wove type bridge");
            }
            let world = World::bare();
            let error = world
                .host
                .set_up(World::config())
                .await
                .unwrap_err()
                .to_string();
            assert_eq!(
                error,
                "bridge 'wove' exists and is not wove's: choose another name with --bridge"
            );
            world.host.tear_down("wove").await.unwrap();
            assert!(world.names().await.contains(&"wove".to_owned()));
            ip("link del wove");
        }
    });
}

#[test]
fn only_a_tap_becomes_the_port_to_userspace() {
    story(async || {
        let world = World::bare();
        ip("link add name uplink type veth peer name far");
        let config = HostConfig {
            tap: "uplink".into(),
            ..World::config()
        };
        let error = world.host.set_up(config).await.unwrap_err().to_string();
        assert!(error.contains("'uplink' is not a TAP device"), "{error}");
        assert_eq!(world.link("uplink").await.controller, None);
    });
}

#[test]
fn a_bridge_left_unmarked_by_a_crash_is_taken_over() {
    story(async || {
        ip(&format!(
            "link add name wove group {} type bridge",
            names::GROUP
        ));
        let world = World::set_up().await;
        assert_eq!(world.link("wove").await.alias, "wove/wove");
    });
}

#[test]
fn attach_is_idempotent_and_adds_what_is_missing() {
    story(async || {
        let world = World::set_up().await;
        let (inside, path) = container();
        let one = nets(&["10.32.0.1/12"]);
        let first = world.host.attach(&path, "wove0", &one, 1400).await.unwrap();
        assert_eq!(first.addresses, one);
        let both = nets(&["10.32.0.1/12", "fd00:32::1/64"]);
        let second = world
            .host
            .attach(&path, "wove0", &both, 1380)
            .await
            .unwrap();
        assert_eq!(
            (second.mac, &second.host_ifname),
            (first.mac, &first.host_ifname)
        );
        assert_eq!(second.addresses, both);

        let port = world.link(&first.host_ifname).await;
        assert_eq!(port.controller, Some(world.link("wove").await.index));
        assert!(port.up && port.mtu == 1380);
        let (detail, routes) = inside.run(|| Ok((detail("wove0"), lab::routes()))).unwrap();
        assert!(
            detail.contains("Mtu(1380)") && detail.contains("Up"),
            "{detail}"
        );
        assert!(routes.contains("Destination(Inet(224.0.0.0))"), "{routes}");
        assert_eq!(
            format!("{:?}", lab::links())
                .matches("IfName(\"wv-")
                .count(),
            1
        );
    });
}

#[test]
fn attach_tells_everybody_where_the_addresses_are() {
    story(async || {
        let world = World::set_up().await;
        let (_inside, path) = container();
        world.captured().await;
        let attached = world
            .host
            .attach(
                &path,
                "wove0",
                &nets(&["10.32.0.1/12", "fd00:32::1/64"]),
                1400,
            )
            .await
            .unwrap();
        let frames = world.captured().await;
        let from_container = |frame: &&Vec<u8>| frame[6..12] == attached.mac.0;
        let arp = frames
            .iter()
            .filter(from_container)
            .any(|f| f[12..14] == [8, 6] && f[28..32] == [10, 32, 0, 1]);
        let na = frames
            .iter()
            .filter(from_container)
            .any(|f| f[12..14] == [0x86, 0xdd] && f[54] == 136);
        assert!(arp && na, "{frames:02x?}");
    });
}

#[test]
fn detach_takes_addresses_and_with_the_last_the_interface() {
    story(async || {
        let world = World::set_up().await;
        let (_inside, path) = container();
        let all = nets(&["10.32.0.1/12", "10.32.0.2/12", "fd00:32::1/64"]);
        world.host.attach(&path, "wove0", &all, 1400).await.unwrap();
        let known = Attachment {
            netns: path.to_str().unwrap().into(),
            ifname: "wove0".into(),
            mac: MacAddr::default(),
            addresses: vec![],
            naming: Default::default(),
        };
        assert_eq!(
            world
                .host
                .attachments(std::slice::from_ref(&known))
                .await
                .unwrap()[0]
                .addresses,
            all
        );

        let host = &world.host;
        assert_eq!(
            host.detach(&path, "wove0", &all[..1]).await.unwrap(),
            all[1..]
        );
        assert_eq!(
            host.detach(&path, "wove0", &all[..1]).await.unwrap(),
            all[1..]
        );
        assert_eq!(host.detach(&path, "wove0", &all[1..]).await.unwrap(), []);
        assert_eq!(host.attachments(&[known]).await.unwrap(), []);
        assert!(
            !world
                .names()
                .await
                .iter()
                .any(|name| name.starts_with("wv-"))
        );
        host.attach(&path, "wove0", &all, 1400).await.unwrap();
        assert_eq!(host.detach(&path, "wove0", &[]).await.unwrap(), []);
        assert_eq!(host.detach(&path, "wove0", &[]).await.unwrap(), []);
        assert_eq!(
            host.detach(Path::new("/run/netns/never-was"), "wove0", &[])
                .await
                .unwrap(),
            []
        );
    });
}

#[test]
fn a_container_that_hides_its_end_is_detached_all_the_same() {
    story(async || {
        let world = World::set_up().await;
        let (inside, path) = container();
        let nets = nets(&["10.32.0.1/12", "10.32.0.2/12"]);
        let hide: [&[&str]; 3] = [
            &["link set wove0 down", "link set wove0 name eth7"],
            &["link set wove0 alias mine"],
            &[
                "link set wove0 down",
                "link set wove0 name eth7",
                "link add name wove0 type bridge",
            ],
        ];
        for commands in hide {
            world
                .host
                .attach(&path, "wove0", &nets, 1400)
                .await
                .unwrap();
            inside
                .run(|| {
                    commands.iter().for_each(|command| ip(command));
                    Ok(())
                })
                .unwrap();
            let some = world.host.detach(&path, "wove0", &nets[..1]).await;
            let error = format!("{:#}", some.unwrap_err());
            assert!(error.contains("renamed its end"), "{error}");
            assert_eq!(world.host.detach(&path, "wove0", &[]).await.unwrap(), []);
            let names = world.names().await;
            assert!(!names.iter().any(|name| name.starts_with("wv-")));
        }
    });
}

#[test]
fn attach_refuses_what_it_must_not_touch() {
    story(async || {
        let world = World::set_up().await;
        let error = async |path: &Path, ifname: &str| {
            let refused = world
                .host
                .attach(path, ifname, &nets(&["10.32.0.1/12"]), 1400)
                .await;
            format!("{:#}", refused.unwrap_err())
        };
        let own = error(Path::new("/proc/thread-self/ns/net"), "wove0").await;
        assert!(own.contains("host's own network namespace"), "{own}");
        let missing = error(Path::new("/run/netns/never-was"), "wove0").await;
        assert!(
            missing.contains("/run/netns/never-was cannot be opened"),
            "{missing}"
        );
        let (inside, path) = container();
        assert!(
            error(&path, "../evil")
                .await
                .contains("not an interface name")
        );
        inside
            .run(|| {
                ip("link add name wove0 type bridge");
                Ok(())
            })
            .unwrap();
        let taken = error(&path, "wove0").await;
        assert!(
            taken.contains("exists in the namespace and is not wove's"),
            "{taken}"
        );
        assert!(world.host.detach(&path, "wove0", &[]).await.is_err());
        assert!(
            !world
                .names()
                .await
                .iter()
                .any(|name| name.starts_with("wv-"))
        );
    });
}

#[test]
fn a_failed_attach_leaves_nothing_behind() {
    story(async || {
        let world = World::set_up().await;
        let (_inside, path) = container();
        let impossible = nets(&["224.0.0.1/4"]);
        assert!(
            world
                .host
                .attach(&path, "wove0", &impossible, 1400)
                .await
                .is_err()
        );
        assert!(
            !world
                .names()
                .await
                .iter()
                .any(|name| name.starts_with("wv-"))
        );
    });
}

#[test]
fn what_somebody_damages_is_put_right_and_told() {
    story(async || {
        let world = World::set_up().await;
        let (_inside, path) = container();
        let port = world
            .host
            .attach(&path, "wove0", &nets(&["10.32.0.1/12"]), 1400)
            .await
            .unwrap()
            .host_ifname;
        world
            .host
            .expose(&nets(&["10.32.0.9/12", "fd00:32::9/64"]))
            .await
            .unwrap();
        let mac = world.link("wove").await.mac;

        ip("link set wove down mtu 1300");
        ip("link set wovetap nomaster");
        ip(&format!("link set {port} down nomaster"));
        let done: Vec<String> = world
            .host
            .repair()
            .await
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect();
        for name in ["wove", "wovetap", &port] {
            assert!(
                done.iter().any(|line| line.contains(&format!("'{name}'"))),
                "{name}: {done:?}"
            );
        }
        assert_eq!(world.host.repair().await.unwrap(), []);

        ip("link del wove");
        let done = world.host.repair().await.unwrap();
        assert!(
            done.contains(&Repair::Made {
                name: "wove".into()
            }),
            "{done:?}"
        );
        assert!(
            done.contains(&Repair::Joined { name: port.clone() }),
            "{done:?}"
        );
        let bridge = world.link("wove").await;
        assert_eq!(bridge.mac, mac, "the host stays the same station");
        assert_eq!(world.link(&port).await.controller, Some(bridge.index));
        assert_eq!(
            world.host.exposed().await.unwrap(),
            nets(&["10.32.0.9/12", "fd00:32::9/64"])
        );
        assert_eq!(world.host.repair().await.unwrap(), []);

        ip("link del wovetap");
        assert!(
            world
                .host
                .repair()
                .await
                .unwrap_err()
                .to_string()
                .contains("'wovetap' is gone")
        );
    });
}

#[test]
fn expose_and_hide_are_inverse() {
    story(async || {
        let world = World::set_up().await;
        let host = &world.host;
        let all = nets(&["10.32.0.9/12", "10.40.0.9/16", "fd00:32::9/64"]);
        host.expose(&all).await.unwrap();
        host.expose(&all).await.unwrap();
        assert_eq!(host.exposed().await.unwrap(), all);
        assert_eq!(host.hide(&all[..1]).await.unwrap(), all[..1]);
        assert_eq!(host.hide(&all[..1]).await.unwrap(), []);
        assert_eq!(host.hide(&[]).await.unwrap(), all[1..]);
        assert_eq!(host.exposed().await.unwrap(), []);
        assert_eq!(host.repair().await.unwrap(), []);
    });
}

#[test]
fn tear_down_leaves_nothing_of_ours_and_everything_else() {
    story(async || {
        let world = World::set_up().await;
        let before = ["lo", "foreign"];
        ip("link add name foreign type bridge");
        let (inside, path) = container();
        world
            .host
            .attach(&path, "wove0", &nets(&["10.32.0.1/12"]), 1400)
            .await
            .unwrap();
        // As `wove reset` does it: a process that set nothing up.
        let stranger = Host::new().unwrap();
        stranger.tear_down("another").await.unwrap();
        assert!(world.names().await.len() > 3);
        stranger.tear_down("wove").await.unwrap();
        stranger.tear_down("wove").await.unwrap();
        let mut left = world.names().await;
        left.retain(|name| !before.contains(&name.as_str()));
        assert_eq!(left, Vec::<String>::new());
        assert!(inside.run(|| Ok(detail("wove0"))).unwrap() == "None");
    });
}

#[test]
fn the_underlay_is_what_is_not_ours() {
    story(async || {
        let world = World::set_up().await;
        let host = &world.host;
        host.expose(&nets(&["10.32.0.9/12"])).await.unwrap();
        assert_eq!(host.underlay_mtu().await.unwrap(), 1500);
        assert_eq!(
            host.local_addresses().await.unwrap(),
            Vec::<std::net::IpAddr>::new()
        );
        ip("link set lo up");
        ip("link add name uplink mtu 9000 up type veth peer name far");
        ip("link set far up mtu 1450");
        ip("addr add 192.0.2.1/24 dev uplink");
        ip("addr add 2001:db8::1/64 dev uplink nodad");
        assert_eq!(host.underlay_mtu().await.unwrap(), 1450);
        ip("route add default via 192.0.2.254");
        assert_eq!(host.underlay_mtu().await.unwrap(), 9000);
        let expected: [std::net::IpAddr; 2] =
            ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        assert_eq!(host.local_addresses().await.unwrap(), expected);
    });
}

#[test]
fn changes_are_noticed() {
    story(async || {
        let world = World::set_up().await;
        let watch = world.host.watch().unwrap();
        let mut seen = Change::default();
        ip("link set wove down");
        ip("addr add 192.0.2.1/24 dev lo");
        while !(seen.links && seen.addresses) {
            let waited = tokio::time::timeout(Duration::from_secs(5), watch.changed()).await;
            let change = waited.expect("a notice of the change");
            seen = Change {
                links: seen.links | change.links,
                addresses: seen.addresses | change.addresses,
            };
        }
    });
}
