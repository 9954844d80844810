//! Where two CPUs may differ and both be right: results that the manual bounds or leaves undefined, and how far an
//! instruction of several accesses came before one of them faulted.
//!
//! Each rule replaces something of our outcome by the host's; what then still differs is an error.

use crate::case::Case;
use iced_x86::{Code, Mnemonic, OpKind, Register};
use tests::arena::{self, Image};
use tests::state::{Outcome, Raised, State};

const PAGE_FAULT: u8 = 14;
const SIMD_ERROR: u8 = 19;
/// End of the addresses that Linux gives to programs.
const USER_END: u64 = (1 << 47) - arena::PAGE;
/// MXCSR flags.
const OVERFLOW_UNDERFLOW: u32 = 0x18;
const PRECISION: u32 = 0x20;
/// x87 status word: C1, stack top.
const C1: u16 = 1 << 9;
const TOP: u16 = 7 << 11;

/// Applies every rule.
pub fn apply(case: &Case, host: (&Outcome, &Image), ours: (&mut Outcome, &mut Image)) {
    let (mine, memory) = ours;
    page_fault(host.0, mine);
    if accesses_in_parts(case) {
        parts(case, host, mine, memory);
    }
    if host.0.raised.is_some() && host.0.raised == mine.raised {
        state_of_a_fault(case, &host.0.state, &mut mine.state);
    }
    if mine.raised.is_some_and(|raised| raised.vector == SIMD_ERROR) {
        unmasked_rounding(&host.0.state, &mut mine.state);
        products_before_sums(case, &host.0.state, &mut mine.state);
    }
    approximations(case, &host.0.state, &mut mine.state);
    transcendental(case, &host.0.state, &mut mine.state);
}

/// Linux does not tell programs whether an address above theirs is mapped.
fn page_fault(host: &Outcome, ours: &mut Outcome) {
    let (Some(theirs), Some(mine)) = (host.raised, &mut ours.raised) else { return };
    if theirs.vector == PAGE_FAULT && mine.vector == PAGE_FAULT && theirs.address >= USER_END {
        mine.code = mine.code & !1 | theirs.code & 1;
    }
}

/// Instructions whose operand is read or written in several pieces, in an order that is the CPU's own.
fn accesses_in_parts(case: &Case) -> bool {
    use Mnemonic::*;
    let mnemonic = case.instruction.mnemonic();
    stores_by_mask(mnemonic)
        || matches!(mnemonic, Fldenv | Fnstenv | Frstor | Fnsave | Fbld | Fbstp)
        || matches!(case.instruction.code(), Code::Fld_m80fp | Code::Fstp_m80fp)
}

fn stores_by_mask(mnemonic: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        mnemonic,
        Maskmovq | Maskmovdqu | Vmaskmovdqu | Vmaskmovps | Vmaskmovpd | Vpmaskmovd | Vpmaskmovq
    )
}

/// Which of the operand's bytes faults first, and whether bytes before it are written already, is not said; nor
/// whether MASKMOVDQU looks at bytes that it does not write.
fn parts(case: &Case, host: (&Outcome, &Image), mine: &mut Outcome, memory: &mut Image) {
    use Mnemonic::*;
    let (start, bytes) = operand(case);
    let inside = |raised: Raised| raised.vector != PAGE_FAULT || raised.address.wrapping_sub(start) < bytes;
    let byte_mask = matches!(case.instruction.mnemonic(), Maskmovq | Maskmovdqu | Vmaskmovdqu);
    match (host.0.raised, mine.raised) {
        (Some(theirs), Some(raised)) if inside(theirs) && inside(raised) => mine.raised = host.0.raised,
        (Some(theirs), None) if byte_mask && inside(theirs) => *mine = host.0.clone(),
        _ => return,
    }
    for at in start..start.saturating_add(bytes) {
        if let Some(at) = arena::offset(at) {
            memory[at] = host.1[at];
        }
    }
}

/// Address and size of the memory operand.
fn operand(case: &Case) -> (u64, u64) {
    let instruction = &case.instruction;
    let state = &case.state;
    let value = |register: Register, _, _| {
        Some(match register {
            Register::FS => state.fs_base,
            Register::GS => state.gs_base,
            segment if segment.is_segment_register() => 0,
            general => state.gpr[general.full_register().number()],
        })
    };
    let is_memory = |operand: &u32| {
        matches!(instruction.op_kind(*operand), OpKind::Memory | OpKind::MemorySegRDI | OpKind::MemorySegEDI)
    };
    let operand = (0..instruction.op_count()).find(is_memory).expect("the instruction has a memory operand");
    let start = instruction.virtual_address(operand, 0, value).expect("all registers are known");
    (start, instruction.memory_size().size() as u64)
}

