//! Reusable memory for datagrams on their way in and out, and how outgoing
//! ones are grouped for segmentation offload. No system call happens here.

use std::{
    io::IoSliceMut,
    net::{IpAddr, SocketAddr},
};

use quinn_udp::{BATCH_SIZE, RecvMeta};

/// Bytes of one receive buffer: a coalesced super-datagram has fewer than 64 KiB.
const SLOT: usize = 1 << 16;

/// The most payload that one send may carry over either IP version (65535 - 40 - 8).
pub const GSO_BYTES: usize = 65_487;

/// Slots that are read into at once while they come full: what lies in them is
/// opened before the processor's cache has lost it.
const FULL_SLOTS: usize = 8;

/// Received datagrams. Memory: 64 KiB per slot, touched only when used.
#[derive(Debug)]
pub struct RecvBatch {
    bytes: Vec<u8>,
    filled: Vec<Filled>,
    /// How many slots the next call may fill.
    usable: usize,
}

#[derive(Clone, Copy, Debug)]
struct Filled {
    source: SocketAddr,
    local: Option<IpAddr>,
    len: usize,
    stride: usize,
}

/// One received datagram.
#[derive(Debug)]
pub struct Received<'a> {
    /// Where it came from; IPv4 in its own form, never mapped into IPv6.
    pub source: SocketAddr,
    /// Which of this host's addresses it came to, where the kernel says so.
    pub local: Option<IpAddr>,
    /// What it holds, to be opened in place.
    pub bytes: &'a mut [u8],
}

impl RecvBatch {
    /// A batch that takes up to `slots` (super-)datagrams per call, 32 at most.
    pub fn new(slots: usize) -> Self {
        let slots = slots.clamp(1, BATCH_SIZE);
        Self {
            bytes: vec![0; slots * SLOT],
            filled: Vec::with_capacity(slots),
            usable: slots,
        }
    }

    /// The datagrams, in order of arrival; coalesced ones are cut apart. Empty ones are left out.
    pub fn datagrams(&mut self) -> impl Iterator<Item = Received<'_>> {
        let slots = self.bytes.chunks_exact_mut(SLOT).zip(&self.filled);
        slots.flat_map(|(slot, filled)| {
            let Filled {
                source,
                local,
                len,
                stride,
            } = *filled;
            slot[..len].chunks_mut(stride).map(move |bytes| Received {
                source,
                local,
                bytes,
            })
        })
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.filled.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.filled.clear();
    }

    /// The buffers to read into; the entries beyond those that may be used are empty.
    pub(super) fn slots(&mut self) -> [IoSliceMut<'_>; BATCH_SIZE] {
        let mut slots = self.bytes.chunks_exact_mut(SLOT).take(self.usable);
        std::array::from_fn(|_| IoSliceMut::new(slots.next().unwrap_or_default()))
    }

    pub(super) fn accept(&mut self, meta: &[RecvMeta]) {
        self.filled.extend(meta.iter().map(|meta| Filled {
            source: plain(meta.addr),
            local: meta.dst_ip.map(|ip| ip.to_canonical()),
            len: meta.len.min(SLOT),
            stride: meta.stride.max(1),
        }));
        let all = self.bytes.len() / SLOT;
        let bytes: usize = self.filled.iter().map(|filled| filled.len).sum();
        let full = bytes > self.filled.len() * (SLOT / 4);
        self.usable = if full { FULL_SLOTS.min(all) } else { all };
    }
}

/// IPv4 addresses that a dual-stack socket shows as `::ffff:a.b.c.d`, in their own form.
fn plain(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        v4 @ IpAddr::V4(_) => SocketAddr::new(v4, address.port()),
        IpAddr::V6(_) => address,
    }
}

/// Datagrams to send. Nothing is allocated once it has grown to its working size.
#[derive(Debug, Default)]
pub struct SendBatch {
    bytes: Vec<u8>,
    used: usize,
    datagrams: Vec<Outgoing>,
}

#[derive(Clone, Copy, Debug)]
struct Outgoing {
    destination: SocketAddr,
    start: usize,
    len: usize,
}

/// Consecutive datagrams that can leave in one system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) destination: SocketAddr,
    /// Where its first byte is in the batch.
    pub(super) start: usize,
    /// Bytes of all its datagrams.
    pub(super) len: usize,
    /// Bytes of each but the last, which may have fewer.
    pub(super) segment: usize,
    pub(super) count: usize,
}

impl SendBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a datagram by copying it.
    pub fn push(&mut self, destination: SocketAddr, datagram: &[u8]) {
        self.reserve(destination, datagram.len())
            .copy_from_slice(datagram);
    }

    /// Adds a datagram of `len` bytes that the caller fills in; what it holds before is arbitrary.
    pub fn reserve(&mut self, destination: SocketAddr, len: usize) -> &mut [u8] {
        let start = self.used;
        self.used += len;
        if self.bytes.len() < self.used {
            self.bytes.resize(self.used, 0);
        }
        self.datagrams.push(Outgoing {
            destination,
            start,
            len,
        });
        &mut self.bytes[start..self.used]
    }

    /// Takes the last datagram back.
    pub fn take_back(&mut self) {
        if let Some(last) = self.datagrams.pop() {
            self.used = last.start;
        }
    }

    /// How many datagrams it holds.
    pub fn len(&self) -> usize {
        self.datagrams.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.datagrams.is_empty()
    }

    /// Bytes of all its datagrams; a caller sends before this grows large.
    pub fn size(&self) -> usize {
        self.used
    }

    /// Forgets the datagrams; the memory stays.
    pub fn clear(&mut self) {
        self.used = 0;
        self.datagrams.clear();
    }

    pub(super) fn bytes(&self, run: &Run) -> &[u8] {
        &self.bytes[run.start..run.start + run.len]
    }

    /// The last datagram of a run.
    pub(super) fn tail(&self, run: &Run) -> Run {
        let before = run.segment * (run.count - 1);
        let len = run.len - before;
        Run {
            start: run.start + before,
            len,
            segment: len,
            count: 1,
            ..*run
        }
    }

    /// Groups neighbours that go to one destination: equal sizes, the last may be shorter.
    pub(super) fn runs(&self, max_segments: usize) -> impl Iterator<Item = Run> {
        let mut rest = self.datagrams.as_slice();
        std::iter::from_fn(move || {
            let (first, mut others) = rest.split_first()?;
            let mut run = Run {
                destination: first.destination,
                start: first.start,
                len: first.len,
                segment: first.len,
                count: 1,
            };
            while let Some((next, more)) = others.split_first() {
                if !run.takes(next, max_segments) {
                    break;
                }
                run.len += next.len;
                run.count += 1;
                others = more;
            }
            rest = others;
            Some(run)
        })
    }
}

