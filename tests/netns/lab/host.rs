//! A host: a namespace, a plug in the underlay, and the daemon on it. And a
//! container: a namespace that a daemon gives an interface.
//!
//! Knows the operator's contract (command line, status JSON) and no more.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::path::Path;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

use serde_json::Value;

use super::daemon::Daemon;
use super::log::Log;
use super::netns::Netns;
use super::underlay::{HostId, Plug};
use super::wait::{eventually, secs};

/// The port of every daemon.
pub(crate) const PORT: u16 = 6783;
/// Where every host keeps its state: a tmpfs that only the host sees.
pub(crate) const STATE: &str = "/run/state";
const SOCKET: &str = "/run/wove/wove.sock";
const BINARY: &str = env!("CARGO_BIN_EXE_wove");

/// Bytes of an Ethernet header.
const ETHERNET: u64 = 14;
/// How long a client command may take, in seconds.
const COMMAND: u64 = 30;

/// A host.
pub(crate) struct Host {
    /// Its name, which is the nickname of its daemon.
    pub(crate) name: String,
    /// Its place in the rules of the underlay.
    pub(crate) id: HostId,
    /// Its namespace.
    pub(crate) netns: Netns,
    /// What its daemons print, one after the other.
    pub(crate) log: Arc<Log>,
    plugs: Vec<Plug>,
    daemon: Mutex<Option<Daemon>>,
    launched_with: Mutex<Vec<String>>,
}

/// A container: a namespace with an interface on the overlay.
pub(crate) struct Container {
    /// Its namespace.
    pub(crate) netns: Netns,
    /// Its overlay address, of a /24 that all containers share.
    pub(crate) v4: Ipv4Addr,
    /// Its overlay address, of a /64 that all containers share.
    pub(crate) v6: Ipv6Addr,
}

