//! Forty daemons where few reach everybody: they cost what the simulator says
//! they cost, and go on without every third.
//!
//! The underlay is four segments, and four hosts, the bridges, are plugged into
//! all of them; frames between other hosts of different segments need a relay.
//! The simulator is run with as many peers over the same segments.
//!
//! *Traffic* is what the kernel of each host counts at its underlay interfaces,
//! both ways, in bytes of IP packets, as the simulator counts them; the hosts
//! have no IPv6 there, for those of the simulator have none. It is measured
//! before sessions are old enough to be replaced, which the simulator leaves
//! out, as it does the search for the path MTU of a fresh session, and ARP.
//! *Memory* is VmRSS; for the simulator, that of a daemon without the records of
//! others, and what a mesh allocates for them.

use std::collections::BTreeSet;
use std::env;
use std::ops::RangeInclusive;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::lab::probe::{PingFlow, ping_within};
use crate::lab::{Container, Host, Lab, eventually, secs};

const PEERS: usize = 40;
/// Segments; host n is plugged into n % `GROUPS`.
const GROUPS: usize = 4;
/// Hosts that are plugged into all segments: the first. Some survive.
const BRIDGES: usize = 4;
/// Of so many daemons one is killed.
const KILLED: usize = 3;

/// Runs of the simulator.
const SEEDS: RangeInclusive<usize> = 1..=10;
/// How far measurement and prediction may be apart.
const FACTOR: f64 = 1.5;
/// How long a mesh is left alone before it counts as idle: forty launches at
/// once leave links to be pruned, and round-trip times that belie themselves.
const REST: Duration = Duration::from_secs(70);
/// How long it is measured.
const MEASURED: Duration = Duration::from_secs(35);
const MIB: f64 = (1 << 20) as f64;
/// How long forty daemons may take on a busy machine to find each other.
const PATIENCE: Duration = Duration::from_secs(120);
/// Flows between containers while daemons die.
const FLOWS: usize = 8;
/// Between two pings of a flow.
const PACE: Duration = Duration::from_millis(50);

/// What one of many idle peers costs.
struct Costs {
    bytes_per_s: f64,
    resident_bytes: f64,
    links: f64,
}

/// Two costs side by side.
struct Comparison {
    table: String,
    is_near: bool,
}

#[test]
fn many_daemons_cost_what_was_predicted_and_survive_the_death_of_a_third() {
    // Building and running the simulator disturbs nobody.
    let predicted = predict();
    let lab = Lab::alone();
    let hosts = hosts(&lab);
    join(&hosts);
    let comparison = compare(&measure(&hosts), &predicted);
    println!("{}", comparison.table);
    assert!(comparison.is_near, "too far apart\n{}", comparison.table);
    let gaps = survive(&hosts);
    println!("of {FLOWS} relayed flows, at most without traffic: {gaps:.1?}");
}

/// What the simulator says, on average: how a mesh wires itself is chance.
fn predict() -> Costs {
    let runs: Vec<Costs> = SEEDS.map(simulate).collect();
    let mean = |cost: fn(&Costs) -> f64| runs.iter().map(cost).sum::<f64>() / runs.len() as f64;
    Costs {
        bytes_per_s: mean(|costs| costs.bytes_per_s),
        resident_bytes: mean(|costs| costs.resident_bytes),
        links: mean(|costs| costs.links),
    }
}

/// Runs the simulator once.
fn simulate(seed: usize) -> Costs {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    // What cargo tells this package is not for the build of another.
    for (key, _) in env::vars_os() {
        let name = key.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&key);
        }
    }
    command.args(["run", "--release", "--quiet", "--locked"]);
    command.args(["-p", "wove-bench", "--bin", "sim", "--"]);
    command.args([
        "--scenario",
        "idle",
        "--launch",
        "--loss",
        "0",
        "-o",
        "json",
    ]);
    for (option, value) in [
        ("--peers", PEERS),
        ("--groups", GROUPS),
        ("--bridges", BRIDGES),
        ("--duration", MEASURED.as_secs() as usize),
        ("--seed", seed),
    ] {
        command.args([option, &value.to_string()]);
    }
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.unwrap_or_else(|e| panic!("{command:?} does not start: {e}"));
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{command:?}: {}: {e}", output.status));
    assert!(output.status.success(), "{report}");
    let figure = |name: &str| {
        let value = report["figures"][name].as_f64();
        value.unwrap_or_else(|| panic!("no {name} in {report}"))
    };
    Costs {
        bytes_per_s: figure("bytes_per_peer_s"),
        resident_bytes: figure("bytes_per_peer"),
        links: figure("links_mean"),
    }
}

fn hosts(lab: &Lab) -> Vec<Host> {
    let all: Vec<usize> = (0..GROUPS).collect();
    let plugged = |n: usize| {
        let own = [n % GROUPS];
        let segments = if n < BRIDGES { &all[..] } else { &own };
        let host = lab.host_on(&format!("h{n}"), segments);
        for segment in segments {
            let key = format!("net/ipv6/conf/eth{segment}/disable_ipv6");
            host.netns.sysctl(&key, "1");
        }
        host
    };
    (0..PEERS).map(plugged).collect()
}

