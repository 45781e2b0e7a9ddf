//! What a change of path costs a flow of pings, down and up again: how long it
//! is without answers, and how many of them are lost. In [`fast`] what can
//! happen to the fast path.
//!
//! `WOVE_TRIALS=20 cargo netns failover:: -- --nocapture` makes README's table.

mod addresses;
mod fast;

use std::time::Duration;

use crate::lab::probe::{PingFlow, PingReport, ping_within};
use crate::lab::{Container, Host, Lab, ensure, secs};
use crate::repair::trials;

/// Between two pings.
const PACE: Duration = Duration::from_millis(10);
/// How long a flow goes on after the path has changed.
const AFTER: Duration = Duration::from_millis(500);

/// One way of changing, over some trials.
struct Row {
    what: String,
    gaps: Vec<Duration>,
    lost: Vec<u64>,
}

impl Row {
    fn new(what: impl Into<String>) -> Self {
        let (what, gaps, lost) = (what.into(), Vec::new(), Vec::new());
        Self { what, gaps, lost }
    }

    fn take(&mut self, report: &PingReport) {
        // From the first lost ping to the last: who pings may stand still, too, on a
        // busy machine, and that is nobody's outage.
        let lasted = |(first, last): &(Duration, Duration)| *last - *first + PACE;
        let outages = report.outages.iter().map(lasted);
        let gap = outages.max().unwrap_or_default();
        ensure(gap < secs(10), format_args!("{}: {gap:?}", self.what));
        self.gaps.push(gap);
        self.lost.push(report.lost);
    }

    fn print(mut self) {
        self.gaps.sort();
        self.lost.sort_unstable();
        let middle = self.gaps.len() / 2;
        let (gap, lost) = (self.gaps[middle].as_millis(), self.lost[middle]);
        let most = self.gaps[self.gaps.len() - 1].as_millis();
        let most_lost = self.lost[self.lost.len() - 1];
        #[expect(clippy::print_stdout, reason = "a table for README")]
        {
            println!(
                "| {} | {gap} ms, {most} ms | {lost}, {most_lost} |",
                self.what
            );
        }
    }
}

/// A flow across a change, until both ends have the path wanted.
fn change(
    (a, b): (&Host, &Host),
    (from, to): (&Container, &Container),
    act: impl FnOnce(),
    path: &str,
) -> PingReport {
    let flow = PingFlow::start(&from.netns, to.v4, PACE);
    flow.wait_answer(secs(10));
    act();
    for (here, there) in [(a, b), (b, a)] {
        here.wait_connection(secs(20), there, |c| c["path"] == path);
    }
    std::thread::sleep(AFTER);
    flow.wait_answer(secs(10));
    flow.stop()
}

/// Down and up again, as often as is wanted.
pub(crate) fn there_and_back(
    lab: &Lab,
    pair: (&Host, &Host),
    containers: (&Container, &Container),
    names: [&'static str; 2],
    block: impl Fn(&Lab, bool),
    paths: [&str; 2],
) {
    let [mut down, mut up] = names.map(Row::new);
    for _ in 0..trials() {
        // A path that has just come up has not found its MTU yet.
        std::thread::sleep(secs(1));
        down.take(&change(pair, containers, || block(lab, true), paths[1]));
        up.take(&change(pair, containers, || block(lab, false), paths[0]));
    }
    for lost in &up.lost {
        ensure(*lost <= 2, format_args!("{}: {lost} lost", up.what));
    }
    down.print();
    up.print();
}

fn two(lab: &Lab, options: &[&str]) -> ([Host; 2], [Container; 2]) {
    let (hosts, containers) = lab.network(2, options);
    ping_within(secs(10), &containers[0].netns, containers[1].v4);
    let hosts = <[Host; 2]>::try_from(hosts).ok().expect("there are two");
    let containers = <[Container; 2]>::try_from(containers);
    (hosts, containers.ok().expect("there are two"))
}

#[test]
fn all_udp_is_dropped() {
    let lab = Lab::alone_if_asked("WOVE_TRIALS");
    let ([a, b], [ca, cb]) = two(&lab, &["--no-fastdp"]);
    let names = ["all UDP dropped: `sleeve` to `tcp`", "passes again"];
    let block = |lab: &Lab, drop: bool| {
        lab.underlay.rules(|rules| {
            rules.everywhere(|pair| pair.udp_mtu = drop.then_some(0));
        });
    };
    let paths = ["sleeve", "tcp"];
    there_and_back(&lab, (&a, &b), (&ca, &cb), names, block, paths);
}

#[test]
fn the_direct_path_is_cut() {
    let lab = Lab::alone_if_asked("WOVE_TRIALS");
    let (hosts, containers) = lab.network(3, &["--no-fastdp"]);
    let (a, c) = (&hosts[0], &hosts[2]);
    let ends = (&containers[0], &containers[2]);
    ping_within(secs(10), &ends.0.netns, ends.1.v4);
    let names = [
        "the direct path is cut: `sleeve` to `relay`",
        "passes again",
    ];
    let block = |lab: &Lab, drop: bool| if drop { lab.cut(a, c) } else { lab.heal(a, c) };
    let paths = ["sleeve", "relay"];
    there_and_back(&lab, (a, c), ends, names, block, paths);
}
