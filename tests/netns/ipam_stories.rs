//! What becomes of addresses when daemons, containers and hosts come and go.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::thread;

use serde_json::Value;

use crate::ipam::{PASSWORD, attach, attached, ipam, one_owner, owned_by, refused};
use crate::lab::probe::ping_within;
use crate::lab::{Container, Host, Lab, ensure, eventually, secs};

fn join(host: &Host, options: &[&str], seed: &Host) {
    let seed = seed.endpoint().to_string();
    host.launch(&[PASSWORD, options, &[seed.as_str()]].concat());
}

fn reset(host: &Host) {
    host.ok(&["reset"]);
    host.wait_exit();
}

/// Until all of the range belongs to peers that can be reached.
fn wait_all_owned(host: &Host, total: u64) {
    eventually(secs(20), "all of the range has a living owner", || {
        let ipam = ipam(host);
        let owners = ipam["owners"].as_array().cloned().unwrap_or_default();
        let living = owners.iter().filter(|owner| owner["reachable"] == true);
        let sum: u64 = living.filter_map(|owner| owner["owned"].as_u64()).sum();
        match sum == total {
            true => Ok(()),
            false => Err(ipam.to_string()),
        }
    });
}

/// Until a peer that owned something is known to be out of reach.
fn wait_unreached(host: &Host, peer: &str) {
    eventually(secs(20), "a peer is out of reach", || {
        let ipam = ipam(host);
        let owners = ipam["owners"].as_array().cloned().unwrap_or_default();
        let id = |owner: &Value| owner["peer"].as_str().unwrap_or_default().to_owned();
        let mut reached = owners.iter().filter(|owner| owner["reachable"] == true);
        match reached.any(|owner| peer.starts_with(&id(owner))) {
            false => Ok(()),
            true => Err(ipam.to_string()),
        }
    });
}

#[test]
fn hosts_are_reset_in_turn_and_the_rest_goes_on() {
    let lab = Lab::new();
    let range = &["--ipalloc-range", "10.40.0.0/24"][..];
    let [a, b, c] = one_owner(&lab, range);
    for (host, others, number) in [(&a, [&b, &c], 1), (&b, [&a, &c], 2), (&c, [&a, &b], 3)] {
        reset(host);
        for other in others {
            wait_all_owned(other, 256);
        }
        let [other, _] = others;
        join(host, range, other);
        host.wait_peers(secs(20), 3);
        let container = Container::new(number);
        attach(host, &container, &[]);
        host.detach(&container);
    }
}

#[test]
fn another_range_follows_a_reset() {
    let lab = Lab::new();
    let [a, b] = ["a", "b"].map(|name| lab.host(name));
    let range = |range| ["--ipalloc-range", range];
    a.launch(&[PASSWORD, &range("10.40.0.0/24")].concat());
    join(&b, &range("10.40.0.0/24"), &a);
    let [ca, cb] = [1, 2].map(Container::new);
    attach(&a, &ca, &["10.98.0.1/24", "net:default"]);
    attach(&b, &cb, &["10.98.0.2/24", "net:default"]);
    b.terminate();
    let other = b.failing_launch(&[PASSWORD, &range("10.41.0.0/24")].concat(), None);
    let text = String::from_utf8_lossy(&other.stderr).into_owned();
    ensure(
        text.contains("wove reset") && text.contains("10.40.0.0/24"),
        &text,
    );
    // The first that is changed differs from the other, and both go on.
    b.relaunch();
    reset(&b);
    join(&b, &range("10.41.0.0/24"), &a);
    thread::scope(|scope| {
        // In vain: the other does not divide this range.
        scope.spawn(|| b.cli(&["prime"]));
        for (host, range) in [(&a, "10.41.0.0/24"), (&b, "10.40.0.0/24")] {
            eventually(secs(20), "the difference is shown", || {
                let conflicts = ipam(host)["conflicts"].to_string();
                match conflicts.contains(range) {
                    true => Ok(()),
                    false => Err(conflicts),
                }
            });
        }
    });
    b.ok(&["attach", "--netns", &cb.path(), "10.98.0.2/24"]);
    ping_within(secs(10), &ca.netns, Ipv4Addr::new(10, 98, 0, 2));
    reset(&a);
    join(&a, &range("10.41.0.0/24"), &b);
    let [x, y] = [attach(&a, &ca, &[]), attach(&b, &cb, &[])];
    ensure(x != y && x.octets()[1] == 41 && y.octets()[1] == 41, x);
    for host in [&a, &b] {
        eventually(secs(20), "nothing differs", || {
            let conflicts = ipam(host)["conflicts"].clone();
            match conflicts == serde_json::json!([]) {
                true => Ok(()),
                false => Err(conflicts.to_string()),
            }
        });
    }
}

