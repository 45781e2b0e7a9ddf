//! Sealing and opening datagrams with the keys of one handshake (design D5).
//!
//! ```text
//! sealed   header:16 | ciphertext           | tag:16     AAD = header
//! clear    header:16 | content, as it is    | tag:16     AAD = header and content
//! ```
//!
//! Data path: in place, no allocation, no lock. A session is shared between
//! threads; the only thing in it that changes is the send counter. It knows no
//! addresses and no time: [`crate::Rekey`] says when it is too old.

use std::{
    fmt,
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use proto::datagram::{
    Protection, SessionIndex, TAG, TRANSPORT_HEADER, TRANSPORT_OVERHEAD, TransportHeader,
};
use zeroize::Zeroizing;

use crate::{cipher::Cipher, hash::derive, noise::Split, rekey::REJECT_AFTER_MESSAGES};

/// Bytes of a datagram, sealing included, at most.
pub const MAX_DATAGRAM: usize = u16::MAX as usize;

/// Keys shared by two peers, and the counter of what this one sent.
///
/// No counter is ever used twice: it is taken with an atomic addition, alone or
/// with those that follow ([`Sealer`]), also when several threads seal at once,
/// and a session that has sent [`REJECT_AFTER_MESSAGES`] seals nothing more.
pub struct Session {
    local: SessionIndex,
    remote: SessionIndex,
    initiator: bool,
    cipher: Cipher,
    send: Direction,
    receive: Direction,
    next: AtomicU64,
}

/// Why a datagram could not be sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The buffer has no room for header and tag, or exceeds [`MAX_DATAGRAM`].
    #[error("datagram of {0} bytes cannot be sealed")]
    Size(usize),
    /// The session has sent all it may; a new handshake is needed.
    #[error("session exhausted")]
    Exhausted,
    /// Clear was asked for in a session whose ends want encryption.
    #[error("this session does not send in the clear")]
    Protection,
    /// The cipher refused; never seen with valid sizes.
    #[error("cipher failed")]
    Cipher,
}

/// Why a datagram could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Shorter than header and tag.
    #[error("datagram of {0} bytes is too short")]
    Size(usize),
    /// It is for another session.
    #[error("datagram of another session")]
    Index,
    /// Its counter is beyond what a peer may send.
    #[error("counter beyond the end of the session")]
    Counter,
    /// It is in the clear, but the ends want encryption.
    #[error("clear datagram in an encrypted session")]
    Protection,
    /// Not sealed by the other end, or changed on the way.
    #[error("authentication failed")]
    Forged,
}

/// What a handshake yields to make a session of.
pub(crate) struct Material<'a> {
    pub(crate) local: SessionIndex,
    pub(crate) remote: SessionIndex,
    pub(crate) initiator: bool,
    pub(crate) cipher: Cipher,
    pub(crate) encrypt: bool,
    pub(crate) split: &'a Split,
    /// Noise's handshake hash.
    pub(crate) transcript: &'a [u8],
}

impl Session {
    pub(crate) fn new(material: &Material<'_>) -> Self {
        let direction = |key| Direction::new(key, material);
        let (to_responder, to_initiator) =
            (direction(&material.split.0), direction(&material.split.1));
        let (send, receive) = if material.initiator {
            (to_responder, to_initiator)
        } else {
            (to_initiator, to_responder)
        };
        Self {
            local: material.local,
            remote: material.remote,
            initiator: material.initiator,
            cipher: material.cipher,
            send,
            receive,
            next: AtomicU64::new(0),
        }
    }

    /// The index this end chose: what it receives carries it.
    pub fn local(&self) -> SessionIndex {
        self.local
    }

    /// The index the other end chose: what this end sends carries it.
    pub fn remote(&self) -> SessionIndex {
        self.remote
    }

    /// Whether this end began the handshake.
    pub fn is_initiator(&self) -> bool {
        self.initiator
    }

    /// The cipher both ends agreed on.
    pub fn cipher(&self) -> Cipher {
        self.cipher
    }

    /// Counters taken so far, for [`crate::Rekey`]: at least the datagrams sealed.
    pub fn sent(&self) -> u64 {
        self.next.load(Ordering::Relaxed).min(REJECT_AFTER_MESSAGES)
    }

