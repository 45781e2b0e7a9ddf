//! The daemon: it builds everything at launch, then runs one loop that feeds
//! the router and carries out what it says.
//!
//! ```text
//!  data threads ──upcalls──▶ ┌────────┐ ──snapshot──▶ data threads
//!  clients ──commands──────▶ │ Router │ ──datagrams─▶ UDP
//!  timers, names, kernel ──▶ └────────┘ ──events────▶ log, store, resolver
//! ```
#![expect(
    clippy::disallowed_methods,
    reason = "this is the shell: the clock is read here"
)]

mod care;
mod commands;
mod dress;
mod fast;
mod follow;
mod ipam;
mod keeper;
mod kept;
mod names;
mod network;
mod setup;
mod space;
mod turns;
mod work;

pub(super) use kept::restore_from;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot},
    time::sleep_until,
};

use super::{
    Config,
    api::{ControlSocket, Handle, Request},
    config,
    dataplane::{DataPlane, Upcalls},
    host::{self, Host, HostConfig, TunnelConfig, device_name},
    logging::{self, LogControl},
    store::Store,
    streams::Streams,
    tap::Tap,
    udp::{SendBatch, UdpSocket},
    web,
};
use crate::engine::{Attachment, Event, Origin, Router, Upcall};
use fast::Fast;
use keeper::{Document, Keeper};
use names::{Names, VIGIL};
use network::Network;
use proto::{Endpoint, MacAddr};
use work::Done;

/// Upcalls handled before anything else gets a turn.
const UPCALLS_AT_ONCE: usize = 64;
/// Threads for what may have to wait: clients, and the kernel where it sets up devices,
/// which holds up everybody as long as another program changes many of them.
const BESIDE: usize = 2;
/// How often the host is looked after without any news from the kernel.
const CARE: Duration = Duration::from_secs(1);
/// Bytes between the MTU of the underlay and that of the overlay: what VXLAN
/// inside ESP adds to a packet over IPv6. Sleeve adds 95.
const OVERHEAD: u32 = 104;
/// The smallest MTU that can carry IPv6 (RFC 8200).
const MIN_MTU: u32 = 1280;

/// Runs a peer until a signal or a client ends it.
///
/// # Errors
/// One line: what failed, why, and what to do.
pub fn run(config: Config) -> Result<()> {
    let log = logging::init(config.log_format, &config.log_filter)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.context("cannot start the control thread")?;
    let beside = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(BESIDE)
        .thread_name("wove-beside")
        .enable_all()
        .build();
    let beside = beside.context("cannot start the threads beside the control thread")?;
    let ended = runtime.block_on(async {
        let mut daemon = Daemon::launch(config, log, beside.handle().clone()).await?;
        match daemon.live().await {
            Ok(ending) => daemon.end(ending).await,
            Err(error) => {
                daemon.leave().await;
                Err(error)
            }
        }
    });
    // Dropped, it would wait for name servers and file systems that never answer.
    runtime.shutdown_timeout(Duration::from_secs(1));
    beside.shutdown_timeout(Duration::from_secs(1));
    ended
}

/// How the daemon ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Containers keep their interfaces.
    Stop,
    /// Everything wove made goes.
    Reset,
}

struct Daemon {
    config: Config,
    log: LogControl,
    /// Where work is done that may have to wait.
    beside: tokio::runtime::Handle,
    store: Arc<Store>,
    keeper: Keeper,
    network: Network,
    router: Router,
    host: Arc<Host>,
    host_config: HostConfig,
    bridge_mac: MacAddr,
    udp: Arc<UdpSocket>,
    streams: Arc<Streams>,
    hung_up: mpsc::Receiver<SocketAddr>,
    plane: DataPlane,
    fast: Fast,
    upcalls: Upcalls,
    attachments: Vec<Attachment>,
    names: Names,
    /// It is being looked which attached containers are gone.
    looking: bool,
    look_again: bool,
    /// Paths of attached namespaces that lead nowhere, and where nobody is any more.
    unfound: BTreeSet<String>,
    /// It is being looked where others live on.
    following: bool,
    requests: mpsc::Receiver<Request>,
    done: mpsc::Receiver<Done>,
    done_tx: mpsc::Sender<Done>,
    batch: SendBatch,
    endpoints: BTreeSet<IpAddr>,
    /// Tunnel and addresses are being looked at.
    surveying: bool,
    survey_again: bool,
    repairing: bool,
    /// Something changed while the host was put in order.
    repair_again: bool,
    damaged: bool,
    /// The data threads have ended and could not be started again.
    stalled: bool,
    waiting: ipam::Waiting,
    space: space::Waiting,
    turns: turns::Turns,
    ending: Option<(Ending, Option<oneshot::Sender<work::Answer>>)>,
    _servers: oneshot::Sender<()>,
}

