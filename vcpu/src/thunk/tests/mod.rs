//! Thunks run on plain register files, compared with the host and with the manual; coverage of all codes.

mod host_environment;
mod host_x87;
mod with_core;

use super::*;
use crate::isa::Op;
use crate::state::Status;
use iced_x86::{Code, CpuidFeature, Decoder, DecoderOptions, EncodingKind, OpCodeOperandKind};

fn thunks() -> Thunks {
    Thunks::new().expect("the host gives memory for code")
}

fn instruction(bytes: &[u8]) -> Instruction {
    Decoder::with_ip(64, bytes, 0, DecoderOptions::NONE).decode()
}

fn unused_op() -> Op {
    Op {
        run: |_, _| Ok(()),
        imm: 0,
        disp: 0,
        base: 0,
        index: 0,
        scale: 0,
        segment: 0,
        reg: 0,
        rm: 0,
        vvvv: 0,
        size: 0,
        offset: 0,
        length: 0,
        flags: 0,
        address_size: 8,
        checked_segment: 0,
        aux: 0,
    }
}

/// Registers with recognisable contents.
fn registers() -> DataRegs {
    let mut data = DataRegs::reset();
    for i in 0..16 {
        data.gpr[i] = 0x1111_0000_0000_0000 + i as u64 * 0x0101_0101;
        for j in 0..4 {
            data.ymm[i][j] = (i as u64 + 1) << 56 | (j as u64) << 8 | 0x5a;
        }
    }
    data
}

/// Runs one instruction natively on `data` and a memory operand.
fn run(bytes: &[u8], data: &mut DataRegs, memory: &mut [u64; 4]) {
    let mut thunks = thunks();
    let (id, _) = thunks.native(&instruction(bytes)).expect("can run natively");
    let thunk = thunks.thunk(id);
    thunks.scratch.memory[..4].copy_from_slice(memory);
    thunks.enter(&thunk, data);
    if thunk.fpu {
        super::fpu::commit(&mut data.fx, &thunks.scratch.fx);
    }
    memory.copy_from_slice(&thunks.scratch.memory[..4]);
}

#[test]
fn legacy_keeps_and_vex_clears_the_upper_half() {
    let mut data = registers();
    let before = data.clone();
    run(&[0x66, 0x0f, 0xfe, 0xca], &mut data, &mut [0; 4]); // paddd xmm1, xmm2
    assert_eq!(data.ymm[1][2..], before.ymm[1][2..]);
    assert_ne!(data.ymm[1][0], before.ymm[1][0]);
    run(&[0xc5, 0xf1, 0xfe, 0xca], &mut data, &mut [0; 4]); // vpaddd xmm1, xmm1, xmm2
    assert_eq!(data.ymm[1][2..], [0, 0]);
    run(&[0xc5, 0xed, 0xef, 0xcb], &mut data, &mut [0; 4]); // vpxor ymm1, ymm2, ymm3
    let expected: [u64; 4] = std::array::from_fn(|i| before.ymm[2][i] ^ before.ymm[3][i]);
    assert_eq!(data.ymm[1], expected);
    assert_eq!(data.ymm[2..], before.ymm[2..]);
    assert_eq!(data.gpr, before.gpr);
}

#[test]
fn memory_operands_go_through_scratch() {
    let mut data = registers();
    let mut memory = [1, 2, 3, 4];
    run(&[0x66, 0x44, 0x0f, 0xd4, 0x4d, 0x10], &mut data, &mut memory); // paddq xmm9, [rbp+16]
    let before = registers();
    assert_eq!(data.ymm[9][..2], [before.ymm[9][0] + 1, before.ymm[9][1] + 2]);
    run(&[0xc4, 0xe3, 0x7d, 0x39, 0x14, 0xbe, 1], &mut data, &mut memory); // vextracti128 [rsi+rdi*4], ymm2, 1
    assert_eq!(memory[..2], before.ymm[2][2..]);
}

