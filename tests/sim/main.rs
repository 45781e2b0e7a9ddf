//! Whole meshes in virtual time. Every run follows from its seed; a failure
//! prints the seed and the step at which it was seen.

#![allow(unreachable_pub, reason = "a test binary has no outside")]

mod invariants;
mod mesh_convergence;
mod mesh_faults;
mod mesh_stations;
mod mesh_topology;
mod netem;
mod world;
