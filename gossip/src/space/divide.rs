//! The first division of the range: one value, decided by Paxos (Lamport, "Paxos
//! Made Simple", 2001) among those who are there, each in its own record.

use std::time::{Duration, Instant};

use proto::{
    ShortId,
    space::{self as wire, Ballot, Block, Division, Founding, Ring, Space as SpaceRecord},
};
use rand::Rng;

use super::{
    Entry, Init, Peers, Space,
    span::{self, Span},
    vote::Attempt,
};

/// An attempt has so long before the next; jittered.
pub(super) const ATTEMPT: Duration = Duration::from_millis(1500);

impl Space {
    /// Takes part in the first division, and learns what was decided.
    pub(super) fn divide(&mut self, peers: &impl Peers, now: Instant) {
        if self.ring.is_some() && self.division.as_ref().is_some_and(|own| own.decided) {
            return;
        }
        if let Some(founding) = self.decided() {
            return self.found(&founding);
        }
        if self.ring.is_some() {
            return;
        }
        match &self.config.init {
            Init::Seeds(seeds) => {
                let founding = self.seeded(seeds.clone());
                self.found(&founding);
            }
            Init::Observer => {
                if self.wants_division() && self.division.is_none() {
                    // An empty vote: whoever may divide is called on to do so.
                    self.own_division();
                    self.note_division();
                }
            }
            Init::Consensus(count) => {
                let count = *count;
                self.promise_and_accept();
                if self.wants_division() || self.divisions.values().any(is_empty_vote) {
                    self.propose(count, peers, now);
                }
            }
        }
    }

    fn wants_division(&self) -> bool {
        self.primed || !self.requests.is_empty()
    }

    fn seeded(&self, mut founders: Vec<ShortId>) -> Founding {
        founders.sort_unstable();
        founders.dedup();
        founders.truncate(wire::FOUNDERS);
        let id = founders.iter().fold(1, |id, founder| {
            super::settle::weight(ShortId(u64::to_be_bytes(id)), *founder)
        });
        let quorum = 0;
        Founding {
            id,
            quorum,
            founders,
        }
    }

    fn votes(&self) -> impl Iterator<Item = (ShortId, &Division)> {
        let own = self.division.iter().map(|own| (self.me, own));
        own.chain(self.divisions.iter().map(|(peer, vote)| (*peer, vote)))
    }

    /// The value that enough have accepted by one ballot.
    fn decided(&self) -> Option<Founding> {
        let said = self.votes().filter(|(_, said)| said.decided);
        let values = said.filter_map(|(_, said)| said.accepted.as_ref());
        let mut values = values.map(|(_, value)| value);
        let ours = |value: &&Founding| self.ring.is_none_or(|ring| ring.id == value.id);
        if let Some(value) = values.find(ours) {
            return Some(value.clone());
        }
        let accepted = || self.votes().filter_map(|(_, vote)| vote.accepted.as_ref());
        let (_, value) = accepted().find(|(ballot, value)| {
            let same = accepted().filter(|(other, _)| other == ballot).count();
            same >= usize::from(value.quorum).max(1)
        })?;
        Some(value.clone())
    }

    pub(super) fn own_division(&mut self) -> &mut Division {
        let (base, prefix) = (self.config.base.to_bits(), self.config.prefix);
        self.division.get_or_insert_with(|| Division {
            base,
            prefix,
            promised: Ballot::default(),
            accepted: None,
            decided: false,
            roll: Vec::new(),
            call: None,
            census: None,
            begun: 0,
            done: 0,
        })
    }

    fn promise_and_accept(&mut self) {
        let highest = self.votes().map(|(_, vote)| vote.promised).max();
        let Some(highest) = highest.filter(|ballot| *ballot > Ballot::default()) else {
            return;
        };
        let latest = self
            .divisions
            .values()
            .filter_map(|vote| vote.accepted.clone())
            .max_by_key(|(ballot, _)| *ballot);
        let own = self.own_division();
        let before = own.clone();
        own.promised = own.promised.max(highest);
        if let Some((ballot, value)) = latest
            && ballot >= own.promised
            && own.accepted.as_ref().is_none_or(|(held, _)| *held < ballot)
        {
            own.accepted = Some((ballot, value));
        }
        if *own != before {
            self.note_division();
        }
    }

    pub(super) fn note_division(&mut self) {
        (self.dirty.division, self.dirty.saved, self.stale) = (true, true, true);
    }

    fn propose(&mut self, count: usize, peers: &impl Peers, now: Instant) {
        let quorum = count.max(1) / 2 + 1;
        let Some(attempt) = self.founding.clone().filter(|attempt| now < attempt.until) else {
            return self.begin_founding(now);
        };
        let Some(ballot) = Some(attempt.ballot).filter(|ballot| {
            let own = self.division.as_ref();
            own.is_some_and(|own| {
                own.promised == *ballot
                    && own.accepted.as_ref().is_none_or(|(held, _)| held != ballot)
            })
        }) else {
            return;
        };
        let promised: Vec<ShortId> = self
            .votes()
            .filter(|(_, vote)| vote.promised == ballot)
            .map(|(peer, _)| peer)
            .collect();
        if promised.len() < quorum {
            return;
        }
        let latest = self
            .votes()
            .filter(|(_, vote)| vote.promised == ballot)
            .filter_map(|(_, vote)| vote.accepted.clone())
            .max_by_key(|(ballot, _)| *ballot);
        let value = match latest {
            Some((_, value)) => value,
            None => self.new_founding(quorum, promised, peers),
        };
        self.own_division().accepted = Some((ballot, value));
        self.note_division();
    }

