//! One host: the peer on it, if it runs, and its containers.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use crypto::{Identity, Secret, rekey::REKEY_AFTER_TIME};
use gossip::Target;
use ipnet::IpNet;
use proto::PeerId;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use wove::engine::{
    CAPABILITIES, Egress, Event, FastSetup, Ingress, Router, RouterConfig, Snapshot,
};

use super::{frames::Container, kernel::Kernel};

/// The UDP port of every peer.
pub const PORT: u16 = 6783;

/// One host.
pub struct Node {
    pub number: usize,
    pub identity: [u8; Identity::LEN],
    pub nickname: String,
    /// Where its datagrams seem to come from.
    pub address: SocketAddr,
    pub secrets: Vec<Secret>,
    pub targets: Vec<usize>,
    pub containers: Vec<Container>,
    /// Largest UDP payload its own network device takes.
    pub datagram_limit: usize,
    pub encrypt: bool,
    /// Age at which it replaces keys.
    pub rekey_after: Duration,
    /// Whether its kernel has a fast path, and ESP for it.
    pub fastdp: bool,
    pub esp: bool,
    pub kernel: Kernel,
    /// What its version understands.
    pub capabilities: u64,
    /// Where its operator lets frames travel in clear.
    pub trusted: Vec<IpNet>,
    pub mesh: gossip::Config,
    /// The launch that runs or ran last.
    pub epoch: u64,
    /// Tells launches apart even when an epoch comes twice.
    pub life: u64,
    pub running: Option<Running>,
    pub warnings: Vec<String>,
    /// Links that came up and went down, with the reason.
    pub links: Vec<(Instant, PeerId, Option<String>)>,
    /// Frames without a mark that came to the containers: answers, mostly.
    pub other_frames: Vec<Vec<u8>>,
    /// When the timer that is set goes off.
    pub timer: Option<Instant>,
}

/// A peer that runs: the parts that a daemon puts on threads of their own.
pub struct Running {
    pub router: Router,
    pub egress: Egress,
    pub ingress: Ingress,
    /// The view that the data path reads.
    pub snapshot: Arc<Snapshot>,
}

impl Node {
    pub fn new(number: usize, identity: [u8; Identity::LEN], secrets: Vec<Secret>) -> Self {
        Self {
            number,
            identity,
            nickname: format!("host{number}"),
            address: address(number, 0),
            secrets,
            targets: Vec::new(),
            containers: vec![container(number, 0)],
            datagram_limit: 1472,
            encrypt: true,
            rekey_after: REKEY_AFTER_TIME,
            fastdp: false,
            esp: false,
            kernel: Kernel::default(),
            capabilities: CAPABILITIES,
            trusted: Vec::new(),
            mesh: gossip::Config::default(),
            epoch: 0,
            life: 0,
            running: None,
            warnings: Vec::new(),
            links: Vec::new(),
            other_frames: Vec::new(),
            timer: None,
        }
    }

    /// The id that follows from the identity.
    pub fn id(&self) -> PeerId {
        Identity::from_bytes(&self.identity).id()
    }

    /// Launches the peer; it takes the epoch from the field.
    pub fn launch(&mut self, seed: u64, now: Instant) {
        let config = RouterConfig {
            nickname: self.nickname.clone(),
            port: PORT,
            encrypt: self.encrypt,
            rekey_after: self.rekey_after,
            epoch: self.epoch,
            datagram_limit: self.datagram_limit,
            mtu: 1400,
            bridge: "wove".to_owned(),
            mesh: self.mesh.clone(),
            space: None,
            seed: ChaCha8Rng::seed_from_u64(seed).random(),
            version: "test".to_owned(),
            capabilities: self.capabilities,
        };
        let identity = Identity::from_bytes(&self.identity);
        let router = Router::new(config, identity, self.secrets.clone(), now);
        let (snapshot, egress, ingress) = (router.snapshot(), Egress::new(), Ingress::new());
        self.life += 1;
        self.kernel.clear();
        self.timer = None;
        self.running = Some(Running {
            router,
            egress,
            ingress,
            snapshot,
        });
    }

    /// What the shell does once everything stands.
    pub fn begin(&self, router: &mut Router, now: Instant) {
        if self.fastdp {
            let setup = FastSetup {
                state: Ok(()),
                esp: if self.esp {
                    Ok(())
                } else {
                    Err("kernel has no ESP".to_owned())
                },
                trusted: self.trusted.clone(),
                ..FastSetup::default()
            };
            router.set_fastdp(setup, now);
        }
        for container in &self.containers {
            router.attach_station(container.mac, &container.ips(), now);
        }
        router.set_endpoints(vec![self.address], now);
        let targets: Vec<Target> = self.targets.iter().filter_map(|n| target(*n)).collect();
        router.connect(&targets, true, now);
    }

    /// Keeps what the router tells people; names are left to the caller.
    pub fn note(&mut self, event: Event, now: Instant) {
        match event {
            Event::Warning(text) => self.warnings.push(text),
            Event::Link {
                peer, up, reason, ..
            } => self.links.push((now, peer, (!up).then_some(reason))),
            Event::Resolve { .. }
            | Event::TargetsChanged
            | Event::HangUp(_)
            | Event::Address { .. } => {}
        }
    }
}

impl Container {
    /// Its addresses.
    pub fn ips(&self) -> [std::net::IpAddr; 2] {
        [self.ipv4.into(), self.ipv6.into()]
    }
}

/// The `k`th container that started on a host.
pub fn container(host: usize, k: usize) -> Container {
    Container::new(u16::try_from(host * 16 + k + 1).unwrap_or(u16::MAX))
}

/// The address of a host after it moved `moves` times.
pub fn address(host: usize, moves: u8) -> SocketAddr {
    let low = u8::try_from(host % 250).unwrap_or(0);
    let high = u8::try_from(host / 250).unwrap_or(0);
    SocketAddr::from(([192, moves, high, low + 1], PORT))
}

/// The name of a host, as a target.
pub fn target(host: usize) -> Option<Target> {
    Target::parse(&format!("host{host}"), PORT).ok()
}

/// The host whose name a target is.
pub fn host_of(target: &Target) -> Option<usize> {
    let name = target.as_str().strip_suffix(":6783")?;
    name.strip_prefix("host")?.parse().ok()
}
