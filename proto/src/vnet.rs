//! The header that precedes a frame at a TAP device and says what was left for
//! later: a checksum to complete, and a super-frame to be cut into segments
//! (`struct virtio_net_hdr_v1`; Virtual I/O Device 1.2, section 5.1.6).
//!
//! ```text
//! flags:1 gso_type:1 hdr_len:2 gso_size:2 csum_start:2 csum_offset:2 num_buffers:2
//! ```
//!
//! Integers are in the machine's byte order, as the kernel has them unless told
//! otherwise. What is read is the kernel's word at best, and a container can
//! have a hand in it: positions and sizes are for the reader to check.

use crate::DecodeError;

/// Bytes of the header.
pub const VNET_HEADER: usize = 12;

mod flag {
    pub(super) const NEEDS_CHECKSUM: u8 = 1;
    /// Added to a kind: the first segment tells of congestion (CWR).
    pub(super) const ECN: u8 = 0x80;
}

/// What was left for later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// A checksum that is not complete yet.
    pub checksum: Option<PartialChecksum>,
    /// How a super-frame is to be cut; none if it is an ordinary frame.
    pub segments: Option<Segments>,
}

/// Where a checksum belongs that covers everything from `start` to the end of
/// the frame. The field holds the sum of the pseudo header already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialChecksum {
    /// First byte that is covered, counted from the start of the frame.
    pub start: u16,
    /// Position of the field, counted from `start`.
    pub offset: u16,
}

/// How a super-frame is to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segments {
    /// What it consists of.
    pub kind: SegmentKind,
    /// Bytes of payload in each segment but the last.
    pub size: u16,
    /// Bytes of all headers. The kernel may say less than there are.
    pub headers: u16,
    /// The first segment carries CWR (RFC 3168), the others must not.
    pub ecn: bool,
}

/// What a super-frame consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentKind {
    /// TCP segments over IPv4.
    TcpV4,
    /// TCP segments over IPv6.
    TcpV6,
    /// UDP datagrams.
    Udp,
}

impl SegmentKind {
    const fn code(self) -> u8 {
        match self {
            Self::TcpV4 => 1,
            Self::TcpV6 => 4,
            Self::Udp => 5,
        }
    }
}

impl VnetHeader {
    /// Of a frame with which everything is done.
    pub const COMPLETE: Self = Self {
        checksum: None,
        segments: None,
    };

    /// Reads the header at the front of `bytes`.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`]; [`DecodeError::Unknown`] for a kind of
    /// super-frame that nobody asked the kernel for.
    pub fn parse(bytes: &[u8]) -> Result<Self, DecodeError> {
        let header = bytes
            .first_chunk::<VNET_HEADER>()
            .ok_or(DecodeError::Truncated)?;
        let word = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let checksum = (header[0] & flag::NEEDS_CHECKSUM != 0).then(|| PartialChecksum {
            start: word(6),
            offset: word(8),
        });
        let kind = match header[1] & !flag::ECN {
            0 => None,
            1 => Some(SegmentKind::TcpV4),
            4 => Some(SegmentKind::TcpV6),
            5 => Some(SegmentKind::Udp),
            _ => return Err(DecodeError::Unknown),
        };
        let segments = kind.map(|kind| Segments {
            kind,
            size: word(4),
            headers: word(2),
            ecn: header[1] & flag::ECN != 0,
        });
        Ok(Self { checksum, segments })
    }

    /// Writes the header.
    pub fn emit(&self) -> [u8; VNET_HEADER] {
        let mut out = [0; VNET_HEADER];
        let mut word = |at: usize, value: u16| {
            out[at..at + 2].copy_from_slice(&value.to_ne_bytes());
        };
        if let Some(checksum) = self.checksum {
            word(6, checksum.start);
            word(8, checksum.offset);
        }
        if let Some(segments) = self.segments {
            word(2, segments.headers);
            word(4, segments.size);
            out[1] = segments.kind.code() | if segments.ecn { flag::ECN } else { 0 };
        }
        if self.checksum.is_some() {
            out[0] = flag::NEEDS_CHECKSUM;
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_the_kernels() {
        let header = VnetHeader {
            checksum: Some(PartialChecksum {
                start: 34,
                offset: 16,
            }),
            segments: Some(Segments {
                kind: SegmentKind::TcpV4,
                size: 1348,
                headers: 66,
                ecn: true,
            }),
        };
        let words = [66u16, 1348, 34, 16, 0].map(u16::to_ne_bytes).concat();
        assert_eq!(header.emit()[..], [&[1, 0x81][..], &words].concat());
        assert_eq!(VnetHeader::parse(&header.emit()), Ok(header));
        assert_eq!(VnetHeader::COMPLETE.emit(), [0; 12]);
    }

    #[test]
    fn what_is_short_or_unknown_is_refused() {
        assert_eq!(VnetHeader::parse(&[0; 11]), Err(DecodeError::Truncated));
        let mut ufo = [0; 12];
        ufo[1] = 3;
        assert_eq!(VnetHeader::parse(&ufo), Err(DecodeError::Unknown));
    }
}
