//! What the kernel left for later in a frame from the TAP: examined, completed,
//! or cut into segments, each of which is an ordinary frame.
//!
//! ```text
//! headers | payload                                    | as it is read
//! headers | payload 0    headers' | payload 1    ...   | as it travels
//! ```
//!
//! A container has a hand in the frame and in what the kernel says of it, so
//! nothing of either is believed: positions are those found in the frame, and
//! what does not agree with them is refused. Segments are written as the
//! kernel's own segmentation writes them (RFC 9293, RFC 3168, RFC 768).

use proto::{
    ip::Checksum,
    vnet::{PartialChecksum, SegmentKind, Segments, VnetHeader},
};

use super::{
    counters::DropReason,
    layers::{self, Layers, Protocol, Version, put, word},
};

/// The most bytes of headers in a super-frame: Ethernet with two tags, IPv6
/// with extension headers, TCP with options.
pub const MAX_HEADERS: usize = 256;
/// The most segments: of a super-frame of 64 KiB with the smallest MSS that a
/// Linux host takes.
pub const MAX_SEGMENTS: usize = 2048;

mod tcp {
    pub(super) const SEQUENCE: usize = 4;
    pub(super) const FLAGS: usize = 13;
    pub(super) const FIN: u8 = 0x01;
    pub(super) const PSH: u8 = 0x08;
    pub(super) const CWR: u8 = 0x80;
}

/// How a checksum of TCP or UDP stands in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sum {
    /// It covers the segment, as on a wire.
    Complete,
    /// The sum of the pseudo header stands in its place, for the receiver to
    /// complete.
    Left,
}

/// A frame from the TAP, examined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// One frame.
    Frame(Sum),
    /// Many in one, with the checksum left.
    Super(SuperFrame),
}

/// How a super-frame is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuperFrame {
    layers: Layers,
    size: usize,
    count: usize,
}

/// Finds out what a frame is. A checksum that is left anywhere but in the
/// frame's own TCP or UDP header (in a tunnel within it, say) is completed.
///
/// # Errors
/// [`DropReason::Malformed`] if frame and header do not agree, and for more
/// than [`MAX_SEGMENTS`] segments or [`MAX_HEADERS`] bytes of headers.
pub fn examine(header: &VnetHeader, frame: &mut [u8]) -> Result<Load, DropReason> {
    let Some(left) = header.checksum else {
        return match header.segments {
            None => Ok(Load::Frame(Sum::Complete)),
            Some(segments) => leave_sum(segments, frame).ok_or(DropReason::Malformed),
        };
    };
    let (start, at) = position(left, frame.len()).ok_or(DropReason::Malformed)?;
    let layers = Layers::find(frame).filter(|l| l.transport == start && l.checksum() == at);
    match (header.segments, layers) {
        (Some(segments), Some(layers)) => SuperFrame::new(segments, layers)
            .map(Load::Super)
            .ok_or(DropReason::Malformed),
        (Some(_), None) => Err(DropReason::Malformed),
        // Padding is not the segment's, and would be summed with it.
        (None, Some(layers)) if layers.end == frame.len() => Ok(Load::Frame(Sum::Left)),
        (None, _) => {
            layers::complete(frame, start, at);
            Ok(Load::Frame(Sum::Complete))
        }
    }
}

/// A super-frame whose checksum nobody left: it is of the whole, and no segment
/// has that.
fn leave_sum(segments: Segments, frame: &mut [u8]) -> Option<Load> {
    let layers = Layers::find(frame)?;
    let parts = SuperFrame::new(segments, layers)?;
    let left = layers.pseudo(frame, layers.end - layers.transport);
    put(frame, layers.checksum(), left.partial());
    Some(Load::Super(parts))
}

/// Where the covered bytes start and the field is, if that is in the frame.
fn position(left: PartialChecksum, len: usize) -> Option<(usize, usize)> {
    let start = usize::from(left.start);
    let at = start + usize::from(left.offset);
    (at + 2 <= len).then_some((start, at))
}

/// Completes a checksum that was left in the frame's own TCP or UDP header.
/// False, and nothing done, if there is neither.
pub fn complete(frame: &mut [u8]) -> bool {
    let Some(layers) = Layers::find(frame) else {
        return false;
    };
    layers::complete(
        &mut frame[..layers.end],
        layers.transport,
        layers.checksum(),
    );
    true
}

/// The header for a TAP that says that the checksum is left; none if the frame
/// is neither TCP nor UDP.
pub fn checksum_left(frame: &[u8]) -> Option<PartialChecksum> {
    left_at(&Layers::find(frame)?)
}

/// The same for layers that are known.
pub fn left_at(layers: &Layers) -> Option<PartialChecksum> {
    Some(PartialChecksum {
        start: u16::try_from(layers.transport).ok()?,
        offset: u16::try_from(layers.checksum_offset()).ok()?,
    })
}

