//! The threads that carry frames.
//!
//! ```text
//!  TAP ──read──▶ Egress::handle_offloaded ──▶ UDP                  either thread (see `turns`)
//!  UDP ──read──▶ Ingress::handle_datagram ──▶ Coalescer ──▶ TAP   thread "wove-udp"
//!  probes of the fast path ──┤                                    thread "wove-udp", too
//!  datagrams by TCP ─────────┤                                    thread "wove-udp", too
//!                            └── control, handshakes ──▶ bounded queues ──▶ control thread
//! ```
//!
//! The thread "wove-tap" reads the TAP while much happens, and "wove-udp" does
//! otherwise. Each thread blocks on its descriptors, handles what one read gave to
//! completion, and takes the newest [`Snapshot`] for each batch. A full socket
//! makes its thread wait, so that the TAP is not read meanwhile.
#![expect(
    clippy::disallowed_methods,
    reason = "this is the shell: threads and clocks live here"
)]

use std::{
    net::SocketAddr,
    os::fd::AsFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use arc_swap::{ArcSwap, ArcSwapOption};
use proto::{Endpoint, vnet::VnetHeader};
use tokio::sync::mpsc;

use super::{
    streams::Streams,
    tap::{FrameBatch, Offloads, Tap},
    tunnel::TunnelSocket,
    turns::{QUIET, Turns},
    udp::{GSO_BYTES, RecvBatch, SendBatch, UdpSocket},
    wait::{Waker, wait},
};
use crate::engine::{
    Coalescer, DropReason, Egress, Ingress, Output, Snapshot, Upcall,
    coalesce::Joins,
    layers::{Layers, Protocol},
    segment::Sum,
    standing::Standing,
};

/// Frames read from the TAP before the datagrams leave: so many, or so many
/// bytes and one frame more.
const FRAMES: usize = 64;
const FRAME_BYTES: usize = 64 << 10;
/// A segment of TCP longer than this is one of a flow that can slow down.
const BULK: usize = 1000;
/// The longest probe of the fast path, and how many are read before datagrams
/// get their turn.
const PROBE: usize = 65_535 + 18;
const PROBES: usize = 64;
/// While datagrams or frames keep coming, all else is looked for after so many
/// batches: whoever sends without a pause must not keep probes of the fast path, what
/// comes by TCP, or datagrams beside frames waiting until it ends.
const BATCHES: usize = 16;
/// A thread looks up after so long even if nothing wakes it.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many control messages wait for the control thread.
const CONTROL_QUEUE: usize = 4096;
/// How many handshakes wait to begin, and how many others to go on: a flood of them
/// must not displace control, nor those that begin the steps of those begun.
const HANDSHAKE_QUEUE: usize = 256;

/// What the data threads tell the control thread.
pub(super) struct Upcalls {
    /// Control messages of established sessions, and what concerns frames.
    pub control: mpsc::Receiver<Upcall>,
    /// Handshakes: anybody can send what begins one.
    pub handshakes: Handshakes,
    /// Destinations for which the first hop refused a datagram, with its bytes.
    pub too_large: mpsc::Receiver<(SocketAddr, usize)>,
}

/// What comes of handshakes: later steps, and beginnings.
pub(super) struct Handshakes {
    steps: mpsc::Receiver<Upcall>,
    beginnings: mpsc::Receiver<Upcall>,
}

impl Handshakes {
    /// The next one of either queue by chance, for a stranger can forge both, and a
    /// flood of one must not keep the other waiting. None once nobody sends any more.
    /// May be dropped without loss.
    pub(super) async fn recv(&mut self) -> Option<Upcall> {
        tokio::select! {
            Some(step) = self.steps.recv() => Some(step),
            Some(beginning) = self.beginnings.recv() => Some(beginning),
            else => None,
        }
    }
}

/// The running threads. Dropping it stops them.
pub(super) struct DataPlane {
    snapshot: Arc<ArcSwap<Snapshot>>,
    tunnel: Arc<ArcSwapOption<TunnelSocket>>,
    stop: Arc<AtomicBool>,
    wakers: Vec<Arc<Waker>>,
    threads: Vec<JoinHandle<()>>,
    seen: Seen,
}

/// What was received so far. It outlives the threads, for whoever forgets it opens what
/// somebody recorded a second time.
pub(super) type Seen = Arc<Mutex<Ingress>>;

#[derive(Clone)]
struct Queues {
    control: mpsc::Sender<Upcall>,
    steps: mpsc::Sender<Upcall>,
    beginnings: mpsc::Sender<Upcall>,
    too_large: mpsc::Sender<(SocketAddr, usize)>,
}

impl DataPlane {
    /// Starts the threads on an open TAP and socket. `seen` is new, or of the threads
    /// before, which have ended.
    pub(super) fn start(
        tap: Arc<Tap>,
        udp: Arc<UdpSocket>,
        streams: Arc<Streams>,
        snapshot: Arc<Snapshot>,
        seen: Seen,
    ) -> Result<(Self, Upcalls)> {
        let (control, control_rx) = mpsc::channel(CONTROL_QUEUE);
        let (steps, steps_rx) = mpsc::channel(HANDSHAKE_QUEUE);
        let (beginnings, beginnings_rx) = mpsc::channel(HANDSHAKE_QUEUE);
        let (too_large, too_large_rx) = mpsc::channel(64);
        let queues = Queues {
            control,
            steps,
            beginnings,
            too_large,
        };
        let mut plane = Self {
            snapshot: Arc::new(ArcSwap::new(snapshot)),
            tunnel: Arc::default(),
            stop: Arc::default(),
            wakers: Vec::new(),
            threads: Vec::new(),
            seen: Arc::clone(&seen),
        };
        let tap_waker = plane.add_waker()?;
        let udp_waker = plane.add_waker()?;
        let carrier = Carrier {
            tap,
            udp,
            streams: Arc::clone(&streams),
            queues,
            snapshot: Arc::clone(&plane.snapshot),
            tunnel: Arc::clone(&plane.tunnel),
            stop: Arc::clone(&plane.stop),
            turns: Arc::new(Turns::new(Instant::now())),
            upward: Arc::new(Mutex::new(Upward::new())),
            seen,
            tap_waker,
            udp_waker: Arc::clone(&udp_waker),
        };
        streams.inbox().wakes(udp_waker);
        let for_udp = carrier.clone();
        plane.spawn("wove-tap", move || carrier.carry_frames())?;
        plane.spawn("wove-udp", move || for_udp.carry_datagrams())?;
        Ok((
            plane,
            Upcalls {
                control: control_rx,
                handshakes: Handshakes {
                    steps: steps_rx,
                    beginnings: beginnings_rx,
                },
                too_large: too_large_rx,
            },
        ))
    }

    fn add_waker(&mut self) -> Result<Arc<Waker>> {
        let waker = Arc::new(Waker::new().context("cannot make an eventfd")?);
        self.wakers.push(Arc::clone(&waker));
        Ok(waker)
    }

    fn spawn(
        &mut self,
        name: &str,
        run: impl FnOnce() -> std::io::Result<()> + Send + 'static,
    ) -> Result<()> {
        let (stop, thread) = (Arc::clone(&self.stop), name.to_owned());
        let body = move || {
            if let Err(error) = run()
                && !stop.load(Ordering::Relaxed)
            {
                tracing::warn!(thread, %error, "a data thread ended");
            }
        };
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(body);
        self.threads.push(thread.context("cannot start a thread")?);
        Ok(())
    }

    /// Puts a new forwarding view into force.
    pub(super) fn publish(&self, snapshot: Arc<Snapshot>) {
        self.snapshot.store(snapshot);
    }

    /// Where probes of the fast path come in from now on.
    pub(super) fn listen_to(&self, tunnel: Option<Arc<TunnelSocket>>) {
        self.tunnel.store(tunnel);
        self.wakers.iter().for_each(|w| w.wake());
    }

    /// What was received so far, for threads that follow.
    pub(super) fn seen(&self) -> Seen {
        Arc::clone(&self.seen)
    }

    /// Whether all threads run; none does once they were stopped.
    pub(super) fn is_running(&self) -> bool {
        !self.threads.is_empty() && self.threads.iter().all(|t| !t.is_finished())
    }
}

impl DataPlane {
    /// Ends the threads; the TAP goes with them.
    pub(super) fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.wakers.iter().for_each(|w| w.wake());
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a data thread panicked");
            }
        }
    }
}

