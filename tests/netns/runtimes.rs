//! Containers of real engines, Docker and podman: attached by what they are
//! called, reached from another host, and forgotten when they die.
//!
//! Every story is told twice, once for each engine.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use hickory_proto::rr::RecordType::A;

use crate::ipam::{attach, attached, ipam, refused};
use crate::lab::probe::{ping_within, resolve};
use crate::lab::{Container, Engine, Host, Kind, Lab, ensure, eventually, secs};

/// Two hosts in one network; the second has a container of the laboratory that
/// asks wove for names. It is called `far`.
pub(crate) fn two_hosts(lab: &Lab) -> (Host, Host, Container) {
    let (a, b) = (lab.host("a"), lab.host("b"));
    a.launch(&[]);
    b.join(&a.token(), &[&a], &[]);
    for host in [&a, &b] {
        host.wait_peers(secs(20), 2);
    }
    let far = Container::new(1);
    attach(&b, &far, &["--dns", "--name", "far"]);
    (a, b, far)
}

/// Attaches a container of an engine; its IPv4 address.
#[track_caller]
fn attach_named(host: &Host, container: &str, options: &[&str]) -> Ipv4Addr {
    let text = host.ok(&[&["attach", "--container", container], options].concat());
    let address = text.split('/').next().and_then(|first| first.parse().ok());
    address.unwrap_or_else(|| panic!("no address: {text}"))
}

/// Until a name is these addresses for a container; none: it is not known.
pub(crate) fn wait_name(from: &Container, name: &str, expected: &[Ipv4Addr]) {
    let expected: BTreeSet<String> = expected.iter().map(Ipv4Addr::to_string).collect();
    let query = format!("{name}.wove.local.");
    eventually(secs(15), &format!("{name} is {expected:?}"), || {
        let found = match resolve(&from.netns, &query, A) {
            Err(why) if why.contains("Non-Existent") => Vec::new(),
            answer => answer?,
        };
        match found.into_iter().collect::<BTreeSet<String>>() {
            found if found == expected => Ok(()),
            found => Err(format!("{found:?}")),
        }
    });
}

/// Until a host holds so many addresses for attached containers.
pub(crate) fn wait_used(host: &Host, expected: u64) {
    eventually(secs(15), &format!("{expected} addresses are used"), || {
        let (used, listed) = (ipam(host)["used"].as_u64(), host.json(&["ps"])?);
        match used == Some(expected) && listed.as_array().map(Vec::len) == Some(expected as usize) {
            true => Ok(()),
            false => Err(format!("{used:?}: {listed}")),
        }
    });
}

fn reached_by_name_until_it_is_detached(kind: Kind) {
    let lab = Lab::new();
    let (a, _b, far) = two_hosts(&lab);
    let engine = Engine::start(&a, kind);
    engine.run("web1", &["--hostname", "shop"]);
    // Podman makes no resolv.conf where there is no network.
    let files = || {
        ["resolv.conf", "hosts"].map(|file| {
            let output = engine.cli(&["exec", "web1", "cat", &format!("/etc/{file}")]);
            output.status.success().then_some(output.stdout)
        })
    };
    let before = files();
    let address = attach_named(&a, "web1", &["--dns"]);
    let well = || {
        ping_within(secs(15), &far.netns, address);
        for name in ["web1", "shop"] {
            wait_name(&far, name, &[address]);
        }
        // As its own programs see it.
        for name in ["far", "far.wove.local"] {
            engine.inside("web1", &["ping", "-c", "1", "-W", "2", name]);
        }
    };
    well();
    // Doing it twice is the same as doing it once.
    assert_eq!(attach_named(&a, "web1", &[]), address);
    a.kill();
    a.relaunch();
    well();
    assert_eq!(attach_named(&a, "web1", &[]), address);

    a.ok(&["detach", "--container", "web1"]);
    wait_used(&a, 0);
    for name in ["web1", "shop"] {
        wait_name(&far, name, &[]);
    }
    let links = engine.inside("web1", &["ls", "/sys/class/net"]);
    assert_eq!(links.trim(), "lo");
    assert_eq!(files(), before);
}

