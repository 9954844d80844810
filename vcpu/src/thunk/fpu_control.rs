//! x87 control instructions: words, environment, FSAVE; all Rust, because they show or set pointers and errors.

use super::fpu::{self, EXCEPTIONS, status};
use crate::core::Core;
use crate::fault::{Fault, vector};
use crate::isa::{Op, Row, row};
use crate::softfp::F80;
use crate::state::regs::FxImage;
use crate::state::{cr0, regs::gpr};
use iced_x86::Code;

pub(super) const ROWS: &[Row] = &[
    row(Code::Wait, wait),
    row(Code::Fnstcw_m2byte, fnstcw),
    row(Code::Fldcw_m2byte, fldcw),
    row(Code::Fnstsw_m2byte, fnstsw_memory),
    row(Code::Fnstsw_AX, fnstsw_ax),
    row(Code::Fninit, fninit),
    row(Code::Fnclex, fnclex),
    row(Code::Fneni, no_effect),
    row(Code::Fndisi, no_effect),
    row(Code::Fnsetpm, no_effect),
    row(Code::Fnstenv_m14byte, fnstenv::<2>),
    row(Code::Fnstenv_m28byte, fnstenv::<4>),
    row(Code::Fldenv_m14byte, fldenv::<2>),
    row(Code::Fldenv_m28byte, fldenv::<4>),
    row(Code::Fnsave_m94byte, fnsave::<2>),
    row(Code::Fnsave_m108byte, fnsave::<4>),
    row(Code::Frstor_m94byte, frstor::<2>),
    row(Code::Frstor_m108byte, frstor::<4>),
];

/// #NM by CR0.EM or CR0.TS, for instructions that do not wait.
pub(super) fn check_available(core: &Core) -> Result<(), Fault> {
    if core.mode.x87_fault == 0 { Ok(()) } else { Err(Fault::new(core.mode.x87_fault)) }
}

fn check_waiting(core: &Core) -> Result<(), Fault> {
    check_available(core)?;
    fpu::check_pending(core)
}

/// FWAIT: CR0.EM does not matter, CR0.TS only with CR0.MP (SDM 3A table 2-2).
fn wait(core: &mut Core, _op: &Op) -> Result<(), Fault> {
    let both = cr0::MP | cr0::TS;
    if core.cpu.cr0 & both == both {
        return Err(Fault::new(vector::NM));
    }
    fpu::check_pending(core)
}

fn no_effect(core: &mut Core, _op: &Op) -> Result<(), Fault> {
    check_available(core)
}

fn fnstcw(core: &mut Core, op: &Op) -> Result<(), Fault> {
    check_available(core)?;
    let value = fpu::control(&core.cpu.data.fx);
    core.store(op, value)
}

fn fldcw(core: &mut Core, op: &Op) -> Result<(), Fault> {
    check_waiting(core)?;
    let value = core.load::<u16>(op)?;
    fpu::set_control(&mut core.cpu.data.fx, value);
    Ok(())
}

fn fnstsw_memory(core: &mut Core, op: &Op) -> Result<(), Fault> {
    check_available(core)?;
    let value = fpu::status(&core.cpu.data.fx);
    core.store(op, value)
}

fn fnstsw_ax(core: &mut Core, _op: &Op) -> Result<(), Fault> {
    check_available(core)?;
    let rax = &mut core.cpu.data.gpr[gpr::RAX];
    *rax = *rax & !0xffff | u64::from(fpu::status(&core.cpu.data.fx));
    Ok(())
}

fn fninit(core: &mut Core, _op: &Op) -> Result<(), Fault> {
    check_available(core)?;
    fpu::initialise(&mut core.cpu.data.fx);
    Ok(())
}

/// FNCLEX: exception flags, stack fault, summary and busy (SDM 2A).
fn fnclex(core: &mut Core, _op: &Op) -> Result<(), Fault> {
    check_available(core)?;
    let fx = &mut core.cpu.data.fx;
    fpu::set_status(fx, fpu::status(fx) & !(EXCEPTIONS | status::STACK_FAULT));
    Ok(())
}

/// Bytes of the environment with fields of `WIDTH` bytes.
const fn environment_len<const WIDTH: usize>() -> usize {
    7 * WIDTH
}

