//! From a content to sealed datagrams: cut to the path, sealed end to end,
//! wrapped for a relay where needed.
//!
//! ```text
//! direct  header:16 | content                                        | tag:16
//! relay   header:16 | relay header:38 | header:16 | content | tag:16 | tag:16
//! ```
//!
//! Both seals happen in the buffer the datagram leaves from.

use std::{net::SocketAddr, sync::atomic::Ordering};

use crypto::Session;
use proto::{
    PeerId,
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
    (peer, path): (PeerId, &Path),
    protection: Protection,
    (header, body): (&[u8], &[u8]),
    out: &mut impl Output,
) -> Result<(), DropReason> {
    let session = path.session.as_deref().ok_or(DropReason::NoSession)?;
    let room = snapshot.room(path).ok_or(DropReason::NoRoute)?;
    let way = Way::find(snapshot, peer, path)?;
    let len = header.len() + body.len();
    if len <= room {
        return way.send(session, protection, &[header, body], out);
    }
    let id = snapshot.shared.fragment_id.fetch_add(1, Ordering::Relaxed);
    let pieces =
        fragment::pieces(len, room.saturating_sub(FRAGMENT_HEADER)).ok_or(DropReason::TooLarge)?;
    let count = u8::try_from(pieces.len()).map_err(|_| DropReason::TooLarge)?;
    for (index, range) in (0..count).zip(pieces) {
        let fragment = FragmentHeader { id, index, count }.emit();
        let (head, tail) = split(header, body, range);
        way.send(session, protection, &[&fragment, head, tail], out)?;
    }
    Ok(())
}

/// Passes a datagram that somebody else sealed on towards its destination, if
/// it comes nearer to it from here: so nothing goes round, even while peers
/// disagree about the routes.
pub fn send_relay(
    snapshot: &Snapshot,
    mut header: RelayHeader,
    inner: &[u8],
    out: &mut impl Output,
) -> Result<(), DropReason> {
    let path = snapshot
        .paths
        .get(&header.destination)
        .ok_or(DropReason::NoRoute)?;
    let (next, distance) = match path.route {
        Route::Direct { .. } => (header.destination, 0),
        Route::Relay { next, distance } if distance < header.distance => (next, distance),
        Route::Relay { .. } => return Err(DropReason::Loop),
        Route::None => return Err(DropReason::NoRoute),
    };
    header.distance = distance;
    let hop = snapshot.paths.get(&next).ok_or(DropReason::NoRoute)?;
    let Route::Direct { .. } = hop.route else {
        return Err(DropReason::NoRoute);
    };
    send_content(
        snapshot,
        (next, hop),
        Protection::Sealed,
        (&header.emit(), inner),
        out,
    )
}

/// The way of one datagram: straight, or inside the seal of the next hop.
enum Way<'a> {
    Direct(SocketAddr),
    Relay {
        address: SocketAddr,
        link: &'a Session,
        header: [u8; RELAY_HEADER],
    },
}

impl<'a> Way<'a> {
    fn find(snapshot: &'a Snapshot, peer: PeerId, path: &Path) -> Result<Self, DropReason> {
        match path.route {
            Route::Direct { address, .. } => Ok(Self::Direct(address)),
            Route::Relay { next, distance } => {
                let hop = snapshot.paths.get(&next).ok_or(DropReason::NoRoute)?;
                let Route::Direct { address, .. } = hop.route else {
                    return Err(DropReason::NoRoute);
                };
                let link = hop.session.as_deref().ok_or(DropReason::NoRoute)?;
                let header = RelayHeader {
                    hops: HOP_LIMIT,
                    distance,
                    source: snapshot.shared.local,
                    destination: peer,
                };
                Ok(Self::Relay {
                    address,
                    link,
                    header: header.emit(),
                })
            }
            Route::None => Err(DropReason::NoRoute),
        }
    }

    fn send(
        &self,
        session: &Session,
        protection: Protection,
        parts: &[&[u8]],
        out: &mut impl Output,
    ) -> Result<(), DropReason> {
        let inner: usize = TRANSPORT_OVERHEAD + parts.iter().map(|p| p.len()).sum::<usize>();
        let mut result = Ok(());
        let mut keep = |sealed: Result<(), crypto::SealError>| {
            result = sealed.map_err(|_| DropReason::NoSession);
            result.is_ok()
        };
        match self {
            Self::Direct(address) => out.datagram(*address, inner, |buffer| {
                write(&mut buffer[TRANSPORT_HEADER..inner - TAG], parts);
                keep(session.seal(protection, buffer))
            }),
            Self::Relay {
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
                        keep(session.seal(protection, &mut content[..inner]))
                            && keep(link.seal(Protection::Sealed, buffer))
                    },
                );
            }
        }
        result
    }
}

fn write(mut to: &mut [u8], parts: &[&[u8]]) {
    for part in parts {
        let (head, rest) = to.split_at_mut(part.len());
        head.copy_from_slice(part);
        to = rest;
    }
}

/// The part of `header ++ body` that lies in `range`, without joining them.
fn split<'a>(
    header: &'a [u8],
    body: &'a [u8],
    range: std::ops::Range<usize>,
) -> (&'a [u8], &'a [u8]) {
    let cut = |at: usize| at.min(header.len());
    let tail = |at: usize| at.saturating_sub(header.len());
    (
        &header[cut(range.start)..cut(range.end)],
        &body[tail(range.start)..tail(range.end)],
    )
}
