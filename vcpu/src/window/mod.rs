//! Windows: the small memories shared with device processes, and the driver side of what is in them.
//!
//! Guest RAM is never shared. A window holds one device's virtqueues and buffers and is announced to its back-end as if it were
//! all the memory there is (docs/devices.md). Nothing a back-end writes into it is believed: `requests` checks every used
//! element. Reading order: `memory`, `arena`, `requests` (one virtqueue), `session` (the vhost-user conversation), `device`
//! (all of one back-end), `console` (how the UARTs use one).

mod arena;
pub mod console;
pub mod device;
pub mod error;
mod event_fd;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
pub mod memory;
pub mod requests;
pub mod session;

pub use console::Console;
pub use device::DeviceWindow;
pub use error::WindowError;