impl Drop for DataPlane {
    fn drop(&mut self) {
        self.stop();
    }
}

#[derive(Clone)]
struct Carrier {
    tap: Arc<Tap>,
    udp: Arc<UdpSocket>,
    streams: Arc<Streams>,
    queues: Queues,
    snapshot: Arc<ArcSwap<Snapshot>>,
    tunnel: Arc<ArcSwapOption<TunnelSocket>>,
    stop: Arc<AtomicBool>,
    turns: Arc<Turns>,
    upward: Arc<Mutex<Upward>>,
    seen: Seen,
    tap_waker: Arc<Waker>,
    udp_waker: Arc<Waker>,
}

/// The way from the TAP to the underlay; of whichever thread reads the TAP.
struct Upward {
    egress: Egress,
    frames: FrameBatch,
    standing: Standing,
}

impl Upward {
    fn new() -> Self {
        Self {
            egress: Egress::new(),
            frames: FrameBatch::new(FRAMES, FRAME_BYTES),
            standing: Standing::default(),
        }
    }
}

/// The way from the underlay to the TAP.
struct Downward<'a> {
    ingress: MutexGuard<'a, Ingress>,
    datagrams: RecvBatch,
    standing: Standing,
    probe: Vec<u8>,
}

/// What there is to read for the thread "wove-udp".
struct Calls {
    datagrams: bool,
    frames: bool,
    probes: bool,
}

