//! What the binary `wove` is made of: arguments in, a daemon or a client's
//! answer out. It knows the contract with operators and nothing of networking.

pub mod args;
pub mod client;
pub mod commands;
pub mod failure;
pub mod launch;
pub mod render;
pub mod runtime;
