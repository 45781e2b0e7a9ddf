//! Where the simulator depends on how records and messages look inside: the one
//! place to change when they do.

use std::sync::Arc;

use gossip::Mesh;
use proto::{
    message::{GossipMessage, Message},
    record::{Body, Record, RecordKey, Topic, Version},
};

use super::{
    host::Host,
    identity::{FakeAuthority, id, keys},
};

/// The length in bytes of the encoded [`Message::Gossip`].
pub(crate) fn wire_length(message: &GossipMessage) -> usize {
    Message::Gossip(message.clone()).encode().len()
}

/// How many others a mesh reaches.
pub(crate) fn reachable_count(mesh: &Mesh<FakeAuthority>) -> usize {
    mesh.routes().reachable().count()
}

/// All records a mesh holds; nothing while the core does not show them.
pub(crate) fn records(_mesh: &Mesh<FakeAuthority>) -> Vec<Arc<Record>> {
    Vec::new()
}

/// What a peer that was just launched says about itself, as its mesh signed it.
pub(crate) fn record_of_launch(host: &Host) -> Option<Arc<Record>> {
    let mesh = host.mesh.as_ref()?;
    let version = Version {
        epoch: mesh.epoch(),
        sequence: 1,
    };
    let body = Body::Node(mesh.node(&id(host.number))?.clone());
    Some(Arc::new(signed(host.number, Topic::Node, version, &body)))
}

/// A record with a peer's own signature.
pub(crate) fn signed(number: u32, topic: Topic, version: Version, body: &Body) -> Record {
    let owner = id(number);
    let mut record = Record {
        key: RecordKey { owner, topic },
        keys: keys(number),
        version,
        body: body.encode(),
        signature: Default::default(),
    };
    let signature = gossip::Authority::sign(&FakeAuthority(keys(number)), &record.signed_bytes());
    record.set_signature(&signature);
    record
}

/// Records as a neighbour hands them over that makes up for what was missed.
pub(crate) fn push(records: Vec<Arc<Record>>) -> GossipMessage {
    GossipMessage::Push { records }
}
