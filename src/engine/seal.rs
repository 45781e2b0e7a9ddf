//! From a content to sealed datagrams: cut to the path, sealed end to end,
//! wrapped for a relay where needed.
//!
//! ```text
//! direct  header:16 | content                                        | tag:16
//! relay   header:16 | relay header:38 | header:16 | content | tag:16 | tag:16
//! ```
//!
//! Both seals happen in the buffer the datagram leaves from.

use std::sync::atomic::Ordering;

use crypto::Sealer;
use proto::{
    Endpoint, PeerId,
    content::{FRAGMENT_HEADER, FragmentHeader, HOP_LIMIT, RELAY_HEADER, RelayHeader},
    datagram::{Protection, TAG, TRANSPORT_HEADER, TRANSPORT_OVERHEAD},
};

use super::{
    counters::DropReason,
    fragment,
    output::Output,
    snapshot::{Path, Route, Snapshot},
};

/// Sends `header` followed by `body` as one content to `peer` along `path`.
pub fn send_content(
    snapshot: &Snapshot,
    to: (PeerId, &Path),
    protection: Protection,
    (header, body): (&[u8], &[u8]),
    out: &mut impl Output,
) -> Result<(), DropReason> {
    Lane::find(snapshot, to, protection)?.send(snapshot, [header, body, &[]], out)
}

/// All that is the same for many contents to one peer.
pub struct Lane<'a> {
    sealer: Sealer<'a>,
    protection: Protection,
    way: Way<'a>,
    room: usize,
}

