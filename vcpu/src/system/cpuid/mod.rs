//! CPUID models as tables.

/// What a CPU model shows in CPUID.
pub struct Model {}
