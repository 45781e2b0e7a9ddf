//! The bulk ciphers of a session, and how two peers agree on one.

use std::fmt;

/// The AEAD that seals a session's datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cipher {
    /// AES-256-GCM (NIST SP 800-38D), where both CPUs have AES.
    Aes256Gcm,
    /// ChaCha20-Poly1305 (RFC 8439), which every peer can do.
    ChaCha20Poly1305,
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Aes256Gcm => "AES-256-GCM",
            Self::ChaCha20Poly1305 => "ChaCha20-Poly1305",
        })
    }
}

/// What a peer's CPU does well, as bits on the wire.
///
/// ChaCha20-Poly1305 has a bit for clarity, but counts as present always: it
/// is what two peers fall back to. Bits this version does not know are kept
/// and ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CipherSet(pub u16);

impl CipherSet {
    /// Every peer can do this one.
    pub const CHACHA20_POLY1305: Self = Self(1);
    /// Only with AES and carry-less multiplication in hardware: the software
    /// version is slow and leaks the key through caches.
    pub const AES_256_GCM: Self = Self(2);

    /// The set of a peer whose CPU has AES, or has not.
    pub fn with_aes(aes: bool) -> Self {
        if aes {
            Self(Self::CHACHA20_POLY1305.0 | Self::AES_256_GCM.0)
        } else {
            Self::CHACHA20_POLY1305
        }
    }

    /// The set of the CPU this runs on. Simulations use [`Self::with_aes`],
    /// so that a run is the same on every machine.
    pub fn detect() -> Self {
        Self::with_aes(cpu_has_aes())
    }

    /// Whether all bits of `other` are set here.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The cipher of two peers: AES-256-GCM if it is in both sets, else
    /// ChaCha20-Poly1305. Symmetric, so both ends come to the same answer.
    pub fn agree(self, other: Self) -> Cipher {
        if Self(self.0 & other.0).contains(Self::AES_256_GCM) {
            return Cipher::Aes256Gcm;
        }
        Cipher::ChaCha20Poly1305
    }
}

#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
fn cpu_has_aes() -> bool {
    is_x86_feature_detected!("aes") && is_x86_feature_detected!("pclmulqdq")
}

#[cfg(target_arch = "aarch64")]
fn cpu_has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
}

#[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
fn cpu_has_aes() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aes_needs_both_ends() {
        let (with, without) = (CipherSet::with_aes(true), CipherSet::with_aes(false));
        assert_eq!(with.agree(with), Cipher::Aes256Gcm);
        assert_eq!(with.agree(without), Cipher::ChaCha20Poly1305);
        assert_eq!(without.agree(with), Cipher::ChaCha20Poly1305);
        assert_eq!(CipherSet(0).agree(CipherSet(0)), Cipher::ChaCha20Poly1305);
        assert_eq!(CipherSet(u16::MAX).agree(with), Cipher::Aes256Gcm);
    }

    #[test]
    fn the_detected_set_has_the_common_cipher() {
        assert!(CipherSet::detect().contains(CipherSet::CHACHA20_POLY1305));
    }

    #[test]
    fn names_are_those_of_the_operators_contract() {
        assert_eq!(Cipher::Aes256Gcm.to_string(), "AES-256-GCM");
        assert_eq!(Cipher::ChaCha20Poly1305.to_string(), "ChaCha20-Poly1305");
    }
}
