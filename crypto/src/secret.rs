//! The network secret: what a peer must know to join (design D4).
//!
//! A secret is made once and copied as a *token*, or stretched from a
//! *password*. Either way it becomes 32 bytes that the handshake mixes in as
//! its pre-shared key. Knows nothing of files or of the command line.
//!
//! ```text
//! token    wove1-xxxxxxxx-xxxxxxxx-xxxxxxxx-xxxxxxxx
//!                 32 digits of base 32 = 16 random bytes + 4 bytes of checksum
//! ```

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use rand::CryptoRng;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::hash::hash;

/// A secret that all peers of a network share. Wiped from memory when dropped.
///
/// `Debug` shows [`Secret::id`], never the secret. Comparison takes the same
/// time whatever the difference.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret {
    key: [u8; 32],
    entropy: Option<[u8; ENTROPY]>,
}

/// Why a text is not a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It does not start as a token does.
    #[error("not a wove token: a token starts with \"wove1-\" (`wove token` prints it)")]
    Foreign,
    /// Digits are missing or too many.
    #[error("this token has {found} digits instead of 32: copy it again, whole")]
    Length {
        /// Digits found after the prefix.
        found: usize,
    },
    /// A character that no token contains.
    #[error("this token is mistyped: {found:?} is not a digit of a token")]
    Digit {
        /// The first such character.
        found: char,
    },
    /// The checksum does not match the rest.
    #[error("this token is mistyped: its checksum is wrong, copy it again")]
    Checksum,
}

/// Why a password does not make a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// Too easy to guess.
    #[error(
        "a password needs at least {MIN_PASSWORD} characters (this one has {found}): use a longer one, or a token"
    )]
    Short {
        /// Characters found.
        found: usize,
    },
    /// Larger than anybody types.
    #[error("a password may have at most {MAX_PASSWORD} bytes (this one has {found})")]
    Long {
        /// Bytes found.
        found: usize,
    },
    /// Stretching needs 64 MiB of memory.
    #[error("no memory to stretch the password (it needs 64 MiB for a moment)")]
    Memory,
}

/// Marks a line that holds a stretched password.
const KEY_LINE: &str = "key:";
/// Characters a password must have.
pub const MIN_PASSWORD: usize = 8;
/// Bytes a password may have.
pub const MAX_PASSWORD: usize = 1024;

impl Secret {
    /// Makes a new secret with 128 bits of entropy.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut entropy = Zeroizing::new([0; ENTROPY]);
        rng.fill_bytes(&mut *entropy);
        Self::from_entropy(&entropy)
    }

    /// Reads a token. Case, surrounding and inner white space and the place of
    /// hyphens do not matter; `o` reads as `0`, `i` and `l` as `1`.
    pub fn from_token(text: &str) -> Result<Self, TokenError> {
        let digits = normalise(text)?;
        let bytes = Zeroizing::new(decode(&digits)?);
        let (entropy, found) = bytes
            .split_first_chunk::<ENTROPY>()
            .expect("20 bytes are more than 16");
        if checksum(entropy) != *found {
            return Err(TokenError::Checksum);
        }
        Ok(Self::from_entropy(entropy))
    }

    /// The token that makes this secret again; none if a password made it.
    pub fn token(&self) -> Option<String> {
        let entropy = self.entropy.as_ref()?;
        let mut bytes = Zeroizing::new([0; TOKEN_BYTES]);
        bytes[..ENTROPY].copy_from_slice(entropy);
        bytes[ENTROPY..].copy_from_slice(&checksum(entropy));
        Some(encode(&bytes))
    }

    /// Stretches a password with Argon2id (RFC 9106): 64 MiB, 3 passes, so
    /// about a tenth of a second here and per guess. The salt is the same for
    /// every network: peers that share only the password must agree.
    pub fn from_password(password: &str) -> Result<Self, PasswordError> {
        let found = password.chars().count();
        if found < MIN_PASSWORD {
            return Err(PasswordError::Short { found });
        }
        if password.len() > MAX_PASSWORD {
            return Err(PasswordError::Long {
                found: password.len(),
            });
        }
        let params = Params::new(64 * 1024, 3, 1, Some(32))
            .expect("constant parameters within Argon2's limits");
        let mut key = [0; 32];
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(password.as_bytes(), b"wove network v1", &mut key)
            .map_err(|_| PasswordError::Memory)?;
        Ok(Self { key, entropy: None })
    }

    /// One line from which [`Secret::from_line`] makes the secret again: for a
    /// file that only its owner reads.
    pub fn line(&self) -> String {
        self.token().unwrap_or_else(|| {
            let digits = self.key.iter().map(|byte| format!("{byte:02x}"));
            format!("{KEY_LINE}{}", digits.collect::<String>())
        })
    }

    /// Reads what [`Secret::line`] wrote, or a token.
    pub fn from_line(line: &str) -> Result<Self, TokenError> {
        let Some(digits) = line.strip_prefix(KEY_LINE) else {
            return Self::from_token(line);
        };
        let length = TokenError::Length {
            found: digits.len(),
        };
        let mut key = [0; 32];
        if digits.len() != 2 * key.len() || !digits.is_ascii() {
            return Err(length);
        }
        for (byte, at) in key.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(&digits[at..at + 2], 16).map_err(|_| length)?;
        }
        Ok(Self { key, entropy: None })
    }

    /// The pre-shared key for the handshake.
    pub fn psk(&self) -> [u8; 32] {
        self.key
    }

    /// Eight hexadecimal digits by which people tell secrets apart. Of no help
    /// against a token; against a password it lets one check a guess, at the
    /// full price of the stretching.
    pub fn id(&self) -> String {
        let digest = hash("wove secret id v1", &[&self.key]);
        let [a, b, c, d, ..] = digest;
        format!("{:08x}", u32::from_be_bytes([a, b, c, d]))
    }

    fn from_entropy(entropy: &[u8; ENTROPY]) -> Self {
        Self {
            key: hash("wove network secret v1", &[entropy]),
            entropy: Some(*entropy),
        }
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        verify_slices_are_equal(&self.key, &other.key).is_ok()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.id())
    }
}

