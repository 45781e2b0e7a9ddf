//! A TCP transfer whose every byte is checked. Must not know daemons.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::super::netns::Netns;

/// How long either end waits for the other.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of one write.
const PIECE: usize = 32 * 1024;

/// A transfer under way.
pub(crate) struct Transfer {
    sender: JoinHandle<io::Result<()>>,
    receiver: JoinHandle<io::Result<u64>>,
    bytes: u64,
    started: Instant,
}

impl Transfer {
    /// Connects and begins to send `bytes` from one namespace to an address
    /// of another; the content repeats `pattern`.
    pub(crate) fn start(
        from: &Netns,
        to: &Netns,
        address: impl Into<IpAddr>,
        bytes: u64,
        pattern: &[u8],
    ) -> io::Result<Self> {
        let address = address.into();
        let listener = to.run(|| TcpListener::bind(SocketAddr::new(address, 0)))?;
        let target = listener.local_addr()?;
        let stream = from.run(|| TcpStream::connect_timeout(&target, PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let (expected, content) = (pattern.to_vec(), pattern.to_vec());
        Ok(Self {
            sender: thread::spawn(move || send(stream, bytes, &content)),
            receiver: thread::spawn(move || receive(&listener, &expected)),
            bytes,
            started: Instant::now(),
        })
    }

    /// Waits for the end; the time it took, or what went wrong.
    pub(crate) fn finish(self) -> Result<Duration, String> {
        let sent = self.sender.join().expect("the sender does not panic");
        let received = self.receiver.join().expect("the receiver does not panic");
        sent.map_err(|e| format!("sending: {e}"))?;
        let received = received.map_err(|e| format!("receiving: {e}"))?;
        if received != self.bytes {
            return Err(format!("{received} of {} bytes arrived", self.bytes));
        }
        Ok(self.started.elapsed())
    }

    /// A whole transfer.
    pub(crate) fn run(
        from: &Netns,
        to: &Netns,
        address: impl Into<IpAddr>,
        bytes: u64,
        pattern: &[u8],
    ) -> Result<Duration, String> {
        let transfer = Self::start(from, to, address, bytes, pattern);
        transfer.map_err(|e| format!("connecting: {e}"))?.finish()
    }
}

fn send(mut stream: TcpStream, bytes: u64, pattern: &[u8]) -> io::Result<()> {
    let mut sent = 0;
    let mut piece = Vec::new();
    while sent < bytes {
        let length = (bytes - sent).min(PIECE as u64) as usize;
        content(pattern, sent, length, &mut piece);
        stream.write_all(&piece)?;
        sent += piece.len() as u64;
    }
    Ok(())
}

fn receive(listener: &TcpListener, pattern: &[u8]) -> io::Result<u64> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut received = 0;
    let mut buffer = vec![0; PIECE];
    let mut expected = Vec::new();
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(received);
        }
        content(pattern, received, length, &mut expected);
        if expected != buffer[..length] {
            return Err(io::Error::other(format!("wrong bytes after {received}")));
        }
        received += length as u64;
    }
}

// What a stream has from one place on. Every repetition of the pattern is
// followed by its number, so that a lost or repeated piece shows.
fn content(pattern: &[u8], from: u64, length: usize, content: &mut Vec<u8>) {
    let period = pattern.len() as u64 + 8;
    let before = (from % period) as usize;
    content.clear();
    for turn in from / period.. {
        content.extend_from_slice(pattern);
        content.extend_from_slice(&turn.to_be_bytes());
        if content.len() >= before + length {
            break;
        }
    }
    content.drain(..before);
    content.truncate(length);
}
