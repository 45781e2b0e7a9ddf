//! Connections over loopback.

#![expect(
    clippy::disallowed_methods,
    reason = "a test waits, and connects without wove"
)]

use std::{
    io::{Read, Write},
    net::TcpStream as StdStream,
    time::Instant,
};

use super::*;

const PEER: PeerId = PeerId([1; 16]);

struct End {
    streams: Streams,
    ended: mpsc::Receiver<SocketAddr>,
    address: SocketAddr,
}

impl End {
    fn new() -> Self {
        let host = IpAddr::from(Ipv4Addr::LOCALHOST);
        let port = bind(host, 0).and_then(|l| l.local_addr()).unwrap().port();
        let (streams, ended) = Streams::start(Some(host), port).unwrap();
        let address = SocketAddr::new(host, port);
        Self {
            streams,
            ended,
            address,
        }
    }

    fn receive(&self) -> Vec<Inbound> {
        let started = Instant::now();
        loop {
            let inbound = self.streams.inbox().take();
            if !inbound.is_empty() {
                return inbound;
            }
            assert!(started.elapsed() < Duration::from_secs(10), "nothing came");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

#[test]
fn datagrams_go_there_and_back_on_one_connection() {
    let (mut near, far) = (End::new(), End::new());
    assert!(!near.streams.send(far.address, b"lost", false));
    assert!(near.streams.send(far.address, b"ping", true));
    let came = far.receive();
    assert_eq!(came[0].datagram, b"ping");
    assert!(far.streams.send(came[0].from, b"pong", false));
    let back = near.receive();
    assert_eq!(
        (back[0].from, &back[0].datagram[..]),
        (far.address, &b"pong"[..])
    );
    near.streams.trust(far.address, PEER);
    far.streams.hang_up(came[0].from);
    assert_eq!(near.ended.blocking_recv(), Some(far.address));
    assert!(!near.streams.send(far.address, b"lost", false));
}

#[test]
fn a_peer_has_few_connections_and_the_oldest_give_way() {
    let mut far = End::new();
    // Eight come from one address before anybody knows who is there.
    let near: Vec<End> = (0..MAX_OF_PEER + 2).map(|_| End::new()).collect();
    let addresses = near.iter().map(|end| {
        assert!(end.streams.send(far.address, b"hello", true));
        far.receive()[0].from
    });
    let addresses: Vec<SocketAddr> = addresses.collect();
    let stranger = End::new();
    assert!(stranger.streams.send(far.address, b"hello", true));
    let other = far.receive()[0].from;
    far.streams.trust(other, PeerId([2; 16]));
    // Whoever is known last need not be the newest.
    for address in addresses.iter().rev() {
        far.streams.trust(*address, PEER);
        far.streams.trust(*address, PEER);
    }
    let ended = [far.ended.blocking_recv(), far.ended.blocking_recv()];
    assert!(addresses[..2].iter().all(|old| ended.contains(&Some(*old))));
    assert!(far.ended.try_recv().is_err());
    for address in &addresses[2..] {
        assert!(far.streams.send(*address, b"still here", false));
    }
    assert!(far.streams.send(other, b"still here", false));
}

#[test]
fn who_does_not_read_costs_no_memory_and_no_time() {
    let far = End::new();
    let mut deaf = StdStream::connect(far.address).unwrap();
    deaf.write_all(&[0, 1, 7]).unwrap();
    let from = far.receive()[0].from;
    let datagram = vec![0; 1400];
    let sent = (0..100_000)
        .filter(|_| far.streams.send(from, &datagram, false))
        .count();
    assert!(sent < 50_000, "{sent} datagrams were taken");
}

#[test]
fn who_speaks_something_else_is_shut_out() {
    let far = End::new();
    let mut stranger = StdStream::connect(far.address).unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let patience = Some(Duration::from_secs(10));
    stranger.set_read_timeout(patience).unwrap();
    // Closed with or without a reset, and nothing said.
    assert!(matches!(stranger.read(&mut [0; 16]), Ok(0) | Err(_)));
}

#[test]
fn what_is_not_handled_is_not_read_on() {
    let far = End::new();
    let mut eager = StdStream::connect(far.address).unwrap();
    let patience = Some(Duration::from_millis(500));
    eager.set_write_timeout(patience).unwrap();
    let framed = [&stream::prefix(1000).unwrap()[..], &[0; 1000]].concat();
    let taken = (0..100_000)
        .take_while(|_| eager.write_all(&framed).is_ok())
        .count();
    assert!(taken < 50_000, "{taken} datagrams were taken");
    let waiting: usize = far.receive().iter().map(|i| i.datagram.len()).sum();
    assert!(waiting <= ROOM_UNKNOWN, "{waiting} bytes wait");
}

#[test]
fn a_port_that_is_taken_is_no_reason_to_give_up() {
    let host = IpAddr::from(Ipv4Addr::LOCALHOST);
    let taken = bind(host, 0).unwrap();
    let port = taken.local_addr().unwrap().port();
    let (streams, _ended) = Streams::start(Some(host), port).unwrap();
    let far = End::new();
    assert!(streams.send(far.address, b"out", true));
    assert_eq!(far.receive()[0].datagram, b"out");
}
