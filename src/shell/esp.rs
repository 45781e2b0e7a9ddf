//! The encryption of the fast path in the kernel: carries out what the router
//! orders, sees that it stays, and takes it out.
//!
//! Two barriers hold VXLAN in clear back, each without the other: the policies
//! of [`xfrm`](super::xfrm), for the peers with ESP, and the table of
//! [`barrier`](super::barrier), for everybody. Both are the kernel's own and
//! outlive this process. Both belong to the wove of a namespace that has the
//! VXLAN device: no other touches them.
//!
//! ```text
//! launch: old device removed ─▶ table ─▶ old keys and policies out ─▶ new device up
//! end:    device down ─▶ keys and policies out ─▶ device removed ─▶ table out
//! ```

#![expect(
    clippy::disallowed_methods,
    reason = "this is the shell: a socket is asked for its address"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
};

use anyhow::{Context, Result};

use super::{
    barrier::{self, Barrier},
    host::{Host, TunnelConfig},
    xfrm::{self, Policy, Rule, Sa, SaId, Traffic, Xfrm},
};
use crate::engine::{
    EspOrder, EspOutcome, EspStep,
    esp::{Direction, EspKey},
};

/// What the kernel shall have, and the connections to see to it.
pub(super) struct KernelEsp {
    xfrm: Xfrm,
    barrier: Barrier,
    port: u16,
    bound: Option<IpAddr>,
    /// By the peer's address: the engine has one at each. Orders for another fast
    /// path than that are late, and touch nothing but what is their own.
    peers: BTreeMap<IpAddr, Guarded>,
}

/// What was found to be wrong.
pub(super) struct Checked {
    /// What was put back, for people.
    pub(super) repairs: Vec<String>,
    /// What the router has to know, each with its fast path.
    pub(super) outcomes: Vec<(u32, EspOutcome)>,
}

/// One peer's share.
struct Guarded {
    /// The fast path that wants it.
    index: u32,
    /// This host's address towards the peer.
    local: IpAddr,
    /// What becomes of what leaves; what comes must come through ESP.
    out: Rule,
    /// Keys in the kernel.
    sas: BTreeSet<(Direction, u32)>,
}

impl KernelEsp {
    /// Raises the barriers and removes what an earlier launch left. The caller
    /// has the VXLAN device, and it is down. `bound` is the local address that
    /// datagrams leave from, if the operator chose one.
    ///
    /// # Errors
    /// The kernel lacks something; what, to follow "the".
    pub(super) fn raise(config: &TunnelConfig, bound: Option<IpAddr>) -> Result<Self, String> {
        let raised = match xfrm::fault() {
            Some(fault) => Err(fault),
            None => Self::try_raise(config, bound),
        };
        if raised.is_err() {
            // What an earlier launch left would be in the way of plain VXLAN.
            for left in [xfrm::clear_all(), barrier::remove(&config.name)] {
                if let Err(error) = left {
                    tracing::warn!("{error:#}");
                }
            }
        }
        raised
    }

    fn try_raise(config: &TunnelConfig, bound: Option<IpAddr>) -> Result<Self, String> {
        let barrier = Barrier::raise(&config.name, config.port)
            .map_err(|error| format!("kernel refuses nftables: {error:#}"))?;
        let refused = |error: anyhow::Error| format!("kernel refuses ESP: {error:#}");
        let mut xfrm = Xfrm::open().map_err(refused)?;
        xfrm.clear().map_err(refused)?;
        Ok(Self {
            xfrm,
            barrier,
            port: config.port,
            bound: bound.filter(|ip| !ip.is_unspecified()),
            peers: BTreeMap::new(),
        })
    }

    /// Lets VXLAN to and from exactly these addresses pass in clear.
    pub(super) fn allow(&mut self, clear: BTreeSet<IpAddr>) {
        if let Err(error) = self.barrier.allow(clear) {
            tracing::warn!("nftables refuses who may send in clear: {error:#}");
        }
    }

