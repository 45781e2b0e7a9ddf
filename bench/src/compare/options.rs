//! The command line of the comparison.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::{Args, Parser, Subcommand};

use super::{
    measure::What,
    stage::{Topology, Underlay},
    ways::Way,
};

/// Measures wove beside kernel VXLAN made by hand and beside other overlays.
///
/// Needs root, iproute2, ethtool, nftables, iperf3, ping, and the programs of the ways that are measured
/// (bench/compare installs them). All traffic stays in network namespaces that end with the run.
/// Numbers are medians of the rounds, with least and most; ways take turns within every round.
#[derive(Debug, Parser)]
#[command(name = "compare", args_conflicts_with_subcommands = true)]
pub struct Options {
    #[command(subcommand)]
    pub(super) command: Option<Command>,
    #[command(flatten)]
    pub(super) compare: Compare,
}

#[derive(Debug, Args)]
pub(super) struct Compare {
    /// What is measured, in turns.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "hand,wove")]
    pub ways: Vec<Way>,
    /// What the ways run over.
    #[arg(
        long = "underlay",
        value_enum,
        value_delimiter = ',',
        default_value = "offloads"
    )]
    pub underlays: Vec<Underlay>,
    /// Two hosts next to each other, or a third between them that relays (only wove can).
    #[arg(long, value_enum, default_value = "direct")]
    pub topology: Topology,
    /// Rounds of all ways.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Seconds of each transfer.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(2..=3600))]
    pub seconds: u32,
    /// What is measured of each way.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "tcp,tcp4,reverse,udp,ping,loaded"
    )]
    pub figures: Vec<What>,
    /// The wove to measure.
    #[arg(long, default_value = "target/release/wove")]
    pub wove: PathBuf,
    /// Further options of `wove launch`, split at spaces.
    #[arg(long, default_value = "--no-fastdp", allow_hyphen_values = true)]
    pub wove_options: String,
    /// All samples, as a JSON array.
    #[arg(long, default_value = "target/compare.json")]
    pub out: PathBuf,
    /// A plot of the medians, as SVG.
    #[arg(long)]
    pub plot: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Sends small datagrams; the comparison runs it inside its namespaces.
    #[command(hide = true)]
    FloodSend(FloodSend),
    /// Counts them.
    #[command(hide = true)]
    FloodReceive(FloodReceive),
}

#[derive(Debug, Args)]
pub(super) struct FloodSend {
    pub to: SocketAddr,
    /// Bytes of payload.
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1400))]
    pub size: u16,
    /// Datagrams a second; 0 is as many as go.
    pub rate: u32,
    pub seconds: f64,
}

#[derive(Debug, Args)]
pub(super) struct FloodReceive {
    pub at: IpAddr,
    pub port: u16,
}
