//! Numbered datagrams at a steady pace from one namespace to another, each of
//! which is looked for at the other end. Must not know daemons.

use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::super::netns::Netns;
use super::super::wait::until;

const PORT: u16 = 7778;
/// Bytes of datagrams that may wait to be read.
const BUFFER: usize = 4 << 20;
/// What is late by this much is lost.
const LATE: Duration = Duration::from_secs(2);
/// A number, and when it was sent, in nanoseconds from the start.
const LENGTH: usize = 16;

/// A stream that runs until it is stopped.
pub(crate) struct Stream {
    shared: Arc<Shared>,
    sender: JoinHandle<Vec<Duration>>,
    receiver: JoinHandle<Heard>,
}

struct Shared {
    started: Instant,
    sent_all: AtomicBool,
    heard_all: AtomicBool,
    received: AtomicU64,
}

/// What became of a stream.
#[derive(Debug)]
pub(crate) struct StreamReport {
    /// Datagrams sent.
    pub(crate) sent: u64,
    /// Datagrams that never arrived.
    pub(crate) lost: u64,
    /// Copies beyond the first.
    pub(crate) again: u64,
    /// When those lost were sent, from the start.
    pub(crate) when: Vec<Duration>,
    /// How long the first copies were on their way, the shortest time first.
    pub(crate) delays: Vec<Duration>,
}

#[derive(Default)]
struct Heard {
    /// How often each arrived.
    times: Vec<u64>,
    delays: Vec<Duration>,
}

impl Stream {
    /// Starts to send from one namespace to an address of another, one datagram
    /// each `interval` or fewer.
    pub(crate) fn start(from: &Netns, to: (&Netns, Ipv4Addr), interval: Duration) -> Self {
        let address = SocketAddr::from(SocketAddrV4::new(to.1, PORT));
        let receiver = to.0.run(|| receiver(address)).expect("a socket");
        let sender = from.run(|| Socket::new(Domain::IPV4, Type::DGRAM, None));
        let sender = sender.expect("a socket");
        let shared = Arc::new(Shared {
            started: Instant::now(),
            sent_all: AtomicBool::new(false),
            heard_all: AtomicBool::new(false),
            received: AtomicU64::new(0),
        });
        let (one, other) = (shared.clone(), shared.clone());
        Self {
            shared,
            sender: thread::spawn(move || send(&sender, address, interval, &one)),
            receiver: thread::spawn(move || receive(&receiver, &other)),
        }
    }

    /// Waits until another datagram has arrived.
    pub(crate) fn wait_arrival(&self, limit: Duration) {
        let read = || self.shared.received.load(Ordering::Relaxed);
        let before = read();
        until(limit, "a datagram of the stream arrives", || {
            read() > before
        });
    }

    /// Stops, waits for what is on its way, and reports.
    pub(crate) fn stop(self) -> StreamReport {
        self.shared.sent_all.store(true, Ordering::Relaxed);
        let sent = self.sender.join().expect("a sender does not panic");
        thread::sleep(LATE);
        self.shared.heard_all.store(true, Ordering::Relaxed);
        let mut heard = self.receiver.join().expect("a receiver does not panic");
        heard.delays.sort_unstable();
        let arrived = |number: usize| heard.times.get(number).is_some_and(|times| *times > 0);
        let lost = (0..sent.len()).filter(|number| !arrived(*number));
        let when: Vec<_> = lost.map(|number| sent[number]).collect();
        StreamReport {
            sent: sent.len() as u64,
            lost: when.len() as u64,
            again: heard
                .times
                .iter()
                .map(|times| times.saturating_sub(1))
                .sum(),
            when,
            delays: heard.delays,
        }
    }
}

fn receiver(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    // What waits for a turn of this process on a busy machine is not lost.
    socket.set_recv_buffer_size(BUFFER)?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// When each was sent.
fn send(socket: &Socket, to: SocketAddr, interval: Duration, shared: &Shared) -> Vec<Duration> {
    let mut sent = Vec::new();
    while !shared.sent_all.load(Ordering::Relaxed) {
        let now = shared.started.elapsed();
        let number = (sent.len() as u64).to_be_bytes();
        sent.push(now);
        let nanos = u64::try_from(now.as_nanos()).expect("less than centuries");
        // What cannot be sent does not arrive, and counts.
        let _ = socket.send_to(&[number, nanos.to_be_bytes()].concat(), &to.into());
        thread::sleep((now + interval).saturating_sub(shared.started.elapsed()));
    }
    sent
}

fn receive(mut socket: &Socket, shared: &Shared) -> Heard {
    let mut heard = Heard::default();
    let mut buffer = [0; 64];
    while !shared.heard_all.load(Ordering::Relaxed) {
        let Ok(LENGTH) = socket.read(&mut buffer) else {
            continue;
        };
        let word = |at: usize| u64::from_be_bytes(buffer[at..at + 8].try_into().expect("eight"));
        let Ok(number) = usize::try_from(word(0)) else {
            continue;
        };
        if number >= heard.times.len() {
            heard.times.resize(number + 1, 0);
        }
        heard.times[number] += 1;
        if heard.times[number] == 1 {
            let now = shared.started.elapsed();
            heard
                .delays
                .push(now.saturating_sub(Duration::from_nanos(word(8))));
        }
        shared.received.fetch_add(1, Ordering::Relaxed);
    }
    heard
}
