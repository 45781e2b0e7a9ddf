//! The version of our own records, and what to do when somebody else signs
//! with our key: our own past whose epoch was lost, or a cloned disk.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use proto::record::{Topic, Version};

/// The pause after the first jump.
const PAUSE: Duration = Duration::from_secs(1);

/// Versions of our own records.
#[derive(Clone, Debug)]
pub struct Own {
    epoch: u64,
    sequences: BTreeMap<Topic, u64>,
    jumps: u32,
    jumped: Option<Instant>,
}

/// What a foreign copy of one of our records means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Echo {
    /// What we said, or older.
    Ours,
    /// A record of an earlier launch about something we say nothing about now: overwrite it.
    Leftover,
    /// Somebody was ahead of us. Our epoch is now higher: publish everything again.
    Jumped {
        /// It is not the first time in this launch: somebody else uses our key, now.
        cloned: bool,
    },
    /// As before, but we jumped a moment ago.
    Cloned,
}

impl Own {
    /// Starts at an epoch.
    pub fn new(epoch: u64) -> Self {
        Self {
            epoch,
            sequences: BTreeMap::new(),
            jumps: 0,
            jumped: None,
        }
    }

    /// The present epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The version for the next record about `topic`.
    pub fn next(&mut self, topic: Topic) -> Version {
        let sequence = self.sequences.entry(topic).or_insert(0);
        *sequence = sequence.saturating_add(1);
        Version {
            epoch: self.epoch,
            sequence: *sequence,
        }
    }

    /// Judges an authentic record under our key that came from outside.
    /// `same`: it is byte for byte what we hold. The pause between two jumps doubles
    /// up to `longest`: two daemons with one key that jump over each other soon cost
    /// the mesh nothing, and one that is left alone is soon heard again.
    pub fn echo(
        &mut self,
        topic: Topic,
        seen: Version,
        same: bool,
        longest: Duration,
        now: Instant,
    ) -> Echo {
        let ours = self.sequences.get(&topic).map(|sequence| Version {
            epoch: self.epoch,
            sequence: *sequence,
        });
        let ahead = match ours {
            Some(ours) => seen > ours || (seen == ours && !same),
            None => seen.epoch >= self.epoch,
        };
        if !ahead {
            return if ours.is_none() {
                Echo::Leftover
            } else {
                Echo::Ours
            };
        }
        let cloned = self.jumps > 0;
        let pause = PAUSE
            .saturating_mul(1 << self.jumps.saturating_sub(1).min(16))
            .min(longest);
        if self.jumped.is_some_and(|at| now < at + pause) {
            return Echo::Cloned;
        }
        let Some(epoch) = seen.epoch.max(self.epoch).checked_add(1) else {
            return Echo::Cloned;
        };
        self.epoch = epoch;
        self.jumps = self.jumps.saturating_add(1);
        self.jumped = Some(now);
        Echo::Jumped { cloned }
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some instant to count from"
)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_epoch_is_jumped_over_once_and_a_clone_is_noticed() {
        let now = Instant::now();
        let pause = Duration::from_secs(60);
        let version = |epoch, sequence| Version { epoch, sequence };
        let mut own = Own::new(3);
        let first = own.next(Topic::Node);
        assert_eq!(own.echo(Topic::Node, first, true, pause, now), Echo::Ours);
        assert_eq!(
            own.echo(Topic::Node, version(2, 99), false, pause, now),
            Echo::Ours
        );
        assert_eq!(
            own.echo(Topic::Stations(1), version(2, 9), false, pause, now),
            Echo::Leftover
        );
        assert_eq!(
            own.echo(Topic::Node, version(7, 1), false, pause, now),
            Echo::Jumped { cloned: false }
        );
        assert!(own.next(Topic::Node) > version(8, 0));
        assert_eq!(
            own.echo(Topic::Links(0), version(7, 4), false, pause, now),
            Echo::Leftover
        );
        assert_eq!(
            own.echo(Topic::Node, version(9, 1), false, pause, now),
            Echo::Cloned
        );
        assert_eq!(
            own.echo(Topic::Node, version(9, 1), false, pause, now + PAUSE),
            Echo::Jumped { cloned: true }
        );
        assert_eq!(
            own.echo(Topic::Node, version(11, 1), false, pause, now + 2 * PAUSE),
            Echo::Cloned
        );
        assert_eq!(
            own.echo(
                Topic::Node,
                version(u64::MAX, 1),
                false,
                pause,
                now + 2 * pause
            ),
            Echo::Cloned
        );
    }
}
