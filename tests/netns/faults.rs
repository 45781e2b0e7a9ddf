//! Hosts that are not as they should be: one line says what, why and what to
//! do, and nothing is started afresh silently.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::symlink;

use crate::basics::one_line_of;
use crate::lab::probe::ping_within;
use crate::lab::{Container, Host, Lab, PORT, STATE, ensure, eventually, secs};

/// The user `nobody`.
const NOBODY: u32 = 65_534;

#[test]
fn a_cloned_state_directory_is_detected_and_said() {
    let lab = Lab::new();
    let (hosts, containers) = lab.network(2, &[]);
    ping_within(secs(10), &containers[0].netns, containers[1].v4);
    let clone = lab.host("clone");
    for (name, content) in hosts[1].state_files() {
        clone.write_state(&name, &content);
    }
    clone.launch(&[&hosts[0].endpoint().to_string()]);
    let what = "someone warns of two hosts with one identity";
    eventually(secs(20), what, || {
        let mut said = String::new();
        for host in [&hosts[0], &hosts[1], &clone] {
            said += &host.status()?["warnings"].to_string();
            said += &host.log.matching("WARN").concat();
        }
        let named = ["clone", "identity", "same key"]
            .iter()
            .any(|w| said.contains(w));
        if named { Ok(()) } else { Err(said) }
    });
    clone.kill();
    ping_within(secs(20), &containers[0].netns, containers[1].v4);
}

#[test]
fn a_torn_file_is_said_and_not_started_afresh() {
    let lab = Lab::new();
    let host = lab.host("a");
    host.launch(&[]);
    host.container();
    host.ok(&["connect", "10.99.200.1"]);
    let identity = host.peer();
    host.terminate();
    let whole = host.state_files();
    ensure(!whole.is_empty(), "a peer keeps its keys");
    for (name, content) in &whole {
        if content.len() < 2 {
            continue;
        }
        host.write_state(name, &content[..content.len() / 2]);
        torn(&host, name, &identity);
        for (name, content) in &whole {
            host.write_state(name, content);
        }
    }
    host.launch(&["--resume"]);
    assert_eq!(host.peer(), identity);
}

#[test]
fn a_container_whose_path_leads_elsewhere_by_now_does_not_stop_a_launch() {
    let lab = Lab::new();
    let host = lab.host("a");
    host.launch(&[]);
    let (container, other) = (Container::new(1), Container::new(2));
    let folder = tempfile::tempdir().expect("there is a place for files");
    let path = folder.path().join("container").display().to_string();
    for place in ["/proc/self/ns/mnt", "/dev/null", &other.path(), "/nowhere"] {
        symlink(container.path(), &path).expect("the folder can be written");
        host.ok(&["attach", "--netns", &path, "10.77.0.1/24"]);
        host.kill();
        fs::remove_file(&path).expect("it was made above");
        symlink(place, &path).expect("the folder can be written");
        host.relaunch();
        fs::remove_file(&path).expect("it was made above");
        assert_eq!(
            host.json(&["ps"]).unwrap(),
            serde_json::json!([]),
            "{place}"
        );
    }
}

// Either it refuses, or it warns and is still who it was.
fn torn(host: &Host, name: &str, identity: &str) {
    host.start(&[]);
    let refused = eventually(secs(15), "it starts or refuses", || {
        match (host.exited(), host.status()) {
            (Some(status), _) => Ok(Some(status)),
            (None, Ok(_)) => Ok(None),
            (None, Err(error)) => Err(error),
        }
    });
    host.log.wait_for(secs(5), name);
    if let Some(status) = refused {
        assert_eq!(status.code(), Some(1), "{name}");
        return;
    }
    assert_eq!(host.peer(), identity, "{name}");
    host.terminate();
}

#[test]
fn two_hosts_of_one_name_work_and_are_told() {
    let lab = Lab::new();
    let (a, b, c) = (lab.host("a"), lab.host("b"), lab.host("c"));
    a.launch(&[]);
    let token = a.token();
    b.join(&token, &[&a], &[]);
    c.launch(&[
        "--nickname",
        "b",
        "--token",
        &token,
        &a.endpoint().to_string(),
    ]);
    let (cb, cc) = (b.container(), c.container());
    ping_within(secs(10), &cb.netns, cc.v4);
    eventually(secs(10), "all three are peers", || {
        let peers = a.status()?["peers"].as_array().map_or(0, Vec::len);
        if peers == 3 {
            Ok(())
        } else {
            Err(peers.to_string())
        }
    });
}