impl Carrier {
    /// The thread "wove-tap".
    fn carry_frames(&self) -> std::io::Result<()> {
        let mut sink = Sink::new(self);
        while !self.is_over() {
            if !self.turns.are_apart() {
                wait(&[], &self.tap_waker, Some(PATIENCE))?;
                continue;
            }
            wait(&[self.tap.as_fd()], &self.tap_waker, Some(QUIET))?;
            while self.carry_up(&mut sink)? && !self.is_over() {}
            if self.turns.join_if_quiet(Instant::now()) {
                self.udp_waker.wake();
            }
        }
        Ok(())
    }

    /// The thread "wove-udp".
    fn carry_datagrams(&self) -> std::io::Result<()> {
        let mut down = Downward {
            ingress: self.seen.lock().unwrap_or_else(PoisonError::into_inner),
            datagrams: RecvBatch::new(quinn_udp::BATCH_SIZE),
            standing: Standing::default(),
            probe: vec![0; PROBE],
        };
        let mut sink = Sink::new(self);
        while !self.is_over() {
            let tunnel = self.tunnel.load_full();
            let mut calls = self.wait_for_calls(tunnel.as_deref())?;
            down.standing.emptied();
            sink.congested = false;
            if let Some(tunnel) = tunnel.as_deref().filter(|_| calls.probes) {
                self.carry_probes(tunnel, &mut down, &mut sink);
            }
            self.carry_streams(&mut down.ingress, &mut sink);
            let mut batches = 0_usize;
            while !self.is_over() {
                let came = calls.datagrams && self.carry_down(&mut down, &mut sink)?;
                // What was delivered may be answered already.
                let looks = (calls.frames || came) && !self.turns.are_apart();
                let went = looks && self.carry_up(&mut sink)?;
                if !came && !went {
                    break;
                }
                (calls.datagrams, calls.frames) = (came, went);
                batches += 1;
                if batches.is_multiple_of(BATCHES) {
                    calls.datagrams = true;
                    self.carry_streams(&mut down.ingress, &mut sink);
                    if let Some(tunnel) = self.tunnel.load().as_deref() {
                        self.carry_probes(tunnel, &mut down, &mut sink);
                    }
                }
            }
        }
        Ok(())
    }

