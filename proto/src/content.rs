//! What a transport datagram carries once opened.
//!
//! ```text
//! control    0x01 | message (postcard)
//! frame      0x02 | ethernet frame
//! relay      0x03 | hops:1 distance:4 source:16 destination:16 | a whole datagram
//! broadcast  0x04 | hops:1 source:16 sequence:8 | ethernet frame
//! fragment   0x05 | id:4 index:1 count:1 | part of another content
//! unsummed   0x06 | ethernet frame, its checksum left
//! frames     0x07 | { left:1 bit, length:15 bits, ethernet frame } ...
//! ```

use crate::{DecodeError, PeerId, codec::Reader};

mod tag {
    pub(super) const CONTROL: u8 = 1;
    pub(super) const FRAME: u8 = 2;
    pub(super) const RELAY: u8 = 3;
    pub(super) const BROADCAST: u8 = 4;
    pub(super) const FRAGMENT: u8 = 5;
    pub(super) const UNSUMMED: u8 = 6;
    pub(super) const FRAMES: u8 = 7;
}

/// Hops a relayed datagram or a broadcast frame may still take at its source.
pub const HOP_LIMIT: u8 = 24;

/// Bytes before the frame in [`Content::Frame`].
pub const FRAME_HEADER: usize = 1;
/// Bytes before the inner datagram in [`Content::Relay`].
pub const RELAY_HEADER: usize = 1 + RelayHeader::LEN;
/// Bytes before the frame in [`Content::Broadcast`].
pub const BROADCAST_HEADER: usize = 1 + BroadcastHeader::LEN;
/// Bytes before the part in [`Content::Fragment`].
pub const FRAGMENT_HEADER: usize = 1 + FragmentHeader::LEN;

/// An opened content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// An encoded [`crate::message::Message`].
    Control(&'a [u8]),
    /// A frame for this peer's containers.
    Frame(&'a [u8]),
    /// A datagram that this peer passes on, or receives, without reading it.
    Relay(RelayHeader, &'a [u8]),
    /// A frame for everybody.
    Broadcast(BroadcastHeader, &'a [u8]),
    /// A piece of a content that was larger than the path.
    Fragment(FragmentHeader, &'a [u8]),
    /// A frame for this peer's containers whose TCP or UDP checksum is left:
    /// the sum of the pseudo header stands in its place.
    Unsummed(&'a [u8]),
    /// Several frames for this peer's containers.
    Frames(Frames<'a>),
}

/// Frames that share a content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frames<'a>(&'a [u8]);

/// One of [`Frames`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedFrame<'a> {
    /// Whether its TCP or UDP checksum is left.
    pub unsummed: bool,
    /// The frame.
    pub bytes: &'a [u8],
}

impl<'a> Frames<'a> {
    /// The bit of a length that says that the checksum is left.
    const UNSUMMED: u16 = 0x8000;

    /// Bytes before each frame.
    pub const HEADER: usize = 2;

    /// Reads frames as they were written by [`SharedFrame::emit`].
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<SharedFrame<'a>, DecodeError>;

    /// An error is the last item.
    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let mut r = Reader::new(std::mem::take(&mut self.0));
        let mut read = || {
            let length = r.u16()?;
            let bytes = r.bytes(usize::from(length & !Self::UNSUMMED))?;
            self.0 = r.rest();
            let unsummed = length & Self::UNSUMMED != 0;
            Ok(SharedFrame { unsummed, bytes })
        };
        Some(read())
    }
}

impl SharedFrame<'_> {
    /// Appends the frame; one that is too long to share is not, and the result
    /// is false.
    pub fn emit(&self, out: &mut Vec<u8>) -> bool {
        let Some(length) = u16::try_from(self.bytes.len())
            .ok()
            .filter(|length| length & Frames::UNSUMMED == 0)
        else {
            return false;
        };
        let flag = if self.unsummed { Frames::UNSUMMED } else { 0 };
        out.extend_from_slice(&(length | flag).to_be_bytes());
        out.extend_from_slice(self.bytes);
        true
    }
}

/// Where a relayed datagram comes from and goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayHeader {
    /// Hops it may still take.
    pub hops: u8,
    /// How far the destination is from the peer that hands it on, in
    /// microseconds as routes count. A relay passes on only what comes nearer,
    /// so nothing goes round, whatever relays disagree about.
    pub distance: u32,
    /// The peer that sealed the inner datagram.
    pub source: PeerId,
    /// The peer that can open it.
    pub destination: PeerId,
}

/// Whose broadcast a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BroadcastHeader {
    /// Hops it may still take.
    pub hops: u8,
    /// The peer whose container sent it; the frame follows this peer's tree.
    pub source: PeerId,
    /// Rises with every broadcast of the source, over restarts too.
    pub sequence: u64,
}

/// Which piece of which content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentHeader {
    /// Names the content among those of one session and direction.
    pub id: u32,
    /// Position, from 0.
    pub index: u8,
    /// How many pieces there are, at least 2.
    pub count: u8,
}

