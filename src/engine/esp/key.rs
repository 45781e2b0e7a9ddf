//! The key of one security association.

use std::fmt;

use crypto::Session;
use zeroize::Zeroizing;

/// A key of AES-256-GCM and the four bytes that begin its nonces, as RFC 4106
/// has them in one piece. Wiped when dropped, never shown.
///
/// Both are exported from the session ([`Session::export_send`], keyed BLAKE2s)
/// under a label and the SPI. So each association has a key of its own, and no
/// number of a packet is ever encrypted twice under one key, though each
/// association counts from the start.
pub struct EspKey(Zeroizing<[u8; Self::LEN]>);

impl EspKey {
    /// Bytes of key and salt.
    pub const LEN: usize = 36;

    /// What this end sends under, to the index that the peer chose.
    pub fn outbound(session: &Session, spi: u32) -> Self {
        Self::derive(spi, |label| session.export_send(label))
    }

    /// What this end receives under, by the index that it chose.
    pub fn inbound(session: &Session, spi: u32) -> Self {
        Self::derive(spi, |label| session.export_receive(label))
    }

    /// Key and salt as given.
    pub fn new(bytes: [u8; Self::LEN]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Key, then salt.
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    fn derive(spi: u32, export: impl Fn(&[u8]) -> Zeroizing<[u8; 32]>) -> Self {
        let part = |label: &[u8]| export(&[label, &spi.to_be_bytes()].concat());
        let mut bytes = Zeroizing::new([0; Self::LEN]);
        bytes[..32].copy_from_slice(&*part(b"esp key "));
        bytes[32..].copy_from_slice(&part(b"esp salt")[..4]);
        Self(bytes)
    }
}

impl fmt::Debug for EspKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EspKey(..)")
    }
}
