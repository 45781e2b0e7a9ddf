//! The memory of one router with nothing shared.
//!
//! In the simulation records are shared between peers, so the memory of a peer
//! cannot be read off. Instead the records of a settled peer are encoded,
//! decoded anew, and handed to a fresh mesh by a neighbour; what it allocates
//! for them is what a router allocates.
//!
//! Whole engines share nothing, so theirs is read off.

use std::{sync::Arc, time::Duration};

use gossip::{Scope, SessionInfo};
use proto::record::Record;

use super::{
    core_api::{push, records},
    identity::{address, id},
    memory,
    model::new_mesh,
    world::World,
};

/// Resident bytes of an idle daemon without the records of others: the program,
/// its buffers and threads, and the sessions with its neighbours. VmRSS of a
/// daemon was 8.7 MiB alone, 9.5 once it had shaken hands with two others (more
/// of the program has run), and 9.7 with sixteen neighbours.
const ROUTER_BASE_BYTES: i64 = 10 * 1024 * 1024;
/// Records of one message, as many as fit a datagram.
const CHUNK: usize = 4;

/// Bytes of one router, if the core and the allocator tell.
pub(crate) fn bytes_per_peer(world: &World) -> Option<f64> {
    let numbers = world.running();
    if world.setup.engine {
        return (memory::live() > 0).then(|| {
            let live = memory::live() as f64 / numbers.len() as f64;
            live + ROUTER_BASE_BYTES as f64
        });
    }
    let (ours, neighbour) = (*numbers.first()?, *numbers.get(1)?);
    let encoded: Vec<Vec<u8>> = records(world.mesh(ours)?)
        .iter()
        .map(|r| r.encode())
        .collect();
    if encoded.is_empty() || memory::live() == 0 {
        return None;
    }
    let before = memory::live();
    let mut now = world.shared.clock.instant(world.now);
    let mut mesh = new_mesh(ours, 1, 1, &world.config, 1, now);
    let info = SessionInfo {
        address: address(neighbour),
        outbound: false,
        dial: None,
        scope: Scope::ALL,
        handicap: Duration::ZERO,
    };
    mesh.session_opened(id(neighbour), info, now);
    for chunk in encoded.chunks(CHUNK) {
        let decode = |bytes: &Vec<u8>| Record::decode(bytes).ok().map(Arc::new);
        let fresh = chunk.iter().filter_map(decode).collect();
        mesh.handle_message(id(neighbour), push(fresh), now);
        while mesh.poll_transmit().is_some() {}
        while mesh.poll_event().is_some() {}
    }
    // Routes and whatever else follows from the records is calculated a little later.
    for _ in 0..10 {
        now += Duration::from_millis(100);
        mesh.handle_timeout(now);
        while mesh.poll_transmit().is_some() {}
        while mesh.poll_event().is_some() {}
    }
    let grown = memory::live() - before;
    drop(mesh);
    Some((grown + ROUTER_BASE_BYTES) as f64)
}