impl<'a> Lane<'a> {
    /// Finds keys and way.
    pub fn find(
        snapshot: &'a Snapshot,
        (peer, path): (PeerId, &'a Path),
        protection: Protection,
    ) -> Result<Self, DropReason> {
        let session = path.session.as_deref().ok_or(DropReason::NoSession)?;
        Ok(Self {
            sealer: session.sealer(),
            protection,
            way: Way::find(snapshot, peer, path)?,
            room: snapshot.room(path).ok_or(DropReason::NoRoute)?,
        })
    }

    /// Keys of a neighbour and the direct path to it, for what it is to pass on.
    fn through(hop: &'a Path) -> Result<Self, DropReason> {
        let (session, straight) = hop
            .session
            .as_deref()
            .zip(hop.straight)
            .ok_or(DropReason::NoRoute)?;
        hop.counters.relays();
        let room = straight.datagram.checked_sub(TRANSPORT_OVERHEAD);
        Ok(Self {
            sealer: session.sealer(),
            protection: Protection::Sealed,
            way: Way::Direct(straight.address),
            room: room.ok_or(DropReason::NoRoute)?,
        })
    }

    /// So many contents will be sent, each in one datagram.
    pub fn expect(&mut self, count: usize) {
        self.sealer.expect(count);
        if let Way::Relay { link, .. } = &mut self.way {
            link.expect(count);
        }
    }

    /// The largest content that travels in one datagram, in bytes.
    pub fn room(&self) -> usize {
        self.room
    }

    /// Sends the parts, one after the other, as one content.
    pub fn send(
        &mut self,
        snapshot: &Snapshot,
        parts: [&[u8]; 3],
        out: &mut impl Output,
    ) -> Result<(), DropReason> {
        let len = parts.iter().map(|p| p.len()).sum();
        if len <= self.room {
            return self.transmit(&parts, out);
        }
        let id = snapshot.shared.fragment_id.fetch_add(1, Ordering::Relaxed);
        let pieces = fragment::pieces(len, self.room.saturating_sub(FRAGMENT_HEADER))
            .ok_or(DropReason::TooLarge)?;
        let count = u8::try_from(pieces.len()).map_err(|_| DropReason::TooLarge)?;
        for (index, range) in (0..count).zip(pieces) {
            let fragment = FragmentHeader { id, index, count }.emit();
            let [a, b, c] = within(parts, range);
            self.transmit(&[&fragment, a, b, c], out)?;
        }
        Ok(())
    }

    /// One datagram.
    fn transmit(&mut self, parts: &[&[u8]], out: &mut impl Output) -> Result<(), DropReason> {
        let (sealer, protection) = (&mut self.sealer, self.protection);
        let inner: usize = TRANSPORT_OVERHEAD + parts.iter().map(|p| p.len()).sum::<usize>();
        let mut result = Ok(());
        let mut keep = |sealed: Result<(), crypto::SealError>| {
            result = sealed.map_err(|_| DropReason::NoSession);
            result.is_ok()
        };
        match &mut self.way {
            Way::Direct(address) => out.datagram(*address, inner, |buffer| {
                write(&mut buffer[TRANSPORT_HEADER..inner - TAG], parts);
                keep(sealer.seal(protection, buffer))
            }),
            Way::Relay {
                address,
                link,
                header,
            } => {
                let start = TRANSPORT_HEADER + RELAY_HEADER;
                out.datagram(
                    *address,
                    inner + TRANSPORT_OVERHEAD + RELAY_HEADER,
                    |buffer| {
                        buffer[TRANSPORT_HEADER..start].copy_from_slice(header);
                        let (_, content) = buffer.split_at_mut(start);
                        write(&mut content[TRANSPORT_HEADER..inner - TAG], parts);
                        keep(sealer.seal(protection, &mut content[..inner]))
                            && keep(link.seal(Protection::Sealed, buffer))
                    },
                );
            }
        }
        result
    }
}

/// Hops that a datagram spends where a relay is further from its destination
/// than the sender believed: so this happens once on a way.
const SURPRISE: u8 = HOP_LIMIT / 2;

/// Passes a datagram that somebody else sealed on towards its destination, if
/// it comes nearer to it from here: so nothing goes round, even while peers
/// disagree about the routes. It may come nearer at the next hop only, once: a
/// link that became slower is known to the relays before it is to the source.
/// For that, a relay may have it a second time, and never a third. It is not
/// handed back to `from`, from whom it came, who would only send it here again.
pub fn send_relay(
    snapshot: &Snapshot,
    from: Option<PeerId>,
    mut header: RelayHeader,
    inner: &[u8],
    out: &mut impl Output,
) -> Result<(), DropReason> {
    let path = snapshot
        .paths
        .get(&header.destination)
        .ok_or(DropReason::NoRoute)?;
    let next = come_nearer(&path.route, from, &mut header)?;
    let hop = snapshot.paths.get(&next).ok_or(DropReason::NoRoute)?;
    Lane::through(hop)?.send(snapshot, [&header.emit(), inner, &[]], out)
}

/// Whom to hand a datagram to. Writes into its header how near it comes.
fn come_nearer(
    route: &Route,
    from: Option<PeerId>,
    header: &mut RelayHeader,
) -> Result<PeerId, DropReason> {
    match *route {
        Route::Direct(_) => {
            header.distance = 0;
            Ok(header.destination)
        }
        Route::Relay { next, .. } if from == Some(next) => Err(DropReason::Loop),
        Route::Relay { next, distance, .. } if distance < header.distance => {
            header.distance = distance;
            Ok(next)
        }
        Route::Relay { next, rest, .. } if rest < header.distance && header.hops > SURPRISE => {
            header.hops -= SURPRISE;
            Ok(next)
        }
        Route::Relay { .. } => Err(DropReason::Loop),
        Route::None => Err(DropReason::NoRoute),
    }
}

/// The way of one datagram: straight, or inside the seal of the next hop.
enum Way<'a> {
    Direct(Endpoint),
    Relay {
        address: Endpoint,
        link: Sealer<'a>,
        header: [u8; RELAY_HEADER],
    },
}

