//! The CPU models: data only.
//!
//! Every model is an Intel one and its highest leaf is at least 16H, also where the real CPU stopped earlier:
//! Linux takes the TSC and APIC timer frequency from leaf 15H of an Intel CPU and then needs no calibration loop.
//! `x86-64-v3` shows the signature of an Ice Lake server, which has all of its features and for which Linux knows
//! no erratum that IA32_ARCH_CAPABILITIES cannot rule out.

use super::feature::{Feature, FeatureSet};
use Feature::*;

/// A row of the model table.
pub struct ModelRow {
    /// The name on the command line.
    pub name: &'static str,
    /// Family that leaf 1 shows.
    pub family: u32,
    /// Model number that leaf 1 shows.
    pub model: u32,
    /// Stepping that leaf 1 shows.
    pub stepping: u32,
    /// Shown by leaves 80000002H…80000004H; at most 47 bytes.
    pub brand: &'static str,
    /// All features it has.
    pub features: FeatureSet,
}

/// What every 64-bit PC has.
const BASE: FeatureSet = FeatureSet::of(&[
    Fpu, Vme, De, Pse, Tsc, Msr, Pae, Mce, Cx8, Apic, Sep, Mtrr, Pge, Mca, Cmov, Pat, Pse36, Clflush, Mmx,
    Fxsr, Sse, Sse2, Syscall, Nx, Lm, LahfLm, Sse3, Cx16, Hypervisor,
]);

/// What spares the guest time and loops on this machine, whatever the model.
const MACHINE: FeatureSet = FeatureSet::of(&[X2apic, TscDeadline, TscAdjust, Invtsc, Arat]);

/// Supervisor features of the `x86-64-v*` models.
const SUPERVISOR: FeatureSet = FeatureSet::of(&[
    Pcid,
    Invpcid,
    Smep,
    Smap,
    Umip,
    Fsgsbase,
    Pdpe1gb,
    Rdtscp,
    Rdpid,
    Rdrand,
    Rdseed,
    Erms,
    Fsrm,
    Ss,
    ArchCapabilities,
    SpecCtrl,
    Stibp,
    Ssbd,
    BhiCtrl,
    PrefetchW,
]);

const NEHALEM: FeatureSet = BASE.and(FeatureSet::of(&[Ssse3, Sse41, Sse42, Popcnt]));
const SANDY_BRIDGE: FeatureSet =
    NEHALEM.and(FeatureSet::of(&[Aes, Pclmulqdq, Xsave, Xsaveopt, Avx, Rdtscp, X2apic, TscDeadline]));
const HASWELL: FeatureSet = SANDY_BRIDGE.and(FeatureSet::of(&[
    Fma, Movbe, Pcid, F16c, Rdrand, Fsgsbase, Bmi1, Avx2, Smep, Bmi2, Erms, Invpcid, Abm, ZeroFcsFds,
]));

/// All models, the default first.
pub static MODELS: &[ModelRow] = &[
    ModelRow {
        name: "x86-64-v3",
        family: 6,
        model: 106,
        stepping: 6,
        brand: "reprise x86-64-v3 CPU @ 2.00GHz",
        features: HASWELL.and(MACHINE).and(SUPERVISOR).and(FeatureSet::of(&[Adx, ShaNi])),
    },
    ModelRow {
        name: "x86-64-v2",
        family: 6,
        model: 106,
        stepping: 6,
        brand: "reprise x86-64-v2 CPU @ 2.00GHz",
        features: NEHALEM.and(MACHINE).and(SUPERVISOR),
    },
    ModelRow {
        name: "Haswell",
        family: 6,
        model: 60,
        stepping: 4,
        brand: "Intel Core Processor (Haswell, no TSX)",
        features: HASWELL.and(MACHINE),
    },
    ModelRow {
        name: "SandyBridge",
        family: 6,
        model: 42,
        stepping: 1,
        brand: "Intel Xeon E312xx (Sandy Bridge)",
        features: SANDY_BRIDGE.and(MACHINE),
    },
    ModelRow {
        name: "Nehalem",
        family: 6,
        model: 26,
        stepping: 3,
        brand: "Intel Core i7 9xx (Nehalem Class Core i7)",
        features: NEHALEM.and(MACHINE),
    },
    ModelRow {
        name: "qemu64",
        family: 6,
        model: 15,
        stepping: 11,
        brand: "QEMU Virtual CPU compatible (reprise)",
        features: BASE.and(MACHINE),
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_complete() {
        for row in MODELS {
            assert!(row.brand.len() < 48, "{}", row.name);
            for feature in row.features.iter() {
                for &need in feature.row().needs {
                    assert!(
                        row.features.has(need),
                        "{}: {} without {}",
                        row.name,
                        feature.name(),
                        need.name()
                    );
                }
            }
        }
    }

    /// The psABI levels (x86-64 psABI, table 3.1).
    #[test]
    fn levels_hold_what_the_abi_says() {
        let v2 = [Cx16, LahfLm, Popcnt, Sse3, Sse41, Sse42, Ssse3];
        let v3 = [Avx, Avx2, Bmi1, Bmi2, F16c, Fma, Abm, Movbe, Xsave];
        assert!(v2.iter().chain(&v3).all(|&f| MODELS[0].features.has(f)));
        assert!(v2.iter().all(|&f| MODELS[1].features.has(f)));
    }
}
