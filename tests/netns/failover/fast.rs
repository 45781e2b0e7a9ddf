//! Each thing that can happen to the fast path of two hosts: how long a flow of
//! full-size pings is without answers, how many are lost, and when the kernel
//! carries frames again.
//!
//! What is filtered makes frames go by sleeve until it passes again; what is
//! damaged or restarted is put right by the daemons alone. The pings go from the
//! first host to the second and back, so each failure meets both directions.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::{AFTER, PACE, two};
use crate::lab::probe::{PingFlow, PingOptions, PingReport};
use crate::lab::{Container, Host, Lab, PairRule, ensure, eventually, secs};
use crate::repair::trials;

const CLEAR: &str = "--no-encryption";
const VXLAN: u16 = 6784;
/// Bytes of the longest packet on a path that became narrow.
const NARROW: usize = 1400;
/// Bytes of payload of a ping that fills a packet of the overlay: the underlay's
/// 1500 less 104, and less the headers of IPv4 and ICMP.
const SIZE: usize = 1396 - 28;
/// How long a flow may be without an answer, and until the kernel carries it
/// again: generous, for the table is what shows the figures.
const OUTAGE: u64 = 10;
const RETURN: u64 = 20;

/// What one trial of a failure showed.
struct Trial {
    /// The longest time without an answer, and the pings lost.
    outage: Duration,
    lost: u64,
    /// How long until the fast path was taken again, and the pings lost by that.
    back: Duration,
    lost_back: Option<u64>,
}

/// One failure, over some trials.
struct Row {
    what: &'static str,
    trials: Vec<Trial>,
}

impl Row {
    fn new(what: &'static str) -> Self {
        let trials = Vec::new();
        Self { what, trials }
    }

    fn take(&mut self, trial: Trial) {
        let (what, lost) = (self.what, trial.lost_back.unwrap_or(0));
        self.trials.push(trial);
        ensure(
            lost <= 2,
            format_args!("{what}: {lost} lost on the way back"),
        );
    }

    fn print(&self) {
        let ms = |of: fn(&Trial) -> Duration| self.spread(|trial| of(trial).as_millis() as u64);
        let (outage, outage_most) = ms(|trial| trial.outage);
        let (lost, lost_most) = self.spread(|trial| trial.lost);
        let (back, back_most) = ms(|trial| trial.back);
        let lost_back = self.trials.iter().filter_map(|trial| trial.lost_back);
        let lost_back = lost_back
            .max()
            .map_or("".to_owned(), |most| most.to_string());
        #[expect(clippy::print_stdout, reason = "a table for README")]
        {
            println!(
                "| {} | {outage} ms, {outage_most} ms | {lost}, {lost_most} \
                 | {back} ms, {back_most} ms | {lost_back} |",
                self.what
            );
        }
    }

    /// The middle and the most of a figure.
    fn spread(&self, of: impl Fn(&Trial) -> u64) -> (u64, u64) {
        let mut all: Vec<u64> = self.trials.iter().map(of).collect();
        all.sort_unstable();
        (all[all.len() / 2], all[all.len() - 1])
    }
}

/// Two hosts whose containers talk by the kernel.
struct Pair {
    hosts: [Host; 2],
    containers: [Container; 2],
}

impl Pair {
    fn new(lab: &Lab) -> Self {
        let (hosts, containers) = two(lab, &[CLEAR]);
        let pair = Self { hosts, containers };
        pair.wait("fastdp");
        pair
    }

    fn wait(&self, path: &str) {
        self.wait_of(Ends::Both, path);
    }

    fn wait_of(&self, ends: Ends, path: &str) {
        let [a, b] = &self.hosts;
        for (near, far, other) in [(a, b, Ends::Second), (b, a, Ends::First)] {
            if ends != other {
                near.wait_connection(secs(RETURN), far, |c| c["path"] == path);
            }
        }
    }

    /// Starts the flow, and sees that it runs.
    fn flow(&self) -> PingFlow {
        let options = PingOptions {
            count: u64::MAX,
            interval: PACE,
            size: SIZE,
            ..PingOptions::default()
        };
        let to = IpAddr::from(self.containers[1].v4);
        let flow = PingFlow::start_with(&self.containers[0].netns, to, options);
        flow.wait_answer(secs(OUTAGE));
        flow
    }

    /// Frames that the kernel carried for the first host.
    fn carried(&self) -> u64 {
        let [a, b] = &self.hosts;
        let kernel = a.connection(b).unwrap_or_default()["fastdp"].clone();
        let count = |name: &str| kernel[name].as_u64().unwrap_or(0);
        count("rx_frames") + count("tx_frames")
    }
}

/// Ends a flow once it has run on for a while.
fn end(flow: PingFlow) -> PingReport {
    flow.wait_answer(secs(OUTAGE));
    std::thread::sleep(AFTER);
    flow.wait_answer(secs(OUTAGE));
    flow.stop()
}

fn outage(report: &PingReport) -> Duration {
    match report.lost {
        0 => Duration::ZERO,
        _ => report.longest_gap,
    }
}

/// Which ends leave the fast path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    Both,
    First,
    Second,
}

/// A failure that lasts until it is undone; frames go by sleeve meanwhile.
fn filtered(what: &'static str, ends: Ends, set: impl Fn(&Lab, &[Host; 2], bool)) {
    let lab = Lab::alone_if_asked("WOVE_TRIALS");
    let pair = Pair::new(&lab);
    let mut row = Row::new(what);
    for _ in 0..trials() {
        // A path that has just come up has not found its MTU yet.
        std::thread::sleep(secs(1));
        let flow = pair.flow();
        set(&lab, &pair.hosts, true);
        pair.wait_of(ends, "sleeve");
        let down = end(flow);
        let flow = pair.flow();
        set(&lab, &pair.hosts, false);
        let since = Instant::now();
        pair.wait("fastdp");
        let back = since.elapsed();
        let up = end(flow);
        row.take(Trial {
            outage: outage(&down),
            lost: down.lost,
            back,
            lost_back: Some(up.lost),
        });
    }
    row.print();
}

