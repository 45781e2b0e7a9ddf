//! Addresses that the mesh gives out, with real daemons.

use std::{collections::BTreeSet, net::Ipv4Addr, thread};

use hickory_proto::rr::RecordType;
use serde_json::Value;

use crate::lab::probe::{ping_within, resolve};
use crate::lab::{Container, Host, Lab, asked_for, ensure, eventually, secs};

pub(crate) const PASSWORD: &[&str] = &["--password", "correct horse battery staple"];

/// Launches all at once, each with all others as seeds.
pub(crate) fn launch_at_once(hosts: &[Host], options: &[&str]) {
    for host in hosts {
        let others = hosts
            .iter()
            .filter(|other| other.endpoint() != host.endpoint());
        let seeds: Vec<String> = others.map(|other| other.endpoint().to_string()).collect();
        let mut arguments = [PASSWORD, options].concat();
        arguments.extend(seeds.iter().map(String::as_str));
        host.start(&arguments);
    }
    hosts.iter().for_each(Host::wait_ready);
}

/// Attaches with what is given; the first address that came of it.
pub(crate) fn attach(host: &Host, container: &Container, wanted: &[&str]) -> Ipv4Addr {
    let path = container.path();
    let text = host.ok(&[&["attach", "--netns", &path], wanted].concat());
    let first = text
        .split_whitespace()
        .next()
        .and_then(|net| net.split('/').next());
    let address = first.and_then(|address| address.parse().ok());
    address.unwrap_or_else(|| panic!("no address: {text}"))
}

pub(crate) fn refused(host: &Host, arguments: &[&str]) -> String {
    let output = host.cli(arguments);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure(
        !output.status.success(),
        format_args!("{arguments:?} was done"),
    );
    ensure(text.lines().count() == 1, &text);
    text
}

pub(crate) fn ipam(host: &Host) -> Value {
    eventually(secs(10), "status answers", || host.status())["ipam"].clone()
}

pub(crate) fn owned_by(host: &Host, name: &str) -> u64 {
    let owners = ipam(host)["owners"].as_array().cloned().unwrap_or_default();
    let mut of = owners.iter().filter(|owner| owner["nickname"] == name);
    of.next()
        .and_then(|owner| owner["owned"].as_u64())
        .unwrap_or(0)
}

fn guards(host: &Host) -> usize {
    ipam(host)["guards"].as_array().map_or(0, Vec::len)
}

pub(crate) fn attached(host: &Host) -> BTreeSet<String> {
    let all = host.json(&["ps"]).expect("ps answers");
    let all = all.as_array().cloned().unwrap_or_default();
    let addresses = all.iter().filter_map(|a| a["addresses"].as_array());
    let texts = addresses.flatten().filter_map(Value::as_str);
    texts.map(str::to_owned).collect()
}

/// Three hosts; the first owns the whole range, and the others guard it.
pub(crate) fn one_owner(lab: &Lab, options: &[&str]) -> [Host; 3] {
    let [a, b, c] = ["a", "b", "c"].map(|name| lab.host(name));
    a.launch(&[PASSWORD, options].concat());
    a.ok(&["prime"]);
    for host in [&b, &c] {
        let seed = a.endpoint().to_string();
        host.launch(&[PASSWORD, options, &[seed.as_str()]].concat());
    }
    for host in [&a, &b, &c] {
        host.wait_peers(secs(20), 3);
    }
    eventually(secs(20), "two peers guard the owner", || {
        let state = ipam(&a);
        let calm = guards(&a) == 2;
        if calm { Ok(()) } else { Err(state.to_string()) }
    });
    [a, b, c]
}

