//! The wove router as a library.
pub mod engine;
pub mod shell;
