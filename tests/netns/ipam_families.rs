//! Addresses of both families, out of several subnets at once, for containers and hosts.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::thread;

use hickory_proto::rr::RecordType::{A, AAAA, PTR};
use ipnet::IpNet;
use serde_json::json;

use crate::ipam::{attach, attached, ipam, refused};
use crate::lab::probe::{ping_within, resolve};
use crate::lab::{Container, Host, Lab, ensure, eventually, secs};

/// What a command says, word by word, without prefix lengths.
fn addresses(text: &str) -> Vec<IpAddr> {
    let words = text.split_whitespace();
    let ips = words.filter_map(|word| word.split('/').next());
    ips.map(|ip| ip.parse().expect("an address")).collect()
}

fn pair(host: &Host, container: &Container, options: &[&str]) -> [IpAddr; 2] {
    let path = container.path();
    let text = host.ok(&[&["attach", "--netns", &path], options].concat());
    let all = addresses(&text);
    let twin = |v4: &IpAddr| match v4 {
        IpAddr::V4(v4) => {
            let at = v4.to_bits() - Ipv4Addr::new(10, 32, 0, 0).to_bits();
            format!("fd77:6f76:6500::{:x}:{:x}", at >> 16, at & 0xffff)
                .parse()
                .expect("an address")
        }
        IpAddr::V6(_) => panic!("the first is of IPv4: {text}"),
    };
    assert_eq!(all, [all[0], twin(&all[0])], "{text}");
    [all[0], all[1]]
}

#[test]
fn a_container_gets_an_address_of_each_family() {
    let lab = Lab::new();
    let (a, b) = (lab.host("a"), lab.host("b"));
    a.launch(&[]);
    b.join(&a.token(), &[&a], &[]);
    let [c1, c2, c3] = [1, 2, 3].map(Container::new);
    let one = pair(&a, &c1, &["--dns", "--name", "one"]);
    let two = pair(&b, &c2, &["--dns", "--name", "two"]);
    assert_eq!(one, pair(&a, &c1, &[]), "doing it twice");
    for to in two {
        ping_within(secs(10), &c1.netns, to);
    }
    for (kind, address) in [(A, two[0]), (AAAA, two[1])] {
        let found = eventually(secs(10), "the name is known", || {
            resolve(&c1.netns, "two.wove.local.", kind).and_then(|found| match found.as_slice() {
                [] => Err("no address".to_owned()),
                _ => Ok(found),
            })
        });
        assert_eq!(found, [address.to_string()]);
    }
    let IpAddr::V6(six) = two[1] else {
        panic!("{two:?}");
    };
    let digits = format!("{:032x}", six.to_bits());
    let reverse: String = digits
        .chars()
        .rev()
        .flat_map(|digit| [digit, '.'])
        .collect();
    let found = resolve(&c1.netns, &format!("{reverse}ip6.arpa."), PTR);
    assert_eq!(found, Ok(vec!["two.wove.local.".to_owned()]));

    // The range has both, and so has a subnet of either.
    assert_eq!(ipam(&a)["range6"], "fd77:6f76:6500::/64");
    let text = a.ok(&[
        "attach",
        "--netns",
        &c3.path(),
        "net:fd77:6f76:6500::700/120",
    ]);
    // Who owns that part is chance, and so is which of its addresses it is.
    let six: IpNet = text.trim().parse().expect("one address");
    ensure(six.prefix_len() == 120 && text.contains("6500::7"), &text);
    let text = a.ok(&["attach", "--netns", &c3.path(), "net:10.32.7.0/24"]);
    ensure(text.contains("10.32.7.") && text.contains("/24"), &text);
    assert_eq!(ipam(&a)["used"], 3);
    a.ok(&[
        "detach",
        "--netns",
        &c3.path(),
        "net:fd77:6f76:6500::700/120",
    ]);
    assert_eq!(attached(&a).len(), 3);

    // The host itself, and back.
    let host = addresses(&a.ok(&["expose"]));
    assert_eq!(host.len(), 2);
    for to in host {
        ping_within(secs(10), &c2.netns, to);
    }
    a.ok(&["hide", "net:default"]);
    a.ok(&["detach", "--netns", &c1.path(), "net:default"]);
    assert_eq!(ipam(&a)["used"], 1);

    // A peer without an IPv6 range is told apart, and everything goes on.
    b.terminate();
    b.join(&a.token(), &[&a], &["--ipalloc-range6", "off"]);
    eventually(secs(20), "the difference is shown", || {
        let conflicts = ipam(&a)["conflicts"].to_string();
        match conflicts.contains("b: has no IPv6 range") {
            true => Ok(()),
            false => Err(conflicts),
        }
    });
    let text = a.ok(&["status", "ipam"]);
    ensure(
        text.contains("launch all peers with one --ipalloc-range6"),
        &text,
    );
    let c4 = Container::new(4);
    let text = b.ok(&["attach", "--netns", &c4.path()]);
    ensure(text.split_whitespace().count() == 1, &text);
    let text = refused(
        &b,
        &["attach", "--netns", &c4.path(), "net:fd77:6f76:6500::/64"],
    );
    ensure(text.contains("without an IPv6 range"), &text);
}

