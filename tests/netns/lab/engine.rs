//! A real container engine, Docker or podman, on a host of the laboratory: in
//! the host's namespaces, with an `/etc` and a `/var/lib` that only it sees.
//!
//! Engines outlive who started them, on purpose. A guardian holds the other end
//! of a pipe of this process and kills whatever carries the engine's mark in its
//! environment when the pipe closes, however that comes.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::mount::{MsFlags, mount};

use super::daemon::Daemon;
use super::host::{Host, run_to_end, succeeded};
use super::log::Log;
use super::wait::{ensure, eventually, secs, until};

/// Bytes that an engine may store.
const STORE: usize = 256 << 20;
/// How long an engine may take for one thing, in seconds.
const COMMAND: u64 = 60;
/// Says to `tests/runtimes/fetch` where to keep what it gets.
const CACHE: &str = "WOVE_RUNTIMES_CACHE";
/// The image of every container.
const IMAGE: &str = "localhost/wove:lab";

/// Kills by mark until nothing has it, then removes the control groups named so.
/// The mark is an argument: in the guardian's own environment it is not.
const GUARDIAN: &str = r#"
trap '' INT HUP TERM
read -r _
for round in 1 2 3 4 5 6 7 8 9 10; do
    found=
    for process in /proc/[0-9]*; do
        grep -qszx "WOVE_ENGINE=$1" "$process/environ" || continue
        found=1
        kill -9 "${process#/proc/}"
    done
    [ -n "$found" ] || break
    sleep 0.1
done 2>/dev/null
find /sys/fs/cgroup -depth -type d -path "*/$1*" -exec rmdir {} ';' 2>/dev/null
"#;

const CONTAINERS_CONF: &str = r#"
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
log_driver = "k8s-file"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"#;
const STORAGE_CONF: &str = r#"
[storage]
driver = "vfs"
runroot = "/run/containers/storage"
graphroot = "/var/lib/containers/storage"
"#;
const POLICY: &str = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;

/// Which program it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Docker,
    Podman,
}

/// A running engine; dropping it ends it with all its containers.
pub(crate) struct Engine<'a> {
    host: &'a Host,
    kind: Kind,
    mark: String,
    guardian: Child,
    _daemon: Daemon,
}

impl<'a> Engine<'a> {
    /// Starts one on a host and waits until it answers and has an image.
    pub(crate) fn start(host: &'a Host, kind: Kind) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mark = format!("wove-lab-{}-{number}", std::process::id());
        settle(host, &mark).unwrap_or_else(|e| panic!("no place for {kind:?}: {e}"));
        let guardian = guard(&mark);
        let mut command = marked(host, kind.daemon(), &mark);
        command.args(kind.options());
        if kind == Kind::Docker {
            command.args(["--cgroup-parent", &format!("/{mark}")]);
        }
        let log = Log::new(&format!("{kind:?} on {}", host.name));
        let mut daemon = Daemon::spawn(command, &log);
        eventually(secs(COMMAND), &format!("{kind:?} answers"), || {
            let ended = daemon.exited();
            ensure(ended.is_none(), format_args!("{kind:?} ended: {ended:?}"));
            let connect = || std::os::unix::net::UnixStream::connect(kind.socket());
            host.netns.run(connect).map_err(|error| error.to_string())
        });
        let engine = Self {
            host,
            kind,
            mark,
            guardian,
            _daemon: daemon,
        };
        engine.ok(&["import", &environment()["IMAGE"], IMAGE]);
        engine
    }

    /// Starts a container without a network that sleeps, and returns its id.
    pub(crate) fn run(&self, name: &str, options: &[&str]) -> String {
        let mark = format!("WOVE_ENGINE={}", self.mark);
        let parent = format!("/{}", self.mark);
        let mut arguments = vec!["run", "--detach", "--name", name, "--env", &mark];
        // A first process is deaf to other signals.
        arguments.extend(["--stop-signal", "KILL"]);
        if self.kind == Kind::Podman {
            arguments.extend(["--cgroup-parent", &parent]);
        }
        if !options.contains(&"--network") {
            arguments.extend(["--network", "none"]);
        }
        arguments.extend(options);
        arguments.extend([IMAGE, "sleep", "1000"]);
        self.ok(&arguments).trim().to_owned()
    }

    /// Kills a container and waits until the engine knows that it ended.
    pub(crate) fn kill(&self, container: &str) {
        self.ok(&["kill", container]);
        let is_running = ["inspect", "--format", "{{.State.Running}}", container];
        until(secs(20), "a killed container has ended", || {
            self.ok(&is_running).trim() == "false"
        });
    }

