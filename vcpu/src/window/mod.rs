//! Windows: the small memories shared with device processes, and the driver side of what is in them.
//!
//! Guest RAM is never shared. A window holds one device's virtqueues and buffers and is announced to its back-end as if it were
//! all the memory there is (docs/devices.md). Nothing a back-end writes into it is believed: `queue` checks every used
//! element. Reading order: `memory`, `queue`, `frontend` (the handshake), then one file a device.

pub mod console;
pub mod error;
mod event_fd;
pub mod frontend;
pub mod memory;
pub mod queue;

pub use console::Console;
pub use error::WindowError;
