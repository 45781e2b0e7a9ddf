//! Who may join: the wrong secret never does, and a new one replaces the old
//! without a lost frame.

use std::thread;
use std::time::Duration;

use crate::lab::probe::{PingFlow, PingOptions, ping, ping_within};
use crate::lab::{Host, Lab, ensure, eventually, secs};

#[test]
fn a_wrong_token_never_makes_a_link() {
    let lab = Lab::new();
    let (a, stranger) = (lab.host("a"), lab.host("stranger"));
    a.launch(&[]);
    stranger.launch(&["--token", &foreign_token(&lab), &a.endpoint().to_string()]);
    is_refused(&stranger, &a);
}

#[test]
fn a_wrong_password_never_makes_a_link() {
    let lab = Lab::new();
    let (a, b, stranger) = (lab.host("a"), lab.host("b"), lab.host("stranger"));
    let seed = a.endpoint().to_string();
    a.launch(&["--password", "correct horse battery staple"]);
    b.launch(&["--password", "correct horse battery staple", &seed]);
    stranger.launch(&["--password", "correct horse battery stable", &seed]);
    a.wait_connection(secs(10), &b, |_| true);
    is_refused(&stranger, &a);
}

#[test]
fn encryption_is_not_switched_off_by_one_end() {
    let lab = Lab::new();
    let (a, b) = (lab.host("a"), lab.host("b"));
    a.launch(&[]);
    b.join(&a.token(), &[&a], &["--no-encryption"]);
    let (ca, cb) = (a.container(), b.container());
    let canary = b"said-between-unequal-peers";
    let watch = lab.underlay.watch_for(canary);
    let options = PingOptions {
        count: 100,
        pattern: canary.to_vec(),
        ..PingOptions::default()
    };
    ping(&ca.netns, cb.v4, options);
    assert_eq!(watch.hits(), 0, "one end asked for encryption");
}

#[test]
fn a_token_is_replaced_under_traffic() {
    let lab = Lab::new();
    let (hosts, containers) = lab.network(3, &[]);
    let old = hosts[0].token();
    let new = foreign_token(&lab);
    ping_within(secs(10), &containers[0].netns, containers[2].v4);
    hosts[0].wait_connection(secs(10), &hosts[2], |c| c["path"] != "relay");
    let flow = PingFlow::start(
        &containers[0].netns,
        containers[2].v4,
        Duration::from_millis(20),
    );
    flow.wait_answer(secs(5));
    for (action, token) in [("add", &new), ("prefer", &new), ("remove", &old)] {
        for host in &hosts {
            host.ok(&["token", action, token]);
            thread::sleep(Duration::from_millis(300));
        }
    }
    flow.wait_answer(secs(5));
    let report = flow.stop();
    ensure(
        report.lost == 0,
        format_args!("the change lost frames: {report:?}"),
    );
    assert_eq!(hosts[1].token(), new);

    let (late, later) = (lab.host("late"), lab.host("later"));
    late.join(&new, &[&hosts[0]], &[]);
    late.wait_connection(secs(10), &hosts[0], |_| true);
    later.join(&old, &[&hosts[0]], &[]);
    is_refused(&later, &hosts[0]);
}

#[test]
fn hosts_meet_while_the_change_is_half_done() {
    let lab = Lab::new();
    let (a, b) = (lab.host("a"), lab.host("b"));
    a.launch(&[]);
    let (old, new) = (a.token(), foreign_token(&lab));
    a.ok(&["token", "add", &new]);
    a.ok(&["token", "prefer", &new]);
    // b knows the old one only, and meets a host that offers the new one first.
    b.join(&old, &[&a], &[]);
    b.wait_connection(secs(10), &a, |_| true);
    b.kill();
    b.join(&new, &[&a], &[]);
    b.wait_connection(secs(10), &a, |_| true);
    let (ca, cb) = (a.container(), b.container());
    ping_within(secs(5), &ca.netns, cb.v4);
}

#[test]
fn secrets_are_kept_from_others() {
    let lab = Lab::new();
    let (a, b) = (lab.host("a"), lab.host("b"));
    a.launch(&[]);
    let token = a.token();
    b.join(&token, &[&a], &["--log-level", "trace"]);
    b.wait_connection(secs(10), &a, |_| true);
    ensure(b.log.count(&token) == 0, "the token is in the log");
    let report = b.json(&["report"]).unwrap().to_string();
    ensure(!report.contains(&token), "the token is in the report");
    let modes = b.netns.run(state_modes);
    for (name, mode) in modes {
        ensure(mode & 0o077 == 0, format_args!("{name} has mode {mode:o}"));
    }
}

// A valid token of a network that nobody else is in.
fn foreign_token(lab: &Lab) -> String {
    let other = lab.host("other");
    other.launch(&[]);
    other.token()
}

fn is_refused(stranger: &Host, member: &Host) {
    let what = "status says failed and why";
    eventually(secs(15), what, || {
        let status = stranger.status()?;
        let entries = ["connections", "targets"].map(|key| status[key].as_array().cloned());
        let mut entries = entries.into_iter().flatten().flatten();
        let failed = entries
            .any(|e| e["state"] == "failed" && e["reason"].as_str().is_some_and(|r| !r.is_empty()));
        if failed {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
    thread::sleep(secs(5));
    for (host, other) in [(stranger, member), (member, stranger)] {
        let linked = host
            .connection(other)
            .is_ok_and(|c| c["state"] == "established");
        ensure(
            !linked,
            format_args!("{} linked with {}", host.name, other.name),
        );
        let status = host.status().expect("both daemons run");
        let peers = status["peers"].to_string();
        ensure(!peers.contains(&other.peer()), peers);
    }
    let endpoint = member.endpoint().to_string();
    let warnings = stranger.log.matching(&endpoint);
    let warnings: Vec<_> = warnings
        .iter()
        .filter(|line| line.contains("WARN"))
        .collect();
    ensure(
        (1..=2).contains(&warnings.len()),
        format_args!("said once: {warnings:#?}"),
    );
}

fn state_modes() -> Vec<(String, u32)> {
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: std::path::PathBuf| {
        let mode = std::fs::metadata(&path)
            .expect("root reads it")
            .permissions()
            .mode();
        (path.to_string_lossy().into_owned(), mode & 0o777)
    };
    let entries = std::fs::read_dir(crate::lab::STATE).expect("root reads it");
    let files = entries.map(|entry| entry.expect("root reads it").path());
    files.chain([crate::lab::STATE.into()]).map(mode).collect()
}
