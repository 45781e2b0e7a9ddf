//! What `--check` demands of the figures.

use super::report::Report;

/// Peers up to which the first of two bars counts.
const SMALL: u32 = 1000;

/// A figure of a scenario and what it must keep: at most or at least, for
/// worlds up to [`SMALL`] and above. No bar is infinite.
struct Bar {
    scenario: &'static str,
    figure: &'static str,
    demand: Demand,
}

enum Demand {
    AtMost(f64, f64),
    AtLeast(f64, f64),
}

const fn at_most(scenario: &'static str, figure: &'static str, small: f64, large: f64) -> Bar {
    Bar {
        scenario,
        figure,
        demand: Demand::AtMost(small, large),
    }
}

const fn at_least(scenario: &'static str, figure: &'static str, small: f64, large: f64) -> Bar {
    Bar {
        scenario,
        figure,
        demand: Demand::AtLeast(small, large),
    }
}

const NO_BAR: f64 = f64::INFINITY;
const MIB: f64 = 1024.0 * 1024.0;

const BARS: [Bar; 34] = [
    at_most("change", "known_p99_s", 0.8, 1.5),
    at_most("change", "known_max_s", 2.0, 4.0),
    at_most("crash", "known_p99_s", 4.0, 5.0),
    at_most("names", "known_p99_s", 0.8, 1.5),
    at_most("names", "known_max_s", 1.0, 4.0),
    at_most("names", "gone_p99_s", 0.8, 1.5),
    at_most("names", "gone_max_s", 1.0, 4.0),
    at_most("names", "dead_p99_s", 4.0, 5.0),
    at_most("names", "missing", 0.0, 0.0),
    at_most("lossy", "false_dead", 0.0, 0.0),
    at_most("idle", "bytes_per_peer_s", 2048.0, 3072.0),
    at_most("idle", "links_max", 16.0, 16.0),
    at_most("idle", "bytes_per_peer", 40.0 * MIB, 96.0 * MIB),
    at_most("churn", "bytes_per_peer_s", 3072.0, 6144.0),
    at_most("join", "join_p99_s", 2.0, 3.0),
    at_most("massboot", "reachable_s", 15.0, 90.0),
    at_most("massboot", "peak_over_steady", NO_BAR, 3.0),
    at_most("relaydeath", "repair_p99_s", 3.0, 4.0),
    at_most("relaydeath", "loops", 0.0, 0.0),
    at_most("partition", "heal_s", 5.0, 10.0),
    at_most("partition", "zombies", 0.0, 0.0),
    at_most("partition", "heal_bytes_ratio", NO_BAR, 4.0),
    at_least("halfdead", "connected_fraction", 1.0, 0.9999),
    // Of a large world the fraction above is asked for, not everybody.
    at_most("halfdead", "connected_s", 10.0, NO_BAR),
    at_least("liar", "connected_fraction", 0.999, 0.999),
    at_most("liar", "forged_accepted", 0.0, 0.0),
    at_most("ipam", "duplicates", 0.0, 0.0),
    at_most("ipam", "stuck", 0.0, 0.0),
    at_most("ipam", "rmpeer_s", 5.0, 10.0),
    at_most("ipam-partition", "duplicates", 0.0, 0.0),
    at_most("ipam-partition", "stuck", 0.0, 0.0),
    at_most("ipam-partition", "converged_s", 5.0, 10.0),
    at_most("change", "missing", 0.0, 0.0),
    at_most("crash", "missing", 0.0, 0.0),
];

/// The bars that a report misses, as texts. Whoever does not report a figure misses its bar.
pub(crate) fn missed(report: &Report) -> Vec<String> {
    let concerned = BARS.iter().filter(|bar| bar.scenario == report.scenario);
    concerned.filter_map(|bar| miss(bar, report)).collect()
}

fn miss(bar: &Bar, report: &Report) -> Option<String> {
    let Some(value) = report.figures.get(bar.figure) else {
        return Some(format!("{} was not measured", bar.figure));
    };
    let choose = |small, large| if report.peers <= SMALL { small } else { large };
    let (kept, relation, limit) = match bar.demand {
        Demand::AtMost(small, large) => {
            let limit = choose(small, large);
            (value <= limit, "above", limit)
        }
        Demand::AtLeast(small, large) => {
            let limit = choose(small, large);
            (value >= limit, "below", limit)
        }
    };
    (!kept).then(|| format!("{} is {value}, {relation} the bar of {limit}", bar.figure))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::stats::Figures;

    fn report(scenario: &str, peers: u32, values: &[(&str, f64)]) -> Report {
        let mut figures = Figures::default();
        for (figure, value) in values {
            figures.set(*figure, *value);
        }
        Report {
            scenario: scenario.to_owned(),
            peers,
            seed: 1,
            trace_hash: String::new(),
            violations: 0,
            virtual_s: 0.0,
            wall_s: 0.0,
            peak_rss_mib: 0.0,
            figures,
        }
    }

    #[test]
    fn bars_depend_on_the_number_of_peers() {
        let crash = [("known_p99_s", 4.5), ("missing", 0.0)];
        assert_eq!(missed(&report("crash", 1000, &crash)).len(), 1);
        assert!(missed(&report("crash", 1001, &crash)).is_empty());
        let halfdead = |fraction| [("connected_fraction", fraction), ("connected_s", 9.0)];
        assert!(missed(&report("halfdead", 10, &halfdead(1.0))).is_empty());
        assert_eq!(missed(&report("halfdead", 10, &halfdead(0.9999))).len(), 1);
    }

    #[test]
    fn a_figure_that_is_not_reported_misses_its_bar() {
        assert_eq!(missed(&report("crash", 10, &[("missing", 0.0)])).len(), 1);
    }
}
