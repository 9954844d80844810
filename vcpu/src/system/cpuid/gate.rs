//! Which instructions a model has, by the features iced names.

use super::Model;
use super::feature::Feature;
use iced_x86::{Code, CpuidFeature};

/// What an instruction of one of iced's features needs of a model.
enum Need {
    Always,
    Feature(Feature),
}

use Need::{Always, Feature as Has};

/// iced features that some model has. Any other one raises #UD.
const NEEDS: &[(CpuidFeature, Need)] = &[
    (CpuidFeature::INTEL8086, Always),
    (CpuidFeature::INTEL186, Always),
    (CpuidFeature::INTEL286, Always),
    (CpuidFeature::INTEL386, Always),
    (CpuidFeature::INTEL486, Always),
    (CpuidFeature::CPUID, Always),
    (CpuidFeature::PAUSE, Always),
    (CpuidFeature::MULTIBYTENOP, Always),
    (CpuidFeature::RDPMC, Always),
    // WBNOINVD is WBINVD to CPUs that do not know it: the prefix is ignored.
    (CpuidFeature::WBNOINVD, Always),
    // On Intel CPUs 0F 0D is a no-operation where PREFETCHW is not offered.
    (CpuidFeature::PREFETCHW, Always),
    (CpuidFeature::X64, Has(Feature::Lm)),
    (CpuidFeature::FPU, Has(Feature::Fpu)),
    (CpuidFeature::FPU287, Has(Feature::Fpu)),
    (CpuidFeature::FPU387, Has(Feature::Fpu)),
    (CpuidFeature::MSR, Has(Feature::Msr)),
    (CpuidFeature::TSC, Has(Feature::Tsc)),
    (CpuidFeature::CX8, Has(Feature::Cx8)),
    (CpuidFeature::SEP, Has(Feature::Sep)),
    (CpuidFeature::CMOV, Has(Feature::Cmov)),
    (CpuidFeature::CLFSH, Has(Feature::Clflush)),
    (CpuidFeature::MMX, Has(Feature::Mmx)),
    (CpuidFeature::FXSR, Has(Feature::Fxsr)),
    (CpuidFeature::SSE, Has(Feature::Sse)),
    (CpuidFeature::SSE2, Has(Feature::Sse2)),
    (CpuidFeature::SSE3, Has(Feature::Sse3)),
    (CpuidFeature::SSSE3, Has(Feature::Ssse3)),
    (CpuidFeature::SSE4_1, Has(Feature::Sse41)),
    (CpuidFeature::SSE4_2, Has(Feature::Sse42)),
    (CpuidFeature::PCLMULQDQ, Has(Feature::Pclmulqdq)),
    (CpuidFeature::AES, Has(Feature::Aes)),
    (CpuidFeature::SHA, Has(Feature::ShaNi)),
    (CpuidFeature::FMA, Has(Feature::Fma)),
    (CpuidFeature::AVX, Has(Feature::Avx)),
    (CpuidFeature::AVX2, Has(Feature::Avx2)),
    (CpuidFeature::F16C, Has(Feature::F16c)),
    (CpuidFeature::CMPXCHG16B, Has(Feature::Cx16)),
    (CpuidFeature::MOVBE, Has(Feature::Movbe)),
    (CpuidFeature::POPCNT, Has(Feature::Popcnt)),
    (CpuidFeature::LZCNT, Has(Feature::Abm)),
    (CpuidFeature::BMI1, Has(Feature::Bmi1)),
    (CpuidFeature::BMI2, Has(Feature::Bmi2)),
    (CpuidFeature::ADX, Has(Feature::Adx)),
    (CpuidFeature::XSAVE, Has(Feature::Xsave)),
    (CpuidFeature::XSAVEOPT, Has(Feature::Xsaveopt)),
    (CpuidFeature::RDRAND, Has(Feature::Rdrand)),
    (CpuidFeature::RDSEED, Has(Feature::Rdseed)),
    (CpuidFeature::RDPID, Has(Feature::Rdpid)),
    (CpuidFeature::RDTSCP, Has(Feature::Rdtscp)),
    (CpuidFeature::FSGSBASE, Has(Feature::Fsgsbase)),
    (CpuidFeature::INVPCID, Has(Feature::Invpcid)),
    (CpuidFeature::SMAP, Has(Feature::Smap)),
    (CpuidFeature::SYSCALL, Has(Feature::Syscall)),
];

impl Model {
    /// Whether instructions of this feature exist. A code needs all of its `cpuid_features()`.
    pub fn allows(&self, feature: CpuidFeature) -> bool {
        match NEEDS.iter().find(|(name, _)| *name == feature) {
            Some((_, Need::Always)) => true,
            Some((_, Need::Feature(needed))) => self.has(*needed),
            None => false,
        }
    }

    /// Whether the model has every feature that an instruction needs; if not it raises #UD.
    pub fn allows_code(&self, code: Code) -> bool {
        code.cpuid_features().iter().all(|&feature| self.allows(feature))
    }

    /// The code that an encoding has on this model: CPUs without TZCNT or LZCNT ignore the prefix that makes them.
    pub fn plain_code(&self, code: Code) -> Code {
        let (feature, other) = match code {
            Code::Tzcnt_r16_rm16 => (Feature::Bmi1, Code::Bsf_r16_rm16),
            Code::Tzcnt_r32_rm32 => (Feature::Bmi1, Code::Bsf_r32_rm32),
            Code::Tzcnt_r64_rm64 => (Feature::Bmi1, Code::Bsf_r64_rm64),
            Code::Lzcnt_r16_rm16 => (Feature::Abm, Code::Bsr_r16_rm16),
            Code::Lzcnt_r32_rm32 => (Feature::Abm, Code::Bsr_r32_rm32),
            Code::Lzcnt_r64_rm64 => (Feature::Abm, Code::Bsr_r64_rm64),
            _ => return code,
        };
        if self.has(feature) { code } else { other }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str) -> Model {
        Model::named(name).expect("a model")
    }

    #[test]
    fn hidden_features_are_undefined() {
        let v3 = model("x86-64-v3");
        assert!(v3.allows_code(Code::VEX_Vpaddd_ymm_ymm_ymmm256));
        assert!(!v3.allows_code(Code::EVEX_Vpaddd_zmm_k1z_zmm_zmmm512b32));
        assert!(!v3.allows_code(Code::Vmcall));
        assert!(!v3.allows_code(Code::Mwait));
        assert!(!model("x86-64-v2").allows_code(Code::VEX_Vpaddd_xmm_xmm_xmmm128));
        assert!(model("x86-64-v2").allows_code(Code::Pcmpistri_xmm_xmmm128_imm8));
        assert!(!model("qemu64").allows_code(Code::Pshufb_xmm_xmmm128));
    }

    #[test]
    fn missing_prefixed_codes_fall_back() {
        assert_eq!(model("Nehalem").plain_code(Code::Tzcnt_r32_rm32), Code::Bsf_r32_rm32);
        assert_eq!(model("Haswell").plain_code(Code::Tzcnt_r32_rm32), Code::Tzcnt_r32_rm32);
    }
}