impl SuperFrame {
    fn new(segments: Segments, layers: Layers) -> Option<Self> {
        let agrees = match segments.kind {
            SegmentKind::TcpV4 => (Version::V4, Protocol::Tcp) == (layers.version, layers.protocol),
            SegmentKind::TcpV6 => (Version::V6, Protocol::Tcp) == (layers.version, layers.protocol),
            SegmentKind::Udp => layers.protocol == Protocol::Udp,
        };
        let size = usize::from(segments.size);
        let payload = layers.end - layers.payload;
        if !agrees || size == 0 || payload == 0 || layers.payload > MAX_HEADERS {
            return None;
        }
        let count = payload.div_ceil(size);
        (count <= MAX_SEGMENTS).then_some(Self {
            layers,
            size,
            count,
        })
    }

    /// How many segments there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes of the longest segment's frame.
    pub fn longest(&self) -> usize {
        self.layers.payload + self.size.min(self.layers.end - self.layers.payload)
    }

    /// Cuts TCP so that no segment's frame is longer than `longest` bytes, if
    /// that leaves a reasonable segment. A datagram of UDP stays what it is.
    pub fn keep_within(&mut self, longest: usize) {
        const LEAST: usize = 536;
        let size = longest.saturating_sub(self.layers.payload);
        if self.layers.protocol == Protocol::Tcp && size < self.size && size >= LEAST {
            self.size = size;
            self.count = (self.layers.end - self.layers.payload).div_ceil(size);
        }
    }

    /// Tells the flow that its path is congested, if it understands that from
    /// a mark (RFC 3168). Otherwise false: then it has to miss a segment.
    pub fn mark(&self, frame: &mut [u8]) -> bool {
        const CE: u8 = 3;
        let ip = &mut frame[self.layers.network..];
        let (at, shift) = match self.layers.version {
            Version::V4 => (1, 0),
            Version::V6 => (1, 4),
        };
        let capable = (ip[at] >> shift) & CE != 0;
        if capable {
            ip[at] |= CE << shift;
        }
        capable
    }

    /// Whether it is of TCP.
    pub fn is_tcp(&self) -> bool {
        self.layers.protocol == Protocol::Tcp
    }

    /// Calls `each` with the headers and the payload of every segment, in order.
    pub fn cut<E>(
        &self,
        frame: &[u8],
        sum: Sum,
        mut each: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let (all, payload) = frame[..self.layers.end].split_at(self.layers.payload);
        let mut scratch = [0; MAX_HEADERS];
        let headers = &mut scratch[..all.len()];
        for (index, part) in payload.chunks(self.size).enumerate() {
            headers.copy_from_slice(all);
            self.write(headers, index, part, payload.len(), sum);
            each(headers, part)?;
        }
        Ok(())
    }

    /// Makes the super-frame's headers those of one segment.
    fn write(&self, headers: &mut [u8], index: usize, part: &[u8], whole: usize, sum: Sum) {
        let layers = &self.layers;
        let head = headers.len() - layers.transport;
        self.write_network(headers, index, head + part.len());
        let transport = &mut headers[layers.transport..];
        match layers.protocol {
            Protocol::Tcp => {
                let last = (index + 1) * self.size >= whole;
                write_tcp(transport, index, index * self.size, last);
            }
            Protocol::Udp => put(transport, 4, low(head + part.len())),
        }
        // What stands there covers the length of the whole: that is exchanged
        // for the segment's. So the sum holds whatever else the pseudo header
        // has, as the final destination of a routing header (RFC 8200, 8.1).
        let at = layers.checksum_offset();
        let left = Checksum::new()
            .bytes(&transport[at..at + 2])
            .bytes(&(!low(head + whole)).to_be_bytes())
            .bytes(&low(head + part.len()).to_be_bytes())
            .partial();
        put(transport, at, left);
        if sum == Sum::Complete {
            let whole = Checksum::new().bytes(transport).bytes(part).finish();
            let mangled = if whole == 0 { u16::MAX } else { whole };
            put(transport, at, mangled);
        }
    }

    fn write_network(&self, headers: &mut [u8], index: usize, transport_len: usize) {
        let layers = &self.layers;
        let ip = &mut headers[layers.network..layers.transport];
        match layers.version {
            Version::V4 => {
                let id = word(ip, 4).wrapping_add(low(index));
                put(ip, 2, low(ip.len() + transport_len));
                put(ip, 4, id);
                put(ip, 10, 0);
                let sum = Checksum::new().bytes(ip).finish();
                put(ip, 10, sum);
            }
            Version::V6 => {
                let extensions = ip.len() - proto::ip::IPV6_HEADER;
                put(ip, 4, low(extensions + transport_len));
            }
        }
    }
}

fn write_tcp(segment: &mut [u8], index: usize, before: usize, last: bool) {
    let first = u32::from_be_bytes(layers::bytes_at(segment, tcp::SEQUENCE));
    let sequence = first.wrapping_add(u32::try_from(before).unwrap_or(u32::MAX));
    segment[tcp::SEQUENCE..tcp::SEQUENCE + 4].copy_from_slice(&sequence.to_be_bytes());
    if index > 0 {
        segment[tcp::FLAGS] &= !tcp::CWR;
    }
    if !last {
        segment[tcp::FLAGS] &= !(tcp::FIN | tcp::PSH);
    }
}

/// Lengths inside a packet have 16 bits: [`Layers`] vouches for that.
fn low(value: usize) -> u16 {
    (value & 0xffff) as u16
}

#[cfg(test)]
mod tests;
