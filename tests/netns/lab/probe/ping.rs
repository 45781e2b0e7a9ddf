//! ICMP echo: a report of a few, or a flow that runs while things break.
//! Must not know daemons or the underlay.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use socket2::{Domain, Protocol, Socket, Type};

use super::super::netns::Netns;
use super::super::underlay::checksum;
use super::super::wait::eventually;

/// Bytes of the ICMP header.
const HEADER: usize = 8;
/// Bytes of the sequence number and the flow's nonce in the payload.
const MARK: usize = 16;

/// Tells the flows of this process apart.
static NEXT_NONCE: AtomicU64 = AtomicU64::new(0x776f_7665_0000_0000);

/// How to ping.
#[derive(Clone, Debug)]
pub(crate) struct PingOptions {
    /// How many to send.
    pub(crate) count: u64,
    /// Time between two.
    pub(crate) interval: Duration,
    /// Bytes of payload, at least 16.
    pub(crate) size: usize,
    /// How long to wait for answers after the last.
    pub(crate) timeout: Duration,
    /// What the payload repeats.
    pub(crate) pattern: Vec<u8>,
}

impl Default for PingOptions {
    fn default() -> Self {
        Self {
            count: 5,
            interval: Duration::from_millis(20),
            size: 56,
            timeout: Duration::from_secs(2),
            pattern: b"wove".to_vec(),
        }
    }
}

/// What became of the pings of a flow.
#[derive(Clone, Debug, Default)]
pub(crate) struct PingReport {
    /// How many were sent.
    pub(crate) sent: u64,
    /// How many were answered.
    pub(crate) received: u64,
    /// How many were not.
    pub(crate) lost: u64,
    /// How many answers came again.
    pub(crate) duplicates: u64,
    /// Round-trip times, in the order of sending.
    pub(crate) rtts: Vec<Duration>,
    /// The longest time between the sending of two successive answered pings,
    /// ends of the flow included; the interval if nothing was lost.
    pub(crate) longest_gap: Duration,
    /// When each run of lost pings began and ended, from the flow's start.
    pub(crate) outages: Vec<(Duration, Duration)>,
}

/// A background flow of pings.
pub(crate) struct PingFlow {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

struct Shared {
    started: Instant,
    stop: AtomicBool,
    sent: Mutex<Vec<Sent>>,
}

/// One ping; times are from the flow's start.
#[derive(Clone, Copy)]
struct Sent {
    at: Duration,
    answered: Option<Duration>,
    copies: u64,
}

/// Sends some pings and waits for their answers.
pub(crate) fn ping(from: &Netns, to: impl Into<IpAddr>, options: PingOptions) -> PingReport {
    let flow = PingFlow::start_with(from, to.into(), options);
    flow.finish()
}

/// Pings until one is answered, at the latest after `limit`; returns how long
/// that took.
pub(crate) fn ping_within(limit: Duration, from: &Netns, to: impl Into<IpAddr>) -> Duration {
    let to = to.into();
    let started = Instant::now();
    let once = PingOptions {
        count: 1,
        timeout: Duration::from_millis(300),
        ..PingOptions::default()
    };
    eventually(limit, &format!("{to} answers a ping"), || {
        let report = ping(from, to, once.clone());
        if report.received == 0 {
            return Err("no answer".to_owned());
        }
        Ok(started.elapsed())
    })
}

impl PingFlow {
    /// Starts a flow that runs until it is stopped.
    pub(crate) fn start(from: &Netns, to: impl Into<IpAddr>, interval: Duration) -> Self {
        let endless = PingOptions {
            count: u64::MAX,
            interval,
            ..PingOptions::default()
        };
        Self::start_with(from, to.into(), endless)
    }

    /// Starts a flow with options of its own.
    pub(crate) fn start_with(from: &Netns, to: IpAddr, options: PingOptions) -> Self {
        assert!(options.size >= MARK, "the payload holds a mark");
        let socket = from
            .run(|| echo_socket(to))
            .expect("root opens raw sockets");
        let shared = Arc::new(Shared {
            started: Instant::now(),
            stop: AtomicBool::new(false),
            sent: Mutex::default(),
        });
        let runner = Runner {
            shared: shared.clone(),
            socket,
            to,
            nonce: NEXT_NONCE.fetch_add(1, Ordering::Relaxed),
            options,
        };
        let thread = thread::spawn(move || runner.run());
        Self { shared, thread }
    }

    /// Stops sending, waits for answers still due, and reports.
    pub(crate) fn stop(self) -> PingReport {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.finish()
    }

    /// Waits until a ping sent from now on is answered; returns how long that
    /// took.
    pub(crate) fn wait_answer(&self, limit: Duration) -> Duration {
        let now = self.shared.started.elapsed();
        let answered = eventually(limit, "a running flow is answered", || {
            let sent = self.shared.sent();
            let recent = sent.iter().rev().take_while(|ping| ping.at >= now);
            let first = recent.filter_map(|ping| ping.answered).min();
            first.ok_or_else(|| "no ping sent since was answered".to_owned())
        });
        answered - now
    }