/// Launches all daemons, each with one seed of its own segment; only the
/// bridges know the seeds of all.
fn join(hosts: &[Host]) {
    let (bridges, others) = hosts.split_at(BRIDGES);
    let (seeds, others) = others.split_at(GROUPS);
    seeds[0].launch(&[]);
    let token = seeds[0].token();
    for seed in &seeds[1..] {
        seed.join(&token, &[], &[]);
    }
    for (n, host) in others.iter().enumerate() {
        host.join(&token, &[&seeds[n % GROUPS]], &[]);
    }
    let seeds: Vec<&Host> = seeds.iter().collect();
    for bridge in bridges {
        bridge.join(&token, &seeds, &[]);
    }
    for host in hosts {
        host.wait_peers(PATIENCE, PEERS);
    }
}

fn measure(hosts: &[Host]) -> Costs {
    thread::sleep(REST);
    let total = || hosts.iter().map(Host::underlay_bytes).sum::<u64>();
    let (begun, before) = (Instant::now(), total());
    thread::sleep(MEASURED);
    let bytes = total() - before;
    let seconds = begun.elapsed().as_secs_f64();
    let resident = hosts.iter().map(|host| host.daemon(|d| d.rss_bytes()));
    let links = hosts.iter().map(links);
    let peers = hosts.len() as f64;
    Costs {
        bytes_per_s: bytes as f64 / seconds / peers,
        resident_bytes: resident.sum::<u64>() as f64 / peers,
        links: links.sum::<usize>() as f64 / peers,
    }
}

fn links(host: &Host) -> usize {
    let status = eventually(secs(10), "status answers", || host.status());
    let peers = status["peers"].as_array().cloned().unwrap_or_default();
    let own = peers.iter().find(|p| p["peer"] == status["router"]["peer"]);
    own.and_then(|own| own["links"].as_array())
        .map_or(0, Vec::len)
}

fn compare(measured: &Costs, predicted: &Costs) -> Comparison {
    let row = |what, cost: fn(&Costs) -> f64| (what, cost(measured), cost(predicted));
    let rows = [
        row("bytes/s", |costs| costs.bytes_per_s),
        row("resident MiB", |costs| costs.resident_bytes / MIB),
        row("links", |costs| costs.links),
    ];
    let mut comparison = Comparison {
        table: format!(
            "{PEERS} idle peers, mean of one\n{:12} {:>9} {:>9} {:>6}\n",
            "", "measured", "predicted", "ratio"
        ),
        is_near: true,
    };
    for (what, measured, predicted) in rows {
        let ratio = measured / predicted;
        comparison.table += &format!("{what:12} {measured:9.1} {predicted:9.1} {ratio:6.2}\n");
        comparison.is_near &= (1.0 / FACTOR..=FACTOR).contains(&ratio);
    }
    comparison
}

/// Kills every third daemon under traffic, and launches them again. Returns how
/// long each flow was without an answer.
fn survive(hosts: &[Host]) -> Vec<Duration> {
    let is_killed = |(n, _): &(usize, &Host)| n % KILLED == 0;
    let (killed, left): (Vec<_>, Vec<_>) = hosts.iter().enumerate().partition(is_killed);
    let names: BTreeSet<&str> = left.iter().map(|(_, host)| host.name.as_str()).collect();

    // Neighbours in number survive, and are on different segments.
    let pairs = (BRIDGES..).step_by(KILLED).take(FLOWS);
    let pairs: Vec<_> = pairs.map(|n| (&hosts[n], &hosts[n + 1])).collect();
    let ends = pairs.iter().map(|(a, b)| (a.container(), b.container()));
    let ends: Vec<_> = ends.collect();
    let start = |(from, to): &(Container, Container)| {
        ping_within(PATIENCE, &from.netns, to.v4);
        PingFlow::start(&from.netns, to.v4, PACE)
    };
    let flows: Vec<_> = ends.iter().map(start).collect();
    for (a, b) in pairs {
        a.wait_connection(PATIENCE, b, |connection| connection["path"] == "relay");
    }
    let (_, relaunched) = killed[killed.len() - 1];
    let container = relaunched.container();

    killed.iter().for_each(|(_, host)| host.kill());
    for (_, host) in &left {
        host.wait_reaches(PATIENCE, &names);
    }
    for flow in &flows {
        flow.wait_answer(PATIENCE);
    }

    killed.iter().for_each(|(_, host)| host.relaunch());
    for host in hosts {
        host.wait_peers(PATIENCE, PEERS);
    }
    ping_within(PATIENCE, &ends[0].0.netns, container.v4);
    let gaps = flows.into_iter().map(|flow| {
        flow.wait_answer(PATIENCE);
        flow.stop().longest_gap
    });
    gaps.collect()
}
