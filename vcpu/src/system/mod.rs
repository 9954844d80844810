//! System instructions and exception delivery.

pub mod cpuid;
