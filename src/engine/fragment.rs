//! Cutting contents that are larger than a path, and rebuilding them.
//!
//! The pieces of a content travel as [`proto::content::Content::Fragment`].
//! Their lengths are nowhere announced: the content is their concatenation by
//! index. Knows no sessions beyond a number, and nothing of what it rebuilds.
//!
//! Every piece was authenticated by a member, so what is bounded here is what a
//! broken or malicious member can cost: memory in total and by session, and
//! time, in which whatever stays incomplete is forgotten.

use std::{
    collections::BTreeMap,
    ops::Range,
    time::{Duration, Instant},
};

use proto::content::FragmentHeader;

mod buffers;

use buffers::Buffers;

/// The largest content: a frame of 64 KiB with every header around it.
pub const MAX_CONTENT: usize = 65_600;

/// The most pieces of one content.
pub const MAX_PIECES: usize = 255;

/// Cuts a content into as few pieces of at most `room` bytes as possible,
/// nearly equal in size. One piece means that it need not be cut (and a
/// fragment header cannot say so). `None` if there is nothing to cut, or the
/// format cannot carry it.
pub fn pieces(content_len: usize, room: usize) -> Option<Pieces> {
    if content_len == 0 || content_len > MAX_CONTENT || room == 0 {
        return None;
    }
    let count = content_len.div_ceil(room);
    (count <= MAX_PIECES).then_some(Pieces {
        len: content_len,
        count,
        next: 0,
    })
}

/// The ranges of a content's pieces, in order.
#[derive(Clone, Debug)]
pub struct Pieces {
    len: usize,
    count: usize,
    next: usize,
}

impl Pieces {
    /// Where piece `index` starts: the first `len % count` get a byte more.
    fn start(&self, index: usize) -> usize {
        index * (self.len / self.count) + index.min(self.len % self.count)
    }
}

impl Iterator for Pieces {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        if self.next == self.count {
            return None;
        }
        self.next += 1;
        Some(self.start(self.next - 1)..self.start(self.next))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.count - self.next;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Pieces {}

/// What incomplete contents may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory for all sessions together.
    pub total: usize,
    /// Bytes of memory for one session; at least one [`MAX_CONTENT`] and some.
    pub per_session: usize,
    /// How long a content may stay incomplete.
    pub lifetime: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            total: 4 << 20,
            per_session: 256 << 10,
            lifetime: Duration::from_secs(1),
        }
    }
}

/// Names a content: the receiver's session index, and the id in the header.
pub type ContentKey = (u32, u32);

/// Rebuilds contents from their pieces.
#[derive(Debug)]
pub struct Reassembler {
    limits: Limits,
    partial: BTreeMap<ContentKey, Partial>,
    /// The partial contents by age: they are begun in the order of their serials.
    by_age: BTreeMap<u64, ContentKey>,
    next_serial: u64,
    /// What the partial contents cost together.
    cost: usize,
    buffers: Buffers,
    /// The content that was rebuilt last, lent to the caller.
    rebuilt: Vec<u8>,
    done: Done,
    abandoned: u64,
}

/// A content of which pieces are missing.
#[derive(Debug)]
struct Partial {
    serial: u64,
    begun: Instant,
    /// Where each piece lies in `bytes`; `None` while it is missing.
    pieces: Vec<Option<Span>>,
    missing: usize,
    /// The pieces in the order of arrival.
    bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    start: u32,
    len: u32,
}

/// What one partial content costs beside its bytes and its table of pieces:
/// the entries in the two maps, generously.
const OVERHEAD: usize = 256;

