//! What a host sees of the rest while it handles something: the time, the
//! underlay, and where what it causes goes.

use std::time::Instant;

use super::{
    cast::Cast,
    observe::{Log, Watch},
    queue::{Event, Queue},
    time::{Clock, Time},
    wan::Wan,
};

/// What all shards look at while they run a window. Changes only in between.
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    pub(crate) wan: Wan,
    pub(crate) watch: Watch,
    /// Who the peers are, if they run whole.
    pub(crate) cast: Option<Cast>,
    /// Nothing travels over sessions but heartbeats.
    pub(crate) quiet: bool,
    /// Host n lives in shard n % shards.
    pub(crate) shards: usize,
}

/// The surroundings of a host of one shard at one moment.
pub(crate) struct Net<'a> {
    pub(crate) now: Time,
    pub(crate) shared: &'a Shared,
    /// The shard's own events.
    pub(crate) queue: &'a mut Queue,
    /// Events for hosts of other shards, by shard.
    pub(crate) outgoing: &'a mut [Vec<Event>],
    /// Which shard this is.
    pub(crate) shard: usize,
    pub(crate) log: &'a mut Log,
}

impl Net<'_> {
    /// The time as meshes know it.
    pub(crate) fn instant(&self) -> Instant {
        self.shared.clock.instant(self.now)
    }

    /// Puts an event where it happens.
    pub(crate) fn happen(&mut self, event: Event) {
        let shard = event.to as usize % self.shared.shards;
        if shard == self.shard {
            self.queue.push(event);
        } else {
            self.outgoing[shard].push(event);
        }
    }
}
