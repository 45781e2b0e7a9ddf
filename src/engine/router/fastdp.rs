//! Fast paths: with whom, what is said about them, and their probes.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Instant};

use ipnet::IpNet;
use proto::{
    Endpoint, PeerId, content,
    datagram::Protection,
    message::{CAN_FASTDP, Decline, Message, PathMessage, VxlanOffer},
};
use rand::Rng;

use super::{
    super::{
        fastdp::{Bar, Entry, Probe, Wish},
        output::{Origin, Output, Upcall},
        peers::Peer,
        seal::send_content,
        snapshot::{FastPeer, FastTable, Path, Route, Straight},
        warnings::Recurrence,
    },
    Router,
    paths::padding,
};

/// Bytes that VXLAN adds to an IP packet of the overlay: the inner Ethernet
/// header, VXLAN and UDP; then IPv4 or IPv6.
const VXLAN: usize = 14 + 8 + 8;
const IPV4: usize = 20;
const IPV6: usize = 40;
/// Bytes that ESP puts round that and its two bytes of trailer: index, number,
/// initialisation vector and authenticator (RFC 4106).
const ESP: usize = 8 + 8 + 16;
/// Identifiers have 24 bits.
const VNIS: std::ops::Range<u32> = 1..1 << 24;

/// What this host has for the fast path.
#[derive(Clone, Debug)]
pub struct FastSetup {
    /// The kernel is ready, or why it is not.
    pub state: Result<(), Bar>,
    /// It encrypts by ESP, or why not, in words.
    pub esp: Result<(), String>,
    /// The UDP port of VXLAN.
    pub port: u16,
    /// Underlay networks in which frames may travel in clear.
    pub trusted: Vec<IpNet>,
}

impl Default for FastSetup {
    fn default() -> Self {
        Self {
            state: Err(Bar::Host {
                why: "the kernel fast path is not set up".to_owned(),
                disabled: false,
            }),
            esp: Err("kernel's ESP is not set up".to_owned()),
            port: 6784,
            trusted: Vec::new(),
        }
    }
}

/// A datagram to send through the tunnel, as a frame of its own kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnelled {
    /// The index of the fast path.
    pub index: u32,
    /// The sealed datagram.
    pub datagram: Vec<u8>,
}

impl Router {
    /// The kernel is ready for fast paths, or is not any more.
    pub fn set_fastdp(&mut self, setup: FastSetup, now: Instant) {
        self.fast = setup;
        let ids: Vec<PeerId> = self.peers.keys().copied().collect();
        for id in ids {
            self.tend_fast(id, now);
        }
        self.drain(now);
    }

    /// The next datagram for the tunnel.
    pub fn poll_tunnel(&mut self) -> Option<Tunnelled> {
        self.tunnelled.pop_front()
    }

    /// Looks after the fast path to one peer.
    pub(super) fn tend_fast(&mut self, id: PeerId, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        note_place(peer);
        let before: Vec<Entry> = peer.fast.entries().collect();
        let Some(peer) = self.peers.get(&id) else {
            return;
        };
        let wanted = self.wants_fast(id, peer, now);
        // A fresh identifier for each agreement: no frame of an old one gets in.
        let same = |wish: Wish| wanted == Ok((wish.address, wish.esp));
        let fresh = match &wanted {
            Ok(_) if !peer.fast.wish().is_some_and(same) => self.fresh_vni(),
            Ok(_) | Err(_) => None,
        };
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        match (wanted, fresh) {
            (Ok((address, esp)), Some(index)) => {
                peer.fast.leave(now);
                if esp {
                    peer.fast.forget_left();
                }
                let wish = Wish {
                    index,
                    address,
                    esp,
                };
                peer.fast.allow(wish, now);
            }
            (Ok(_), None) => {}
            (Err(Bar::Indirect), _) => peer.fast.leave(now),
            (Err(bar), _) => {
                peer.fast.bar(bar);
                peer.fast.forget_left();
            }
        }
        self.tend_esp(id, now);
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let active = peer.is_active(now);
        let chores = peer.fast.tick(active, now);
        // What happened to the path may have happened to the next choice, too:
        // for large frames alone, that would not be seen until they go there.
        if peer.fast.is_late(now)
            && let Some(direct) = &mut peer.direct
        {
            direct.pmtu.doubt(now);
        }
        let after: Vec<Entry> = peer.fast.entries().collect();
        let up = |all: &[Entry]| all.iter().any(|entry| entry.up);
        if up(&before) != up(&after) {
            tracing::debug!(peer = %id.short(), up = peer.fast.is_up(), "fast path");
        }
        self.dirty.fast |= before != after;
        if chores.offer {
            self.send_offer(id);
        }
        if let Some(probe) = chores.probe {
            self.send_fast_probe(id, probe, now);
        }
    }