#[test]
fn every_general_register_can_be_an_operand() {
    for number in 0..16u8 {
        let mut data = registers();
        data.gpr[usize::from(number)] = 0xf0f0;
        // popcnt r, r; then movq xmm3, r.
        let rex = 0x48 | number >> 3 | number >> 3 << 2;
        let modrm = 0xc0 | (number & 7) << 3 | number & 7;
        run(&[0xf3, rex, 0x0f, 0xb8, modrm], &mut data, &mut [0; 4]);
        let mut expected = registers();
        expected.gpr[usize::from(number)] = 8;
        assert_eq!(data.gpr, expected.gpr, "register {number}");
        run(&[0x66, 0x48 | number >> 3, 0x0f, 0x6e, 0xd8 | number & 7], &mut data, &mut [0; 4]);
        assert_eq!(data.ymm[3][..2], [8, 0], "register {number}");
    }
}

#[test]
fn flags_go_in_and_out() {
    let mut data = registers();
    data.status = Status(Status::CF | Status::OF | Status::ZF);
    (data.gpr[0], data.gpr[3]) = (u64::MAX, 0);
    run(&[0x66, 0x48, 0x0f, 0x38, 0xf6, 0xc3], &mut data, &mut [0; 4]); // adcx rax, rbx
    assert_eq!(data.gpr[0], 0);
    assert_eq!(data.status, Status(Status::CF | Status::OF | Status::ZF));
    run(&[0xf3, 0x48, 0x0f, 0x38, 0xf6, 0xc3], &mut data, &mut [0; 4]); // adox rax, rbx
    assert_eq!(data.gpr[0], 1);
    assert_eq!(data.status, Status(Status::CF | Status::ZF));
    run(&[0xf3, 0x48, 0x0f, 0xbc, 0xc3], &mut data, &mut [0; 4]); // tzcnt rax, rbx: undefined flags clear
    assert_eq!((data.gpr[0], data.status), (64, Status(Status::CF)));
    data.ymm[0] = [0; 4];
    run(&[0x66, 0x0f, 0x38, 0x17, 0xc0], &mut data, &mut [0; 4]); // ptest xmm0, xmm0
    assert_eq!(data.status, Status(Status::CF | Status::ZF));
}

#[test]
fn mxcsr_is_the_guests() {
    let mut data = registers();
    data.mxcsr = 0x5f80; // Round up.
    data.ymm[0][0] = 1f64.to_bits();
    data.ymm[1][0] = 3f64.to_bits();
    run(&[0xf2, 0x0f, 0x5e, 0xc1], &mut data, &mut [0; 4]); // divsd xmm0, xmm1
    assert_eq!(data.ymm[0][0], (1f64 / 3.0).to_bits() + 1);
    assert_eq!(data.mxcsr, 0x5fa0);
    assert_eq!((1f64 / std::hint::black_box(3.0)).to_bits(), (1f64 / 3.0).to_bits());
}

#[test]
fn x87_state_moves_through_the_image() {
    let mut data = registers();
    super::fpu::initialise(&mut data.fx);
    run(&[0xd9, 0xeb], &mut data, &mut [0; 4]); // fldpi
    assert_eq!(super::fpu::top(&data.fx), 7);
    assert_eq!(super::fpu::register(&data.fx, 0).significand, 0xc90f_daa2_2168_c235);
    assert!(data.fx.0[6..32].iter().all(|&byte| byte == 0));
    assert!(data.fx.0[160..].iter().all(|&byte| byte == 0));
    let mut memory = [0; 4];
    run(&[0xdd, 0x18], &mut data, &mut memory); // fstp qword [rax]
    assert_eq!(f64::from_bits(memory[0]), std::f64::consts::PI);
    run(&[0xdf, 0xf1], &mut data, &mut [0; 4]); // fcomip st0, st1: stack underflow, unordered
    assert_eq!(data.status, Status(Status::ZF | Status::PF | Status::CF));
    let before = registers();
    assert_eq!(data.ymm, before.ymm);
}

