//! Joining consecutive segments of a flow to one super-frame for the TAP, as
//! the kernel's generic receive offload does: what it is given, cut again, is
//! what came in.
//!
//! Frames are pushed in the order they arrived, and whatever has not left is
//! flushed when there is nothing more to read: nothing waits for more to come.
//! A flow's frames stay in order; those of different flows may overtake.
//!
//! Joined are TCP segments and UDP datagrams without IP options, extension
//! headers or fragments, whose headers differ in nothing but what cutting would
//! write anew: lengths, IPv4 identification, sequence number, PSH of the last,
//! checksums. All carry as much as the first, save the last.

use proto::{
    ip::Checksum,
    vnet::{SegmentKind, Segments, VnetHeader},
};

use super::{
    layers::{Layers, Protocol, Version, bytes_at, put, word},
    segment::{Sum, left_at},
};

/// Flows that are joined at a time.
const FLOWS: usize = 8;
/// The largest IP packet.
const LARGEST: usize = 65_535;
/// Datagrams in one super-frame; older kernels take no more.
const DATAGRAMS: usize = 64;

mod flag {
    pub(super) const PSH: u8 = 0x08;
    pub(super) const ACK: u8 = 0x10;
    pub(super) const ECE: u8 = 0x40;
}

/// Of what the device takes super-frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Joins {
    /// TCP.
    pub tcp: bool,
    /// UDP.
    pub udp: bool,
}

/// Joins frames. Memory: 64 KiB for each of up to eight flows.
#[derive(Debug)]
pub struct Coalescer {
    flows: [Flow; FLOWS],
    joins: Joins,
    /// Which flow has to make room next.
    next: usize,
}

/// A super-frame in the making.
#[derive(Debug, Default)]
struct Flow {
    /// The first frame, followed by the payloads of the others.
    bytes: Vec<u8>,
    open: Option<Open>,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    layers: Layers,
    /// How the first frame's checksum stands.
    sum: Sum,
    /// Bytes of payload of every segment but the last.
    size: usize,
    count: usize,
}

impl Coalescer {
    /// One for such a device.
    pub fn new(joins: Joins) -> Self {
        Self {
            flows: Default::default(),
            joins,
            next: 0,
        }
    }

    /// Takes a frame. `deliver` is called with what cannot become longer: the
    /// frame itself, or what it completes or ends.
    pub fn push(
        &mut self,
        frame: &[u8],
        layers: Option<&Layers>,
        sum: Sum,
        mut deliver: impl FnMut(&VnetHeader, &[u8]),
    ) {
        let found = layers.copied().or_else(|| Layers::find(frame));
        let Some(layers) = found else {
            return deliver(&VnetHeader::COMPLETE, frame);
        };
        let known = self.flows.iter().position(|f| f.is_of(frame, &layers));
        if !self.is_joinable(frame, &layers, sum) {
            if let Some(index) = known {
                self.flows[index].finish(&mut deliver);
            }
            return deliver(&header_of(&layers, sum), frame);
        }
        if let Some(index) = known {
            let flow = &mut self.flows[index];
            if flow.takes(frame, &layers) {
                if flow.append(frame, &layers) {
                    flow.finish(&mut deliver);
                }
                return;
            }
            flow.finish(&mut deliver);
        }
        if is_last(frame, &layers) {
            return deliver(&header_of(&layers, sum), frame);
        }
        let flow = &mut self.flows[known.unwrap_or_else(|| self.make_room(&mut deliver))];
        flow.begin(frame, layers, sum);
    }

    /// Delivers everything that waits.
    pub fn flush(&mut self, mut deliver: impl FnMut(&VnetHeader, &[u8])) {
        for flow in &mut self.flows {
            flow.finish(&mut deliver);
        }
    }