    /// Carries one batch from the TAP; false if there was none.
    fn carry_up(&self, sink: &mut Sink<'_>) -> std::io::Result<bool> {
        let mut upward = self.upward.lock().unwrap_or_else(PoisonError::into_inner);
        let Upward {
            egress,
            frames,
            standing,
        } = &mut *upward;
        let count = self.tap.recv_batch(frames)?;
        if count == 0 {
            standing.emptied();
            egress.set_congested(false);
            return Ok(false);
        }
        let (snapshot, now) = (self.snapshot.load(), Instant::now());
        if standing.read(now) {
            egress.set_congested(true);
        }
        let mut bytes = 0;
        for (header, frame) in frames.frames() {
            bytes += frame.len();
            egress.handle_offloaded(&snapshot, &header, frame, now, sink);
        }
        egress.flush(&snapshot, sink);
        let counters = &snapshot.shared.counters;
        counters.add(DropReason::Malformed, frames.take_refused());
        sink.flush(&snapshot);
        self.part_if_busy(count, bytes, now);
        Ok(true)
    }

    /// Carries one batch from the underlay; false if there was none.
    fn carry_down(&self, down: &mut Downward<'_>, sink: &mut Sink<'_>) -> std::io::Result<bool> {
        if self.udp.recv_batch(&mut down.datagrams)? == 0 {
            return Ok(false);
        }
        let (snapshot, now) = (self.snapshot.load(), Instant::now());
        sink.congested |= down.standing.read(now);
        let (mut count, mut bytes) = (0, 0);
        for received in down.datagrams.datagrams() {
            count += 1;
            bytes += received.bytes.len();
            let source = Endpoint::Udp(received.source);
            let ingress = &mut down.ingress;
            ingress.handle_datagram(&snapshot, received.bytes, source, now, sink);
        }
        sink.flush(&snapshot);
        self.part_if_busy(count, bytes, now);
        self.carry_streams(&mut down.ingress, sink);
        Ok(true)
    }

    fn part_if_busy(&self, count: usize, bytes: usize, now: Instant) {
        if self.turns.part_if_busy(count, bytes, now) {
            self.tap_waker.wake();
        }
    }

    /// Datagrams that came by TCP, where UDP does not pass.
    fn carry_streams(&self, ingress: &mut Ingress, sink: &mut Sink<'_>) {
        let inbound = self.streams.inbox().take();
        if inbound.is_empty() {
            return;
        }
        let (snapshot, now) = (self.snapshot.load(), Instant::now());
        for mut inbound in inbound {
            let from = Endpoint::Tcp(inbound.from);
            ingress.handle_datagram(&snapshot, &mut inbound.datagram, from, now, sink);
        }
        sink.flush(&snapshot);
    }

    /// Probes of the fast path are sealed with the sessions of this thread.
    fn carry_probes(&self, tunnel: &TunnelSocket, down: &mut Downward<'_>, sink: &mut Sink<'_>) {
        let (snapshot, now) = (self.snapshot.load(), Instant::now());
        for _ in 0..PROBES {
            // An error is the device's that is gone; a new one brings a new socket.
            let Ok(received) = tunnel.recv(&mut down.probe) else {
                break;
            };
            if let Some((index, datagram)) = received {
                let ingress = &mut down.ingress;
                ingress.handle_tunnelled(&snapshot, datagram, index, now, sink);
            }
        }
        sink.flush(&snapshot);
    }

