//! The namespaces, wires and processes of the demonstration.
#![expect(
    clippy::disallowed_methods,
    reason = "a demonstration waits for processes"
)]

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, AsRawFd},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use futures_util::TryStreamExt;
use netlink_packet_route::route::RouteType;
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder};
use serde_json::Value;
use tempfile::TempDir;

use crate::shell::netns::{self, Namespace};

/// The namespace that joins the hosts.
const UNDERLAY: &str = "wove-demo-net";

/// One host of the demonstration.
#[derive(Clone, Copy, Debug)]
pub(super) struct DemoHost {
    pub(super) name: &'static str,
    pub(super) namespace: &'static str,
    pub(super) container: &'static str,
    number: u8,
}

/// The hosts, in their line.
pub(super) const HOSTS: [DemoHost; 3] = [
    DemoHost {
        name: "a",
        namespace: "wove-demo-a",
        container: "wove-demo-ca",
        number: 1,
    },
    DemoHost {
        name: "b",
        namespace: "wove-demo-b",
        container: "wove-demo-cb",
        number: 2,
    },
    DemoHost {
        name: "c",
        namespace: "wove-demo-c",
        container: "wove-demo-cc",
        number: 3,
    },
];

impl DemoHost {
    /// Its address on the underlay (TEST-NET-1, RFC 5737).
    fn underlay(self) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, self.number)
    }

    /// Its container's IPv4 address.
    pub(super) fn v4(self) -> IpAddr {
        Ipv4Addr::new(10, 32, 0, self.number).into()
    }

    /// Its container's IPv6 address.
    pub(super) fn v6(self) -> IpAddr {
        Ipv6Addr::new(0xfd00, 0x32, 0, 0, 0, 0, 0, self.number.into()).into()
    }
}

/// Everything that stands.
pub(super) struct Stage {
    directory: Option<TempDir>,
    kept: Option<PathBuf>,
    daemons: Vec<Child>,
    hosts: Vec<Namespace>,
    containers: Vec<Namespace>,
}

impl Stage {
    pub(super) fn new() -> Result<Self> {
        remove_namespaces()?;
        Ok(Self {
            directory: Some(tempfile::Builder::new().prefix("wove-demo-").tempdir()?),
            kept: None,
            daemons: Vec::new(),
            hosts: Vec::new(),
            containers: Vec::new(),
        })
    }

    /// Makes the namespaces and joins the hosts by one bridge.
    pub(super) fn build(&mut self) -> Result<()> {
        let underlay = netns::create(UNDERLAY)?;
        for host in HOSTS {
            self.hosts.push(netns::create(host.namespace)?);
            self.containers.push(netns::create(host.container)?);
        }
        let fds: Vec<i32> = self.hosts.iter().map(|h| h.as_fd().as_raw_fd()).collect();
        inside(&underlay, async move |net| {
            net.link()
                .add(LinkBridge::new("net").up().build())
                .execute()
                .await?;
            let bridge = index(&net, "net").await?;
            for (host, fd) in HOSTS.iter().zip(fds) {
                let (near, far) = (format!("to-{}", host.name), format!("from-{}", host.name));
                net.link()
                    .add(LinkVeth::new(&near, &far).build())
                    .execute()
                    .await?;
                let near = index(&net, &near).await?;
                let up = LinkUnspec::new_with_index(near)
                    .controller(bridge)
                    .up()
                    .build();
                net.link().set(up).execute().await?;
                let far = index(&net, &far).await?;
                let moved = LinkUnspec::new_with_index(far)
                    .name("eth0".to_owned())
                    .setns_by_fd(fd)
                    .build();
                net.link().set(moved).execute().await?;
            }
            Ok(())
        })?;
        for (host, namespace) in HOSTS.iter().zip(&self.hosts) {
            let address = IpAddr::V4(host.underlay());
            inside(namespace, async move |net| {
                let lo = index(&net, "lo").await?;
                net.link()
                    .set(LinkUnspec::new_with_index(lo).up().build())
                    .execute()
                    .await?;
                let eth0 = index(&net, "eth0").await?;
                net.link()
                    .set(LinkUnspec::new_with_index(eth0).up().build())
                    .execute()
                    .await?;
                Ok(net.address().add(eth0, address, 24).execute().await?)
            })?;
        }
        self.cut()
    }

    /// A and C lose each other.
    pub(super) fn cut(&mut self) -> Result<()> {
        self.black_holes(true)
    }

    /// A and C find each other.
    pub(super) fn heal(&mut self) -> Result<()> {
        self.black_holes(false)
    }

    fn black_holes(&self, there: bool) -> Result<()> {
        for (from, to) in [(0, 2), (2, 0)] {
            let address = HOSTS[to].underlay();
            inside(&self.hosts[from], async move |net| {
                let route = RouteMessageBuilder::<Ipv4Addr>::new()
                    .destination_prefix(address, 32)
                    .kind(RouteType::BlackHole)
                    .build();
                if there {
                    Ok(net.route().add(route).execute().await?)
                } else {
                    Ok(net.route().del(route).execute().await?)
                }
            })?;
        }
        Ok(())
    }