const ENTROPY: usize = 16;
const CHECKSUM: usize = 4;
const TOKEN_BYTES: usize = ENTROPY + CHECKSUM;
const DIGITS: usize = TOKEN_BYTES * 8 / 5;
const GROUP: usize = 8;
const PREFIX: &str = "wove1";
/// [`PREFIX`] as it looks once look-alikes are mapped.
const MAPPED_PREFIX: &[u8] = b"w0ve1";
/// Crockford's base 32: no i, l, o, u.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Nobody's token is longer, however it is spaced.
const MAX_TEXT: usize = 1024;

fn checksum(entropy: &[u8; ENTROPY]) -> [u8; CHECKSUM] {
    let [a, b, c, d, ..] = hash("wove token checksum v1", &[entropy]);
    [a, b, c, d]
}

fn encode(bytes: &[u8; TOKEN_BYTES]) -> String {
    let mut text = String::with_capacity(PREFIX.len() + DIGITS + DIGITS / GROUP);
    text.push_str(PREFIX);
    for (i, chunk) in bytes.chunks_exact(5).enumerate() {
        debug_assert!(i < DIGITS / GROUP);
        text.push('-');
        let bits = chunk
            .iter()
            .fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
        for shift in (0..GROUP).rev() {
            text.push(char::from(ALPHABET[(bits >> (5 * shift)) as usize & 31]));
        }
    }
    text
}

/// The 32 digits of a token, look-alikes mapped, prefix and spacing gone.
fn normalise(text: &str) -> Result<Zeroizing<Vec<u8>>, TokenError> {
    if text.len() > MAX_TEXT {
        return Err(TokenError::Foreign);
    }
    let mut digits = Zeroizing::new(Vec::with_capacity(MAX_TEXT));
    let mut strange = None;
    for c in text.chars().filter(|c| !c.is_whitespace() && *c != '-') {
        let mapped = match c.to_ascii_lowercase() {
            'o' => '0',
            'i' | 'l' => '1',
            other => other,
        };
        let digit = u8::try_from(mapped).ok().filter(|d| ALPHABET.contains(d));
        if digit.is_none() && strange.is_none() {
            strange = Some(c);
        }
        digits.push(digit.unwrap_or(b'?'));
    }
    if !digits.starts_with(MAPPED_PREFIX) {
        return Err(TokenError::Foreign);
    }
    if let Some(found) = strange {
        return Err(TokenError::Digit { found });
    }
    digits.drain(..MAPPED_PREFIX.len());
    Ok(digits)
}

fn decode(digits: &[u8]) -> Result<[u8; TOKEN_BYTES], TokenError> {
    if digits.len() != DIGITS {
        return Err(TokenError::Length {
            found: digits.len(),
        });
    }
    let mut bytes = [0; TOKEN_BYTES];
    for (out, group) in bytes.chunks_exact_mut(5).zip(digits.chunks_exact(GROUP)) {
        let bits = group
            .iter()
            .fold(0_u64, |bits, digit| bits << 5 | value(*digit));
        out.copy_from_slice(&bits.to_be_bytes()[3..]);
    }
    Ok(bytes)
}