/// The environment: control, status, tags, then pointers, which are zero. In the 32-bit form the unused upper
/// halves read as ones (SDM 1 figures 8-9 to 8-12).
pub(super) fn environment<const WIDTH: usize>(fx: &FxImage, into: &mut [u8]) {
    into.fill(0);
    for (i, value) in [fpu::control(fx), fpu::status(fx), full_tags(fx)].into_iter().enumerate() {
        into[i * WIDTH..i * WIDTH + 2].copy_from_slice(&value.to_le_bytes());
        into[i * WIDTH + 2..(i + 1) * WIDTH].fill(0xff);
    }
    into[6 * WIDTH + 2..7 * WIDTH].fill(0xff);
}

pub(super) fn set_environment<const WIDTH: usize>(fx: &mut FxImage, from: &[u8]) {
    let field = |i: usize| u16::from_le_bytes([from[i * WIDTH], from[i * WIDTH + 1]]);
    let tags = field(2);
    fpu::set_tags(fx, (0..8).filter(|i| tags >> (2 * i) & 3 != 3).fold(0, |tags, i| tags | 1 << i));
    fpu::set_control(fx, field(0));
    fpu::replace_status(fx, field(1));
}

/// The two-bit tags, computed from the registers: valid, zero, special, empty (SDM 1 8.1.7).
fn full_tags(fx: &FxImage) -> u16 {
    let top = fpu::top(fx);
    (0..8u8).fold(0, |tags, i| {
        let tag = if fpu::is_empty(fx, i) { 3 } else { tag_of(fpu::register(fx, i)) };
        tags | tag << (2 * (top.wrapping_add(i) & 7))
    })
}

fn tag_of(value: F80) -> u16 {
    match (value.exponent(), value.significand) {
        (0, 0) => 1,
        (1..=0x7ffe, significand) if significand >> 63 == 1 => 0,
        _ => 2,
    }
}

fn fnstenv<const WIDTH: usize>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    check_available(core)?;
    let gva = core.operand_address(op)?;
    let mut image = [0; 28];
    let image = &mut image[..environment_len::<WIDTH>()];
    environment::<WIDTH>(&core.cpu.data.fx, image);
    core.write_bytes(gva, image).map_err(|fault| core.refine_fault(op, fault))?;
    let fx = &mut core.cpu.data.fx;
    fpu::set_control(fx, fpu::control(fx) | EXCEPTIONS);
    Ok(())
}

fn fldenv<const WIDTH: usize>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    check_waiting(core)?;
    let gva = core.operand_address(op)?;
    let mut image = [0; 28];
    let image = &mut image[..environment_len::<WIDTH>()];
    core.read_bytes(gva, image).map_err(|fault| core.refine_fault(op, fault))?;
    set_environment::<WIDTH>(&mut core.cpu.data.fx, image);
    Ok(())
}

fn fnsave<const WIDTH: usize>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    check_available(core)?;
    let gva = core.operand_address(op)?;
    let mut image = [0; 108];
    let len = save::<WIDTH>(&core.cpu.data.fx, &mut image);
    core.write_bytes(gva, &image[..len]).map_err(|fault| core.refine_fault(op, fault))?;
    fpu::initialise(&mut core.cpu.data.fx);
    Ok(())
}

fn frstor<const WIDTH: usize>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    check_waiting(core)?;
    let gva = core.operand_address(op)?;
    let mut image = [0; 108];
    let image = &mut image[..environment_len::<WIDTH>() + 80];
    core.read_bytes(gva, image).map_err(|fault| core.refine_fault(op, fault))?;
    restore::<WIDTH>(&mut core.cpu.data.fx, image);
    Ok(())
}

/// Environment, then ST0…ST7 of 10 bytes each; returns the length.
fn save<const WIDTH: usize>(fx: &FxImage, image: &mut [u8; 108]) -> usize {
    let (head, registers) = image.split_at_mut(environment_len::<WIDTH>());
    environment::<WIDTH>(fx, head);
    for (i, into) in registers.chunks_exact_mut(10).take(8).enumerate() {
        let at = fpu::REGISTERS.start + 16 * i;
        into.copy_from_slice(&fx.0[at..at + 10]);
    }
    environment_len::<WIDTH>() + 80
}

fn restore<const WIDTH: usize>(fx: &mut FxImage, image: &[u8]) {
    let (head, registers) = image.split_at(environment_len::<WIDTH>());
    set_environment::<WIDTH>(fx, head);
    for (i, from) in registers.chunks_exact(10).take(8).enumerate() {
        let at = fpu::REGISTERS.start + 16 * i;
        fx.0[at..at + 10].copy_from_slice(from);
    }
}
