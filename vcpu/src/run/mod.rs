//! The loop that orders everything by icount.

pub mod vtime;
