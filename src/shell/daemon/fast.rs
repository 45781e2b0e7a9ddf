//! The fast path of this host: made at launch, put right, fed and read.
//!
//! ```text
//! Failed ──after a pause──▶ Making ──it stands──▶ Ready
//!    ▲                        │  ▲                  │
//!    └──── the kernel refuses ┘  └── it is damaged ─┘
//! ```
//!
//! It is made beside the loop, for the kernel may take seconds. What goes wrong
//! here is a reason in `status`, never the end of the daemon: sleeve carries
//! everything.

use std::{
    collections::BTreeSet,
    mem,
    net::IpAddr,
    panic::AssertUnwindSafe,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use futures_util::FutureExt;
use tokio::task::{self, block_in_place};

use super::{Daemon, work::Done};
use crate::{
    engine::{FastSetup, Router, Upcall, fastdp::Bar},
    shell::{
        esp::{self, Checked, KernelEsp},
        fastdp::FastDp,
        host::{Host, Tunnel, TunnelConfig},
        tunnel::TunnelSocket,
        xfrm,
    },
};

/// How often the kernel's counters are read while it is in use: a path that
/// carries frames is probed more often.
const COUNT: Duration = Duration::from_millis(100);
/// How often stations that only the kernel sees are reported; far less than
/// the time after which they would be forgotten.
const AWAKE: Duration = Duration::from_secs(30);
/// Pause before a fast path that could not be made is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// How often it is looked whether the kernel's ESP is as it should be.
const CHECK: Duration = Duration::from_secs(2);
/// How often it is tried anew whether there is ESP: somebody may have loaded a module.
const ESP_RETRY: Duration = Duration::from_secs(60);

/// The fast path, or why there is none.
pub(super) struct Fast {
    config: TunnelConfig,
    state: State,
    /// What makes it.
    making: Option<task::JoinHandle<()>>,
    /// Its encryption, or why there is none.
    esp: Result<Box<KernelEsp>, String>,
    /// Whether the kernel has ESP by now is being asked: it may look for modules
    /// to load, which takes seconds on a busy host, so nobody waits for it.
    esp_asked: Option<JoinHandle<Option<String>>>,
    esp_at: Instant,
    count_at: Instant,
    awake_at: Instant,
}

enum State {
    /// The operator does not want it.
    Off,
    /// It could not be made.
    Failed {
        why: String,
        retry_at: Instant,
    },
    /// It is being made.
    Making {
        /// Why there was none before, as it was told.
        told: String,
        /// What was wrong with the former one.
        fault: Option<String>,
        /// Something changed meanwhile: it is to be made once more.
        again: bool,
    },
    Ready(Box<Ready>),
}

struct Ready {
    kernel: FastDp,
    tunnel: Tunnel,
    socket: Arc<TunnelSocket>,
}

/// What it takes to make it.
struct Maker {
    host: Arc<Host>,
    config: TunnelConfig,
    bound: Option<IpAddr>,
    /// The programs of the former one.
    kernel: Option<FastDp>,
    /// Whether there is no encryption yet.
    clear: bool,
}

/// What came of it.
pub(super) struct Made {
    ready: Result<Ready>,
    /// The encryption, if it was tried.
    esp: Option<Result<Box<KernelEsp>, String>>,
}

impl Maker {
    async fn make(self) -> Made {
        let mut esp = None;
        // Whoever waits for it would wait for ever.
        let made = AssertUnwindSafe(self.try_make(&mut esp)).catch_unwind();
        let ready = made.await.unwrap_or_else(|_| {
            Err(anyhow!(
                "making it failed unexpectedly: please report what stands in the log before this"
            ))
        });
        Made { ready, esp }
    }

    async fn try_make(self, esp: &mut Option<Result<Box<KernelEsp>, String>>) -> Result<Ready> {
        let (host, config, bound) = (&self.host, &self.config, self.bound);
        let is_first = self.kernel.is_none();
        let mut kernel = match self.kernel {
            Some(kernel) => kernel,
            None => {
                let loaded = block_in_place(|| FastDp::load(bound));
                loaded.context("the kernel refuses BPF")?
            }
        };
        let made = host.make_tunnel(config).await;
        let tunnel = made.context("the kernel refuses VXLAN")?;
        if is_first && self.clear {
            let raised = block_in_place(|| KernelEsp::raise(config, bound));
            *esp = Some(raised.map(Box::new));
        }
        let attached = block_in_place(|| kernel.attach(config, tunnel));
        attached.context("the kernel refuses BPF")?;
        host.raise_tunnel(config).await?;
        let socket = block_in_place(|| TunnelSocket::open(tunnel.device));
        let socket = socket.context("no packet socket: wove needs CAP_NET_RAW")?;
        Ok(Ready {
            kernel,
            tunnel,
            socket: Arc::new(socket),
        })
    }
}

impl Fast {
    /// Not made yet.
    pub(super) fn new(config: TunnelConfig, wanted: bool, now: Instant) -> Self {
        let state = if wanted {
            State::Failed {
                why: "the kernel fast path is being set up".to_owned(),
                retry_at: now,
            }
        } else {
            State::Off
        };
        Self {
            config,
            state,
            making: None,
            esp: Err("kernel's ESP is not set up".to_owned()),
            esp_asked: None,
            esp_at: now,
            count_at: now,
            awake_at: now + AWAKE,
        }
    }
}

impl Daemon {
    /// Makes the fast path, or finds out why not, and tells the router.
    pub(super) async fn make_fast(&mut self) {
        if matches!(self.fast.state, State::Off) {
            // One that an earlier launch left, with the option the other way.
            self.remove_fast().await;
            return self.tell_fast();
        }
        let Some(maker) = self.begin_fast(None) else {
            return;
        };
        let made = self.beside.spawn(maker.make()).await;
        self.handle_made(made.unwrap_or_else(|error| Made {
            ready: Err(error.into()),
            esp: None,
        }));
    }

    /// Makes it anew beside the loop, for this fault of the former one if there was one.
    pub(super) fn remake_fast(&mut self, fault: Option<String>) {
        let Some(maker) = self.begin_fast(fault) else {
            return;
        };
        let done = self.done_tx.clone();
        self.fast.making = Some(self.beside.spawn(async move {
            let made = maker.make().await;
            let _ = done.send(Done::Fast(Box::new(made))).await;
        }));
    }

    /// From now on it is being made. None if it is not wanted, or is being made already.
    fn begin_fast(&mut self, fault: Option<String>) -> Option<Maker> {
        let (kernel, told) = match mem::replace(&mut self.fast.state, State::Off) {
            State::Off => return None,
            State::Making { told, fault, .. } => {
                self.fast.state = State::Making {
                    told,
                    fault,
                    again: true,
                };
                return None;
            }
            State::Failed { why, .. } => (None, why),
            State::Ready(mut ready) => {
                // Frames would go nowhere while there is no device.
                ready.kernel.hold(true);
                (Some(ready.kernel), String::new())
            }
        };
        self.fast.state = State::Making {
            told,
            fault,
            again: false,
        };
        Some(Maker {
            host: Arc::clone(&self.host),
            config: self.fast.config.clone(),
            bound: self.config.host,
            kernel,
            clear: self.fast.esp.is_err(),
        })
    }

    /// It stands, or cannot be made.
    pub(super) fn handle_made(&mut self, made: Made) {
        let State::Making { told, fault, again } = &mut self.fast.state else {
            return;
        };
        let (told, fault, again) = (mem::take(told), fault.take(), *again);
        let now = Instant::now();
        if let Some(esp) = made.esp {
            (self.fast.esp, self.fast.esp_at) = (esp, now + CHECK);
        }
        self.fast.state = match made.ready {
            Ok(mut ready) => {
                ready.kernel.hold(false);
                self.plane.listen_to(Some(Arc::clone(&ready.socket)));
                if let Some(what) = fault {
                    tracing::warn!("repaired: {what}: made again");
                }
                State::Ready(Box::new(ready))
            }
            Err(error) => {
                self.plane.listen_to(None);
                let why = format!("{error:#}").replace('\n', " ");
                if why != told {
                    tracing::warn!("no kernel fast path, frames go by sleeve: {why}");
                }
                State::Failed {
                    why,
                    retry_at: now + RETRY,
                }
            }
        };
        self.apply_fast();
        self.tell_fast();
        if again {
            self.remake_fast(None);
        } else {
            // What became of it meanwhile was not looked at.
            self.survey();
        }
    }

    fn tell_fast(&mut self) {
        let state = match &self.fast.state {
            State::Ready(_) => Ok(()),
            State::Off => Err(Bar::Host {
                why: "--no-fastdp given".to_owned(),
                disabled: true,
            }),
            State::Failed { why, .. } | State::Making { told: why, .. } => Err(Bar::Host {
                why: why.clone(),
                disabled: false,
            }),
        };
        let setup = FastSetup {
            state,
            esp: self.fast.esp.as_ref().map(|_| ()).map_err(Clone::clone),
            port: self.fast.config.port,
            trusted: self.config.trusted_subnets.clone(),
        };
        self.router.set_fastdp(setup, Instant::now());
    }

    /// The tunnel that is to be there, and how.
    pub(super) fn tunnel(&self) -> Option<(TunnelConfig, Tunnel)> {
        match &self.fast.state {
            State::Ready(ready) => Some((self.fast.config.clone(), ready.tunnel)),
            State::Failed { .. } | State::Making { .. } | State::Off => None,
        }
    }

    /// It was looked whether everything of a tunnel is still there.
    pub(super) fn handle_fault(&mut self, tunnel: Tunnel, fault: Result<Option<String>>) {
        match fault {
            Ok(None) => {}
            // Another was made meanwhile.
            Ok(Some(_)) if self.tunnel().is_none_or(|(_, known)| known != tunnel) => {}
            Ok(Some(what)) => self.remake_fast(Some(what)),
            Err(error) => tracing::debug!("the fast path cannot be looked at: {error:#}"),
        }
    }

    /// What has to be done now and then.
    pub(super) fn care_for_fast(&mut self) {
        let now = Instant::now();
        match &self.fast.state {
            State::Failed { retry_at, .. } if now >= *retry_at => self.remake_fast(None),
            State::Failed { .. } | State::Making { .. } | State::Off => {}
            State::Ready(_) => {
                self.report_awake(now);
                self.care_for_esp(now);
            }
        }
    }

    /// Sees that keys, policies and table are there, or whether there is ESP by now.
    fn care_for_esp(&mut self, now: Instant) {
        if now < self.fast.esp_at {
            return;
        }
        let Ok(kernel) = &mut self.fast.esp else {
            return self.retry_esp(now);
        };
        self.fast.esp_at = now + CHECK;
        let Checked { repairs, outcomes } = match kernel.check() {
            Ok(checked) => checked,
            Err(error) => return tracing::warn!("the fast path's ESP is damaged: {error:#}"),
        };
        for what in repairs {
            tracing::warn!("repaired: {what}: made again");
        }
        for (index, outcome) in outcomes {
            self.router.handle_esp(index, outcome, now);
        }
    }

    /// Asks now and then whether there is ESP, and sets it up if there is.
    fn retry_esp(&mut self, now: Instant) {
        let Some(asked) = self.fast.esp_asked.take_if(|asked| asked.is_finished()) else {
            if self.fast.esp_asked.is_none() {
                // Where the host has no thread left, it is asked later.
                self.fast.esp_asked = thread::Builder::new().spawn(xfrm::fault).ok();
            }
            return;
        };
        self.fast.esp_at = now + ESP_RETRY;
        // The fault is known already, and that nothing was left is, too.
        if !matches!(asked.join(), Ok(None)) {
            return;
        }
        self.fast.esp = KernelEsp::raise(&self.fast.config, self.config.host).map(Box::new);
        if self.fast.esp.is_ok() {
            self.apply_fast();
            self.tell_fast();
        }
    }

    /// Carries out what the router orders of the kernel's ESP. Says whether
    /// there was anything: then the router may have more to say.
    pub(super) fn carry_out_esp(&mut self) -> bool {
        let mut any = false;
        while let Some(order) = self.router.poll_esp() {
            any = true;
            let Ok(kernel) = &mut self.fast.esp else {
                continue;
            };
            if let Some(outcome) = kernel.carry_out(&order) {
                self.router.handle_esp(order.index, outcome, Instant::now());
            }
        }
        any
    }

    /// Stations whose frames all go through the kernel are seen by nobody else.
    fn report_awake(&mut self, now: Instant) {
        let State::Ready(ready) = &mut self.fast.state else {
            return;
        };
        if now < self.fast.awake_at {
            return;
        }
        self.fast.awake_at = now + AWAKE;
        for mac in ready.kernel.awake() {
            let ips = Vec::new();
            self.router.handle_upcall(Upcall::Station { mac, ips }, now);
        }
    }

    /// Reads the kernel's counters, so that the router sees what flows.
    pub(super) fn count_fast(&mut self) {
        let State::Ready(ready) = &mut self.fast.state else {
            return;
        };
        let now = Instant::now();
        if ready.kernel.in_use() && now >= self.fast.count_at {
            self.fast.count_at = now + COUNT;
            ready.kernel.count(&self.router.snapshot());
        }
    }

    /// Puts the router's newest view into the kernel.
    pub(super) fn apply_fast(&mut self) {
        if let Ok(kernel) = &mut self.fast.esp {
            kernel.allow(clear_addresses(&self.router));
        }
        if let State::Ready(ready) = &mut self.fast.state {
            ready.kernel.apply(&self.router.snapshot());
        }
    }

    /// Sends what the router has for the tunnel. What cannot be sent is as
    /// good as lost on the way.
    pub(super) fn send_tunnelled(&mut self) {
        while let Some(tunnelled) = self.router.poll_tunnel() {
            if let State::Ready(ready) = &self.fast.state
                && let Err(error) = ready.socket.send(tunnelled.index, &tunnelled.datagram)
            {
                tracing::trace!(%error, "a probe did not leave");
            }
        }
    }

    /// Takes everything off the host again.
    pub(super) async fn remove_fast(&mut self) {
        self.plane.listen_to(None);
        if let Some(making) = self.fast.making.take() {
            making.abort();
            // It ends where it waits, and must not make anything any more.
            let _ = making.await;
        }
        self.fast.esp = Err("kernel's ESP was taken out".to_owned());
        if let Err(error) = esp::take_down(&self.host, &self.fast.config).await {
            tracing::warn!("something of the fast path stays: {error:#}");
        }
    }
}

/// With whom frames in clear were agreed, and where they come from.
fn clear_addresses(router: &Router) -> BTreeSet<IpAddr> {
    let snapshot = router.snapshot();
    let clear = snapshot.fast.values().filter(|way| !way.esp);
    // Who has not offered it has not agreed.
    let agreed = clear.filter_map(|way| Some([way.address, way.source?]));
    agreed.flatten().collect()
}
