//! The interpreter: decodes blocks, caches them by physical page, runs them.

pub mod block;
pub mod cache;
pub mod decode;
pub mod engine;

pub use engine::{Interpreter, Stop};
