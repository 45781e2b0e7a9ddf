//! One other peer: the sessions with it, the direct path to it, and frames
//! that wait for either.
//!
//! ```text
//!            handshake or probe answered directly
//!  relayed ───────────────────────────────────────▶ direct
//!     ▲                                               │
//!     └──── no answer for 2 s, or the link is down ───┘
//! ```
//!
//! A session belongs to the two peers, not to a path: it survives every change
//! of path, and every session that is held can receive.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use crypto::{Cipher, Rekey, Session};
use proto::{
    Endpoint,
    datagram::{Protection, SessionIndex},
};

use super::{
    counters::PeerCounters,
    fastdp::{Bar, FastPath},
    pmtu::Pmtu,
    scout::Scout,
    timing::{
        ACTIVE, ASK_AGAIN, CROSSING, HUSH, OVERLAP, PATH_DEAD, PATH_FRESH, PATH_STALE, PENDING_AGE,
        SUSPECT, TCP_SUSPECT,
    },
};

/// Frames that wait for a session, per peer.
const MAX_PENDING: usize = 64;
/// Sessions held with one peer; the oldest goes first.
const MAX_SESSIONS: usize = 6;

/// Another peer.
pub struct Peer {
    /// Its launch, from its greeting.
    pub instance: u64,
    /// The number of that launch.
    pub epoch: u64,
    /// Sessions, oldest first.
    pub sessions: Vec<Held>,
    /// The one to send with.
    pub current: Option<SessionIndex>,
    /// The direct path, if one is proven.
    pub direct: Option<Direct>,
    /// Looking for another way to it than `direct`.
    pub scout: Scout,
    /// The kernel's way to it.
    pub fast: FastPath,
    /// Whether it takes no frames in clear that this end would send so.
    pub insists: bool,
    /// Why the kernel refused ESP with it, and until when that counts.
    pub esp_refused: Option<(String, Instant)>,
    /// Indexes of ESP that were sent under, each with its session.
    pub esp_used: BTreeSet<(SessionIndex, u32)>,
    /// Parts of the protocol it has, from its greeting.
    pub capabilities: u64,
    /// Whether there is a link (gossip's word).
    pub link: bool,
    /// Whether gossip knows of the direct session.
    pub announced: bool,
    /// Frames counted over all sessions.
    pub counters: Arc<PeerCounters>,
    /// When frames last flowed.
    pub active_at: Option<Instant>,
    /// When something last happened that makes the peer worth keeping.
    pub used_at: Instant,
    /// When a direct path may be tried next.
    pub direct_retry_at: Instant,
    /// When a notice of an unknown session is heeded next.
    pub notice_at: Instant,
    pending: VecDeque<(Instant, Vec<u8>)>,
    frames_seen: (u64, u64),
    sent_at: Option<Instant>,
    received_at: Option<Instant>,
    /// The first and the last of frames that came in without a pause.
    incoming: Option<(Instant, Instant)>,
}

/// A session with its administration.
pub struct Held {
    /// The keys.
    pub session: Arc<Session>,
    /// When to agree on new ones.
    pub rekey: Rekey,
    /// When these were agreed.
    pub since: Instant,
    /// Whether this peer began the handshake.
    pub outbound: bool,
    /// Whether the other side is known to have the keys.
    pub confirmed: bool,
    /// When to forget it, once it was replaced.
    pub retire_at: Option<Instant>,
    /// How frames are protected.
    pub protection: Protection,
    /// The bulk cipher.
    pub cipher: Cipher,
}

/// A proven direct path.
pub struct Direct {
    /// The peer's address.
    pub address: Endpoint,
    /// Whether this peer dialled.
    pub outbound: bool,
    /// When the path last proved to work both ways.
    pub answered_at: Instant,
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// Its MTU.
    pub pmtu: Pmtu,
    /// When the first of the probes left that are unanswered.
    pub unanswered_since: Option<Instant>,
    /// When the last probe left.
    pub asked_at: Instant,
    /// Whether frames go round it where they can.
    pub suspect: bool,
    /// When to probe next.
    pub probe_at: Instant,
    /// Probes under way: token, when, where to.
    pub probes: BTreeMap<u64, (Instant, Endpoint)>,
}

impl Peer {
    /// A peer without sessions.
    pub fn new(now: Instant) -> Self {
        Self {
            instance: 0,
            epoch: 0,
            sessions: Vec::new(),
            current: None,
            direct: None,
            scout: Scout::default(),
            fast: FastPath::new(now),
            insists: false,
            esp_refused: None,
            esp_used: BTreeSet::new(),
            capabilities: 0,
            link: false,
            announced: false,
            counters: Arc::default(),
            active_at: None,
            used_at: now,
            direct_retry_at: now,
            notice_at: now,
            pending: VecDeque::new(),
            frames_seen: (0, 0),
            sent_at: None,
            received_at: None,
            incoming: None,
        }
    }