    /// Where a fast path to the peer would lead, and whether inside ESP, if this
    /// end wants it. Frames in clear are agreed on by the session, or by both
    /// ends' operators for the networks they trust: each looks at the other's
    /// address, and the offer tells its consent.
    fn wants_fast(&self, id: PeerId, peer: &Peer, now: Instant) -> Result<(IpAddr, bool), Bar> {
        self.fast.state.clone()?;
        let direct = peer.direct.as_ref().filter(|d| !d.address.is_tcp());
        let (Some(direct), Some(held)) = (direct, peer.sending()) else {
            return Err(Bar::Indirect);
        };
        if peer.capabilities & CAN_FASTDP == 0 {
            return Err(Bar::Old);
        }
        let address = direct.address.ip();
        if held.protection == Protection::Sealed && (peer.insists || !self.is_trusted(address)) {
            let bar = self.esp_bar(id, peer, address, now);
            return bar.map_or(Ok((address, true)), |why| Err(Bar::Encrypted(why)));
        }
        let has_it = peer.fast.wish().is_some_and(|w| w.address == address);
        let mut others = self.wishes_of_others(id);
        if !has_it && others.any(|wish| wish.esp && wish.address == address) {
            let why = format!("another peer at {address} has the fast path, inside ESP");
            return Err(Bar::Host {
                why,
                disabled: false,
            });
        }
        Ok((address, false))
    }

    /// Whether frames to and from this address may travel in clear.
    fn is_trusted(&self, address: IpAddr) -> bool {
        self.fast.trusted.iter().any(|net| net.contains(&address))
    }

    /// A local address went away: this host may have left the network that both
    /// ends trust, and by which address it sends to whom is for the kernel to
    /// know. Whoever still agrees has to offer anew, and sees where this host is.
    pub(super) fn leave_trusted(&mut self, now: Instant) {
        let mut touched = Vec::new();
        for (id, peer) in &mut self.peers {
            // What a peer insists on may be for where this host was.
            let insisted = std::mem::take(&mut peer.insists);
            let trusting = rests_on_trust(peer);
            if trusting {
                peer.fast.leave(now);
            }
            if insisted || trusting {
                touched.push(*id);
            }
        }
        self.dirty.fast |= !touched.is_empty();
        for id in touched {
            self.tend_fast(id, now);
        }
    }

    fn fresh_vni(&mut self) -> Option<u32> {
        let entries = self.peers.values().flat_map(|peer| peer.fast.entries());
        let used: BTreeSet<u32> = entries.map(|entry| entry.wish.index).collect();
        (0..64)
            .map(|_| self.rng.random_range(VNIS))
            .find(|vni| !used.contains(vni))
    }

    fn send_offer(&mut self, id: PeerId) {
        let Some(wish) = self.peers.get(&id).and_then(|peer| peer.fast.wish()) else {
            return;
        };
        let offer = VxlanOffer {
            vni: wish.index,
            port: self.fast.port,
            room: u16::try_from(self.config.mtu).unwrap_or(u16::MAX),
        };
        let message = if wish.esp {
            PathMessage::OfferEsp(offer)
        } else {
            PathMessage::Offer(offer)
        };
        self.send_path_message(id, None, None, &message);
    }

