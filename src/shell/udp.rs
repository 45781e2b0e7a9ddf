//! The underlay socket: datagrams in and out, many per system call.
//!
//! Receiving goes through `recvmmsg` and UDP GRO, sending through UDP GSO,
//! both by quinn-udp. Nothing is fragmented on the way (DF is set, and the
//! kernel's own path MTU estimate is ignored: `IP_PMTUDISC_PROBE`), so a
//! datagram that is too large for the first hop comes back as
//! [`SendOutcome::too_large`]. No send error is fatal: a datagram that cannot
//! leave is a counted drop. It does not know what a datagram holds.

use std::{
    io::{self, ErrorKind, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    os::fd::{AsFd, BorrowedFd},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use arc_swap::ArcSwap;
use nix::{
    poll::{PollFd, PollFlags, ppoll},
    sys::{
        socket::{setsockopt, sockopt},
        time::TimeSpec,
    },
};
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use socket2::{Domain, Socket, Type};

mod batch;

use batch::Run;
pub use batch::{GSO_BYTES, Received, RecvBatch, SendBatch};

/// Bytes asked for the receive buffer: a burst that comes while the reader
/// waits for a processor. The kernel doubles both.
const RECEIVE_BUFFER: usize = 2 << 20;
/// Bytes asked for the send buffer: what a device needs to be kept busy. A long
/// queue there would only make everything later.
const SEND_BUFFER: usize = 512 << 10;
/// How long a datagram waits for room in the send buffer.
const PATIENCE: Duration = Duration::from_millis(100);

/// The underlay socket. Usable from several threads at once.
#[derive(Debug)]
pub struct UdpSocket {
    socket: Socket,
    state: ArcSwap<UdpSocketState>,
    reach: Reach,
    /// The device did not move for [`PATIENCE`]: nobody waits for it until it does.
    stuck: AtomicBool,
}

/// Which addresses a socket can send to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    V4,
    V6,
    Both,
}

/// What became of a [`SendBatch`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SendOutcome {
    /// Destinations whose first hop did not take a datagram, with its bytes.
    pub too_large: Vec<(SocketAddr, usize)>,
    /// Datagrams that did not leave, those too large included.
    pub dropped: u64,
}

impl UdpSocket {
    /// Binds to `host`, or to every address of both families (IPv4 only where
    /// IPv6 is off). Port 0 lets the kernel choose.
    ///
    /// # Errors
    /// The port is in use, the address is not this host's, or no privilege for the port.
    pub fn bind(host: Option<IpAddr>, port: u16) -> io::Result<Self> {
        let (socket, reach) = match host {
            Some(host) => bind_to(host, port)?,
            None => bind_everywhere(port)?,
        };
        let state = UdpSocketState::new((&socket).into())?;
        quiet(&socket);
        if state.may_fragment() {
            tracing::warn!(
                "the kernel cannot forbid fragments of UDP datagrams; path MTU is not found"
            );
        }
        grow_buffers(&socket);
        Ok(Self {
            socket,
            state: ArcSwap::from_pointee(state),
            reach,
            stuck: AtomicBool::new(false),
        })
    }

