//! What the test targets share.
//!
//! For `system`: guests written as assembly text, and a bare machine to run them on. For `oracle`: CPU state as
//! plain data, an address-space layout, and two executors of single instructions, the host CPU and our own.

pub mod arena;
pub mod assemble;
pub mod check;
pub mod guest;
pub mod host;
pub mod layout;
pub mod ours;
pub mod paging;
pub mod random;
pub mod segments;
pub mod state;