    /// The peer offers a fast path, inside ESP or not.
    pub(super) fn handle_offer(
        &mut self,
        id: PeerId,
        (offer, esp): (VxlanOffer, bool),
        origin: Origin,
        now: Instant,
    ) {
        // A leftover of a path that just changed.
        let Origin::Direct(from) = origin else { return };
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        note_place(peer);
        peer.insists |= esp;
        // It may be heard before this end has looked at the session.
        self.tend_fast(id, now);
        let port = self.fast.port;
        let trusted = self.is_trusted(from.ip());
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        // It or this host may just have moved: frames in clear go to, and are taken
        // from, no other place than this end looked at. It offers again.
        let is_here = peer.direct.as_ref().map(|d| d.address.ip()) == Some(from.ip());
        let is_elsewhere = rests_on_trust(peer) && !(is_here && trusted);
        let refusal = match peer.fast.refusal() {
            // Trust of one end is not enough: the other is told what is wanted, unless
            // that is for a place where it is no more.
            None if is_here && peer.fast.wish().is_some_and(|wish| wish.esp && !esp) => {
                return self.send_offer(id);
            }
            None if peer.fast.wish().is_some_and(|wish| wish.esp != esp) => Some(Decline::Other),
            None if is_elsewhere => Some(Decline::Other),
            None if offer.port == port && VNIS.contains(&offer.vni) => None,
            None => Some(Decline::Other),
            Some(decline) => Some(decline),
        };
        if let Some(decline) = refusal {
            let message = PathMessage::Decline(decline as u8);
            return self.send_path_message(id, None, None, &message);
        }
        let known = peer.fast.is_offered();
        if peer.fast.offered(offer, from.ip(), now) {
            self.dirty.fast = true;
            if known {
                self.renew_esp(id, now);
            }
            if u32::from(offer.room) < self.config.mtu.min(u32::from(u16::MAX)) {
                let name = self.nickname(id);
                let text = format!(
                    "{} ({name}) takes packets of {} bytes and this host sends {}: \
                     give all hosts the same --mtu",
                    id.short(),
                    offer.room,
                    self.config.mtu
                );
                self.warn(text, Recurrence::Once, now);
            }
            self.send_offer(id);
            self.tend_fast(id, now);
        }
    }

    /// The peer refuses.
    pub(super) fn handle_decline(&mut self, id: PeerId, code: u8, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        peer.fast.declined(Decline::from_code(code), now);
        self.dirty.fast = true;
    }

    /// Whether something that came through the tunnel came as its sender's
    /// own: with the identifier that was given to it.
    pub(super) fn is_tunnel_of(&self, id: PeerId, index: u32) -> bool {
        let peer = self.peers.get(&id);
        peer.is_some_and(|peer| peer.fast.index() == Some(index))
    }

    /// A probe or an answer came through the tunnel.
    pub(super) fn handle_tunnelled(&mut self, id: PeerId, message: PathMessage, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        peer.fast.heard();
        match message {
            PathMessage::Probe { token, .. } => {
                if peer.fast.can_send() {
                    let ack = PathMessage::Ack {
                        token,
                        observed: None,
                    };
                    self.send_tunnelled(id, &ack);
                }
            }
            PathMessage::Ack { token, .. } => {
                let before = peer.fast.is_up();
                peer.fast.answered(token, now);
                self.dirty.fast |= before != peer.fast.is_up();
            }
            PathMessage::Confirm
            | PathMessage::Close
            | PathMessage::Offer(_)
            | PathMessage::OfferEsp(_)
            | PathMessage::Esp(_)
            | PathMessage::Decline(_)
            | PathMessage::Meet { .. } => {}
        }
    }

