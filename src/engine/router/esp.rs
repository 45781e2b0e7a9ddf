//! Keys of the kernel's ESP: whom with, orders to the kernel, and what is told
//! the peers.
//!
//! There is one [`Esp`] for each wish of a fast path inside ESP, and it ends
//! with that. What it wants of the kernel goes out as an [`EspOrder`], to be
//! carried out in order and after the snapshot that was taken before it; what
//! came of it comes back by [`Router::handle_esp`].

use std::{collections::BTreeSet, net::IpAddr, time::Instant};

use proto::{
    PeerId,
    datagram::SessionIndex,
    message::{CAN_ESP, EspNotice, PathMessage},
};
use rand::Rng;

use super::{
    super::{
        esp::{Action, Direction, Esp, EspKey, SPIS},
        fastdp::{Bar, Wish},
        output::Origin,
        peers::Peer,
        timing::ESP_RETRY,
    },
    Router,
};

/// Indexes of one peer's sessions that are remembered; with more, who asks for
/// them has to wait for the next session.
const MOST_USED: usize = 256;

/// Something for the kernel's XFRM.
#[derive(Debug)]
pub struct EspOrder {
    /// The peer's address.
    pub address: IpAddr,
    /// For which fast path; to be given back with the outcome.
    pub index: u32,
    /// What is to be done.
    pub step: EspStep,
}

/// What is to be done.
#[derive(Debug)]
pub enum EspStep {
    /// Policies: what comes must have come through ESP, and nothing leaves.
    Guard,
    /// A key, for packets with this index.
    Install {
        /// Received or sent under it.
        direction: Direction,
        /// Its index.
        spi: u32,
        /// The key.
        key: EspKey,
    },
    /// Policy: what leaves goes under this key.
    Direct {
        /// Its index.
        spi: u32,
    },
    /// Policy: nothing leaves.
    Block,
    /// Take the key out.
    Remove {
        /// Received or sent under it.
        direction: Direction,
        /// Its index.
        spi: u32,
    },
    /// Take the policies out.
    Unguard,
}

/// What came of an order, or was found later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EspOutcome {
    /// The kernel has the key.
    Installed {
        /// Received or sent under it.
        direction: Direction,
        /// Its index.
        spi: u32,
    },
    /// What leaves goes under this key.
    Directed {
        /// Its index.
        spi: u32,
    },
    /// The kernel does not have the key, or does not use it; why, in words.
    Failed {
        /// Received or sent under it.
        direction: Direction,
        /// Its index.
        spi: u32,
        /// The reason.
        why: String,
    },
    /// The policies cannot be set; why, in words.
    Refused(String),
    /// This host has another address now towards the peer.
    Moved,
}

/// ESP to one peer, while a fast path wants it.
pub(super) struct Protection {
    wish: Wish,
    esp: Esp,
    /// Sessions begun with.
    begun: BTreeSet<SessionIndex>,
    /// Failures of the path that the peer was reminded of.
    failures: u32,
}

impl Router {
    /// The next order for the kernel.
    pub fn poll_esp(&mut self) -> Option<EspOrder> {
        self.esp_orders.pop_front()
    }

