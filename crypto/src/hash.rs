//! BLAKE2s (RFC 7693) with labels, so that no two uses share a domain.
//!
//! Labels are compile-time constants; a length byte before each keeps one
//! label from being the prefix of another.

use blake2::{
    Blake2s256, Blake2sMac,
    digest::{Digest, Mac, consts::U16, consts::U32},
};

/// BLAKE2s-256 over a label and the parts.
pub(crate) fn hash(label: &'static str, parts: &[&[u8]]) -> [u8; 32] {
    let mut state = Blake2s256::new();
    Digest::update(&mut state, [length(label)]);
    Digest::update(&mut state, label);
    for part in parts {
        Digest::update(&mut state, part);
    }
    state.finalize().into()
}

/// Keyed BLAKE2s-256 as a key derivation function.
pub(crate) fn derive(key: &[u8; 32], label: &'static str, parts: &[&[u8]]) -> [u8; 32] {
    let mut state = <Blake2sMac<U32> as Mac>::new(key.into());
    Mac::update(&mut state, &[length(label)]);
    Mac::update(&mut state, label.as_bytes());
    for part in parts {
        Mac::update(&mut state, part);
    }
    state.finalize().into_bytes().into()
}

/// Keyed BLAKE2s-128 as a message authentication code.
pub(crate) fn mac(key: &[u8; 32], message: &[u8]) -> [u8; 16] {
    let mut state = <Blake2sMac<U16> as Mac>::new(key.into());
    Mac::update(&mut state, message);
    state.finalize().into_bytes().into()
}

fn length(label: &'static str) -> u8 {
    u8::try_from(label.len()).expect("labels are short constants")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_separate_domains() {
        assert_ne!(hash("a", &[b"bc"]), hash("ab", &[b"c"]));
        let key = [7; 32];
        assert_ne!(derive(&key, "a", &[b"bc"]), derive(&key, "ab", &[b"c"]));
        assert_ne!(derive(&key, "a", &[]), hash("a", &[]));
    }

    #[test]
    fn the_mac_depends_on_key_and_message() {
        assert_ne!(mac(&[1; 32], b"x"), mac(&[2; 32], b"x"));
        assert_ne!(mac(&[1; 32], b"x"), mac(&[1; 32], b"y"));
    }
}
