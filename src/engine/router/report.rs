//! What an operator sees of the router.

use std::time::Instant;

use proto::{Endpoint, PeerId, datagram::Protection};

use super::{
    super::{
        handshakes::Purpose,
        peers::{Held, Peer},
        status::{
            ConnectionState, ConnectionStatus, CounterStatus, DnsStatus, KernelTraffic, NameStatus,
            PathKind, PeerStatus, RouterStatus, StationStatus, Status, TargetState, TargetStatus,
        },
    },
    Router,
};

impl Router {
    /// The whole state.
    pub fn status(&self, now: Instant) -> Status {
        Status {
            version: self.config.version.clone(),
            router: RouterStatus {
                peer: self.local,
                nickname: self.config.nickname.clone(),
                port: self.config.port,
                encryption: self.config.encrypt,
                uptime_s: now.duration_since(self.launched).as_secs_f64(),
                ready: true,
                mtu: self.config.mtu,
                bridge: self.config.bridge.clone(),
            },
            connections: self.connections(now),
            targets: self.target_status(now),
            peers: self.peer_status(),
            stations: self.station_status(),
            ipam: self.ipam_status(),
            warnings: self.warnings.current(now).map(str::to_owned).collect(),
            counters: self.counters(),
            dns: DnsStatus {
                names: self.name_status(),
                ..DnsStatus::default()
            },
        }
    }

    fn counters(&self) -> CounterStatus {
        CounterStatus {
            drops: self.snapshot.shared.counters.snapshot(),
            control_rx_bytes: self.control_rx,
            control_tx_bytes: self.control_tx,
            sessions: self.peers.values().map(|p| p.sessions.len() as u64).sum(),
            handshakes: self.handshakes_done,
            records: self.mesh.record_count() as u64,
            resident_bytes: 0,
        }
    }

    fn connections(&self, now: Instant) -> Vec<ConnectionStatus> {
        let with_session = self
            .peers
            .iter()
            .map(|(id, peer)| self.connection(*id, peer, now));
        let trying = self
            .target_status(now)
            .into_iter()
            .filter(|t| t.state != TargetState::Connected);
        let trying = trying.map(|target| ConnectionStatus {
            peer: PeerId::default(),
            nickname: String::new(),
            address: target.address,
            outbound: true,
            state: match target.state {
                TargetState::Connected => ConnectionState::Established,
                TargetState::Connecting => ConnectionState::Connecting,
                TargetState::Waiting => ConnectionState::Retrying,
                TargetState::Failed => ConnectionState::Failed,
            },
            path: PathKind::Sleeve,
            reason: target.reason,
            cipher: "none".to_owned(),
            mtu: 0,
            rtt_us: 0,
            rx_bytes: 0,
            tx_bytes: 0,
            rx_frames: 0,
            tx_frames: 0,
            fastdp: KernelTraffic::default(),
            key_age_s: 0,
            link: false,
        });
        with_session.chain(trying).collect()
    }

    fn connection(&self, id: PeerId, peer: &Peer, now: Instant) -> ConnectionStatus {
        let held = peer.sending();
        let direct = peer.direct.as_ref();
        let direct = direct.filter(|_| !self.is_bypassed(id, peer));
        let (path, address, mtu) = match (direct, self.mesh.routes().next_hop(&id)) {
            (Some(direct), _) => {
                let kind = match direct.address {
                    Endpoint::Tcp(_) => PathKind::Tcp,
                    Endpoint::Udp(_) if peer.fast.is_up() => PathKind::Fastdp,
                    Endpoint::Udp(_) => PathKind::Sleeve,
                };
                let mtu = direct.pmtu.datagram() + direct.address.headers();
                (kind, direct.address.to_string(), mtu)
            }
            (_, Some(hop)) => (PathKind::Relay, hop.next.to_string(), 0),
            (None, None) => (PathKind::Relay, String::new(), 0),
        };
        let state = self.connection_state(id, peer);
        let (totals, kernel) = (peer.counters.totals(), peer.counters.kernel());
        let rtt = peer.direct.as_ref().map_or(0, |d| d.rtt.as_micros());
        ConnectionStatus {
            peer: id,
            nickname: self.nickname(id),
            address,
            outbound: peer.direct.as_ref().is_none_or(|d| d.outbound),
            state,
            path,
            reason: self.reason(peer, path, state),
            cipher: match (held, path) {
                (Some(_), PathKind::Fastdp) => self.fast_cipher(peer).to_owned(),
                (Some(held), _) => cipher_name(held),
                (None, _) => "none".to_owned(),
            },
            mtu: u32::try_from(mtu).unwrap_or(u32::MAX),
            rtt_us: u64::try_from(rtt).unwrap_or(u64::MAX),
            rx_bytes: totals.rx_bytes,
            tx_bytes: totals.tx_bytes,
            rx_frames: totals.rx_frames,
            tx_frames: totals.tx_frames,
            fastdp: KernelTraffic {
                rx_bytes: kernel.rx_bytes,
                tx_bytes: kernel.tx_bytes,
                rx_frames: kernel.rx_frames,
                tx_frames: kernel.tx_frames,
            },
            key_age_s: held.map_or(0, |h| now.duration_since(h.since).as_secs()),
            link: peer.link,
        }
    }