    /// Starts the peers: A makes the network, B knows A, C knows B. Returns the
    /// token of the network.
    pub(super) fn launch(&mut self) -> Result<String> {
        self.start(0, None, &[])?;
        let token: Value = serde_json::from_str(&self.client(0, &["token", "-o", "json"])?)?;
        let token = token["token"]
            .as_str()
            .context("A has no token")?
            .to_owned();
        for host in [1, 2] {
            let seed = HOSTS[host - 1].underlay().to_string();
            self.start(host, Some(&token), &[&seed])?;
        }
        Ok(token)
    }

    fn start(&mut self, host: usize, token: Option<&str>, seeds: &[&str]) -> Result<()> {
        let DemoHost {
            name, namespace, ..
        } = HOSTS[host];
        let log = std::fs::File::create(self.path(&format!("{name}.log")))?;
        let mut command = self.wove(host)?;
        command
            .args(["launch", "--nickname", name, "--state-dir"])
            .arg(self.path(&format!("{name}.state")));
        command
            .args(seeds)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        if let Some(token) = token {
            command.env("WOVE_TOKEN", token);
        }
        let child = self.hosts[host].run(|| Ok(command.spawn()?))?;
        self.daemons.push(child);
        self.wait_ready(host)
            .with_context(|| format!("the daemon in {namespace} did not start"))
    }

    fn wait_ready(&mut self, host: usize) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(10);
        while self.client(host, &["status"]).is_err() {
            if let Some(status) = self
                .daemons
                .last_mut()
                .map(Child::try_wait)
                .transpose()?
                .flatten()
            {
                let log = std::fs::read_to_string(self.path(&format!("{}.log", HOSTS[host].name)))?;
                bail!(
                    "it ended ({status}): {}",
                    log.lines().last().unwrap_or_default()
                );
            }
            ensure!(Instant::now() < end, "no answer within 10 s");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Attaches a container to each host; returns what each got.
    pub(super) fn attach(&self) -> Result<Vec<(&'static str, String)>> {
        let mut attached = Vec::new();
        for (index, host) in HOSTS.iter().enumerate() {
            let (v4, v6) = (format!("{}/24", host.v4()), format!("{}/64", host.v6()));
            self.client(index, &["attach", "--netns", host.container, &v4, &v6])?;
            attached.push((host.container, format!("{v4} {v6}")));
        }
        Ok(attached)
    }

    /// The namespace of a host's container.
    pub(super) fn container(&self, host: usize) -> Result<&Namespace> {
        self.containers
            .get(host)
            .context("the containers are not built")
    }

    /// Runs a client command against a host's daemon and returns what it prints.
    pub(super) fn client(&self, host: usize, args: &[&str]) -> Result<String> {
        let output = self.wove(host)?.args(args).stdin(Stdio::null()).output()?;
        if !output.status.success() {
            bail!(
                "`wove {}` failed: {}",
                args.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn wove(&self, host: usize) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WOVE_")) {
            command.env_remove(name);
        }
        command.env(
            "WOVE_SOCKET",
            self.path(&format!("{}.sock", HOSTS[host].name)),
        );
        Ok(command)
    }

    fn path(&self, name: &str) -> PathBuf {
        let base = self
            .directory
            .as_ref()
            .map(|d| d.path().to_owned())
            .or_else(|| self.kept.clone());
        base.unwrap_or_default().join(name)
    }

    /// What stands, and how to use it.
    pub(super) fn describe(&self) -> String {
        format!(
            "namespaces {}, sockets in {}; for example: WOVE_SOCKET={} wove status",
            HOSTS.map(|h| h.namespace).join(" "),
            self.path("").display(),
            self.path("a.sock").display()
        )
    }

    /// Leaves everything standing.
    pub(super) fn keep(mut self) {
        self.kept = self.directory.take().map(TempDir::keep);
        self.daemons.clear();
    }

    /// Removes everything; goes on after an error and reports the first.
    pub(super) fn clean_up(mut self) -> Result<()> {
        let mut result = Ok(());
        for host in 0..self.daemons.len() {
            if let Err(error) = self.client(host, &["reset"]) {
                result = result.and(Err(error));
            }
        }
        self.end_daemons();
        result.and(remove_namespaces())
    }

    fn end_daemons(&mut self) {
        let end = Instant::now() + Duration::from_secs(3);
        for daemon in &mut self.daemons {
            while !matches!(daemon.try_wait(), Ok(Some(_))) && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(20));
            }
            // One that has ended already needs no more.
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        self.daemons.clear();
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.kept.is_none() {
            self.end_daemons();
            if let Err(error) = remove_namespaces() {
                tracing::warn!("the demonstration left something behind: {error:#}");
            }
        }
    }
}

fn remove_namespaces() -> Result<()> {
    netns::delete(UNDERLAY)?;
    HOSTS.iter().try_for_each(|host| {
        netns::delete(host.container)?;
        netns::delete(host.namespace)
    })
}

/// Does netlink work inside a namespace.
fn inside<T: Send>(
    namespace: &Namespace,
    work: impl AsyncFnOnce(Handle) -> Result<T> + Send,
) -> Result<T> {
    namespace.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection()?;
            let task = tokio::spawn(connection);
            let done = work(handle).await;
            task.abort();
            done
        })
    })
}

async fn index(net: &Handle, name: &str) -> Result<u32> {
    let found = net
        .link()
        .get()
        .match_name(name.to_owned())
        .execute()
        .try_next()
        .await?;
    found
        .map(|link| link.header.index)
        .ok_or_else(|| anyhow!("interface {name} is missing"))
}
