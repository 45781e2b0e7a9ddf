//! The address space: what operators ask of it, and what they see.

use std::{collections::BTreeMap, net::IpAddr, time::Instant};

use gossip::{
    Stranger,
    space::{Outcome, Saved, SpaceConfig, Span},
};
use ipnet::{Ipv4Net, Ipv6Net};
use proto::{PeerId, ShortId};

use super::{Event, Router};
use crate::engine::{
    Ranges,
    status::{IpamStatus, OwnerStatus},
};

/// Peers that are named where many differ.
const NAMED: usize = 4;

/// How this peer takes part in the address space.
#[derive(Clone, Debug)]
pub struct SpaceSetup {
    /// The range, and how it is divided.
    pub config: SpaceConfig,
    /// What the launch before saved.
    pub saved: Option<Saved>,
}

impl Router {
    /// The ranges from which addresses are given out.
    pub fn ranges(&self) -> Option<Ranges> {
        let config = &self.config.space.as_ref()?.config;
        let v6 = config
            .range6
            .and_then(|range| Ipv6Net::new(range.base, range.prefix).ok());
        let v4 = Ipv4Net::new(config.base, config.prefix).ok()?;
        Some(Ranges { v4, v6 })
    }

    /// Wishes for an address among some offsets; the answer is an [`Event::Address`].
    pub fn allocate(&mut self, id: u64, span: Span, now: Instant) {
        if self.mesh.space().is_none() {
            let result = Err("this peer was launched without an address range: give an address, or launch it with --ipalloc-range".to_owned());
            return self.events.push_back(Event::Address { id, result });
        }
        self.mesh.allocate(id, span, now);
        self.drain(now);
    }

    /// Gives up a wish.
    pub fn give_up(&mut self, id: u64, now: Instant) {
        self.mesh.give_up(id, now);
        self.drain(now);
    }

    /// An address is in use on this host.
    pub fn hold_address(&mut self, address: IpAddr, now: Instant) {
        if let Some(at) = self.ranges().and_then(|ranges| ranges.offset(address)) {
            self.mesh.hold_address(at, now);
            self.drain(now);
        }
    }

    /// Whether this peer owns the addresses at an offset.
    pub fn owns_offset(&self, at: u32) -> bool {
        self.mesh.space().is_some_and(|space| space.owns(at))
    }

    /// No address of this offset is in use on this host any more.
    pub fn release_offset(&mut self, at: u32, now: Instant) {
        self.mesh.release_address(at, now);
        self.drain(now);
    }

    /// Has the range divided.
    pub fn prime(&mut self, now: Instant) {
        self.mesh.prime_space(now);
        self.drain(now);
    }

    /// Whether the range was divided.
    pub fn is_primed(&self) -> bool {
        self.mesh
            .space()
            .is_some_and(gossip::space::Space::is_ready)
    }

    /// Takes over the space of a peer, given by id, start of an id, or nickname.
    ///
    /// # Errors
    /// No such peer, several, this one, or one that can be reached if not forced.
    pub fn take_over(&mut self, name: &str, force: bool, now: Instant) -> Result<ShortId, String> {
        let peer = self.find_owner(name)?;
        if peer == self.local.short_id() {
            return Err("that is this peer: `wove reset` gives back what it owns".into());
        }
        let id = self.mesh.peer_of_short(&peer);
        let reached = id.is_some_and(|id| self.mesh.routes().reaches(&id));
        if reached && !force {
            return Err(format!(
                "{name} can be reached, so it is not dead: stop it first, or take over what it does not hold with --force"
            ));
        }
        self.mesh.take_over(peer, force, now);
        self.drain(now);
        Ok(peer)
    }

    fn find_owner(&self, name: &str) -> Result<ShortId, String> {
        let view = self
            .mesh
            .space_view()
            .ok_or("this peer was launched without an address range")?;
        let hex = name.to_ascii_lowercase();
        let owners = view.owners.iter().map(|owner| owner.peer);
        let known = self.mesh.peers().map(|peer| peer.id.short_id());
        let mut all: Vec<ShortId> = owners.chain(known).collect();
        all.sort_unstable();
        all.dedup();
        all.retain(|peer| {
            let short = format!("{peer:?}");
            let by_id = hex.len() >= 4 && (short.starts_with(&hex) || hex.starts_with(&short));
            by_id || self.short_nickname(*peer) == name
        });
        match all.as_slice() {
            [one] => Ok(*one),
            [] => Err(format!("no peer {name} is known: see `wove status ipam`")),
            _ => Err(format!(
                "{name} stands for several peers: give more of the id, see `wove status ipam`"
            )),
        }
    }