impl Daemon {
    async fn launch(
        mut config: Config,
        log: LogControl,
        beside: tokio::runtime::Handle,
    ) -> Result<Self> {
        config.nickname = config.nickname.or_else(setup::host_name);
        let store = Arc::new(Store::open(&config.state_dir)?);
        let mut rng = ChaCha20Rng::from_os_rng();
        let identity = network::identity(&store, &mut rng)?;
        let network = Network::load(&store, &config.secrets, &mut rng)?;
        let space = setup::space_setup(&config, &store)?;
        let epoch = store.next_epoch()?;
        let keeper = Keeper::start(Arc::clone(&store)).context("cannot start a thread")?;
        let (handle, requests) = Handle::channel();
        let (socket, http) = (config.socket.clone(), config.http_addr);
        let servers = beside.spawn(serve(socket, http, handle));
        let servers = servers.await??;
        let udp = Arc::new(UdpSocket::bind(config.host, config.port)?);
        let (streams, hung_up) = Streams::start(config.host, config.port)?;
        let streams = Arc::new(streams);
        let host = {
            let _beside = beside.enter();
            Arc::new(Host::new()?)
        };
        let underlay = host.underlay_mtu().await?;
        let mtu = config
            .mtu
            .unwrap_or_else(|| underlay.saturating_sub(OVERHEAD).max(MIN_MTU));
        let host_config = HostConfig {
            bridge: config.bridge.clone(),
            tap: device_name(&config.bridge, "tap"),
            mtu,
        };
        let tap = Arc::new(Tap::open(&host_config.tap)?);
        let interfaces = host.set_up(host_config.clone()).await?;
        let mut router = Router::new(
            setup::router_config(&config, space, epoch, (underlay, mtu))?,
            identity,
            network.secrets().to_vec(),
            Instant::now(),
        );
        let snapshot = router
            .take_snapshot()
            .context("the router has no first snapshot")?;
        let names = Names::new(config.dns.clone(), &store, Arc::clone(&snapshot))?;
        let (plane, upcalls) = DataPlane::start(
            tap,
            Arc::clone(&udp),
            Arc::clone(&streams),
            snapshot,
            Arc::default(),
        )?;
        let (done_tx, done) = mpsc::channel(64);
        let tunnel = TunnelConfig::new(&config.bridge, mtu);
        let fast = Fast::new(tunnel, config.fastdp, Instant::now());
        Ok(Self {
            log,
            beside,
            store,
            keeper,
            network,
            router,
            host,
            host_config,
            bridge_mac: interfaces.mac,
            udp,
            streams,
            hung_up,
            plane,
            fast,
            upcalls,
            attachments: Vec::new(),
            names,
            looking: false,
            look_again: false,
            unfound: BTreeSet::new(),
            following: false,
            requests,
            done,
            done_tx,
            batch: SendBatch::new(),
            endpoints: BTreeSet::new(),
            surveying: false,
            survey_again: false,
            repairing: false,
            repair_again: false,
            damaged: false,
            stalled: false,
            waiting: ipam::Waiting::default(),
            space: space::Waiting::default(),
            turns: turns::Turns::default(),
            ending: None,
            _servers: servers,
            config,
        })
    }

    async fn live(&mut self) -> Result<Ending> {
        self.begin().await?;
        self.run().await
    }

