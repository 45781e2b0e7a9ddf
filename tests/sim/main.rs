//! Whole meshes in virtual time.
