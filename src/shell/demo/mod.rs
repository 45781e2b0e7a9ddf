//! `wove demo`: three hosts on one machine, each a network namespace, and what
//! a mesh does for them, step by step.
//!
//! ```text
//!   container ca ── host a ─┐             A and C do not reach each other
//!   container cb ── host b ─┼─ underlay   at first, so their frames go
//!   container cc ── host c ─┘             through B, which cannot read them
//! ```
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a demonstration waits and prints"
)]

mod ping;
mod stage;

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use ping::{Pings, ping};
use stage::{HOSTS, Stage};

/// What the demonstration is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct DemoOptions {
    /// Leave everything standing at the end.
    pub keep: bool,
}

/// How long each step may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Shows wove at work; needs root and nothing else.
///
/// # Errors
/// The step that did not show what it should.
pub fn run(options: DemoOptions) -> Result<()> {
    let mut stage = Stage::new()
        .context("the demonstration needs root, /dev/net/tun and network namespaces")?;
    let shown = show(&mut stage);
    if options.keep {
        println!("\nleft standing: {}", stage.describe());
        stage.keep();
        return shown;
    }
    let cleaned = stage.clean_up();
    shown?;
    cleaned?;
    println!(
        "\nEverything the demonstration made is gone again. Try it on your hosts: wove launch"
    );
    Ok(())
}

fn show(stage: &mut Stage) -> Result<()> {
    step("three hosts in a line: A - B - C, where A and C do not reach each other");
    stage.build()?;
    println!(
        "  hosts {}; A and C have a black hole for each other",
        HOSTS.map(|h| h.namespace).join(", ")
    );

    step("a peer on each, from a seed list");
    let token = stage.launch()?;
    println!(
        "  A made a new network; B and C joined it with {}...",
        token.get(..12).unwrap_or_default()
    );

    step("a container on each");
    for (host, addresses) in stage.attach()? {
        println!("  {host}: {addresses}");
    }

    step("A pings C through B, sealed end to end");
    let (c4, c6) = (HOSTS[2].v4(), HOSTS[2].v6());
    for target in [c4, c6] {
        let took = first_answer(stage, target)?;
        println!("  first answer from {target} after {} ms", took.as_millis());
    }
    let pings = ping(stage.container(0)?, c4, 20, Duration::from_millis(50))?;
    println!("  {}", describe(&pings));
    ensure!(pings.lost() == 0, "pings through the relay were lost");
    let path = wait_path(stage, &["relay"])?;
    println!("  A's path to C: {path}");

    step("A and C come to reach each other: the path becomes direct");
    let flow = flow_while(stage, c4, |stage| {
        stage.heal()?;
        wait_path(stage, &["sleeve", "fastdp"])
    })?;
    println!("  A's path to C: {}", flow.1);
    println!("  meanwhile {}", describe(&flow.0));
    ensure!(flow.0.lost() == 0, "pings were lost while the path changed");

    step("A and C are cut off again: frames fall back to the relay");
    let flow = flow_while(stage, c4, |stage| {
        stage.cut()?;
        wait_path(stage, &["relay"])
    })?;
    println!("  A's path to C: {}", flow.1);
    println!(
        "  meanwhile {}, the longest silence {} ms",
        describe(&flow.0),
        flow.0.longest_gap.as_millis()
    );

    step("what A knows");
    print!("{}", stage.client(0, &["status"])?);
    Ok(())
}

fn step(what: &str) {
    println!("\n== {what}");
}

fn describe(pings: &Pings) -> String {
    format!(
        "{} pings sent, {} answered, median {} us",
        pings.sent,
        pings.received,
        pings.median().as_micros()
    )
}

/// Pings until there is an answer; how long that took.
fn first_answer(stage: &Stage, target: IpAddr) -> Result<Duration> {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        let one = ping(stage.container(0)?, target, 1, Duration::from_millis(200))?;
        if one.received > 0 {
            return Ok(start.elapsed());
        }
    }
    bail!("no answer from {target} within {} s", PATIENCE.as_secs())
}

/// Pings while something happens, and one second longer.
fn flow_while<T>(
    stage: &mut Stage,
    target: IpAddr,
    work: impl FnOnce(&mut Stage) -> Result<T>,
) -> Result<(Pings, T)> {
    let flow = ping::Flow::start(stage.container(0)?, target, Duration::from_millis(50))?;
    let done = work(stage);
    std::thread::sleep(Duration::from_secs(1));
    Ok((flow.stop()?, done?))
}

/// Waits until A's path to C is of a kind, and describes it.
fn wait_path(stage: &Stage, kinds: &[&str]) -> Result<String> {
    let start = Instant::now();
    let mut last = String::new();
    while start.elapsed() < PATIENCE {
        let status: Value = serde_json::from_str(&stage.client(0, &["status", "-o", "json"])?)?;
        let to_c = status["connections"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|c| c["nickname"] == "c");
        if let Some(connection) = to_c {
            last = format!(
                "{}, {}",
                connection["path"].as_str().unwrap_or("?"),
                connection["reason"].as_str().unwrap_or("?")
            );
            if kinds.iter().any(|kind| connection["path"] == *kind) {
                return Ok(format!("{last} (after {} ms)", start.elapsed().as_millis()));
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!(
        "A's path to C did not become {} within {} s (it is: {last})",
        kinds.join(" or "),
        PATIENCE.as_secs()
    )
}
