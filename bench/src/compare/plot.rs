//! The medians as bars, in SVG: a panel for each figure of each underlay.

use std::fmt::Write;

use super::report::{Report, Row, Spread};

const WIDTH: f64 = 900.0;
const COLUMNS: usize = 2;
const LABEL: f64 = 105.0;
const VALUE: f64 = 60.0;
const BAR: f64 = 16.0;
const TITLE: f64 = 30.0;
const GAP: f64 = 24.0;

/// What is drawn; the table has the rest.
const SHOWN: [&str; 6] = [
    "TCP Gbit/s",
    "TCP, 4 flows",
    "CPU s/GB",
    "< 1 % lost kpps",
    "ping p50 us",
    "loaded p99 us",
];

pub(super) fn svg(report: &Report) -> String {
    let measured = report.rows();
    let mut panels = Vec::new();
    for (underlay, rows) in &measured {
        for name in SHOWN {
            let bars: Vec<(&Row, Spread)> = rows
                .iter()
                .filter_map(|row| {
                    let (_, spread) = row.figures.iter().find(|(n, _)| *n == name)?;
                    Some((row, (*spread)?))
                })
                .collect();
            if !bars.is_empty() {
                panels.push((format!("{name}, {underlay}"), bars));
            }
        }
    }
    let width = WIDTH / COLUMNS as f64;
    let mut body = String::new();
    let mut top = GAP;
    for line in panels.chunks(COLUMNS) {
        for (column, (title, bars)) in line.iter().enumerate() {
            panel(
                &mut body,
                title,
                bars,
                column as f64 * width,
                top,
                width - GAP,
            );
        }
        let bars = line
            .iter()
            .map(|(_, bars)| bars.len())
            .max()
            .unwrap_or_default();
        top += TITLE + bars as f64 * BAR * 1.4 + GAP;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {top:.0}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}

fn panel(svg: &mut String, title: &str, bars: &[(&Row, Spread)], left: f64, top: f64, width: f64) {
    let most = bars
        .iter()
        .map(|(_, spread)| spread.most)
        .fold(f64::MIN_POSITIVE, f64::max);
    let scale = (width - LABEL - VALUE) / most;
    let (x, y) = (left + GAP / 2.0, top + 14.0);
    let _ = writeln!(
        svg,
        "<text x=\"{x:.0}\" y=\"{y:.0}\" font-weight=\"bold\">{}</text>",
        escape(title)
    );
    for (at, (row, spread)) in bars.iter().enumerate() {
        let y = top + TITLE + at as f64 * BAR * 1.4;
        let start = left + LABEL;
        let (centre, middle) = (y + BAR / 2.0, y + BAR * 0.75);
        let colour = match (row.way.as_str(), row.rival) {
            ("wove", _) => "#1f6f8b",
            (_, true) => "#b5651d",
            (_, false) => "#8a8a8a",
        };
        let _ = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{middle:.1}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{start:.0}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>\
             <line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{centre:.1}\" y2=\"{centre:.1}\" stroke=\"black\"/>\
             <text x=\"{:.1}\" y=\"{middle:.1}\">{:.2}</text>",
            start - 6.0,
            escape(&row.way),
            spread.median * scale,
            start + spread.least * scale,
            start + spread.most * scale,
            start + spread.most * scale + 6.0,
            spread.median,
        );
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::{measure::Figures, report::Sample, stage::Underlay, ways::Way};
    use super::*;

    #[test]
    fn every_way_that_was_measured_has_a_bar() {
        let mut report = Report::default();
        for (way, gbit) in [(Way::Hand, 10.0), (Way::Wove, 5.0)] {
            let figures = Figures {
                tcp_gbit: Some(gbit),
                ..Figures::default()
            };
            report.add(Sample::new(Underlay::Plain, way, 0, Ok(figures)));
        }
        let svg = svg(&report);
        assert_eq!(svg.matches("<rect x=").count(), 2);
        assert!(svg.contains("TCP Gbit/s, plain"));
        assert!(escape("< 1 %").starts_with("&lt;"));
    }
}
