//! What neighbours say. Everything in here may be hostile: it is bounded,
//! checked and counted, and nothing of it ends a link but a goodbye (design D12).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use proto::{
    PeerId, PublicKeys,
    message::{ByeReason, GossipMessage, Held, RangeSummary},
    record::{Record, RecordKey, Topic},
};

use super::Mesh;
use crate::{
    budget::Allowance,
    config::Authority,
    event::{DownReason, Warning},
    limits::Refusal,
    link::LinkState,
    local::Echo,
    reconcile::{self, Answer},
    replica::Merge,
};

/// Signatures checked per neighbour: at once, and per second.
pub(super) const CHECK_BURST: u32 = 20_000;
const CHECK_RATE: u32 = 5000;
/// After a record without its owner's node record, replicas are compared this much later.
const ORPHANED: Duration = Duration::from_millis(500);
/// Owners that are new to us: at once, and per second, that may be newcomers. More are
/// part of a mesh that we know little of.
pub(super) const STRANGER_BURST: u32 = 64;
const STRANGER_RATE: u32 = 32;
/// With whoever brings more, replicas are compared this much later.
const CROWDED: Duration = Duration::from_millis(600);
/// Entries of one message that are looked at; a full datagram of ours holds fewer.
const ENTRIES: usize = 64;
/// Owners that are looked at one by one for the sums of one message. Many more than any
/// honest message needs; ids can be chosen so that a bucket has nearly all.
const WALKED: usize = 20_000;

impl<A: Authority> Mesh<A> {
    pub(super) fn receive(&mut self, from: PeerId, message: GossipMessage, now: Instant) {
        let Some(session) = self.sessions.get_mut(&from) else {
            self.counters.ignored += 1;
            return;
        };
        if let Some(link) = &mut session.link {
            link.heard(now);
        }
        let linked = session.link.is_some();
        match message {
            GossipMessage::Ping {
                token,
                needy,
                answered,
                beat,
            } => {
                let answered = answered.map(|rtt| Duration::from_micros(rtt.micros().into()));
                self.receive_ping(from, (token, needy, answered), now);
                self.receive_beat(from, &beat, now);
            }
            GossipMessage::Pong { token, beat } => {
                self.receive_pong(from, token, now);
                self.receive_beat(from, &beat, now);
            }
            GossipMessage::Push { fresh, records } => {
                for record in records.iter().take(ENTRIES) {
                    self.receive_record(from, record, fresh && linked, now);
                }
            }
            GossipMessage::Bye { reason } => self.receive_bye(from, reason, now),
            GossipMessage::Summary { ranges } if linked => self.receive_summary(from, &ranges, now),
            GossipMessage::Versions { first, last, held } if linked => {
                self.receive_versions(from, (first, last), &held, now);
            }
            GossipMessage::Want { keys } if linked => self.receive_want(from, &keys, now),
            GossipMessage::Prune { seconds, keep } if linked => {
                self.receive_prune(from, seconds, keep, now);
            }
            GossipMessage::Graft { resume, digests } if linked => {
                self.receive_graft(from, resume, &digests, now);
            }
            GossipMessage::Summary { .. }
            | GossipMessage::Versions { .. }
            | GossipMessage::Want { .. }
            | GossipMessage::Prune { .. }
            | GossipMessage::Graft { .. } => {
                self.counters.ignored += 1;
            }
        }
    }

    fn receive_ping(
        &mut self,
        from: PeerId,
        (token, needy, answered): (u8, bool, Option<Duration>),
        now: Instant,
    ) {
        let linked = self.is_probed(&from);
        if !linked && let Err(reason) = self.admit(&from, needy) {
            self.refuse_link(from, reason);
            return;
        }
        self.pong(from, token, now);
        if !linked {
            self.start_link(from, now);
        }
        if let Some(session) = self.sessions.get_mut(&from) {
            session.needy = needy;
            if let Some(link) = &mut session.link {
                link.pinged(answered, &self.config, now);
            }
        }
    }

    fn receive_pong(&mut self, from: PeerId, token: u8, now: Instant) {
        let Some(link) = self
            .sessions
            .get_mut(&from)
            .and_then(|session| session.link.as_mut())
        else {
            return;
        };
        let before = link.state();
        link.pong(token, now);
        if before == LinkState::Probing && link.state() == LinkState::Up {
            self.link_up(from, now);
        }
    }

