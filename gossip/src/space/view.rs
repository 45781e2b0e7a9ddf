//! The address space as people see it.

use proto::{ShortId, space::Block};

use super::{Init, Peers, Space};

/// What one peer has of the space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerView {
    /// Who.
    pub peer: ShortId,
    /// Addresses it owns.
    pub owned: u32,
    /// Addresses of those that it may use without asking.
    pub held: u32,
    /// Whether it can be reached; we can.
    pub reachable: bool,
}

/// The whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpaceView {
    /// What it waits for, or `ready`.
    pub state: String,
    /// Names the division; none before it.
    pub ring: Option<u64>,
    /// Addresses in the range.
    pub total: u32,
    /// Addresses in use here.
    pub used: u32,
    /// Addresses in use here that belong to others.
    pub claims: Vec<u32>,
    /// Wishes that wait.
    pub waiting: usize,
    /// Who keeps what we own in mind.
    pub guards: Vec<ShortId>,
    /// What everybody has.
    pub owners: Vec<OwnerView>,
}

impl Space {
    /// The space for people.
    pub fn view(&self, peers: &impl Peers) -> SpaceView {
        let count = |blocks: &[Block], all: bool| {
            let some = blocks.iter().filter(|block| all || block.held);
            some.map(|block| block.len).sum()
        };
        let own = OwnerView {
            peer: self.me,
            owned: count(&self.mine.blocks, true),
            held: count(&self.mine.blocks, false),
            reachable: true,
        };
        let others = self.table.iter().map(|(peer, entry)| OwnerView {
            peer: *peer,
            owned: count(&entry.space.blocks, true),
            held: count(&entry.space.blocks, false),
            reachable: peers.reaches(*peer),
        });
        let owners = [own].into_iter().chain(others);
        SpaceView {
            state: self.state(peers),
            ring: self.ring.map(|ring| ring.id),
            total: self.range().len(),
            used: self.used.len() as u32,
            claims: self.claims().collect(),
            waiting: self.requests.len(),
            guards: self.mine.guards.clone(),
            owners: owners.filter(|owner| owner.owned > 0).collect(),
        }
    }

    /// What it waits for.
    fn state(&self, peers: &impl Peers) -> String {
        let wanted = self.primed || !self.requests.is_empty();
        match (self.ring, &self.config.init) {
            (None, _) if !wanted => "idle: nobody needed an address yet".to_owned(),
            (None, Init::Observer) => "waiting for the others to divide the range".to_owned(),
            (None, Init::Consensus(count)) => format!(
                "waiting for consensus: {} of {} peers must agree, {} can be reached",
                count.max(&1) / 2 + 1,
                count.max(&1),
                peers.candidates().len() + 1
            ),
            (None, Init::Seeds(_)) => "dividing".to_owned(),
            (Some(_), _) if self.leaving => "giving everything back".to_owned(),
            (Some(_), _) if self.behind => {
                "this peer's state is older than what others know of it: waiting to hear its own later words".to_owned()
            }
            (Some(_), _) if !self.recovered => format!(
                "launched anew: waiting for half of the guards ({}) to confirm what this peer owns",
                self.mine.guards.len()
            ),
            (Some(_), _) if self.requests.is_empty() => "ready".to_owned(),
            (Some(_), _) if !self.mine.pending.is_empty() => {
                "waiting for the guards to know that more is in use".to_owned()
            }
            (Some(_), _) if self.ask.is_some() => "waiting for space from another peer".to_owned(),
            (Some(_), _) => "waiting for space".to_owned(),
        }
    }
}
