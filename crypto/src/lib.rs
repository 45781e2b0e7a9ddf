//! Identity, handshake and session.
