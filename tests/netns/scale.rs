//! Many daemons on one machine: what one of them costs when nothing happens.

use std::time::Instant;

use crate::lab::{Host, Lab, asked_for, ensure, secs};

/// Resident memory a daemon may have when it idles, in bytes.
const RESIDENT: u64 = 20 << 20;

/// `WOVE_PEERS=50 ... scale:: --nocapture` prints the figures.
#[test]
fn idle_daemons_are_small() {
    let peers = asked_for("WOVE_PEERS", 12);
    let lab = Lab::alone();
    let hosts: Vec<Host> = (0..peers).map(|n| lab.host(&format!("h{n}"))).collect();
    hosts[0].launch(&[]);
    let token = hosts[0].token();
    for host in &hosts[1..] {
        host.join(&token, &[&hosts[0]], &[]);
    }
    for host in &hosts {
        host.wait_peers(secs(120), peers);
    }
    std::thread::sleep(secs(20));
    let used = |host: &Host| host.daemon(|daemon| daemon.cpu_seconds());
    let (start, before): (_, Vec<f64>) = (Instant::now(), hosts.iter().map(used).collect());
    std::thread::sleep(secs(20));
    let took = start.elapsed().as_secs_f64();
    let mut shares: Vec<f64> = hosts
        .iter()
        .zip(before)
        .map(|(host, old)| (used(host) - old) / took)
        .collect();
    shares.sort_by(f64::total_cmp);
    let mut sizes: Vec<u64> = hosts
        .iter()
        .map(|host| host.daemon(|daemon| daemon.rss_bytes()))
        .collect();
    sizes.sort_unstable();
    println!(
        "{peers} idle peers: CPU median {:.2} %, most {:.2} %; resident median {} KiB, most {} KiB",
        shares[peers / 2] * 100.0,
        shares[peers - 1] * 100.0,
        sizes[peers / 2] / 1024,
        sizes[peers - 1] / 1024
    );
    ensure(sizes[peers - 1] <= RESIDENT, format_args!("{sizes:?}"));
}