impl Host {
    pub(super) fn new(
        name: &str,
        id: HostId,
        netns: Netns,
        plugs: Vec<Plug>,
        log: Arc<Log>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            id,
            netns,
            log,
            plugs,
            daemon: Mutex::default(),
            launched_with: Mutex::default(),
        }
    }

    /// Its first IPv4 address on the underlay.
    pub(crate) fn v4(&self) -> Ipv4Addr {
        self.plugs[0].v4
    }

    /// Its IPv4 address on a segment.
    pub(crate) fn v4_on(&self, segment: usize) -> Ipv4Addr {
        let ifname = format!("eth{segment}");
        let mut plugs = self.plugs.iter();
        let plug = plugs.find(|plug| plug.ifname == ifname);
        plug.expect("it is plugged in there").v4
    }

    /// Its first IPv6 address on the underlay.
    pub(crate) fn v6(&self) -> Ipv6Addr {
        self.plugs[0].v6
    }

    /// Where its daemon listens.
    pub(crate) fn endpoint(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.v4(), PORT)
    }

    /// Sets the MTU of its underlay interfaces.
    pub(crate) fn set_mtu(&self, mtu: u32) {
        for plug in &self.plugs {
            self.netns.set_mtu(&plug.ifname, mtu);
        }
    }

    /// Gives it one more underlay address.
    pub(crate) fn also_at(&self, address: Ipv4Addr) {
        let plug = &self.plugs[0];
        self.netns
            .add_address(&plug.ifname, IpAddr::V4(address), 16);
    }

    /// Moves its first underlay address to another.
    pub(crate) fn readdress(&mut self, to: Ipv4Addr) {
        let plug = &mut self.plugs[0];
        let old = std::mem::replace(&mut plug.v4, to);
        // Else the second address of a network goes with the first.
        let promote = format!("net/ipv4/conf/{}/promote_secondaries", plug.ifname);
        self.netns.sysctl(&promote, "1");
        self.netns.add_address(&plug.ifname, IpAddr::V4(to), 16);
        self.netns.delete_address(&plug.ifname, IpAddr::V4(old));
    }

    /// Moves its first underlay address of IPv6 to another.
    pub(crate) fn readdress_v6(&mut self, to: Ipv6Addr) {
        let plug = &mut self.plugs[0];
        let old = std::mem::replace(&mut plug.v6, to);
        self.netns.add_address(&plug.ifname, IpAddr::V6(to), 64);
        self.netns.delete_address(&plug.ifname, IpAddr::V6(old));
    }

    /// Takes its underlay addresses of IPv4 away; `v4` names one that is no more.
    pub(crate) fn leave_v4(&self) {
        for plug in &self.plugs {
            self.netns.delete_address(&plug.ifname, IpAddr::V4(plug.v4));
        }
    }

    /// Takes its underlay addresses of IPv6 away; `v6` names one that is no more.
    pub(crate) fn leave_v6(&self) {
        for plug in &self.plugs {
            self.netns.delete_address(&plug.ifname, IpAddr::V6(plug.v6));
        }
    }

    /// Launches a daemon and waits until it is ready.
    pub(crate) fn launch(&self, arguments: &[&str]) {
        self.start(arguments);
        self.wait_ready();
    }

    /// Launches a daemon that joins the network of `token` through `seeds`.
    pub(crate) fn join(&self, token: &str, seeds: &[&Self], options: &[&str]) {
        let endpoints: Vec<_> = seeds.iter().map(|s| s.endpoint().to_string()).collect();
        let mut arguments = vec!["--token", token];
        arguments.extend(options);
        arguments.extend(endpoints.iter().map(String::as_str));
        self.launch(&arguments);
    }

    /// Starts a daemon and does not wait.
    pub(crate) fn start(&self, arguments: &[&str]) {
        self.start_with(arguments, |_| ());
    }

    /// Starts a daemon whose command `adjust` has changed, and does not wait.
    pub(crate) fn start_with(&self, arguments: &[&str], adjust: impl FnOnce(&mut Command)) {
        *lock(&self.launched_with) = arguments.iter().map(|s| (*s).to_owned()).collect();
        let mut command = self.launch_command(arguments, None);
        adjust(&mut command);
        let daemon = Daemon::spawn(command, &self.log);
        *lock(&self.daemon) = Some(daemon);
    }

    /// Waits until the daemon carries frames.
    pub(crate) fn wait_ready(&self) {
        let what = format!("{} is ready", self.name);
        eventually(secs(60), &what, || {
            if let Some(status) = self.exited() {
                // More patience would not help.
                panic!("{what}: it ended, {status}\n{}", super::log::tails());
            }
            let status = self.status()?;
            let ready = status["router"]["ready"] == true;
            if ready {
                Ok(())
            } else {
                Err("not ready".to_owned())
            }
        });
    }

    /// Launches again with the same arguments and waits until it is ready.
    pub(crate) fn relaunch(&self) {
        let arguments = lock(&self.launched_with).clone();
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        self.launch(&arguments);
    }

    /// Runs a launch that is expected to end, as root or another user.
    pub(crate) fn failing_launch(&self, arguments: &[&str], user: Option<u32>) -> Output {
        run_to_end(self.launch_command(arguments, user), secs(COMMAND))
    }

    /// Kills the daemon: SIGKILL.
    pub(crate) fn kill(&self) {
        *lock(&self.daemon) = None;
    }

    /// Asks the daemon to end: SIGTERM. Returns how it ended.
    pub(crate) fn terminate(&self) -> ExitStatus {
        let daemon = lock(&self.daemon).take();
        daemon.expect("a daemon runs").terminate()
    }

    /// How the daemon ended, if it did by itself.
    pub(crate) fn exited(&self) -> Option<ExitStatus> {
        lock(&self.daemon).as_mut().and_then(Daemon::exited)
    }

    /// Waits for the daemon to end by itself.
    pub(crate) fn wait_exit(&self) -> ExitStatus {
        let what = format!("the daemon of {} ends", self.name);
        eventually(secs(60), &what, || {
            self.exited().ok_or_else(|| "it runs".to_owned())
        })
    }

    /// Something about the running daemon's process.
    pub(crate) fn daemon<T>(&self, of: impl FnOnce(&Daemon) -> T) -> T {
        of(lock(&self.daemon).as_ref().expect("a daemon runs"))
    }

    /// Runs a client command.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Output {
        let mut command = self.command_as(None);
        command.args(arguments);
        run_to_end(command, secs(COMMAND))
    }

    /// Runs a client command that is told of a container engine's socket.
    pub(crate) fn cli_at(&self, docker_host: &str, arguments: &[&str]) -> Output {
        let mut command = self.command_as(None);
        command.env("DOCKER_HOST", docker_host).args(arguments);
        run_to_end(command, secs(COMMAND))
    }

    /// Runs a client command as another user.
    pub(crate) fn cli_as(&self, user: u32, arguments: &[&str]) -> Output {
        let mut command = self.command_as(Some(user));
        command.args(arguments);
        run_to_end(command, secs(COMMAND))
    }

    /// Runs a client command that must succeed; returns what it printed.
    #[track_caller]
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        succeeded(&self.name, arguments, &self.cli(arguments))
    }

    /// Runs a client command that must print JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> Result<Value, String> {
        let output = self.cli(&[arguments, &["-o", "json"]].concat());
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        serde_json::from_slice(&output.stdout).map_err(|e| format!("{arguments:?}: {e}"))
    }

    /// `wove status -o json`.
    pub(crate) fn status(&self) -> Result<Value, String> {
        self.json(&["status"])
    }

    /// The entry of `connections` for another host.
    pub(crate) fn connection(&self, other: &Self) -> Result<Value, String> {
        let status = self.status()?;
        let all = status["connections"].as_array().cloned();
        let mut all = all.unwrap_or_default().into_iter();
        all.find(|c| c["nickname"] == other.name.as_str())
            .ok_or_else(|| format!("{} shows no connection with {}", self.name, other.name))
    }

    /// Waits until a connection with another host is established and `holds`.
    pub(crate) fn wait_connection(
        &self,
        limit: Duration,
        other: &Self,
        holds: impl Fn(&Value) -> bool,
    ) -> Value {
        let what = format!("{} is connected with {}", self.name, other.name);
        eventually(limit, &what, || {
            let connection = self.connection(other)?;
            let established = connection["state"] == "established";
            if established && holds(&connection) {
                return Ok(connection);
            }
            Err(format!("it is {connection}"))
        })
    }

    /// Waits until `count` peers, this one included, are known and reachable.
    pub(crate) fn wait_peers(&self, limit: Duration, count: usize) {
        let what = format!("{} reaches {count} peers", self.name);
        eventually(limit, &what, || {
            let status = self.status()?;
            let peers = status["peers"].as_array().cloned().unwrap_or_default();
            let reached = peers.iter().filter(|p| p["reachable"] == true).count();
            if reached == count && peers.len() == count {
                return Ok(());
            }
            Err(format!("{reached} of {}", peers.len()))
        });
    }

    /// Waits until exactly the peers of these names, this one's included, are
    /// reachable; more may be known.
    pub(crate) fn wait_reaches(&self, limit: Duration, names: &BTreeSet<&str>) {
        let what = format!("{} reaches {} peers by name", self.name, names.len());
        eventually(limit, &what, || {
            let status = self.status()?;
            let peers = status["peers"].as_array().cloned().unwrap_or_default();
            let reached = peers.iter().filter(|p| p["reachable"] == true);
            let reached: BTreeSet<_> = reached.filter_map(|p| p["nickname"].as_str()).collect();
            if reached == *names {
                return Ok(());
            }
            let wrong: Vec<_> = reached.symmetric_difference(names).collect();
            Err(format!("wrong about {wrong:?}"))
        });
    }

    /// Bytes of the packets that its underlay interfaces sent and received so
    /// far, as the kernel counts them, without the headers of Ethernet.
    pub(crate) fn underlay_bytes(&self) -> u64 {
        let read = |ifname: &str, counter: &str| {
            let path = format!("/sys/class/net/{ifname}/statistics/{counter}");
            let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
            let number = text.trim().parse::<u64>();
            number.unwrap_or_else(|e| panic!("{path}: {text}: {e}"))
        };
        let packets = |ifname: &str, way: &str| {
            let frames = read(ifname, &format!("{way}_packets"));
            read(ifname, &format!("{way}_bytes")) - frames * ETHERNET
        };
        let both_ways = |plug: &Plug| packets(&plug.ifname, "rx") + packets(&plug.ifname, "tx");
        self.netns.run(|| self.plugs.iter().map(both_ways).sum())
    }

    /// Waits until it is known behind which peer a container is.
    pub(crate) fn wait_station(&self, limit: Duration, container: &Container) {
        let address = container.v4.to_string();
        let what = format!("{} has heard of {address}", self.name);
        eventually(limit, &what, || {
            let status = self.status()?;
            let stations = status["stations"].as_array().cloned().unwrap_or_default();
            let ips = stations.iter().filter_map(|s| s["ips"].as_array());
            match ips.flatten().any(|ip| *ip == address.as_str()) {
                true => Ok(()),
                false => Err(status["stations"].to_string()),
            }
        });
    }

    /// The addresses of its targets, sorted.
    pub(crate) fn targets(&self) -> Vec<String> {
        let status = eventually(secs(10), "status answers", || self.status());
        let targets = status["targets"].as_array().cloned().unwrap_or_default();
        let addresses = targets.iter().filter_map(|t| t["address"].as_str());
        let mut addresses: Vec<_> = addresses.map(str::to_owned).collect();
        addresses.sort();
        addresses
    }

    /// The token that others join this host's network with.
    pub(crate) fn token(&self) -> String {
        let answer = eventually(secs(10), "the daemon shows its token", || {
            self.json(&["token"])
        });
        let token = answer["token"].as_str();
        token.expect("the answer holds the token").to_owned()
    }

    /// The id of its peer.
    pub(crate) fn peer(&self) -> String {
        let status = eventually(secs(10), "status answers", || self.status());
        let peer = status["router"]["peer"].as_str();
        peer.expect("status holds the peer's id").to_owned()
    }

    /// A container attached here, its addresses made of the host's number.
    pub(crate) fn container(&self) -> Container {
        self.container_at(self.id.0 as u16 + 1)
    }

    /// A container attached here with the addresses of `number`.
    pub(crate) fn container_at(&self, number: u16) -> Container {
        let container = Container::new(number);
        self.attach(&container);
        container
    }

    /// Attaches a container with its addresses.
    pub(crate) fn attach(&self, container: &Container) -> String {
        let (v4, v6) = container.cidrs();
        self.ok(&["attach", "--netns", &container.path(), &v4, &v6])
    }

    /// Detaches a container.
    pub(crate) fn detach(&self, container: &Container) -> String {
        self.ok(&["detach", "--netns", &container.path()])
    }

    /// Reads the files of its state directory, by name.
    pub(crate) fn state_files(&self) -> Vec<(String, Vec<u8>)> {
        let read = || -> io::Result<Vec<(String, Vec<u8>)>> {
            let mut files = Vec::new();
            for entry in std::fs::read_dir(STATE)? {
                let entry = entry?;
                if entry.file_type()?.is_file() {
                    let name = entry.file_name().to_string_lossy().into_owned();
                    files.push((name, std::fs::read(entry.path())?));
                }
            }
            files.sort();
            Ok(files)
        };
        self.netns
            .run(read)
            .expect("root reads the state directory")
    }

    /// Its name, which is its peer's nickname.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Deletes its state directory.
    pub(crate) fn forget_state(&self) {
        let remove = || std::fs::remove_dir_all(STATE);
        self.netns.run(remove).expect("root removes the directory");
    }

    /// Writes a file of its state directory, which only root may then read.
    pub(crate) fn write_state(&self, name: &str, content: &[u8]) {
        use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
        let write = || -> io::Result<()> {
            std::fs::create_dir_all(STATE)?;
            std::fs::set_permissions(STATE, PermissionsExt::from_mode(0o700))?;
            let mut options = std::fs::OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            let mut file = options.open(Path::new(STATE).join(name))?;
            io::Write::write_all(&mut file, content)
        };
        self.netns
            .run(write)
            .expect("root writes the state directory");
    }

    fn command(&self) -> Command {
        let mut command = Command::new(BINARY);
        for (key, _) in std::env::vars_os() {
            if key.to_string_lossy().starts_with("WOVE_") {
                command.env_remove(key);
            }
        }
        command.env("WOVE_SOCKET", SOCKET).env("NO_COLOR", "1");
        command.env_remove("DOCKER_HOST");
        command.env_remove("NOTIFY_SOCKET").stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn launch_command(&self, arguments: &[&str], user: Option<u32>) -> Command {
        let mut command = self.command_as(user);
        command.arg("launch");
        command.args(["--state-dir", STATE, "--nickname", &self.name]);
        command.args(arguments);
        command
    }

    fn command_as(&self, user: Option<u32>) -> Command {
        let mut command = self.command();
        self.netns.place(&mut command, user);
        command
    }
}