#[test]
fn mmx_shares_the_x87_registers() {
    let mut data = registers();
    data.gpr[0] = 0x1234_5678;
    run(&[0x0f, 0x6e, 0xd0], &mut data, &mut [0; 4]); // movd mm2, eax
    run(&[0xf3, 0x0f, 0xd6, 0xc2], &mut data, &mut [0; 4]); // movq2dq xmm0, mm2
    assert_eq!(data.ymm[0], [0x1234_5678, 0, registers().ymm[0][2], registers().ymm[0][3]]);
    assert_eq!(super::fpu::tags(&data.fx), 0xff);
    run(&[0x0f, 0x77], &mut data, &mut [0; 4]); // emms
    assert_eq!(super::fpu::tags(&data.fx), 0);
}

#[test]
fn equal_instructions_share_a_thunk() {
    let mut thunks = thunks();
    let mut id = |bytes: &[u8]| thunks.native(&instruction(bytes)).expect("can run natively").0;
    let first = id(&[0x66, 0x0f, 0xef, 0x07]); // pxor xmm0, [rdi]
    assert_eq!(id(&[0x66, 0x0f, 0xef, 0x44, 0x8b, 0x40]), first);
    assert_eq!(id(&[0x65, 0x66, 0x0f, 0xef, 0x05, 1, 2, 3, 4]), first);
    assert_ne!(id(&[0x66, 0x0f, 0xef, 0x0f]), first);
    // popcnt rax, rsp runs as popcnt rax, rcx, which is another instruction.
    let substituted = id(&[0xf3, 0x48, 0x0f, 0xb8, 0xc4]);
    assert_ne!(id(&[0xf3, 0x48, 0x0f, 0xb8, 0xc1]), substituted);
}

#[test]
fn room_is_made_by_forgetting_everything() {
    let mut thunks = thunks();
    assert!(!thunks.make_room());
    let pxor = instruction(&[0x66, 0x0f, 0xef, 0xc1]);
    thunks.native(&pxor).expect("can run natively");
    while thunks.cache.room() >= BLOCK_RESERVE {
        thunks.cache.push(&[0xc3; 4096]).expect("there is room");
    }
    assert!(thunks.make_room());
    assert!(thunks.is_empty());
    thunks.native(&pxor).expect("can run natively");
    assert_eq!(thunks.len(), 1);
}

/// Features that the offered models have and that this module serves.
fn is_served(feature: CpuidFeature) -> bool {
    use CpuidFeature::*;
    matches!(
        feature,
        ADX | AES
            | AVX
            | AVX2
            | BMI1
            | BMI2
            | CLFLUSHOPT
            | CLFSH
            | CLWB
            | CMOV
            | F16C
            | FMA
            | FPU
            | FPU287
            | FPU387
            | FXSR
            | LZCNT
            | MMX
            | PAUSE
            | PCLMULQDQ
            | POPCNT
            | PREFETCHW
            | SHA
            | SSE
            | SSE2
            | SSE3
            | SSE4_1
            | SSE4_2
            | SSSE3
            | XSAVE
            | XSAVEC
            | XSAVEOPT
    )
}

