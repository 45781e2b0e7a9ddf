//! UDP broadcast and multicast, and receivers that count every sequence
//! number. Must not know daemons.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::super::netns::Netns;

/// The port of senders and receivers.
const PORT: u16 = 9000;
/// The group of the multicast tests.
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 7, 7, 7);
/// Before the sequence number, so that other traffic does not count.
const MARK: &[u8; 8] = b"lab-bum ";

/// How often each sequence number arrived.
pub(crate) type Deliveries = BTreeMap<u64, u64>;

/// A receiver in each of several namespaces.
pub(crate) struct Receivers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Deliveries>>,
}

impl Receivers {
    /// Starts receivers of broadcast and of the group, each on the interface
    /// with its address.
    pub(crate) fn start<'a>(at: impl IntoIterator<Item = (&'a Netns, Ipv4Addr)>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let receive = |(netns, address): (&Netns, Ipv4Addr)| {
            let socket = netns
                .run(|| receiver(address))
                .expect("a receiver can be made");
            let stop = stop.clone();
            thread::spawn(move || count(&socket, &stop))
        };
        let threads = at.into_iter().map(receive).collect();
        Self { stop, threads }
    }

    /// Waits a while for late copies; what each receiver got, in order.
    pub(crate) fn finish(self, late: Duration) -> Vec<Deliveries> {
        thread::sleep(late);
        self.stop.store(true, Ordering::Relaxed);
        let counts = self.threads.into_iter().map(JoinHandle::join);
        counts
            .map(|c| c.expect("a receiver does not panic"))
            .collect()
    }
}

/// Sends broadcasts numbered `numbers` to the /24 of `from`.
pub(crate) fn send_broadcasts(
    netns: &Netns,
    from: Ipv4Addr,
    numbers: std::ops::Range<u64>,
    interval: Duration,
) {
    let [a, b, c, _] = from.octets();
    send(netns, from, Ipv4Addr::new(a, b, c, 255), numbers, interval);
}

/// Sends multicasts numbered `numbers` to the group of the receivers.
pub(crate) fn send_multicasts(
    netns: &Netns,
    from: Ipv4Addr,
    numbers: std::ops::Range<u64>,
    interval: Duration,
) {
    send(netns, from, GROUP, numbers, interval);
}

fn send(
    netns: &Netns,
    from: Ipv4Addr,
    to: Ipv4Addr,
    numbers: std::ops::Range<u64>,
    interval: Duration,
) {
    let socket = netns.run(|| sender(from)).expect("a sender can be made");
    let to = SocketAddr::from(SocketAddrV4::new(to, PORT)).into();
    for number in numbers {
        let payload = [&MARK[..], &number.to_be_bytes()].concat();
        // What cannot be sent was not delivered; the receivers will tell.
        let _ = socket.send_to(&payload, &to);
        thread::sleep(interval);
    }
}

fn sender(from: Ipv4Addr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.set_broadcast(true)?;
    socket.set_multicast_if_v4(&from)?;
    socket.set_multicast_ttl_v4(4)?;
    socket.set_multicast_loop_v4(false)?;
    socket.bind(&SocketAddr::from(SocketAddrV4::new(from, 0)).into())?;
    Ok(socket)
}

fn receiver(address: Ipv4Addr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PORT);
    socket.bind(&SocketAddr::from(any).into())?;
    socket.join_multicast_v4(&GROUP, &address)?;
    socket.set_recv_buffer_size(4 << 20)?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    Ok(socket)
}

fn count(mut socket: &Socket, stop: &AtomicBool) -> Deliveries {
    let mut deliveries = Deliveries::new();
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        let Ok(length) = socket.read(&mut buffer) else {
            continue;
        };
        let rest = buffer[..length].strip_prefix(MARK);
        if let Some(number) = rest.and_then(|rest| rest.first_chunk()) {
            *deliveries.entry(u64::from_be_bytes(*number)).or_default() += 1;
        }
    }
    deliveries
}