impl Container {
    /// A container that is attached to nothing yet.
    pub(crate) fn new(number: u16) -> Self {
        let [high, low] = number.to_be_bytes();
        Self {
            netns: Netns::new(),
            v4: Ipv4Addr::new(10, 77, high, low),
            v6: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number),
        }
    }

    /// Its addresses with their prefix lengths.
    pub(crate) fn cidrs(&self) -> (String, String) {
        (format!("{}/24", self.v4), format!("{}/64", self.v6))
    }

    /// The path of its namespace, for the command line.
    pub(crate) fn path(&self) -> String {
        self.netns.path().to_string_lossy().into_owned()
    }
}

/// What a client command printed, which must have succeeded.
#[track_caller]
pub(super) fn succeeded(who: &str, arguments: &[&str], output: &Output) -> String {
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let status = output.status;
    super::ensure(
        status.success(),
        format_args!("{who}: {arguments:?}: {status}: {stdout}{stderr}"),
    );
    stdout
}

/// Runs a command that must end within `limit`.
pub(super) fn run_to_end(mut command: Command, limit: Duration) -> Output {
    let spawned = command.spawn();
    let mut child = spawned.unwrap_or_else(|e| panic!("{command:?} does not start: {e}"));
    let stdout = read_all(child.stdout.take());
    let stderr = read_all(child.stderr.take());
    let started = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if started.elapsed() < limit => thread::sleep(Duration::from_millis(5)),
            state => {
                let _ = child.kill();
                let _ = child.wait();
                let logs = super::log::tails();
                panic!("{command:?} did not end within {limit:?} ({state:?})\n{logs}");
            }
        }
    };
    Output {
        status,
        stdout: stdout.join().expect("a reader does not panic"),
        stderr: stderr.join().expect("a reader does not panic"),
    }
}

fn read_all(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(pipe) = pipe {
            // What was read before an error is worth showing.
            let _ = pipe.take(16 << 20).read_to_end(&mut bytes);
        }
        bytes
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