impl<'a> Way<'a> {
    fn find(snapshot: &'a Snapshot, peer: PeerId, path: &Path) -> Result<Self, DropReason> {
        match path.route {
            Route::Direct(straight) => Ok(Self::Direct(straight.address)),
            Route::Relay { next, distance, .. } => {
                let hop = snapshot.paths.get(&next).ok_or(DropReason::NoRoute)?;
                let link = hop.session.as_deref().ok_or(DropReason::NoRoute)?;
                let straight = hop.straight.ok_or(DropReason::NoRoute)?;
                hop.counters.relays();
                let header = RelayHeader {
                    hops: HOP_LIMIT,
                    distance,
                    source: snapshot.shared.local,
                    destination: peer,
                };
                Ok(Self::Relay {
                    address: straight.address,
                    link: link.sealer(),
                    header: header.emit(),
                })
            }
            Route::None => Err(DropReason::NoRoute),
        }
    }
}

fn write(mut to: &mut [u8], parts: &[&[u8]]) {
    for part in parts {
        let (head, rest) = to.split_at_mut(part.len());
        head.copy_from_slice(part);
        to = rest;
    }
}

/// What of each part lies in `range` of their concatenation.
fn within(parts: [&[u8]; 3], range: std::ops::Range<usize>) -> [&[u8]; 3] {
    let mut start = 0;
    parts.map(|part| {
        let cut = |at: usize| at.saturating_sub(start).min(part.len());
        let inside = &part[cut(range.start)..cut(range.end)];
        start += part.len();
        inside
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_range_falls_into_the_parts_it_covers() {
        let parts = [&b"ab"[..], b"", b"cdef"];
        let joined = |range| within(parts, range).concat();
        assert_eq!(joined(0..6), b"abcdef");
        assert_eq!(joined(1..3), b"bc");
        assert_eq!(within(parts, 2..4), [&b""[..], b"", b"cd"]);
        assert_eq!(joined(6..6), b"");
    }

    proptest! {
        /// Whatever each peer believes of its way, and however wrong it is.
        #[test]
        fn nobody_hands_on_a_third_time(
            views in prop::collection::vec((0usize..6, 1u32..4, 0u32..8), 6),
        ) {
            let peer = |n: usize| PeerId([n as u8; 16]);
            let (mut from, mut at, mut handed) = (None, 0, [0; 6]);
            let mut header = RelayHeader {
                hops: HOP_LIMIT,
                distance: u32::MAX,
                source: peer(100),
                destination: peer(101),
            };
            loop {
                let (next, link, rest) = views[at];
                let route = Route::Relay { next: peer(next), distance: link + rest, rest };
                if come_nearer(&route, from, &mut header).is_err() {
                    break;
                }
                handed[at] += 1;
                prop_assert!(handed[at] <= 2);
                (from, at) = (Some(peer(at)), next);
            }
        }
    }

    #[test]
    fn a_relay_that_knows_of_a_longer_way_passes_on_once_and_never_away() {
        let next = PeerId([7; 16]);
        let relay = |distance, rest| Route::Relay {
            next,
            distance,
            rest,
        };
        let header = |hops, distance| RelayHeader {
            hops,
            distance,
            source: PeerId([1; 16]),
            destination: PeerId([2; 16]),
        };
        let (old, new) = (100, 130);
        for (route, mut given, passed) in [
            (relay(90, 50), header(20, old), Some(header(20, 90))),
            (relay(new, 80), header(20, old), Some(header(8, old))),
            (relay(new, 80), header(8, old), None),
            (relay(new, old), header(20, old), None),
            (relay(old, 50), header(12, old), None),
            (relay(u32::MAX, u32::MAX), header(24, u32::MAX), None),
        ] {
            let handed_back = come_nearer(&route, Some(next), &mut given.clone());
            assert_eq!(handed_back, Err(DropReason::Loop));
            let result = come_nearer(&route, Some(PeerId([3; 16])), &mut given);
            match passed {
                Some(header) => assert_eq!((result, given), (Ok(next), header)),
                None => assert_eq!(result, Err(DropReason::Loop)),
            }
        }
    }
}
