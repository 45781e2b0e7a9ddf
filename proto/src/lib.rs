//! Bytes to values and back: every format wove puts on a wire.
//!
//! This crate holds no state, reads no clock and does no I/O. A decoder given
//! hostile bytes returns a [`DecodeError`]; it neither panics nor allocates
//! more than a small multiple of its input.
//!
//! | module | what it describes |
//! |---|---|
//! | [`peer`] | who a peer is: [`PeerId`], [`PublicKeys`] |
//! | [`datagram`] | the UDP payload: handshake messages and sealed transport |
//! | [`endpoint`], [`stream`] | where datagrams are sent to; datagrams on a TCP connection |
//! | [`content`] | what a sealed datagram carries: control, frame, relay, broadcast, fragment |
//! | [`message`] | control messages between two peers |
//! | [`record`], [`space`] | the signed records that gossip replicates; those about the address space |
//! | [`ethernet`], [`arp`], [`ndp`], [`ip`] | the parts of a container's frame that wove reads |
//! | [`vnet`] | what a TAP device says of a frame: checksum to complete, segments to cut |

pub mod arp;
pub mod codec;
pub mod content;
pub mod datagram;
pub mod endpoint;
pub mod ethernet;
pub mod ip;
pub mod message;
pub mod ndp;
pub mod peer;
pub mod record;
pub mod space;
pub mod stream;
pub mod vnet;

pub use codec::DecodeError;
pub use endpoint::Endpoint;
pub use ethernet::MacAddr;
pub use peer::{PeerId, PublicKeys, ShortId};
