//! ICMP echo from inside a namespace (RFC 792, RFC 4443).

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use socket2::{Domain, Protocol, Socket, Type};

use crate::shell::netns::Namespace;

/// How long a late answer is waited for.
const LATE: Duration = Duration::from_millis(500);

/// What became of a series of pings.
#[derive(Clone, Debug, Default)]
pub(super) struct Pings {
    pub(super) sent: u32,
    pub(super) received: u32,
    pub(super) longest_gap: Duration,
    rtts: Vec<Duration>,
}

impl Pings {
    pub(super) fn lost(&self) -> u32 {
        self.sent - self.received
    }

    pub(super) fn median(&self) -> Duration {
        let mut rtts = self.rtts.clone();
        rtts.sort_unstable();
        rtts.get(rtts.len() / 2).copied().unwrap_or_default()
    }
}

/// Sends `count` echo requests, one every `interval`.
pub(super) fn ping(
    namespace: &Namespace,
    target: IpAddr,
    count: u32,
    interval: Duration,
) -> Result<Pings> {
    namespace.run(|| series(target, interval, |sent| sent < count))
}

/// Pings in the background.
pub(super) struct Flow {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Pings>>,
}

impl Flow {
    pub(super) fn start(namespace: &Namespace, target: IpAddr, interval: Duration) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, inside) = (Arc::clone(&stop), namespace.try_clone()?);
        let body =
            move || inside.run(|| series(target, interval, |_| !stopped.load(Ordering::Relaxed)));
        let thread = std::thread::Builder::new()
            .name("pings".to_owned())
            .spawn(body)?;
        Ok(Self { stop, thread })
    }

    pub(super) fn stop(self) -> Result<Pings> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| anyhow!("the pinging thread died"))?
    }
}

fn series(target: IpAddr, interval: Duration, more: impl Fn(u32) -> bool) -> Result<Pings> {
    let socket = open(target)?;
    let to = SocketAddr::new(target, 0).into();
    let mut pings = Pings::default();
    let mut sent_at = Vec::new();
    let mut last_answer = Instant::now();
    while more(pings.sent) {
        let now = Instant::now();
        sent_at.push(now);
        // A send that fails counts as a lost ping.
        let _ = socket.send_to(&request(target, pings.sent), &to);
        pings.sent += 1;
        collect(
            &socket,
            now + interval,
            &sent_at,
            &mut pings,
            &mut last_answer,
        )?;
    }
    let end = Instant::now() + LATE;
    while pings.received < pings.sent && Instant::now() < end {
        collect(
            &socket,
            Instant::now() + Duration::from_millis(20),
            &sent_at,
            &mut pings,
            &mut last_answer,
        )?;
    }
    Ok(pings)
}

/// An ICMP datagram socket: the kernel sets identifier and checksum.
fn open(target: IpAddr) -> Result<Socket> {
    let (domain, protocol) = match target {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0")
        .context("cannot allow pings in the namespace")?;
    let socket =
        Socket::new(domain, Type::DGRAM, Some(protocol)).context("cannot open an ICMP socket")?;
    Ok(socket)
}

fn request(target: IpAddr, sequence: u32) -> Vec<u8> {
    let kind = if target.is_ipv4() { 8 } else { 128 };
    let mut packet = vec![kind, 0, 0, 0, 0, 0];
    packet.extend_from_slice(&(sequence as u16).to_be_bytes());
    packet.extend_from_slice(&sequence.to_be_bytes());
    packet.resize(64, b'w');
    packet
}

/// Reads answers until `deadline`.
fn collect(
    socket: &Socket,
    deadline: Instant,
    sent_at: &[Instant],
    pings: &mut Pings,
    last: &mut Instant,
) -> Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let mut buffer = [0; 256];
        let len = match io::Read::read(&mut &*socket, &mut buffer) {
            Ok(len) => len,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                return Ok(());
            }
            Err(error) => return Err(error).context("cannot read an answer"),
        };
        let Some(sequence) = answer(&buffer[..len]) else {
            continue;
        };
        let Some(sent) = sent_at.get(sequence as usize) else {
            continue;
        };
        let now = Instant::now();
        pings.received += 1;
        pings.rtts.push(now - *sent);
        pings.longest_gap = pings.longest_gap.max(now - *last);
        *last = now;
    }
}

fn answer(packet: &[u8]) -> Option<u32> {
    let (head, rest) = packet.split_first_chunk::<8>()?;
    let number = rest.first_chunk::<4>()?;
    matches!(head[0], 0 | 129).then(|| u32::from_be_bytes(*number))
}