impl Reassembler {
    /// One without any pieces yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            partial: BTreeMap::new(),
            by_age: BTreeMap::new(),
            next_serial: 0,
            cost: 0,
            buffers: Buffers::default(),
            rebuilt: Vec::new(),
            done: Done::default(),
            abandoned: 0,
        }
    }

    /// Takes a piece; gives the content if it was the last that was missing.
    ///
    /// Pieces that are there already, that contradict the number of pieces, or
    /// that belong to a content just rebuilt, change nothing.
    pub fn insert(
        &mut self,
        key: ContentKey,
        header: FragmentHeader,
        part: &[u8],
        now: Instant,
    ) -> Option<&[u8]> {
        self.expire(now);
        let possible =
            header.count >= 2 && header.index < header.count && part.len() <= MAX_CONTENT;
        if !possible {
            return None;
        }
        if !self.partial.contains_key(&key) {
            if self.done.contains(key, now, self.limits.lifetime) {
                return None;
            }
            self.begin(key, header.count, part.len(), now);
        }
        if !self.add(key, header, part)? {
            return None;
        }
        let content = self.take(key)?;
        self.done.remember(key, now);
        self.rebuild(content);
        Some(&self.rebuilt)
    }

    /// Forgets what stayed incomplete too long.
    pub fn expire(&mut self, now: Instant) {
        while let Some(key) = self.oldest()
            && let Some(partial) = self.partial.get(&key)
            && now.saturating_duration_since(partial.begun) >= self.limits.lifetime
        {
            self.abandon(key);
        }
    }

    /// Forgets the pieces of a session that ended.
    pub fn forget_session(&mut self, session: u32) {
        let keys: Vec<_> = self.of_session(session).map(|(&key, _)| key).collect();
        for key in keys {
            self.abandon(key);
        }
    }

    /// How many contents were given up: too late, or pushed out by others.
    pub fn abandoned(&self) -> u64 {
        self.abandoned
    }

    /// Bytes of memory held for pieces and for buffers kept to be used again.
    pub fn memory(&self) -> usize {
        self.cost + self.buffers.memory() + self.rebuilt.capacity()
    }

    fn begin(&mut self, key: ContentKey, count: u8, part_len: usize, now: Instant) {
        let count = usize::from(count);
        // Pieces are nearly equal, so one tells how long the whole will be.
        let expected = part_len.saturating_mul(count).min(MAX_CONTENT);
        let partial = Partial {
            serial: self.next_serial,
            begun: now,
            pieces: vec![None; count],
            missing: count,
            bytes: self.buffers.lend(expected),
        };
        self.next_serial += 1;
        self.cost += partial.cost();
        self.by_age.insert(partial.serial, key);
        self.partial.insert(key, partial);
    }

    /// Adds a piece: whether the content is complete, or `None` if there is no
    /// such content (any more).
    fn add(&mut self, key: ContentKey, header: FragmentHeader, part: &[u8]) -> Option<bool> {
        let partial = self.partial.get_mut(&key)?;
        let before = partial.cost();
        let added = partial.add(header, part, &mut self.buffers);
        self.cost = self.cost - before + partial.cost();
        let complete = partial.missing == 0;
        if added == Added::TooLarge {
            self.abandon(key);
            return None;
        }
        self.shrink(key.0);
        Some(added == Added::Stored && complete && self.partial.contains_key(&key))
    }

    /// Gives up the oldest contents until the limits hold.
    fn shrink(&mut self, session: u32) {
        while self.session_cost(session) > self.limits.per_session {
            let oldest = self
                .of_session(session)
                .min_by_key(|(_, partial)| partial.serial);
            let Some((&key, _)) = oldest else { break };
            self.abandon(key);
        }
        while self.memory() > self.limits.total {
            if self.buffers.drop_one() {
                continue;
            }
            let Some(oldest) = self.oldest() else { break };
            self.abandon(oldest);
        }
    }

    fn oldest(&self) -> Option<ContentKey> {
        self.by_age.first_key_value().map(|(_, &key)| key)
    }

    fn of_session(&self, session: u32) -> impl Iterator<Item = (&ContentKey, &Partial)> {
        self.partial.range((session, 0)..=(session, u32::MAX))
    }

    fn session_cost(&self, session: u32) -> usize {
        self.of_session(session)
            .map(|(_, partial)| partial.cost())
            .sum()
    }

    fn abandon(&mut self, key: ContentKey) {
        if let Some(partial) = self.take(key) {
            self.buffers.take_back(partial.bytes);
            self.abandoned += 1;
        }
    }

    fn take(&mut self, key: ContentKey) -> Option<Partial> {
        let partial = self.partial.remove(&key)?;
        self.by_age.remove(&partial.serial);
        self.cost -= partial.cost();
        Some(partial)
    }

    /// Puts the pieces in order; they mostly arrived so, and then nothing moves.
    fn rebuild(&mut self, mut content: Partial) {
        if content.in_order() {
            std::mem::swap(&mut self.rebuilt, &mut content.bytes);
        } else {
            self.rebuilt.clear();
            self.rebuilt.reserve_exact(content.bytes.len());
            for span in content.pieces.iter().flatten() {
                self.rebuilt.extend_from_slice(&content.bytes[span.range()]);
            }
        }
        self.buffers.take_back(content.bytes);
    }
}

/// What became of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Added {
    Stored,
    Ignored,
    TooLarge,
}

impl Partial {
    fn add(&mut self, header: FragmentHeader, part: &[u8], buffers: &mut Buffers) -> Added {
        if usize::from(header.count) != self.pieces.len() {
            return Added::Ignored;
        }
        let Some(slot @ None) = self.pieces.get_mut(usize::from(header.index)) else {
            return Added::Ignored;
        };
        let start = self.bytes.len();
        let (Ok(first), Ok(len)) = (u32::try_from(start), u32::try_from(part.len())) else {
            return Added::TooLarge;
        };
        if start + part.len() > MAX_CONTENT {
            return Added::TooLarge;
        }
        *slot = Some(Span { start: first, len });
        self.missing -= 1;
        buffers.grow(&mut self.bytes, start + part.len());
        self.bytes.extend_from_slice(part);
        Added::Stored
    }

    fn cost(&self) -> usize {
        OVERHEAD + self.pieces.capacity() * size_of::<Option<Span>>() + self.bytes.capacity()
    }

    fn in_order(&self) -> bool {
        self.pieces
            .iter()
            .flatten()
            .is_sorted_by_key(|span| span.start)
    }
}

impl Span {
    fn range(self) -> Range<usize> {
        let start = self.start as usize;
        start..start + self.len as usize
    }
}

/// The contents rebuilt lately, so that late duplicates do not begin them
/// again. Ids rise one by one, so those of a session fill different places.
#[derive(Debug)]
struct Done {
    places: Vec<Option<(ContentKey, Instant)>>,
}

impl Default for Done {
    fn default() -> Self {
        Self {
            places: vec![None; Self::PLACES as usize],
        }
    }
}

impl Done {
    const PLACES: u32 = 1024;

    fn contains(&self, key: ContentKey, now: Instant, lifetime: Duration) -> bool {
        matches!(self.places[Self::place(key)], Some((done, at))
            if done == key && now.saturating_duration_since(at) < lifetime)
    }

    fn remember(&mut self, key: ContentKey, now: Instant) {
        self.places[Self::place(key)] = Some((key, now));
    }

    fn place((session, id): ContentKey) -> usize {
        // The odd factor spreads sessions; wrapping keeps ids apart.
        (session.wrapping_mul(0x9e37_79b1).wrapping_add(id) % Self::PLACES) as usize
    }
}

#[cfg(test)]
mod tests;