#[test]
fn what_is_owned_and_used_outlives_the_daemons() {
    let lab = Lab::new();
    let range = &["--ipalloc-range", "10.40.0.0/26"][..];
    let [a, b] = ["a", "b"].map(|name| lab.host(name));
    a.launch(&[PASSWORD, range].concat());
    join(&b, range, &a);
    let [stays, goes, far, late, later] = [1, 2, 3, 4, 5].map(Container::new);
    let host = a.ok(&["expose"]);
    let kept = attach(&a, &stays, &[]);
    let free = attach(&a, &goes, &[]);
    let other = attach(&b, &far, &[]);
    eventually(secs(20), "each guards the other", || {
        let guards = [&a, &b].map(|host| ipam(host)["guards"].as_array().map_or(0, Vec::len));
        match guards == [1, 1] {
            true => Ok(()),
            false => Err(format!("{guards:?}")),
        }
    });
    a.kill();
    b.kill();
    drop(goes);
    a.relaunch();
    let all = attached(&a);
    for net in host.split_whitespace() {
        ensure(all.contains(net), format_args!("{net} of {all:?}"));
    }
    ensure(
        !all.contains(&format!("{free}/26")),
        format_args!("{all:?}"),
    );
    // Alone it does not know what it may still have given away.
    let given = thread::scope(|scope| {
        let waits = scope.spawn(|| attach(&a, &late, &[]));
        eventually(secs(10), "it waits for its guard", || {
            let state = ipam(&a)["state"].to_string();
            match state.contains("waiting for half of the guards") {
                true => Ok(()),
                false => Err(state),
            }
        });
        b.relaunch();
        waits.join().unwrap()
    });
    let exposed: Ipv4Addr = host.split('/').next().unwrap().parse().unwrap();
    ensure(![kept, other, exposed].contains(&given), given);
    assert_eq!(given, free, "what was free is the lowest");
    let last = attach(&b, &later, &[]);
    ensure(![kept, other, exposed, given].contains(&last), last);
}

#[test]
fn without_a_division_nothing_else_waits() {
    let lab = Lab::new();
    let a = lab.host("a");
    a.launch(&[PASSWORD, &["--ipalloc-init", "consensus=3"]].concat());
    let [inside, waiting] = [1, 2].map(Container::new);
    // Addresses that are given, of the range or not, need no division.
    let path = inside.path();
    a.ok(&["attach", "--netns", &path, "10.32.0.1/12", "10.98.0.1/24"]);
    a.ok(&["expose", "10.32.0.2/12"]);
    a.ok(&["hide", "10.32.0.2/12"]);
    a.ok(&["expose", "10.32.0.3/12"]);
    a.ok(&["hide"]);
    a.ok(&["detach", "--netns", &path, "10.98.0.1/24"]);
    // Who detaches does not wait with who attaches.
    let path = waiting.path();
    thread::scope(|scope| {
        let refused = scope.spawn(|| refused(&a, &["attach", "--netns", &path]));
        eventually(secs(10), "somebody waits", || {
            let waiting = ipam(&a)["waiting"].clone();
            match waiting == serde_json::json!(1) {
                true => Ok(()),
                false => Err(waiting.to_string()),
            }
        });
        a.ok(&["detach", "--netns", &path]);
        let text = refused.join().unwrap();
        ensure(text.contains("detached meanwhile"), &text);
    });
    assert_eq!(ipam(&a)["waiting"], 0);
    // What is in use when the range is divided at last is given to nobody else.
    let [b, c] = ["b", "c"].map(|name| lab.host(name));
    for host in [&b, &c] {
        join(host, &["--ipalloc-init", "consensus=3"], &a);
    }
    let more: Vec<Container> = (3..9).map(Container::new).collect();
    let hosts = [&a, &b, &c];
    let given = more
        .iter()
        .enumerate()
        .map(|(at, n)| attach(hosts[at % 3], n, &[]));
    let given: BTreeSet<Ipv4Addr> = given.collect();
    assert_eq!(given.len(), 6);
    ensure(
        !given.contains(&Ipv4Addr::new(10, 32, 0, 1)),
        format_args!("{given:?}"),
    );
}

#[test]
fn an_owner_that_forgets_its_state_is_followed_by_rmpeer() {
    let lab = Lab::new();
    let [a, b, c] = one_owner(&lab, &["--ipalloc-range", "10.40.0.0/24"]);
    let containers: Vec<Container> = (1..4).map(Container::new).collect();
    let kept: BTreeSet<Ipv4Addr> = containers.iter().map(|n| attach(&a, n, &[])).collect();
    let former = a.peer();
    a.kill();
    a.forget_state();
    a.relaunch();
    for host in [&a, &b, &c] {
        host.wait_reaches(secs(30), &["a", "b", "c"].into());
    }
    // The peer that it was is somebody else, and gone.
    let text = refused(&b, &["rmpeer", "nobody"]);
    ensure(text.contains("no peer nobody is known"), &text);
    // As long as it is not known to be silent it may live.
    for host in [&b, &c] {
        wait_unreached(host, &former);
    }
    for host in [&b, &c] {
        host.ok(&["rmpeer", &former[..16]]);
    }
    wait_all_owned(&b, 256);
    assert_eq!(ipam(&a)["used"], 3);
    let others: Vec<Container> = (10..30).map(Container::new).collect();
    let hosts = [&b, &c, &a];
    let given = others
        .iter()
        .enumerate()
        .map(|(at, n)| attach(hosts[at % 3], n, &[]));
    let given: BTreeSet<Ipv4Addr> = given.collect();
    assert_eq!(given.len(), 20);
    ensure(
        given.is_disjoint(&kept),
        format_args!("{given:?} and {kept:?}"),
    );
    println!("{} of a by now", owned_by(&b, "a"));
}