/// A failure that the daemons mend by themselves, at one host after the other.
fn mended(what: &'static str, mut harm: impl FnMut(&Host)) {
    let lab = Lab::alone_if_asked("WOVE_TRIALS");
    let pair = Pair::new(&lab);
    let mut row = Row::new(what);
    for trial in 0..trials() {
        std::thread::sleep(secs(1));
        let flow = pair.flow();
        let since = Instant::now();
        harm(&pair.hosts[usize::from(trial % 2 == 1)]);
        flow.wait_answer(secs(OUTAGE));
        pair.wait("fastdp");
        let before = pair.carried();
        eventually(secs(RETURN), "the kernel carries frames again", || {
            let more = pair.carried().saturating_sub(before);
            let enough = (more > 10).then_some(());
            enough.ok_or_else(|| format!("{more} frames"))
        });
        let back = since.elapsed();
        let report = end(flow);
        row.take(Trial {
            outage: outage(&report),
            lost: report.lost,
            back,
            lost_back: None,
        });
    }
    row.print();
}

/// Harm that the daemon says it has mended.
fn damaged(what: &'static str, damage: impl Fn(&Host)) {
    mended(what, |host| {
        let repairs = host.log.count("repaired");
        damage(host);
        eventually(secs(RETURN), what, || {
            let more = host.log.count("repaired") > repairs;
            more.then_some(()).ok_or_else(|| "not repaired".to_owned())
        });
    });
}

/// A rule for one direction or both, by which the fast path does not work.
fn both_ways(lab: &Lab, hosts: &[Host; 2], rule: impl FnMut(&mut PairRule)) {
    let [a, b] = hosts;
    lab.underlay.rules(|rules| rules.both(a.id, b.id, rule));
}

fn one_way(lab: &Lab, from: &Host, to: &Host, rule: impl FnOnce(&mut PairRule)) {
    lab.underlay.rules(|rules| rule(rules.pair(from.id, to.id)));
}

fn vxlan(rule: &mut PairRule, dropped: bool) {
    rule.udp_blocked = if dropped { [VXLAN].into() } else { [].into() };
}

fn narrow(rule: &mut PairRule, is: bool) {
    rule.mtu = is.then_some(NARROW);
}

#[test]
fn vxlan_is_dropped_both_ways() {
    filtered("UDP 6784 dropped", Ends::Both, |lab, hosts, on| {
        both_ways(lab, hosts, |rule| vxlan(rule, on));
    });
}

#[test]
fn vxlan_is_dropped_on_the_way_there() {
    filtered(
        "UDP 6784 dropped on the way there",
        Ends::Both,
        |lab, [a, b], on| {
            one_way(lab, a, b, |rule| vxlan(rule, on));
        },
    );
}

#[test]
fn vxlan_is_dropped_on_the_way_back() {
    filtered(
        "UDP 6784 dropped on the way back",
        Ends::Both,
        |lab, [a, b], on| {
            one_way(lab, b, a, |rule| vxlan(rule, on));
        },
    );
}

#[test]
fn the_path_becomes_narrow() {
    filtered(
        "packets of over 1400 bytes vanish",
        Ends::Both,
        |lab, hosts, on| {
            both_ways(lab, hosts, |rule| narrow(rule, on));
        },
    );
}

#[test]
fn the_way_there_becomes_narrow() {
    // Only the sender of what vanishes has to leave.
    filtered(
        "the same on the way there",
        Ends::First,
        |lab, [a, b], on| {
            one_way(lab, a, b, |rule| narrow(rule, on));
        },
    );
}

#[test]
fn the_way_back_becomes_narrow() {
    filtered(
        "the same on the way back",
        Ends::Second,
        |lab, [a, b], on| {
            one_way(lab, b, a, |rule| narrow(rule, on));
        },
    );
}

#[test]
fn the_device_is_deleted() {
    damaged("the VXLAN device is deleted", |host| {
        host.netns.delete_link("wove-vx");
    });
}

#[test]
fn the_device_is_set_down() {
    damaged("the VXLAN device is set down", |host| {
        host.netns.set_down("wove-vx");
    });
}

#[test]
fn the_programs_of_the_device_are_deleted() {
    damaged("the programs on the VXLAN device are deleted", |host| {
        host.netns.delete_programs("wove-vx");
    });
}

#[test]
fn the_program_of_the_tap_is_deleted() {
    damaged("the program on the TAP is deleted", |host| {
        host.netns.delete_programs("wove-tap");
    });
}

#[test]
fn the_link_goes_down_and_up() {
    mended("the link goes down for 0.5 s", |host| {
        host.netns.set_down("eth0");
        std::thread::sleep(Duration::from_millis(500));
        host.netns.set_up("eth0");
    });
}

#[test]
fn a_peer_is_killed_and_relaunched() {
    mended("a peer is killed (-9) and relaunched", |host| {
        host.kill();
        host.relaunch();
    });
}

#[test]
fn a_peer_is_stopped_and_relaunched() {
    mended("a peer is stopped and relaunched", |host| {
        host.ok(&["stop"]);
        assert!(host.wait_exit().success());
        host.relaunch();
    });
}