#[test]
fn a_full_disk_is_said() {
    let lab = Lab::new();
    let (fresh, running) = (lab.host("fresh"), lab.host("running"));
    fill(&fresh);
    let output = fresh.failing_launch(&[], None);
    assert_eq!(output.status.code(), Some(1));
    ensure(
        text(&output.stderr).to_lowercase().contains("no space"),
        text(&output.stderr),
    );

    lab.tolerate("No space left");
    running.netns.mount_tmpfs(STATE, 256 * 1024);
    running.launch(&[]);
    let other = lab.host("other");
    other.join(&running.token(), &[&running], &[]);
    let (c1, c2) = (running.container(), other.container());
    ping_within(secs(10), &c1.netns, c2.v4);
    running.netns.run(fill_up);
    // Whether it is done and warned of, or refused: the daemon says it and lives.
    running.cli(&["connect", "10.99.200.1"]);
    ping_within(secs(5), &c1.netns, c2.v4);
    ensure(running.exited().is_none(), "it runs on");
}

#[test]
fn a_port_in_use_is_said() {
    let lab = Lab::new();
    let host = lab.host("a");
    let bind = || UdpSocket::bind(("0.0.0.0", PORT)).unwrap();
    let _taken = host.netns.run(bind);
    refuses(&host, &[], "6783");
    host.launch(&["--port", "7000"]);
    assert_eq!(host.status().unwrap()["router"]["port"], 7000);
}

#[test]
fn a_second_daemon_is_refused() {
    let lab = Lab::new();
    let host = lab.host("a");
    host.launch(&[]);
    let second = host.failing_launch(&["--port", "7000"], None);
    assert_eq!(second.status.code(), Some(1));
    ensure(host.status().is_ok(), "the first one still answers");
}

#[test]
fn what_is_not_understood_is_a_usage_error() {
    let lab = Lab::new();
    let host = lab.host("a");
    for arguments in [
        &["--no-such-option"][..],
        &["--port", "0"],
        &["--port", "70000"],
        &["--mtu", "many"],
        &["--trusted-subnets", "10.0.0.0/40"],
    ] {
        let output = host.failing_launch(arguments, None);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        ensure(!output.stderr.is_empty(), "it says why");
    }
    assert_eq!(host.cli(&["no-such-command"]).status.code(), Some(2));
    let token = host.failing_launch(&["--token", "not-a-token"], None);
    ensure(!token.status.success(), "a token has a form");
}

#[test]
fn a_foreign_device_of_the_bridges_name_is_left_alone() {
    let lab = Lab::new();
    let host = lab.host("a");
    host.netns.add_veth("wove", "other");
    refuses(&host, &[], "wove");
    assert!(host.netns.link_index("other").is_some());
    host.launch(&["--bridge", "mesh"]);
    assert!(host.netns.link_index("mesh").is_some());
    host.ok(&["reset"]);
    host.wait_exit();
    assert!(
        host.netns.link_index("wove").is_some(),
        "reset takes its own only"
    );
}

#[test]
fn without_root_it_says_so() {
    let lab = Lab::new();
    let host = lab.host("a");
    host.write_state("placeholder", b"");
    let output = host.failing_launch(&[], Some(NOBODY));
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr).to_lowercase();
    let words = ["root", "cap_net_admin", "privilege", "permission"];
    ensure(words.iter().any(|word| said.contains(word)), said);
}

#[test]
fn a_client_without_root_is_turned_away() {
    let lab = Lab::new();
    let host = lab.host("a");
    host.launch(&[]);
    let output = host.cli_as(NOBODY, &["status"]);
    assert_eq!(output.status.code(), Some(1));
    one_line_of(&output.stderr, "root");
}

#[test]
fn without_a_tun_device_it_says_so() {
    let lab = Lab::new();
    let host = lab.host("a");
    host.netns.mount_tmpfs("/dev/net", 4096);
    refuses(&host, &[], "/dev/net/tun");
}

#[track_caller]
fn refuses(host: &Host, arguments: &[&str], word: &str) {
    let output = host.failing_launch(arguments, None);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    ensure(
        said.contains(word),
        format_args!("{word:?} is not in {said}"),
    );
}

fn fill(host: &Host) {
    host.netns.mount_tmpfs(STATE, 64 * 1024);
    host.netns.run(fill_up);
}

fn fill_up() {
    let mut name = 0;
    // Also the last page, which one file alone may leave.
    while name < 3 {
        let whole = fs::write(format!("{STATE}/.fill{name}"), vec![0; 1 << 20]);
        name += 1;
        assert!(whole.is_err(), "the disk is small");
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
