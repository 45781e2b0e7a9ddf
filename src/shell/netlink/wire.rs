//! Netlink as bytes (netlink(7)): a request is written, an answer is read.
//! Knows nothing of what the messages mean.

use zeroize::Zeroizing;

/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Bytes of `struct nlattr`.
const ATTRIBUTE: usize = 4;

/// A request that is being written. Its bytes are wiped when dropped, for there
/// may be keys among them.
pub(in crate::shell) struct Request {
    bytes: Zeroizing<Vec<u8>>,
}

impl Request {
    /// Begins a message; `flags` beside `NLM_F_REQUEST`.
    pub(in crate::shell) fn new(kind: u16, flags: u16, sequence: u32) -> Self {
        // Room for the largest request: growing would leave copies behind.
        let bytes = Zeroizing::new(Vec::with_capacity(1024));
        let mut request = Self { bytes };
        request.u32(0); // the length, known at the end
        request.u16(kind);
        request.u16(flags | libc::NLM_F_REQUEST as u16);
        request.u32(sequence);
        request.u32(0); // the kernel
        request
    }

    pub(in crate::shell) fn bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(in crate::shell) fn zeros(&mut self, count: usize) {
        let length = self.bytes.len() + count;
        self.bytes.resize(length, 0);
    }

    pub(in crate::shell) fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }

    pub(in crate::shell) fn u16(&mut self, value: u16) {
        self.bytes(&value.to_ne_bytes());
    }

    pub(in crate::shell) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_ne_bytes());
    }

    pub(in crate::shell) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_ne_bytes());
    }

    /// One attribute, with what `content` writes. Called where the message is
    /// aligned, and leaves it so.
    pub(in crate::shell) fn attribute(&mut self, kind: u16, content: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.u16(0); // the length, known below
        self.u16(kind);
        content(self);
        let length = u16::try_from(self.bytes.len() - start).expect("attributes are short");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.zeros(self.bytes.len().next_multiple_of(4) - self.bytes.len());
    }

    /// The whole message.
    pub(in crate::shell) fn finish(mut self) -> Zeroizing<Vec<u8>> {
        let length = u32::try_from(self.bytes.len()).expect("requests are short");
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes
    }
}

/// The bits of an attribute that say which it is (NLA_TYPE_MASK).
const KIND: u16 = 0x3fff;
/// An attribute that has others inside.
pub(in crate::shell) const NESTED: u16 = libc::NLA_F_NESTED as u16;

/// One message of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::shell) struct Message<'a> {
    pub(in crate::shell) kind: u16,
    pub(in crate::shell) sequence: u32,
    pub(in crate::shell) payload: &'a [u8],
}

/// The messages of what one read gave; what is cut short is left out.
pub(in crate::shell) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
        let message = Message {
            kind: u16_at(bytes, 4)?,
            sequence: u32_at(bytes, 8)?,
            payload: bytes.get(HEADER..length)?,
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes in `bytes`, by kind; what is cut short is left out.
pub(in crate::shell) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let found = (u16_at(bytes, 2)? & KIND, bytes.get(ATTRIBUTE..length)?);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(found)
    })
}

pub(in crate::shell) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(in crate::shell) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(in crate::shell) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}
