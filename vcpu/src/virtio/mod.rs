//! virtio devices, seen from the guest's rings.
//!
//! The registers are the chipset's (`chipset::virtio`); here are the rings in guest RAM and what goes through them. A kick is served
//! between two instructions: requests are copied out of RAM into the device's window, and the guest goes on. What a
//! back-end answers waits in the window until an event brings it into RAM. So everything in `Virtio` is a function of the guest's
//! instructions and the events, and `Service`, which knows the back-ends, decides nothing that the guest can see.
//!
//! Reading order: `ring`, `function` (state of one device), `roles` (who serves which queue), `offer` (features), `service`, then
//! the queues that are served here: `net_control`, `console_control`. `shared` and `watch` are for `window=off`: back-ends that
//! have guest RAM itself, in runs that are not recorded.

pub mod back_end;
pub mod capture;
mod console_control;
pub mod function;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod net_control;
pub mod offer;
pub mod resume;
#[cfg(any(test, feature = "fuzzing"))]
mod rig;
pub mod ring;
pub mod roles;
pub mod service;
pub mod shared;
mod spool;
mod watch;

pub use back_end::{BackEnd, Tag};
pub use function::Virtio;
pub use service::Service;
pub use shared::SharedBackEnd;