    /// The session to send with.
    pub fn sending(&self) -> Option<&Held> {
        let current = self.current?;
        self.sessions.iter().find(|h| h.session.local() == current)
    }

    /// Adds a session; returns indices of sessions that had to go.
    pub fn hold(&mut self, held: Held) -> Vec<SessionIndex> {
        self.sessions.push(held);
        let surplus = self.sessions.len().saturating_sub(MAX_SESSIONS);
        let current = self.current;
        let mut dropped = Vec::new();
        self.sessions.retain(|h| {
            let keep = dropped.len() >= surplus || Some(h.session.local()) == current;
            if !keep {
                dropped.push(h.session.local());
            }
            keep
        });
        dropped
    }

    /// A session is known to work both ways: sends with it from now on, unless
    /// two handshakes crossed. Then both sides keep the one that the peer with
    /// the lower id began. Returns whether the sending session changed.
    pub fn confirm(&mut self, index: SessionIndex, local_is_lower: bool, now: Instant) -> bool {
        let Some(held) = self
            .sessions
            .iter_mut()
            .find(|h| h.session.local() == index)
        else {
            return false;
        };
        held.confirmed = true;
        let ours_rank = |h: &Held| h.outbound == local_is_lower;
        let fresh = ours_rank(held);
        if let Some(current) = self.sending() {
            if current.session.local() == index {
                return false;
            }
            let crossed = now.duration_since(current.since) < CROSSING;
            if crossed && ours_rank(current) && !fresh {
                self.retire_later(index, now);
                return false;
            }
        }
        for held in &mut self.sessions {
            if held.session.local() != index && held.confirmed {
                held.retire_at.get_or_insert(now + OVERLAP);
            }
        }
        self.current = Some(index);
        true
    }

    fn retire_later(&mut self, index: SessionIndex, now: Instant) {
        if let Some(held) = self
            .sessions
            .iter_mut()
            .find(|h| h.session.local() == index)
        {
            held.retire_at.get_or_insert(now + OVERLAP);
        }
    }

    /// Takes out sessions that are over. Returns their indices.
    pub fn retire(&mut self, now: Instant) -> Vec<SessionIndex> {
        let mut gone = Vec::new();
        self.sessions.retain(|h| {
            let over =
                h.retire_at.is_some_and(|at| now >= at) || h.rekey.expired(now, h.session.sent());
            if over {
                gone.push(h.session.local());
            }
            !over
        });
        if self.current.is_some_and(|c| gone.contains(&c)) {
            self.current = self
                .sessions
                .iter()
                .rev()
                .find(|h| h.confirmed)
                .map(|h| h.session.local());
        }
        gone
    }

    /// Takes out one session.
    pub fn abandon(&mut self, index: SessionIndex) {
        self.sessions.retain(|h| h.session.local() != index);
        if self.current == Some(index) {
            self.current = self
                .sessions
                .iter()
                .rev()
                .find(|h| h.confirmed)
                .map(|h| h.session.local());
        }
    }

    /// The peer is a new launch: nothing agreed with the former holds.
    pub fn restart(&mut self) -> Vec<SessionIndex> {
        self.current = None;
        self.direct = None;
        self.fast.bar(Bar::Indirect);
        self.fast.forget_left();
        self.insists = false;
        self.announced = false;
        self.sessions.drain(..).map(|h| h.session.local()).collect()
    }

    /// Whether the direct path answered of late.
    pub fn is_fresh(&self, now: Instant) -> bool {
        self.direct
            .as_ref()
            .is_some_and(|d| now.duration_since(d.answered_at) < PATH_FRESH)
    }

    /// Whether frames flow.
    pub fn is_active(&self, now: Instant) -> bool {
        self.active_at
            .is_some_and(|at| now.duration_since(at) < ACTIVE)
    }

    /// Notes whether frames flowed since the last call, to the peer or through it.
    pub fn observe(&mut self, now: Instant) {
        let totals = self.counters.totals();
        let before = std::mem::replace(&mut self.frames_seen, (totals.rx_frames, totals.tx_frames));
        if before.0 != totals.rx_frames {
            self.received_at = Some(now);
            let first = match self.incoming {
                Some((first, last)) if now.duration_since(last) < HUSH => first,
                Some(_) | None => now,
            };
            self.incoming = Some((first, now));
        }
        if before.1 != totals.tx_frames {
            self.sent_at = Some(now);
        }
        // What it passes on for us needs the path as much, and is counted elsewhere.
        if self.counters.take_relayed() || before != self.frames_seen {
            self.active_at = Some(now);
            self.used_at = now;
        }
    }

