//! Fuzz target: a front-end's messages and rings, for the disk and network programs.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| devices::fuzz::front_end_side(bytes));
