//! The socket against a real kernel, each test in a network namespace of its own.

use std::time::Duration;

use super::*;
use crate::shell::{
    netns::{lab::ip, testing::in_fresh_namespace},
    wait::{Waker, wait},
};

fn in_namespace_with_loopback(work: impl FnOnce() + Send) {
    in_fresh_namespace(|| {
        ip("link set lo up");
        work();
    });
}

/// Reads until `count` datagrams came or nothing comes any more.
fn receive(socket: &UdpSocket, count: usize) -> (Vec<(SocketAddr, Vec<u8>)>, usize) {
    let (waker, mut batch) = (Waker::new().unwrap(), RecvBatch::new(32));
    let (mut seen, mut largest) = (Vec::new(), 0);
    while seen.len() < count {
        let ready = wait(&[socket.as_fd()], &waker, Some(Duration::from_secs(5))).unwrap();
        if ready.is_idle() {
            break;
        }
        let buffers = socket.recv_batch(&mut batch).unwrap();
        let before = seen.len();
        seen.extend(batch.datagrams().map(|d| (d.source, d.bytes.to_vec())));
        largest = largest.max((seen.len() - before).checked_div(buffers).unwrap_or(0));
    }
    (seen, largest)
}

fn story(host: Option<&str>, destination: &str, source: &str) {
    let host = host.map(|h| h.parse().unwrap());
    let receiver = UdpSocket::bind(host, 0).unwrap();
    let sender = UdpSocket::bind(host, 0).unwrap();
    let to = SocketAddr::new(
        destination.parse().unwrap(),
        receiver.local_addr().unwrap().port(),
    );
    let mut batch = SendBatch::new();
    let lens = [1200, 1200, 1200, 1200, 300, 900, 900];
    for (n, len) in lens.into_iter().enumerate() {
        batch.reserve(to, len).fill(n as u8);
    }
    assert_eq!(sender.send(&batch), SendOutcome::default());
    let (seen, per_buffer) = receive(&receiver, lens.len());
    let from = SocketAddr::new(source.parse().unwrap(), sender.local_addr().unwrap().port());
    let expected: Vec<_> = (0u8..)
        .zip(lens)
        .map(|(n, len)| (from, vec![n; len]))
        .collect();
    assert_eq!(seen, expected);
    assert!(
        sender.max_segments() == 1 || per_buffer > 1,
        "datagrams left together but did not come together"
    );
}

#[test]
fn batches_travel_over_ipv4_ipv6_and_a_dual_stack_socket() {
    in_namespace_with_loopback(|| {
        story(None, "127.0.0.1", "127.0.0.1");
        story(None, "::1", "::1");
        story(Some("127.0.0.1"), "127.0.0.1", "127.0.0.1");
        story(Some("::1"), "::1", "::1");
    });
}

#[test]
fn what_does_not_fit_is_told_and_its_short_tail_still_leaves() {
    in_namespace_with_loopback(|| {
        ip("link set lo mtu 1400");
        let receiver = UdpSocket::bind(None, 0).unwrap();
        let sender = UdpSocket::bind(None, 0).unwrap();
        for host in ["127.0.0.1", "::1"] {
            let to = SocketAddr::new(host.parse().unwrap(), receiver.local_addr().unwrap().port());
            let mut batch = SendBatch::new();
            for len in [1600, 1600, 100, 1500] {
                batch.reserve(to, len).fill(1);
            }
            let outcome = sender.send(&batch);
            assert_eq!(outcome.too_large, [(to, 1600), (to, 1500)], "{host}");
            assert_eq!(outcome.dropped, 3);
            assert_eq!(receive(&receiver, 1).0[0].1.len(), 100);
        }
        assert!(sender.max_segments() > 1);
    });
}

#[test]
fn a_bad_destination_is_a_drop_and_does_not_cost_the_others_their_speed() {
    in_namespace_with_loopback(|| {
        ip("route add blackhole 198.51.100.1/32");
        let socket = UdpSocket::bind(None, 0).unwrap();
        let before = socket.max_segments();
        let hostile = [
            "198.51.100.1:9",
            "203.0.113.1:9",
            "127.0.0.1:0",
            "0.0.0.0:9",
            "[fe80::1]:9",
            "[2001:db8::1]:9",
        ];
        for destination in hostile {
            for count in [1, 3] {
                let mut batch = SendBatch::new();
                for _ in 0..count {
                    batch.push(destination.parse().unwrap(), &[0; 100]);
                }
                let outcome = socket.send(&batch);
                assert_eq!(
                    (outcome.dropped, outcome.too_large.len()),
                    (count, 0),
                    "{destination}"
                );
            }
        }
        assert_eq!(socket.max_segments(), before);
    });
}

#[test]
fn nobody_listening_is_not_an_error() {
    in_namespace_with_loopback(|| {
        let socket = UdpSocket::bind(None, 0).unwrap();
        let mut batch = SendBatch::new();
        batch.push("127.0.0.1:9".parse().unwrap(), b"hello");
        for _ in 0..3 {
            assert!(socket.send(&batch).too_large.is_empty());
            assert_eq!(socket.recv_batch(&mut RecvBatch::new(4)).unwrap(), 0);
        }
    });
}

#[test]
fn a_port_in_use_is_said_with_its_cure() {
    in_namespace_with_loopback(|| {
        let first = UdpSocket::bind(None, 6783).unwrap();
        let error = UdpSocket::bind(None, 6783).unwrap_err().to_string();
        assert!(
            error.starts_with("UDP port 6783 is in use") && error.contains("--port"),
            "{error}"
        );
        drop(first);
        let error = UdpSocket::bind(Some("192.0.2.77".parse().unwrap()), 0)
            .unwrap_err()
            .to_string();
        assert!(error.contains("not an address of this host"), "{error}");
    });
}

#[test]
fn a_host_without_ipv6_gets_an_ipv4_socket() {
    in_namespace_with_loopback(|| {
        std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
        story(None, "127.0.0.1", "127.0.0.1");
    });
}
