//! What a responder does before it spends anything on a stranger: it limits
//! the rate of handshakes, and above it asks for a proof of address.
//!
//! A cookie is a MAC over the sender's address under a secret of the
//! responder's own. Nothing is kept per source, so spoofed sources fill
//! nothing. The address comes in as bytes: this module knows no sockets.

use std::time::{Duration, Instant};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use proto::datagram::Cookie;
use rand::{CryptoRng, RngCore, SeedableRng};
use rand_chacha::ChaCha20Rng;
use zeroize::Zeroizing;

use crate::hash::mac;

/// How long cookies are made with one secret; the one before stays valid for
/// as long again, so a cookie lives between one and two of these.
pub const COOKIE_LIFETIME: Duration = Duration::from_secs(120);

/// Makes and checks cookies.
pub struct CookieJar {
    rng: ChaCha20Rng,
    current: Zeroizing<[u8; 32]>,
    previous: Zeroizing<[u8; 32]>,
    renewed: Instant,
}

impl CookieJar {
    /// A jar with its first secret, drawn from `rng`.
    pub fn new(rng: &mut impl CryptoRng, now: Instant) -> Self {
        let mut rng = ChaCha20Rng::from_rng(rng);
        let (current, previous) = (draw(&mut rng), draw(&mut rng));
        Self {
            rng,
            current,
            previous,
            renewed: now,
        }
    }

    /// The cookie of an address (IP and port, in whatever bytes the caller
    /// always uses for it).
    pub fn cookie(&mut self, address: &[u8], now: Instant) -> Cookie {
        self.renew(now);
        mac(&self.current, address)
    }

    /// Whether this peer gave the cookie to this address, not long ago.
    pub fn verify(&mut self, address: &[u8], cookie: &Cookie, now: Instant) -> bool {
        self.renew(now);
        let fits = |secret| verify_slices_are_equal(&mac(secret, address), cookie).is_ok();
        fits(&self.current) || fits(&self.previous)
    }

    fn renew(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.renewed);
        if age < COOKIE_LIFETIME {
            return;
        }
        // After a long silence the current secret is too old to stay as well.
        self.previous = if age < 2 * COOKIE_LIFETIME {
            self.current.clone()
        } else {
            draw(&mut self.rng)
        };
        self.current = draw(&mut self.rng);
        self.renewed = now;
    }
}

fn draw(rng: &mut ChaCha20Rng) -> Zeroizing<[u8; 32]> {
    let mut secret = Zeroizing::new([0; 32]);
    rng.fill_bytes(&mut *secret);
    secret
}

/// A token bucket that says when a responder is under load.
///
/// A responder keeps two: what the first does not admit needs a cookie, and
/// what has a cookie must pass the second, which bounds the work in any case.
#[derive(Clone, Debug)]
pub struct HandshakeLimiter {
    interval: Duration,
    burst: u32,
    tokens: u32,
    refilled: Instant,
}

impl HandshakeLimiter {
    /// Admits `rate` handshakes per second, and `burst` at once after a rest.
    /// Zero counts as one.
    pub fn new(rate: u32, burst: u32, now: Instant) -> Self {
        let burst = burst.max(1);
        Self {
            interval: Duration::from_secs(1) / rate.max(1),
            burst,
            tokens: burst,
            refilled: now,
        }
    }

    /// Whether one more handshake is within the rate.
    pub fn admit(&mut self, now: Instant) -> bool {
        self.refill(now);
        let Some(left) = self.tokens.checked_sub(1) else {
            return false;
        };
        self.tokens = left;
        true
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.refilled);
        let earned = elapsed.as_nanos() / self.interval.as_nanos().max(1);
        let missing = self.burst - self.tokens;
        match u32::try_from(earned) {
            Ok(earned) if earned < missing => {
                self.tokens += earned;
                // What was earned in part is kept for the next time.
                self.refilled += self.interval * earned;
            }
            _ => {
                self.tokens = self.burst;
                self.refilled = now.max(self.refilled);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[expect(
        clippy::disallowed_methods,
        reason = "a test needs some origin of time; no result depends on it"
    )]
    fn origin() -> Instant {
        Instant::now()
    }

    fn jar(seed: u64, now: Instant) -> CookieJar {
        CookieJar::new(&mut ChaCha8Rng::seed_from_u64(seed), now)
    }

    #[test]
    fn a_cookie_proves_one_address_to_one_jar() {
        let now = origin();
        let mut a = jar(1, now);
        let cookie = a.cookie(b"10.0.0.1:6783", now);
        assert!(a.verify(b"10.0.0.1:6783", &cookie, now));
        assert!(!a.verify(b"10.0.0.2:6783", &cookie, now));
        assert!(!a.verify(b"10.0.0.1:6783", &[0; 16], now));
        assert!(!jar(2, now).verify(b"10.0.0.1:6783", &cookie, now));
        assert_eq!(jar(1, now).cookie(b"10.0.0.1:6783", now), cookie);
    }

    #[test]
    fn a_cookie_outlives_one_renewal_but_not_two() {
        let now = origin();
        let at = |s| now + Duration::from_secs(s);
        let mut a = jar(1, now);
        let cookie = a.cookie(b"x", at(10));
        assert!(a.verify(b"x", &cookie, at(121)));
        assert_ne!(a.cookie(b"x", at(122)), cookie);
        assert!(a.verify(b"x", &cookie, at(239)));
        assert!(!a.verify(b"x", &cookie, at(242)));
    }

    #[test]
    fn a_long_silence_ends_all_cookies() {
        let now = origin();
        let mut a = jar(1, now);
        let cookie = a.cookie(b"x", now);
        assert!(!a.verify(b"x", &cookie, now + Duration::from_secs(241)));
    }

    #[test]
    fn the_limiter_gives_a_burst_and_then_the_rate() {
        let now = origin();
        let at = |ms| now + Duration::from_millis(ms);
        let mut limiter = HandshakeLimiter::new(10, 3, now);
        let admitted =
            |limiter: &mut HandshakeLimiter, ms| (0..10).filter(|_| limiter.admit(at(ms))).count();
        assert_eq!(admitted(&mut limiter, 0), 3);
        assert_eq!(admitted(&mut limiter, 99), 0);
        assert_eq!(admitted(&mut limiter, 150), 1);
        // The half interval left at 150 ms counts.
        assert_eq!(admitted(&mut limiter, 200), 1);
        assert_eq!(admitted(&mut limiter, 10_000_000), 3);
    }

    #[test]
    fn a_flood_gets_the_rate_and_no_more() {
        let now = origin();
        let mut limiter = HandshakeLimiter::new(100, 50, now);
        let admitted = (0..1_000_000_u64)
            .filter(|i| limiter.admit(now + Duration::from_micros(*i)))
            .count();
        assert_eq!(admitted, 50 + 99);
    }

    #[test]
    fn odd_settings_and_a_clock_that_stands_still_are_harmless() {
        let now = origin();
        let mut zero = HandshakeLimiter::new(0, 0, now);
        assert!(zero.admit(now));
        assert!(!zero.admit(now));
        assert!(zero.admit(now + Duration::from_secs(1)));
        let mut fast = HandshakeLimiter::new(u32::MAX, u32::MAX, now);
        assert!(fast.admit(now) && fast.admit(now));
        assert!(fast.admit(now + Duration::from_secs(1 << 30)));
        let mut past = HandshakeLimiter::new(1, 1, now + Duration::from_secs(5));
        assert!(past.admit(now));
        assert!(!past.admit(now));
    }
}
