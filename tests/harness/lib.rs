//! What the test targets share: CPU state as plain data, an address-space layout, and two executors of single
//! instructions — the host CPU and our own.

pub mod arena;
pub mod guest;
pub mod host;
pub mod random;
pub mod state;
