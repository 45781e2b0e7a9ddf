//! Watching from inside, at the exact virtual time: when each host came to know
//! something, and which peers it lost from its routes without cause.

use proto::MacAddr;

use super::{
    time::{NEVER, Time},
    view::View,
};

/// What all hosts look out for. Changes only between windows.
#[derive(Default)]
pub(crate) struct Watch {
    pub(crate) items: Vec<Item>,
    /// Whether losses of reach are noted, and who counts.
    pub(crate) reach: Option<ReachWatch>,
}

/// One thing to look out for.
#[derive(Clone, Copy)]
pub(crate) enum Item {
    /// The station is known to be behind the peer.
    Station { mac: MacAddr, owner: u32 },
    /// No route leads to the peer any more.
    Gone { peer: u32 },
    /// The name of this number is known.
    Named { name: u32 },
    /// It is not.
    Unnamed { name: u32 },
}

/// The text of the name of a number.
pub(crate) fn name_of(number: u32) -> String {
    format!("name-{number}")
}

impl Item {
    /// Whether it is so in the eyes of a peer.
    pub(crate) fn holds(&self, view: View<'_>) -> bool {
        match self {
            Self::Station { mac, owner } => view.peer_of(mac) == Some(*owner),
            Self::Gone { peer } => !view.reaches(*peer),
            Self::Named { name } => view.knows_name(&name_of(*name)),
            Self::Unnamed { name } => !view.knows_name(&name_of(*name)),
        }
    }
}

/// Which losses of reach are false.
pub(crate) struct ReachWatch {
    /// By host: since when it is well enough to count, as observer and as
    /// subject; never if it is not.
    pub(crate) well_since: Vec<Time>,
    /// How many peers run.
    pub(crate) running: usize,
}

/// A peer that is well became unreachable in the routes of another that is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lost {
    pub(crate) at: Time,
    pub(crate) observer: u32,
    pub(crate) subject: u32,
}

/// What the hosts of one shard saw.
#[derive(Default)]
pub(crate) struct Log {
    shards: usize,
    hosts: usize,
    /// By item and host: since when it holds.
    since: Vec<Vec<Time>>,
    /// By host: the peers that were reached when looked at last.
    reached: Vec<Reached>,
    /// False losses.
    pub(crate) lost: Vec<Lost>,
    /// By subject: when it was lost last while it was not well.
    unwell_at: Vec<Time>,
    /// Losses of peers that were not well, one subject at most once per
    /// [`EPISODE`].
    pub(crate) unwell: u64,
    scratch: Vec<u64>,
}

/// Losses of one subject within this time are one episode.
pub(crate) const EPISODE: std::time::Duration = std::time::Duration::from_secs(5);

#[derive(Clone, Default)]
struct Reached {
    bits: Vec<u64>,
    /// Everybody who runs is in it.
    all: bool,
}

impl Log {
    /// For so many hosts, every `shards`th of which are in this shard.
    pub(crate) fn new(hosts: usize, shards: usize) -> Self {
        Self {
            shards,
            hosts,
            ..Self::default()
        }
    }

    /// One more item; it may hold already.
    pub(crate) fn add_item(&mut self, since: Vec<Time>) {
        self.since.push(since);
    }

    /// Forgets all items.
    pub(crate) fn clear_items(&mut self) {
        self.since.clear();
    }

    /// Since when an item holds at a host of this shard; [`NEVER`] if it does not.
    pub(crate) fn since(&self, item: usize, host: u32) -> Time {
        self.since[item][host as usize / self.shards]
    }

    /// Begins to note losses of reach.
    pub(crate) fn start_reach(&mut self) {
        let local = self.hosts.div_ceil(self.shards);
        self.reached = vec![Reached::default(); local];
        self.unwell_at = vec![Time::default(); self.hosts];
        (self.lost, self.unwell) = (Vec::new(), 0);
    }

    /// Ends it and frees the memory.
    pub(crate) fn stop_reach(&mut self) {
        (self.reached, self.unwell_at, self.scratch) = Default::default();
    }

    /// A host placed stations differently.
    pub(crate) fn stations_changed(&mut self, watch: &Watch, host: u32, view: View<'_>, now: Time) {
        let is_station = |item: &Item| matches!(item, Item::Station { .. });
        self.look(watch, is_station, host, view, now);
    }

    /// A host knows other names.
    pub(crate) fn names_changed(&mut self, watch: &Watch, host: u32, view: View<'_>, now: Time) {
        let is_name = |item: &Item| matches!(item, Item::Named { .. } | Item::Unnamed { .. });
        self.look(watch, is_name, host, view, now);
    }

    /// A host has new routes.
    pub(crate) fn routes_changed(&mut self, watch: &Watch, host: u32, view: View<'_>, now: Time) {
        let is_gone = |item: &Item| matches!(item, Item::Gone { .. });
        self.look(watch, is_gone, host, view, now);
        if let Some(reach) = &watch.reach {
            self.compare_reach(reach, host, view, now);
        }
    }

    fn look(
        &mut self,
        watch: &Watch,
        concerns: impl Fn(&Item) -> bool,
        host: u32,
        view: View<'_>,
        now: Time,
    ) {
        let local = host as usize / self.shards;
        for (item, since) in watch.items.iter().zip(&mut self.since) {
            let since = &mut since[local];
            if !concerns(item) {
                continue;
            }
            match item.holds(view) {
                true => *since = now.min(*since),
                false => *since = NEVER,
            }
        }
    }

    /// Finds who was reached when looked at last and is not now.
    fn compare_reach(&mut self, reach: &ReachWatch, host: u32, view: View<'_>, now: Time) {
        let before = &mut self.reached[host as usize / self.shards];
        let all = view.reachable_count() + 1 >= reach.running;
        if all && before.all {
            return;
        }
        self.scratch.clear();
        self.scratch.resize(self.hosts.div_ceil(64), 0);
        for peer in view.reached() {
            let number = peer as usize;
            if number < self.hosts {
                self.scratch[number / 64] |= 1 << (number % 64);
            }
        }
        let observes = reach.well_since[host as usize] <= now;
        for (word, (old, new)) in before.bits.iter().zip(&self.scratch).enumerate() {
            let mut lost = old & !new;
            while lost != 0 {
                let subject = word as u32 * 64 + lost.trailing_zeros();
                lost &= lost - 1;
                if reach.well_since[subject as usize] <= now {
                    if observes {
                        self.lost.push(Lost {
                            at: now,
                            observer: host,
                            subject,
                        });
                    }
                } else if now >= self.unwell_at[subject as usize] + EPISODE {
                    self.unwell_at[subject as usize] = now;
                    self.unwell += 1;
                }
            }
        }
        before.all = all;
        std::mem::swap(&mut before.bits, &mut self.scratch);
    }
}