    fn receive_bye(&mut self, from: PeerId, reason: ByeReason, now: Instant) {
        let reason = match reason {
            ByeReason::Stopping => DownReason::Stopping,
            ByeReason::Pruned => DownReason::Pruned,
            ByeReason::Full => DownReason::Full,
        };
        if matches!(reason, DownReason::Pruned | DownReason::Full) {
            self.rejections = self.rejections.saturating_add(1);
        }
        self.end_link(from, reason, now);
    }

    fn receive_record(&mut self, from: PeerId, record: &Arc<Record>, fresh: bool, now: Instant) {
        self.wants.settle(&record.key);
        if record.key.owner == self.local.id {
            self.receive_echo(from, record, now);
            return;
        }
        let Some(session) = self.sessions.get_mut(&from) else {
            return;
        };
        // Most records come by several ways: the copies must cost next to nothing.
        if self
            .replica
            .get(&record.key)
            .is_some_and(|held| Arc::ptr_eq(held, record) || held == record)
        {
            session.outbox.cancel(&record.key);
            self.counters.stale += 1;
            if fresh {
                self.copy_came(from, record, now);
            }
            return;
        }
        if !session.checks.take(CHECK_BURST, CHECK_RATE, now) {
            self.counters.limited += 1;
            return;
        }
        if self.replica.slot(&record.key.owner).is_none() {
            self.make_room();
        }
        let tenths = now.saturating_duration_since(self.start).as_millis() / 100;
        let allowance = Allowance {
            burst: self.config.owner_burst,
            rate: self.config.owner_rate,
            now: u32::try_from(tenths).unwrap_or(u32::MAX),
        };
        let authority = &self.authority;
        let merged = self.replica.offer(record, Some(allowance), |record, keys| {
            is_signed(authority, keys, record)
        });
        self.account(from, record, merged, fresh, now);
    }

    fn account(
        &mut self,
        from: PeerId,
        record: &Arc<Record>,
        merged: Merge,
        fresh: bool,
        now: Instant,
    ) {
        let owner = record.key.owner;
        match merged {
            Merge::New { before, conflict } => {
                self.counters.accepted += 1;
                if conflict {
                    self.warn(owner, "equivocation", Warning::Equivocation { owner });
                }
                self.apply(record, before.as_deref(), now);
                self.pass_on(record, from, fresh, now);
                if record.key.topic == Topic::Node && before.is_none() {
                    self.meet_stranger(from, now);
                }
            }
            Merge::OverBudget => self.counters.limited += 1,
            Merge::Orphan => self.receive_orphan(from, owner, now),
            Merge::Stale => self.receive_stale(from, record.key, fresh, now),
            Merge::Forged => {
                self.counters.forged += 1;
                let reason = "the signature is not its owner's";
                self.warn(
                    from,
                    "forged",
                    Warning::BadRecord {
                        from,
                        owner: None,
                        reason,
                    },
                );
            }
            Merge::Refused(Refusal::TooManyPeers) => {
                self.counters.limited += 1;
                let reason = Refusal::TooManyPeers.reason();
                self.warn(
                    self.local.id,
                    reason,
                    Warning::BadRecord {
                        from,
                        owner: Some(owner),
                        reason,
                    },
                );
            }
            Merge::Refused(refusal) => {
                self.counters.quarantined += 1;
                let reason = refusal.reason();
                self.warn(
                    from,
                    reason,
                    Warning::BadRecord {
                        from,
                        owner: Some(owner),
                        reason,
                    },
                );
            }
        }
    }

    /// An owner is new to us. Where many are, a neighbour has more to tell than it brings
    /// as news, and of what it brings otherwise some is lost.
    fn meet_stranger(&mut self, from: PeerId, now: Instant) {
        let are_few = self.strangers.take(STRANGER_BURST, STRANGER_RATE, now);
        let session = self.sessions.get_mut(&from).filter(|s| s.link.is_some());
        if let Some(session) = session.filter(|_| !are_few) {
            let at = *session.summary_at.get_or_insert(now + CROWDED);
            self.timers.session_due(at, "summary");
        }
    }

    /// A neighbour has an older record than we. If it believes that we lack it, for
    /// we do not list those who are out of our reach, it needs ours.
    fn receive_stale(&mut self, from: PeerId, key: RecordKey, fresh: bool, now: Instant) {
        self.counters.stale += 1;
        if !fresh && let Some(session) = self.sessions.get_mut(&from).filter(|s| s.link.is_some()) {
            session.outbox.repair(key);
            self.flush_soon(now);
        }
    }

