//! What comes out: one report per scenario, as JSON or as a small table.

use std::fmt::Write;

use serde::Serialize;

use super::stats::Figures;

/// The outcome of one scenario.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) scenario: String,
    pub(crate) peers: u32,
    pub(crate) seed: u64,
    /// Equal for equal runs, however many threads.
    pub(crate) trace_hash: String,
    pub(crate) violations: usize,
    /// Virtual time it took, settling and checks included.
    pub(crate) virtual_s: f64,
    pub(crate) wall_s: f64,
    /// The largest resident size of the process so far.
    pub(crate) peak_rss_mib: f64,
    pub(crate) figures: Figures,
}

impl Report {
    /// One line of JSON.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).expect("numbers and texts are serialisable")
    }

    /// A table for people.
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "{}: {} peers, seed {}, trace {}\n",
            self.scenario, self.peers, self.seed, self.trace_hash
        );
        for (name, value) in self.figures.iter() {
            let _ = writeln!(text, "  {name:<28} {:>14}", number(value));
        }
        let _ = writeln!(text, "  {:<28} {:>14}", "violations", self.violations);
        let _ = writeln!(
            text,
            "  {:.1} s of virtual time in {:.1} s, at most {:.0} MiB",
            self.virtual_s, self.wall_s, self.peak_rss_mib
        );
        text
    }
}

/// As many digits as are worth reading.
pub(crate) fn number(value: f64) -> String {
    match value {
        _ if value.fract() == 0.0 => format!("{value:.0}"),
        _ if value.abs() >= 1000.0 => format!("{value:.0}"),
        _ if value.abs() >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}
