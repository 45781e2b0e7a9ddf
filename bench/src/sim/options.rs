//! The command line.

use std::{
    io::{self, IsTerminal},
    path::PathBuf,
    time::Duration,
};

use clap::{Parser, ValueEnum};

use super::{
    scenario::{self, SCENARIOS, Scenario},
    wan::Reach,
};

/// Whole engines in one world.
const MOST_ENGINES: u32 = 200;

/// Runs whole meshes of wove in virtual time: the production gossip core, one
/// per peer, over a simulated wide-area network.
///
/// The same arguments and seed give the same run, whatever the number of
/// threads. Exits with 0 if all went well, 1 if an invariant was violated or a
/// bar missed, 2 if the arguments make no sense.
#[derive(Clone, Debug, Parser)]
#[command(name = "sim", after_long_help = scenarios())]
pub struct Options {
    /// Scenarios to run, one after the other, separated by commas; or `all`.
    #[arg(long, value_delimiter = ',', required = true, value_name = "NAME")]
    pub scenario: Vec<String>,
    /// How many peers.
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(4..=100_000))]
    pub peers: u32,
    /// What all randomness comes from.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Share of datagrams that are lost, 0 to 1.
    #[arg(long, default_value_t = 0.01, value_name = "SHARE", value_parser = share)]
    pub loss: f64,
    /// Share of ordered pairs of hosts between which everything is lost.
    #[arg(long, default_value_t = 0.0, value_name = "SHARE", value_parser = share)]
    pub one_way: f64,
    /// Share of hosts behind address translation, which can dial but not be dialled.
    #[arg(long, default_value_t = 0.0, value_name = "SHARE", value_parser = share)]
    pub nat: f64,
    /// Launch the peers of a warm world from seeds, one per group, instead of
    /// beginning with a mesh that is up.
    #[arg(long)]
    pub launch: bool,
    /// Run the whole engine of every peer, with real sessions, instead of its gossip
    /// core with modelled ones; launches the peers as --launch does. At most 200 peers.
    #[arg(long)]
    pub engine: bool,
    /// Groups of hosts (their number modulo K) that reach nobody but their own and the bridges.
    #[arg(long, default_value_t = 1, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub groups: u32,
    /// How many hosts, the first ones, reach all groups.
    #[arg(long, default_value_t = 0, value_name = "B")]
    pub bridges: u32,
    /// Seconds of virtual time to measure for, instead of what each scenario takes by itself.
    #[arg(long, value_name = "SECONDS")]
    pub duration: Option<f64>,
    /// Threads to use; the outcome does not depend on it.
    #[arg(long, default_value_t = 2, value_name = "T", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub threads: u16,
    /// How to print what came out.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// Hold the figures against the bars; a missed one is a failure.
    #[arg(long)]
    pub check: bool,
    /// Say every two seconds where the run is, or how far a sweep is after each seed, even if
    /// standard error is no terminal.
    #[arg(long)]
    pub progress: bool,
    /// Say after each scenario how many bytes were sent in datagrams of which kind, and how many records were copies.
    #[arg(long)]
    pub kinds: bool,
    /// Append each outcome to a file, as one line of JSON.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Run every scenario with every seed of --seeds, each in a process and world of its own.
    #[arg(long)]
    pub sweep: bool,
    /// Seeds of a sweep: a number or a range such as 1-100.
    #[arg(long, default_value = "1-10", value_name = "RANGE", value_parser = seeds)]
    pub seeds: Seeds,
    /// Runs of a sweep at once.
    #[arg(long, default_value_t = 2, value_name = "J", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: u16,
    /// Keep what failed in a sweep in a file, with the command that replays it;
    /// what is in it is tried first, and taken out once it passes.
    #[arg(long, value_name = "FILE")]
    pub failures: Option<PathBuf>,
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A small table.
    Text,
    /// One object per scenario, one a line.
    Json,
}

