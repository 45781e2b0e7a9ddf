//! How the range is first divided: by whom, and what if it is divided twice.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::thread;

use hickory_proto::rr::RecordType::A;

use crate::ipam::{PASSWORD, attach, ipam, owned_by, refused};
use crate::lab::probe::{ping_within, resolve};
use crate::lab::{Container, Host, Lab, ensure, eventually, secs};

fn launch(host: &Host, options: &[&str], seeds: &[&Host]) {
    let seeds: Vec<String> = seeds
        .iter()
        .map(|seed| seed.endpoint().to_string())
        .collect();
    let mut arguments = [PASSWORD, options].concat();
    arguments.extend(seeds.iter().map(String::as_str));
    host.launch(&arguments);
}

fn wait_state(host: &Host, wanted: &str) {
    eventually(secs(20), wanted, || {
        let state = ipam(host)["state"].to_string();
        match state.contains(wanted) {
            true => Ok(()),
            false => Err(state),
        }
    });
}

#[test]
fn observers_do_not_count() {
    let lab = Lab::new();
    let [a, b, c] = ["a", "b", "c"].map(|name| lab.host(name));
    launch(&a, &["--ipalloc-init", "consensus=2"], &[]);
    launch(&b, &["--ipalloc-init", "observer"], &[&a]);
    a.wait_peers(secs(20), 2);
    let [first, second] = [1, 2].map(Container::new);
    let (x, y) = thread::scope(|scope| {
        let waits = scope.spawn(|| attach(&a, &first, &[]));
        wait_state(&a, "waiting for consensus: 2 of 2");
        // With a second one that counts there is a majority.
        launch(&c, &["--ipalloc-init", "consensus=2"], &[&a]);
        (waits.join().unwrap(), attach(&b, &second, &[]))
    });
    assert_ne!(x, y);
    for host in [&a, &b, &c] {
        wait_state(host, "ready");
    }
}

#[test]
fn an_observer_calls_for_the_division() {
    let lab = Lab::new();
    let [a, b, c] = ["a", "b", "c"].map(|name| lab.host(name));
    launch(&a, &["--ipalloc-init", "consensus=2"], &[]);
    launch(&b, &["--ipalloc-init", "consensus=2"], &[&a]);
    launch(&c, &["--ipalloc-init", "observer"], &[&a]);
    c.wait_peers(secs(20), 3);
    wait_state(&a, "idle");
    let container = Container::new(1);
    attach(&c, &container, &[]);
    for host in [&a, &b, &c] {
        wait_state(host, "ready");
    }
}

#[test]
fn two_meshes_formed_apart_meet_and_are_merged() {
    let lab = Lab::new();
    let [a, b, c] = ["a", "b", "c"].map(|name| lab.host(name));
    launch(&a, &[], &[]);
    launch(&b, &[], &[]);
    let [ca, cb, late] = [1, 2, 3].map(Container::new);
    let (va, vb) = (ca.cidrs().0, cb.cidrs().0);
    let x = attach(&a, &ca, &["net:default", &va]);
    let y = attach(&b, &cb, &["net:default", &vb]);
    launch(&c, &["--ipalloc-init", "observer"], &[&a]);
    attach(&c, &late, &[]);
    c.ok(&["connect", &b.endpoint().to_string()]);
    for host in [&a, &b, &c] {
        host.wait_peers(secs(30), 3);
        eventually(secs(20), "it is told how to merge", || {
            let conflicts = ipam(host)["conflicts"].to_string();
            match conflicts.contains("wove reset") && conflicts.contains("observer") {
                true => Ok(()),
                false => Err(conflicts),
            }
        });
    }
    // Each goes on with its own, and frames flow.
    let more = [4, 5].map(Container::new);
    attach(&a, &more[0], &[]);
    attach(&b, &more[1], &[]);
    ping_within(secs(10), &ca.netns, cb.v4);
    ping_within(secs(10), &cb.netns, ca.v4);
    println!("{x} and {y} were given apart");

    b.ok(&["reset"]);
    b.wait_exit();
    launch(&b, &["--ipalloc-init", "observer"], &[&a]);
    for host in [&a, &b, &c] {
        eventually(secs(30), "there is one division", || {
            let ipam = ipam(host);
            match ipam["conflicts"] == serde_json::json!([]) && ipam["state"] == "ready" {
                true => Ok(()),
                false => Err(ipam.to_string()),
            }
        });
    }
    let again = attach(&b, &cb, &[]);
    let others = [&ca, &late, &more[0]].map(|n| n.path());
    ensure(again != x, format_args!("{again} beside {others:?}"));
}

#[test]
fn seeds_divide_without_a_vote() {
    let lab = Lab::new();
    let [a, b] = ["a", "b"].map(|name| lab.host(name));
    launch(&a, &[], &[]);
    launch(&b, &[], &[]);
    let seeds = format!("seed={},{}", a.peer(), b.peer());
    for host in [&a, &b] {
        host.terminate();
        launch(host, &["--ipalloc-init", &seeds], &[]);
    }
    let [ca, cb] = [1, 2].map(Container::new);
    // It is divided, but each may have been declared dead before it was launched.
    let (x, y) = thread::scope(|scope| {
        let one = scope.spawn(|| attach(&a, &ca, &["--dns", "--name", "ca"]));
        let other = scope.spawn(|| attach(&b, &cb, &["--dns", "--name", "cb"]));
        wait_state(&a, "waiting for half of the guards");
        a.ok(&["connect", &b.endpoint().to_string()]);
        (one.join().unwrap(), other.join().unwrap())
    });
    assert_ne!(x, y);
    for (from, name, address) in [(&ca, "cb", y), (&cb, "ca", x)] {
        let query = format!("{name}.wove.local.");
        eventually(secs(20), "the name is known", || {
            match resolve(&from.netns, &query, A) {
                Ok(found) if found == [address.to_string()] => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        ping_within(secs(10), &from.netns, address);
    }
    for host in [&a, &b] {
        assert_eq!(ipam(host)["conflicts"], serde_json::json!([]));
        let owned = || (owned_by(host, "a"), owned_by(host, "b"));
        eventually(secs(20), "both own a half", || match owned() {
            (524_288, 524_288) => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    let more: Vec<Container> = (3..9).map(Container::new).collect();
    let given = more
        .iter()
        .enumerate()
        .map(|(at, n)| attach([&a, &b][at % 2], n, &[]));
    let all: BTreeSet<Ipv4Addr> = given.chain([x, y]).collect();
    assert_eq!(all.len(), 8);
}

#[test]
fn who_resumes_divides_no_more_alone_than_at_first() {
    let lab = Lab::new();
    let host = lab.host("a");
    let seeds = ["10.99.200.1", "10.99.200.2"];
    host.launch(&[PASSWORD, &seeds[..]].concat());
    host.kill();
    host.launch(&[PASSWORD, &["--resume"][..]].concat());
    assert_eq!(host.targets().len(), seeds.len());
    refused(&host, &["prime"]);
    assert!(ipam(&host)["ring"].is_null());
}
