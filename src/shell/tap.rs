//! The TAP device: the one bridge port through which frames enter and leave userspace.
//!
//! It moves bytes, each frame with the kernel's word on what was left for later
//! ([`VnetHeader`]). It knows neither bridges (`host` enslaves it) nor what a
//! frame holds. A device made here lives as long as it is open.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind, IoSlice, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::OpenOptionsExt,
    },
};

use proto::vnet::{VNET_HEADER, VnetHeader};

use super::sys::tun;

const NODE: &str = "/dev/net/tun";

/// The longest frame: the largest IP packet, and Ethernet with two VLAN tags.
const LONGEST: usize = 65_535 + 22;

/// A TAP device; reads and writes never block.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: String,
    offloads: Offloads,
}

/// Which super-frames the kernel gives, and takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offloads {
    /// None; but checksums are left to the reader nowhere, either.
    None,
    /// Of TCP.
    Tcp,
    /// Of TCP and UDP (Linux 6.2).
    TcpAndUdp,
}

impl Tap {
    /// Makes the device `name` and opens it, with all offloads that this kernel has.
    ///
    /// # Errors
    /// The message names cause and cure: no `/dev/net/tun`, no right to use it,
    /// or an interface of that name exists.
    pub fn open(name: &str) -> io::Result<Self> {
        let file = open_node()?;
        let name = tun::attach(&file, name).map_err(|error| refused(name, &error))?;
        tun::set_vnet_header(&file, VNET_HEADER)?;
        let offloads = offload(&file);
        Ok(Self {
            file,
            name,
            offloads,
        })
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What this kernel offloads.
    pub fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// Writes one frame; the error is one frame's (no memory, device down), not the device's.
    pub fn send(&self, header: &VnetHeader, frame: &[u8]) -> io::Result<()> {
        let header = header.emit();
        let parts = [IoSlice::new(&header), IoSlice::new(frame)];
        loop {
            match (&self.file).write_vectored(&parts) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => return result.map(|_| ()),
            }
        }
    }

    /// Reads frames until there is none or the batch is full; gives how many.
    ///
    /// # Errors
    /// Only if nothing could be read before it; the device is gone, for one.
    pub fn recv_batch(&self, batch: &mut FrameBatch) -> io::Result<usize> {
        batch.clear();
        while let Some(slot) = batch.free_slot() {
            match self.recv(slot) {
                Ok(len) => batch.accept(len),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if batch.is_empty() => return Err(error),
                Err(_) => break,
            }
        }
        Ok(batch.len())
    }

    fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match (&self.file).read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}

