//! A mesh that never rests: peers leave and come back while packets flow between
//! others, whose own links nobody touches. Not one of those packets is lost.
//!
//! `WOVE_CHANGES=1000 cargo netns churn:: -- --nocapture`

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::lab::probe::{Stream, ping_within};
use crate::lab::{Host, Lab, asked_for, ensure, secs, until};

/// Peers that come and go.
const RESTLESS: usize = 8;
/// Between two datagrams of a stream.
const PACE: Duration = Duration::from_millis(1);
/// How long a change may take to be seen by the others.
const SEEN: u64 = 60;

#[test]
fn an_untouched_flow_loses_nothing() {
    let changes = asked_for("WOVE_CHANGES", 100);
    let lab = Lab::alone();
    let (a, b, sleeve) = (lab.host("a"), lab.host("b"), lab.host("sleeve"));
    a.launch(&["--no-encryption"]);
    let token = a.token();
    b.join(&token, &[&a], &["--no-encryption"]);
    sleeve.join(&token, &[&a], &["--no-fastdp"]);
    let restless: Vec<Host> = (0..RESTLESS).map(|n| lab.host(&format!("r{n}"))).collect();
    for host in &restless {
        // Making and removing devices is what a busy kernel takes long for.
        host.join(&token, &[&a, &b], &["--no-fastdp"]);
        host.container();
    }
    let [ca, cb, cs] = [&a, &b, &sleeve].map(Host::container);
    a.wait_peers(secs(SEEN), RESTLESS + 3);
    for (to, path, far) in [(&b, "fastdp", &cb), (&sleeve, "sleeve", &cs)] {
        ping_within(secs(10), &ca.netns, far.v4);
        for (near, far) in [(&a, to), (to, &a)] {
            near.wait_connection(secs(20), far, |c| c["path"] == path);
        }
    }
    // The first packets ask for addresses and search the path's MTU.
    thread::sleep(secs(2));
    let streams = [&cb, &cs].map(|far| Stream::start(&ca.netns, (&far.netns, far.v4), PACE));
    for stream in &streams {
        stream.wait_arrival(secs(5));
    }

    let witnesses = [&a, &b, &sleeve].map(Witness::new);
    let started = Instant::now();
    let enough = AtomicBool::new(false);
    thread::scope(|scope| {
        let (lab, enough, settled) = (&lab, &enough, [&a, &b, &sleeve]);
        for host in &restless {
            scope.spawn(move || come_and_go(lab, host, settled, enough));
        }
        until(
            secs(120 + 2 * changes as u64),
            "the changes are seen",
            || witnesses.iter().all(|witness| witness.changes() >= changes),
        );
        enough.store(true, Ordering::Relaxed);
    });
    let took = started.elapsed();
    a.wait_connection(secs(20), &b, |c| c["path"] == "fastdp");
    let seen = witnesses.map(|witness| witness.changes());
    let mut lost = Vec::new();
    for (stream, path) in streams.into_iter().zip(["fastdp", "sleeve"]) {
        stream.wait_arrival(secs(5));
        let report = stream.stop();
        println!(
            "{path}: {seen:?} changes seen in {took:.0?}, {} datagrams, {} lost, {} again",
            report.sent, report.lost, report.again
        );
        if report.lost > 0 {
            lost.push(format!("{path}: those sent at {:?}", report.when));
        }
    }
    let dropped = [&a, &b, &sleeve].map(|host| {
        let status = host.status().unwrap_or_default();
        status["counters"]["drops"].to_string()
    });
    ensure(
        lost.is_empty(),
        format_args!("lost: {lost:?}; dropped: {dropped:?}"),
    );
}

/// A host that counts what its daemon says about links.
struct Witness<'a> {
    host: &'a Host,
    before: usize,
}

impl<'a> Witness<'a> {
    fn new(host: &'a Host) -> Self {
        let before = said(host, "");
        Self { host, before }
    }

    fn changes(&self) -> usize {
        said(self.host, "") - self.before
    }
}

/// How often a daemon said that a link came or went, to the peer of that name.
fn said(host: &Host, nickname: &str) -> usize {
    let count = |what: &str| {
        let lines = host.log.matching(what);
        lines.iter().filter(|line| line.contains(nickname)).count()
    };
    count("link up") + count("link down")
}

/// One peer leaves in one way after the other, and comes back.
fn come_and_go(lab: &Lab, host: &Host, settled: [&Host; 3], enough: &AtomicBool) {
    let witness = settled[0];
    let name = format!("nickname=\"{}\"", host.name);
    let seen = |change: &dyn Fn()| {
        let before = said(witness, &name);
        change();
        let what = format!("{} sees {} change", witness.name, host.name);
        until(secs(SEEN), &what, || said(witness, &name) > before);
    };
    // Not all at the same moment.
    let mut way = host.id.0;
    while !enough.load(Ordering::Relaxed) {
        match way % 4 {
            0 => {
                seen(&|| assert!(host.terminate().success()));
                seen(&|| host.relaunch());
            }
            1 => {
                seen(&|| host.kill());
                seen(&|| host.relaunch());
            }
            _ => {
                seen(&|| settled.iter().for_each(|other| lab.cut(host, other)));
                seen(&|| settled.iter().for_each(|other| lab.heal(host, other)));
            }
        }
        way += 1;
    }
}