fn found_by_all_it_is_called_or_refused(kind: Kind) {
    let lab = Lab::new();
    let a = lab.host("a");
    a.launch(&[]);
    let unheard = refused(&a, &["attach", "--container", "web1"]);
    ensure(unheard.contains("no container engine answers"), &unheard);
    let engine = Engine::start(&a, kind);
    let id = engine.run("web1", &[]);
    assert_eq!(id.len(), 64);
    for called in ["web1", &id, &id[..12], &id[..4]] {
        attach_named(&a, called, &[]);
        wait_used(&a, 1);
        // Its made-up host name is no name.
        assert_eq!(
            a.json(&["ps"]).expect("ps answers")[0]["names"],
            serde_json::json!(["web1"])
        );
        a.ok(&["detach", "--container", called]);
        wait_used(&a, 0);
    }
    engine.run("hosty", &["--network", "host"]);
    engine.run("stopped", &[]);
    engine.kill("stopped");
    for (container, why) in [
        ("hosty", "use `wove expose`"),
        ("stopped", "is not running"),
        ("nobody", "no container is called nobody"),
    ] {
        for command in ["attach", "detach"] {
            let said = refused(&a, &[command, "--container", container]);
            ensure(said.contains(why), &said);
        }
    }
    let socket = |path: &str| {
        a.cli_at(
            &format!("unix://{path}"),
            &["attach", "--container", "web1"],
        )
    };
    let elsewhere = socket("/run/nowhere.sock");
    assert_eq!(elsewhere.status.code(), Some(1));
    assert_eq!(socket(engine.socket()).status.code(), Some(0));
    wait_used(&a, 1);
}

fn forgotten_when_it_dies(kind: Kind) {
    let lab = Lab::new();
    let (a, _b, far) = two_hosts(&lab);
    let engine = Engine::start(&a, kind);
    let attach_new = |name: &str| {
        engine.run(name, &[]);
        let address = attach_named(&a, name, &["--dns"]);
        wait_name(&far, name, &[address]);
        address
    };
    let gone = |name: &str| {
        wait_name(&far, name, &[]);
        wait_used(&a, 0);
    };
    let first = attach_new("killed");
    engine.kill("killed");
    gone("killed");
    // It comes back as a stranger, with the address that is free again.
    engine.ok(&["start", "killed"]);
    assert_eq!(attached(&a), BTreeSet::new());
    assert_eq!(attach_named(&a, "killed", &["--dns"]), first);
    wait_name(&far, "killed", &[first]);
    ping_within(secs(15), &far.netns, first);
    engine.ok(&["restart", "--time", "0", "killed"]);
    gone("killed");
    engine.ok(&["rm", "--force", "killed"]);

    assert_eq!(attach_new("removed"), first);
    engine.ok(&["rm", "--force", "removed"]);
    gone("removed");

    // While nobody watches.
    assert_eq!(attach_new("unseen"), first);
    a.kill();
    engine.ok(&["rm", "--force", "unseen"]);
    a.relaunch();
    gone("unseen");
}

fn one_while_it_shares_a_namespace(kind: Kind) {
    let lab = Lab::new();
    let (a, _b, far) = two_hosts(&lab);
    let engine = Engine::start(&a, kind);
    engine.run("main", &[]);
    engine.run("side", &["--network", "container:main"]);
    let address = attach_named(&a, "main", &["--dns", "--name", "api"]);
    for (container, options) in [("side", &["--dns"][..]), ("main", &[]), ("side", &[])] {
        assert_eq!(attach_named(&a, container, options), address);
        wait_used(&a, 1);
        ping_within(secs(15), &far.netns, address);
        wait_name(&far, "api", &[address]);
        for other in ["main", "side"] {
            wait_name(&far, other, &[]);
        }
    }
    engine.inside("main", &["ping", "-c", "1", "-W", "2", "far"]);
    a.ok(&["detach", "--container", "side"]);
    wait_used(&a, 0);
    wait_name(&far, "api", &[]);
}

#[test]
fn docker_is_reached_by_name_until_it_is_detached() {
    reached_by_name_until_it_is_detached(Kind::Docker);
}

#[test]
fn docker_is_found_by_all_it_is_called_or_refused() {
    found_by_all_it_is_called_or_refused(Kind::Docker);
}

#[test]
fn docker_is_forgotten_when_it_dies() {
    forgotten_when_it_dies(Kind::Docker);
}

#[test]
fn docker_is_one_while_it_shares_a_namespace() {
    one_while_it_shares_a_namespace(Kind::Docker);
}

#[test]
fn podman_is_reached_by_name_until_it_is_detached() {
    reached_by_name_until_it_is_detached(Kind::Podman);
}

#[test]
fn podman_is_found_by_all_it_is_called_or_refused() {
    found_by_all_it_is_called_or_refused(Kind::Podman);
}

#[test]
fn podman_is_forgotten_when_it_dies() {
    forgotten_when_it_dies(Kind::Podman);
}

#[test]
fn podman_is_one_while_it_shares_a_namespace() {
    one_while_it_shares_a_namespace(Kind::Podman);
}
