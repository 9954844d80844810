//! Fuzz target: a back-end that writes what it likes into its window.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vcpu::window::fuzz::back_end_side(bytes));
