//! One function per target: arbitrary bytes in, a panic if a law is broken.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use gossip::Directory;
use proto::{
    MacAddr, PeerId,
    arp::{ArpPacket, ArpRepr},
    content::{self, Content, FragmentHeader, Frames},
    datagram::{Datagram, emit_cookie_reply, emit_no_session, emit_reject},
    ethernet::{EthernetFrame, EthernetRepr, NetworkLayer},
    ip::{Checksum, Ipv4Packet, Ipv6Packet, TcpSegment},
    message::Message,
    ndp::NdpRepr,
    record::{Body, Record},
    stream::{Deframer, prefix},
    vnet::{VNET_HEADER, VnetHeader},
};
use wove::engine::{
    coalesce::{Coalescer, Joins},
    dedup::BroadcastFilter,
    dns::{
        NameMap, Outcome, Transport, View, Zone,
        forward::{Forwarded, Verdict},
    },
    fragment::{Limits, MAX_CONTENT, Reassembler},
    layers::Layers,
    mss::clamp,
    neighbour,
    segment::{Load, MAX_SEGMENTS, Sum, examine},
    snapshot::StationMap,
};

/// A connection: what comes out is what went in, however it is cut, and bounded.
pub(crate) fn stream(bytes: &[u8]) {
    const LIMIT: usize = 2048;
    let (mut deframer, mut read) = (Deframer::new(), Vec::new());
    for part in bytes.chunks(97) {
        deframer.extend(part);
        loop {
            match deframer.next(LIMIT) {
                Ok(Some(datagram)) => {
                    assert!((1..=LIMIT).contains(&datagram.len()));
                    read.extend(prefix(datagram.len()).expect("neither empty nor long"));
                    read.extend_from_slice(datagram);
                }
                Ok(None) => break,
                Err(_) => return assert!(bytes.starts_with(&read)),
            }
        }
    }
    assert!(bytes.starts_with(&read));
}

/// The header of a datagram: what is read is what would be written.
pub(crate) fn datagram(bytes: &[u8]) {
    let Ok(datagram) = Datagram::parse(bytes) else {
        return;
    };
    let written = match datagram {
        Datagram::Handshake(handshake) => handshake.emit(),
        Datagram::CookieReply { receiver, cookie } => emit_cookie_reply(receiver, &cookie),
        Datagram::Reject { receiver, reason } => emit_reject(receiver, reason),
        Datagram::NoSession { receiver, counter } => emit_no_session(receiver, counter),
        Datagram::Transport(header) => [&header.emit()[..], &bytes[16..]].concat(),
    };
    assert_eq!(written.len(), bytes.len());
    assert_eq!(Datagram::parse(&written), Ok(datagram));
}

/// A content, and the message in it.
pub(crate) fn content(bytes: &[u8]) {
    let Ok(content) = Content::parse(bytes) else {
        return;
    };
    let written = match content {
        Content::Control(rest) => {
            message(rest);
            return;
        }
        Content::Frame(rest) | Content::Unsummed(rest) => {
            frame(rest);
            return;
        }
        Content::Frames(frames) => shared(frames),
        Content::Relay(header, rest) => {
            datagram(rest);
            [&header.emit()[..], rest].concat()
        }
        Content::Broadcast(header, rest) => [&header.emit()[..], rest].concat(),
        Content::Fragment(header, rest) => {
            assert!(header.count >= 2 && header.index < header.count);
            [&header.emit()[..], rest].concat()
        }
    };
    assert!(bytes.starts_with(&written));
    let cut = match content {
        Content::Frames(mut all) => all.any(|frame| frame.is_err()),
        _ => false,
    };
    assert!(cut || written == bytes);
}

/// Frames that share a content; nothing follows a bad one.
fn shared(frames: Frames<'_>) -> Vec<u8> {
    let mut written = content::FRAMES.to_vec();
    let read: Vec<_> = frames.collect();
    let good = read.iter().take_while(|frame| frame.is_ok()).count();
    assert!(read.len() <= good + 1);
    for shared in read.iter().flatten() {
        assert!(shared.emit(&mut written));
    }
    written
}

/// A control message; what was read survives being written.
pub(crate) fn message(bytes: &[u8]) {
    let Ok(message) = Message::decode(bytes) else {
        return;
    };
    assert_eq!(Message::decode(&message.encode()), Ok(message));
}

/// A record, and the body in it.
pub(crate) fn record(bytes: &[u8]) {
    let Ok(record) = Record::decode(bytes) else {
        return;
    };
    body(&record.body);
    assert!(record.signed_bytes().len() < bytes.len());
    assert_eq!(Record::decode(&record.encode()), Ok(record));
}

/// The body of a record.
pub(crate) fn body(bytes: &[u8]) {
    let Ok(body) = Body::decode(bytes) else {
        return;
    };
    assert_eq!(Body::decode(&body.encode()), Ok(body));
}

