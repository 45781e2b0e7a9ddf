//! Broadcast and multicast over a mesh with cycles: once at everybody, and
//! never a storm.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::lab::probe::{Receivers, send_broadcasts, send_multicasts};
use crate::lab::{Container, Host, Lab, ensure, secs};

const HOSTS: usize = 8;
const PACE: Duration = Duration::from_millis(10);

#[test]
fn everybody_gets_each_frame_once() {
    let lab = Lab::new();
    let (_hosts, containers) = ring_with_chords(&lab);
    for sender in [0, 3] {
        let receivers = receivers(&containers, sender);
        let from = &containers[sender];
        send_broadcasts(&from.netns, from.v4, 0..50, PACE);
        send_multicasts(&from.netns, from.v4, 50..100, PACE);
        for (n, counts) in receivers
            .finish(Duration::from_millis(500))
            .iter()
            .enumerate()
        {
            let once = counts.len() == 100 && counts.values().all(|copies| *copies == 1);
            ensure(
                once,
                format_args!("from {sender}, receiver {n}: {}", odd(counts, 100)),
            );
        }
    }
}

#[test]
fn flapping_links_make_neither_duplicates_nor_a_storm() {
    let lab = Lab::new();
    let (hosts, containers) = ring_with_chords(&lab);
    let receivers = receivers(&containers, 0);
    let before = lab.underlay.delivered();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| flap(&lab, &hosts, &done));
        send_broadcasts(&containers[0].netns, containers[0].v4, 0..400, PACE);
        done.store(true, Ordering::Relaxed);
    });
    for (n, counts) in receivers.finish(secs(1)).iter().enumerate() {
        let copies = counts.values().max().copied().unwrap_or_default();
        ensure(
            copies == 1,
            format_args!("receiver {n}: {}", odd(counts, 400)),
        );
        ensure(
            counts.len() > 100,
            format_args!("receiver {n}: {}", odd(counts, 400)),
        );
    }
    // 400 frames over 12 links, and what 8 daemons say to each other in 5 s.
    let frames = lab.underlay.delivered().frames - before.frames;
    ensure(
        frames < 60_000,
        format_args!("{frames} frames on the underlay"),
    );
}

// Neighbours on the ring and opposite hosts reach each other, others do not.
fn ring_with_chords(lab: &Lab) -> (Vec<Host>, Vec<Container>) {
    let hosts: Vec<_> = (1..=HOSTS).map(|n| lab.host(&format!("h{n}"))).collect();
    for (i, a) in hosts.iter().enumerate() {
        for (j, b) in hosts.iter().enumerate().skip(i + 1) {
            if !matches!(j - i, 1 | 4 | 7) {
                lab.cut(a, b);
            }
        }
    }
    hosts[0].launch(&[]);
    let token = hosts[0].token();
    for pair in hosts.windows(2) {
        pair[1].join(&token, &[&pair[0]], &[]);
    }
    for host in &hosts {
        host.wait_peers(secs(30), HOSTS);
    }
    let containers = hosts.iter().map(Host::container).collect();
    // Lets links that discovery adds settle; a frame in between is not at fault.
    thread::sleep(secs(3));
    (hosts, containers)
}

fn receivers(containers: &[Container], sender: usize) -> Receivers {
    let others = containers.iter().enumerate().filter(|(n, _)| *n != sender);
    Receivers::start(others.map(|(_, container)| (&container.netns, container.v4)))
}

fn flap(lab: &Lab, hosts: &[Host], done: &AtomicBool) {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    while !done.load(Ordering::Relaxed) {
        let at = rng.random_range(0..HOSTS);
        let (a, b) = (&hosts[at], &hosts[(at + 1) % HOSTS]);
        lab.cut(a, b);
        thread::sleep(Duration::from_millis(rng.random_range(50..400)));
        lab.heal(a, b);
        thread::sleep(Duration::from_millis(50));
    }
}

fn odd(counts: &BTreeMap<u64, u64>, sent: u64) -> String {
    let missing: Vec<_> = (0..sent).filter(|n| !counts.contains_key(n)).collect();
    let repeated: Vec<_> = counts.iter().filter(|(_, copies)| **copies > 1).collect();
    format!("missing {missing:?}, repeated {repeated:?}")
}