    /// Whether frames go out and none come back: of most conversations that is
    /// the first sign of a path that broke.
    pub fn is_hushed(&self, now: Instant) -> bool {
        let within = |at: Option<Instant>| at.is_some_and(|at| now.duration_since(at) < HUSH);
        within(self.sent_at) && !within(self.received_at)
    }

    /// Whether frames came in without a pause, and stay away now; once for each time.
    /// Who only answers has no other sign of a path that broke.
    pub fn falls_quiet(&mut self, now: Instant) -> bool {
        let over = |(_, last): &mut (Instant, Instant)| now.duration_since(*last) >= HUSH;
        let steady = |(first, last): (Instant, Instant)| last.duration_since(first) >= HUSH;
        self.incoming.take_if(over).is_some_and(steady)
    }

    /// Whether its path is to be looked at again very soon.
    pub fn is_urgent(&self, now: Instant) -> bool {
        let owes = |direct: &Direct| direct.unanswered_since.is_some();
        self.scout.is_judging() || self.is_active(now) && self.direct.as_ref().is_some_and(owes)
    }

    /// Keeps a frame until there is a session. The oldest gives way.
    pub fn wait(&mut self, frame: Vec<u8>, now: Instant) {
        if self.pending.len() >= MAX_PENDING {
            self.pending.pop_front();
        }
        self.pending.push_back((now, frame));
        self.active_at = Some(now);
        self.used_at = now;
    }

    /// The frames that waited and are not too old.
    pub fn take_pending(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let pending = std::mem::take(&mut self.pending);
        pending
            .into_iter()
            .filter(|(at, _)| now < *at + PENDING_AGE)
            .map(|(_, frame)| frame)
            .collect()
    }
}

impl Direct {
    /// A path that just proved to work.
    /// `limit` is the largest UDP payload that the local underlay carries.
    pub fn new(address: Endpoint, outbound: bool, limit: usize, now: Instant) -> Self {
        let pmtu = if address.is_tcp() {
            Pmtu::given(limit, now)
        } else {
            Pmtu::new(limit, now)
        };
        Self {
            address,
            outbound,
            answered_at: now,
            rtt: Duration::ZERO,
            pmtu,
            unanswered_since: None,
            asked_at: now,
            suspect: false,
            probe_at: now,
            probes: BTreeMap::new(),
        }
    }

    /// An answer came along this path.
    pub fn answered(&mut self, now: Instant) {
        self.answered_at = now;
        self.unanswered_since = None;
        self.suspect = false;
    }

    /// Takes a measurement into the smoothed round-trip time (RFC 6298).
    pub fn measure(&mut self, rtt: Duration) {
        self.rtt = if self.rtt.is_zero() {
            rtt
        } else {
            (self.rtt * 7 + rtt) / 8
        };
    }

    /// Whether a relay is better.
    pub fn is_second_choice(&self) -> bool {
        self.suspect || self.address.is_tcp()
    }

    /// For how long the path owes an answer.
    pub fn silence(&self, now: Instant) -> Duration {
        self.unanswered_since
            .map_or(Duration::ZERO, |since| now.duration_since(since))
    }

    /// Whether the path is to be asked again whether it works.
    pub fn is_to_be_asked_again(&self, now: Instant) -> bool {
        let pause = ASK_AGAIN.max(self.rtt * 2);
        self.silence(now) >= pause && now.duration_since(self.asked_at) >= pause
    }

    /// Whether an answer is so late, and later `by` so much, that the path is
    /// better avoided.
    pub fn is_late(&self, now: Instant, by: Duration) -> bool {
        self.silence(now) >= SUSPECT.max(self.rtt * 4) + by
    }

    /// Whether nothing has come along the path for so long, and longer `by` so much,
    /// that TCP is tried. A lost ping is answered a round-trip time after the next.
    pub fn is_silent(&self, now: Instant, by: Duration) -> bool {
        now.duration_since(self.answered_at) >= TCP_SUSPECT + self.rtt + by
    }

    /// Whether probes stay unanswered for too long.
    pub fn is_dead(&self, now: Instant) -> bool {
        self.unanswered_since
            .is_some_and(|since| now.duration_since(since) >= PATH_DEAD)
    }

    /// Whether nothing is known of the path any more.
    pub fn is_stale(&self, now: Instant) -> bool {
        now.duration_since(self.answered_at) >= PATH_STALE
    }

    /// Forgets probes that will not be answered any more.
    pub fn forget_probes(&mut self, now: Instant) {
        self.probes
            .retain(|_, (sent, _)| now.duration_since(*sent) < PATH_DEAD * 2);
    }
}