/// Asks for all, and is content with what there is.
fn offload(file: &File) -> Offloads {
    if tun::set_offload(file, tun::OFFLOAD_TCP | tun::OFFLOAD_UDP).is_ok() {
        Offloads::TcpAndUdp
    } else if tun::set_offload(file, tun::OFFLOAD_TCP).is_ok() {
        Offloads::Tcp
    } else {
        Offloads::None
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn open_node() -> io::Result<File> {
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(NODE);
    opened.map_err(|error| {
        let cure = match error.kind() {
            ErrorKind::NotFound => {
                "is missing: load the tun module (modprobe tun) or create the node (mknod /dev/net/tun c 10 200)"
            }
            ErrorKind::PermissionDenied => {
                "cannot be opened: run as root, or allow the device 10:200 to this container"
            }
            _ if error.raw_os_error() == Some(libc::ENODEV) => {
                "has no driver: load the tun module (modprobe tun)"
            }
            _ => return io::Error::new(error.kind(), format!("{NODE} cannot be opened: {error}")),
        };
        io::Error::new(error.kind(), format!("{NODE} {cure}"))
    })
}

fn refused(name: &str, error: &io::Error) -> io::Error {
    let why = match error.raw_os_error() {
        Some(libc::EBUSY) => {
            "an interface of that name exists: another wove may be running, else choose another name with --bridge"
        }
        Some(libc::EPERM) => "not permitted: wove needs CAP_NET_ADMIN (run as root)",
        Some(libc::EINVAL | libc::ENAMETOOLONG) => {
            "not a valid name or options: a name has 1 to 15 bytes without '/' and spaces"
        }
        _ => return io::Error::new(error.kind(), format!("TAP device '{name}': {error}")),
    };
    io::Error::new(error.kind(), format!("TAP device '{name}': {why}"))
}

/// Reusable memory for frames, one after the other.
#[derive(Debug)]
pub struct FrameBatch {
    bytes: Vec<u8>,
    used: usize,
    frames: Vec<(VnetHeader, usize)>,
    most: usize,
    budget: usize,
    refused: u64,
}

impl FrameBatch {
    /// For up to `most` frames; none is added beyond `budget` bytes.
    pub fn new(most: usize, budget: usize) -> Self {
        Self {
            bytes: vec![0; budget + SLOT],
            used: 0,
            frames: Vec::with_capacity(most),
            most,
            budget,
            refused: 0,
        }
    }

    /// How many frames it holds.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether it holds no frame.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// How many frames were refused since the last call: longer than any can
    /// be, or with a header that says what nobody asked for.
    pub fn take_refused(&mut self) -> u64 {
        std::mem::take(&mut self.refused)
    }

    /// The frames in the order they were read.
    pub fn frames(&mut self) -> impl Iterator<Item = (VnetHeader, &mut [u8])> {
        let mut rest = self.bytes.as_mut_slice();
        self.frames.iter().map(move |&(header, len)| {
            let (slot, others) = std::mem::take(&mut rest).split_at_mut(VNET_HEADER + len);
            rest = others;
            (header, &mut slot[VNET_HEADER..])
        })
    }

    fn clear(&mut self) {
        self.used = 0;
        self.frames.clear();
    }

    fn free_slot(&mut self) -> Option<&mut [u8]> {
        let full = self.frames.len() == self.most || self.used > self.budget;
        (!full).then(|| &mut self.bytes[self.used..self.used + SLOT])
    }

    fn accept(&mut self, len: usize) {
        let header = VnetHeader::parse(&self.bytes[self.used..self.used + len]);
        match header {
            Ok(header) if len < SLOT => {
                self.frames.push((header, len - VNET_HEADER));
                self.used += len;
            }
            Ok(_) | Err(_) => self.refused += 1,
        }
    }
}

/// One byte more than the longest tells a frame that was cut from one that just fits.
const SLOT: usize = VNET_HEADER + LONGEST + 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::netns::testing::in_fresh_namespace;

    fn put(batch: &mut FrameBatch, fill: u8, len: usize) {
        let slot = batch.free_slot().unwrap();
        slot[..len].fill(0);
        slot[VNET_HEADER.min(len)..len].fill(fill);
        batch.accept(len);
    }

    #[test]
    fn a_batch_packs_frames_and_refuses_what_is_cut_or_short() {
        let mut batch = FrameBatch::new(3, 1000);
        for (fill, len) in [(1, 72), (2, SLOT), (3, VNET_HEADER - 1), (4, VNET_HEADER)] {
            put(&mut batch, fill, len);
        }
        put(&mut batch, 5, 112);
        assert!(batch.free_slot().is_none());
        assert_eq!((batch.take_refused(), batch.take_refused()), (2, 0));
        let seen: Vec<_> = batch
            .frames()
            .map(|(_, f)| (f.first().copied(), f.len()))
            .collect();
        assert_eq!(seen, [(Some(1), 60), (None, 0), (Some(5), 100)]);
    }

    #[test]
    fn a_batch_ends_at_its_budget() {
        let mut batch = FrameBatch::new(100, 1000);
        put(&mut batch, 1, 1000);
        put(&mut batch, 1, 60_000);
        assert!(batch.free_slot().is_none());
        batch.clear();
        assert!(batch.free_slot().is_some());
    }

    #[test]
    fn a_tap_opens_once_and_gives_nothing_while_down() {
        in_fresh_namespace(|| {
            let tap = Tap::open("wtap").unwrap();
            assert_eq!(tap.name(), "wtap");
            assert_ne!(tap.offloads(), Offloads::None);
            let mut batch = FrameBatch::new(4, 100);
            assert_eq!(tap.recv_batch(&mut batch).unwrap(), 0);
            let again = Tap::open("wtap").unwrap_err();
            assert!(
                again.to_string().contains("interface of that name exists"),
                "{again}"
            );
            drop(tap);
            Tap::open("wtap").unwrap();
        });
    }

    #[test]
    fn an_impossible_name_is_refused() {
        in_fresh_namespace(|| {
            for name in ["a-name-that-is-too-long", "a/b"] {
                let error = Tap::open(name).unwrap_err();
                assert!(error.to_string().contains("not a valid name"), "{error}");
            }
        });
    }
}