    fn send_fast_probe(&mut self, id: PeerId, probe: Probe, now: Instant) {
        let token = self.rng.random();
        let size = match probe {
            Probe::Full => usize::try_from(self.config.mtu).unwrap_or(0),
            Probe::Small => 0,
        };
        let wish = self.peers.get(&id).and_then(|peer| peer.fast.wish());
        if !wish.is_some_and(|wish| self.is_protected(id, wish)) {
            return;
        }
        let message = PathMessage::Probe {
            token,
            padding: padding(token, size),
        };
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.fast.probed(token, now);
            self.send_tunnelled(id, &message);
        }
    }

    /// Seals a message as for the direct path, and puts it into the tunnel.
    fn send_tunnelled(&mut self, id: PeerId, message: &PathMessage) {
        let Some(index) = self.peers.get(&id).and_then(|peer| peer.fast.index()) else {
            return;
        };
        self.publish();
        let snapshot = Arc::clone(&self.snapshot);
        let Some(path) = snapshot.paths.get(&id) else {
            return;
        };
        let Route::Direct(Straight { address, .. }) = path.route else {
            return;
        };
        let path = Path {
            route: Route::Direct(Straight::uncut(address)),
            ..Path::clone(path)
        };
        let mut sealed = Sealed(Vec::new());
        let body = Message::Path(message.clone()).encode();
        let sent = send_content(
            &snapshot,
            (id, &path),
            Protection::Sealed,
            (&content::CONTROL, &body),
            &mut sealed,
        );
        match sent {
            Ok(()) => {
                let datagram = sealed.0;
                self.control_tx += datagram.len() as u64;
                self.tunnelled.push_back(Tunnelled { index, datagram });
            }
            Err(reason) => snapshot.shared.counters.count(reason),
        }
    }

    /// What the kernel has to know.
    pub(super) fn fast_table(&self) -> FastTable {
        let all = self.peers.iter();
        let all = all.flat_map(|(id, peer)| peer.fast.entries().map(move |e| (id, peer, e)));
        let entries = all.map(|(id, peer, entry)| {
            let fast = FastPeer {
                peer: *id,
                address: entry.wish.address,
                source: entry.source,
                vni: entry.vni,
                up: entry.up,
                esp: entry.wish.esp,
                counters: Arc::clone(&peer.counters),
            };
            (entry.wish.index, fast)
        });
        entries.collect()
    }

    /// Why frames do not take the fast path; none while they do.
    pub(super) fn fast_reason(&self, peer: &Peer) -> Option<String> {
        let Some(direct) = &peer.direct else {
            return peer.fast.reason(0, 0);
        };
        if peer.fast.is_offered()
            && !peer.fast.is_up()
            && let Some(reason) = self.esp_reason(peer)
        {
            return Some(reason);
        }
        let is_ipv6 = direct.address.ip().is_ipv6();
        let esp = peer.fast.wish().is_some_and(|wish| wish.esp);
        let path = direct.pmtu.datagram() + direct.address.headers();
        let needed = if is_ipv6 { IPV6 } else { IPV4 } + carried(self.config.mtu, esp);
        peer.fast.reason(path, needed)
    }

    /// How frames are protected that the kernel carries: whatever the session
    /// does, in clear or by the one cipher of ESP.
    pub(super) fn fast_cipher(&self, peer: &Peer) -> &'static str {
        match peer.fast.wish() {
            Some(Wish { esp: true, .. }) => "AES-256-GCM",
            Some(_) | None => "none",
        }
    }
}

/// What the peer insists on may be for the network that it was in.
fn note_place(peer: &mut Peer) {
    let direct = peer.direct.as_ref().filter(|d| !d.address.is_tcp());
    if let Some(direct) = direct
        && peer.fast.moves_to(direct.address.ip())
    {
        peer.insists = false;
    }
}

/// Whether frames in clear to the peer are agreed on for the networks that both
/// ends trust, and not by the session.
fn rests_on_trust(peer: &Peer) -> bool {
    let in_clear = peer.fast.wish().is_some_and(|wish| !wish.esp);
    let session = peer.sending().map(|held| held.protection);
    in_clear && session != Some(Protection::Clear)
}

/// Bytes that the outer IP packet carries for a packet of the overlay.
fn carried(mtu: u32, esp: bool) -> usize {
    let udp = usize::try_from(mtu).unwrap_or(0) + VXLAN;
    if esp {
        // Padded to four bytes, the trailer's two included (RFC 4303, section 2.4).
        return (udp + 2).next_multiple_of(4) + ESP;
    }
    udp
}

/// Keeps the one datagram that a message becomes.
struct Sealed(Vec<u8>);

impl Output for Sealed {
    fn datagram(&mut self, _to: Endpoint, len: usize, fill: impl FnOnce(&mut [u8]) -> bool) {
        self.0 = vec![0; len];
        if !fill(&mut self.0) {
            self.0.clear();
        }
    }

    fn frame(&mut self, _frame: &[u8]) {}

    fn upcall(&mut self, _upcall: Upcall) {}
}

#[cfg(test)]
mod tests;
