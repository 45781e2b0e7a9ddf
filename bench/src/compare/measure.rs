//! What is measured of a way that is up.

use std::{
    fmt, fs,
    io::{BufRead, BufReader, Read},
    net::IpAddr,
    process::Stdio,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::{
    options::Compare,
    stage::{Host, Stage},
    text,
    ways::Standing,
};

/// Bytes of the small datagrams.
const SMALL: u16 = 64;
const PORT: u16 = 9999;
/// Seconds of a flood, and of one step of the search for the rate that is not too much.
const FLOOD: f64 = 2.0;
const STEP: f64 = 0.8;
const STEPS: usize = 6;
/// A rate of which less is lost goes through.
const TOLERATED: f64 = 0.01;

/// A group of figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum What {
    /// One TCP flow, and the processor time it costs the daemons.
    Tcp,
    /// Four.
    Tcp4,
    /// One the other way.
    Reverse,
    /// Datagrams of 64 bytes: as many as go, and as many as go with less than 1 % lost.
    Udp,
    /// The round-trip time of an idle way.
    Ping,
    /// The same under a TCP flow.
    Loaded,
}

/// The figures of one way in one round. What was not measured is not there.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub(super) struct Figures {
    /// TCP payload received, Gbit/s.
    pub tcp_gbit: Option<f64>,
    pub tcp4_gbit: Option<f64>,
    pub reverse_gbit: Option<f64>,
    /// Processor time of all daemons for a GB of TCP payload, s.
    pub cpu_s_per_gb: Option<f64>,
    /// Of the one between, if there is one.
    pub relay_cpu_s_per_gb: Option<f64>,
    /// Of the busier end.
    pub end_cpu_s_per_gb: Option<f64>,
    /// Datagrams received in a flood, thousands per second.
    pub flood_kpps: Option<f64>,
    /// With less than 1 % lost.
    pub small_kpps: Option<f64>,
    /// Round-trip times, us.
    pub idle_p50_us: Option<f64>,
    pub idle_p99_us: Option<f64>,
    pub loaded_p50_us: Option<f64>,
    pub loaded_p99_us: Option<f64>,
    /// The most memory of a daemon since it was up, MiB.
    pub memory_mib: Option<f64>,
}

impl Figures {
    /// All by name, in the order of the table.
    pub(super) fn all(&self) -> [(&'static str, Option<f64>); 13] {
        [
            ("TCP Gbit/s", self.tcp_gbit),
            ("TCP, 4 flows", self.tcp4_gbit),
            ("TCP, reverse", self.reverse_gbit),
            ("CPU s/GB", self.cpu_s_per_gb),
            ("busier end's", self.end_cpu_s_per_gb),
            ("relay's", self.relay_cpu_s_per_gb),
            ("64 B flood kpps", self.flood_kpps),
            ("< 1 % lost kpps", self.small_kpps),
            ("ping p50 us", self.idle_p50_us),
            ("p99 us", self.idle_p99_us),
            ("loaded p50 us", self.loaded_p50_us),
            ("loaded p99 us", self.loaded_p99_us),
            ("memory MiB", self.memory_mib),
        ]
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        for (name, figure) in self.all() {
            if let Some(figure) = figure {
                write!(f, "{between}{name} {figure:.2}")?;
                between = ", ";
            }
        }
        Ok(())
    }
}

/// Measures what the options ask for.
pub(super) fn all(stage: &Stage, standing: &Standing, options: &Compare) -> Result<Figures> {
    let far = standing.far;
    let mut figures = Figures::default();
    // Whatever begins with the first packets has begun.
    ping(stage, far, 100, 0.01)?;
    for pid in stage.daemons(None) {
        // The peak begins anew: what a launch takes for a moment is not what load takes.
        fs::write(format!("/proc/{pid}/clear_refs"), "5")
            .context("resetting a daemon's peak of memory")?;
    }
    for what in &options.figures {
        match what {
            What::Ping => {
                let mut times = ping(stage, far, 1000, 0.001)?;
                figures.idle_p50_us = Some(text::quantile(&mut times, 0.5));
                figures.idle_p99_us = Some(text::quantile(&mut times, 0.99));
            }
            What::Tcp => tcp(stage, far, options.seconds, &mut figures)?,
            What::Tcp4 => {
                figures.tcp4_gbit = Some(transfer(stage, far, options.seconds, "-P 4")?.0 / 1e9);
            }
            What::Reverse => {
                figures.reverse_gbit = Some(transfer(stage, far, options.seconds, "-R")?.0 / 1e9);
            }
            What::Loaded => loaded(stage, far, options.seconds, &mut figures)?,
            What::Udp => {
                let flood = flood(stage, far, 0, FLOOD)?;
                figures.flood_kpps = Some(flood.received_pps / 1e3);
                figures.small_kpps = Some(search(stage, far, flood.received_pps)? / 1e3);
            }
        }
    }
    let peaks = stage.daemons(None).into_iter().filter_map(|pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        text::kilobytes(&status, "VmHWM")
    });
    figures.memory_mib = peaks.max().map(|peak| peak as f64 / 1024.0);
    Ok(figures)
}

