//! The fast path of this host: made at launch, put right, fed and read.
//!
//! What goes wrong here is a reason in `status`, never the end of the daemon:
//! sleeve carries everything.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::Daemon;
use crate::{
    engine::{FastSetup, Router, Upcall, fastdp::Bar},
    shell::{
        esp::{self, Checked, KernelEsp},
        fastdp::FastDp,
        host::{Tunnel, TunnelConfig},
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
    Ready(Box<Ready>),
}

struct Ready {
    kernel: FastDp,
    tunnel: Tunnel,
    socket: Arc<TunnelSocket>,
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
        let now = Instant::now();
        let before = std::mem::replace(
            &mut self.fast.state,
            State::Failed {
                why: String::new(),
                retry_at: now + RETRY,
            },
        );
        let (kernel, told) = match before {
            State::Ready(ready) => (Some(ready.kernel), String::new()),
            State::Failed { why, .. } => (None, why),
            State::Off => return,
        };
        self.fast.state = match self.try_fast(kernel).await {
            Ok(ready) => {
                self.plane.listen_to(Some(Arc::clone(&ready.socket)));
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
    }

    async fn try_fast(&mut self, kernel: Option<FastDp>) -> Result<Ready> {
        let config = &self.fast.config;
        let is_first = kernel.is_none();
        let mut kernel = match kernel {
            Some(mut kernel) => {
                kernel.hold(true);
                kernel
            }
            None => FastDp::load(self.config.host).context("the kernel refuses BPF")?,
        };
        let made = self.host.make_tunnel(config).await;
        let tunnel = made.context("the kernel refuses VXLAN")?;
        if is_first && self.fast.esp.is_err() {
            self.fast.esp = KernelEsp::raise(config, self.config.host).map(Box::new);
            self.fast.esp_at = Instant::now() + CHECK;
        }
        kernel
            .attach(config, tunnel)
            .context("the kernel refuses BPF")?;
        self.host.raise_tunnel(config).await?;
        let socket = TunnelSocket::open(tunnel.device)
            .context("no packet socket: wove needs CAP_NET_RAW")?;
        kernel.hold(false);
        kernel.apply(&self.router.snapshot());
        Ok(Ready {
            kernel,
            tunnel,
            socket: Arc::new(socket),
        })
    }

    fn tell_fast(&mut self) {
        let state = match &self.fast.state {
            State::Ready(_) => Ok(()),
            State::Off => Err(Bar::Host {
                why: "--no-fastdp given".to_owned(),
                disabled: true,
            }),
            State::Failed { why, .. } => Err(Bar::Host {
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
            State::Failed { .. } | State::Off => None,
        }
    }

    /// It was looked whether everything of a tunnel is still there.
    pub(super) async fn handle_fault(&mut self, tunnel: Tunnel, fault: Result<Option<String>>) {
        match fault {
            Ok(None) => {}
            // Another was made meanwhile.
            Ok(Some(_)) if self.tunnel().is_none_or(|(_, known)| known != tunnel) => {}
            Ok(Some(what)) => {
                self.make_fast().await;
                if let State::Ready(_) = self.fast.state {
                    tracing::warn!("repaired: {what}: made again");
                }
            }
            Err(error) => tracing::debug!("the fast path cannot be looked at: {error:#}"),
        }
    }

    /// What has to be done now and then.
    pub(super) async fn care_for_fast(&mut self) {
        let now = Instant::now();
        match &self.fast.state {
            State::Failed { retry_at, .. } if now >= *retry_at => self.make_fast().await,
            State::Failed { .. } | State::Off => {}
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
