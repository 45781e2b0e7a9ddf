//! The binary `wove` as a person or a script meets it: what it prints, where,
//! and with which exit status. The daemon is a backend of this test behind the
//! real control socket, in a process of its own.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail as a test does")]

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use wove::{
    engine::{Command as Ask, DnsCommand, Failure, Reply, Status, TokenCommand},
    shell::api::{ControlSocket, Handle, Request},
};

const SOCKET: &str = "WOVE_TEST_FAKE_DAEMON";

/// Not a test but the daemon's process: the test binary runs itself with this
/// one test and the socket in its environment.
#[test]
fn fake_daemon() {
    let Some(socket) = std::env::var_os(SOCKET) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let socket = ControlSocket::bind(Path::new(&socket)).await.unwrap();
        let (handle, mut queue) = Handle::channel_within(Duration::from_millis(300));
        let backend = async {
            while let Some(Request { command, reply }) = queue.recv().await {
                let ends = matches!(command, Ask::Stop | Ask::Reset);
                match fake_reply(command) {
                    Some(answer) => drop(reply.send(answer)),
                    None => std::mem::forget(reply),
                }
                if ends {
                    return;
                }
            }
        };
        socket.serve(handle, backend).await;
    });
}

fn fake_reply(command: Ask) -> Option<Result<Reply, Failure>> {
    let reply = match command {
        Ask::Status => Reply::Status(Box::new(status())),
        Ask::Report => Reply::Report { report: json!({"records": []}) },
        Ask::Connect { peers, .. } => Reply::Warned { warnings: peers },
        Ask::Token(TokenCommand::Show) => {
            Reply::Token { token: Some("t0k3n".into()), join: "wove launch x".into(), accepted: 1 }
        }
        Ask::Token(TokenCommand::Add { token }) => Reply::Token { token, join: String::new(), accepted: 2 },
        Ask::Attach { netns, ifname, addresses, naming, .. } => serde_json::from_value(json!({
            "reply": "attached", "netns": netns, "ifname": ifname, "mac": "02:00:00:00:00:01", "addresses": addresses,
            "names": naming.names,
        }))
        .unwrap(),
        Ask::Dns(DnsCommand::Lookup { name }) => Reply::Names { name, found: vec!["10.32.1.5".into(), "fd00::5".into()] },
        Ask::LogLevel { .. } => return None,
        Ask::Stop | Ask::Reset => Reply::Done,
        _ => return Some(Err(Failure { message: "it is not attached: nothing is there; see `wove ps`".into() })),
    };
    Some(Ok(reply))
}

fn status() -> Status {
    let id = "000102030405060708090a0b0c0d0e0f";
    serde_json::from_value(json!({
        "version": "9.9.9",
        "router": {"peer": id, "nickname": "alpha", "port": 6783, "encryption": true, "uptime_s": 61.0,
                   "ready": true, "mtu": 1400, "bridge": "wove"},
        "connections": [{"peer": id, "nickname": "beta", "address": "10.0.0.2:6783", "outbound": true,
            "state": "established", "path": "sleeve", "reason": "", "cipher": "AES-256-GCM", "mtu": 1400,
            "rtt_us": 210, "rx_bytes": 1, "tx_bytes": 2, "rx_frames": 1, "tx_frames": 2, "key_age_s": 3, "link": true}],
        "targets": [], "peers": [], "stations": [], "warnings": [],
        "counters": {"drops": {}, "control_rx_bytes": 0, "control_tx_bytes": 0, "sessions": 1, "handshakes": 1,
                     "records": 2, "resident_bytes": 0},
    }))
    .unwrap()
}

/// A daemon's process, ended with the test.
struct Daemon {
    process: Child,
    directory: tempfile::TempDir,
}

