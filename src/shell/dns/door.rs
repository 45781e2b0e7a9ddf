//! Where queries come in: a UDP socket and a TCP listener at one address, of this
//! host or inside a container's network namespace. Everything is bounded.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    task::AbortHandle,
    time::timeout,
};

use super::{INSIDE, Shared};
use crate::{
    engine::dns::{MAX_QUERY, Outcome, Transport},
    shell::{host::switch_loopback_on, netns::Namespace},
};

/// Queries read before anything else gets a turn.
const AT_ONCE: usize = 64;
/// Queries of one door that wait for other servers.
const FORWARDS: usize = 64;
/// Connections of one door.
const CONNECTIONS: usize = 32;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;
/// How long a connection may be silent.
const IDLE: Duration = Duration::from_secs(5);

/// Bound sockets, not yet served.
#[derive(Debug)]
pub(in crate::shell) struct Door {
    udp: std::net::UdpSocket,
    tcp: std::net::TcpListener,
    /// Whether whoever gets here may ask.
    inside: bool,
}

/// One door that is served.
#[derive(Clone)]
struct Open {
    shared: Arc<Shared>,
    inside: bool,
    forwards: Arc<Semaphore>,
}

impl Door {
    /// At an address of this host.
    ///
    /// # Errors
    /// The address is not there, or taken.
    pub(in crate::shell) fn at(address: SocketAddr) -> Result<Self> {
        Self::bind(address, false)
    }

    /// Inside a container's network namespace, at [`INSIDE`]; its loopback is switched on.
    ///
    /// # Errors
    /// The namespace cannot be entered, or something in it has the port.
    pub(in crate::shell) async fn inside(namespace: &Namespace) -> Result<Self> {
        let work = || {
            switch_loopback_on()?;
            Self::bind(INSIDE, true)
        };
        namespace.run_async(work).await
    }

    fn bind(address: SocketAddr, inside: bool) -> Result<Self> {
        let taken =
            || format!("names cannot be answered at {address}: does another server have it?");
        let udp = bound(address, Type::DGRAM).with_context(taken)?;
        let tcp = bound(address, Type::STREAM).with_context(taken)?;
        tcp.listen(BACKLOG).with_context(taken)?;
        Ok(Self {
            udp: udp.into(),
            tcp: tcp.into(),
            inside,
        })
    }

    /// Starts to answer; must be called within the resolver's runtime.
    pub(super) fn serve(self, shared: &Arc<Shared>) -> Result<Vec<AbortHandle>> {
        let open = Open {
            shared: Arc::clone(shared),
            inside: self.inside,
            forwards: Arc::new(Semaphore::new(FORWARDS)),
        };
        let udp = Arc::new(UdpSocket::from_std(self.udp)?);
        let tcp = TcpListener::from_std(self.tcp)?;
        let datagrams = tokio::spawn(open.clone().serve_datagrams(udp));
        let streams = tokio::spawn(open.serve_streams(tcp));
        Ok(vec![datagrams.abort_handle(), streams.abort_handle()])
    }
}

impl Open {
    async fn serve_datagrams(self, socket: Arc<UdpSocket>) {
        let mut buffer = vec![0; MAX_QUERY];
        // Tasks end with this one, so that a closed door's sockets are closed.
        let mut waiting = tokio::task::JoinSet::new();
        loop {
            if socket.readable().await.is_err() {
                return;
            }
            for _ in 0..AT_ONCE {
                let (length, from) = match socket.try_recv_from(&mut buffer) {
                    Ok(received) => received,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // What an earlier answer met.
                    Err(_) => continue,
                };
                self.take_datagram(&socket, &buffer[..length], from, &mut waiting);
            }
            while waiting.try_join_next().is_some() {}
            tokio::task::yield_now().await;
        }
    }

    fn take_datagram(
        &self,
        socket: &Arc<UdpSocket>,
        query: &[u8],
        from: SocketAddr,
        waiting: &mut tokio::task::JoinSet<()>,
    ) {
        if !self.admits(from) {
            return self.shared.refuse();
        }
        match self.shared.answer(query, Transport::Datagram) {
            Outcome::Drop => {}
            // A full socket loses an answer; the client asks again.
            Outcome::Answer { bytes, .. } => drop(socket.try_send_to(&bytes, from)),
            Outcome::Forward => {
                let Ok(permit) = Arc::clone(&self.forwards).try_acquire_owned() else {
                    return self.shared.refuse();
                };
                let (shared, socket) = (Arc::clone(&self.shared), Arc::clone(socket));
                let query = query.to_vec();
                waiting.spawn(async move {
                    if let Some(answer) = shared.forward(&query, Transport::Datagram).await {
                        let _ = socket.try_send_to(&answer, from);
                    }
                    drop(permit);
                });
            }
        }
    }

    async fn serve_streams(self, listener: TcpListener) {
        let mut clients = tokio::task::JoinSet::new();
        loop {
            let accepted = listener.accept().await;
            while clients.try_join_next().is_some() {}
            match accepted {
                Ok((stream, from)) if clients.len() < CONNECTIONS && self.admits(from) => {
                    clients.spawn(self.clone().serve_stream(stream));
                }
                Ok(_) => self.shared.refuse(),
                // No descriptor is left, most likely.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    async fn serve_stream(self, mut stream: TcpStream) {
        while let Ok(Ok(Some(query))) = timeout(IDLE, read_message(&mut stream)).await {
            let answer = match self.shared.answer(&query, Transport::Stream) {
                Outcome::Answer { bytes, .. } => Some(bytes),
                Outcome::Forward => match self.forwards.try_acquire() {
                    Ok(_permit) => self.shared.forward(&query, Transport::Stream).await,
                    Err(_) => None,
                },
                Outcome::Drop => None,
            };
            let Some(answer) = answer else { return };
            if !matches!(
                timeout(IDLE, write_message(&mut stream, &answer)).await,
                Ok(Ok(()))
            ) {
                return;
            }
        }
    }

    fn admits(&self, from: SocketAddr) -> bool {
        self.inside || self.shared.may_ask(from.ip())
    }
}

/// A socket at an address that this host may come to have only later, as that of
/// its bridge.
fn bound(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    socket.set_nonblocking(true)?;
    match address {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => socket.set_freebind_v6(true)?,
    }
    if kind == Type::STREAM {
        // Connections of the launch before may linger.
        socket.set_reuse_address(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// The next message of a stream, up to [`MAX_QUERY`] bytes; none at its end.
async fn read_message(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let length = usize::from(stream.read_u16().await?);
    if length > MAX_QUERY {
        return Ok(None);
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}

/// Writes a message with its length before it (RFC 1035, section 4.2.2).
pub(super) async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}