impl<'a> Content<'a> {
    /// Splits an opened plaintext into header and rest.
    pub fn parse(plaintext: &'a [u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(plaintext);
        Ok(match r.u8()? {
            tag::CONTROL => Self::Control(r.rest()),
            tag::FRAME => Self::Frame(r.rest()),
            tag::RELAY => {
                let header = RelayHeader {
                    hops: r.u8()?,
                    distance: r.u32()?,
                    source: PeerId(r.array()?),
                    destination: PeerId(r.array()?),
                };
                Self::Relay(header, r.rest())
            }
            tag::BROADCAST => {
                let header = BroadcastHeader {
                    hops: r.u8()?,
                    source: PeerId(r.array()?),
                    sequence: r.u64()?,
                };
                Self::Broadcast(header, r.rest())
            }
            tag::FRAGMENT => {
                let header = FragmentHeader {
                    id: r.u32()?,
                    index: r.u8()?,
                    count: r.u8()?,
                };
                if header.count < 2 || header.index >= header.count {
                    return Err(DecodeError::Malformed);
                }
                Self::Fragment(header, r.rest())
            }
            tag::UNSUMMED => Self::Unsummed(r.rest()),
            tag::FRAMES => Self::Frames(Frames::new(r.rest())),
            _ => return Err(DecodeError::Unknown),
        })
    }
}

/// The header of a control content.
pub const CONTROL: [u8; 1] = [tag::CONTROL];
/// The header of a frame content.
pub const FRAME: [u8; 1] = [tag::FRAME];
/// The header of an unsummed content.
pub const UNSUMMED: [u8; 1] = [tag::UNSUMMED];
/// The header of a content with several frames.
pub const FRAMES: [u8; 1] = [tag::FRAMES];

impl RelayHeader {
    /// Bytes of the header without the tag.
    pub const LEN: usize = 1 + 4 + 2 * PeerId::LEN;

    /// Writes tag and header.
    pub fn emit(&self) -> [u8; RELAY_HEADER] {
        let mut out = [0; RELAY_HEADER];
        out[0] = tag::RELAY;
        out[1] = self.hops;
        out[2..6].copy_from_slice(&self.distance.to_be_bytes());
        out[6..22].copy_from_slice(&self.source.0);
        out[22..38].copy_from_slice(&self.destination.0);
        out
    }
}

impl BroadcastHeader {
    /// Bytes of the header without the tag.
    pub const LEN: usize = 1 + PeerId::LEN + 8;

    /// Writes tag and header.
    pub fn emit(&self) -> [u8; BROADCAST_HEADER] {
        let mut out = [0; BROADCAST_HEADER];
        out[0] = tag::BROADCAST;
        out[1] = self.hops;
        out[2..18].copy_from_slice(&self.source.0);
        out[18..26].copy_from_slice(&self.sequence.to_be_bytes());
        out
    }
}

impl FragmentHeader {
    /// Bytes of the header without the tag.
    pub const LEN: usize = 6;

    /// Writes tag and header.
    pub fn emit(&self) -> [u8; FRAGMENT_HEADER] {
        let mut out = [0; FRAGMENT_HEADER];
        out[0] = tag::FRAGMENT;
        out[1..5].copy_from_slice(&self.id.to_be_bytes());
        out[5] = self.index;
        out[6] = self.count;
        out
    }
}