    /// Where it answers, from every place that has the host's `/run`.
    pub(crate) fn socket(&self) -> &'static str {
        self.kind.socket()
    }

    /// Runs a client command.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Output {
        let mut command = marked(self.host, self.kind.client(), &self.mark);
        command.args(arguments);
        run_to_end(command, secs(COMMAND))
    }

    /// Runs a client command that must succeed; returns what it printed.
    #[track_caller]
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        succeeded(self.kind.client(), arguments, &self.cli(arguments))
    }

    /// What a program in a container prints, once it succeeds.
    pub(crate) fn inside(&self, container: &str, program: &[&str]) -> String {
        let arguments = [&["exec", container], program].concat();
        eventually(secs(20), &format!("{program:?} in {container}"), || {
            let output = self.cli(&arguments);
            let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
            if output.status.success() {
                return Ok(stdout);
            }
            Err(stdout + &String::from_utf8_lossy(&output.stderr))
        })
    }
}

impl Drop for Engine<'_> {
    fn drop(&mut self) {
        // The guardian takes the end of its input for the end of the test.
        drop(self.guardian.stdin.take());
        let _ = self.guardian.wait();
    }
}

impl Kind {
    fn daemon(self) -> &'static str {
        match self {
            Self::Docker => "dockerd",
            Self::Podman => "podman",
        }
    }

    fn client(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
        }
    }

    fn socket(self) -> &'static str {
        match self {
            Self::Docker => "/run/docker.sock",
            Self::Podman => "/run/podman/podman.sock",
        }
    }

    fn options(self) -> Vec<String> {
        let words = match self {
            Self::Docker => {
                "--config-file /run/engine/daemon.json --iptables=false --bridge=none \
                 --ip-forward=false --ip-masq=false --storage-driver vfs \
                 --exec-opt native.cgroupdriver=cgroupfs --default-ulimit nofile=1024:1024 \
                 --host unix:///run/docker.sock"
            }
            Self::Podman => "system service --time 0 unix:///run/podman/podman.sock",
        };
        words.split_whitespace().map(str::to_owned).collect()
    }
}

/// Directories of its own for what engines keep at fixed paths.
fn settle(host: &Host, mark: &str) -> io::Result<()> {
    host.netns.mount_tmpfs("/var/lib", STORE);
    let conmon = format!(
        "conmon_env_vars = [\"PATH={}\", \"WOVE_ENGINE={mark}\"]\n",
        environment()["PATH"]
    );
    let files = [
        ("daemon.json", "{}"),
        ("containers.conf", &(CONTAINERS_CONF.to_owned() + &conmon)),
        ("storage.conf", STORAGE_CONF),
        ("registries.conf", ""),
        (".config/containers/policy.json", POLICY),
    ];
    host.netns.run(|| {
        for (name, text) in files {
            let path = Path::new("/run/engine").join(name);
            fs::create_dir_all(path.parent().expect("it is in a directory"))?;
            fs::write(path, text)?;
        }
        for directory in ["etc", "work"] {
            fs::create_dir_all(Path::new("/run/engine").join(directory))?;
        }
        fs::create_dir_all("/run/podman")?;
        let overlay = Some("overlay");
        let layers = "lowerdir=/etc,upperdir=/run/engine/etc,workdir=/run/engine/work";
        mount(overlay, "/etc", overlay, MsFlags::empty(), Some(layers))?;
        Ok(())
    })
}

fn guard(mark: &str) -> Child {
    let mut guardian = Command::new("sh");
    guardian.args(["-c", GUARDIAN, "guardian", mark]);
    guardian.stdin(Stdio::piped()).stdout(Stdio::null());
    guardian.spawn().expect("there is a shell")
}

/// A program of an engine, on a host.
fn marked(host: &Host, program: &str, mark: &str) -> Command {
    let environment = environment();
    let path = &environment["PATH"];
    let mut places = path.split(':').map(|place| Path::new(place).join(program));
    let program = places.find(|place| place.exists());
    let mut command = Command::new(program.expect("what was fetched is there"));
    command.env_clear().envs(environment);
    command.env("WOVE_ENGINE", mark).env("HOME", "/run/engine");
    command.env("CONTAINERS_CONF", "/run/engine/containers.conf");
    command.env("CONTAINERS_STORAGE_CONF", "/run/engine/storage.conf");
    command.env("CONTAINERS_REGISTRIES_CONF", "/run/engine/registries.conf");
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    host.netns.place(&mut command, None);
    command
}

/// What `tests/runtimes/fetch` says, once.
fn environment() -> &'static BTreeMap<String, String> {
    static SAID: OnceLock<BTreeMap<String, String>> = OnceLock::new();
    SAID.get_or_init(|| {
        let fetch = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/runtimes/fetch");
        let mut command = Command::new(fetch);
        if std::env::var_os(CACHE).is_none() {
            command.env(CACHE, concat!(env!("CARGO_TARGET_TMPDIR"), "/../runtimes"));
        }
        let said = command
            .output()
            .expect("the script is a part of the repository");
        let why = String::from_utf8_lossy(&said.stderr);
        assert!(said.status.success(), "no Docker and no podman: {why}");
        let text = String::from_utf8_lossy(&said.stdout);
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    })
}
