//! A peer that lies.

use proto::message::GossipMessage;

use super::{host::Host, net::Net, time::Time};

/// What a liar remembers.
pub(crate) struct Liar;

impl Liar {
    /// What is sent instead of a message.
    pub(crate) fn distort(
        &mut self,
        _ours: u32,
        _to: u32,
        message: GossipMessage,
        _now: Time,
    ) -> Vec<GossipMessage> {
        vec![message]
    }
}

impl Host {
    /// Tells lies that nobody asked for.
    pub(crate) fn lie(&mut self, _net: &mut Net<'_>) {}
}