    /// What came of an order for the fast path of this index.
    pub fn handle_esp(&mut self, index: u32, outcome: EspOutcome, now: Instant) {
        let mut all = self.esp.iter_mut();
        // One that is over by now needs no answer.
        let Some((&id, protection)) = all.find(|(_, p)| p.wish.index == index) else {
            return;
        };
        let esp = &mut protection.esp;
        match outcome {
            EspOutcome::Installed { direction, spi } => esp.installed(direction, spi, now),
            EspOutcome::Directed { spi } => esp.directed(spi, now),
            EspOutcome::Failed {
                direction,
                spi,
                why,
            } => {
                tracing::debug!(peer = %id.short(), ?direction, spi, why, "no key for ESP");
                esp.failed(direction, spi, why, now);
            }
            EspOutcome::Refused(why) => {
                tracing::debug!(peer = %id.short(), why, "no ESP");
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.esp_refused = Some((why, now + ESP_RETRY));
                }
            }
            EspOutcome::Moved => {
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.fast.bar(Bar::Indirect);
                }
            }
        }
        self.tend_fast(id, now);
        self.drain(now);
    }

    /// Why frames to the peer cannot be encrypted by the kernel; none if they can.
    pub(super) fn esp_bar(
        &self,
        id: PeerId,
        peer: &Peer,
        address: IpAddr,
        now: Instant,
    ) -> Option<String> {
        if let Err(why) = &self.fast.esp {
            return Some(format!("the {why}"));
        }
        if peer.capabilities & CAN_ESP == 0 {
            return Some("the peer's version has no ESP".to_owned());
        }
        // The kernel tells peers apart by address alone.
        let same = |wish: Wish| wish.esp && wish.address == address;
        let has_it = peer.fast.wish().is_some_and(same);
        if !has_it
            && self
                .wishes_of_others(id)
                .any(|wish| wish.address == address)
        {
            return Some(format!("another peer at {address} has the fast path"));
        }
        let refused = peer.esp_refused.as_ref();
        Some(refused.filter(|(_, until)| now < *until)?.0.clone())
    }

    /// What this end wants of other peers.
    pub(super) fn wishes_of_others(&self, id: PeerId) -> impl Iterator<Item = Wish> {
        let others = self.peers.iter().filter(move |(other, _)| **other != id);
        others.filter_map(|(_, other)| other.fast.wish())
    }

    /// Begins, goes on with or ends ESP to one peer, as its fast path wants it.
    pub(super) fn tend_esp(&mut self, id: PeerId, now: Instant) {
        let peer = self.peers.get(&id);
        let wish = peer.and_then(|peer| peer.fast.wish()).filter(|w| w.esp);
        if self.esp.get(&id).is_some_and(|old| wish != Some(old.wish)) {
            self.end_esp(id, now);
        }
        let Some(wish) = wish else { return };
        self.end_left_esp(id, wish.address, now);
        let mut protection = self.esp.remove(&id).unwrap_or_else(|| Protection {
            wish,
            esp: Esp::new(),
            begun: BTreeSet::new(),
            failures: 0,
        });
        let fresh = self.confirmed_sessions(id, &mut protection.begun);
        for session in fresh {
            let spi = self.rng.random_range(SPIS);
            protection.esp.begin(session, spi, now);
        }
        let failures = self.peers.get(&id).map_or(0, |peer| peer.fast.failures());
        if failures > protection.failures {
            protection.esp.remind();
        }
        protection.failures = failures;
        protection.esp.tick(now);
        self.carry_out(id, &mut protection, now);
        let is_up = protection.esp.is_up();
        self.esp.insert(id, protection);
        if let Some(peer) = self.peers.get_mut(&id).filter(|_| !is_up) {
            peer.fast.unprotected(now);
        }
    }

    /// Sessions that both ends have, and that are not among `begun` yet; they are
    /// by then. Not only the one to send with: where handshakes crossed, the
    /// other end may prefer another for a while.
    fn confirmed_sessions(
        &self,
        id: PeerId,
        begun: &mut BTreeSet<SessionIndex>,
    ) -> Vec<SessionIndex> {
        let held = self.peers.get(&id).map(|peer| &peer.sessions);
        let confirmed = held.into_iter().flatten().filter(|held| held.confirmed);
        let all: Vec<SessionIndex> = confirmed.map(|held| held.session.local()).collect();
        begun.retain(|session| all.contains(session));
        let fresh = all.into_iter().filter(|session| begun.insert(*session));
        fresh.collect()
    }

    /// The peer began anew with its fast path, and has none of the keys of before.
    pub(super) fn renew_esp(&mut self, id: PeerId, now: Instant) {
        if let Some(protection) = self.esp.get_mut(&id) {
            protection.esp.renew_inbound(now);
        }
    }

    fn end_esp(&mut self, id: PeerId, now: Instant) {
        if let Some(mut protection) = self.esp.remove(&id) {
            protection.esp.end();
            self.carry_out(id, &mut protection, now);
        }
    }

    /// Ends ESP of others at an address that the peer has now, if their paths are
    /// left and nobody has looked at them since: policies go by address, so none
    /// may be taken out after those of this peer are set.
    fn end_left_esp(&mut self, id: PeerId, address: IpAddr, now: Instant) {
        let wish = |id| self.peers.get(id).and_then(|peer| peer.fast.wish());
        let others = self.esp.iter().filter(|(other, _)| **other != id);
        let left = others.filter(|(id, p)| p.wish.address == address && wish(id) != Some(p.wish));
        let left: Vec<PeerId> = left.map(|(id, _)| *id).collect();
        for id in left {
            self.end_esp(id, now);
        }
    }

    /// Ends ESP to peers that are forgotten.
    pub(super) fn end_forgotten_esp(&mut self, now: Instant) {
        let ids = self.esp.keys().copied();
        let gone: Vec<PeerId> = ids.filter(|id| !self.peers.contains_key(id)).collect();
        for id in gone {
            self.end_esp(id, now);
        }
    }

    /// Whether what leaves for the peer by VXLAN passes, in clear or encrypted.
    pub(super) fn is_protected(&self, id: PeerId, wish: Wish) -> bool {
        !wish.esp || self.esp.get(&id).is_some_and(|p| p.esp.is_up())
    }

    /// Why ESP to the peer is not ready; none if it is or is not wanted.
    pub(super) fn esp_reason(&self, peer: &Peer) -> Option<String> {
        let wish = peer.fast.wish()?;
        let mut all = self.esp.values();
        all.find(|p| p.wish == wish)?.esp.reason()
    }

    /// The peer told something of a key.
    pub(super) fn handle_esp_notice(
        &mut self,
        id: PeerId,
        session: SessionIndex,
        notice: EspNotice,
        origin: Origin,
        now: Instant,
    ) {
        // A leftover of a path that just changed.
        let Origin::Direct(_) = origin else { return };
        // It may be heard before this end has looked at the session.
        self.tend_fast(id, now);
        if let Some(protection) = self.esp.get_mut(&id) {
            protection.esp.told(session, notice, now);
            self.tend_fast(id, now);
        }
    }

    /// The key of an index. One is sent under only once, whatever became of the
    /// path in between, for the kernel numbers packets from the start each time.
    fn esp_key(
        &mut self,
        id: PeerId,
        direction: Direction,
        index: SessionIndex,
        spi: u32,
    ) -> Result<EspKey, &'static str> {
        let session = self.session(id, index).ok_or("the session is over")?;
        if direction == Direction::In {
            return Ok(EspKey::inbound(&session, spi));
        }
        let peer = self.peers.get_mut(&id).ok_or("the peer is gone")?;
        let sessions = &peer.sessions;
        let is_held = |of: SessionIndex| sessions.iter().any(|h| h.session.local() == of);
        peer.esp_used.retain(|(of, _)| is_held(*of));
        if peer.esp_used.len() >= MOST_USED || !peer.esp_used.insert((index, spi)) {
            return Err("the index was used before");
        }
        Ok(EspKey::outbound(&session, spi))
    }

    /// Passes on what is due: orders to the kernel, words to the peer.
    fn carry_out(&mut self, id: PeerId, protection: &mut Protection, now: Instant) {
        let Wish { address, index, .. } = protection.wish;
        while let Some(action) = protection.esp.poll_action() {
            let step = match action {
                Action::Guard => EspStep::Guard,
                Action::Install {
                    direction,
                    session,
                    spi,
                } => match self.esp_key(id, direction, session, spi) {
                    Ok(key) => EspStep::Install {
                        direction,
                        spi,
                        key,
                    },
                    Err(why) => {
                        protection.esp.failed(direction, spi, why.to_owned(), now);
                        continue;
                    }
                },
                Action::Direct { spi } => EspStep::Direct { spi },
                Action::Block => EspStep::Block,
                Action::Remove { direction, spi } => EspStep::Remove { direction, spi },
                Action::Unguard => EspStep::Unguard,
                Action::Renew { session } => {
                    let spi = self.rng.random_range(SPIS);
                    protection.esp.begin(session, spi, now);
                    continue;
                }
                Action::Tell { session, notice } => {
                    if let Some(session) = self.session(id, session) {
                        let message = PathMessage::Esp(notice);
                        self.send_path_message(id, Some(session), None, &message);
                    }
                    continue;
                }
            };
            let order = EspOrder {
                address,
                index,
                step,
            };
            self.esp_orders.push_back(order);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use crypto::{Cipher, Identity, Rekey, Session};
    use proto::{Endpoint, datagram::Protection};

    use super::{
        super::{
            super::{
                esp::tests::{origin, sessions},
                peers::{Direct, Held},
            },
            CAPABILITIES, Config, FastSetup,
        },
        *,
    };

    /// A router with the fast path that trusts 192.0.2.0/24.
    pub(in super::super) fn router(now: Instant) -> Router {
        let config = Config {
            nickname: "here".to_owned(),
            port: 6783,
            encrypt: true,
            rekey_after: crypto::rekey::REKEY_AFTER_TIME,
            epoch: 1,
            datagram_limit: 1472,
            mtu: 1400,
            bridge: "wove".to_owned(),
            mesh: gossip::Config::default(),
            space: None,
            seed: [1; 32],
            version: "test".to_owned(),
            capabilities: CAPABILITIES,
        };
        let identity = Identity::from_bytes(&[1; Identity::LEN]);
        let mut router = Router::new(config, identity, Vec::new(), now);
        let setup = FastSetup {
            state: Ok(()),
            esp: Ok(()),
            trusted: vec!["192.0.2.0/24".parse().unwrap()],
            ..FastSetup::default()
        };
        router.set_fastdp(setup, now);
        router
    }

    /// A peer with a session that both ends have.
    pub(in super::super) fn meet(router: &mut Router, id: PeerId, session: Session, now: Instant) {
        let mut peer = Peer::new(now);
        (peer.capabilities, peer.current) = (CAPABILITIES, Some(session.local()));
        peer.hold(Held {
            session: session.into(),
            rekey: Rekey::new(true, crypto::rekey::REKEY_AFTER_TIME, now),
            since: now,
            outbound: true,
            confirmed: true,
            retire_at: None,
            protection: Protection::Sealed,
            cipher: Cipher::ChaCha20Poly1305,
        });
        router.peers.insert(id, peer);
        router.dirty.sessions = true;
    }

    /// It is reached at this address from now on.
    pub(in super::super) fn place(router: &mut Router, id: PeerId, at: &str, now: Instant) {
        let direct = Direct::new(Endpoint::Udp(at.parse().unwrap()), true, 1472, now);
        router.peers.get_mut(&id).unwrap().direct = Some(direct);
        router.dirty.paths = true;
        router.tend_fast(id, now);
    }

    fn orders(router: &mut Router) -> Vec<EspOrder> {
        std::iter::from_fn(|| router.poll_esp()).collect()
    }

    #[test]
    fn who_follows_another_at_an_address_is_guarded_after_the_other_is_done() {
        let now = origin();
        // The later one is looked at first.
        let (later, former) = (PeerId([1; 16]), PeerId([2; 16]));
        let at = "198.51.100.7:6783";
        for forgotten in [false, true] {
            let mut router = router(now);
            let (a, b) = sessions();
            meet(&mut router, former, a, now);
            meet(&mut router, later, b, now);
            place(&mut router, former, at, now);
            let first = orders(&mut router);
            assert!(matches!(first[0].step, EspStep::Guard));
            let index = first[0].index;
            assert!(matches!(first[1].step, EspStep::Install { .. }));
            if forgotten {
                router.peers.remove(&former);
            } else {
                router.lose_direct(former, now);
            }
            place(&mut router, later, at, now);
            router.tick(now);
            let all = orders(&mut router);
            let guard = all
                .iter()
                .position(|order| matches!(order.step, EspStep::Guard))
                .unwrap();
            let (ended, begun) = all.split_at(guard);
            assert!(ended.iter().all(|order| order.index == index));
            assert!(matches!(ended.last().unwrap().step, EspStep::Unguard));
            assert!(begun.iter().all(|order| order.index != index));
            assert!(matches!(begun[1].step, EspStep::Install { .. }));
            assert_eq!(router.esp.len(), 1);
        }
    }
}