impl Run {
    fn takes(&self, next: &Outgoing, max_segments: usize) -> bool {
        let still_open = self.len == self.segment * self.count;
        still_open
            && next.destination == self.destination
            && next.len > 0
            && next.len <= self.segment
            && self.count < max_segments
            && self.len + next.len <= GSO_BYTES
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn to(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn grouped(datagrams: &[(u16, usize)], max: usize) -> Vec<(u16, usize, usize)> {
        let mut batch = SendBatch::new();
        for &(port, len) in datagrams {
            batch.push(to(port), &vec![0; len]);
        }
        batch
            .runs(max)
            .map(|run| (run.destination.port(), run.segment, run.count))
            .collect()
    }

    #[test]
    fn neighbours_of_one_size_and_destination_go_together() {
        assert_eq!(
            grouped(&[(1, 100), (1, 100), (1, 40), (1, 40)], 64),
            [(1, 100, 3), (1, 40, 1)]
        );
        assert_eq!(
            grouped(&[(1, 100), (2, 100), (1, 100)], 64),
            [(1, 100, 1), (2, 100, 1), (1, 100, 1)]
        );
        assert_eq!(grouped(&[(1, 40), (1, 100)], 64), [(1, 40, 1), (1, 100, 1)]);
        assert_eq!(
            grouped(&[(1, 0), (1, 0), (1, 9), (1, 0)], 64),
            [(1, 0, 1), (1, 0, 1), (1, 9, 1), (1, 0, 1)]
        );
        assert_eq!(grouped(&[(1, 9); 5], 2), [(1, 9, 2), (1, 9, 2), (1, 9, 1)]);
        assert_eq!(grouped(&[(1, 9); 3], 1), [(1, 9, 1); 3]);
        assert_eq!(
            grouped(&[(1, 30_000); 3], 64),
            [(1, 30_000, 2), (1, 30_000, 1)]
        );
    }

    #[test]
    fn memory_is_reused() {
        let mut batch = SendBatch::new();
        batch.push(to(1), &[7; 1000]);
        batch.clear();
        assert!(batch.is_empty());
        batch.reserve(to(1), 500).fill(9);
        assert_eq!(
            (batch.len(), batch.size(), batch.bytes.len()),
            (1, 500, 1000)
        );
    }

    #[test]
    fn coalesced_datagrams_are_cut_apart_and_addresses_made_plain() {
        let mut batch = RecvBatch::new(2);
        let mut meta = RecvMeta::default();
        meta.addr = "[::ffff:10.0.0.1]:5".parse().unwrap();
        meta.dst_ip = Some("::ffff:10.0.0.2".parse().unwrap());
        (meta.len, meta.stride) = (250, 100);
        let mut empty = RecvMeta::default();
        empty.addr = "[2001:db8::1]:6".parse().unwrap();
        batch.accept(&[meta, empty]);
        let seen: Vec<_> = batch
            .datagrams()
            .map(|d| (d.source.to_string(), d.local, d.bytes.len()))
            .collect();
        let local = Some("10.0.0.2".parse().unwrap());
        let source = || "10.0.0.1:5".to_owned();
        assert_eq!(
            seen,
            [
                (source(), local, 100),
                (source(), local, 100),
                (source(), local, 50)
            ]
        );
    }

    #[test]
    fn full_slots_are_read_few_at_a_time() {
        let mut batch = RecvBatch::new(32);
        let mut usable = |len: usize| {
            let mut meta = RecvMeta::default();
            (meta.len, meta.stride) = (len, 1400);
            batch.clear();
            batch.accept(&[meta; 3]);
            batch.slots().iter().filter(|s| !s.is_empty()).count()
        };
        assert_eq!([1400, 60_000, 1400].map(&mut usable), [32, FULL_SLOTS, 32]);
    }

    proptest! {
        #[test]
        fn runs_cover_every_datagram_once_in_order(
            datagrams in prop::collection::vec((1u16..3, 0usize..5), 0..60), max in 1usize..9,
        ) {
            let runs = grouped(&datagrams, max);
            let mut rest = datagrams.as_slice();
            for (port, segment, count) in runs {
                prop_assert!(count >= 1 && count <= max);
                let (run, others) = rest.split_at(count);
                prop_assert!(run.iter().all(|d| d.0 == port));
                prop_assert!(run[..count - 1].iter().all(|d| d.1 == segment));
                prop_assert!(run[count - 1].1 <= segment);
                rest = others;
            }
            prop_assert!(rest.is_empty());
        }
    }
}