fn value(digit: u8) -> u64 {
    let place = ALPHABET.iter().position(|d| *d == digit);
    place.expect("normalise let only digits through") as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn secret(seed: u64) -> Secret {
        Secret::generate(&mut ChaCha8Rng::seed_from_u64(seed))
    }

    #[test]
    fn a_token_makes_the_same_secret() {
        let token = secret(1).token().unwrap();
        assert_eq!(
            token.len(),
            "wove1-xxxxxxxx-xxxxxxxx-xxxxxxxx-xxxxxxxx".len()
        );
        assert_eq!(Secret::from_token(&token), Ok(secret(1)));
        assert_ne!(secret(1), secret(2));
        assert_ne!(secret(1).psk(), secret(2).psk());
    }

    #[test]
    fn people_may_retype_a_token() {
        let (expected, token) = (secret(4), secret(4).token().unwrap());
        let retyped = [
            token.to_uppercase(),
            format!("  {token}\r\n"),
            token.replace('-', ""),
            token.replace('-', " - "),
            token.replace('0', "O").replace('1', "l"),
            token.replace('0', "o").replace('1', "I"),
        ];
        for text in retyped {
            assert_eq!(Secret::from_token(&text).as_ref(), Ok(&expected), "{text}");
        }
    }

    #[test]
    fn errors_tell_what_is_wrong() {
        let token = secret(5).token().unwrap();
        for foreign in [
            "",
            "hello",
            "wg1-abcdefgh",
            "wove2-00000000",
            &"x".repeat(5000),
        ] {
            assert_eq!(
                Secret::from_token(foreign),
                Err(TokenError::Foreign),
                "{foreign}"
            );
        }
        assert_eq!(
            Secret::from_token(&token[..token.len() - 3]),
            Err(TokenError::Length { found: 29 })
        );
        assert_eq!(
            Secret::from_token(&format!("{token}0")),
            Err(TokenError::Length { found: 33 })
        );
        assert_eq!(
            Secret::from_token(&token.replacen('-', "u", 2)),
            Err(TokenError::Digit { found: 'u' })
        );
        let strange = format!("{}ü", &token[..token.len() - 1]);
        assert_eq!(
            Secret::from_token(&strange),
            Err(TokenError::Digit { found: 'ü' })
        );
    }

    #[test]
    fn every_mistyped_digit_is_noticed() {
        let token = secret(6).token().unwrap();
        for i in PREFIX.len()..token.len() {
            let mut bytes = token.clone().into_bytes();
            if bytes[i] == b'-' {
                continue;
            }
            bytes[i] = if bytes[i] == b'7' { b'8' } else { b'7' };
            let text = String::from_utf8(bytes).unwrap();
            assert_eq!(
                Secret::from_token(&text),
                Err(TokenError::Checksum),
                "{text}"
            );
        }
    }

    #[test]
    fn a_password_is_stretched_the_same_everywhere() {
        let a = Secret::from_password("correct horse").unwrap();
        assert_eq!(a, Secret::from_password("correct horse").unwrap());
        assert_eq!(a.token(), None);
        assert_ne!(a, Secret::from_password("correct hors3").unwrap());
    }

    #[test]
    fn a_bad_password_is_refused_with_a_reason() {
        let short = Secret::from_password("sieben7").unwrap_err();
        assert_eq!(short, PasswordError::Short { found: 7 });
        assert!(short.to_string().contains("at least 8 characters"));
        // Characters count, not bytes.
        assert_eq!(
            Secret::from_password("äöüß"),
            Err(PasswordError::Short { found: 4 })
        );
        assert_eq!(
            Secret::from_password(&"x".repeat(1025)),
            Err(PasswordError::Long { found: 1025 })
        );
    }

    #[test]
    fn the_id_says_nothing_of_the_secret() {
        let s = secret(7);
        assert_eq!(s.id().len(), 8);
        assert_eq!(format!("{s:?}"), format!("Secret({})", s.id()));
        assert!(!s.token().unwrap().contains(&s.id()));
    }

    proptest! {
        #[test]
        fn any_entropy_survives_the_token(entropy: [u8; 16]) {
            let s = Secret::from_entropy(&entropy);
            prop_assert_eq!(Secret::from_token(&s.token().unwrap()), Ok(s));
        }

        #[test]
        fn any_text_is_a_secret_or_an_error(text: String, tail in "[0-9a-zA-Z -]{0,50}") {
            let _ = Secret::from_token(&text);
            let _ = Secret::from_token(&format!("wove1-{tail}"));
        }
    }
}