/// A query for a name: what is answered is an answer to it, of at most the length
/// that was asked for; what is passed on is answered only by what repeats it.
pub(crate) fn query(bytes: &[u8]) {
    let pairs = [
        ("a.b", IpAddr::from([10, 32, 0, 1])),
        ("web", IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1])),
    ];
    let (directory, changed) = Directory::sample(pairs);
    let mut names = NameMap::default();
    names.update(&directory, &changed);
    let zone = Zone::new("wove.local").expect("a domain");
    let view = View {
        names: &names,
        stations: &StationMap::default(),
        networks: &[],
        forwards: true,
        turn: bytes.len(),
    };
    match zone.answer(bytes, Transport::Datagram, view) {
        Outcome::Answer { bytes: answer, .. } => {
            assert_eq!(answer[..2], bytes[..2]);
            assert!(answer[2] & 0x80 != 0);
            assert_eq!(zone.answer(&answer, Transport::Stream, view), Outcome::Drop);
        }
        Outcome::Forward => {
            if let Some(forwarded) = Forwarded::new(bytes, 77) {
                assert_eq!(forwarded.judge(bytes), Verdict::Foreign);
                assert_eq!(forwarded.failure()[..2], bytes[..2]);
            }
        }
        Outcome::Drop => {}
    }
}

/// The text forms of ids and MAC addresses.
pub(crate) fn text(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(id) = text.parse::<PeerId>() {
        assert_eq!(id.to_string(), text.to_lowercase());
    }
    if let Ok(mac) = text.parse::<MacAddr>() {
        assert_eq!(mac.to_string(), text.to_lowercase());
    }
}

/// Every view that a container's frame can be read with.
pub(crate) fn frame(bytes: &[u8]) {
    if let Ok(frame) = EthernetFrame::new_checked(bytes) {
        assert_eq!(EthernetRepr::parse(&frame).emit(), bytes[..14]);
    }
    let Ok(network) = NetworkLayer::find(bytes) else {
        return;
    };
    let packet = &bytes[network.offset..];
    if let Ok(arp) = ArpPacket::new_checked(packet)
        && let Ok(repr) = ArpRepr::parse(&arp)
    {
        assert_eq!(repr.emit(), packet[..28]);
    }
    if let Ok(packet) = Ipv4Packet::new_checked(packet) {
        let at = packet.transport();
        assert_eq!(at.end - at.offset, packet.payload().len());
        segment(packet.payload());
    }
    if let Ok(packet) = Ipv6Packet::new_checked(packet) {
        if let Ok(repr) = NdpRepr::parse(&packet) {
            assert!(repr.buffer_len() <= packet.payload().len());
        }
        if let Ok(at) = packet.transport() {
            segment(&bytes[network.offset..][at.offset..at.end]);
        }
    }
}

fn segment(bytes: &[u8]) {
    if let Ok(segment) = TcpSegment::new_checked(bytes)
        && let Some((at, mss)) = segment.mss()
    {
        assert_eq!(bytes[at..at + 2], mss.to_be_bytes());
    }
}

/// Answers and sightings, of the frame as it is and with its checksum repaired
/// (else hardly any damage would get past the checksum).
pub(crate) fn neighbour(bytes: &[u8]) {
    answer_and_learn(bytes);
    let mut repaired = bytes.to_vec();
    if repair_icmpv6(&mut repaired).is_some() {
        answer_and_learn(&repaired);
    }
}

fn answer_and_learn(bytes: &[u8]) {
    let station = MacAddr([2, 0, 0, 0, 0, 2]);
    let mut reply = Vec::new();
    let sighting = neighbour::learn(bytes);
    if neighbour::answer(bytes, |_| Some(station), &mut reply) {
        let asker = sighting.expect("who asks has a MAC address").mac;
        let header =
            EthernetRepr::parse(&EthernetFrame::new_checked(&reply).expect("a whole frame"));
        assert_eq!((header.destination, header.source), (asker, station));
        assert!(matches!(reply.len(), 42 | 86));
        let told = neighbour::learn(&reply).expect("a reply has a sender");
        assert!(told.ips().count() <= 1, "the reply speaks for one address");
        assert!(!neighbour::answer(
            &reply,
            |_| Some(station),
            &mut Vec::new()
        ));
    }
    let usable = |ip: IpAddr| !ip.is_unspecified() && !ip.is_multicast() && !ip.is_loopback();
    assert!(sighting.is_none_or(|s| !s.mac.is_multicast() && s.ips().all(usable)));
}

fn repair_icmpv6(frame: &mut [u8]) -> Option<()> {
    let packet = Ipv6Packet::new_checked(frame.get(14..)?).ok()?;
    let (source, destination, end) = (
        packet.source(),
        packet.destination(),
        14 + packet.total_len(),
    );
    let message = frame.get_mut(54..end)?;
    message.get_mut(2..4)?.fill(0);
    let len = u32::try_from(message.len()).ok()?;
    let sum = Checksum::pseudo_ipv6(source, destination, 58, len)
        .bytes(message)
        .finish();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    Some(())
}

