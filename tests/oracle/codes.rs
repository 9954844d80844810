//! Which codes are tested here, in which group, and why others are not.

use iced_x86::{Code, CpuidFeature, EncodingKind, FlowControl, Instruction, Mnemonic};
use tests::state::CodeSize;
use vcpu::system::cpuid::Model;

/// A group of codes that one test covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    Integer,
    X87,
    /// MMX and legacy SSE.
    Sse,
    Avx,
}

/// All codes of a group that the model offers in code of this size and that can be compared.
pub fn of(group: Group, size: CodeSize, model: &Model) -> Vec<Code> {
    let chosen = |code: &Code| {
        let info = code.op_code();
        let mode = match size {
            CodeSize::Bits64 => info.intel_decoder64(),
            CodeSize::Bits32 => info.intel_decoder32() && !info.intel_decoder64(),
        };
        info.is_instruction()
            && mode
            && model.allows_code(*code)
            && group_of(*code) == group
            && !excluded(*code)
    };
    Code::values().filter(chosen).collect()
}

fn group_of(code: Code) -> Group {
    use CpuidFeature::*;
    let features = code.cpuid_features();
    let has = |list: &[CpuidFeature]| features.iter().any(|feature| list.contains(feature));
    if has(&[FPU, FPU287, FPU387]) {
        Group::X87
    } else if code.op_code().encoding() == EncodingKind::VEX && !has(&[BMI1, BMI2]) {
        Group::Avx
    } else if has(&[MMX, SSE, SSE2, SSE3, SSSE3, SSE4_1, SSE4_2, PCLMULQDQ, AES, SHA]) {
        Group::Sse
    } else {
        Group::Integer
    }
}

/// Codes that no comparison with the host can cover.
fn excluded(code: Code) -> bool {
    use Mnemonic::*;
    // Their operands are registers that only ring 0 has.
    let system_registers = matches!(
        code,
        Code::Mov_r32_cr
            | Code::Mov_r64_cr
            | Code::Mov_r32_dr
            | Code::Mov_r64_dr
            | Code::Mov_r32_tr
            | Code::Mov_cr_r32
            | Code::Mov_cr_r64
            | Code::Mov_dr_r32
            | Code::Mov_dr_r64
            | Code::Mov_tr_r32
    );
    let machine_specific = matches!(
        code.mnemonic(),
        Cpuid | Rdtsc | Rdtscp | Rdpid | Rdpmc | Rdrand | Rdseed | Xgetbv
        // The host's kernel emulates them under UMIP; descriptor tables differ.
        | Sgdt | Sidt | Sldt | Str | Smsw | Lar | Lsl | Verr | Verw
    );
    // Sizes and layouts follow XCR0, which differs; they have tests of their own.
    let saves_state = matches!(
        code.mnemonic(),
        Xsave
            | Xsave64
            | Xsaveopt
            | Xsaveopt64
            | Xsavec
            | Xsavec64
            | Xrstor
            | Xrstor64
            | Fxsave
            | Fxsave64
            | Fxrstor
            | Fxrstor64
    );
    // iced counts WAIT and what follows it as one instruction; it is two.
    let begins_with_wait = matches!(
        code.mnemonic(),
        Feni | Fdisi | Fclex | Finit | Fsetpm | Fstenv | Fstcw | Fsave | Fstsw | Fstdw | Fstsg
    );
    // They would enter the host's kernel or leave the code page.
    let enters_kernel = matches!(
        code.mnemonic(),
        Syscall
            | Sysenter
            | Sysret
            | Sysretq
            | Sysexit
            | Sysexitq
            | Int
            | Int1
            | Int3
            | Into
            | Iret
            | Iretd
            | Iretq
    );
    begins_with_wait
        || system_registers
        || machine_specific
        || saves_state
        || enters_kernel
        || leaves_code(code)
        || loads_segment(code)
}

/// Indirect and far transfers.
fn leaves_code(code: Code) -> bool {
    let mut instruction = Instruction::default();
    instruction.set_code(code);
    matches!(
        instruction.flow_control(),
        FlowControl::IndirectBranch | FlowControl::IndirectCall | FlowControl::Return
    ) || instruction.is_jmp_far()
        || instruction.is_call_far()
}

/// Loads of a segment register: selectors name different descriptors.
fn loads_segment(code: Code) -> bool {
    use Code::*;
    matches!(code.mnemonic(), Mnemonic::Lds | Mnemonic::Les | Mnemonic::Lss | Mnemonic::Lfs | Mnemonic::Lgs)
        || matches!(
            code,
            Mov_Sreg_rm16
                | Mov_Sreg_r32m16
                | Mov_Sreg_r64m16
                | Popw_ES
                | Popd_ES
                | Popw_CS
                | Popw_SS
                | Popd_SS
                | Popw_DS
                | Popd_DS
                | Popw_FS
                | Popd_FS
                | Popq_FS
                | Popw_GS
                | Popd_GS
                | Popq_GS
        )
}