fn tcp(stage: &Stage, far: IpAddr, seconds: u32, figures: &mut Figures) -> Result<()> {
    let spent = || {
        stage
            .hosts()
            .iter()
            .map(|host| cpu(stage, *host))
            .collect::<Vec<f64>>()
    };
    let before = spent();
    let (rate, bytes) = transfer(stage, far, seconds, "")?;
    let costs: Vec<f64> = spent()
        .iter()
        .zip(before)
        .map(|(after, before)| (after - before) / (bytes / 1e9))
        .collect();
    figures.tcp_gbit = Some(rate / 1e9);
    if !stage.daemons(None).is_empty() {
        figures.cpu_s_per_gb = Some(costs.iter().sum());
        figures.end_cpu_s_per_gb = Some(costs[0].max(costs[1]));
        figures.relay_cpu_s_per_gb = costs.get(2).copied();
    }
    Ok(())
}

/// Processor seconds of a host's daemons so far.
fn cpu(stage: &Stage, host: Host) -> f64 {
    let hertz = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK);
    let hertz = hertz.ok().flatten().unwrap_or(100) as f64;
    let pids = stage.daemons(Some(host)).into_iter();
    let ticks =
        pids.filter_map(|pid| text::ticks(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?));
    ticks.sum::<u64>() as f64 / hertz
}

/// TCP from the near to the far host: bits per second and bytes received.
fn transfer(stage: &Stage, far: IpAddr, seconds: u32, more: &str) -> Result<(f64, f64)> {
    let mut server = stage
        .command(Host::Far, "iperf3 -s -1 --forceflush")
        .stdout(Stdio::piped())
        .spawn()
        .context("starting iperf3")?;
    if let Some(stdout) = server.stdout.take() {
        let listens = |line: &std::io::Result<String>| {
            line.as_ref().is_ok_and(|line| line.contains("listening"))
        };
        let mut lines = BufReader::new(stdout).lines();
        let _ = lines.by_ref().find(listens);
        // It must not be held up by what nobody reads.
        thread::spawn(move || lines.for_each(drop));
    }
    let line = format!(
        "timeout {} iperf3 -J -c {far} -t {seconds} -C cubic {more}",
        seconds + 10
    );
    let client = stage
        .command(Host::Near, &line)
        .output()
        .context("starting iperf3");
    let result = client.and_then(|output| text::received(&String::from_utf8_lossy(&output.stdout)));
    if result.is_err() {
        let _ = server.kill();
    }
    server.wait()?;
    result
}

fn ping(stage: &Stage, far: IpAddr, count: u32, interval: f64) -> Result<Vec<f64>> {
    let line = format!("ping -n -c {count} -i {interval} -W 1 {far}");
    let output = stage
        .command(Host::Near, &line)
        .output()
        .context("starting ping")?;
    Ok(text::round_trips(&String::from_utf8_lossy(&output.stdout)))
}

fn loaded(stage: &Stage, far: IpAddr, seconds: u32, figures: &mut Figures) -> Result<()> {
    let mut times = thread::scope(|scope| {
        let load = scope.spawn(|| transfer(stage, far, seconds + 1, ""));
        // Past the start of the flow.
        thread::sleep(Duration::from_millis(700));
        let times = ping(stage, far, seconds.saturating_sub(1) * 250, 0.004);
        load.join()
            .map_err(|_| anyhow::anyhow!("the load panicked"))??;
        times
    })?;
    figures.loaded_p50_us = Some(text::quantile(&mut times, 0.5));
    figures.loaded_p99_us = Some(text::quantile(&mut times, 0.99));
    Ok(())
}

struct Flood {
    offered_pps: f64,
    received_pps: f64,
    lost: f64,
}

/// Small datagrams at a rate (0: as many as go) for some seconds.
fn flood(stage: &Stage, far: IpAddr, rate: u32, seconds: f64) -> Result<Flood> {
    let own = std::env::current_exe().context("finding this program")?;
    let own = own.display();
    let mut receiver = stage
        .command(Host::Far, &format!("{own} flood-receive {far} {PORT}"))
        .stdout(Stdio::piped())
        .spawn()?;
    let mut said = BufReader::new(
        receiver
            .stdout
            .take()
            .context("no output of the receiver")?,
    );
    said.read_line(&mut String::new())?;
    let to = std::net::SocketAddr::new(far, PORT);
    let sender = stage.run(
        Host::Near,
        &format!("{own} flood-send {to} {SMALL} {rate} {seconds}"),
    );
    if sender.is_err() {
        receiver.kill()?;
    }
    let mut counted = String::new();
    said.read_to_string(&mut counted)?;
    receiver.wait()?;
    let (sent, sending) = pair(&sender?)?;
    let (received, receiving) = pair(&counted)?;
    Ok(Flood {
        offered_pps: sent / sending,
        received_pps: received / sending.max(receiving),
        lost: 1.0 - received / sent.max(1.0),
    })
}

/// The highest rate that goes through, datagrams per second, by bisection.
fn search(stage: &Stage, far: IpAddr, flooded: f64) -> Result<f64> {
    let (mut low, mut high) = (0.0, flooded * 1.3);
    let mut best = 0.0f64;
    let mut rate = high * 0.7;
    for _ in 0..STEPS {
        let step = flood(stage, far, rate as u32, STEP)?;
        if step.lost < TOLERATED {
            best = best.max(step.received_pps);
            low = rate;
            // The sender cannot do more.
            if step.offered_pps < rate * 0.9 {
                break;
            }
        } else {
            high = rate;
        }
        rate = (low + high) / 2.0;
    }
    Ok(best)
}

fn pair(said: &str) -> Result<(f64, f64)> {
    let mut words = said.split_whitespace().map(str::parse);
    match (words.next(), words.next()) {
        (Some(Ok(one)), Some(Ok(other))) => Ok((one, other)),
        _ => anyhow::bail!("a flood said {said:?}"),
    }
}