    fn finish(self) -> PingReport {
        if let Err(cause) = self.thread.join() {
            std::panic::resume_unwind(cause);
        }
        PingReport::new(&self.shared.sent())
    }
}

impl PingReport {
    fn new(sent: &[Sent]) -> Self {
        let mut report = Self {
            sent: sent.len() as u64,
            ..Self::default()
        };
        let mut last_answered = Duration::ZERO;
        let mut outage: Option<(Duration, Duration)> = None;
        for ping in sent {
            let Some(answered) = ping.answered else {
                report.lost += 1;
                let begin = outage.map_or(ping.at, |(begin, _)| begin);
                outage = Some((begin, ping.at));
                continue;
            };
            report.outages.extend(outage.take());
            report.received += 1;
            report.duplicates += ping.copies - 1;
            report.rtts.push(answered - ping.at);
            report.longest_gap = report.longest_gap.max(ping.at - last_answered);
            last_answered = ping.at;
        }
        report.outages.extend(outage);
        let end = sent.last().map_or(Duration::ZERO, |ping| ping.at);
        report.longest_gap = report.longest_gap.max(end - last_answered);
        report
    }

    /// Whether every ping was answered once.
    pub(crate) fn is_clean(&self) -> bool {
        self.sent > 0 && self.lost == 0 && self.duplicates == 0
    }
}

struct Runner {
    shared: Arc<Shared>,
    socket: Socket,
    to: IpAddr,
    nonce: u64,
    options: PingOptions,
}

impl Runner {
    fn run(&self) {
        let mut next = Duration::ZERO;
        let mut sequence = 0;
        while sequence < self.options.count && !self.shared.stop.load(Ordering::Relaxed) {
            let now = self.shared.started.elapsed();
            if now >= next {
                self.send(sequence, now);
                sequence += 1;
                next = now + self.options.interval;
            }
            self.receive(next.saturating_sub(self.shared.started.elapsed()));
        }
        let deadline = self.shared.started.elapsed() + self.options.timeout;
        while self.outstanding() && self.shared.started.elapsed() < deadline {
            self.receive(Duration::from_millis(20));
        }
    }

    // An unsent ping (no route, no buffer) is a lost ping.
    fn send(&self, sequence: u64, now: Duration) {
        self.shared.sent().push(Sent {
            at: now,
            answered: None,
            copies: 0,
        });
        let request = self.request(sequence);
        let _ = self
            .socket
            .send_to(&request, &SocketAddr::new(self.to, 0).into());
    }

    fn request(&self, sequence: u64) -> Vec<u8> {
        let kind = if self.to.is_ipv4() { 8 } else { 128 };
        let id = (self.nonce as u16).to_be_bytes();
        let number = (sequence as u16).to_be_bytes();
        let mut bytes = vec![kind, 0, 0, 0, id[0], id[1], number[0], number[1]];
        bytes.extend(self.nonce.to_be_bytes());
        bytes.extend(sequence.to_be_bytes());
        let filler = self.options.pattern.iter().cycle().copied();
        bytes.extend(filler.take(self.options.size - MARK));
        if self.to.is_ipv4() {
            // For IPv6 the kernel fills it in: it covers addresses we do not know.
            let sum = checksum(&bytes).to_be_bytes();
            bytes[2..4].copy_from_slice(&sum);
        }
        bytes
    }

    fn receive(&self, wait: Duration) {
        // Not a time-out of the socket: that is rounded up to the kernel's ticks,
        // and the pace would be lost with the answers. A stop must be noticed.
        let wait = wait.min(Duration::from_millis(20)).as_millis() as u16;
        let mut ready = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        if !poll(&mut ready, wait).is_ok_and(|ready| ready > 0) {
            return;
        }
        let mut buffer = [0; 1 << 16];
        let Ok(length) = (&self.socket).read(&mut buffer) else {
            return;
        };
        let now = self.shared.started.elapsed();
        let Some(sequence) = self.answer(&buffer[..length]) else {
            return;
        };
        let mut sent = self.shared.sent();
        if let Some(ping) = usize::try_from(sequence).ok().and_then(|n| sent.get_mut(n)) {
            ping.answered.get_or_insert(now);
            ping.copies += 1;
        }
    }

    fn answer(&self, packet: &[u8]) -> Option<u64> {
        // A raw IPv4 socket returns the IP header too.
        let (start, kind) = match self.to {
            IpAddr::V4(_) => (usize::from(packet.first()? & 15) * 4, 0),
            IpAddr::V6(_) => (0, 129),
        };
        let icmp = packet.get(start..)?;
        let (nonce, rest) = icmp.get(HEADER..)?.split_first_chunk()?;
        let ours = icmp[0] == kind && u64::from_be_bytes(*nonce) == self.nonce;
        let sequence = u64::from_be_bytes(*rest.first_chunk()?);
        (ours && icmp.len() == HEADER + self.options.size).then_some(sequence)
    }

    fn outstanding(&self) -> bool {
        let sent = self.shared.sent();
        sent.iter().any(|ping| ping.answered.is_none())
    }
}

impl Shared {
    fn sent(&self) -> MutexGuard<'_, Vec<Sent>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn echo_socket(to: IpAddr) -> io::Result<Socket> {
    match to {
        IpAddr::V4(_) => Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)),
        IpAddr::V6(_) => Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)),
    }
}

#[test]
fn a_report_counts_gaps_and_outages() {
    let ms = Duration::from_millis;
    let ping = |at, answered: Option<u64>| Sent {
        at: ms(at),
        answered: answered.map(ms),
        copies: u64::from(answered.is_some()),
    };
    let sent = [
        ping(0, Some(1)),
        ping(10, None),
        ping(20, None),
        ping(30, Some(35)),
        ping(40, None),
    ];
    let report = PingReport::new(&sent);
    assert_eq!((report.sent, report.received, report.lost), (5, 2, 3));
    assert_eq!(report.longest_gap, ms(30));
    assert_eq!(report.outages, [(ms(10), ms(20)), (ms(40), ms(40))]);
    assert!(!report.is_clean());
}