    /// Carries out an order; what came of it, where the router has to know.
    pub(super) fn carry_out(&mut self, order: &EspOrder) -> Option<EspOutcome> {
        let EspOrder {
            address,
            index,
            ref step,
        } = *order;
        match step {
            EspStep::Guard => {
                let guarded = self.guard(address, index);
                let why = format!("{:#}", guarded.err()?);
                Some(EspOutcome::Refused(why))
            }
            &EspStep::Install {
                direction,
                spi,
                ref key,
            } => Some(match self.install((address, index), direction, spi, key) {
                Ok(()) => EspOutcome::Installed { direction, spi },
                Err(error) => failed(direction, spi, &error),
            }),
            &EspStep::Direct { spi } => {
                let rule = Rule::Protect { spi: Some(spi) };
                Some(match self.direct((address, index), rule) {
                    Ok(()) => EspOutcome::Directed { spi },
                    Err(error) => failed(Direction::Out, spi, &error),
                })
            }
            EspStep::Block => {
                if let Err(error) = self.direct((address, index), Rule::Block) {
                    tracing::debug!(%address, "not blocked: {error:#}");
                }
                None
            }
            &EspStep::Remove { direction, spi } => {
                let removed = self.remove((address, index), direction, spi);
                if let Err(error) = removed {
                    tracing::warn!("{error:#}");
                }
                None
            }
            EspStep::Unguard => {
                if let Err(error) = self.unguard(address, index) {
                    tracing::warn!("{error:#}");
                }
                None
            }
        }
    }

    /// Puts back what somebody took away, but for keys, which only the router has.
    pub(super) fn check(&mut self) -> Result<Checked> {
        let (mut repairs, mut outcomes) = (Vec::new(), Vec::new());
        if self
            .barrier
            .check()
            .context("nftables cannot be looked at")?
        {
            repairs.push("nftables had lost or changed wove's table".to_owned());
        }
        let found = self.xfrm.found()?;
        let present: BTreeSet<SaId> = found.sas.iter().map(|sa| sa.id).collect();
        let mut expected = BTreeSet::new();
        let mut policies = Vec::new();
        for (&address, peer) in &mut self.peers {
            policies.extend(peer.policies(address, self.port));
            peer.sas.retain(|&(direction, spi)| {
                let id = peer_id(address, peer.local, direction, spi);
                expected.insert(id);
                let kept = present.contains(&id);
                if !kept {
                    let why = "the kernel had lost the key for ESP".to_owned();
                    outcomes.push((peer.index, (direction, spi, why)));
                }
                kept
            });
        }
        for policy in policies {
            if !found.policies.contains(&policy) {
                self.xfrm.set(&policy)?;
                let peer = policy.traffic.peer;
                repairs.push(format!("the policy for {peer} was missing or changed"));
            }
        }
        if !outcomes.is_empty() {
            repairs.push(format!("{} keys for ESP were missing", outcomes.len()));
        }
        // Leftovers of an order that failed, or of a request for keys that the
        // kernel makes by itself.
        for id in present.difference(&expected) {
            self.xfrm.remove(id)?;
        }
        let lost = |(index, (direction, spi, why))| {
            let outcome = EspOutcome::Failed {
                direction,
                spi,
                why,
            };
            (index, outcome)
        };
        let mut outcomes: Vec<(u32, EspOutcome)> = outcomes.into_iter().map(lost).collect();
        outcomes.extend(self.moved().map(|index| (index, EspOutcome::Moved)));
        Ok(Checked { repairs, outcomes })
    }

    /// Paths to whom this host has another address than it had.
    fn moved(&self) -> impl Iterator<Item = u32> {
        let moved = self.peers.iter().filter(|(address, peer)| {
            let now = local_towards(**address, self.bound);
            now.is_ok_and(|now| now != peer.local)
        });
        moved.map(|(_, peer)| peer.index)
    }

    fn guard(&mut self, address: IpAddr, index: u32) -> Result<()> {
        let local = local_towards(address, self.bound)
            .with_context(|| format!("no address of this host leads to {address}"))?;
        let guarded = Guarded {
            index,
            local,
            out: Rule::Block,
            sas: BTreeSet::new(),
        };
        for policy in guarded.policies(address, self.port) {
            self.xfrm.set(&policy)?;
        }
        // One that was there before has nothing any more: what it orders by now is late.
        if let Some(former) = self.peers.insert(address, guarded) {
            for id in former.ids(address) {
                if let Err(error) = self.xfrm.remove(&id) {
                    tracing::warn!("{error:#}");
                }
            }
        }
        Ok(())
    }

    fn install(
        &mut self,
        path: (IpAddr, u32),
        direction: Direction,
        spi: u32,
        key: &EspKey,
    ) -> Result<()> {
        let peer = share(&mut self.peers, path).context("no policies are set")?;
        let sa = Sa {
            id: peer_id(path.0, peer.local, direction, spi),
            port: self.port,
            key: EspKey::new(*key.as_bytes()),
        };
        if !self.xfrm.add(&sa)? {
            anyhow::bail!("the index is taken");
        }
        peer.sas.insert((direction, spi));
        Ok(())
    }