impl Daemon {
    fn launch() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "fake_daemon", "--nocapture"])
            .env(SOCKET, directory.path().join("wove.sock"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        while !directory.path().join("wove.sock").exists() {
            assert!(
                process.try_wait().unwrap().is_none(),
                "the fake daemon ended"
            );
            std::thread::yield_now();
        }
        Self { process, directory }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("wove.sock")
    }

    /// Runs a client command against this daemon.
    fn run(&self, arguments: &[&str]) -> Output {
        wove(arguments)
            .env("WOVE_SOCKET", self.socket())
            .output()
            .unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["-o", "json"]].concat());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn wove(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wove"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("WOVE_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Asserts exit status 1 and exactly one line on standard error; returns it.
fn failure(output: &Output) -> String {
    let line = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{line}");
    assert_eq!(line.trim_end().lines().count(), 1, "{line}");
    assert!(output.stdout.is_empty());
    line
}

fn stdout(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn without_a_daemon_every_client_command_says_so() {
    let commands = [
        "status",
        "report",
        "ps",
        "hide",
        "token",
        "stop",
        "reset",
        "connect b",
        "forget b",
        "expose 10.32.0.1/24",
        "attach --netns c1 10.32.1.5/24",
        "detach --pid 4",
        "log-level info",
    ];
    for command in commands {
        let arguments: Vec<&str> = command
            .split(' ')
            .chain(["--socket", "/nonexistent/w.sock"])
            .collect();
        let line = failure(&wove(&arguments).output().unwrap());
        assert!(
            line.starts_with("wove: no wove daemon answers on /nonexistent/w.sock: "),
            "{line}"
        );
    }
}

#[test]
fn usage_is_2_and_help_is_0() {
    for arguments in [
        &["explode"][..],
        &[],
        &["connect"],
        &["connect", "a b"],
        &["launch", "--port", "0"],
    ] {
        let output = wove(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(
            !output.stderr.is_empty() && output.stdout.is_empty(),
            "{arguments:?}"
        );
    }
    assert!(stdout(&wove(&["--help"]).output().unwrap()).contains("Exit status"));
    assert!(stdout(&wove(&["launch", "--help"]).output().unwrap()).contains("WOVE_TOKEN_FILE"));
}

#[test]
fn help_shows_no_secret() {
    let output = wove(&["launch", "--help"])
        .env("WOVE_TOKEN", "hunter2")
        .env("WOVE_PASSWORD", "hunter2")
        .output();
    assert!(!stdout(&output.unwrap()).contains("hunter2"));
}

#[test]
fn a_range_that_cannot_be_is_one_line() {
    for (option, word) in [
        ("--ipalloc-range=10.0.0.0/31", "a prefix of 8 to 30"),
        ("--ipalloc-range=10.0.0.1/24", "give the range itself"),
        ("--ipalloc-range6=fd00::1/64", "give the range itself"),
        ("--ipalloc-range6=10.0.0.0/8", "an IPv6 range"),
        ("--ipalloc-range6=fe80::/64", "no addresses for containers"),
        ("--ipalloc-range6=fd00::/120", "prefix of 108 at most"),
        ("--ipalloc-init=chance", "consensus"),
        ("--ipalloc-dead-after=1", "write a number"),
    ] {
        let output = wove(&["launch", option]).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(word), "{option}: {text}");
    }
}

#[test]
fn launch_reads_its_environment() {
    let output = wove(&["launch"]).env("WOVE_PORT", "0").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let line = failure(
        &wove(&["launch"])
            .env("WOVE_TOKEN_FILE", "/nonexistent/token")
            .output()
            .unwrap(),
    );
    assert!(line.contains("/nonexistent/token"), "{line}");
    let output = wove(&["launch"])
        .env("WOVE_PEERS", "b,tcp://c:0")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let line = String::from_utf8_lossy(&output.stderr);
    assert!(line.contains("tcp://c:0"), "{line}");
}

#[test]
fn status_is_for_people_and_for_scripts() {
    let daemon = Daemon::launch();
    let text = stdout(&daemon.run(&["status"]));
    assert!(text.contains("Connections: 1 (1 established)"), "{text}");
    assert!(!text.contains('\u{1b}'));
    assert!(
        stdout(&daemon.run(&["status", "connections"]))
            .lines()
            .nth(1)
            .is_some_and(|l| l.starts_with("->"))
    );
    let whole = daemon.json(&["status"]);
    for key in [
        "version",
        "router",
        "connections",
        "targets",
        "peers",
        "stations",
        "ipam",
        "dns",
    ] {
        assert!(whole.get(key).is_some(), "{key}");
    }
    assert_eq!(
        daemon.json(&["status", "connections"]),
        whole["connections"]
    );
    assert_eq!(daemon.json(&["status", "ipam"]), json!({}));
    assert_eq!(daemon.json(&["status", "dns"]), whole["dns"]);
    assert!(stdout(&daemon.run(&["status", "dns"])).starts_with("NAME"));
}

#[test]
fn replies_are_printed() {
    let daemon = Daemon::launch();
    assert_eq!(
        stdout(&daemon.run(&["attach", "--netns", "c1", "10.32.1.5/24"])),
        "10.32.1.5/24\n"
    );
    let attached = daemon.json(&["attach", "--pid", "7", "--ifname", "e0", "fd00::5/64"]);
    let found = daemon.run(&["dns", "lookup", "web"]);
    assert_eq!(stdout(&found), "10.32.1.5\nfd00::5\n");
    assert_eq!(
        daemon.json(&["dns", "lookup", "web"])["found"][1],
        "fd00::5"
    );
    assert_eq!(
        (&attached["netns"], &attached["ifname"]),
        (&json!("/proc/7/ns/net"), &json!("e0"))
    );
    assert_eq!(stdout(&daemon.run(&["token"])), "t0k3n\n");
    assert_eq!(stdout(&daemon.run(&["token", "add", "x"])), "x\n");
    let connected = daemon.run(&["connect", "B"]);
    assert_eq!(
        (
            stdout(&connected),
            String::from_utf8_lossy(&connected.stderr).into_owned()
        ),
        (String::new(), "wove: b:6783\n".into())
    );
    assert!(failure(&daemon.run(&["hide"])).contains("see `wove ps`"));
    assert_eq!(daemon.json(&["version"])["daemon"], "9.9.9");
}

#[test]
fn a_slow_daemon_is_not_waited_for_forever() {
    let daemon = Daemon::launch();
    assert!(failure(&daemon.run(&["log-level", "info"])).contains("did not answer within"));
}

#[test]
fn stop_and_reset_return_when_the_daemon_is_gone() {
    for command in ["stop", "reset"] {
        let mut daemon = Daemon::launch();
        assert_eq!(stdout(&daemon.run(&[command])), "");
        let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.process.id())).unwrap();
        assert!(stat.contains(") Z "), "{stat}");
        assert!(!daemon.socket().exists());
        assert!(daemon.process.wait().unwrap().success());
    }
}

#[test]
fn output_that_nobody_reads_is_no_failure() {
    let daemon = Daemon::launch();
    for arguments in [
        &["status"][..],
        &["completions", "bash"],
        &["status", "-o", "json"],
    ] {
        let mut command = wove(arguments);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut client = command
            .env("WOVE_SOCKET", daemon.socket())
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        client
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        assert_eq!(
            (client.wait().unwrap().code(), said),
            (Some(0), String::new()),
            "{arguments:?}"
        );
    }
}

#[test]
fn completions_are_for_three_shells() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            stdout(&wove(&["completions", shell]).output().unwrap()).contains("connections"),
            "{shell}"
        );
    }
}
