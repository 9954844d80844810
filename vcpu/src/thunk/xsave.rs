//! FXSAVE, XSAVE and their kin (SDM 1 10.5, 13.4 to 13.13).
//!
//! Which components are in use follows from their contents alone, so it is the same on every host; the
//! "modified" optimisation is not made.

use super::fpu;
use super::fpu_control::check_available;
use super::run::mxcsr;
use crate::core::Core;
use crate::fault::{Fault, vector};
use crate::isa::{Op, Row, row};
use crate::state::regs::gpr;
use crate::state::{DataRegs, cr0, cr4};
use iced_x86::Code;

pub(super) const ROWS: &[Row] = &[
    row(Code::Fxsave_m512byte, fxsave),
    row(Code::Fxsave64_m512byte, fxsave),
    row(Code::Fxrstor_m512byte, fxrstor),
    row(Code::Fxrstor64_m512byte, fxrstor),
    row(Code::Xsave_mem, xsave::<PLAIN>),
    row(Code::Xsave64_mem, xsave::<PLAIN>),
    row(Code::Xsaveopt_mem, xsave::<OPTIMISED>),
    row(Code::Xsaveopt64_mem, xsave::<OPTIMISED>),
    row(Code::Xsavec_mem, xsave::<COMPACT>),
    row(Code::Xsavec64_mem, xsave::<COMPACT>),
    row(Code::Xrstor_mem, xrstor),
    row(Code::Xrstor64_mem, xrstor),
];

/// Forms of XSAVE.
const PLAIN: u8 = 0;
const OPTIMISED: u8 = 1;
const COMPACT: u8 = 2;

/// XCR0 bits, as in XSTATE_BV.
const X87: u64 = 1;
const SSE: u64 = 2;
const AVX: u64 = 4;
const COMPACTED: u64 = 1 << 63;

const MXCSR: usize = 24;
const XMM: usize = 160;
const HEADER: usize = 512;
/// Upper halves of the YMM registers; also the place in compacted form, as no other component comes before.
const YMM_HIGH: usize = 576;
const AREA: usize = 832;

/// Vector registers that exist in the current mode.
fn vector_count(core: &Core) -> usize {
    if core.mode.bits == 64 { 16 } else { 8 }
}

/// Control word to tag, then pointers (zero).
fn put_x87(data: &DataRegs, area: &mut [u8; AREA]) {
    area[..24].copy_from_slice(&data.fx.0[..24]);
    area[32..160].copy_from_slice(&data.fx.0[32..160]);
}

fn put_mxcsr(data: &DataRegs, area: &mut [u8; AREA]) {
    area[MXCSR..MXCSR + 4].copy_from_slice(&data.mxcsr.to_le_bytes());
    area[MXCSR + 4..MXCSR + 8].copy_from_slice(&mxcsr::DEFINED.to_le_bytes());
}

/// Copies one half of each vector register into the area.
fn put_vectors(data: &DataRegs, half: usize, count: usize, area: &mut [u8]) {
    for (register, into) in data.ymm[..count].iter().zip(area.chunks_exact_mut(16)) {
        into[..8].copy_from_slice(&register[2 * half].to_le_bytes());
        into[8..].copy_from_slice(&register[2 * half + 1].to_le_bytes());
    }
}

