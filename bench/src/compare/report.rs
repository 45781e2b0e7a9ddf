//! Samples, their medians as a table, and all of them as JSON.

use std::{collections::BTreeMap, fs, io::Write, path::Path};

use anyhow::{Context, Result};
use serde::Serialize;

use super::{measure::Figures, stage::Underlay, ways::Way};

/// One way in one round over one underlay.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Sample {
    underlay: String,
    #[serde(skip)]
    over: Underlay,
    way: String,
    #[serde(skip)]
    rival: bool,
    round: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    figures: Option<Figures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Sample {
    pub(super) fn new(underlay: Underlay, way: Way, round: u32, outcome: Result<Figures>) -> Self {
        let (figures, error) = match outcome {
            Ok(figures) => (Some(figures), None),
            Err(error) => (None, Some(format!("{error:#}"))),
        };
        Self {
            underlay: underlay.to_string(),
            over: underlay,
            way: way.to_string(),
            rival: way.is_rival(),
            round,
            figures,
            error,
        }
    }
}

/// Least, median and most of some rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub least: f64,
    pub median: f64,
    pub most: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        Some(Self {
            least: *values.first()?,
            median: values[(values.len() - 1) / 2],
            most: *values.last()?,
        })
    }
}

/// The rounds of one way over one underlay.
pub(super) struct Row {
    pub way: String,
    pub rival: bool,
    /// By the names and in the order of [`Figures::all`]. Empty if no round succeeded.
    pub figures: Vec<(&'static str, Option<Spread>)>,
    /// Why the last round that failed did.
    pub failed: Option<String>,
}

/// All samples of a run.
#[derive(Debug, Default)]
pub(super) struct Report {
    samples: Vec<Sample>,
}

impl Report {
    pub(super) fn add(&mut self, sample: Sample) {
        self.samples.push(sample);
    }

    /// Writes all samples.
    pub(super) fn save(&self, path: &Path) -> Result<()> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let json = serde_json::to_string_pretty(&self.samples)?;
        fs::write(path, json).with_context(|| format!("writing {}", path.display()))
    }

    /// The underlays, each with its rows in the order in which they were measured first.
    pub(super) fn rows(&self) -> Vec<(Underlay, Vec<Row>)> {
        let mut underlays: Vec<Underlay> = Vec::new();
        for sample in &self.samples {
            if !underlays.contains(&sample.over) {
                underlays.push(sample.over);
            }
        }
        let rows = |underlay: Underlay| {
            let of_underlay = || self.samples.iter().filter(|sample| sample.over == underlay);
            let mut ways: BTreeMap<usize, &str> = BTreeMap::new();
            for (at, sample) in of_underlay().enumerate() {
                if !ways.values().any(|way| *way == sample.way) {
                    ways.insert(at, &sample.way);
                }
            }
            let row = |way: &str| row(of_underlay().filter(|sample| sample.way == way));
            (underlay, ways.into_values().map(row).collect())
        };
        underlays.into_iter().map(rows).collect()
    }

    /// Prints tables in Markdown, one for each underlay.
    pub(super) fn table(&self, out: &mut dyn Write) -> Result<()> {
        for (underlay, rows) in self.rows() {
            writeln!(out, "\nunderlay: {underlay}\n")?;
            let shown = Figures::default().all().map(|(name, _)| name);
            let is_measured = |name: &str| {
                rows.iter()
                    .flat_map(|row| &row.figures)
                    .any(|(n, spread)| *n == name && spread.is_some())
            };
            let shown: Vec<&str> = shown.into_iter().filter(|name| is_measured(name)).collect();
            writeln!(out, "| | {} |", shown.join(" | "))?;
            writeln!(out, "|---{}|", "|---".repeat(shown.len()))?;
            for row in &rows {
                let cells = row.figures.iter().filter(|(name, _)| shown.contains(name));
                let cells: Vec<String> = cells.map(|(_, spread)| cell(*spread)).collect();
                writeln!(out, "| {} | {} |", row.way, cells.join(" | "))?;
            }
            for row in rows {
                if let Some(failed) = row.failed {
                    writeln!(out, "\n{} failed: {failed}", row.way)?;
                }
            }
        }
        Ok(())
    }
}

fn row<'a>(samples: impl Iterator<Item = &'a Sample>) -> Row {
    let samples: Vec<&Sample> = samples.collect();
    let figures = Figures::default().all().map(|(name, _)| {
        let values = samples.iter().filter_map(|sample| {
            let figures = sample.figures.as_ref()?.all();
            figures.into_iter().find(|(other, _)| *other == name)?.1
        });
        (name, Spread::of(values.collect()))
    });
    Row {
        way: samples
            .first()
            .map(|sample| sample.way.clone())
            .unwrap_or_default(),
        rival: samples.iter().any(|sample| sample.rival),
        figures: figures.to_vec(),
        failed: samples.iter().rev().find_map(|sample| sample.error.clone()),
    }
}

/// `median (least to most)`, with as many digits as tell something.
fn cell(spread: Option<Spread>) -> String {
    let Some(spread) = spread else {
        return "-".to_owned();
    };
    let digits = match spread.most {
        most if most < 100.0 => 2,
        _ => 0,
    };
    let Spread {
        least,
        median,
        most,
    } = spread;
    format!("{median:.digits$} ({least:.digits$} to {most:.digits$})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(way: Way, round: u32, gbit: f64) -> Sample {
        let figures = Figures {
            tcp_gbit: Some(gbit),
            ..Figures::default()
        };
        Sample::new(Underlay::Offloads, way, round, Ok(figures))
    }

    #[test]
    fn a_table_has_medians_and_says_what_failed() {
        let mut report = Report::default();
        for (round, gbit) in [(0, 5.0), (1, 7.0), (2, 6.0)] {
            report.add(sample(Way::Wove, round, gbit));
            let failure = anyhow::anyhow!("no such program");
            report.add(Sample::new(
                Underlay::Offloads,
                Way::Fastd,
                round,
                Err(failure),
            ));
        }
        let mut table = Vec::new();
        report.table(&mut table).expect("a table");
        let table = String::from_utf8(table).expect("text");
        assert!(table.contains("| | TCP Gbit/s |\n"), "{table}");
        assert!(table.contains("| wove | 6.00 (5.00 to 7.00) |"), "{table}");
        assert!(table.contains("| fastd | - |"), "{table}");
        assert!(table.contains("fastd failed: no such program"), "{table}");
    }

    #[test]
    fn rows_keep_the_order_of_the_run() {
        let mut report = Report::default();
        for way in [Way::Wove, Way::Hand, Way::Wove] {
            report.add(sample(way, 0, 1.0));
        }
        let rows = report.rows();
        let names: Vec<&str> = rows[0].1.iter().map(|row| row.way.as_str()).collect();
        assert_eq!(names, ["wove", "hand"]);
    }
}
