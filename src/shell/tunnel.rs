//! Frames of our own through the VXLAN device: probes of the fast path.
//!
//! ```text
//! destination:6 = 02 77 76, index:3 | source:6 | ethertype:2 = 88b5 | sealed datagram
//! ```
//!
//! The ethertype is the one for local experiments (IEEE 802). The index names
//! the fast path between here and the programs of `fastdp`, which put the
//! tunnel's addresses and identifier to it on the way out, and write it on the
//! way in. What the datagram holds is the engine's.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use super::sys::packet::PacketSocket;

const ETHERTYPE: u16 = 0x88b5;
const PREFIX: [u8; 3] = [0x02, 0x77, 0x76];
const HEADER: usize = 14;

/// A socket on the VXLAN device.
#[derive(Debug)]
pub(super) struct TunnelSocket(PacketSocket);

impl TunnelSocket {
    /// Opens it on the device of that index.
    pub(super) fn open(device: u32) -> io::Result<Self> {
        PacketSocket::listen(device, ETHERTYPE).map(Self)
    }

    /// Sends a datagram along a fast path.
    pub(super) fn send(&self, index: u32, datagram: &[u8]) -> io::Result<()> {
        self.0.send(&frame(index, datagram))
    }

    /// Receives one: the fast path's index and the datagram, or none if it was
    /// no such frame. `WouldBlock` when there is nothing.
    pub(super) fn recv<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<(u32, &'a mut [u8])>> {
        let len = self.0.recv(buffer)?;
        Ok(parse(&mut buffer[..len]))
    }
}

impl AsFd for TunnelSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn frame(index: u32, datagram: &[u8]) -> Vec<u8> {
    let index = &index.to_be_bytes()[1..];
    [
        &PREFIX[..],
        index,
        &PREFIX,
        &[0; 3],
        &ETHERTYPE.to_be_bytes(),
        datagram,
    ]
    .concat()
}

fn parse(frame: &mut [u8]) -> Option<(u32, &mut [u8])> {
    let (header, datagram) = frame.split_at_mut_checked(HEADER)?;
    let ours = header[..3] == PREFIX && header[12..] == ETHERTYPE.to_be_bytes();
    let index = u32::from_be_bytes([0, header[3], header[4], header[5]]);
    ours.then_some((index, datagram))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_read_back_and_nothing_else() {
        let mut sent = frame(0x00ab_cdef, b"sealed");
        assert_eq!(sent[0] & 1, 0, "no group");
        for cut in 0..HEADER {
            assert_eq!(parse(&mut sent.clone()[..cut]), None);
        }
        for at in (0..3).chain(12..HEADER) {
            let mut other = sent.clone();
            other[at] ^= 1;
            assert_eq!(parse(&mut other), None, "{at}");
        }
        let (index, datagram) = parse(&mut sent).unwrap();
        assert_eq!((index, &*datagram), (0x00ab_cdef, &b"sealed"[..]));
    }
}
