//! Whole meshes in virtual time: the production [`gossip::Mesh`], one per
//! simulated peer, thousands in one process.
//!
//! Everything between the meshes is simulated: the underlay, sessions and the
//! handshakes that lead to them, restarts, stalled processes, liars. Not
//! simulated: frames of containers, relaying of datagrams, and what the engine
//! sends to look after its sessions (fresh keys, probes of the size and
//! liveness of their paths), so the traffic of the figures is that of the mesh
//! and of handshakes. What that leaves out is little once a mesh is idle
//! (`tests/netns/prediction.rs` holds real daemons against it), and much while it
//! boots, and at a peer that many have as their target without a link.
//!
//! With `--engine` the whole [`wove::engine`] of every peer runs instead, over the
//! same underlay, with real sessions and frames of containers.
//!
//! **Determinism.** A run depends on its options and the seed only, not on the
//! number of threads. All randomness is the hosts' own. Hosts are dealt out to
//! threads; all threads run one window of 10 ms of virtual time, then exchange
//! what crosses. No datagram is faster than a window, so none is missed. What
//! happens at a host is ordered by time, then cause (see `queue`).
//!
//! | module | what it holds |
//! |---|---|
//! | `world`, `shard`, `barrier`, `queue`, `time` | all hosts; running them; the order of events |
//! | `host`, `datagram`, `identity` | one host and what it says to others |
//! | `model`, `sessions`, `handshake` | the peer on it: its mesh, with modelled sessions |
//! | `whole`, `cast` | or its whole engine, with real ones |
//! | `wan` | the underlay |
//! | `warm` | beginning with a mesh that is up |
//! | `view`, `observe`, `chain`, `reach`, `invariants`, `stats` | measuring and checking |
//! | `memory`, `rebuild` | what it costs in memory |
//! | `scenario`, `liar` | what is done to a world |
//! | `options`, `run`, `sweep`, `report`, `bars`, `progress` | the program |
//! | `core_api` | what depends on how records and messages look inside |

mod barrier;
mod bars;
mod cast;
mod chain;
mod core_api;
mod datagram;
mod handshake;
mod host;
mod identity;
mod invariants;
mod liar;
pub mod memory;
mod model;
mod net;
mod observe;
pub mod options;
mod progress;
mod queue;
mod reach;
mod rebuild;
mod report;
pub mod run;
mod scenario;
mod sessions;
mod shard;
mod stats;
mod sweep;
mod time;
mod view;
mod wan;
mod warm;
mod whole;
mod world;
