//! Names across many hosts: how fast they come and go, and what is heard late.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType::{A, PTR};

use crate::lab::probe::resolve;
use crate::lab::{Container, Host, Lab, ensure, eventually, secs};

/// Until a container of every host resolves a name to just these addresses; how
/// long that took.
fn wait_everywhere(watchers: &[&Container], name: &str, expected: &[IpAddr]) -> Duration {
    let begun = Instant::now();
    let query = format!("{name}.wove.local.");
    let mut expected: Vec<String> = expected.iter().map(IpAddr::to_string).collect();
    expected.sort();
    for watcher in watchers {
        eventually(secs(20), &format!("{name} is {expected:?}"), || {
            let mut found = resolve(&watcher.netns, &query, A).unwrap_or_default();
            found.sort();
            match found == expected {
                true => Ok(()),
                false => Err(format!("{found:?}")),
            }
        });
    }
    begun.elapsed()
}

fn attach(host: &Host, container: &Container, name: &str) {
    let (v4, path) = (container.cidrs().0, container.path());
    host.ok(&["attach", "--netns", &path, &v4, "--dns", "--name", name]);
}

#[test]
fn eight_hosts_know_a_name_and_its_end() {
    let lab = Lab::new();
    let hosts: Vec<Host> = (0..8).map(|n| lab.host(&format!("h{n}"))).collect();
    hosts[0].launch(&[]);
    let token = hosts[0].token();
    for host in &hosts[1..] {
        host.join(&token, &[&hosts[0]], &[]);
    }
    hosts.iter().for_each(|host| host.wait_peers(secs(30), 8));
    let watchers: Vec<Container> = (1..9).map(Container::new).collect();
    for (host, container) in hosts.iter().zip(&watchers) {
        attach(host, container, "watcher");
    }
    let everywhere: Vec<&Container> = watchers.iter().collect();
    let all: Vec<IpAddr> = watchers.iter().map(|c| c.v4.into()).collect();
    wait_everywhere(&everywhere, "watcher", &all);
    let mut took = Vec::new();
    for (at, host) in hosts.iter().enumerate() {
        let container = Container::new(100 + at as u16);
        let name = format!("guest{at}");
        attach(host, &container, &name);
        let known = wait_everywhere(&everywhere, &name, &[container.v4.into()]);
        host.detach(&container);
        let gone = wait_everywhere(&everywhere, &name, &[]);
        took.push((known, gone));
    }
    println!("known everywhere, gone everywhere: {took:?}");
    hosts[7].kill();
    let dead = wait_everywhere(&everywhere[..7], "watcher", &all[..7]);
    println!("gone everywhere with its host: {dead:?}");
}

#[test]
fn five_rounds_of_one_name_on_three_hosts() {
    let lab = Lab::new();
    let hosts = ["a", "b", "c"].map(|name| lab.host(name));
    hosts[0].launch(&["--dns-domain", "mesh.example."]);
    let token = hosts[0].token();
    for host in &hosts[1..] {
        host.join(&token, &[&hosts[0]], &["--dns-domain", "Mesh.Example"]);
    }
    let containers: Vec<Container> = (1..4).map(Container::new).collect();
    let wait = |expected: &[usize]| {
        let expected: BTreeSet<String> = expected
            .iter()
            .map(|at| containers[*at].v4.to_string())
            .collect();
        for host in &hosts {
            eventually(
                secs(15),
                &format!("{} knows {expected:?}", host.name()),
                || {
                    let output = host.cli(&["dns", "lookup", "svc.mesh.example"]);
                    let text = String::from_utf8_lossy(&output.stdout).into_owned();
                    let found: BTreeSet<String> = text.lines().map(str::to_owned).collect();
                    match found == expected {
                        true => Ok(()),
                        false => Err(format!("{found:?}")),
                    }
                },
            );
        }
    };
    for _ in 0..5 {
        for (host, container) in hosts.iter().zip(&containers) {
            attach(host, container, "svc");
        }
        wait(&[0, 1, 2]);
        hosts[1].detach(&containers[1]);
        wait(&[0, 2]);
        hosts[0].detach(&containers[0]);
        hosts[2].detach(&containers[2]);
        wait(&[]);
    }
    // Whatever letters are asked with.
    attach(&hosts[0], &containers[0], "svc");
    let netns = &containers[0].netns;
    let found = eventually(secs(10), "it is answered", || {
        resolve(netns, "SVC.mesh.EXAMPLE.", A)
    });
    assert_eq!(found, [containers[0].v4.to_string()]);
    let [a, b, c, d] = containers[0].v4.octets();
    let reverse = format!("{d}.{c}.{b}.{a}.IN-ADDR.Arpa.");
    let found = resolve(netns, &reverse, PTR);
    assert_eq!(found, Ok(vec!["svc.mesh.example.".to_owned()]));
}

#[test]
fn a_name_that_went_unheard_is_gone_when_paths_heal() {
    let lab = Lab::new();
    let hosts = ["a", "b", "c"].map(|name| lab.host(name));
    let [a, b, c] = &hosts;
    a.launch(&[]);
    let token = a.token();
    b.join(&token, &[a], &[]);
    c.join(&token, &[a, b], &[]);
    let [guest, watcher, own] = [1, 2, 3].map(Container::new);
    attach(a, &guest, "guest");
    attach(c, &watcher, "watcher");
    attach(a, &own, "own");
    wait_everywhere(&[&watcher], "guest", &[guest.v4.into()]);
    wait_everywhere(&[&watcher], "own", &[own.v4.into()]);
    // Meanwhile the container goes, and its host is launched anew.
    lab.cut(a, b);
    lab.cut(a, c);
    a.kill();
    drop(guest);
    a.relaunch();
    lab.heal(a, b);
    lab.heal(a, c);
    wait_everywhere(&[&watcher], "own", &[own.v4.into()]);
    let took = wait_everywhere(&[&watcher], "guest", &[]);
    println!("gone {took:?} after it was known to be back");
    let text = c.ok(&["status", "dns"]);
    ensure(!text.contains("guest"), &text);
}
