//! The resolver: a thread of its own that answers queries from the newest
//! snapshot, and asks other servers for what is not of the mesh.
//!
//! ```text
//!  container's namespace: 127.0.0.83:53 ──┐
//!  this host: --dns-listen ───────────────┼─▶ Zone::answer ◀── Snapshot
//!                                         └─▶ Upstream ──▶ the servers of this host
//! ```
//!
//! The control thread never waits for it: it hands over sockets, and publishes.

mod door;
mod upstream;

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
};

use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use hickory_proto::op::ResponseCode;
use ipnet::IpNet;
use tokio::{
    sync::{Semaphore, mpsc},
    task::AbortHandle,
};

pub(super) use door::Door;
use upstream::Upstream;

use crate::engine::{
    Snapshot,
    dns::{Outcome, Transport, View, Zone},
    status::DnsCounters,
};

/// Where a container asks: on its own loopback, so nobody else can.
pub(super) const INSIDE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 83)), 53);
/// Queries that wait for other servers at once.
const FORWARDS: usize = 512;

/// How the resolver is set up.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// The domain, as [`gossip::names::canonical`] has it.
    pub domain: String,
    /// Other servers; none means those of this host, as its file says now.
    pub upstream: Vec<SocketAddr>,
    /// The file that names them.
    pub resolv_conf: PathBuf,
    /// Where this host is answered, too; never asked as another server.
    pub listen: Option<SocketAddr>,
}

/// The running resolver. Dropping it stops it.
pub(super) struct Resolver {
    shared: Arc<Shared>,
    orders: mpsc::UnboundedSender<Order>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread is told.
enum Order {
    Open { key: String, door: Door },
    Close { key: String },
    Rename { key: String, to: String },
}

/// What the thread and its tasks share with the control thread.
struct Shared {
    zone: Zone,
    snapshot: ArcSwap<Snapshot>,
    surroundings: ArcSwap<Surroundings>,
    upstream: Upstream,
    forwards: Arc<Semaphore>,
    turn: AtomicUsize,
    counters: Counters,
}

/// What is known of this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Surroundings {
    /// Its addresses: whoever has one may ask at its door.
    pub own: BTreeSet<IpAddr>,
    /// Networks of the overlay.
    pub networks: Vec<IpNet>,
}

#[derive(Debug, Default)]
struct Counters {
    answered: AtomicU64,
    unknown: AtomicU64,
    forwarded: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
}

impl Resolver {
    /// Starts the thread, in the network namespace of the caller.
    pub(super) fn start(settings: &Settings, snapshot: Arc<Snapshot>) -> Result<Self> {
        let domain = &settings.domain;
        let zone = Zone::new(domain)
            .with_context(|| format!("{domain} is not a domain: give another with --dns-domain"))?;
        let shared = Arc::new(Shared {
            zone,
            snapshot: ArcSwap::new(snapshot),
            surroundings: ArcSwap::default(),
            upstream: Upstream::new(settings),
            forwards: Arc::new(Semaphore::new(FORWARDS)),
            turn: AtomicUsize::new(0),
            counters: Counters::default(),
        });
        let (orders, received) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the resolver")?;
        let inside = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("wove-dns".into())
            .spawn(move || runtime.block_on(serve(inside, received)))
            .context("cannot start the resolver")?;
        Ok(Self {
            shared,
            orders,
            thread: Some(thread),
        })
    }

    /// Answers from this snapshot from now on.
    pub(super) fn publish(&self, snapshot: Arc<Snapshot>) {
        self.shared.snapshot.store(snapshot);
    }

    /// This host looks like that now.
    pub(super) fn set_surroundings(&self, surroundings: Surroundings) {
        self.shared.surroundings.store(Arc::new(surroundings));
    }

    /// Answers at a door, in place of one of the same key.
    pub(super) fn open(&self, key: String, door: Door) {
        let _ = self.orders.send(Order::Open { key, door });
    }

    /// Answers there no longer; its sockets are closed.
    pub(super) fn close(&self, key: String) {
        let _ = self.orders.send(Order::Close { key });
    }

    /// A door has another key from now on.
    pub(super) fn rename(&self, key: String, to: String) {
        let _ = self.orders.send(Order::Rename { key, to });
    }

    /// The servers that are asked for what is not of the mesh.
    pub(super) fn upstream(&self) -> Vec<SocketAddr> {
        self.shared.upstream.servers().to_vec()
    }

    /// What was done so far.
    pub(super) fn counters(&self) -> DnsCounters {
        let counters = &self.shared.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        DnsCounters {
            answered: read(&counters.answered),
            unknown: read(&counters.unknown),
            forwarded: read(&counters.forwarded),
            failed: read(&counters.failed),
            refused: read(&counters.refused),
        }
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        let (closed, _) = mpsc::unbounded_channel();
        self.orders = closed;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the thread does until nobody gives orders.
async fn serve(shared: Arc<Shared>, mut orders: mpsc::UnboundedReceiver<Order>) {
    let mut open: HashMap<String, Vec<AbortHandle>> = HashMap::new();
    let close = |tasks: Option<Vec<AbortHandle>>| {
        for task in tasks.into_iter().flatten() {
            task.abort();
        }
    };
    let watch = tokio::spawn(Arc::clone(&shared).watch_upstream());
    while let Some(order) = orders.recv().await {
        match order {
            Order::Open { key, door } => {
                close(open.remove(&key));
                match door.serve(&shared) {
                    Ok(tasks) => drop(open.insert(key, tasks)),
                    Err(error) => tracing::warn!(door = key, "names are not answered: {error:#}"),
                }
            }
            Order::Close { key } => close(open.remove(&key)),
            Order::Rename { key, to } => {
                if let Some(tasks) = open.remove(&key) {
                    close(open.insert(to, tasks));
                }
            }
        }
    }
    watch.abort();
}

impl Shared {
    async fn watch_upstream(self: Arc<Self>) {
        loop {
            self.upstream.refresh();
            tokio::time::sleep(upstream::REFRESH).await;
        }
    }

    /// What to do about a query.
    fn answer(&self, query: &[u8], transport: Transport) -> Outcome {
        let snapshot = self.snapshot.load();
        let surroundings = self.surroundings.load();
        let view = View {
            names: &snapshot.names,
            stations: &snapshot.stations,
            networks: &surroundings.networks,
            forwards: !self.upstream.servers().is_empty(),
            turn: self.turn.fetch_add(1, Ordering::Relaxed),
        };
        let outcome = self.zone.answer(query, transport, view);
        let counter = match &outcome {
            Outcome::Answer { code, .. } => match *code {
                ResponseCode::NoError => Some(&self.counters.answered),
                ResponseCode::NXDomain => Some(&self.counters.unknown),
                _ => Some(&self.counters.failed),
            },
            Outcome::Drop => Some(&self.counters.refused),
            Outcome::Forward => None,
        };
        if let Some(counter) = counter {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        outcome
    }

    /// Has other servers answer; none if the client gets nothing.
    async fn forward(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let Ok(_permit) = self.forwards.try_acquire() else {
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        let (answer, good) = self.upstream.ask(query, transport).await?;
        let counter = match good {
            true => &self.counters.forwarded,
            false => &self.counters.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        Some(answer)
    }

    /// Whether somebody at this address may ask at the host's own door: this host
    /// itself, and the containers of the mesh.
    fn may_ask(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_loopback()
            || self.surroundings.load().own.contains(&address)
            || self.snapshot.load().stations.ips.contains_key(&address)
    }

    fn refuse(&self) {
        self.counters.refused.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
