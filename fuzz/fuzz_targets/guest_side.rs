//! Fuzz target: a guest's virtio driver, in front of every kind of function.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vcpu::virtio::fuzz::guest_side(bytes));
