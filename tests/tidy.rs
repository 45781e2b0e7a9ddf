//! Conventions checked by a test.
