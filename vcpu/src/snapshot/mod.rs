//! Saved states of the machine, and going back to them.
//!
//! A snapshot is taken between two instructions, at a checkpoint: the state of CPU, chipset, virtio functions and clock as one
//! flat value (`state`), and the pages of RAM that were written since the snapshot before it (`pages`). What is decoded or
//! cached is not saved; it follows from the rest. `history` keeps the snapshots of a replay and thins them. `whole` is the state as a
//! snapshot on disk holds it; `run::save` makes and takes those.

pub mod history;
pub mod pages;
pub mod state;
pub mod whole;

pub use history::History;
pub use pages::PageVersions;
pub use state::SavedState;
