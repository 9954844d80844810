//! System behaviour of the CPU, shown by small guests: paging, exceptions, interrupts, modes, debugging, code that
//! changes itself, and the rules of counting. Expected values are the manual's (Intel SDM, by volume and section).

#![allow(clippy::unwrap_used, reason = "what helps a test may panic like a test")]

mod counting;
mod debug;
mod exceptions;
mod interrupts;
mod paging;
mod protected;
mod self_modifying;
mod strings;
mod tlb;
mod transfers;