#[test]
fn several_subnets_come_and_go_together() {
    let lab = Lab::new();
    let a = lab.host("a");
    a.launch(&[]);
    let [c1, c2] = [1, 2].map(Container::new);
    let place = ["--netns", &c1.path()];
    let all = [
        "10.99.1.4/24",
        "net:10.33.1.0/24",
        "net:10.33.2.0/29",
        "net:default",
    ];
    let text = a.ok(&[&["attach", "--name", "many"], &place[..], &all].concat());
    let given: BTreeSet<IpAddr> = addresses(&text).into_iter().collect();
    let wanted = [
        "10.99.1.4",
        "10.33.1.1",
        "10.33.2.1",
        "10.32.0.1",
        "fd77:6f76:6500::1",
    ];
    let wanted: BTreeSet<IpAddr> = wanted.iter().map(|ip| ip.parse().unwrap()).collect();
    assert_eq!(given, wanted);
    let names = a.ok(&["dns", "lookup", "many"]);
    assert_eq!(names.lines().count(), 5, "{names}");
    // Lowest first, and what is released can be had again.
    let text = a.ok(&[
        "attach",
        "--netns",
        &c2.path(),
        "net:10.33.1.0/24",
        "net:10.33.2.0/29",
    ]);
    ensure(
        text.contains("10.33.1.2/24") && text.contains("10.33.2.2/29"),
        &text,
    );
    ping_within(secs(10), &c1.netns, Ipv4Addr::new(10, 33, 2, 2));
    let text = a.ok(&[
        &["detach"],
        &place[..],
        &["net:10.33.1.0/24", "10.99.1.4/24"],
    ]
    .concat());
    assert_eq!(text.split_whitespace().count(), 3, "{text}");
    let names = a.ok(&["dns", "lookup", "many"]);
    assert_eq!(names.lines().count(), 3, "{names}");
    let text = a.ok(&["expose", "net:10.33.1.0/24", "net:10.33.2.0/29"]);
    ensure(
        text.contains("10.33.1.1/24") && text.contains("10.33.2.3/29"),
        &text,
    );
    assert_eq!(
        text,
        a.ok(&["expose", "net:10.33.1.0/24", "net:10.33.2.0/29"])
    );
    ping_within(secs(10), &c2.netns, Ipv4Addr::new(10, 33, 1, 1));
    a.ok(&["hide", "net:10.33.1.0/24", "net:10.33.2.0/29"]);
    let text = refused(&a, &["hide", "net:10.33.1.0/24"]);
    ensure(text.contains("has no address of"), &text);
    let text = a.ok(&[&["detach"], &place[..]].concat());
    assert_eq!(text.trim(), "");
    let text = a.ok(&["ps"]);
    ensure(!text.contains("10.33.1.1/"), &text);
    let text = refused(&a, &["attach", "--netns", &c1.path(), "10.33.1.2/24"]);
    ensure(text.contains("is in use by wove0 of"), &text);
    let usage = |wanted: &str| {
        let output = a.cli(&[&["attach"], &place[..], &[wanted]].concat());
        assert_eq!(output.status.code(), Some(2), "{wanted}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let text = usage("10.33.1.0/24");
    ensure(text.contains("the subnet itself"), &text);
    let text = usage("10.33.1.255/24");
    ensure(text.contains("broadcast"), &text);
    let text = usage("net:10.33.1.0");
    ensure(text.contains("net:CIDR"), &text);
}

#[test]
fn an_address_goes_to_one_of_those_who_ask_for_it_at_once() {
    let lab = Lab::new();
    let a = lab.host("a");
    a.launch(&[]);
    let containers = [1, 2, 3, 4].map(Container::new);
    for round in 1..=5 {
        let address = format!("10.32.7.{round}/12");
        let attach = |container: &Container| {
            let output = a.cli(&["attach", "--netns", &container.path(), &address]);
            let why = String::from_utf8_lossy(&output.stderr).into_owned();
            output.status.success().then_some(()).ok_or(why)
        };
        let answers: Vec<_> = thread::scope(|scope| {
            let asking = containers.each_ref().map(|c| scope.spawn(|| attach(c)));
            let answers = asking.map(|thread| thread.join().expect("it answers"));
            answers.into_iter().collect()
        });
        let (done, refused): (Vec<_>, Vec<_>) = containers
            .iter()
            .zip(&answers)
            .partition(|(_, a)| a.is_ok());
        let [(winner, _)] = done[..] else {
            panic!("{address}: {answers:?}");
        };
        for (_, answer) in refused {
            let why = answer.as_ref().unwrap_err();
            let is_said = why.contains("is in use by") || why.contains("is being given to");
            ensure(is_said, why);
        }
        ensure(
            a.ok(&["ps"]).contains(&address),
            "the others did not take it away",
        );
        a.ok(&["detach", "--netns", &winner.path()]);
    }
}

#[test]
fn an_address_that_comes_to_another_container_is_reached_at_once() {
    let lab = Lab::new();
    let (a, b) = (lab.host("a"), lab.host("b"));
    a.launch(&["--ipalloc-range", "10.40.0.0/24"]);
    b.join(&a.token(), &[&a], &["--ipalloc-range", "10.40.0.0/24"]);
    let far = Container::new(9);
    attach(&b, &far, &["--dns"]);
    let first = Container::new(1);
    let address = attach(&a, &first, &["--name", "first"]);
    ping_within(secs(10), &far.netns, address);
    let [o, p, q, r] = address.octets();
    let reverse = format!("{r}.{q}.{p}.{o}.in-addr.arpa.");
    let called = |name: &str| {
        eventually(secs(10), "the address has one name", || {
            match resolve(&far.netns, &reverse, PTR) {
                Ok(found) if found == [format!("{name}.wove.local.")] => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    };
    called("first");
    a.detach(&first);
    let second = Container::new(2);
    assert_eq!(attach(&a, &second, &["--name", "second"]), address);
    ping_within(secs(10), &far.netns, address);
    called("second");
    // Its container is made anew, and has what it had before.
    drop(second);
    eventually(secs(20), "the address is free", || {
        match ipam(&a)["used"] == json!(0) {
            true => Ok(()),
            false => Err(ipam(&a).to_string()),
        }
    });
    let third = Container::new(3);
    assert_eq!(attach(&a, &third, &["--name", "third"]), address);
    ping_within(secs(10), &far.netns, address);
    called("third");
}

#[test]
fn what_the_host_routes_elsewhere_is_not_given_out() {
    let lab = Lab::new();
    let a = lab.host("a");
    let [o, p, ..] = a.v4().octets();
    let range = format!("{o}.{p}.0.0/16");
    a.launch(&["--ipalloc-range", &range]);
    let container = Container::new(1);
    let attach = ["attach", "--netns", &container.path()];
    for command in [&attach[..], &["prime"], &["expose"]] {
        let text = refused(&a, command);
        ensure(
            text.contains("overlaps with the route of this host to"),
            &text,
        );
        ensure(text.contains("another --ipalloc-range"), &text);
    }
    a.ok(&[&attach[..], &["10.99.0.1/24"]].concat());
    a.terminate();
    a.launch(&["--ipalloc-range", "10.41.0.0/24"]);
    let text = a.ok(&attach);
    ensure(text.contains("10.41.0.1/24"), &text);
}

#[test]
fn a_client_that_goes_away_waits_no_longer() {
    let lab = Lab::new();
    let a = lab.host("a");
    a.launch(&["--ipalloc-init", "consensus=3"]);
    let container = Container::new(1);
    let mut command = Command::new(env!("CARGO_BIN_EXE_wove"));
    command.env("WOVE_SOCKET", "/run/wove/wove.sock");
    command.args(["attach", "--netns", &container.path()]);
    a.netns.place(&mut command, None);
    let mut client = command.spawn().expect("it starts");
    let waits = |count: u64| {
        eventually(secs(10), &format!("{count} wait"), || {
            match ipam(&a)["waiting"] == json!(count) {
                true => Ok(()),
                false => Err(ipam(&a).to_string()),
            }
        });
    };
    waits(1);
    client.kill().expect("it runs");
    client.wait().expect("it ended");
    waits(0);
}
