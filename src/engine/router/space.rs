//! The address space: what operators ask of it, and what they see.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Instant,
};

use gossip::space::{Outcome, Saved, SpaceConfig, Span};
use ipnet::Ipv4Net;
use proto::{PeerId, ShortId};

use super::{Event, Router};
use crate::engine::status::{IpamStatus, OwnerStatus};

/// How this peer takes part in the address space.
#[derive(Clone, Debug)]
pub struct SpaceSetup {
    /// The range, and how it is divided.
    pub config: SpaceConfig,
    /// What the launch before saved.
    pub saved: Option<Saved>,
}

impl Router {
    /// The range from which addresses are given out.
    pub fn space_range(&self) -> Option<Ipv4Net> {
        let config = &self.config.space.as_ref()?.config;
        Ipv4Net::new(config.base, config.prefix).ok()
    }

    /// Wishes for an address in a subnet; the answer is an [`Event::Address`].
    pub fn allocate(&mut self, id: u64, subnet: Ipv4Net, now: Instant) {
        let Some(range) = self.space_range() else {
            let result = Err("this peer was launched without an address range: give an address, or launch it with --ipalloc-range".to_owned());
            return self.events.push_back(Event::Address { id, result });
        };
        let start = subnet
            .network()
            .to_bits()
            .checked_sub(range.network().to_bits());
        let inside = range.contains(&subnet) && subnet.prefix_len() <= 30;
        match start.filter(|_| inside) {
            Some(start) => {
                let span = Span::new(start, 1 << (32 - subnet.prefix_len()));
                self.mesh.allocate(id, span, now);
                self.drain(now);
            }
            None => {
                let why = if subnet.prefix_len() > 30 {
                    format!("{subnet} has no address to give: a subnet has a prefix of 30 at most")
                } else {
                    format!("{subnet} is not within {range}, the range of --ipalloc-range")
                };
                self.events.push_back(Event::Address {
                    id,
                    result: Err(why),
                });
            }
        }
    }

    /// Gives up a wish.
    pub fn give_up(&mut self, id: u64, now: Instant) {
        self.mesh.give_up(id, now);
        self.drain(now);
    }

    /// An address is in use on this host.
    pub fn hold_address(&mut self, address: IpAddr, now: Instant) {
        if let IpAddr::V4(address) = address {
            self.mesh.hold_address(address, now);
            self.drain(now);
        }
    }

    /// An address is not in use on this host any more.
    pub fn release_address(&mut self, address: IpAddr, now: Instant) {
        if let IpAddr::V4(address) = address {
            self.mesh.release_address(address, now);
            self.drain(now);
        }
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

    /// Whether all was given back.
    pub fn has_left_space(&self) -> bool {
        self.mesh.space().is_none_or(gossip::space::Space::has_left)
    }

    /// What is to be saved before anything that [`Router::poll_transmit`] gives is sent.
    pub fn take_space_saved(&mut self) -> Option<Saved> {
        self.mesh.take_space_saved()
    }

    pub(super) fn handle_outcome_of_space(&mut self, outcome: Outcome) {
        let address = |at| self.mesh.space().map(|space| space.address(at));
        let result = match outcome.result {
            Ok(grant) => address(grant.at).ok_or_else(String::new),
            Err(why) => Err(why),
        };
        let id = outcome.id;
        self.events.push_back(Event::Address { id, result });
    }

    pub(super) fn ipam_status(&self) -> Option<IpamStatus> {
        let view = self.mesh.space_view()?;
        let space = self.mesh.space()?;
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
            range: self
                .space_range()
                .map(|range| range.to_string())
                .unwrap_or_default(),
            ring: view.ring.map(|ring| format!("{ring:016x}")),
            total: view.total,
            used: view.used,
            waiting: view.waiting,
            unknown: if view.ring.is_some() {
                view.total.saturating_sub(known)
            } else {
                0
            },
            claims: view
                .claims
                .iter()
                .map(|at| -> Ipv4Addr { space.address(*at) })
                .collect(),
            guards: view
                .guards
                .iter()
                .map(|guard| format!("{guard:?}"))
                .collect(),
            owners: view.owners.iter().map(owner).collect(),
        })
    }
}