    fn begin_founding(&mut self, now: Instant) {
        let round = self.votes().map(|(_, vote)| vote.promised.round).max();
        let ballot = Ballot {
            round: round.unwrap_or(0).saturating_add(1),
            proposer: self.me,
        };
        let until = now + ATTEMPT.mul_f64(self.rng.random_range(0.7..1.3));
        self.founding = Some(Attempt::new(ballot, until));
        self.own_division().promised = ballot;
        self.note_division();
    }

    fn new_founding(
        &mut self,
        quorum: usize,
        mut founders: Vec<ShortId>,
        peers: &impl Peers,
    ) -> Founding {
        founders.extend(peers.candidates());
        founders.push(self.me);
        founders.sort_unstable();
        founders.dedup();
        // The proposer is among them in any case.
        while founders.len() > wire::FOUNDERS {
            let at = usize::from(founders.last() == Some(&self.me));
            founders.remove(founders.len() - 1 - at);
        }
        Founding {
            id: self.rng.random(),
            quorum: u16::try_from(quorum).unwrap_or(u16::MAX),
            founders,
        }
    }

    /// Does what was decided.
    fn found(&mut self, founding: &Founding) {
        let ring = Ring {
            id: founding.id,
            base: self.config.base.to_bits(),
            prefix: self.config.prefix,
        };
        if self.ring.is_some_and(|known| known != ring) {
            // What was decided is not what we have: two rings, and the other is said elsewhere.
            return;
        }
        let own = self.own_division();
        let ballot = own.accepted.as_ref().filter(|(_, value)| value == founding);
        let ballot = ballot.map(|(ballot, _)| *ballot).unwrap_or_default();
        own.accepted = Some((ballot, founding.clone()));
        own.decided = true;
        self.note_division();
        self.ring = Some(ring);
        self.founding = None;
        (self.dirty.saved, self.stale) = (true, true);
        let founders = &founding.founders;
        let shares = shares(self.range(), founders.len());
        for (at, (founder, share)) in founders.iter().zip(shares).enumerate() {
            let guards: Vec<ShortId> = (1..founders.len())
                .map(|step| founders[(at + step) % founders.len()])
                .take(wire::GUARDS)
                .collect();
            if *founder == self.me {
                self.take_share(share, guards);
            } else {
                self.imagine(*founder, share, guards, ring);
            }
        }
        self.mine.founded = true;
        for (from, said) in std::mem::take(&mut self.early) {
            self.hear_space(from, &said);
        }
    }

    fn take_share(&mut self, share: Span, mut guards: Vec<ShortId>) {
        if std::mem::replace(&mut self.mine.founded, true) {
            return;
        }
        guards.sort_unstable();
        self.mine.guards = guards;
        // Somebody may have buried us while we slept: ask first.
        self.recovered = false;
        self.gain(share, 1);
        // The others know it by the division: it can be taken before we said a word.
        self.mine.gains.clear();
    }

    /// What a founder will say of itself once it knows.
    fn imagine(&mut self, founder: ShortId, share: Span, guards: Vec<ShortId>, ring: Ring) {
        let mut blocks = Vec::new();
        let held = span::held_share(share.len());
        for (start, len, held) in [
            (share.start, held, true),
            (share.start + held, share.len() - held, false),
        ] {
            let epoch = 1;
            span::put(
                &mut blocks,
                Block {
                    start,
                    len,
                    epoch,
                    held,
                },
            );
        }
        let space = SpaceRecord {
            ring,
            life: 0,
            serial: 0,
            guards,
            former: Vec::new(),
            blocks,
            gifts: Vec::new(),
            taken: Vec::new(),
            lost: Vec::new(),
            claims: Vec::new(),
            ask: None,
            range6: None,
            leaving: false,
        };
        self.table.entry(founder).or_insert(Entry {
            space,
            began: None,
            inherited: true,
            estate: None,
            bids: Vec::new(),
        });
        self.note_entry(founder);
        self.note_ward(founder);
    }
}

/// Whether a peer that may not divide calls on others to do it. Whoever takes part in
/// a division says which.
fn is_empty_vote(said: &Division) -> bool {
    said.promised == Ballot::default()
        && said.accepted.is_none()
        && !said.decided
        && said.call.is_none()
        && said.census.is_none()
}

/// Equal parts of a run, cut where prefixes begin if it is large.
fn shares(range: Span, count: usize) -> Vec<Span> {
    let count = u32::try_from(count.max(1)).unwrap_or(1);
    let step = match range.len() / count {
        small if small < 4096 => 1,
        _ => 256,
    };
    let cut = |at: u32| {
        let exact = u64::from(range.len()) * u64::from(at) / u64::from(count);
        let exact = u32::try_from(exact).unwrap_or(range.len());
        range.start
            + if at == count {
                range.len()
            } else {
                exact / step * step
            }
    };
    (0..count)
        .map(|at| Span {
            start: cut(at),
            end: cut(at + 1),
        })
        .collect()
}