    fn direct(&mut self, path: (IpAddr, u32), rule: Rule) -> Result<()> {
        let traffic = traffic(path.0, Direction::Out, self.port);
        let peer = share(&mut self.peers, path).context("no policies are set")?;
        self.xfrm.set(&Policy { traffic, rule })?;
        peer.out = rule;
        Ok(())
    }

    fn remove(&mut self, path: (IpAddr, u32), direction: Direction, spi: u32) -> Result<()> {
        let Some(peer) = share(&mut self.peers, path) else {
            return Ok(());
        };
        if peer.sas.remove(&(direction, spi)) {
            let id = peer_id(path.0, peer.local, direction, spi);
            self.xfrm.remove(&id)?;
        }
        Ok(())
    }

    fn unguard(&mut self, address: IpAddr, index: u32) -> Result<()> {
        if self.peers.get(&address).is_some_and(|p| p.index != index) {
            return Ok(());
        }
        self.peers.remove(&address);
        for direction in [Direction::In, Direction::Out] {
            self.xfrm.unset(&traffic(address, direction, self.port))?;
        }
        Ok(())
    }
}

impl Guarded {
    fn policies(&self, address: IpAddr, port: u16) -> [Policy; 2] {
        let policy = |direction, rule| Policy {
            traffic: traffic(address, direction, port),
            rule,
        };
        [
            policy(Direction::Out, self.out),
            policy(Direction::In, Rule::Protect { spi: None }),
        ]
    }

    /// Its keys in the kernel.
    fn ids(&self, address: IpAddr) -> impl Iterator<Item = SaId> {
        let ids = self.sas.iter();
        ids.map(move |&(direction, spi)| peer_id(address, self.local, direction, spi))
    }
}

/// Takes device, keys, policies and table off the host, in the order in which
/// nothing leaves in clear. What belongs to another wove of the host stays.
///
/// # Errors
/// All that went wrong, in one; what could be removed is.
pub(super) async fn take_down(host: &Host, config: &TunnelConfig) -> Result<()> {
    let mut errors = Vec::new();
    errors.extend(host.close_tunnel(config).await.err());
    match host.tunnel_is_foreign(config).await {
        Ok(true) => {}
        Ok(false) => errors.extend(xfrm::clear_all().err()),
        Err(error) => errors.push(error),
    }
    errors.extend(host.remove_tunnel(config).await.err());
    // With the device still there, better nothing passes.
    if errors.is_empty() {
        errors.extend(barrier::remove(&config.name).err());
    }
    if errors.is_empty() {
        return Ok(());
    }
    let texts: Vec<String> = errors.iter().map(|error| format!("{error:#}")).collect();
    Err(anyhow::anyhow!(texts.join("; ")))
}

/// The share of one fast path, if no other is at the address by now.
fn share(
    peers: &mut BTreeMap<IpAddr, Guarded>,
    (address, index): (IpAddr, u32),
) -> Option<&mut Guarded> {
    peers.get_mut(&address).filter(|peer| peer.index == index)
}

fn failed(direction: Direction, spi: u32, error: &anyhow::Error) -> EspOutcome {
    let why = format!("{error:#}");
    EspOutcome::Failed {
        direction,
        spi,
        why,
    }
}

fn traffic(peer: IpAddr, direction: Direction, port: u16) -> Traffic {
    Traffic {
        direction,
        peer,
        port,
    }
}

fn peer_id(peer: IpAddr, local: IpAddr, direction: Direction, spi: u32) -> SaId {
    let (source, destination) = match direction {
        Direction::In => (peer, local),
        Direction::Out => (local, peer),
    };
    SaId {
        source,
        destination,
        spi,
    }
}

/// The address that datagrams to the peer leave from. Nothing is sent.
fn local_towards(peer: IpAddr, bound: Option<IpAddr>) -> io::Result<IpAddr> {
    if let Some(bound) = bound.filter(|bound| bound.is_ipv6() == peer.is_ipv6()) {
        return Ok(bound);
    }
    let any: SocketAddr = if peer.is_ipv6() {
        (std::net::Ipv6Addr::UNSPECIFIED, 0).into()
    } else {
        (std::net::Ipv4Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any)?;
    // The discard port.
    socket.connect((peer, 9))?;
    Ok(socket.local_addr()?.ip())
}
