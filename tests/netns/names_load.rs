//! How many queries the resolver answers while the mesh is busy. It measures and
//! prints; what is asserted is that every query was answered.

use std::fs;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType::A;

use crate::lab::probe::{Ask, INSIDE, Transfer, resolve};
use crate::lab::{Container, Lab, Netns, asked_for, eventually, secs};

/// Queries that are under way at once.
const WINDOW: usize = 16;
/// Queries a second that are asked for first.
const RATE: u32 = 20_000;

/// What `count` queries from inside a container took, each: as many at a time as
/// [`WINDOW`] says, at `rate` a second, or at 0 as fast as they are answered.
fn query_many(netns: &Netns, name: &str, count: usize, rate: u32) -> Vec<Duration> {
    let query = Ask::plain(name, A).message();
    let socket = netns
        .run(|| UdpSocket::bind("127.0.0.1:0"))
        .expect("a port is free");
    socket.connect(INSIDE).expect("the same namespace");
    socket
        .set_read_timeout(Some(secs(2)))
        .expect("a socket has that");
    let mut sent = vec![None; WINDOW];
    let mut times = Vec::with_capacity(count);
    let mut buffer = [0; 1500];
    let started = Instant::now();
    for round in 0..count.div_ceil(WINDOW) as u32 {
        if rate > 0 {
            let due = started + Duration::from_secs(1) * WINDOW as u32 * round / rate;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        for (number, sent) in (0_u16..).zip(&mut sent) {
            let query = [&number.to_be_bytes(), &query[2..]].concat();
            *sent = Some(Instant::now());
            socket.send(&query).expect("the resolver is there");
        }
        for _ in 0..WINDOW {
            let length = socket.recv(&mut buffer).expect("every query is answered");
            assert!(length > 12 && buffer[3] & 0x0f == 0 && buffer[7] > 0);
            let number = usize::from(u16::from_be_bytes([buffer[0], buffer[1]]));
            let begun = sent[number].take().expect("it was asked once");
            times.push(begun.elapsed());
        }
    }
    times
}

/// Processor time of the thread of that name of a process, in seconds.
fn thread_seconds(pid: u32, name: &str) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the daemon runs");
    let mut found = None;
    for task in tasks.flatten() {
        let comm = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        if comm.trim() == name {
            let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            let nanos = text
                .split_whitespace()
                .next()
                .and_then(|n| n.parse::<f64>().ok());
            found = nanos.map(|nanos| nanos / 1e9);
        }
    }
    found.expect("the thread is there")
}

#[test]
fn queries_are_answered_while_the_mesh_is_busy() {
    let count: usize = asked_for("WOVE_QUERIES", 20_000);
    let lab = Lab::alone();
    let (a, b) = (lab.host("a"), lab.host("b"));
    a.launch(&[]);
    b.join(&a.token(), &[&a], &[]);
    let (ca, cb) = (Container::new(1), Container::new(2));
    for (host, container, name) in [(&a, &ca, "here"), (&b, &cb, "there")] {
        let (v4, v6) = container.cidrs();
        host.ok(&[
            "attach",
            "--netns",
            &container.path(),
            &v4,
            &v6,
            "--dns",
            "--name",
            name,
        ]);
    }
    eventually(secs(15), "the name is known", || {
        resolve(&ca.netns, "there.wove.local.", A)
    });
    let pid = a.daemon(|daemon| daemon.id());
    for rate in [RATE, 0] {
        let traffic = Transfer::start(&cb.netns, &ca.netns, ca.v4, 64 << 20, b"busy");
        let traffic = traffic.expect("the containers reach each other");
        let (before, started) = (thread_seconds(pid, "wove-dns"), Instant::now());
        let mut times = query_many(&ca.netns, "there.wove.local.", count, rate);
        let (took, used) = (started.elapsed(), thread_seconds(pid, "wove-dns") - before);
        traffic.finish().expect("the transfer is whole");
        times.sort_unstable();
        let percentile = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        let pace = if rate > 0 {
            format!("{rate} a second")
        } else {
            "no pause".into()
        };
        println!(
            "{} queries, {pace}: {:.0} a second; p50 {:.2?}, p99 {:.2?}; {:.0} per second of the resolver's processor time",
            times.len(),
            times.len() as f64 / took.as_secs_f64(),
            percentile(0.5),
            percentile(0.99),
            times.len() as f64 / used,
        );
    }
}
