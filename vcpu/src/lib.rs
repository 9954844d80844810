//! The vCPU process: CPUs, guest RAM, chipset, windows.
//!
//! Reading order: `state` (what a CPU is), `isa` (one row an instruction), `interp` (how blocks run),
//! `mem` (RAM and address translation), `system` (exceptions, far transfers, control registers),
//! `chipset`, `run` (the loop that orders all of it by icount).

pub mod chipset;
pub mod core;
pub mod fault;
pub mod firmware;
pub mod gdb;
pub mod interp;
pub mod isa;
pub mod load;
pub mod mem;
pub mod probe;
pub mod run;
pub mod snapshot;
pub mod softfp;
pub mod state;
pub mod system;
pub mod thunk;
pub mod virtio;
pub mod window;
