//! Generates the host code around one guest instruction.
//!
//! A thunk is `fn(&mut DataRegs, &mut Scratch)`: it loads the guest registers that the instruction uses into the
//! host registers of the same number, runs it, stores what it wrote. Two general registers that the instruction
//! does not use hold the two pointers; host RSP stays the host's, so guest RSP travels in another register.

#![expect(clippy::useless_conversion, reason = "dynasm! converts register numbers, of whatever type")]

use super::call::Scratch;
use super::plan::{Plan, Vectors};
use crate::state::DataRegs;
use dynasmrt::{DynasmApi, DynasmLabelApi, VecAssembler, dynasm, x64::X64Relocation};
use std::mem::offset_of;

const GPR: i32 = offset_of!(DataRegs, gpr) as i32;
const YMM: i32 = offset_of!(DataRegs, ymm) as i32;
const FX: i32 = offset_of!(DataRegs, fx) as i32;
const MXCSR: i32 = offset_of!(DataRegs, mxcsr) as i32;
const STATUS: i32 = offset_of!(DataRegs, status) as i32;

/// MXCSR that Rust code runs with.
const HOST_MXCSR: u32 = 0x1f80;

const RSP: u8 = 4;
const RSI: u8 = 6;
const RDI: u8 = 7;
/// RBX, RBP, R12…R15 (System V ABI 3.2.1).
const CALLEE_SAVED: u16 = 1 << 3 | 1 << 5 | 0xf << 12;
const SUBSTITUTES: [u8; 7] = [0, 1, 2, 8, 9, 10, 11];

/// Host registers with a role of their own in a thunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Roles {
    /// Points to `DataRegs`.
    pub data: u8,
    /// Points to `Scratch`, whose first bytes are the memory operand.
    pub scratch: u8,
    /// Stands for guest RSP.
    pub rsp: u8,
}

impl Roles {
    /// Picks registers that the instruction leaves alone. `None` when it uses too many.
    pub fn new(used: u16) -> Option<Roles> {
        let mut taken = used;
        let mut pick = |candidates: &[u8]| {
            let found = candidates.iter().copied().find(|&r| taken & 1 << r == 0)?;
            taken |= 1 << found;
            Some(found)
        };
        // The pointers arrive in RDI and RSI: neither may be the other's new home.
        let data = pick(&[RDI, 8, 9, 10, 11])?;
        let scratch = pick(&[RSI, 8, 9, 10, 11])?;
        let rsp = if used & 1 << RSP != 0 { pick(&SUBSTITUTES)? } else { RSP };
        Some(Roles { data, scratch, rsp })
    }

    /// Host register that holds guest register `number`.
    pub fn host(&self, number: u8) -> u8 {
        if number == RSP { self.rsp } else { number }
    }
}

/// Host code for an encoded instruction whose operands already name the host registers of `roles`.
pub(super) fn emit(plan: &Plan, roles: &Roles, instruction: &[u8]) -> Option<Vec<u8>> {
    let mut code = VecAssembler::<X64Relocation>::new(0);
    let (data, scratch) = (roles.data, roles.scratch);
    for register in bits(plan.gpr_used & CALLEE_SAVED) {
        dynasm!(code ; .arch x64 ; push Rq(register));
    }
    if data != RDI {
        dynasm!(code ; .arch x64 ; mov Rq(data), rdi);
    }
    if scratch != RSI {
        dynasm!(code ; .arch x64 ; mov Rq(scratch), rsi);
    }
    load(&mut code, plan, roles);
    code.extend(instruction);
    store(&mut code, plan, roles);
    for register in bits(plan.gpr_used & CALLEE_SAVED).rev() {
        dynasm!(code ; .arch x64 ; pop Rq(register));
    }
    dynasm!(code ; .arch x64 ; ret);
    if plan.mxcsr || plan.fpu {
        dynasm!(code ; .arch x64 ; .align 4 ; host_mxcsr: ; .u32 HOST_MXCSR);
    }
    code.finalize().ok()
}

fn load(code: &mut VecAssembler<X64Relocation>, plan: &Plan, roles: &Roles) {
    let data = roles.data;
    if plan.fpu {
        // Also loads XMM registers and MXCSR, so it comes first.
        dynasm!(code ; .arch x64 ; fxrstor64 [Rq(data) + FX]);
    }
    for register in bits(plan.vector_used) {
        let at = YMM + 32 * i32::from(register);
        match plan.vectors {
            Vectors::Legacy => dynasm!(code ; .arch x64 ; movaps Rx(register), [Rq(data) + at]),
            Vectors::Vex128 => dynasm!(code ; .arch x64 ; vmovaps Rx(register), [Rq(data) + at]),
            Vectors::Vex256 => dynasm!(code ; .arch x64 ; vmovaps Ry(register), [Rq(data) + at]),
        }
    }
    if plan.mxcsr {
        dynasm!(code ; .arch x64 ; ldmxcsr [Rq(data) + MXCSR]);
    }
    if plan.flags_in {
        dynasm!(code ; .arch x64 ; movzx eax, WORD [Rq(data) + STATUS] ; add al, 127 ; sahf);
    }
    for register in bits(plan.gpr_used) {
        let at = GPR + 8 * i32::from(register);
        dynasm!(code ; .arch x64 ; mov Rq(roles.host(register)), [Rq(data) + at]);
    }
}

fn store(code: &mut VecAssembler<X64Relocation>, plan: &Plan, roles: &Roles) {
    let data = roles.data;
    for register in bits(plan.gpr_written) {
        let at = GPR + 8 * i32::from(register);
        dynasm!(code ; .arch x64 ; mov [Rq(data) + at], Rq(roles.host(register)));
    }
    if plan.flags_out {
        let defined = i32::from(plan.flags_defined);
        dynasm!(code ; .arch x64 ; lahf ; seto al ; and eax, defined ; mov [Rq(data) + STATUS], ax);
    }
    if plan.mxcsr {
        dynasm!(code ; .arch x64 ; stmxcsr [Rq(data) + MXCSR]);
    }
    for register in bits(plan.vector_written) {
        let at = YMM + 32 * i32::from(register);
        match plan.vectors {
            Vectors::Legacy => dynasm!(code ; .arch x64 ; movaps [Rq(data) + at], Rx(register)),
            Vectors::Vex128 | Vectors::Vex256 => {
                dynasm!(code ; .arch x64 ; vmovaps [Rq(data) + at], Ry(register))
            }
        }
    }
    if plan.fpu {
        // FNINIT leaves the empty x87 stack that Rust code expects, and nothing pending.
        dynasm!(code ; .arch x64 ; fxsave64 [Rq(roles.scratch) + Scratch::FX] ; fninit);
    }
    if plan.mxcsr || plan.fpu {
        dynasm!(code ; .arch x64 ; ldmxcsr [>host_mxcsr]);
    }
    if plan.vectors != Vectors::Legacy && plan.vector_used != 0 {
        // Host code mixes in legacy SSE, which is slow while upper halves are in use.
        dynasm!(code ; .arch x64 ; vzeroupper);
    }
}

/// Numbers of the set bits, in order.
fn bits(mask: u16) -> impl DoubleEndedIterator<Item = u8> {
    (0..16u8).filter(move |&bit| mask & 1 << bit != 0)
}
