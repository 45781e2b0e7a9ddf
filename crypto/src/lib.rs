//! Who a peer is, how two peers come to share keys, and what those keys do.
//!
//! This crate opens no socket and reads no clock: datagrams come in and go out
//! as bytes, time as [`std::time::Instant`], randomness as a seeded generator.
//! The same seed gives the same bytes, so a whole mesh can be simulated with
//! its real cryptography. It does not know gossip, frames or routes.
//!
//! | module | what it does |
//! |---|---|
//! | [`keys`] | a peer's key pairs, its [`proto::PeerId`], signatures |
//! | [`secret`] | the network secret: token and password |
//! | [`hello`] | what each end says of itself inside the handshake |
//! | [`handshake`] | `Noise_XXpsk3_25519_ChaChaPoly_BLAKE2s`, typed by phase |
//! | [`session`] | sealing and opening datagrams in place |
//! | [`replay`] | the window that refuses a counter seen before |
//! | [`rekey`] | when a session must be replaced, and when it is dead |
//! | [`cookie`] | proof of address and the handshake rate under load |
//!
//! A handshake, seen from above:
//!
//! ```text
//! Initiator::start ------ initiation (padded) -----> CookieJar / HandshakeLimiter
//!        |  <------------ cookie reply ------------        | under load only
//!        |  ------------- initiation + cookie ----> Responder::accept
//!        |  <------------ response -----------------       |
//! Initiator::read_response  - completion ---------> Responder::complete
//!        |                                                 |
//!    Established { session, hello, keys, .. }         Established { .. }
//! ```

#![forbid(unsafe_code)]

pub mod cipher;
pub mod cookie;
pub mod handshake;
mod hash;
pub mod hello;
pub mod keys;
mod noise;
pub mod rekey;
pub mod replay;
pub mod secret;
pub mod session;

pub use cipher::{Cipher, CipherSet};
pub use cookie::{CookieJar, HandshakeLimiter};
pub use handshake::{Established, HandshakeError, Initiator, Responder};
pub use hello::{Hello, HelloError};
pub use keys::{Identity, peer_id, verify};
pub use rekey::Rekey;
pub use replay::ReplayWindow;
pub use secret::{PasswordError, Secret, TokenError};
pub use session::{OpenError, SealError, Sealer, Session};
