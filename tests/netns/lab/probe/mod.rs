//! Traffic from inside namespaces: pings, transfers, floods and raw frames.
//!
//! Sockets are made inside and used from here, for a socket stays in the
//! namespace it was made in. Must not know daemons.

mod canary;
mod dns;
mod flood;
mod packet;
mod ping;
mod stream;
mod tcp;

pub(crate) use canary::Canaries;
pub(crate) use dns::{Ask, INSIDE, ask_at, data, resolve};
pub(crate) use flood::{Receivers, send_broadcasts, send_multicasts};
pub(crate) use packet::PacketSocket;
pub(crate) use ping::{PingFlow, PingOptions, PingReport, ping, ping_within};
pub(crate) use stream::Stream;
pub(crate) use tcp::Transfer;
