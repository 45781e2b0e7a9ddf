//! The pure composition of gossip and crypto: it forwards frames, decides
//! paths, and knows no socket, no clock and no thread.

pub mod command;
pub mod status;
pub mod text;

pub use command::{Attachment, Command, Failure, Reply, TokenCommand};
pub use status::Status;