    /// Seals a datagram in place.
    ///
    /// `buffer` is [`TRANSPORT_HEADER`] bytes of room, the plaintext, and
    /// [`TAG`] bytes of room; afterwards all of it is the datagram.
    /// [`Protection::Clear`] leaves the plaintext readable, and works only if
    /// both ends switched encryption off.
    pub fn seal(&self, protection: Protection, buffer: &mut [u8]) -> Result<(), SealError> {
        self.sealer().seal(protection, buffer)
    }

    /// Seals datagrams that follow one another.
    pub fn sealer(&self) -> Sealer<'_> {
        Sealer {
            session: self,
            block: 1,
            counters: 0..0,
        }
    }

    /// Opens a received datagram in place and returns its plaintext.
    ///
    /// `header` is what [`proto::datagram::Datagram::parse`] read from the
    /// same bytes. Nothing is remembered: the caller passes the counter to its
    /// [`crate::ReplayWindow`] after, not before, this succeeds. After an
    /// error the bytes are of no use.
    pub fn open<'a>(
        &self,
        header: &TransportHeader,
        datagram: &'a mut [u8],
    ) -> Result<&'a mut [u8], OpenError> {
        let len = datagram.len();
        if len < TRANSPORT_OVERHEAD {
            return Err(OpenError::Size(len));
        }
        if header.receiver != self.local {
            return Err(OpenError::Index);
        }
        if header.counter >= REJECT_AFTER_MESSAGES {
            return Err(OpenError::Counter);
        }
        let key = self
            .receive
            .key(header.protection)
            .ok_or(OpenError::Protection)?;
        let nonce = nonce(header.counter);
        match header.protection {
            Protection::Sealed => {
                let (head, sealed) = datagram.split_at_mut(TRANSPORT_HEADER);
                key.open_in_place(nonce, Aad::from(&*head), sealed)
                    .map_err(|_| OpenError::Forged)
            }
            Protection::Clear => {
                let (covered, tag) = datagram.split_at_mut(len - TAG);
                key.open_in_place(nonce, Aad::from(&*covered), tag)
                    .map_err(|_| OpenError::Forged)?;
                Ok(&mut covered[TRANSPORT_HEADER..])
            }
        }
    }

    /// A key for other use, of what this end sends: the other end gets the
    /// same from [`Self::export_receive`] with the same label. Says nothing of
    /// the session's own keys. (The kernel's ESP takes such keys.)
    ///
    /// Keyed BLAKE2s-256 (RFC 7693) as a pseudo-random function, twice, in
    /// place of HKDF's expansion: what Noise splits is uniform already. `s` is
    /// the key that Noise split for the direction, `c` one byte for the cipher
    /// (1 AES-256-GCM, 2 ChaCha20-Poly1305), a label is preceded by its length:
    ///
    /// ```text
    /// exporter = BLAKE2s(key = s, 16 "wove v1 exporter" handshake-hash c)
    /// exported = BLAKE2s(key = exporter, 14 "wove v1 export" label)
    /// ```
    pub fn export_send(&self, label: &[u8]) -> Zeroizing<[u8; 32]> {
        self.send.export(label)
    }

    /// A key for other use, of what this end receives.
    pub fn export_receive(&self, label: &[u8]) -> Zeroizing<[u8; 32]> {
        self.receive.export(label)
    }

    /// Takes so many counters, fewer at the end of the session.
    fn take_counters(&self, count: u64) -> Result<Range<u64>, SealError> {
        // Relaxed is enough: uniqueness is all that is asked. Failing calls
        // still add, but 2^57 of them do not happen.
        let first = self.next.fetch_add(count, Ordering::Relaxed);
        if first >= REJECT_AFTER_MESSAGES {
            return Err(SealError::Exhausted);
        }
        Ok(first..(first + count).min(REJECT_AFTER_MESSAGES))
    }
}

/// Counters taken at once by a [`Sealer`] at most: far fewer than a replay window,
/// for another thread may send later ones before these.
const BLOCK: u64 = 64;

