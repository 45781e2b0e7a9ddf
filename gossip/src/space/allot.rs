//! Addresses for containers: given out, claimed, released.

use std::{collections::BTreeSet, time::Instant};

use proto::space::{self as wire, Block};

use super::{
    Peers, Space,
    span::{self, Span},
};

/// Addresses that become held at once, at least.
const HOLD: u32 = 64;

/// A wish for one address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    id: u64,
    /// Where it should be.
    span: Span,
    /// Not to be given: network and broadcast address.
    ends: [u32; 2],
    /// Everybody who might help was asked.
    hopeless: bool,
}

/// An address that is now ours to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Offset in the range.
    pub at: u32,
}

/// What came of a wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Which wish.
    pub id: u64,
    /// The address, or why there is none.
    pub result: Result<Grant, String>,
}

impl Space {
    /// Wishes for an address within `span`, whose ends are not given out. The
    /// outcome comes from [`Space::poll_outcome`].
    pub fn allocate(&mut self, id: u64, span: Span) {
        let Some(span) = span.meet(self.range()) else {
            let result = Err("the subnet is outside the range of --ipalloc-range".to_owned());
            return self.outcomes.push_back(Outcome { id, result });
        };
        let ends = [span.start, span.end.saturating_sub(1)];
        self.requests.push_back(Request {
            id,
            span,
            ends,
            hopeless: false,
        });
        self.stale = true;
    }

    /// Gives up a wish.
    pub fn give_up(&mut self, id: u64) {
        self.requests.retain(|request| request.id != id);
        self.stale = true;
    }

    /// Has the range divided although nobody needs an address yet.
    pub fn prime(&mut self) {
        self.primed = true;
        self.stale = true;
    }

    /// Whether the range was divided.
    pub fn is_ready(&self) -> bool {
        self.ring.is_some()
    }

    /// An address is in use here, whoever gave it.
    pub fn hold(&mut self, at: u32) {
        if self.range().contains(at) && self.used.insert(at) && !self.owns(at) {
            self.changed |= self.ring.is_some();
            self.stale = true;
        }
    }

    /// An address is not in use here any more.
    pub fn release(&mut self, at: u32) {
        if self.used.remove(&at) {
            self.changed |= self.ring.is_some() && !self.owns(at);
            self.stale = true;
        }
    }

    /// Whether the block that an address is in is ours.
    pub fn owns(&self, at: u32) -> bool {
        let blocks = &self.mine.blocks;
        blocks.iter().any(|block| Span::of(block).contains(at))
    }

    /// Addresses in use here that are not ours.
    pub(super) fn claims(&self) -> impl Iterator<Item = u32> {
        self.used.iter().copied().filter(|at| !self.owns(*at))
    }

    /// Serves wishes in turn, as far as space is there; else sees to more.
    pub(super) fn serve(&mut self, peers: &impl Peers, now: Instant) {
        // Looked for only if somebody wants something: it is about all peers.
        let claimed = match self.requests.is_empty() {
            true => BTreeSet::new(),
            false => self.claimed(),
        };
        for _ in 0..self.requests.len() {
            let Some(request) = self.requests.pop_front() else {
                break;
            };
            if let Some(at) = self.find(&request, &claimed, peers) {
                self.used.insert(at);
                self.tried.clear();
                let result = Ok(Grant { at });
                self.outcomes.push_back(Outcome {
                    id: request.id,
                    result,
                });
            } else if request.hopeless {
                let result = Err(self.why_none(peers));
                self.outcomes.push_back(Outcome {
                    id: request.id,
                    result,
                });
            } else {
                self.requests.push_back(request);
            }
        }
        let Some(first) = self.requests.front().copied() else {
            // Single addresses in use here that others own.
            let rests = self.claims_at.is_some_and(|at| now < at);
            let claim = if rests { None } else { self.claim_to_ask_for() };
            return self.ask_for(claim, peers, now);
        };
        if !self.hold_more(first.span) {
            self.ask_for(Some(first.span), peers, now);
        }
    }

    /// What others use outside their own space is given to nobody.
    fn claimed(&self) -> BTreeSet<u32> {
        let claimants = self.entries(&self.concern.claimants);
        let claims = claimants.flat_map(|(_, entry)| &entry.space.claims);
        claims.copied().collect()
    }

    fn find(&self, request: &Request, claimed: &BTreeSet<u32>, peers: &impl Peers) -> Option<u32> {
        if !self.recovered || self.leaving {
            return None;
        }
        let last = self.range().end - 1;
        let is_free = |at: &u32| {
            *at != 0
                && *at != last
                && !request.ends.contains(at)
                && !self.used.contains(at)
                && !claimed.contains(at)
                && !peers.is_seen(self.address(*at))
        };
        let spans = self.mine.usable.iter();
        spans
            .filter_map(|span| span.meet(request.span))
            .flat_map(|span| span.start..span.end)
            .find(is_free)
    }

    /// Holds more of what we own; whether some is or will be held.
    fn hold_more(&mut self, wanted: Span) -> bool {
        let pending = self.mine.pending.iter();
        if pending.clone().any(|(_, span)| span.meet(wanted).is_some()) {
            return true;
        }
        if !self.recovered {
            return !self.mine.blocks.is_empty();
        }
        let spare = self.mine.blocks.iter().filter(|block| !block.held);
        let Some((block, part)) = spare
            .filter_map(|block| Some((*block, Span::of(block).meet(wanted)?)))
            .max_by_key(|(_, part)| part.len())
        else {
            return false;
        };
        let len = (part.len() / 8).max(HOLD).min(part.len());
        let held = Span::new(part.start, len);
        if self.mine.blocks.len() + 2 > wire::BLOCKS && len < block.len {
            // Too finely cut already: all of it.
            return self.hold_block(Span::of(&block), block);
        }
        self.hold_block(held, block)
    }

    fn hold_block(&mut self, span: Span, of: Block) -> bool {
        let block = Block {
            start: span.start,
            len: span.len(),
            held: true,
            ..of
        };
        span::put(&mut self.mine.blocks, block);
        // The serial that this change will get.
        self.mine.pending.push((self.mine.serial + 1, span));
        self.changed = true;
        self.stale = true;
        true
    }

    /// Marks the wishes that nobody who was asked could fulfil.
    pub(super) fn lose_hope(&mut self, wanted: Span) {
        for request in &mut self.requests {
            request.hopeless |= request.span == wanted;
        }
        self.stale = true;
    }

    fn why_none(&self, peers: &impl Peers) -> String {
        let more = match self.owners_out_of_reach(peers) {
            0 => {
                "detach what is not needed, or launch all peers anew with a larger --ipalloc-range"
                    .to_owned()
            }
            1 => "an owner cannot be reached: if it is gone for good, `wove rmpeer` brings its space back".to_owned(),
            n => format!(
                "{n} owners cannot be reached: if they are gone for good, `wove rmpeer` brings their space back"
            ),
        };
        format!("no address is free: {more}; see `wove status ipam`")
    }
}