/// The seeds of a sweep, both ends included.
#[derive(Clone, Copy, Debug)]
pub struct Seeds {
    /// The first.
    pub first: u64,
    /// The last.
    pub last: u64,
}

impl Options {
    /// Whether to say where a run is.
    pub(crate) fn shows_progress(&self) -> bool {
        self.progress || io::stderr().is_terminal()
    }

    /// The scenarios asked for; of all, those that can be had.
    pub(crate) fn scenarios(&self) -> Result<Vec<&'static Scenario>, String> {
        if self.engine && self.peers > MOST_ENGINES {
            return Err(too_many(self.peers));
        }
        let can_be_had = |scenario: &&Scenario| !self.engine || !scenario.rewrites;
        if self.scenario == ["all"] {
            return Ok(SCENARIOS.iter().filter(can_be_had).collect());
        }
        let find = |name: &String| {
            let found = scenario::find(name).ok_or_else(|| unknown(name))?;
            let had = Some(found).filter(can_be_had);
            had.ok_or_else(|| sealed(name))
        };
        self.scenario.iter().map(find).collect()
    }

    /// Who reaches whom, unless the scenario says.
    pub(crate) fn reach(&self) -> Reach {
        let (groups, bridges) = (self.groups, self.bridges);
        match groups {
            1 => Reach::All,
            _ => Reach::Bridged { groups, bridges },
        }
    }

    /// How long to measure, if that was said.
    pub(crate) fn duration(&self) -> Option<Duration> {
        self.duration
            .map(|seconds| Duration::from_secs_f64(seconds.clamp(0.0, 1e6)))
    }

    /// The command line that runs some scenarios as these options do.
    pub(crate) fn replay(&self, scenarios: &str, seed: u64) -> String {
        let arguments = self.arguments(scenarios, seed).join(" ");
        format!("cargo run --release -p wove-bench --bin sim -- {arguments}")
    }

    /// The arguments on which the outcome depends.
    pub(crate) fn arguments(&self, scenarios: &str, seed: u64) -> Vec<String> {
        let mut arguments = Vec::new();
        let mut add = |name: &str, value: String| arguments.extend([format!("--{name}"), value]);
        add("scenario", scenarios.to_owned());
        add("peers", self.peers.to_string());
        add("seed", seed.to_string());
        add("loss", self.loss.to_string());
        for (name, value) in [("one-way", self.one_way), ("nat", self.nat)] {
            if value > 0.0 {
                add(name, value.to_string());
            }
        }
        if self.groups > 1 {
            add("groups", self.groups.to_string());
            add("bridges", self.bridges.to_string());
        }
        if let Some(duration) = self.duration {
            add("duration", duration.to_string());
        }
        if self.launch {
            arguments.push("--launch".to_owned());
        }
        if self.engine {
            arguments.push("--engine".to_owned());
        }
        if self.check {
            arguments.push("--check".to_owned());
        }
        arguments
    }
}

fn unknown(name: &str) -> String {
    let known: Vec<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
    format!(
        "there is no scenario '{name}'; there are {}, and 'all'",
        known.join(", ")
    )
}

fn too_many(peers: u32) -> String {
    format!(
        "--engine runs at most {MOST_ENGINES} peers, not {peers}: their handshakes and signatures are \
         real and cost the time of as many machines; ask for fewer, or leave --engine out"
    )
}

fn sealed(name: &str) -> String {
    format!(
        "the scenario '{name}' cannot be had with --engine: it rewrites gossip on its way, which \
         the real sessions of engines do not let it; leave one of the two out"
    )
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("write a number from 0 to 1".to_owned()),
    }
}

fn seeds(text: &str) -> Result<Seeds, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) if first <= last => Ok(Seeds { first, last }),
        _ => Err("write a number, or two with a dash between: 1-100".to_owned()),
    }
}

fn scenarios() -> String {
    let line = |scenario: &Scenario| format!("  {:<11} {}\n", scenario.name, scenario.about);
    let lines: String = SCENARIOS.iter().map(line).collect();
    format!("Scenarios:\n{lines}")
}
