//! What a daemon dials: given at launch, changed while it runs, kept for
//! `--resume`.

use crate::basics::one_line_of;
use crate::lab::probe::ping_within;
use crate::lab::{Lab, ensure, eventually, secs};

const NOBODY: [&str; 2] = ["10.99.200.1:6783", "10.99.200.2:6783"];

#[test]
fn connect_replace_and_forget_change_the_list_exactly() {
    let lab = Lab::new();
    let (a, b) = (lab.host("a"), lab.host("b"));
    a.launch(&[]);
    b.launch(&["--token", &a.token()]);
    let (ca, cb) = (a.container(), b.container());
    assert!(b.targets().is_empty());
    b.ok(&["connect", NOBODY[0], NOBODY[1]]);
    assert_eq!(b.targets(), NOBODY);
    let seed = a.endpoint().to_string();
    b.ok(&["connect", "--replace", &seed]);
    assert_eq!(b.targets(), [seed.as_str()]);
    ping_within(secs(5), &ca.netns, cb.v4);
    b.ok(&["forget", &seed]);
    assert!(b.targets().is_empty());
    // A link that is up stays.
    ping_within(secs(2), &ca.netns, cb.v4);
}

#[test]
fn resume_starts_from_the_list_as_it_was_left() {
    let lab = Lab::new();
    let (a, b) = (lab.host("a"), lab.host("b"));
    a.launch(&[]);
    let seed = a.endpoint().to_string();
    b.join(&a.token(), &[&a], &[NOBODY[0]]);
    b.ok(&["forget", NOBODY[0]]);
    b.ok(&["connect", NOBODY[1]]);
    b.kill();
    b.launch(&["--resume"]);
    let mut expected = vec![seed.clone(), NOBODY[1].to_owned()];
    expected.sort();
    assert_eq!(b.targets(), expected);
    b.wait_connection(secs(10), &a, |_| true);

    b.terminate();
    b.launch(&[NOBODY[0]]);
    assert_eq!(b.targets(), [NOBODY[0]], "peers given replace the list");
    b.terminate();
    b.launch(&["--resume"]);
    assert_eq!(b.targets(), [NOBODY[0]]);
    let both = lab.host("c").failing_launch(&["--resume", &seed], None);
    assert_eq!(both.status.code(), Some(2));
}

#[test]
fn a_target_that_appears_later_is_found() {
    let lab = Lab::new();
    let (a, b) = (lab.host("a"), lab.host("b"));
    a.launch(&[]);
    let token = a.token();
    a.terminate();
    b.join(&token, &[&a], &[]);
    eventually(secs(10), "the target waits", || {
        let status = b.status()?;
        let waits = status["targets"][0]["state"] != "connected";
        if waits {
            Ok(())
        } else {
            Err(status["targets"].to_string())
        }
    });
    a.relaunch();
    b.wait_connection(secs(30), &a, |_| true);
}

#[test]
fn a_name_that_does_not_resolve_is_a_warning() {
    let lab = Lab::new();
    let a = lab.host("a");
    a.launch(&["no-such-host.invalid"]);
    a.log.wait_for(secs(30), "no-such-host.invalid");
    eventually(secs(30), "status says why and that it is retried", || {
        let status = a.status()?;
        let target = &status["targets"][0];
        let named = target["address"] == "no-such-host.invalid:6783";
        let reasoned = target["reason"].as_str().is_some_and(|r| !r.is_empty());
        if named && reasoned && target["state"] == "waiting" {
            return Ok(());
        }
        Err(target.to_string())
    });
    ensure(a.exited().is_none(), "it runs on");
}

#[test]
fn a_malformed_peer_is_a_usage_error() {
    let lab = Lab::new();
    let (a, idle) = (lab.host("a"), lab.host("idle"));
    a.launch(&[]);
    for malformed in [
        "host:99999",
        "host:",
        "[::1",
        "a b",
        "tcp://",
        "user@host",
        "",
    ] {
        let launched = idle.failing_launch(&["--", malformed], None);
        assert_eq!(launched.status.code(), Some(2), "launch {malformed:?}");
        let connected = a.cli(&["connect", "--", malformed]);
        assert_eq!(connected.status.code(), Some(2), "connect {malformed:?}");
    }
    assert!(a.targets().is_empty());
}

#[test]
fn a_daemon_that_dials_itself_says_so() {
    let lab = Lab::new();
    let (a, b) = (lab.host("a"), lab.host("b"));
    a.launch(&[]);
    let own = a.endpoint().to_string();
    a.ok(&["connect", &own]);
    b.join(&a.token(), &[&a], &[]);
    b.wait_connection(secs(10), &a, |_| true);
    let status = a.status().unwrap();
    let itself = a.peer();
    let connections = status["connections"].as_array().unwrap();
    assert!(connections.iter().all(|c| c["peer"] != itself.as_str()));
    let alone = b.cli(&["forget", "10.99.200.7"]);
    if !alone.status.success() {
        one_line_of(&alone.stderr, "10.99.200.7");
    }
}

/// As every host with Docker has 172.17.0.1.
#[test]
fn hosts_that_have_an_address_in_common_link_up_by_their_others() {
    let lab = Lab::new();
    let hosts = ["a", "b", "c"].map(|name| lab.host(name));
    for host in &hosts {
        host.also_at([172, 17, 0, 1].into());
    }
    let [a, b, c] = &hosts;
    a.launch(&[]);
    for host in [b, c] {
        host.join(&a.token(), &[a], &[]);
    }
    let (cb, cc) = (b.container(), c.container());
    for (host, other) in [(b, c), (c, b)] {
        host.wait_connection(secs(20), other, |c| c["state"] == "established");
    }
    // Without the one that they have as a target.
    a.kill();
    ping_within(secs(10), &cb.netns, cc.v4);
}