    /// The address it is bound to.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let address = self.socket.local_addr()?;
        address
            .as_socket()
            .ok_or_else(|| ErrorKind::AddrNotAvailable.into())
    }

    /// How many datagrams leave in one call at most; 1 where the kernel has no GSO.
    pub fn max_segments(&self) -> usize {
        self.state.load().max_gso_segments().max(1)
    }

    /// Reads what is there, up to one batch, and gives how many buffers were
    /// filled: 0 means that there is nothing more.
    ///
    /// # Errors
    /// Only what makes the socket useless.
    pub fn recv_batch(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        batch.clear();
        let state = self.state.load();
        let mut meta = [RecvMeta::default(); BATCH_SIZE];
        let mut slots: [IoSliceMut<'_>; BATCH_SIZE] = batch.slots();
        let usable = slots.iter().take_while(|slot| !slot.is_empty()).count();
        let read = state.recv((&self.socket).into(), &mut slots[..usable], &mut meta);
        match read {
            Ok(count) => {
                batch.accept(&meta[..count]);
                Ok(count)
            }
            Err(error) if is_passing(&error) => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Sends every datagram of the batch, in order; the batch is left as it is.
    pub fn send(&self, batch: &SendBatch) -> SendOutcome {
        let mut outcome = SendOutcome::default();
        for run in batch.runs(self.max_segments()) {
            self.send_run(batch, run, &mut outcome);
        }
        outcome
    }

    fn send_run(&self, batch: &SendBatch, run: Run, outcome: &mut SendOutcome) {
        let Some(destination) = self.reachable(run.destination) else {
            outcome.dropped += run.count as u64;
            return;
        };
        let contents = batch.bytes(&run);
        let Err(error) = self.transmit(destination, contents, run.segment) else {
            return;
        };
        if run.count == 1 {
            self.give_up(&run, &error, outcome);
            return;
        }
        match error.raw_os_error() {
            Some(libc::EMSGSIZE) => self.send_tail(batch, run, outcome),
            Some(libc::EIO | libc::EINVAL) => self.send_singly(batch, run, destination, outcome),
            _ => outcome.dropped += run.count as u64,
        }
    }

    /// The datagrams of the run are too large; a shorter last one may not be.
    fn send_tail(&self, batch: &SendBatch, run: Run, outcome: &mut SendOutcome) {
        outcome.too_large.push((run.destination, run.segment));
        outcome.dropped += run.count as u64 - 1;
        let tail = batch.tail(&run);
        if tail.segment < run.segment {
            self.send_run(batch, tail, outcome);
        } else {
            outcome.dropped += 1;
        }
    }

    /// The kernel refused the run as such. If it takes the datagrams one by one
    /// GSO is at fault, and stays off; otherwise the destination is.
    fn send_singly(
        &self,
        batch: &SendBatch,
        run: Run,
        destination: SocketAddr,
        outcome: &mut SendOutcome,
    ) {
        let mut any_left = false;
        for contents in batch.bytes(&run).chunks(run.segment) {
            match self.transmit(destination, contents, contents.len()) {
                Ok(()) => any_left = true,
                Err(error) => {
                    let one = Run {
                        segment: contents.len(),
                        count: 1,
                        ..run
                    };
                    self.give_up(&one, &error, outcome);
                }
            }
        }
        if any_left {
            tracing::debug!(
                "the kernel or a device refuses UDP segmentation offload; sending without it"
            );
        } else {
            self.renew_state();
        }
    }

    fn transmit(&self, destination: SocketAddr, contents: &[u8], segment: usize) -> io::Result<()> {
        let segment_size = (segment < contents.len()).then_some(segment);
        let transmit = Transmit {
            destination,
            ecn: None,
            contents,
            segment_size,
            src_ip: None,
        };
        let patience = if self.stuck.load(Ordering::Relaxed) {
            0
        } else {
            PATIENCE.as_millis()
        };
        // The device is slower than we are: wait, so that frames queue where
        // their senders notice. Only one that does not move at all loses them.
        for _ in 0..patience {
            match self.state.load().try_send((&self.socket).into(), &transmit) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait_for_room(),
                result => return result,
            }
        }
        let last = self.state.load().try_send((&self.socket).into(), &transmit);
        let blocked = matches!(&last, Err(error) if error.kind() == ErrorKind::WouldBlock);
        self.stuck.store(blocked, Ordering::Relaxed);
        last
    }

    fn wait_for_room(&self) {
        let mut room = [PollFd::new(self.socket.as_fd(), PollFlags::POLLOUT)];
        // An error shows at the next attempt.
        let _ = ppoll(
            &mut room,
            Some(TimeSpec::from_duration(Duration::from_millis(1))),
            None,
        );
    }

    fn give_up(&self, run: &Run, error: &io::Error, outcome: &mut SendOutcome) {
        outcome.dropped += 1;
        match error.raw_os_error() {
            Some(libc::EMSGSIZE) => outcome.too_large.push((run.destination, run.segment)),
            // A blackhole route says EINVAL too, and quinn-udp then takes GSO
            // for broken: one bad destination must not slow down the others.
            Some(libc::EINVAL | libc::EIO) if self.max_segments() == 1 => self.renew_state(),
            _ => tracing::trace!(destination = %run.destination, %error, "datagram not sent"),
        }
    }

    /// Forgets what was concluded from send errors.
    fn renew_state(&self) {
        if let Ok(state) = UdpSocketState::new((&self.socket).into()) {
            quiet(&self.socket);
            self.state.store(state.into());
        }
    }

    /// The destination as this socket's family writes it; none if it cannot be reached.
    fn reachable(&self, destination: SocketAddr) -> Option<SocketAddr> {
        if destination.port() == 0 || destination.ip().is_unspecified() {
            return None;
        }
        match (self.reach, destination) {
            (Reach::V4, SocketAddr::V4(_)) | (Reach::V6 | Reach::Both, SocketAddr::V6(_)) => {
                Some(destination)
            }
            (Reach::Both, SocketAddr::V4(v4)) => {
                let mapped = v4.ip().to_ipv6_mapped();
                Some(SocketAddrV6::new(mapped, v4.port(), 0, 0).into())
            }
            (Reach::V4, SocketAddr::V6(_)) | (Reach::V6, SocketAddr::V4(_)) => None,
        }
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn bind_everywhere(port: u16) -> io::Result<(Socket, Reach)> {
    let six = Socket::new(Domain::IPV6, Type::DGRAM, None).and_then(|socket| {
        socket.set_only_v6(false)?;
        bind_socket(&socket, Ipv6Addr::UNSPECIFIED.into(), port)?;
        Ok(socket)
    });
    match six {
        Ok(socket) => Ok((socket, Reach::Both)),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::AddrInUse | ErrorKind::PermissionDenied
            ) =>
        {
            Err(error)
        }
        Err(error) => {
            tracing::info!(%error, "no IPv6 on this host: listening on IPv4 only");
            bind_to(Ipv4Addr::UNSPECIFIED.into(), port)
        }
    }
}

fn bind_to(host: IpAddr, port: u16) -> io::Result<(Socket, Reach)> {
    if host.is_ipv4() {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        bind_socket(&socket, host, port)?;
        return Ok((socket, Reach::V4));
    }
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
    socket.set_only_v6(true)?;
    bind_socket(&socket, host, port)?;
    Ok((socket, Reach::V6))
}

fn bind_socket(socket: &Socket, host: IpAddr, port: u16) -> io::Result<()> {
    socket.bind(&SocketAddr::new(host, port).into()).map_err(|error| {
        let text = match error.kind() {
            ErrorKind::AddrInUse => {
                format!("UDP port {port} is in use: another wove, or another program; choose another with --port")
            }
            ErrorKind::AddrNotAvailable => {
                format!("{host} is not an address of this host: choose one of its own with --host")
            }
            ErrorKind::PermissionDenied => {
                format!("UDP port {port} needs CAP_NET_BIND_SERVICE: run as root, or choose one from 1024 on with --port")
            }
            _ => format!("UDP {} cannot be bound: {error}", SocketAddr::new(host, port)),
        };
        io::Error::new(error.kind(), text)
    })
}

/// No timestamp is read here, and the kernel takes them for every packet of
/// the host as soon as one socket asks.
fn quiet(socket: &Socket) {
    let _ = setsockopt(socket, sockopt::ReceiveTimestampns, &false);
}

fn grow_buffers(socket: &Socket) {
    // Without CAP_NET_ADMIN the forced form fails and the limits of
    // net.core.[rw]mem_max hold; whatever is granted will do.
    if setsockopt(socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    }
    if setsockopt(socket, sockopt::SndBufForce, &SEND_BUFFER).is_err() {
        let _ = socket.set_send_buffer_size(SEND_BUFFER);
    }
}

/// Errors of reading that say something about one datagram sent earlier, or that there is nothing.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EAGAIN
                | libc::EINTR
                | libc::ECONNREFUSED
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::EMSGSIZE
                | libc::ENOBUFS
                | libc::ENOMEM
        )
    )
}

#[cfg(test)]
mod tests;
