//! Sending whole Ethernet frames out of one interface, and receiving those of
//! one ethertype from it (packet(7)).
#![expect(
    unsafe_code,
    reason = "socket2 cannot make a link-layer address safely"
)]

use std::{
    io::{self, Read},
    mem,
    os::fd::{AsFd, BorrowedFd},
};

use socket2::{Domain, SockAddr, Socket, Type};

/// A socket that sends frames from one interface of the namespace it was made in.
#[derive(Debug)]
pub(in crate::shell) struct PacketSocket {
    socket: Socket,
    to: SockAddr,
}

impl PacketSocket {
    /// Opens the socket. Protocol 0: it receives nothing. Needs CAP_NET_RAW.
    pub(in crate::shell) fn open(ifindex: u32) -> io::Result<Self> {
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        Ok(Self {
            socket,
            to: link_address(ifindex, 0)?,
        })
    }

    /// Opens a socket that also receives frames of an ethertype, without blocking.
    pub(in crate::shell) fn listen(ifindex: u32, ethertype: u16) -> io::Result<Self> {
        // Bound before it listens: else it would hear all interfaces for a moment.
        let socket = Self::open(ifindex)?;
        socket.socket.set_nonblocking(true)?;
        socket.socket.bind(&link_address(ifindex, ethertype)?)?;
        Ok(socket)
    }

    /// Receives one frame, cut to the buffer; `WouldBlock` when there is none.
    pub(in crate::shell) fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.socket).read(buffer)
    }

    /// Sends one frame, Ethernet header included.
    pub(in crate::shell) fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.socket.send_to(frame, &self.to).map(|_| ())
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn link_address(ifindex: u32, ethertype: u16) -> io::Result<SockAddr> {
    let ifindex = i32::try_from(ifindex).map_err(io::Error::other)?;
    let family = libc::sa_family_t::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    // SAFETY: the storage given is larger than and aligned for sockaddr_ll, a
    // plain C struct; the length said is the length written.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, len| {
            let mut link: libc::sockaddr_ll = mem::zeroed();
            link.sll_family = family;
            link.sll_protocol = ethertype.to_be();
            link.sll_ifindex = ifindex;
            link.sll_halen = 6;
            storage.cast::<libc::sockaddr_ll>().write(link);
            *len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })?
    };
    Ok(address)
}
