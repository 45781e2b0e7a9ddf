//! A status to show in tests, and a backend that answers with it.

use proto::{MacAddr, PeerId};
use tokio::sync::mpsc;

use crate::{
    engine::{
        Reply, Status,
        status::{
            ConnectionState, ConnectionStatus, CounterStatus, DnsCounters, DnsStatus, IpamStatus,
            KernelTraffic, NameStatus, OwnerStatus, PathKind, PeerStatus, RouterStatus,
            StationStatus, TargetState, TargetStatus,
        },
    },
    shell::api::Request,
};

pub(crate) const ALPHA: PeerId = PeerId([1; 16]);
pub(crate) const BETA: PeerId = PeerId([2; 16]);

/// Answers every command with this status.
pub(crate) async fn answer_status(mut queue: mpsc::Receiver<Request>, status: Status) {
    while let Some(request) = queue.recv().await {
        let _ = request
            .reply
            .send(Ok(Reply::Status(Box::new(status.clone()))));
    }
}

/// Alpha, linked to beta, with a second target that does not answer.
pub(crate) fn status() -> Status {
    let target = |address: &str, state, reason: &str, retry_in_s| TargetStatus {
        address: address.into(),
        state,
        reason: reason.into(),
        retry_in_s,
    };
    Status {
        version: "0.1.0".into(),
        router: RouterStatus {
            peer: ALPHA,
            nickname: "alpha".into(),
            port: 6783,
            encryption: true,
            uptime_s: 3700.5,
            ready: true,
            mtu: 1400,
            bridge: "wove".into(),
        },
        connections: vec![established(), retrying()],
        targets: vec![
            target("10.0.0.2:6783", TargetState::Connected, "", 0.0),
            target("10.0.0.3:6783", TargetState::Waiting, "no answer", 3.2),
        ],
        peers: vec![peer(ALPHA, "alpha", 0, BETA), peer(BETA, "beta", 1, ALPHA)],
        stations: vec![StationStatus {
            mac: MacAddr([2, 0, 0, 0, 0, 5]),
            peer: BETA,
            ips: vec![[10, 32, 0, 5].into(), [0xfd00, 0, 0, 0, 0, 0, 0, 5].into()],
        }],
        ipam: None,
        warnings: vec!["nickname alpha: used twice; rename one".into()],
        counters: CounterStatus {
            drops: [("replay".to_owned(), 7), ("no-route".to_owned(), 0)].into(),
            control_rx_bytes: 10,
            control_tx_bytes: 20,
            sessions: 1,
            handshakes: 4,
            records: 6,
            resident_bytes: 8 << 20,
        },
        dns: DnsStatus {
            enabled: true,
            domain: "wove.local".into(),
            listen: None,
            inside: 1,
            upstream: vec!["192.0.2.53:53".parse().unwrap()],
            names: vec![NameStatus {
                name: "web.wove.local".into(),
                address: [10, 32, 0, 5].into(),
                peer: BETA,
            }],
            counters: DnsCounters {
                answered: 3,
                unknown: 1,
                ..DnsCounters::default()
            },
        },
    }
}

fn peer(id: PeerId, nickname: &str, hops: u32, link: PeerId) -> PeerStatus {
    PeerStatus {
        peer: id,
        nickname: nickname.into(),
        reachable: true,
        hops,
        next_hop: id,
        links: vec![link],
        version: "0.1.0".into(),
    }
}

/// An address space in which something is not as it should be.
pub(super) fn ipam() -> IpamStatus {
    let conflict = "gamma: allocates from 10.50.0.0/16, another range: launch all alike";
    IpamStatus {
        state: "ready".into(),
        range: "10.32.0.0/12".into(),
        range6: Some("fd00:1::/64".into()),
        ring: Some("5f".into()),
        total: 1 << 20,
        used: 2,
        waiting: 0,
        unknown: 0,
        claims: vec![[10, 33, 0, 1].into(), [0xfd00, 1, 0, 0, 0, 0, 1, 1].into()],
        conflicts: vec![conflict.into()],
        guards: vec!["0202020202020202".into()],
        owners: vec![OwnerStatus {
            peer: "0202020202020202".into(),
            nickname: "beta".into(),
            owned: 1 << 19,
            held: 1 << 16,
            reachable: true,
            local: false,
        }],
    }
}

fn established() -> ConnectionStatus {
    ConnectionStatus {
        peer: BETA,
        nickname: "beta".into(),
        address: "10.0.0.2:6783".into(),
        outbound: true,
        state: ConnectionState::Established,
        path: PathKind::Sleeve,
        reason: "kernel has no ESP".into(),
        cipher: "AES-256-GCM".into(),
        mtu: 1400,
        rtt_us: 210,
        rx_bytes: 1536,
        tx_bytes: 3 << 20,
        rx_frames: 15,
        tx_frames: 3000,
        fastdp: KernelTraffic::default(),
        key_age_s: 12,
        link: true,
    }
}

fn retrying() -> ConnectionStatus {
    ConnectionStatus {
        peer: PeerId::default(),
        nickname: String::new(),
        address: "10.0.0.3:6783".into(),
        state: ConnectionState::Retrying,
        reason: "no answer".into(),
        cipher: "none".into(),
        mtu: 0,
        rtt_us: 0,
        rx_bytes: 0,
        tx_bytes: 0,
        rx_frames: 0,
        tx_frames: 0,
        fastdp: KernelTraffic::default(),
        key_age_s: 0,
        link: false,
        ..established()
    }
}
