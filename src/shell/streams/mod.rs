//! Datagrams over TCP, where UDP does not pass: the table of connections, and
//! the thread "wove-tcp" that serves them.
//!
//! ```text
//!  data threads, control thread ──send──▶ queue of the connection ──▶ socket
//!  socket ──▶ [`Inbox`] ──▶ thread "wove-udp", as any datagram
//! ```
//!
//! A connection is an address to the rest of wove. A datagram that finds its
//! queue full is dropped, as UDP would drop it, so that a slow reader costs
//! nobody else; and what comes in waits at the sender while this side is busy.
//! It does not know what a datagram holds.

mod connection;
mod inbox;
mod lobby;

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use proto::{
    PeerId,
    stream::{self, PREFIX},
};
use socket2::{Domain, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Handle,
    sync::{Notify, Semaphore, mpsc, oneshot},
};

pub(super) use inbox::{Inbound, Inbox};
use lobby::Lobby;

/// Connections at once, whoever made them.
const MAX_CONNECTIONS: usize = 1024;
/// Of these, of one peer: each end may have made one, a NAT may have forgotten
/// another, and no member may take the places of all.
const MAX_OF_PEER: usize = 4;
/// Datagrams that wait for a socket to take them.
const QUEUE: usize = 128;
/// Bytes that were read and wait for the data thread, by connection: from
/// somebody unknown, and from a peer.
const ROOM_UNKNOWN: usize = 8 << 10;
const ROOM_PEER: usize = 256 << 10;
/// Connections that end are told as long as so many wait; others are noticed
/// by their silence.
const ENDED: usize = 256;
/// A pause when the kernel has no descriptor left.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

type Table = BTreeMap<SocketAddr, Entry>;

/// All connections. Usable from several threads at once.
pub(super) struct Streams {
    shared: Arc<Shared>,
    runtime: Handle,
    host: Option<IpAddr>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    table: ArcSwap<Table>,
    inbox: Arc<Inbox>,
    lobby: Lobby,
    ended: mpsc::Sender<SocketAddr>,
    /// How many connections there have been.
    made: AtomicU64,
}

/// A connection as its senders see it. It ends when this is gone and the queue
/// is empty.
#[derive(Clone)]
struct Entry {
    queue: mpsc::Sender<Vec<u8>>,
    state: Arc<State>,
}

/// What both sides of a connection look at.
struct State {
    address: SocketAddr,
    /// In the order in which they were made.
    number: u64,
    /// Who sealed something that came this way.
    peer: OnceLock<PeerId>,
    /// Said once when that became known.
    trust: Notify,
    /// Said once when the peer has newer ones, and enough of them.
    needed: Notify,
    /// Bytes that may yet be read.
    room: Arc<Semaphore>,
}

impl Streams {
    /// Listens on the port, of `host` or of every address, and serves. If the
    /// port is taken there are connections to others only. The receiver tells
    /// which connections ended.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(super) fn start(
        host: Option<IpAddr>,
        port: u16,
    ) -> Result<(Self, mpsc::Receiver<SocketAddr>)> {
        let (ended, ended_rx) = mpsc::channel(ENDED);
        let shared = Arc::new(Shared {
            table: ArcSwap::default(),
            inbox: Arc::default(),
            lobby: Lobby::default(),
            ended,
            made: AtomicU64::new(0),
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the thread for TCP")?;
        let handle = runtime.handle().clone();
        let listener = {
            let _inside = handle.enter();
            listen(host, port).and_then(TcpListener::from_std)
        };
        let listener = match listener {
            Ok(listener) => Some(listener),
            Err(error) => {
                tracing::warn!(
                    "TCP port {port} cannot be listened on ({error}): hosts that UDP does not \
                     reach cannot connect to this one; free the port, or choose another with --port"
                );
                None
            }
        };
        let (stop, stopped) = oneshot::channel();
        let served = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("wove-tcp".to_owned());
        let thread = thread.spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, &served) => {}
                    _ = stopped => {}
                }
                // What was said last leaves yet.
                served.table.store(Arc::default());
                tokio::time::sleep(connection::LAST_WORDS).await;
            });
        });
        let streams = Self {
            shared,
            runtime: handle,
            host,
            stop: Some(stop),
            thread: Some(thread.context("cannot start a thread")?),
        };
        Ok((streams, ended_rx))
    }

    /// What came in.
    pub(super) fn inbox(&self) -> &Inbox {
        &self.shared.inbox
    }

    /// Sends a datagram of `len` bytes that `fill` writes; false if it is
    /// dropped because there is no such connection or its queue is full.
    pub(super) fn send_with(
        &self,
        to: SocketAddr,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> bool,
    ) -> bool {
        let table = self.shared.table.load();
        let Some(entry) = table.get(&to) else {
            return false;
        };
        let Some(prefix) = stream::prefix(len) else {
            return false;
        };
        let Ok(place) = entry.queue.try_reserve() else {
            return false;
        };
        let mut framed = vec![0; PREFIX + len];
        framed[..PREFIX].copy_from_slice(&prefix);
        // What `fill` takes back was never to be sent.
        if fill(&mut framed[PREFIX..]) {
            place.send(framed);
        }
        true
    }

    /// Sends a datagram. If there is no connection and `connect` is set, makes
    /// one for it.
    pub(super) fn send(&self, to: SocketAddr, datagram: &[u8], connect: bool) -> bool {
        if connect && !self.shared.table.load().contains_key(&to) {
            self.connect(to);
        }
        self.send_with(to, datagram.len(), |place| {
            place.copy_from_slice(datagram);
            true
        })
    }

    fn connect(&self, to: SocketAddr) {
        if to.port() == 0 || to.ip().is_unspecified() {
            return;
        }
        let Some((state, queue)) = self.shared.enter(to) else {
            return;
        };
        let (shared, host) = (Arc::clone(&self.shared), self.host);
        self.runtime.spawn(async move {
            match connection::open(host, to).await {
                Ok(socket) => {
                    connection::run(socket, Arc::clone(&state), queue, None, &shared).await
                }
                Err(error) => tracing::debug!(%to, %error, "no TCP connection"),
            }
            shared.leave(&state).await;
        });
    }

    /// The peer sealed something that came by this connection. If it has too many
    /// now, its oldest give way.
    pub(super) fn trust(&self, address: SocketAddr, peer: PeerId) {
        let table = self.shared.table.load();
        let Some(entry) = table.get(&address) else {
            return;
        };
        if !entry.state.trust(peer) {
            return;
        }
        let states = table.values().map(|entry| &entry.state);
        let mut theirs: Vec<_> = states.filter(|s| s.peer.get() == Some(&peer)).collect();
        theirs.sort_by_key(|state| std::cmp::Reverse(state.number));
        // Those told before may not have gone yet, so it is all, not the last one.
        for old in theirs.into_iter().skip(MAX_OF_PEER) {
            old.needed.notify_one();
        }
    }

    /// Ends a connection after what was said last.
    pub(super) fn hang_up(&self, address: SocketAddr) {
        self.shared.remove(|known, _| known == address);
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread for TCP panicked");
        }
    }
}