    fn make_room(&mut self, deliver: &mut impl FnMut(&VnetHeader, &[u8])) -> usize {
        if let Some(free) = self.flows.iter().position(|f| f.open.is_none()) {
            return free;
        }
        let index = self.next;
        self.next = (index + 1) % FLOWS;
        self.flows[index].finish(deliver);
        index
    }

    fn is_joinable(&self, frame: &[u8], layers: &Layers, sum: Sum) -> bool {
        let transport = &frame[layers.transport..layers.end];
        let right_kind = match layers.protocol {
            Protocol::Tcp => {
                self.joins.tcp && transport[13] & !(flag::PSH | flag::ECE) == flag::ACK
            }
            Protocol::Udp => self.joins.udp && usize::from(word(transport, 4)) == transport.len(),
        };
        right_kind
            && layers.is_plain()
            && layers.end == frame.len()
            && layers.payload < layers.end
            && (layers.version == Version::V6
                || Checksum::new()
                    .bytes(&frame[layers.network..layers.transport])
                    .is_valid())
            && (sum == Sum::Left || is_intact(frame, layers))
    }
}

/// Whether a complete checksum is right. UDP without one stays as it is.
fn is_intact(frame: &[u8], layers: &Layers) -> bool {
    let transport = &frame[layers.transport..layers.end];
    let absent = layers.protocol == Protocol::Udp && word(frame, layers.checksum()) == 0;
    !absent
        && layers
            .pseudo(frame, transport.len())
            .bytes(transport)
            .is_valid()
}

/// What the TAP is told of a frame that stays as it came.
fn header_of(layers: &Layers, sum: Sum) -> VnetHeader {
    VnetHeader {
        checksum: match sum {
            Sum::Complete => None,
            Sum::Left => left_at(layers),
        },
        segments: None,
    }
}

/// Whether nothing may follow a segment (its sender wants it delivered now).
fn is_last(frame: &[u8], layers: &Layers) -> bool {
    layers.protocol == Protocol::Tcp && frame[layers.transport + 13] & flag::PSH != 0
}

impl Flow {
    /// Whether a frame belongs to the flow that is open here.
    fn is_of(&self, frame: &[u8], layers: &Layers) -> bool {
        let Some(open) = &self.open else {
            return false;
        };
        let (ours, ports) = (&open.layers, layers.transport..layers.transport + 4);
        ours.version == layers.version
            && ours.protocol == layers.protocol
            && self.bytes[ours.transport..ours.transport + 4] == frame[ports]
            && addresses(&self.bytes, ours) == addresses(frame, layers)
            && self.bytes[..ours.network] == frame[..layers.network]
    }

    /// Whether a frame of this flow continues what is here.
    fn takes(&self, frame: &[u8], layers: &Layers) -> bool {
        let Some(open) = &self.open else {
            return false;
        };
        let part = layers.end - layers.payload;
        open.layers.network == layers.network
            && open.layers.transport == layers.transport
            && open.layers.payload == layers.payload
            && part <= open.size
            && self.bytes.len() - layers.network + part <= LARGEST
            && self.same_network(open, frame)
            && match layers.protocol {
                Protocol::Tcp => self.follows(layers, frame),
                Protocol::Udp => open.count < DATAGRAMS,
            }
    }

    fn same_network(&self, open: &Open, frame: &[u8]) -> bool {
        let at = open.layers.network;
        let (ours, ip) = (&self.bytes[at..], &frame[at..]);
        match open.layers.version {
            Version::V4 => {
                // An identification means nothing where it may not be fragmented (RFC 6864).
                let atomic = ip[6] & 0x40 != 0;
                let expected = word(ours, 4).wrapping_add((open.count & 0xffff) as u16);
                ours[..2] == ip[..2]
                    && ours[6..10] == ip[6..10]
                    && (atomic || word(ip, 4) == expected)
            }
            Version::V6 => ours[..4] == ip[..4] && ours[6..8] == ip[6..8],
        }
    }

