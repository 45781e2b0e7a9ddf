//! Whole meshes in virtual time. Every run follows from its seed; a failure
//! prints the seed and the step at which it was seen.

#![allow(unreachable_pub, reason = "a test binary has no outside")]

mod engine;
mod engine_broadcast;
mod engine_esp;
mod engine_fastdp;
mod engine_handshakes;
mod engine_hostile;
mod engine_mtu;
mod engine_random;
mod engine_rekey;
mod engine_relay;
mod engine_restarts;
mod engine_roaming;
mod engine_secrets;
mod invariants;
mod mesh_convergence;
mod mesh_faults;
mod mesh_names;
mod mesh_space;
mod mesh_stations;
mod mesh_topology;
mod netem;
mod world;
