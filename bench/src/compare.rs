//! The sleeve beside kernel VXLAN made by hand and beside other userspace
//! overlays, in turns, over one veth: figures, a table, a plot.
//!
//! ```text
//! options ──► run: for each underlay, round and way
//!                    stage ──► way::up ──► measure ──► samples
//!                                                        │
//!                                report (table, JSON) ◄──┴──► plot (SVG)
//! ```
//!
//! A stage is a few network namespaces that nothing names: they and everything
//! started in them end with this process, however it ends.

pub mod options;

mod flood;
mod measure;
mod plot;
mod report;
mod stage;
mod text;
mod ways;

use std::{
    fs,
    io::Write,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use options::{Command, Compare, Options};
use report::{Report, Sample};
use stage::Stage;
use ways::Way;

/// Runs what the command line asks for; figures to `out`, progress to `progress`.
///
/// # Errors
/// What went wrong with the stage itself. A way that does not come up is
/// reported in the table instead.
pub fn run(options: &Options, out: &mut dyn Write, progress: &mut dyn Write) -> Result<()> {
    match &options.command {
        Some(Command::FloodSend(send)) => flood::send(send, out),
        Some(Command::FloodReceive(receive)) => flood::receive(receive, out),
        None => compare(&options.compare, out, progress),
    }
}

fn compare(options: &Compare, out: &mut dyn Write, progress: &mut dyn Write) -> Result<()> {
    let mut report = Report::default();
    for underlay in &options.underlays {
        for round in 0..options.rounds {
            for way in &options.ways {
                let begun = Instant::now();
                let outcome = one(*way, *underlay, options);
                let seconds = begun.elapsed().as_secs();
                match &outcome {
                    Ok(figures) => writeln!(
                        progress,
                        "{underlay} round {round} {way}: {figures} ({seconds} s)"
                    )?,
                    Err(error) => writeln!(
                        progress,
                        "{underlay} round {round} {way}: failed: {error:#} ({seconds} s)"
                    )?,
                }
                report.add(Sample::new(*underlay, *way, round, outcome));
                // What was measured is not lost if the run is ended early.
                report.save(&options.out)?;
            }
        }
    }
    report.table(out)?;
    if let Some(path) = &options.plot {
        fs::write(path, plot::svg(&report))
            .with_context(|| format!("writing the plot to {}", path.display()))?;
    }
    Ok(())
}

/// Brings one way up on a stage of its own and measures it.
fn one(way: Way, underlay: stage::Underlay, options: &Compare) -> Result<measure::Figures> {
    let mut stage = Stage::new(underlay, options.topology)?;
    let standing = way.up(&mut stage, options)?;
    stage.until(Duration::from_secs(20), "first ping", |stage| {
        stage.reaches(standing.far)
    })?;
    measure::all(&stage, &standing, options)
}
