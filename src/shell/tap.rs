//! The TAP device: the one bridge port through which frames enter and leave userspace.
//!
//! It moves bytes. It knows neither bridges (`host` enslaves it) nor what a
//! frame holds. A device made here lives as long as a queue of it is open.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind, Read, Write},
    ops::Range,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::OpenOptionsExt,
    },
};

use super::sys::tun::{self, Attach};

const NODE: &str = "/dev/net/tun";

/// What a [`Tap`] is opened with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TapOptions {
    /// Each frame is preceded by a virtio header of [`Tap::header`] bytes.
    pub vnet_hdr: bool,
    /// Further queues can be opened with [`Tap::queue`].
    pub multi_queue: bool,
}

/// One queue of a TAP device; reads and writes never block.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: String,
    options: TapOptions,
}

impl Tap {
    /// Makes the device `name` and opens its first queue.
    ///
    /// # Errors
    /// The message names cause and cure: no `/dev/net/tun`, no right to use it,
    /// or an interface of that name exists.
    pub fn open(name: &str, options: TapOptions) -> io::Result<Self> {
        Self::attach(name, options, true)
    }

    /// Opens another queue of the same device; needs `multi_queue`.
    pub fn queue(&self) -> io::Result<Self> {
        Self::attach(&self.name, self.options, false)
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes before each frame, on both ways: 12 with `vnet_hdr`, else 0.
    pub fn header(&self) -> usize {
        if self.options.vnet_hdr {
            tun::VNET_HEADER
        } else {
            0
        }
    }

    /// Reads one frame; `WouldBlock` when there is none. A frame longer than
    /// `buffer` arrives cut, so give room for the MTU.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match (&self.file).read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// Writes one frame; the error is one frame's (queue full, device down), not the device's.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        loop {
            match (&self.file).write(frame) {
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

    fn attach(name: &str, options: TapOptions, exclusive: bool) -> io::Result<Self> {
        let how = Attach {
            vnet_hdr: options.vnet_hdr,
            multi_queue: options.multi_queue,
            exclusive,
        };
        let file = open_node()?;
        let name = tun::attach(&file, name, how).map_err(|error| refused(name, &error))?;
        if options.vnet_hdr {
            tun::set_vnet_header(&file, tun::VNET_HEADER)?;
            tun::set_offload(&file, 0)?;
        }
        Ok(Self {
            file,
            name,
            options,
        })
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

/// Reusable buffers for frames, each with room in front for a header and
/// behind for a tag, so that a frame is sealed where it was read.
#[derive(Debug)]
pub struct FrameBatch {
    bytes: Vec<u8>,
    lens: Vec<usize>,
    slots: usize,
    headroom: usize,
    frame: usize,
    stride: usize,
    cut: u64,
}

/// One frame of a [`FrameBatch`] within its whole buffer.
#[derive(Debug)]
pub struct FrameSlot<'a> {
    /// Headroom, frame, and at least the tailroom.
    pub buffer: &'a mut [u8],
    /// Where the frame is; its start is the headroom.
    pub frame: Range<usize>,
}

impl FrameBatch {
    /// `slots` buffers for frames of up to `frame` bytes (virtio header
    /// included), with `headroom` bytes before and `tailroom` bytes after.
    pub fn new(slots: usize, headroom: usize, frame: usize, tailroom: usize) -> Self {
        // One byte more than the longest frame tells a cut frame from one that just fits.
        let stride = headroom + frame + tailroom.max(1);
        let (bytes, lens) = (vec![0; slots * stride], Vec::with_capacity(slots));
        Self {
            bytes,
            lens,
            slots,
            headroom,
            frame,
            stride,
            cut: 0,
        }
    }

    /// How many frames it holds.
    pub fn len(&self) -> usize {
        self.lens.len()
    }

    /// Whether it holds no frame.
    pub fn is_empty(&self) -> bool {
        self.lens.is_empty()
    }

    /// How many frames were dropped because they were longer than a slot.
    pub fn oversized(&self) -> u64 {
        self.cut
    }

    /// Forgets the frames; the buffers stay.
    pub fn clear(&mut self) {
        self.lens.clear();
    }

    /// The frames in the order they were read.
    pub fn frames(&mut self) -> impl Iterator<Item = FrameSlot<'_>> {
        let headroom = self.headroom;
        let slots = self.bytes.chunks_exact_mut(self.stride).zip(&self.lens);
        slots.map(move |(buffer, &len)| FrameSlot {
            buffer,
            frame: headroom..headroom + len,
        })
    }

    fn free_slot(&mut self) -> Option<&mut [u8]> {
        if self.lens.len() == self.slots {
            return None;
        }
        let start = self.lens.len() * self.stride + self.headroom;
        self.bytes.get_mut(start..=start + self.frame)
    }

    fn accept(&mut self, len: usize) {
        if len > self.frame {
            self.cut += 1;
        } else {
            self.lens.push(len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::netns::testing::in_fresh_namespace;

    #[test]
    fn a_batch_keeps_headroom_and_drops_what_is_cut() {
        let mut batch = FrameBatch::new(2, 16, 100, 8);
        for (fill, len) in [(1, 60), (2, 101), (3, 100)] {
            batch.free_slot().unwrap()[..len].fill(fill);
            batch.accept(len);
        }
        assert!(batch.free_slot().is_none());
        assert_eq!(batch.oversized(), 1);
        let seen: Vec<_> = batch
            .frames()
            .map(|f| (f.buffer[f.frame.start], f.frame, f.buffer.len()))
            .collect();
        assert_eq!(seen, [(1, 16..76, 124), (3, 16..116, 124)]);
    }

    #[test]
    fn a_tap_opens_once_and_gives_nothing_while_down() {
        in_fresh_namespace(|| {
            let tap = Tap::open("wtap", TapOptions::default()).unwrap();
            assert_eq!((tap.name(), tap.header()), ("wtap", 0));
            assert_eq!(
                tap.recv(&mut [0; 2000]).unwrap_err().kind(),
                ErrorKind::WouldBlock
            );
            assert_eq!(
                tap.recv_batch(&mut FrameBatch::new(4, 0, 1514, 0)).unwrap(),
                0
            );
            let again = Tap::open("wtap", TapOptions::default()).unwrap_err();
            assert!(
                again.to_string().contains("interface of that name exists"),
                "{again}"
            );
            drop(tap);
            Tap::open("wtap", TapOptions::default()).unwrap();
        });
    }

    #[test]
    fn queues_and_virtio_headers_are_ready() {
        in_fresh_namespace(|| {
            let options = TapOptions {
                vnet_hdr: true,
                multi_queue: true,
            };
            let tap = Tap::open("wtap", options).unwrap();
            assert_eq!(tap.header(), 12);
            tap.queue().unwrap();
        });
    }

    #[test]
    fn an_impossible_name_is_refused() {
        in_fresh_namespace(|| {
            for name in ["a-name-that-is-too-long", "a/b"] {
                let error = Tap::open(name, TapOptions::default()).unwrap_err();
                assert!(error.to_string().contains("not a valid name"), "{error}");
            }
        });
    }
}
