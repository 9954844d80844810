//! Which memory operands must be aligned, else #GP(0) (SDM 2A table 2-22 ff., SDM 1 4.1.1).

use iced_x86::{Code, Instruction};

/// Address bits that must be zero for the memory operand of `size` bytes.
pub(super) fn mask(instruction: &Instruction, vex: bool, size: u8) -> u8 {
    let aligned = match (vex, size) {
        (false, 16) => !is_unaligned_legacy(instruction.code()),
        (true, 16 | 32) => is_aligned_vex(instruction.code()),
        _ => false,
    };
    if aligned { size - 1 } else { 0 }
}

/// Legacy instructions with a 128-bit operand anywhere in memory.
fn is_unaligned_legacy(code: Code) -> bool {
    use Code::*;
    matches!(
        code,
        Movups_xmm_xmmm128
            | Movups_xmmm128_xmm
            | Movupd_xmm_xmmm128
            | Movupd_xmmm128_xmm
            | Movdqu_xmm_xmmm128
            | Movdqu_xmmm128_xmm
            | Lddqu_xmm_m128
            | Pcmpestri_xmm_xmmm128_imm8
            | Pcmpestri64_xmm_xmmm128_imm8
            | Pcmpestrm_xmm_xmmm128_imm8
            | Pcmpestrm64_xmm_xmmm128_imm8
            | Pcmpistri_xmm_xmmm128_imm8
            | Pcmpistrm_xmm_xmmm128_imm8
    )
}

/// VEX instructions whose operand must be aligned to its size.
fn is_aligned_vex(code: Code) -> bool {
    use Code::*;
    matches!(
        code,
        VEX_Vmovaps_xmm_xmmm128
            | VEX_Vmovaps_ymm_ymmm256
            | VEX_Vmovaps_xmmm128_xmm
            | VEX_Vmovaps_ymmm256_ymm
            | VEX_Vmovapd_xmm_xmmm128
            | VEX_Vmovapd_ymm_ymmm256
            | VEX_Vmovapd_xmmm128_xmm
            | VEX_Vmovapd_ymmm256_ymm
            | VEX_Vmovdqa_xmm_xmmm128
            | VEX_Vmovdqa_ymm_ymmm256
            | VEX_Vmovdqa_xmmm128_xmm
            | VEX_Vmovdqa_ymmm256_ymm
            | VEX_Vmovntps_m128_xmm
            | VEX_Vmovntps_m256_ymm
            | VEX_Vmovntpd_m128_xmm
            | VEX_Vmovntpd_m256_ymm
            | VEX_Vmovntdq_m128_xmm
            | VEX_Vmovntdq_m256_ymm
            | VEX_Vmovntdqa_xmm_m128
            | VEX_Vmovntdqa_ymm_m256
    )
}