#[test]
fn three_launched_at_once_give_thirty_addresses() {
    let lab = Lab::new();
    let hosts = ["a", "b", "c"].map(|name| lab.host(name));
    let started = std::time::Instant::now();
    launch_at_once(&hosts, &[]);
    let containers: Vec<Vec<Container>> = hosts
        .iter()
        .map(|_| (0..10).map(|n| Container::new(100 + n)).collect())
        .collect();
    let name_of = |host: &Host, at: usize| format!("{}{at}", host.name());
    let attach_all = |host: &Host, containers: &[Container]| -> Vec<Ipv4Addr> {
        let each = containers.iter().enumerate().map(|(at, container)| {
            let name = name_of(host, at);
            attach(host, container, &["--dns", "--name", &name])
        });
        each.collect()
    };
    let addresses: Vec<Vec<Ipv4Addr>> = thread::scope(|scope| {
        let attach_all = &attach_all;
        let pairs = hosts.iter().zip(&containers);
        let threads: Vec<_> = pairs
            .map(|(host, containers)| scope.spawn(move || attach_all(host, containers)))
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    println!("thirty addresses {:?} after launch", started.elapsed());
    let distinct: BTreeSet<&Ipv4Addr> = addresses.iter().flatten().collect();
    assert_eq!(distinct.len(), 30, "{addresses:?}");
    let names: Vec<(String, Ipv4Addr)> = hosts
        .iter()
        .zip(&addresses)
        .flat_map(|(host, given)| {
            given
                .iter()
                .enumerate()
                .map(|(at, ip)| (name_of(host, at), *ip))
        })
        .collect();
    thread::scope(|scope| {
        for container in containers.iter().flatten() {
            let names = &names;
            scope.spawn(move || {
                for (name, address) in names {
                    let query = format!("{name}.wove.local.");
                    let found = eventually(secs(10), &format!("{name} is known"), || {
                        resolve(&container.netns, &query, RecordType::A)
                    });
                    assert_eq!(found, [address.to_string()]);
                    ping_within(secs(10), &container.netns, *address);
                }
            });
        }
    });
    println!(
        "all ping by name from everywhere {:?} after launch",
        started.elapsed()
    );
    // Doing it twice is the same as doing it once.
    let again = attach(&hosts[0], &containers[0][3], &[]);
    assert_eq!(again, addresses[0][3]);
}

#[test]
fn the_space_of_a_dead_owner_comes_back_by_rmpeer_on_all_at_once() {
    let lab = Lab::new();
    let [a, b, c] = one_owner(&lab, &["--ipalloc-range", "10.40.0.0/24"]);
    let held = Container::new(1);
    let first = attach(&a, &held, &[]);
    let text = refused(&b, &["rmpeer", "a"]);
    ensure(text.contains("can be reached"), &text);
    a.kill();
    for host in [&b, &c] {
        host.wait_reaches(secs(20), &["b", "c"].into());
    }
    let survivors = [&b, &c];
    thread::scope(|scope| {
        for host in survivors {
            scope.spawn(move || host.cli(&["rmpeer", "a"]));
        }
    });
    let containers = [Container::new(2), Container::new(3)];
    let [x, y] = [(&b, &containers[0]), (&c, &containers[1])].map(|(h, n)| attach(h, n, &[]));
    assert_ne!(x, y);
    let _ = first;
    for host in survivors {
        assert_eq!(owned_by(host, "a"), 0);
        eventually(secs(10), "all of the range has an owner", || {
            let all = owned_by(host, "b") + owned_by(host, "c");
            if all == 256 {
                Ok(())
            } else {
                Err(format!("{all}"))
            }
        });
    }
    // The one that was said to be gone finds that out before it gives anything out.
    a.relaunch();
    let late = Container::new(4);
    let z = attach(&a, &late, &[]);
    assert!(![x, y].contains(&z), "{z}");
}

#[test]
fn the_space_of_a_silent_owner_comes_back_by_itself() {
    let lab = Lab::new();
    let [a, b, _c] = one_owner(
        &lab,
        &[
            "--ipalloc-range",
            "10.40.0.0/24",
            "--ipalloc-dead-after",
            "10s",
        ],
    );
    a.kill();
    let container = Container::new(2);
    let path = container.path();
    eventually(secs(60), "an address is free again", || {
        let output = b.cli(&["attach", "--netns", &path]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            Ok(())
        } else {
            Err(text)
        }
    });
    ensure(owned_by(&b, "a") > 0, "what it held stays its own");
}

#[test]
fn all_daemons_are_killed_and_nothing_is_lost() {
    let lab = Lab::new();
    let hosts = ["a", "b", "c"].map(|name| lab.host(name));
    launch_at_once(&hosts, &[]);
    let containers = [1, 2, 3].map(Container::new);
    for (host, container) in hosts.iter().zip(&containers) {
        attach(host, container, &[]);
    }
    let before: Vec<_> = hosts.iter().map(attached).collect();
    hosts.iter().for_each(Host::kill);
    for host in &hosts {
        host.relaunch();
    }
    assert_eq!(hosts.iter().map(attached).collect::<Vec<_>>(), before);
    let more = [4, 5, 6].map(Container::new);
    for (host, container) in hosts.iter().zip(&more) {
        let address = attach(host, container, &[]);
        let text = format!("{address}/12");
        ensure(!before.iter().any(|set| set.contains(&text)), text);
    }
}

#[test]
fn a_host_without_its_state_claims_what_its_containers_use() {
    let lab = Lab::new();
    let [a, b, c] = one_owner(&lab, &["--ipalloc-range", "10.40.0.0/26"]);
    let containers = [1, 2].map(Container::new);
    let kept: Vec<Ipv4Addr> = containers.iter().map(|n| attach(&b, n, &[])).collect();
    b.kill();
    b.forget_state();
    b.relaunch();
    let listed = attached(&b);
    for address in &kept {
        ensure(
            listed.contains(&format!("{address}/26")),
            format_args!("{listed:?}"),
        );
    }
    let others: Vec<Container> = (10..16).map(Container::new).collect();
    for (at, other) in others.iter().enumerate() {
        let address = attach([&a, &b, &c][at % 3], other, &[]);
        ensure(!kept.contains(&address), address);
    }
}

#[test]
fn what_cannot_be_is_said_and_nothing_is_lost() {
    let lab = Lab::new();
    let a = lab.host("a");
    a.launch(&["--ipalloc-range", "10.40.0.0/29"]);
    let containers: Vec<Container> = (1..9).map(Container::new).collect();
    let path = containers[0].path();
    for (wanted, why) in [
        ("net:10.40.0.0/31", "prefix of 30"),
        ("net:10.41.0.0/30", "not within 10.40.0.0/29"),
        ("net:10.40.0.1/30", "an address and no subnet"),
        ("net:fd00::/64", "not within fd77:6f76:6500::/64"),
    ] {
        let text = refused(&a, &["attach", "--netns", &path, wanted]);
        ensure(text.contains(why), &text);
    }
    let text = refused(&a, &["attach", "--netns", "/run/netns/nowhere"]);
    ensure(text.contains("is the container running"), &text);
    let given: BTreeSet<Ipv4Addr> = containers[..6].iter().map(|n| attach(&a, n, &[])).collect();
    assert_eq!(given.len(), 6);
    let text = refused(&a, &["attach", "--netns", &containers[6].path()]);
    ensure(text.contains("no address is free"), &text);
    // Nothing is said of a family that was not asked for.
    let v6 = "net:fd77:6f76:6500::/64";
    let text = refused(&a, &["attach", "--netns", &containers[6].path(), v6]);
    let names_it = text.contains("fd77:6f76:6500::/64: no address is free");
    ensure(names_it && !text.contains("10.40."), &text);
    a.detach(&containers[2]);
    attach(&a, &containers[6], &[]);
    // A container that ends gives its address back.
    let mut containers = containers;
    drop(containers.remove(0));
    let last = containers.last().unwrap();
    eventually(secs(20), "the address is free again", || {
        let output = a.cli(&["attach", "--netns", &last.path()]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            Ok(())
        } else {
            Err(text)
        }
    });
    a.kill();
    let other = a.failing_launch(&["--ipalloc-range", "10.50.0.0/24"], None);
    let text = String::from_utf8_lossy(&other.stderr).into_owned();
    ensure(text.contains("owns addresses of 10.40.0.0/29"), &text);
    a.relaunch();
    assert_eq!(attached(&a).len(), 12);
}

#[test]
fn two_of_five_that_are_cut_off_take_nothing_of_the_three() {
    let lab = Lab::new();
    let hosts = ["a", "b", "c", "d", "e"].map(|name| lab.host(name));
    launch_at_once(&hosts, &["--ipalloc-dead-after", "1h"]);
    hosts[0].ok(&["prime"]);
    for host in &hosts {
        host.wait_peers(secs(30), 5);
        eventually(secs(20), "it owns a share", || {
            let own = owned_by(host, host.name());
            if own > 0 {
                Ok(())
            } else {
                Err(ipam(host).to_string())
            }
        });
    }
    for left in &hosts[..2] {
        for right in &hosts[2..] {
            lab.cut(left, right);
        }
    }
    hosts[0].wait_reaches(secs(30), &["a", "b"].into());
    hosts[4].wait_reaches(secs(30), &["c", "d", "e"].into());
    let containers = [1, 2, 3, 4, 5].map(Container::new);
    let pairs = hosts.iter().zip(&containers);
    let given: BTreeSet<Ipv4Addr> = pairs.map(|(host, n)| attach(host, n, &[])).collect();
    assert_eq!(given.len(), 5);
    let shares = |host: &Host| ["a", "b", "c", "d", "e"].map(|name| owned_by(host, name));
    let before = shares(&hosts[0]);
    for left in &hosts[..2] {
        for right in &hosts[2..] {
            lab.heal(left, right);
        }
    }
    for host in &hosts {
        host.wait_peers(secs(60), 5);
        assert_eq!(shares(host), before);
        assert_eq!(ipam(host)["claims"], serde_json::json!([]));
    }
}

#[test]
fn subnets_are_served_and_the_host_too() {
    let lab = Lab::new();
    let a = lab.host("a");
    a.launch(&[]);
    let container = Container::new(1);
    let path = container.path();
    let text = a.ok(&[
        "attach",
        "--netns",
        &path,
        "net:10.33.7.0/24",
        "net:default",
    ]);
    let words: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(words.len(), 3, "{text}");
    ensure(
        words
            .iter()
            .any(|net| net.starts_with("10.33.7.") && net.ends_with("/24")),
        &text,
    );
    ensure(words.iter().any(|net| net.ends_with("/12")), &text);
    let text = a.ok(&["expose", "net:10.33.7.0/24"]);
    ensure(text.starts_with("10.33.7."), &text);
    let own: Ipv4Addr = text.trim().split('/').next().unwrap().parse().unwrap();
    ping_within(secs(10), &container.netns, own);
    let left = a.ok(&["detach", "--netns", &path, "net:10.33.7.0/24"]);
    ensure(
        left.contains("/12") && left.contains("fd77:6f76:6500::"),
        &left,
    );
    a.ok(&["hide", "net:10.33.7.0/24"]);
    assert_eq!(ipam(&a)["used"], 1);
}

/// `WOVE_ATTACHES` times; some hundreds if that is not said.
#[test]
fn attaching_and_detaching_leaks_nothing() {
    let count: usize = asked_for("WOVE_ATTACHES", 300);
    let lab = Lab::alone_if_asked("WOVE_ATTACHES");
    let a = lab.host("a");
    a.launch(&["--ipalloc-range", "10.40.0.0/28"]);
    let containers: Vec<Container> = (1..6).map(Container::new).collect();
    let descriptors = || {
        let path = format!("/proc/{}/fd", a.daemon(|daemon| daemon.id()));
        std::fs::read_dir(path).expect("the daemon runs").count()
    };
    let ports = || {
        a.netns.run(|| {
            std::fs::read_dir("/proc/sys/net/ipv4/conf")
                .unwrap()
                .count()
        })
    };
    let begun = std::time::Instant::now();
    let before = (descriptors(), ports());
    thread::scope(|scope| {
        for (seed, container) in containers.iter().enumerate() {
            let a = &a;
            let each = count / containers.len();
            let other = format!("--ifname=w{seed}");
            scope.spawn(move || {
                let mut seed = seed;
                for _ in 0..each {
                    seed = seed
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    match seed >> 62 {
                        0 => drop(attach(a, container, &[])),
                        1 => drop(attach(a, container, &[&other, "--dns"])),
                        2 => drop(a.detach(container)),
                        _ => drop(a.ok(&["detach", "--netns", &container.path(), &other])),
                    }
                }
                a.detach(container);
                a.ok(&["detach", "--netns", &container.path(), &other]);
            });
        }
    });
    println!("{count} attaches and detaches in {:?}", begun.elapsed());
    assert_eq!(ipam(&a)["used"], 0);
    assert_eq!(a.json(&["ps"]).unwrap(), serde_json::json!([]));
    eventually(secs(10), "all is as it was", || {
        match (descriptors(), ports()) {
            now if now.0 <= before.0 + 2 && now.1 == before.1 => Ok(()),
            now => Err(format!("{before:?} became {now:?}")),
        }
    });
    let all: BTreeSet<Ipv4Addr> = containers.iter().map(|n| attach(&a, n, &[])).collect();
    let lowest = (1..6).map(|n| Ipv4Addr::new(10, 40, 0, n)).collect();
    assert_eq!(all, lowest);
}
