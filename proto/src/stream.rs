//! Datagrams on a TCP connection, where UDP does not pass: each is preceded by
//! its length in two bytes, big-endian. Nothing else is on the connection.
//!
//! The datagrams are those of [`crate::datagram`], and as little trusted.

use crate::DecodeError;

/// Bytes before each datagram.
pub const PREFIX: usize = 2;

/// What precedes a datagram of `len` bytes; none if it is empty or too long.
pub fn prefix(len: usize) -> Option<[u8; PREFIX]> {
    let len = u16::try_from(len).ok().filter(|len| *len > 0)?;
    Some(len.to_be_bytes())
}

/// Cuts what was read from a connection into datagrams.
#[derive(Debug, Default)]
pub struct Deframer {
    buffer: Vec<u8>,
    /// Where the first datagram that was not taken begins.
    start: usize,
}

impl Deframer {
    /// Nothing was read yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in what was read.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.buffer.drain(..std::mem::take(&mut self.start));
        self.buffer.extend_from_slice(bytes);
    }

    /// The next datagram, if all of it has been read. Between two calls of
    /// [`Deframer::extend`] all of them are to be taken: so the buffer holds no
    /// more than `limit` and what one call brought.
    ///
    /// # Errors
    /// The connection does not hold datagrams of 1 to `limit` bytes, and what
    /// follows has no meaning.
    pub fn next(&mut self, limit: usize) -> Result<Option<&[u8]>, DecodeError> {
        let rest = self.buffer.get(self.start..).unwrap_or_default();
        let Some((prefix, rest)) = rest.split_first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let len = usize::from(u16::from_be_bytes(*prefix));
        if len == 0 || len > limit {
            return Err(DecodeError::Limit);
        }
        if rest.len() < len {
            return Ok(None);
        }
        self.start += PREFIX + len;
        Ok(rest.get(..len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_come_out_however_they_were_cut() {
        let datagrams: [&[u8]; 3] = [b"one", b"2", &[3; 700]];
        let mut bytes = Vec::new();
        for datagram in datagrams {
            bytes.extend(prefix(datagram.len()).unwrap());
            bytes.extend(datagram);
        }
        for step in [1, 2, 3, 7, 64, bytes.len()] {
            let (mut deframer, mut out) = (Deframer::new(), Vec::new());
            for part in bytes.chunks(step) {
                deframer.extend(part);
                while let Some(datagram) = deframer.next(700).unwrap() {
                    out.push(datagram.to_vec());
                }
            }
            assert_eq!(out, datagrams, "in steps of {step}");
        }
    }

    #[test]
    fn other_protocols_and_lengths_are_refused() {
        for (bytes, limit) in [
            (&b"GET / HTTP/1.1"[..], 2048),
            (&[0, 0], 10),
            (&[0, 11], 10),
        ] {
            let mut deframer = Deframer::new();
            deframer.extend(bytes);
            assert_eq!(deframer.next(limit), Err(DecodeError::Limit));
        }
        assert_eq!(prefix(0), None);
        assert_eq!(prefix(1 << 16), None);
    }
}