fn take_vectors(data: &mut DataRegs, half: usize, count: usize, area: &[u8]) {
    for (register, from) in data.ymm[..count].iter_mut().zip(area.chunks_exact(16)) {
        register[2 * half] = word(from, 0);
        register[2 * half + 1] = word(from, 8);
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn mxcsr_of(area: &[u8]) -> Result<u32, Fault> {
    let value = word(area, MXCSR) as u32;
    if value & !mxcsr::DEFINED == 0 { Ok(value) } else { Err(Fault::gp(0)) }
}

/// Linear address of the area, aligned.
fn area_address(core: &mut Core, op: &Op, alignment: u64) -> Result<u64, Fault> {
    let gva = core.operand_address(op)?;
    if gva & (alignment - 1) == 0 { Ok(gva) } else { Err(Fault::gp(0)) }
}

fn fxsave(core: &mut Core, op: &Op) -> Result<(), Fault> {
    check_available(core)?;
    let gva = area_address(core, op, 16)?;
    let count = vector_count(core);
    let mut area = [0; AREA];
    put_x87(&core.cpu.data, &mut area);
    put_mxcsr(&core.cpu.data, &mut area);
    put_vectors(&core.cpu.data, 0, count, &mut area[XMM..]);
    core.probe_write(gva, 512).map_err(|fault| core.refine_fault(op, fault))?;
    core.write_bytes(gva, &area[..XMM + 16 * count])
}

fn fxrstor(core: &mut Core, op: &Op) -> Result<(), Fault> {
    check_available(core)?;
    let gva = area_address(core, op, 16)?;
    let count = vector_count(core);
    let mut area = [0; 512];
    core.read_bytes(gva, &mut area).map_err(|fault| core.refine_fault(op, fault))?;
    core.cpu.data.mxcsr = mxcsr_of(&area)?;
    fpu::load_image(&mut core.cpu.data.fx, &area);
    take_vectors(&mut core.cpu.data, 0, count, &area[XMM..]);
    Ok(())
}

/// Components of XCR0 that EDX:EAX asks for, after the checks all forms share.
fn requested(core: &Core) -> Result<u64, Fault> {
    if core.cpu.cr4 & cr4::OSXSAVE == 0 {
        return Err(Fault::ud());
    }
    if core.cpu.cr0 & cr0::TS != 0 {
        return Err(Fault::new(vector::NM));
    }
    let gpr = &core.cpu.data.gpr;
    let asked = gpr[gpr::RAX] & 0xffff_ffff | gpr[gpr::RDX] << 32;
    Ok(asked & core.cpu.xcr0)
}

/// Components that are not in their initial state (SDM 1 13.6).
fn in_use(data: &DataRegs, count: usize) -> u64 {
    let fx = &data.fx.0;
    let x87 = fpu::control(&data.fx) != fpu::CONTROL_RESET
        || fx[2..24].iter().any(|&byte| byte != 0)
        || fx[fpu::REGISTERS].iter().any(|&byte| byte != 0);
    let half = |half: usize| data.ymm[..count].iter().any(|r| r[2 * half] | r[2 * half + 1] != 0);
    u64::from(x87) | if half(0) { SSE } else { 0 } | if half(1) { AVX } else { 0 }
}

fn xsave<const FORM: u8>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let asked = requested(core)?;
    let gva = area_address(core, op, 64)?;
    let count = vector_count(core);
    let data = &core.cpu.data;
    let mut used = in_use(data, count);
    if FORM == COMPACT && data.mxcsr != mxcsr::RESET {
        used |= SSE;
    }
    let saved = if FORM == PLAIN { asked } else { asked & used };
    let with_mxcsr = if FORM == COMPACT { saved & SSE != 0 } else { asked & (SSE | AVX) != 0 };
    let mut area = [0; AREA];
    put_x87(data, &mut area);
    put_mxcsr(data, &mut area);
    put_vectors(data, 0, count, &mut area[XMM..HEADER]);
    put_vectors(data, 1, count, &mut area[YMM_HIGH..]);
    let len = if asked & AVX != 0 { AREA } else { YMM_HIGH } as u64;
    core.probe_write(gva, len).map_err(|fault| core.refine_fault(op, fault))?;
    let pieces = [
        (saved & X87 != 0, 0, MXCSR),
        (with_mxcsr, MXCSR, MXCSR + 8),
        (saved & X87 != 0, 32, XMM),
        (saved & SSE != 0, XMM, XMM + 16 * count),
        (saved & AVX != 0, YMM_HIGH, YMM_HIGH + 16 * count),
    ];
    for (_, from, to) in pieces.into_iter().filter(|piece| piece.0) {
        core.write_bytes(gva.wrapping_add(from as u64), &area[from..to])?;
    }
    let header = gva.wrapping_add(HEADER as u64);
    if FORM == COMPACT {
        core.write(header, asked & used)?;
        core.write(header.wrapping_add(8), asked | COMPACTED)
    } else {
        let old = core.read::<u64>(header)?;
        core.write(header, old & !asked | asked & used)
    }
}

/// Checks the header (SDM 1 13.8); returns which components the area holds and whether it is compacted.
fn header(core: &Core, area: &[u8; AREA]) -> Result<(u64, bool), Fault> {
    let (present, form) = (word(area, HEADER), word(area, HEADER + 8));
    let compact = form & COMPACTED != 0;
    let allowed = if compact { form & !COMPACTED } else { core.cpu.xcr0 };
    let reserved = if compact { HEADER + 16 } else { HEADER + 8 };
    let reserved_end = if compact { HEADER + 64 } else { HEADER + 24 };
    let sound = present & !allowed == 0
        && allowed & !core.cpu.xcr0 == 0
        && area[reserved..reserved_end].iter().all(|&byte| byte == 0);
    if sound { Ok((present, compact)) } else { Err(Fault::gp(0)) }
}

fn xrstor(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let asked = requested(core)?;
    let gva = area_address(core, op, 64)?;
    let count = vector_count(core);
    let mut area = [0; AREA];
    core.read_bytes(gva, &mut area[..YMM_HIGH]).map_err(|fault| core.refine_fault(op, fault))?;
    let (present, compact) = header(core, &area)?;
    if asked & present & AVX != 0 {
        core.read_bytes(gva.wrapping_add(YMM_HIGH as u64), &mut area[YMM_HIGH..])?;
    }
    let mxcsr = match (compact, asked & SSE != 0, asked & AVX != 0) {
        (true, true, _) if present & SSE == 0 => mxcsr::RESET,
        (true, true, _) | (false, true, _) | (false, _, true) => mxcsr_of(&area)?,
        _ => core.cpu.data.mxcsr,
    };
    restore(&mut core.cpu.data, asked, present, count, &area);
    core.cpu.data.mxcsr = mxcsr;
    Ok(())
}

/// Loads the requested components from the area, or their initial state where the area has none.
fn restore(data: &mut DataRegs, asked: u64, present: u64, count: usize, area: &[u8; AREA]) {
    let zero = [0; 256];
    if asked & present & X87 != 0 {
        fpu::load_image(&mut data.fx, &area[..XMM]);
    } else if asked & X87 != 0 {
        fpu::initialise(&mut data.fx);
        data.fx.0[fpu::REGISTERS].fill(0);
    }
    for (component, half, from) in [(SSE, 0, XMM), (AVX, 1, YMM_HIGH)] {
        if asked & component != 0 {
            let source = if present & component != 0 { &area[from..from + 256] } else { &zero[..] };
            take_vectors(data, half, count, source);
        }
    }
}