    fn follows(&self, layers: &Layers, frame: &[u8]) -> bool {
        let (ours, theirs) = (
            &self.bytes[layers.transport..layers.payload],
            &frame[layers.transport..layers.payload],
        );
        let sent = self.bytes.len() - layers.payload;
        let first = u32::from_be_bytes(bytes_at(ours, 4));
        let expected = first.wrapping_add(u32::try_from(sent).unwrap_or(u32::MAX));
        u32::from_be_bytes(bytes_at(theirs, 4)) == expected
            && ours[8..13] == theirs[8..13]
            && ours[13] & !flag::PSH == theirs[13] & !flag::PSH
            && ours[14..16] == theirs[14..16]
            && ours[18..] == theirs[18..]
    }

    fn begin(&mut self, frame: &[u8], layers: Layers, sum: Sum) {
        self.bytes.clear();
        self.bytes.reserve(layers.network + LARGEST);
        self.bytes.extend_from_slice(frame);
        self.open = Some(Open {
            layers,
            sum,
            size: layers.end - layers.payload,
            count: 1,
        });
    }

    /// Adds a frame that [`Self::takes`]; whether nothing may follow it.
    fn append(&mut self, frame: &[u8], layers: &Layers) -> bool {
        let Some(open) = &mut self.open else {
            return true;
        };
        open.count += 1;
        let part = &frame[layers.payload..layers.end];
        self.bytes.extend_from_slice(part);
        if layers.protocol == Protocol::Tcp {
            let flags = layers.transport + 13;
            self.bytes[flags] |= frame[flags] & flag::PSH;
        }
        part.len() < open.size || is_last(frame, layers)
    }

    /// Delivers what is here, if anything.
    fn finish(&mut self, deliver: &mut impl FnMut(&VnetHeader, &[u8])) {
        let Some(open) = self.open.take() else {
            return;
        };
        let header = if open.count == 1 {
            header_of(&open.layers, open.sum)
        } else {
            self.write_headers(&open.layers);
            super_header(&open)
        };
        deliver(&header, &self.bytes);
    }

    /// Makes the headers of the first segment those of the whole.
    fn write_headers(&mut self, layers: &Layers) {
        let packet = self.bytes.len() - layers.network;
        let transport = self.bytes.len() - layers.transport;
        let low = |len: usize| (len & 0xffff) as u16;
        let ip = &mut self.bytes[layers.network..layers.transport];
        match layers.version {
            Version::V4 => {
                put(ip, 2, low(packet));
                put(ip, 10, 0);
                let sum = Checksum::new().bytes(ip).finish();
                put(ip, 10, sum);
            }
            Version::V6 => put(ip, 4, low(transport)),
        }
        if layers.protocol == Protocol::Udp {
            put(&mut self.bytes, layers.transport + 4, low(transport));
        }
        let left = layers.pseudo(&self.bytes, transport).partial();
        put(&mut self.bytes, layers.checksum(), left);
    }
}

fn super_header(open: &Open) -> VnetHeader {
    let kind = match (open.layers.protocol, open.layers.version) {
        (Protocol::Tcp, Version::V4) => SegmentKind::TcpV4,
        (Protocol::Tcp, Version::V6) => SegmentKind::TcpV6,
        (Protocol::Udp, _) => SegmentKind::Udp,
    };
    VnetHeader {
        checksum: left_at(&open.layers),
        segments: Some(Segments {
            kind,
            // Both are less than a packet's largest length.
            size: u16::try_from(open.size).unwrap_or(u16::MAX),
            headers: u16::try_from(open.layers.payload).unwrap_or(u16::MAX),
            ecn: false,
        }),
    }
}

fn addresses<'a>(frame: &'a [u8], layers: &Layers) -> &'a [u8] {
    let ip = &frame[layers.network..];
    match layers.version {
        Version::V4 => &ip[12..20],
        Version::V6 => &ip[8..40],
    }
}

#[cfg(test)]
mod tests;
