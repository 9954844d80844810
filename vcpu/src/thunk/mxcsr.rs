//! Which instructions obey MXCSR (rounding, DAZ, FTZ) or set its exception flags (SDM 1 11.5, 14.9).

use iced_x86::{CpuidFeature, Instruction, Mnemonic};

/// True when the thunk must run with the guest's MXCSR.
pub(super) fn uses_mxcsr(instruction: &Instruction) -> bool {
    let features = instruction.cpuid_features();
    features.contains(&CpuidFeature::FMA)
        || features.contains(&CpuidFeature::F16C)
        || is_arithmetic(instruction.mnemonic())
        || is_conversion(instruction.mnemonic())
}

/// Arithmetic and comparison. DPPD, HADDPS and the like included; moves, logic and shuffles not.
#[rustfmt::skip]
fn is_arithmetic(mnemonic: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        mnemonic,
        Addpd | Addps | Addsd | Addss | Addsubpd | Addsubps | Cmppd | Cmpps | Cmpsd | Cmpss | Comisd
            | Comiss | Divpd | Divps | Divsd | Divss | Dppd | Dpps | Haddpd | Haddps | Hsubpd | Hsubps
            | Maxpd | Maxps | Maxsd | Maxss | Minpd | Minps | Minsd | Minss | Mulpd | Mulps | Mulsd | Mulss
            | Roundpd | Roundps | Roundsd | Roundss | Sqrtpd | Sqrtps | Sqrtsd | Sqrtss | Subpd | Subps
            | Subsd | Subss | Ucomisd | Ucomiss | Vaddpd | Vaddps | Vaddsd | Vaddss | Vaddsubpd | Vaddsubps
            | Vcmppd | Vcmpps | Vcmpsd | Vcmpss | Vcomisd | Vcomiss | Vdivpd | Vdivps | Vdivsd | Vdivss
            | Vdppd | Vdpps | Vhaddpd | Vhaddps | Vhsubpd | Vhsubps | Vmaxpd | Vmaxps | Vmaxsd | Vmaxss
            | Vminpd | Vminps | Vminsd | Vminss | Vmulpd | Vmulps | Vmulsd | Vmulss | Vroundpd | Vroundps
            | Vroundsd | Vroundss | Vsqrtpd | Vsqrtps | Vsqrtsd | Vsqrtss | Vsubpd | Vsubps | Vsubsd
            | Vsubss | Vucomisd | Vucomiss
    )
}

/// Conversions from, to or between floating-point formats.
#[rustfmt::skip]
fn is_conversion(mnemonic: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        mnemonic,
        Cvtdq2ps | Cvtpd2dq | Cvtpd2ps | Cvtps2dq | Cvtps2pd | Cvtsd2si | Cvtsd2ss | Cvtsi2sd | Cvtsi2ss
            | Cvtss2sd | Cvtss2si | Cvttpd2dq | Cvttps2dq | Cvttsd2si | Cvttss2si | Vcvtdq2ps | Vcvtpd2dq
            | Vcvtpd2ps | Vcvtps2dq | Vcvtps2pd | Vcvtsd2si | Vcvtsd2ss | Vcvtsi2sd | Vcvtsi2ss | Vcvtss2sd
            | Vcvtss2si | Vcvttpd2dq | Vcvttps2dq | Vcvttsd2si | Vcvttss2si | Cvtpd2pi | Cvtpi2pd
            | Cvtpi2ps | Cvtps2pi | Cvttpd2pi | Cvttps2pi
    )
}
