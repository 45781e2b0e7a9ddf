//! The address space as people see it.

use std::{cmp::Reverse, collections::BTreeMap};

use proto::{ShortId, space::Block};

use super::{Init, Peers, Space, span::Span};

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
        let others = self.table.iter();
        let others = others.map(|(peer, entry)| (*peer, &entry.space.blocks));
        let all = [(self.me, &self.mine.blocks)].into_iter().chain(others);
        let owners = current(all).into_iter().map(|(peer, blocks)| OwnerView {
            peer,
            owned: count(&blocks, true),
            held: count(&blocks, false),
            reachable: peer == self.me || peers.reaches(peer),
        });
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

/// What everybody owns without what others own by a later gift or takeover: of a peer
/// that is gone, only what it had long ago may be known.
fn current<'a>(
    owners: impl Iterator<Item = (ShortId, &'a Vec<Block>)>,
) -> Vec<(ShortId, Vec<Block>)> {
    let mut all: Vec<(ShortId, Vec<Block>)> = Vec::new();
    let mut by_epoch: Vec<(u32, usize, Block)> = Vec::new();
    for (at, (peer, blocks)) in owners.enumerate() {
        all.push((peer, Vec::new()));
        by_epoch.extend(blocks.iter().map(|block| (block.epoch, at, *block)));
    }
    by_epoch.sort_unstable_by_key(|(epoch, at, block)| (Reverse(*epoch), *at, block.start));
    // Disjoint, by their starts.
    let mut covered: BTreeMap<u32, u32> = BTreeMap::new();
    for (_, at, block) in by_epoch {
        let span = Span::of(&block);
        let mut rest = vec![span];
        let reaches_in = covered.range(..span.start).next_back();
        for (start, end) in reaches_in
            .into_iter()
            .chain(covered.range(span.start..span.end))
        {
            let (start, end) = (*start, *end);
            super::span::remove(&mut rest, Span { start, end });
        }
        for span in rest {
            covered.insert(span.start, span.end);
            all[at].1.push(Block {
                start: span.start,
                len: span.len(),
                ..block
            });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_had_before_is_not_counted_twice() {
        let block = |start, len, epoch| Block {
            start,
            len,
            epoch,
            held: true,
        };
        let [a, b] = [ShortId([1; 8]), ShortId([2; 8])];
        let (before, later) = (
            vec![block(0, 256, 1)],
            vec![block(32, 16, 2), block(64, 192, 3)],
        );
        let found = current([(a, &before), (b, &later)].into_iter());
        let owned = |at: usize| found[at].1.iter().map(|block| block.len).sum::<u32>();
        assert_eq!((owned(0), owned(1)), (48, 208));
        assert_eq!(found[0].1, [block(0, 32, 1), block(48, 16, 1)]);
    }
}