    fn short_nickname(&self, peer: ShortId) -> String {
        let id: Option<PeerId> = self.mesh.peer_of_short(&peer);
        id.map(|id| self.nickname(id)).unwrap_or_default()
    }

    /// What a peer owns by now.
    pub fn owned_by(&self, peer: ShortId) -> u32 {
        let view = self.mesh.space_view();
        let owners = view.iter().flat_map(|view| &view.owners);
        owners
            .filter(|owner| owner.peer == peer)
            .map(|owner| owner.owned)
            .sum()
    }

    /// Begins to give back all that this peer owns; whether that takes time.
    pub fn leave_space(&mut self, now: Instant) -> bool {
        let leaving = self.mesh.leave_space(now);
        self.drain(now);
        leaving
    }

    /// Whether all was given back, and it was said.
    pub fn has_left_space(&self) -> bool {
        let space = self.mesh.space();
        space.is_none_or(gossip::space::Space::has_left) && !self.mesh.is_space_withheld()
    }

    /// What is to be kept over a restart. Nothing that follows from it is said before
    /// [`Router::space_kept`] is called; all else goes on.
    pub fn take_space_saved(&mut self) -> Option<Saved> {
        self.mesh.take_space_saved()
    }

    /// What was to be kept is kept.
    pub fn space_kept(&mut self, now: Instant) {
        self.mesh.space_kept(now);
        self.drain(now);
    }

    pub(super) fn handle_outcome_of_space(&mut self, outcome: Outcome) {
        let (id, result) = (outcome.id, outcome.result.map(|grant| grant.at));
        self.events.push_back(Event::Address { id, result });
    }

    /// How others differ, one line for each way, and what to do about it.
    fn strangers(&self) -> Vec<String> {
        let mut by_way: BTreeMap<Stranger, Vec<PeerId>> = BTreeMap::new();
        for (peer, how) in self.mesh.space_strangers() {
            by_way.entry(how).or_default().push(peer);
        }
        let line = |(how, peers): (Stranger, Vec<PeerId>)| {
            let name = |peer: &PeerId| match self.nickname(*peer) {
                nickname if nickname.is_empty() => peer.short(),
                nickname => nickname,
            };
            let mut who: Vec<String> = peers.iter().take(NAMED).map(name).collect();
            let more = peers.len().saturating_sub(NAMED);
            if more > 0 {
                who.push(format!("{more} more"));
            }
            format!("{}: {}", who.join(", "), explain(how))
        };
        by_way.into_iter().map(line).collect()
    }

    pub(super) fn ipam_status(&self) -> Option<IpamStatus> {
        let view = self.mesh.space_view()?;
        let ranges = self.ranges()?;
        let owner = |owner: &gossip::space::OwnerView| OwnerStatus {
            peer: format!("{:?}", owner.peer),
            nickname: self.short_nickname(owner.peer),
            owned: owner.owned,
            held: owner.held,
            reachable: owner.reachable,
            local: owner.peer == self.local.short_id(),
        };
        let known: u32 = view.owners.iter().map(|owner| owner.owned).sum();
        Some(IpamStatus {
            state: view.state,
            range: ranges.v4.to_string(),
            range6: ranges.v6.map(|v6| v6.to_string()),
            ring: view.ring.map(|ring| format!("{ring:016x}")),
            total: view.total,
            used: view.used,
            waiting: view.waiting,
            unknown: if view.ring.is_some() {
                view.total.saturating_sub(known)
            } else {
                0
            },
            claims: view.claims.iter().flat_map(|at| ranges.both(*at)).collect(),
            conflicts: self.strangers(),
            guards: view
                .guards
                .iter()
                .map(|guard| format!("{guard:?}"))
                .collect(),
            owners: view.owners.iter().map(owner).collect(),
        })
    }
}

/// What is different about a peer, and the cure.
fn explain(how: Stranger) -> String {
    match how {
        Stranger::Range(base, prefix) => format!(
            "allocates from {base}/{prefix}, another range: addresses may clash; `wove reset` the peers with the wrong one, and launch all with one --ipalloc-range"
        ),
        Stranger::Division => "allocates from a division of its own, formed apart: each goes on with its own, and addresses may clash; to merge, run `wove reset` on the peers of one side and launch them with --ipalloc-init observer".to_owned(),
        Stranger::Range6(None) => {
            "has no IPv6 range: launch all peers with one --ipalloc-range6".to_owned()
        }
        Stranger::Range6(Some(range)) => format!(
            "gives IPv6 addresses out of {}/{}, another range: launch all peers with one --ipalloc-range6",
            range.base, range.prefix
        ),
    }
}