/// An instruction of this code: register 1, 2, 3… or memory as `memory` says.
fn example(code: Code, memory: bool) -> Option<Instruction> {
    let mut instruction = Instruction::new();
    instruction.set_code(code);
    let op_code = code.op_code();
    for i in 0..op_code.op_count() {
        use OpCodeOperandKind::*;
        let register = match op_code.op_kind(i) {
            r32_reg | r32_vvvv => Register::ECX + i,
            r64_reg | r64_vvvv => Register::RCX + i,
            r16_reg => Register::CX,
            mm_reg | mm_rm => Register::MM1 + i,
            xmm_reg | xmm_vvvv | xmm_rm | xmm_is4 => Register::XMM1 + i,
            ymm_reg | ymm_vvvv | ymm_rm | ymm_is4 => Register::YMM1 + i,
            r32_or_mem | r32_rm if !memory => Register::ECX + i,
            r64_or_mem | r64_rm if !memory => Register::RCX + i,
            r16_or_mem if !memory => Register::CX,
            r8_or_mem if !memory => Register::CL,
            mm_or_mem if !memory => Register::MM1 + i,
            xmm_or_mem if !memory => Register::XMM1 + i,
            ymm_or_mem if !memory => Register::YMM1 + i,
            st0 => Register::ST0,
            sti_opcode => Register::ST1,
            ax => Register::AX,
            mem | mem_offs | r32_or_mem | r64_or_mem | r16_or_mem | r8_or_mem | mm_or_mem | xmm_or_mem
            | ymm_or_mem => {
                instruction.set_op_kind(i, OpKind::Memory);
                instruction.set_memory_base(Register::RBX);
                continue;
            }
            mem_vsib32x | mem_vsib64x | mem_vsib32y | mem_vsib64y => {
                instruction.set_op_kind(i, OpKind::Memory);
                instruction.set_memory_base(Register::RBX);
                let wide = matches!(op_code.op_kind(i), mem_vsib32y | mem_vsib64y);
                instruction.set_memory_index(if wide { Register::YMM7 } else { Register::XMM7 });
                continue;
            }
            imm8 => {
                instruction.set_op_kind(i, OpKind::Immediate8);
                continue;
            }
            seg_rDI => {
                instruction.set_op_kind(i, OpKind::MemorySegRDI);
                continue;
            }
            _ => return Option::None,
        };
        instruction.set_op_kind(i, OpKind::Register);
        instruction.set_op_register(i, register);
    }
    Some(instruction)
}

/// Codes that another part of the CPU serves, or that the decoder never yields.
fn is_elsewhere(code: Code) -> bool {
    use Code::*;
    let text = format!("{code:?}");
    let integer = ["Cmov", "Xgetbv", "Xsetbv", "Movbe", "Crc32"]
        .iter()
        .any(|prefix| text.starts_with(prefix) && *prefix != "Crc32");
    // The "wait" forms are FWAIT and the plain form; the numbered fences and reserved prefetches are aliases.
    let aliases = matches!(
        code,
        Fstenv_m14byte
            | Fstenv_m28byte
            | Fsave_m94byte
            | Fsave_m108byte
            | Fstcw_m2byte
            | Fstsw_m2byte
            | Fstsw_AX
            | Finit
            | Fclex
            | Feni
            | Fdisi
            | Fsetpm
            | Fstdw_AX
            | Fstsg_AX
            | Fnstdw_AX
            | Fnstsg_AX
            | Frstpm
    );
    integer || aliases
}

#[test]
fn every_served_code_decodes() {
    let mut thunks = thunks();
    let mut missing = Vec::new();
    let (mut native, mut rust) = (0, 0);
    for code in Code::values() {
        let encoding = code.op_code().encoding();
        let offered = matches!(encoding, EncodingKind::Legacy | EncodingKind::VEX)
            && code.op_code().is_instruction()
            && code.cpuid_features().iter().all(|&feature| is_served(feature));
        if !offered || is_elsewhere(code) {
            continue;
        }
        for memory in [false, true] {
            let Some(instruction) = example(code, memory) else {
                missing.push(format!("{code:?}: no example"));
                continue;
            };
            let before = thunks.len();
            if !thunks.decode(&instruction, &mut unused_op()) {
                missing.push(format!("{code:?} memory={memory}"));
            } else if thunks.len() > before {
                native += 1;
            } else {
                rust += 1;
            }
        }
    }
    missing.sort();
    missing.dedup();
    println!("{native} native thunks, {rust} in Rust or shared");
    assert!(missing.is_empty(), "{} not handled:\n{}", missing.len(), missing.join("\n"));
}