impl Shared {
    /// A place in the table; a connection with this address that was there is
    /// over. None if there are too many.
    fn enter(&self, address: SocketAddr) -> Option<(Arc<State>, mpsc::Receiver<Vec<u8>>)> {
        if self.table.load().len() >= MAX_CONNECTIONS {
            return None;
        }
        let (queue, waiting) = mpsc::channel(QUEUE);
        let state = Arc::new(State {
            address,
            number: self.made.fetch_add(1, Ordering::Relaxed),
            peer: OnceLock::new(),
            trust: Notify::new(),
            needed: Notify::new(),
            room: Arc::new(Semaphore::new(ROOM_UNKNOWN)),
        });
        let entry = Entry {
            queue,
            state: Arc::clone(&state),
        };
        self.table.rcu(|table| {
            let mut table = Table::clone(table);
            table.insert(address, entry.clone());
            table
        });
        Some((state, waiting))
    }

    fn remove(&self, is_meant: impl Fn(SocketAddr, &Entry) -> bool) {
        self.table.rcu(|table| {
            let mut table = Table::clone(table);
            table.retain(|address, entry| !is_meant(*address, entry));
            table
        });
    }

    /// The connection is over. Who may use it is told, unless another has taken
    /// its place or nobody wanted it any more.
    async fn leave(&self, state: &Arc<State>) {
        let this = |entry: &Entry| Arc::ptr_eq(&entry.state, state);
        let known = self.table.load().get(&state.address).is_some_and(this);
        self.remove(|_, entry| this(entry));
        if known && state.is_trusted() {
            // If nobody listens any more, there is nobody to tell.
            let _ = self.ended.send(state.address).await;
        }
    }
}

impl State {
    fn is_trusted(&self) -> bool {
        self.peer.get().is_some()
    }

    /// Says whether nobody was known to be at the other end before.
    fn trust(&self, peer: PeerId) -> bool {
        let first = self.peer.set(peer).is_ok();
        if first {
            self.room.add_permits(ROOM_PEER - ROOM_UNKNOWN);
            self.trust.notify_one();
        }
        first
    }
}

/// Takes in who connects, for ever.
async fn accept(listener: Option<TcpListener>, shared: &Arc<Shared>) {
    let Some(listener) = listener else {
        return std::future::pending().await;
    };
    loop {
        match listener.accept().await {
            Ok((socket, from)) => welcome(socket, canonical(from), shared),
            Err(error) => {
                tracing::debug!(%error, "a TCP connection was not accepted");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

fn welcome(socket: TcpStream, from: SocketAddr, shared: &Arc<Shared>) {
    let Some(seat) = shared.lobby.take_seat(from.ip()) else {
        return tracing::debug!(%from, "too many unknown TCP connections from this address");
    };
    let Some((state, queue)) = shared.enter(from) else {
        return tracing::debug!(%from, "too many TCP connections");
    };
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        connection::run(socket, Arc::clone(&state), queue, Some(seat), &shared).await;
        shared.leave(&state).await;
    });
}

fn listen(host: Option<IpAddr>, port: u16) -> io::Result<std::net::TcpListener> {
    match host {
        Some(host) => bind(host, port),
        None => bind(Ipv6Addr::UNSPECIFIED.into(), port).or_else(|error| match error.kind() {
            io::ErrorKind::AddrInUse => Err(error),
            // No IPv6 on this host.
            _ => bind(Ipv4Addr::UNSPECIFIED.into(), port),
        }),
    }
}

fn bind(host: IpAddr, port: u16) -> io::Result<std::net::TcpListener> {
    let address = SocketAddr::new(host, port);
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if host.is_ipv6() {
        socket.set_only_v6(!host.is_unspecified())?;
    }
    // Connections of the daemon before must not keep this one from listening.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// IPv4 over a socket of both families looks like IPv6.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests;