/// An instruction that faults may already have entered MMX mode or noted that its result will be inexact; when it is
/// restarted, it does so again.
fn state_of_a_fault(case: &Case, host: &State, mine: &mut State) {
    if physical(host) == physical(mine) && uses_mmx(case) {
        (mine.fsw, mine.tags, mine.st) = (mine.fsw & !TOP | host.fsw & TOP, host.tags, host.st);
    }
    if case.instruction.mnemonic() == Mnemonic::Vcvtps2ph {
        mine.mxcsr |= host.mxcsr & 0x3f;
    }
}

fn uses_mmx(case: &Case) -> bool {
    (0..case.instruction.op_count()).any(|operand| case.instruction.op_register(operand).is_mm())
}

/// Registers by their physical number.
fn physical(state: &State) -> [(u64, u16); 8] {
    let mut registers = state.st;
    registers.rotate_right(usize::from(state.fsw >> 11 & 7));
    registers
}

/// With unmasked overflow or underflow, PE tells about the result with a wider exponent, which no masked run shows.
fn unmasked_rounding(host: &State, mine: &mut State) {
    if host.mxcsr & OVERFLOW_UNDERFLOW != 0 {
        mine.mxcsr = mine.mxcsr & !PRECISION | host.mxcsr & PRECISION;
    }
}

/// DPPS and DPPD stop between products and sums when a product raises an unmasked exception.
fn products_before_sums(case: &Case, host: &State, mine: &mut State) {
    if matches!(
        case.instruction.mnemonic(),
        Mnemonic::Dpps | Mnemonic::Dppd | Mnemonic::Vdpps | Mnemonic::Vdppd
    ) {
        mine.mxcsr = mine.mxcsr & !0x3f | host.mxcsr & 0x3f;
    }
}

/// RCP and RSQRT have a bounded error: 1.5 × 2^-12 (SDM 2B, RCPPS).
fn approximations(case: &Case, host: &State, mine: &mut State) {
    use Mnemonic::*;
    if !matches!(
        case.instruction.mnemonic(),
        Rcpps | Rcpss | Rsqrtps | Rsqrtss | Vrcpps | Vrcpss | Vrsqrtps | Vrsqrtss
    ) {
        return;
    }
    let register = case.instruction.op0_register().number();
    for (ours, theirs) in mine.ymm[register].iter_mut().zip(host.ymm[register]) {
        for shift in [0, 32] {
            let (a, b) = (f32::from_bits((*ours >> shift) as u32), f32::from_bits((theirs >> shift) as u32));
            if (f64::from(a) - f64::from(b)).abs() <= f64::from(b).abs() * 3.0 / 4096.0 {
                *ours = *ours & !(0xffff_ffff << shift) | u64::from(b.to_bits()) << shift;
            }
        }
    }
}

/// Transcendental x87 results: the last place, and with it C1 (SDM 1 8.3.10).
fn transcendental(case: &Case, host: &State, mine: &mut State) {
    use Mnemonic::*;
    if !matches!(
        case.instruction.mnemonic(),
        F2xm1 | Fyl2x | Fyl2xp1 | Fptan | Fpatan | Fsin | Fcos | Fsincos
    ) {
        return;
    }
    mine.fsw = mine.fsw & !C1 | host.fsw & C1;
    if out_of_range(case) {
        // The result is undefined, and so are its exceptions.
        (mine.fsw, mine.tags, mine.st) = (host.fsw, host.tags, host.st);
    }
    for (ours, theirs) in mine.st.iter_mut().zip(host.st) {
        if ordinal(*ours).abs_diff(ordinal(theirs)) <= 1 {
            *ours = theirs;
        }
    }
}

/// Operands for which F2XM1 and FYL2XP1 have no defined result.
fn out_of_range(case: &Case) -> bool {
    let (significand, exponent) = case.state.st[0];
    let (exponent, one) = (exponent & 0x7fff, (1 << 63, 0x3fff));
    match case.instruction.mnemonic() {
        Mnemonic::F2xm1 => exponent > 0x3fff || exponent == 0x3fff && significand != one.0,
        // |x| < 1 − √½ = 0.2928…
        Mnemonic::Fyl2xp1 => exponent > 0x3ffd || exponent == 0x3ffd && significand >= 0x95f6_1998_0c43_3800,
        _ => false,
    }
}

/// Numbers of one sign in their order; adjacent numbers have adjacent ordinals.
fn ordinal((significand, exponent): (u64, u16)) -> i128 {
    let magnitude = i128::from(exponent & 0x7fff) << 63 | i128::from(significand & !(1 << 63));
    if exponent >> 15 != 0 { -magnitude } else { magnitude }
}
