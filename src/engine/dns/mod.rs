//! Names by DNS: a query's bytes in, an answer's bytes out, or the word that
//! others have to be asked. Knows no socket.
//!
//! | part | what it does |
//! |---|---|
//! | [`NameMap`] | the directory as an immutable value, part of each snapshot |
//! | [`Zone`] | answers what is asked about the domain and about addresses of the mesh |
//! | [`forward`] | what is sent to other servers, and what counts as their answer |

pub mod forward;
mod map;
mod question;
mod zone;

pub use map::NameMap;
pub use question::{Question, reversed};
pub use zone::{Outcome, Transport, View, Zone};

/// How long an answer may be kept, in seconds: names move with containers.
pub const TTL: u32 = 1;
/// The longest query that is read, in bytes.
pub const MAX_QUERY: usize = 4096;
/// The longest answer sent in one datagram, in bytes, however much the other end
/// would take: what passes everywhere uncut.
pub const MAX_DATAGRAM: u16 = 1232;