    /// Blocks until there is something to read, of frames unless another thread does.
    fn wait_for_calls(&self, tunnel: Option<&TunnelSocket>) -> std::io::Result<Calls> {
        let (udp, tap) = (self.udp.as_fd(), self.tap.as_fd());
        let tunnel = tunnel.map_or(udp, AsFd::as_fd);
        let sources = [udp, tunnel, tap];
        let count = sources.len() - usize::from(self.turns.are_apart());
        let ready = wait(&sources[..count], &self.udp_waker, Some(PATIENCE))?;
        Ok(Calls {
            datagrams: ready.source(0),
            probes: ready.source(1),
            frames: ready.source(2),
        })
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Where the engine's effects go.
struct Sink<'a> {
    carrier: &'a Carrier,
    batch: SendBatch,
    coalescer: Coalescer,
    /// The next long segment of TCP shall be missed.
    congested: bool,
    missed: u64,
    lost: u64,
    undelivered: u64,
}

impl<'a> Sink<'a> {
    fn new(carrier: &'a Carrier) -> Self {
        Self {
            carrier,
            batch: SendBatch::new(),
            coalescer: Coalescer::new(joins(carrier.tap.offloads())),
            congested: false,
            missed: 0,
            lost: 0,
            undelivered: 0,
        }
    }

    fn send(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let outcome = self.carrier.udp.send(&self.batch);
        self.batch.clear();
        self.undelivered += outcome.dropped;
        for refused in outcome.too_large {
            // A full queue holds the same news already.
            let _ = self.carrier.queues.too_large.try_send(refused);
        }
    }

    fn flush(&mut self, snapshot: &Snapshot) {
        self.send();
        self.coalescer
            .flush(deliver(&self.carrier.tap, &mut self.undelivered));
        let counters = &snapshot.shared.counters;
        counters.add(DropReason::QueueFull, std::mem::take(&mut self.lost));
        counters.add(DropReason::Congestion, std::mem::take(&mut self.missed));
        counters.add(DropReason::Device, std::mem::take(&mut self.undelivered));
    }
}

impl Output for Sink<'_> {
    fn datagram(&mut self, to: Endpoint, len: usize, fill: impl FnOnce(&mut [u8]) -> bool) {
        let to = match to {
            Endpoint::Udp(address) => address,
            Endpoint::Tcp(address) => {
                if !self.carrier.streams.send_with(address, len, fill) {
                    self.lost += 1;
                }
                return;
            }
        };
        // No more than what one call takes: the socket works while the next
        // are sealed, and the memory stays close.
        if self.batch.size() + len > GSO_BYTES {
            self.send();
        }
        if !fill(self.batch.reserve(to, len)) {
            self.batch.take_back();
        }
    }

    fn frame(&mut self, frame: &[u8]) {
        let deliver = deliver(&self.carrier.tap, &mut self.undelivered);
        self.coalescer.push(frame, None, Sum::Complete, deliver);
    }

    fn unsummed_frame(&mut self, frame: &[u8], layers: &Layers) {
        if self.congested && layers.protocol == Protocol::Tcp && frame.len() > BULK {
            self.congested = false;
            self.missed += 1;
            return;
        }
        let deliver = deliver(&self.carrier.tap, &mut self.undelivered);
        self.coalescer.push(frame, Some(layers), Sum::Left, deliver);
    }

    fn upcall(&mut self, upcall: Upcall) {
        let queues = &self.carrier.queues;
        let queue = match upcall {
            Upcall::Handshake { begins: false, .. } => &queues.steps,
            Upcall::Handshake { .. } | Upcall::UnknownSession { .. } => &queues.beginnings,
            Upcall::Control { .. }
            | Upcall::Moved { .. }
            | Upcall::Station { .. }
            | Upcall::Doubt { .. }
            | Upcall::Pending { .. }
            | Upcall::TreeWanted { .. } => &queues.control,
        };
        if queue.try_send(upcall).is_err() {
            self.lost += 1;
        }
    }
}

fn joins(offloads: Offloads) -> Joins {
    Joins {
        tcp: offloads != Offloads::None,
        udp: offloads == Offloads::TcpAndUdp,
    }
}

fn deliver(tap: &Tap, undelivered: &mut u64) -> impl FnMut(&VnetHeader, &[u8]) {
    move |header, frame| {
        if tap.send(header, frame).is_err() {
            *undelivered += 1;
        }
    }
}
