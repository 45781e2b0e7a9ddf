//! What neighbours say. Everything in here may be hostile: it is bounded,
//! checked and counted, and nothing of it ends a link but a goodbye (design D12).

use std::{sync::Arc, time::Instant};

use proto::{
    PeerId,
    message::{ByeReason, GossipMessage, Held, RangeSummary},
    record::{Body, Record, RecordKey},
};

use super::Mesh;
use crate::{
    bucket::TokenBucket,
    config::Authority,
    event::{DownReason, Warning},
    link::LinkState,
    local::Echo,
    reconcile::{self, Answer},
    replica::{Merge, Refusal},
};

/// Signatures checked per neighbour: at once, and per second.
pub(super) const CHECK_BURST: u32 = 20_000;
const CHECK_RATE: u32 = 5000;
/// Entries of one message that are looked at; a full datagram of ours holds fewer.
const ENTRIES: usize = 64;

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
            GossipMessage::Ping { token, needy } => self.receive_ping(from, token, needy, now),
            GossipMessage::Pong { token } => self.receive_pong(from, token, now),
            GossipMessage::Push { records } => {
                records
                    .iter()
                    .take(ENTRIES)
                    .for_each(|record| self.receive_record(from, record, now));
            }
            GossipMessage::Bye { reason } => self.receive_bye(from, reason, now),
            GossipMessage::Summary { ranges } if linked => self.receive_summary(from, &ranges, now),
            GossipMessage::Versions { first, last, held } if linked => {
                self.receive_versions(from, (first, last), &held, now);
            }
            GossipMessage::Want { keys } if linked => self.receive_want(from, &keys, now),
            GossipMessage::Summary { .. }
            | GossipMessage::Versions { .. }
            | GossipMessage::Want { .. } => {
                self.counters.ignored += 1;
            }
        }
    }

    fn receive_ping(&mut self, from: PeerId, token: u64, needy: bool, now: Instant) {
        let linked = self
            .sessions
            .get(&from)
            .is_some_and(|session| session.link.is_some());
        if !linked && let Err(reason) = self.admit(&from, needy) {
            self.refuse_link(from, reason);
            return;
        }
        self.out.push_back((from, GossipMessage::Pong { token }));
        if !linked {
            self.start_link(from, now);
        }
        if let Some(session) = self.sessions.get_mut(&from) {
            session.needy = needy;
        }
    }

    fn receive_pong(&mut self, from: PeerId, token: u64, now: Instant) {
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

    fn receive_record(&mut self, from: PeerId, record: &Arc<Record>, now: Instant) {
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
            return;
        }
        if !session.checks.take(CHECK_BURST, CHECK_RATE, now) {
            self.counters.limited += 1;
            return;
        }
        let mut over_budget = false;
        let (config, authority, budgets) = (&self.config, &self.authority, &mut self.budgets);
        let merged = self.replica.merge(record, |record| {
            // The budget is the owner's: only what the owner did sign may use it up.
            let signed = is_signed(authority, record);
            let mut budget = || {
                let full = TokenBucket::full(config.owner_burst, now);
                let bucket = budgets.entry(record.key.owner).or_insert(full);
                bucket.take(config.owner_burst, config.owner_rate, now)
            };
            over_budget = signed && !budget();
            signed && !over_budget
        });
        if over_budget {
            self.counters.limited += 1;
            return;
        }
        self.account(from, record, merged, now);
    }

    fn account(&mut self, from: PeerId, record: &Arc<Record>, merged: Merge, now: Instant) {
        let owner = record.key.owner;
        match merged {
            Merge::New { body, conflict } => {
                self.counters.accepted += 1;
                if conflict {
                    self.warn(owner, "equivocation", Warning::Equivocation { owner });
                }
                self.accept(from, record, body, now);
            }
            Merge::Stale => self.counters.stale += 1,
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

    fn accept(&mut self, from: PeerId, record: &Arc<Record>, body: Body, now: Instant) {
        tracing::trace!(key = ?record.key, version = ?record.version, %from, "record accepted");
        self.apply(record, body, now);
        self.relay(record.key, Some(from), now);
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
        if !checked || !is_signed(&self.authority, record) {
            self.counters.forged += 1;
            return;
        }
        let pause = self.config.jump_interval;
        match self.own.echo(key.topic, record.version, same, pause, now) {
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
        let Some(session) = self.sessions.get_mut(&from) else {
            return;
        };
        for range in ranges.iter().take(ENTRIES) {
            match reconcile::answer(&self.replica, range) {
                Answer::Equal => {}
                Answer::Split(parts) => session.outbox.summarise(parts),
                Answer::List { first, last } => session.outbox.list(first, last),
            }
        }
        if !session.outbox.is_empty() {
            self.flush_soon(now);
        }
    }

    fn receive_versions(&mut self, from: PeerId, range: (u64, u64), held: &[Held], now: Instant) {
        let difference = reconcile::compare(&self.replica, range.0, range.1, held);
        let wanted = self.wants.ask(difference.want, from, now);
        let Some(session) = self.sessions.get_mut(&from) else {
            return;
        };
        difference
            .push
            .into_iter()
            .for_each(|key| session.outbox.push(key));
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
            .for_each(|key| session.outbox.push(*key));
        self.flush_soon(now);
    }
}

fn is_signed(authority: &impl Authority, record: &Record) -> bool {
    authority.verify(
        record.key.owner,
        &record.keys,
        &record.signed_bytes(),
        &record.signature_bytes(),
    )
}
