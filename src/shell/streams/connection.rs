//! One connection: its socket, what is read from it and what is written to it.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use proto::stream::Deframer;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    time::timeout,
};

use super::{Inbound, Shared, State, lobby::Seat};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(3);
/// Who connected has this long to show that he is a peer.
const PATIENCE: Duration = Duration::from_secs(10);
/// A connection on which nothing comes for this long is not used any more.
const IDLE: Duration = Duration::from_secs(60);
/// What was sent and is not acknowledged for this long ends the connection.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);
/// Bytes that the kernel holds unsent: a long queue would only add delay to
/// frames whose senders do not know of it.
const UNSENT: u32 = 128 << 10;
/// Bytes written, and bytes read, in one call.
const BATCH: usize = 64 << 10;
/// The longest datagram: from somebody unknown, and from a peer.
const LENGTH_UNKNOWN: usize = 2048;
const LENGTH_PEER: usize = u16::MAX as usize;

/// How long the end waits for queues to become empty.
pub(super) const LAST_WORDS: Duration = Duration::from_millis(50);

/// Makes a connection, from `host` if wove is bound to it.
pub(super) async fn open(host: Option<IpAddr>, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    let host = host.filter(|host| !host.is_unspecified() && host.is_ipv4() == to.is_ipv4());
    if let Some(host) = host {
        socket.bind(SocketAddr::new(host, 0))?;
    }
    timeout(CONNECT, socket.connect(to)).await?
}

/// Carries datagrams until one end has enough. `seat` is the place of somebody
/// unknown who connected.
pub(super) async fn run(
    socket: TcpStream,
    state: Arc<State>,
    queue: mpsc::Receiver<Vec<u8>>,
    seat: Option<Seat>,
    shared: &Shared,
) {
    if let Err(error) = prepare(&socket) {
        return tracing::debug!(%error, "a TCP socket takes no options");
    }
    let (input, output) = socket.into_split();
    let why = tokio::select! {
        why = read(input, &state, shared) => why,
        why = write(output, queue) => why,
        why = expire(&state, seat) => why,
    };
    tracing::debug!(address = %state.address, why, "a TCP connection ended");
}

fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let socket = SockRef::from(socket);
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(UNACKNOWLEDGED))?;
    socket.set_tcp_notsent_lowat(UNSENT)
}

async fn read(mut input: OwnedReadHalf, state: &State, shared: &Shared) -> &'static str {
    let (mut deframer, mut buffer) = (Deframer::new(), vec![0; BATCH]);
    loop {
        let read = match timeout(IDLE, input.read(&mut buffer)).await {
            Ok(Ok(0)) => return "the other end closed it",
            Ok(Ok(read)) => read,
            Ok(Err(_)) => return "it broke",
            Err(_) => return "nothing came",
        };
        deframer.extend(&buffer[..read]);
        loop {
            let limit = if state.is_trusted() {
                LENGTH_PEER
            } else {
                LENGTH_UNKNOWN
            };
            let datagram = match deframer.next(limit) {
                Ok(Some(datagram)) => datagram.to_vec(),
                Ok(None) => break,
                Err(_) => return "it does not hold datagrams",
            };
            // At most 65,535, so the conversion does not fail.
            let len = u32::try_from(datagram.len()).unwrap_or(u32::MAX);
            let Ok(room) = Arc::clone(&state.room).acquire_many_owned(len).await else {
                return "this side ends";
            };
            shared.inbox.put(Inbound {
                from: state.address,
                datagram,
                _room: room,
            });
        }
    }
}

async fn write(mut output: OwnedWriteHalf, mut queue: mpsc::Receiver<Vec<u8>>) -> &'static str {
    let mut batch = Vec::with_capacity(BATCH);
    while let Some(first) = queue.recv().await {
        batch.clear();
        batch.extend_from_slice(&first);
        while batch.len() < BATCH
            && let Ok(next) = queue.try_recv()
        {
            batch.extend_from_slice(&next);
        }
        if output.write_all(&batch).await.is_err() {
            return "it broke";
        }
    }
    "this side hung up"
}

/// Ends what nobody vouched for in time, and what its peer has newer ones for.
async fn expire(state: &State, seat: Option<Seat>) -> &'static str {
    let needed = async {
        match &seat {
            Some(seat) => seat.needed().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = tokio::time::sleep(PATIENCE) => return "no handshake",
        () = needed => return "its place was needed",
        () = state.trust.notified() => {}
    }
    drop(seat);
    state.needed.notified().await;
    "its peer has newer ones"
}
