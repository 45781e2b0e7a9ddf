//! Two hosts, or three in a row, as network namespaces that nothing names:
//! processes hold them, and those are told by the kernel to die with this one.

use std::{
    fmt,
    fs::{self, File},
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

/// What the hosts are joined by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Underlay {
    /// A veth that passes super-frames of TCP and UDP uncut.
    Offloads,
    /// One that neither cuts nor joins, as a network card that knows nothing of it.
    Plain,
    /// As `offloads`, and loses one packet in a hundred, each way.
    Loss1,
    /// As `offloads`, and loses one packet in twenty, each way.
    Loss5,
}

impl fmt::Display for Underlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Offloads => "offloads",
            Self::Plain => "plain",
            Self::Loss1 => "loss1",
            Self::Loss5 => "loss5",
        })
    }
}

/// How the hosts are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Topology {
    /// Two hosts.
    Direct,
    /// Two hosts with a third between them, which forwards nothing by itself.
    Relay,
}

/// One of the hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Host {
    /// The one that sends.
    Near,
    /// The one that receives.
    Far,
    /// The one between them.
    Between,
}

/// The hosts, a directory for what is started there, and what was started.
pub(super) struct Stage {
    directory: tempfile::TempDir,
    topology: Topology,
    holders: Vec<Child>,
    started: Vec<(Host, Child)>,
}

impl Stage {
    pub(super) fn new(underlay: Underlay, topology: Topology) -> Result<Self> {
        let directory = tempfile::tempdir().context("making a directory for the stage")?;
        let mut stage = Self {
            directory,
            topology,
            holders: Vec::new(),
            started: Vec::new(),
        };
        for _ in stage.hosts() {
            stage.holders.push(hold()?);
        }
        for host in stage.hosts() {
            stage.run(*host, "ip link set lo up")?;
        }
        match topology {
            Topology::Direct => {
                stage.cable((Host::Near, "eth0", 1), (Host::Far, "eth0", 2), 2, underlay)?;
            }
            Topology::Relay => {
                stage.cable(
                    (Host::Near, "eth0", 1),
                    (Host::Between, "eth0", 3),
                    2,
                    underlay,
                )?;
                stage.cable(
                    (Host::Far, "eth0", 2),
                    (Host::Between, "eth1", 3),
                    3,
                    underlay,
                )?;
            }
        }
        Ok(stage)
    }

    pub(super) fn topology(&self) -> Topology {
        self.topology
    }

