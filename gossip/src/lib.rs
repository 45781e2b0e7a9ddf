//! The mesh and its replicated state.