    fn connection_state(&self, id: PeerId, peer: &Peer) -> ConnectionState {
        let routed = peer.direct.is_some() || self.mesh.routes().next_hop(&id).is_some();
        match (peer.sending(), routed) {
            (Some(_), true) => ConnectionState::Established,
            (Some(_), false) => ConnectionState::Retrying,
            (None, _) if self.handshakes.is_under_way(Purpose::Session(id)) => {
                ConnectionState::Connecting
            }
            (None, _) => ConnectionState::Pending,
        }
    }

    fn reason(&self, peer: &Peer, path: PathKind, state: ConnectionState) -> String {
        match (state, path) {
            (ConnectionState::Established, PathKind::Fastdp | PathKind::Sleeve) => {
                self.fast_reason(peer).unwrap_or_default()
            }
            (ConnectionState::Established, PathKind::Tcp) => {
                "UDP does not pass: frames go by TCP, and UDP is tried all the time".to_owned()
            }
            (ConnectionState::Established, PathKind::Relay) => {
                "no direct path answers: frames are relayed".to_owned()
            }
            (ConnectionState::Retrying, _) => "no path: the peer is silent".to_owned(),
            (ConnectionState::Connecting, _) => "handshake under way".to_owned(),
            (ConnectionState::Pending, _) => "waiting for the handshake to be confirmed".to_owned(),
            (ConnectionState::Failed, _) => String::new(),
        }
    }

    fn target_status(&self, now: Instant) -> Vec<TargetStatus> {
        let left = |at: Instant| at.saturating_duration_since(now).as_secs_f64();
        let describe = |state: &gossip::TargetState| match state {
            gossip::TargetState::Waiting { retry_at, reason } => (
                TargetState::Waiting,
                reason.clone().unwrap_or_default(),
                left(*retry_at),
            ),
            gossip::TargetState::Connecting { .. } => (TargetState::Connecting, String::new(), 0.0),
            gossip::TargetState::Connected { .. } => (TargetState::Connected, String::new(), 0.0),
            gossip::TargetState::Failed { retry_at, reason } => {
                (TargetState::Failed, reason.clone(), left(*retry_at))
            }
            gossip::TargetState::Ourselves { .. } => (
                TargetState::Connected,
                "this address is this peer's own".to_owned(),
                0.0,
            ),
        };
        let targets = self.mesh.targets().map(|(target, state)| {
            let (state, reason, retry_in_s) = describe(state);
            TargetStatus {
                address: target.to_string(),
                state,
                reason,
                retry_in_s,
            }
        });
        targets.collect()
    }

    fn peer_status(&self) -> Vec<PeerStatus> {
        let peers = self.mesh.peers().map(|view| PeerStatus {
            peer: view.id,
            nickname: view.node.nickname.clone(),
            reachable: view.reachable,
            hops: view.hop.map_or(0, |h| u32::from(h.hops)),
            next_hop: view.hop.map_or(
                if view.reachable {
                    view.id
                } else {
                    PeerId::default()
                },
                |h| h.next,
            ),
            links: view.links,
            version: view.node.version.clone(),
        });
        peers.collect()
    }

    fn station_status(&self) -> Vec<StationStatus> {
        let stations = self.mesh.stations().iter();
        stations
            .map(|(mac, peer, ips)| StationStatus { mac, peer, ips })
            .collect()
    }

    /// Without the domain, which the shell knows.
    fn name_status(&self) -> Vec<NameStatus> {
        let names = self.mesh.directory().iter();
        names
            .map(|(name, address, peer)| NameStatus {
                name: name.to_owned(),
                address,
                peer,
            })
            .collect()
    }

    /// What gossip counts, for the report.
    pub fn gossip_counters(&self) -> &gossip::Counters {
        self.mesh.counters()
    }

    /// The targets, as they are to be kept.
    pub fn targets(&self) -> Vec<String> {
        self.mesh
            .targets()
            .map(|(target, _)| target.to_string())
            .collect()
    }
}

fn cipher_name(held: &Held) -> String {
    match held.protection {
        Protection::Sealed => held.cipher.to_string(),
        Protection::Clear => "none".to_owned(),
    }
}
