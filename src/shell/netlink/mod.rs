//! A netlink connection for what rtnetlink does not do: XFRM and nftables. It
//! blocks, for as long as the kernel takes to answer: microseconds.
//!
//! Knows nothing of what the messages mean; `wire` has them as bytes.

pub(super) mod wire;

use std::{
    io::{self, Read, Write},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use zeroize::Zeroizing;

use wire::Message;

/// The kernel answers at once or is broken.
const PATIENCE: Duration = Duration::from_secs(5);
/// More than the kernel ever answers in one read.
const ANSWER: usize = 64 * 1024;

/// A connection to a part of the kernel, in the namespace it was opened in.
pub(super) struct Connection {
    socket: Socket,
    sequence: u32,
    /// The first number of the request under way.
    first: u32,
    /// Wiped when dropped: the kernel's lists may hold keys.
    answer: Zeroizing<Vec<u8>>,
}

impl Connection {
    /// Connects to the part of that number (netlink(7)).
    pub(super) fn open(family: i32) -> io::Result<Self> {
        let domain = Domain::from(libc::AF_NETLINK);
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(family)))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            socket,
            sequence: 0,
            first: 0,
            answer: Zeroizing::new(vec![0; ANSWER]),
        })
    }

    /// The number of the next request, of one message or the first of several.
    pub(super) fn begin(&mut self) -> u32 {
        self.first = self.next();
        self.first
    }

    /// The number of the next message of the same request.
    pub(super) fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// Sends the request last numbered, and reads until its last message is
    /// answered for, or one is refused.
    pub(super) fn ask(
        &mut self,
        request: &[u8],
        mut each: impl FnMut(&Message<'_>),
    ) -> io::Result<()> {
        (&self.socket).write_all(request)?;
        let span = self.sequence.wrapping_sub(self.first);
        loop {
            let length = (&self.socket).read(&mut self.answer)?;
            for message in wire::messages(&self.answer[..length]) {
                // A request that timed out or was refused may be answered late.
                if message.sequence.wrapping_sub(self.first) > span {
                    continue;
                }
                match i32::from(message.kind) {
                    libc::NLMSG_ERROR | libc::NLMSG_DONE => {
                        outcome(&message)?;
                        if message.sequence == self.sequence {
                            return Ok(());
                        }
                    }
                    _ => each(&message),
                }
            }
        }
    }
}

/// What the end of an answer says: zero, or a negative error number.
pub(super) fn outcome(message: &Message<'_>) -> io::Result<()> {
    let code = wire::u32_at(message.payload, 0).map_or(0, u32::cast_signed);
    if code == 0 {
        return Ok(());
    }
    Err(io::Error::from_raw_os_error(code.saturating_neg()))
}

/// Turns one error into `None`, and says of another what to do.
pub(super) fn unless(result: io::Result<()>, errno: i32) -> anyhow::Result<Option<()>> {
    match result {
        Ok(()) => Ok(Some(())),
        Err(error) if error.raw_os_error() == Some(errno) => Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            Err(anyhow::Error::new(error).context("wove needs CAP_NET_ADMIN (run as root)"))
        }
        Err(error) => Err(error.into()),
    }
}