    /// The node record of the owner has to come first. It may be on its way;
    /// comparing replicas brings what is still missing then.
    fn receive_orphan(&mut self, from: PeerId, owner: PeerId, now: Instant) {
        self.counters.orphaned += 1;
        let key = RecordKey {
            owner,
            topic: Topic::Node,
        };
        let wanted = self.wants.ask(vec![key], from, now);
        if let Some(session) = self.sessions.get_mut(&from).filter(|s| s.link.is_some()) {
            session.outbox.want(wanted);
            let at = *session.summary_at.get_or_insert(now + ORPHANED);
            self.timers.session_due(at, "summary");
            self.flush_soon(now);
        }
    }

    /// If as many owners are known as may be, forgets the one that has been out
    /// of reach for the longest time: whoever makes up identities makes them
    /// unreachable, and must not keep out those who come.
    fn make_room(&mut self) {
        if self.replica.owner_count() >= self.config.owner_limit
            && let Some(peer) = self.absent.oldest()
        {
            self.drop_peer(peer);
        }
    }

    /// Somebody brings a record under our own key.
    fn receive_echo(&mut self, from: PeerId, record: &Arc<Record>, now: Instant) {
        let key = &record.key;
        let same = self.replica.get(key) == Some(record);
        if same {
            self.counters.stale += 1;
            return;
        }
        let checked = self
            .sessions
            .get_mut(&from)
            .is_some_and(|s| s.checks.take(CHECK_BURST, CHECK_RATE, now));
        let keys = self.local.keys;
        if !checked || !is_signed(&self.authority, &keys, record) {
            self.counters.forged += 1;
            return;
        }
        self.recall_space(record, now);
        let longest = self.config.jump_pause;
        match self.own.echo(key.topic, record.version, same, longest, now) {
            Echo::Ours => self.counters.stale += 1,
            Echo::Leftover => self.publish_nothing(key.topic, now),
            Echo::Jumped { cloned } => {
                tracing::debug!(
                    epoch = self.own.epoch(),
                    cloned,
                    "records of ours are ahead of us: new epoch"
                );
                self.warn_of_clone(cloned);
                self.publish_everything(now);
            }
            Echo::Cloned => self.warn_of_clone(true),
        }
    }

    fn warn_of_clone(&mut self, cloned: bool) {
        let peer = self.local.id;
        if cloned {
            self.warn(peer, "cloned", Warning::ClonedIdentity { peer });
        }
    }

    fn receive_summary(&mut self, from: PeerId, ranges: &[RangeSummary], now: Instant) {
        self.note_compared(&from);
        let Some(session) = self.sessions.get_mut(&from) else {
            return;
        };
        let (mut lacking, mut walked) = (None, 0);
        for range in ranges.iter().take(ENTRIES) {
            walked += self.replica.walked(range.first, range.last);
            if walked > WALKED {
                break;
            }
            match reconcile::answer(&self.replica, session.info.scope, range) {
                Answer::Equal => {}
                Answer::Split(parts) => session.outbox.summarise(parts),
                Answer::Echo(part) => session.outbox.summarise([part]),
                Answer::List(list) if list.lacking => {
                    lacking.get_or_insert_with(Vec::new).push(list);
                }
                Answer::List(list) => session.give(&list, now),
            }
        }
        if let Some(lists) = lacking
            && self.may_feed(from, now)
            && let Some(session) = self.sessions.get_mut(&from)
        {
            lists.iter().for_each(|list| session.give(list, now));
        }
        self.flush_soon(now);
    }

    fn receive_versions(&mut self, from: PeerId, range: (u64, u64), held: &[Held], now: Instant) {
        self.note_compared(&from);
        let Some(session) = self.sessions.get_mut(&from) else {
            return;
        };
        let difference = reconcile::compare(&self.replica, session.info.scope, range, held);
        let wanted = self.wants.ask(difference.want, from, now);
        if let Some(backlog) = difference.push {
            session.outbox.work_off(backlog);
        }
        for key in difference.hidden {
            session.outbox.repair(key);
        }
        session.outbox.want(wanted);
        if !session.outbox.is_empty() {
            self.flush_soon(now);
        }
    }

    fn receive_want(&mut self, from: PeerId, keys: &[RecordKey], now: Instant) {
        let Some(session) = self.sessions.get_mut(&from) else {
            return;
        };
        keys.iter()
            .take(ENTRIES)
            .for_each(|key| session.outbox.repair(*key));
        self.flush_soon(now);
    }
}

fn is_signed(authority: &impl Authority, keys: &PublicKeys, record: &Record) -> bool {
    record.genuine_with(|record| {
        authority.verify(
            record.key.owner,
            keys,
            &record.signed_bytes(),
            &record.signature_bytes(),
        )
    })
}
