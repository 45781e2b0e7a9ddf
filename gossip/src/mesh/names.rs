//! Names: ours are published, everybody's are taken in.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use proto::{
    PeerId,
    record::{Body, Name, RecordKey, Topic},
};

use super::Mesh;
use crate::{
    config::Authority,
    event::Warning,
    limits::NAMES_PER_PEER,
    names::{Changed, Directory, Standing},
};

/// Changes of names that are published one by one, at once and per second; more
/// wait for each other: a host on which a hundred containers start must not use up
/// what others let it say.
pub(super) const NAMES_BURST: u32 = 20;
const NAMES_RATE: u32 = 4;

impl<A: Authority> Mesh<A> {
    /// Says which names are ours; all of them at every call.
    pub fn set_names(&mut self, names: impl IntoIterator<Item = (String, IpAddr)>, now: Instant) {
        let full = !self.names.set(names);
        if full {
            let limit = NAMES_PER_PEER;
            self.warn(self.local.id, "names", Warning::TooManyNames { limit });
        }
        if !self.names.has_changed() {
            return;
        }
        if self.names_told.take(NAMES_BURST, NAMES_RATE, now) {
            self.publish_names(now);
            self.tell_changes();
        } else {
            let at = now + Duration::from_secs(1) / NAMES_RATE;
            self.timers.names.get_or_insert(at);
        }
    }

    pub(super) fn publish_names(&mut self, now: Instant) {
        self.timers.names = None;
        for (part, names) in self.names.take_changed() {
            self.publish(Topic::Names(part), Body::Names(names), now);
        }
    }

    /// Everybody's names.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// What changed in the directory since the last call.
    pub fn take_changed_names(&mut self) -> Changed {
        self.directory.take_changed()
    }

    pub(super) fn apply_names(&mut self, owner: PeerId, part: u16, epoch: u64, names: &[Name]) {
        let node = RecordKey {
            owner,
            topic: Topic::Node,
        };
        let standing = Standing {
            reachable: owner == self.local.id || self.routes().reaches(&owner),
            launch: self.replica.get(&node).map_or(0, |node| node.version.epoch),
        };
        self.directory.report(owner, part, (epoch, names), standing);
    }
}