/// Clamping: it changes the option and the checksum, and once is enough.
pub(crate) fn mss(bytes: &[u8]) {
    for limit in [0, 1280, 1400] {
        let mut frame = bytes.to_vec();
        if !clamp(&mut frame, limit) {
            assert_eq!(frame, bytes);
            continue;
        }
        let changed = frame.iter().zip(bytes).filter(|(a, b)| a != b).count();
        assert!(changed <= 4);
        assert!(!clamp(&mut frame, limit));
    }
}

/// A frame from a TAP behind its header: what it is cut into has all of it,
/// and can be joined.
pub(crate) fn offload(bytes: &[u8]) {
    let Ok(header) = VnetHeader::parse(bytes) else {
        return;
    };
    let mut frame = bytes[VNET_HEADER..].to_vec();
    let Ok(load) = examine(&header, &mut frame) else {
        return;
    };
    assert_eq!(frame.len(), bytes.len() - VNET_HEADER);
    let Load::Super(parts) = load else { return };
    let (mut coalescer, mut cut, mut joined) = (Coalescer::new(ALL), 0, 0);
    let done: Result<(), ()> = parts.cut(&frame, Sum::Complete, |headers, payload| {
        cut += payload.len();
        let segment = [headers, payload].concat();
        coalescer.push(&segment, None, Sum::Complete, |header, frame| {
            joined += payload_of(header, frame);
        });
        Ok(())
    });
    assert!(done.is_ok() && parts.count() <= MAX_SEGMENTS);
    coalescer.flush(|header, frame| joined += payload_of(header, frame));
    assert_eq!(cut, joined);
}

const ALL: Joins = Joins {
    tcp: true,
    udp: true,
};

fn payload_of(header: &VnetHeader, frame: &[u8]) -> usize {
    let layers = Layers::find(frame).expect("a segment");
    let examined = examine(header, &mut frame.to_vec());
    assert!(examined.is_ok(), "{examined:?}");
    layers.end - layers.payload
}

/// Any frames in a row, joined: as many bytes of frames go in as come out.
pub(crate) fn join(bytes: &[u8]) {
    let (mut coalescer, mut out) = (Coalescer::new(ALL), 0);
    let mut count = |header: &VnetHeader, frame: &[u8]| {
        let mut frame = frame.to_vec();
        out += match examine(header, &mut frame) {
            Ok(Load::Super(parts)) => parts.count(),
            _ => 1,
        };
    };
    let frames = [bytes, bytes, &bytes[..bytes.len() / 2], bytes];
    for frame in frames {
        let layers = Layers::find(frame);
        let sum = match layers {
            Some(_) => Sum::Left,
            None => Sum::Complete,
        };
        coalescer.push(frame, layers.as_ref(), sum, &mut count);
    }
    coalescer.flush(&mut count);
    assert_eq!(out, frames.len());
}

/// Pieces as seven bytes each: session, id, index, count, length (2), ms / 8.
pub(crate) fn fragment(bytes: &[u8]) {
    static PART: [u8; 1 << 16] = [0x55; 1 << 16];
    let limits = Limits {
        total: 512 << 10,
        ..Limits::default()
    };
    let mut reassembler = Reassembler::new(limits);
    #[expect(
        clippy::disallowed_methods,
        reason = "an origin for the target's own clock"
    )]
    let mut now = Instant::now();
    let (steps, _) = bytes.as_chunks::<7>();
    for &[session, id, index, count, high, low, wait] in steps.iter().take(64) {
        now += Duration::from_millis(u64::from(wait) * 8);
        let header = FragmentHeader {
            id: id.into(),
            index,
            count,
        };
        let part = &PART[..usize::from(u16::from_be_bytes([high, low]))];
        let key = (session.into(), id.into());
        if let Some(content) = reassembler.insert(key, header, part, now) {
            assert!(content.len() <= MAX_CONTENT);
            assert!(content.len() >= part.len());
        }
        assert!(reassembler.memory() <= limits.total + MAX_CONTENT);
    }
}

/// Broadcasts as four bytes each: source, shift, number, frame.
pub(crate) fn dedup(bytes: &[u8]) {
    let mut filter = BroadcastFilter::with_capacity(64);
    let mut accepted = BTreeSet::new();
    let (steps, _) = bytes.as_chunks::<4>();
    for &[source, shift, number, frame] in steps.iter().take(64) {
        let sequence = u64::from(number) << (shift % 64);
        let new = accepted.insert((source, sequence, frame));
        assert_eq!(
            filter.accept(PeerId([source; 16]), sequence, &[frame]),
            new,
            "a broadcast passes once"
        );
    }
    assert!(filter.len() <= 64);
}
