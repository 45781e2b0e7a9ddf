//! Super-frames for tests, and what they consist of: every segment is built
//! anew from its own parts, and nothing is derived from a neighbour.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use proto::{
    ip::Checksum,
    vnet::{PartialChecksum, SegmentKind, Segments, VnetHeader},
};

use super::layers::{Layers, put};

/// What a super-frame looks like.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) tcp: bool,
    pub(super) v6: bool,
    /// VLAN tags.
    pub(super) tags: usize,
    /// Bytes of a destination options header, IPv6 only: a multiple of 8.
    pub(super) extension: usize,
    /// Bytes of TCP options, a multiple of 4.
    pub(super) options: usize,
    /// The two bits of ECN (RFC 3168).
    pub(super) ecn: u8,
    /// FIN, PSH, CWR and the like, beside ACK.
    pub(super) flags: u8,
    pub(super) sequence: u32,
    pub(super) id: u16,
    pub(super) payload: usize,
    pub(super) size: usize,
    pub(super) fill: u8,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            tcp: true,
            v6: false,
            tags: 0,
            extension: 0,
            options: 12,
            ecn: 0,
            flags: 0x10,
            sequence: 1,
            id: 1,
            payload: 3000,
            size: 1000,
            fill: 7,
        }
    }
}

impl Shape {
    /// Any that travels.
    pub(super) fn any() -> impl Strategy<Value = Self> {
        let layers = (
            any::<bool>(),
            any::<bool>(),
            0usize..3,
            0usize..3,
            0usize..11,
        );
        let fields = (
            0u8..4,
            prop::sample::select(vec![0x10, 0x18, 0x11, 0x90, 0x98, 0x50]),
            any::<u32>(),
            any::<u16>(),
        );
        let lengths = (1usize..9000, 60usize..1500, any::<u8>());
        (layers, fields, lengths).prop_map(
            |((tcp, v6, tags, ext, opt), (ecn, flags, sequence, id), (payload, size, fill))| Self {
                tcp,
                v6,
                tags,
                extension: if v6 { ext * 8 } else { 0 },
                options: opt * 4,
                ecn,
                flags,
                sequence,
                id,
                payload,
                size,
                fill,
            },
        )
    }

    fn transport_header(&self) -> usize {
        if self.tcp { 20 + self.options } else { 8 }
    }

    fn network(&self) -> usize {
        14 + 4 * self.tags
    }

    fn transport(&self) -> usize {
        self.network() + if self.v6 { 40 + self.extension } else { 20 }
    }

    fn byte(&self, at: usize) -> u8 {
        self.fill.wrapping_add((at % 251) as u8)
    }
}

/// The frame of one segment: which part of the payload, and its number.
fn build(shape: &Shape, from: usize, to: usize, index: usize, last: bool) -> Vec<u8> {
    let mut frame = vec![2; 12];
    for tag in 0..shape.tags {
        frame.extend_from_slice(&[0x81, 0, 0, 5 + tag as u8]);
    }
    let transport_len = shape.transport_header() + to - from;
    let protocol = if shape.tcp { 6 } else { 17 };
    if shape.v6 {
        frame.extend_from_slice(&[0x86, 0xdd, 0x60, shape.ecn << 4, 1, 2]);
        let len = (shape.extension + transport_len) as u16;
        frame.extend_from_slice(&len.to_be_bytes());
        let first = if shape.extension > 0 { 60 } else { protocol };
        frame.extend_from_slice(&[first, 64]);
        frame.extend_from_slice(&Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).octets());
        frame.extend_from_slice(&Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2).octets());
        if shape.extension > 0 {
            let at = frame.len();
            frame.resize(at + shape.extension, 0);
            frame[at] = protocol;
            frame[at + 1] = (shape.extension / 8 - 1) as u8;
            frame[at + 2] = 1;
            frame[at + 3] = (shape.extension - 4) as u8;
        }
    } else {
        frame.extend_from_slice(&[8, 0, 0x45, shape.ecn]);
        frame.extend_from_slice(&((20 + transport_len) as u16).to_be_bytes());
        frame.extend_from_slice(&shape.id.wrapping_add(index as u16).to_be_bytes());
        frame.extend_from_slice(&[0x40, 0, 64, protocol, 0, 0]);
        frame.extend_from_slice(&Ipv4Addr::new(10, 0, 0, 1).octets());
        frame.extend_from_slice(&Ipv4Addr::new(10, 0, 0, 2).octets());
        let at = shape.network();
        let sum = Checksum::new().bytes(&frame[at..]).finish();
        put(&mut frame, at + 10, sum);
    }
    let mut segment = vec![0x12, 0x34, 0x43, 0x21];
    if shape.tcp {
        let sequence = shape.sequence.wrapping_add(from as u32);
        segment.extend_from_slice(&sequence.to_be_bytes());
        let mut flags = shape.flags;
        if index > 0 {
            flags &= !0x80;
        }
        if !last {
            flags &= !0x09;
        }
        let offset = (shape.transport_header() as u8 / 4) << 4;
        segment.extend_from_slice(&[9, 8, 7, 6, offset, flags, 1, 2, 0, 0, 0, 0]);
        segment.resize(20 + shape.options, 1);
    } else {
        segment.extend_from_slice(&(transport_len as u16).to_be_bytes());
        segment.extend_from_slice(&[0, 0]);
    }
    segment.extend((from..to).map(|at| shape.byte(at)));
    frame.extend_from_slice(&segment);
    frame
}

fn pseudo(frame: &[u8]) -> (Layers, Checksum) {
    let layers = Layers::find(frame).expect("TCP or UDP");
    (layers, layers.pseudo(frame, frame.len() - layers.transport))
}

/// The super-frame, as the kernel gives it.
pub(super) fn super_frame(shape: &Shape) -> (VnetHeader, Vec<u8>) {
    let mut frame = build(shape, 0, shape.payload, 0, true);
    let (layers, pseudo) = pseudo(&frame);
    put(&mut frame, layers.checksum(), pseudo.partial());
    let kind = match (shape.tcp, shape.v6) {
        (true, false) => SegmentKind::TcpV4,
        (true, true) => SegmentKind::TcpV6,
        (false, _) => SegmentKind::Udp,
    };
    let header = VnetHeader {
        checksum: Some(PartialChecksum {
            start: shape.transport() as u16,
            offset: if shape.tcp { 16 } else { 6 },
        }),
        segments: Some(Segments {
            kind,
            size: shape.size as u16,
            headers: 0,
            ecn: shape.flags & 0x80 != 0,
        }),
    };
    (header, frame)
}

/// Its segments, with complete checksums.
pub(super) fn reference(shape: &Shape) -> Vec<Vec<u8>> {
    let count = shape.payload.div_ceil(shape.size);
    let segments = (0..count).map(|index| {
        let (from, last) = (index * shape.size, index + 1 == count);
        let to = (from + shape.size).min(shape.payload);
        let mut frame = build(shape, from, to, index, last);
        let (layers, pseudo) = pseudo(&frame);
        let sum = match pseudo.bytes(&frame[layers.transport..]).finish() {
            0 => u16::MAX,
            sum => sum,
        };
        put(&mut frame, layers.checksum(), sum);
        frame
    });
    segments.collect()
}

/// Whether all checksums of a frame are right.
pub(super) fn is_valid(frame: &[u8]) -> bool {
    let (layers, pseudo) = pseudo(frame);
    let ip = &frame[layers.network..layers.transport];
    pseudo
        .bytes(&frame[layers.transport..layers.end])
        .is_valid()
        && (ip[0] >> 4 == 6 || Checksum::new().bytes(ip).is_valid())
}