    /// All hosts, the near one first.
    pub(super) fn hosts(&self) -> &'static [Host] {
        match self.topology {
            Topology::Direct => &[Host::Near, Host::Far],
            Topology::Relay => &[Host::Near, Host::Far, Host::Between],
        }
    }

    /// The underlay address of a host, as others reach it.
    pub(super) fn underlay(&self, host: Host) -> IpAddr {
        let segment = if self.topology == Topology::Relay && host == Host::Far {
            3
        } else {
            2
        };
        let number = match host {
            Host::Near => 1,
            Host::Far => 2,
            Host::Between => 3,
        };
        IpAddr::from(Ipv4Addr::new(192, 0, segment, number))
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file that only root may read.
    pub(super) fn write(&self, name: &str, content: &str) -> Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    /// A command line inside a host, split at spaces.
    pub(super) fn command(&self, host: Host, line: &str) -> Command {
        let mut words = line.split_whitespace();
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "nsenter", "--net"])
            .arg("--target")
            .arg(self.holder(host).to_string())
            .arg("--")
            .args(words.by_ref())
            .current_dir(self.directory.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs it to its end, and gives what it printed.
    ///
    /// # Errors
    /// If it fails, what it said.
    pub(super) fn run(&self, host: Host, line: &str) -> Result<String> {
        let output = self
            .command(host, line)
            .output()
            .with_context(|| format!("starting `{line}`"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "`{line}`: {}: {}",
            output.status,
            said.trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts a daemon whose processor time and memory are to be measured.
    pub(super) fn start(&mut self, host: Host, line: &str) -> Result<()> {
        let log = self.path(&format!("{}.log", self.started.len()));
        let log = File::create(&log)?;
        let child = self
            .command(host, line)
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting `{line}`"))?;
        // setpriv and nsenter become the daemon: the pid is its own.
        self.started.push((host, child));
        Ok(())
    }

    /// The daemons of a host, or of all.
    pub(super) fn daemons(&self, of: Option<Host>) -> Vec<u32> {
        let wanted = self
            .started
            .iter()
            .filter(|(host, _)| of.is_none_or(|of| of == *host));
        wanted.map(|(_, child)| child.id()).collect()
    }

    /// Waits until `holds`.
    ///
    /// # Errors
    /// If it does not within `limit`, or a daemon ends first: the end of what the daemons logged.
    pub(super) fn until(
        &mut self,
        limit: Duration,
        what: &str,
        holds: impl Fn(&Self) -> bool,
    ) -> Result<()> {
        let begun = Instant::now();
        while !holds(self) {
            for number in 0..self.started.len() {
                if let Some(status) = self.started[number].1.try_wait()? {
                    bail!(
                        "a daemon ended ({status}) before {what}: {}",
                        self.log(number)
                    );
                }
            }
            if begun.elapsed() > limit {
                let logs: Vec<String> = (0..self.started.len()).map(|n| self.log(n)).collect();
                bail!("no {what} within {limit:?}: {}", logs.join(" | "));
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Whether a ping from the near host is answered.
    pub(super) fn reaches(&self, far: IpAddr) -> bool {
        self.run(Host::Near, &format!("ping -n -c 1 -W 1 {far}"))
            .is_ok()
    }

    fn log(&self, number: usize) -> String {
        let log = fs::read_to_string(self.path(&format!("{number}.log"))).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(3).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("; ")
    }

    fn holder(&self, host: Host) -> u32 {
        let at = self.hosts().iter().position(|other| *other == host);
        at.and_then(|at| self.holders.get(at)).map_or(0, Child::id)
    }

    /// Joins two hosts by a veth of MTU 1500.
    fn cable(
        &self,
        (one, one_name, one_number): (Host, &str, u8),
        (other, other_name, other_number): (Host, &str, u8),
        segment: u8,
        underlay: Underlay,
    ) -> Result<()> {
        let far = self.holder(other);
        self.run(
            one,
            &format!("ip link add {one_name} type veth peer name {other_name} netns {far}"),
        )?;
        for (host, name, number) in [
            (one, one_name, one_number),
            (other, other_name, other_number),
        ] {
            self.run(
                host,
                &format!("ip address add 192.0.{segment}.{number}/24 dev {name}"),
            )?;
            self.run(host, &format!("ip link set {name} up"))?;
            self.dress(host, name, underlay)?;
        }
        Ok(())
    }

    fn dress(&self, host: Host, name: &str, underlay: Underlay) -> Result<()> {
        let percent = match underlay {
            Underlay::Offloads => return Ok(()),
            Underlay::Plain => {
                // One at a time: what a kernel does not know is not there to be switched off.
                for feature in [
                    "tso",
                    "gso",
                    "gro",
                    "tx-udp-segmentation",
                    "tx-udp_tnl-segmentation",
                    "tx-udp_tnl-csum-segmentation",
                ] {
                    let _ = self.run(host, &format!("ethtool -K {name} {feature} off"));
                }
                self.run(host, &format!("ip link set {name} gso_max_segs 1"))?;
                return Ok(());
            }
            Underlay::Loss1 => 1,
            Underlay::Loss5 => 5,
        };
        // What arrives is lost; a super-frame would be as one, so it is cut before it leaves.
        self.run(host, &format!("ip link set {name} gso_max_segs 1"))?;
        let rules = self.write(
            &format!("{host:?}-{name}.nft"),
            &format!(
                "table netdev loss {{\n chain in {{\n  type filter hook ingress device {name} priority 0;\n  \
                 numgen random mod 100 < {percent} drop\n }}\n}}\n"
            ),
        )?;
        self.run(host, &format!("nft -f {}", rules.display()))?;
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for (_, child) in &mut self.started {
            let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        }
        let begun = Instant::now();
        for (_, child) in &mut self.started {
            while begun.elapsed() < Duration::from_secs(3) && matches!(child.try_wait(), Ok(None)) {
                thread::sleep(Duration::from_millis(20));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        for holder in &mut self.holders {
            let _ = holder.kill();
            let _ = holder.wait();
        }
    }
}

/// A process that does nothing but have a network namespace of its own.
fn hold() -> Result<Child> {
    let holder = Command::new("setpriv")
        .args([
            "--pdeathsig",
            "KILL",
            "unshare",
            "--net",
            "sleep",
            "infinity",
        ])
        .spawn()
        .context(
            "starting a process with a network namespace of its own; it takes root and util-linux",
        )?;
    let own = fs::read_link("/proc/self/ns/net")?;
    let theirs = PathBuf::from(format!("/proc/{}/ns/net", holder.id()));
    let begun = Instant::now();
    while is_same(&theirs, &own) {
        ensure!(
            begun.elapsed() < Duration::from_secs(5),
            "no network namespace was made: is this root?"
        );
        thread::sleep(Duration::from_millis(5));
    }
    Ok(holder)
}

fn is_same(theirs: &Path, own: &Path) -> bool {
    fs::read_link(theirs).map_or(true, |theirs| theirs == own)
}
