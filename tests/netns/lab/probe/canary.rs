//! Many small frames with a canary inside, from one interface to another, on a
//! way that may be there or not. Must not know daemons.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::super::netns::Netns;
use super::super::underlay::udp;
use super::super::wait::until;
use super::PacketSocket;

/// The port that they go to.
const PORT: u16 = 7777;
/// Sent at once in a flood and else, and the pause after: others shall have a
/// turn, too.
const FLOOD: u64 = 20;
const TRICKLE: u64 = 1;
const PAUSE: Duration = Duration::from_millis(12);

/// A flow of them, and a receiver that counts.
pub(crate) struct Canaries {
    stop: Arc<AtomicBool>,
    burst: Arc<AtomicU64>,
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
    threads: [JoinHandle<()>; 2],
}

impl Canaries {
    /// Starts to send from an interface of one namespace to that of another.
    /// They are whole frames, so they leave without ARP.
    pub(crate) fn start(
        (from, source): (&Netns, Ipv4Addr),
        (to, destination): (&Netns, Ipv4Addr),
        interface: &str,
        canary: &[u8],
    ) -> Self {
        let mac = |netns: &Netns| netns.link_mac(interface).expect("there is the interface");
        let ports = |ip| SocketAddrV4::new(ip, PORT);
        let frame = udp(
            (mac(from), mac(to)),
            ports(source),
            ports(destination),
            canary,
        );
        let sender = PacketSocket::open(from, interface);
        let receiver = to.run(|| UdpSocket::bind(ports(destination)));
        let receiver = receiver.expect("the address is there");
        let timeout = receiver.set_read_timeout(Some(Duration::from_millis(100)));
        timeout.expect("a socket has a timeout");

        let stop = Arc::<AtomicBool>::default();
        let (sent, received) = <(Arc<AtomicU64>, Arc<AtomicU64>)>::default();
        let burst = Arc::new(AtomicU64::new(TRICKLE));
        let (end, count, size) = (stop.clone(), sent.clone(), burst.clone());
        let send = thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                let sent =
                    (0..size.load(Ordering::Relaxed)).take_while(|_| sender.try_send(&frame));
                count.fetch_add(sent.count() as u64, Ordering::Relaxed);
                thread::sleep(PAUSE);
            }
        });
        let (end, count) = (stop.clone(), received.clone());
        let receive = thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                let got = receiver.recv(&mut [0; 64]).is_ok();
                count.fetch_add(u64::from(got), Ordering::Relaxed);
            }
        });
        Self {
            stop,
            burst,
            sent,
            received,
            threads: [send, receive],
        }
    }

    /// Sends many, until so many are sent in all; then few again.
    pub(crate) fn flood_to(&self, number: u64, limit: Duration) {
        self.burst.store(FLOOD, Ordering::Relaxed);
        until(limit, "canaries are sent", || self.sent() >= number);
        self.burst.store(TRICKLE, Ordering::Relaxed);
    }

    /// How many were sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// How many arrived so far.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Stops; how many were sent, and how many arrived.
    pub(crate) fn stop(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a flow does not panic");
        }
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (read(&self.sent), read(&self.received))
    }
}