    /// What follows once everything stands.
    async fn begin(&mut self) -> Result<()> {
        self.make_fast().await;
        self.look_for_overlaps().await;
        self.restore_attachments().await?;
        self.update_endpoints(self.host.local_addresses().await);
        self.restore_names().await;
        // Read in any case, so that a damaged file is said before it is replaced.
        let saved = self.store.targets()?;
        let peers = if self.config.resume {
            saved.unwrap_or_default()
        } else {
            self.config.peers.clone()
        };
        let (targets, _) = self.parse_targets(&peers);
        self.router.connect(&targets, true, Instant::now());
        self.drain();
        let peer = self.router.local();
        tracing::info!(
            peer = %peer.short(),
            nickname = %self.nickname(),
            port = self.config.port,
            mtu = self.host_config.mtu,
            bridge = self.config.bridge,
            encryption = self.config.encrypt,
            "wove {} is running",
            env!("CARGO_PKG_VERSION")
        );
        self.network.announce(self.join_host());
        if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
            tracing::debug!(%error, "systemd was not notified");
        }
        Ok(())
    }

    async fn run(&mut self) -> Result<Ending> {
        let mut signals = Signals::new()?;
        let changes = {
            let _beside = self.beside.enter();
            self.host.watch()?
        };
        let mut care = tokio::time::interval(CARE);
        let mut vigil = tokio::time::interval(VIGIL);
        vigil.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while self.ending.is_none() {
            let wake = self
                .router
                .poll_timeout()
                .map_or_else(|| Instant::now() + CARE, |(at, _)| at);
            tokio::select! {
                () = signals.recv() => return Ok(Ending::Stop),
                () = sleep_until(wake.into()) => {
                    self.count_fast();
                    self.router.handle_timeout(Instant::now());
                }
                Some(upcall) = self.upcalls.control.recv() => self.handle_control(upcall),
                Some(upcall) = self.upcalls.handshakes.recv() => self.router.handle_upcall(upcall, Instant::now()),
                Some((address, size)) = self.upcalls.too_large.recv() => {
                    self.router.handle_too_large(address, size, Instant::now());
                }
                Some(address) = self.hung_up.recv() => {
                    self.router.handle_hang_up(address, Instant::now());
                }
                Some(request) = self.requests.recv() => self.take_turn(request),
                Some(done) = self.done.recv() => self.handle_done(done),
                () = self.keeper.space_kept() => self.router.space_kept(Instant::now()),
                _ = changes.changed() => self.care_for_host(),
                _ = vigil.tick(), if self.names.has_doors() => self.keep_vigil(),
                _ = care.tick() => self.care().await,
            }
            self.drain();
            self.look_after_orders();
            self.look_after_space();
        }
        Ok(self
            .ending
            .as_ref()
            .map_or(Ending::Stop, |(ending, _)| *ending))
    }

    fn handle_control(&mut self, first: Upcall) {
        let now = Instant::now();
        self.handle_upcall(first, now);
        for _ in 1..UPCALLS_AT_ONCE {
            let Ok(upcall) = self.upcalls.control.try_recv() else {
                break;
            };
            self.handle_upcall(upcall, now);
        }
    }

    fn handle_upcall(&mut self, upcall: Upcall, now: Instant) {
        if let Upcall::Control {
            peer,
            origin: Origin::Direct(Endpoint::Tcp(address)),
            ..
        } = &upcall
        {
            self.streams.trust(*address, *peer);
        }
        self.router.handle_upcall(upcall, now);
    }

    /// Carries out what the router says; the snapshot first, so that no
    /// datagram leaves before its answer can be received, and no frame by a path
    /// whose keys and policies go.
    fn drain(&mut self) {
        loop {
            if let Some(snapshot) = self.router.take_snapshot() {
                self.names.publish(&snapshot);
                self.plane.publish(snapshot);
                self.apply_fast();
            }
            if !self.carry_out_esp() {
                break;
            }
        }
        self.save_space();
        while let Some(transmit) = self.router.poll_transmit() {
            match transmit.to {
                Endpoint::Udp(to) => self.batch.push(to, &transmit.datagram),
                Endpoint::Tcp(to) => {
                    self.streams.send(to, &transmit.datagram, transmit.connect);
                }
            }
        }
        if !self.batch.is_empty() {
            let outcome = self.udp.send(&self.batch);
            self.batch.clear();
            for (address, size) in outcome.too_large {
                self.router.handle_too_large(address, size, Instant::now());
            }
        }
        self.send_tunnelled();
        while let Some(event) = self.router.poll_event() {
            self.handle_event(event);
        }
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Resolve { dial, target } => self.resolve(dial, target),
            Event::HangUp(address) => self.streams.hang_up(address),
            Event::TargetsChanged => {
                let targets = self.router.targets();
                let write = move |store: &Store| Ok(store.save_targets(&targets)?);
                self.keeper.keep(Document::Targets, write, |_| {});
            }
            Event::Address { id, result } => self.take_address(id, result),
            Event::Warning(text) => tracing::warn!("{text}"),
            Event::Link {
                peer,
                nickname,
                up: true,
                ..
            } => {
                tracing::info!(peer = %peer.short(), nickname, "link up");
            }
            Event::Link {
                peer,
                nickname,
                up: false,
                reason,
            } => {
                tracing::info!(peer = %peer.short(), nickname, reason, "link down");
            }
        }
    }

    fn nickname(&self) -> &str {
        self.config.nickname.as_deref().unwrap_or_default()
    }

    /// Where another host may find this one: at the address towards most others, as there
    /// are some that lead to containers only.
    fn join_host(&self) -> String {
        let outward = host::outward()
            .into_iter()
            .find(|ip| self.endpoints.contains(ip));
        let port = self.config.port;
        match outward.or_else(|| self.endpoints.first().copied()) {
            Some(ip) if port == config::DEFAULT_PORT => ip.to_string(),
            Some(ip) => SocketAddr::new(ip, port).to_string(),
            None if port == config::DEFAULT_PORT => self.nickname().to_owned(),
            None => format!("{}:{port}", self.nickname()),
        }
    }

    /// Leaves the mesh, and nothing of the fast path behind: also after an error.
    async fn leave(&mut self) {
        self.router.shut_down(Instant::now());
        self.drain();
        self.remove_fast().await;
        self.plane.stop();
        if let Err(error) = self.keeper.end().await {
            tracing::error!("{error:#}");
        }
    }

    async fn end(mut self, ending: Ending) -> Result<()> {
        tracing::info!(?ending, "shutting down");
        let notified = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        if let Err(error) = notified {
            tracing::debug!(%error, "systemd was not notified");
        }
        let answer = self.ending.take().and_then(|(_, reply)| reply);
        self.leave().await;
        let result = match ending {
            Ending::Stop => Ok(()),
            Ending::Reset => {
                self.all_files().restore_all().await;
                self.host.tear_down(&self.config.bridge).await
            }
        };
        let result = match (ending, result) {
            (Ending::Reset, Ok(())) => match Arc::into_inner(self.store) {
                Some(store) => store.erase().map_err(anyhow::Error::from),
                None => Err(anyhow!(
                    "the state directory stays, for its disk does not answer: \
                     run `wove reset --force` when it does"
                )),
            },
            (_, result) => result,
        };
        if let Some(answer) = answer {
            let _ = answer.send(work::ended(&result));
            // The answer leaves before the process does.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        result
    }
}

/// Serves clients until the sender is dropped.
async fn serve(
    socket: PathBuf,
    http: Option<SocketAddr>,
    handle: Handle,
) -> Result<oneshot::Sender<()>> {
    let control = ControlSocket::bind(&socket).await?;
    let (stop, stopped) = oneshot::channel::<()>();
    let stopped = futures_util::FutureExt::shared(async move {
        let _ = stopped.await;
    });
    tokio::spawn(control.serve(handle.clone(), stopped.clone()));
    if let Some(address) = http {
        let listener = web::bind(address).await;
        let listener = listener.with_context(|| format!("cannot serve http on {address}"))?;
        tokio::spawn(web::serve(listener, handle, stopped));
    }
    Ok(stop)
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("cannot watch SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("cannot watch SIGINT")?,
        })
    }

    async fn recv(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