/// Seals datagrams that follow one another. Their counters are taken together: to
/// take one from what threads share waits for all that was written before, and
/// that is a datagram each time. What is left over is never used.
pub struct Sealer<'a> {
    session: &'a Session,
    block: u64,
    counters: Range<u64>,
}

impl Sealer<'_> {
    /// So many datagrams will be sealed, or somewhat more.
    pub fn expect(&mut self, count: usize) {
        self.block = (count as u64).clamp(1, BLOCK);
    }

    /// Seals a datagram in place, as [`Session::seal`] does.
    pub fn seal(&mut self, protection: Protection, buffer: &mut [u8]) -> Result<(), SealError> {
        let session = self.session;
        let len = buffer.len();
        if len > MAX_DATAGRAM {
            return Err(SealError::Size(len));
        }
        let key = session.send.key(protection).ok_or(SealError::Protection)?;
        let (covered, tag) = buffer
            .split_last_chunk_mut::<TAG>()
            .ok_or(SealError::Size(len))?;
        let (head, body) = covered
            .split_first_chunk_mut::<TRANSPORT_HEADER>()
            .ok_or(SealError::Size(len))?;

        let counter = self.take_counter()?;
        *head = TransportHeader {
            protection,
            receiver: session.remote,
            counter,
        }
        .emit();
        let nonce = nonce(counter);
        let sealed = match protection {
            Protection::Sealed => key.seal_in_place_separate_tag(nonce, Aad::from(&*head), body),
            Protection::Clear => {
                key.seal_in_place_separate_tag(nonce, Aad::from(&*covered), &mut [])
            }
        };
        tag.copy_from_slice(sealed.map_err(|_| SealError::Cipher)?.as_ref());
        Ok(())
    }

    fn take_counter(&mut self) -> Result<u64, SealError> {
        if let Some(counter) = self.counters.next() {
            return Ok(counter);
        }
        self.counters = self.session.take_counters(self.block)?;
        self.counters.next().ok_or(SealError::Exhausted)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("local", &self.local)
            .field("remote", &self.remote)
            .field("cipher", &self.cipher)
            .field("sent", &self.sent())
            .finish_non_exhaustive()
    }
}

/// The keys of one direction, expanded once.
struct Direction {
    sealed: LessSafeKey,
    /// Absent where encryption is wanted, so no mistake can send in the clear.
    clear: Option<LessSafeKey>,
    exporter: Zeroizing<[u8; 32]>,
}

impl Direction {
    fn new(split: &[u8; 32], material: &Material<'_>) -> Self {
        let context: [&[u8]; 2] = [material.transcript, &[cipher_id(material.cipher)]];
        let key = |label| {
            expand(
                material.cipher,
                &Zeroizing::new(derive(split, label, &context)),
            )
        };
        Self {
            sealed: key("wove v1 sealed"),
            clear: (!material.encrypt).then(|| key("wove v1 clear")),
            exporter: Zeroizing::new(derive(split, "wove v1 exporter", &context)),
        }
    }

    fn key(&self, protection: Protection) -> Option<&LessSafeKey> {
        match protection {
            Protection::Sealed => Some(&self.sealed),
            Protection::Clear => self.clear.as_ref(),
        }
    }

    fn export(&self, label: &[u8]) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(derive(&self.exporter, "wove v1 export", &[label]))
    }
}

fn expand(cipher: Cipher, key: &[u8; 32]) -> LessSafeKey {
    let algorithm = match cipher {
        Cipher::Aes256Gcm => &aead::AES_256_GCM,
        Cipher::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
    };
    LessSafeKey::new(UnboundKey::new(algorithm, key).expect("both ciphers take 32-byte keys"))
}

/// Keeps the keys of one transcript apart by cipher.
fn cipher_id(cipher: Cipher) -> u8 {
    match cipher {
        Cipher::Aes256Gcm => 1,
        Cipher::ChaCha20Poly1305 => 2,
    }
}

/// Four zero bytes and the counter. Unique, because the counter is unique per
/// key; sealed and clear datagrams share the counter but not the key.
fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; aead::NONCE_LEN];
    bytes[4..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests;
