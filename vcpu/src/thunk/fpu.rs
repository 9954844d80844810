//! x87 and MMX state: accessors on the FXSAVE64 image, and what holds before and after every x87 instruction.
//!
//! The instruction, data and opcode pointers stay zero: CPU vendors differ in when they set them, so this
//! machine says what CPUs without recent errors say. The error summary always follows status and control word.

use crate::core::Core;
use crate::fault::{Fault, vector};
use crate::softfp::F80;
use crate::state::cr0;
use crate::state::regs::FxImage;

/// Exception flags in the status word, masks in the control word (SDM 1 8.1.3, 8.1.5).
pub(super) const EXCEPTIONS: u16 = 0x3f;

/// Status word bits.
pub(super) mod status {
    pub const INVALID: u16 = 1;
    pub const PRECISION: u16 = 1 << 5;
    pub const STACK_FAULT: u16 = 1 << 6;
    pub const ERROR_SUMMARY: u16 = 1 << 7;
    pub const C1: u16 = 1 << 9;
    pub const C2: u16 = 1 << 10;
    pub const BUSY: u16 = 1 << 15;
    pub const TOP_SHIFT: u32 = 11;
    pub const TOP: u16 = 7 << TOP_SHIFT;
}

/// Control word after FNINIT.
pub(super) const CONTROL_RESET: u16 = 0x037f;

/// Bits of the control word that can be written; bit 6 always reads 1.
const CONTROL_DEFINED: u16 = 0x1f7f;
const CONTROL_ONE: u16 = 0x40;

const CONTROL: usize = 0;
const STATUS: usize = 2;
const TAGS: usize = 4;
/// FOP, FIP and FDP.
const POINTERS: std::ops::Range<usize> = 6..24;
/// ST0…ST7, 16 bytes each.
pub(super) const REGISTERS: std::ops::Range<usize> = 32..160;

fn word(fx: &FxImage, at: usize) -> u16 {
    u16::from_le_bytes([fx.0[at], fx.0[at + 1]])
}

pub(super) fn control(fx: &FxImage) -> u16 {
    word(fx, CONTROL)
}

pub(super) fn status(fx: &FxImage) -> u16 {
    word(fx, STATUS)
}

/// Sets the control word; errors that it unmasks become pending.
pub(super) fn set_control(fx: &mut FxImage, value: u16) {
    let value = value & CONTROL_DEFINED | CONTROL_ONE;
    fx.0[CONTROL..CONTROL + 2].copy_from_slice(&value.to_le_bytes());
    set_status(fx, status(fx));
}

/// Sets the status word, all but the error summary, which follows from the rest.
pub(super) fn set_status(fx: &mut FxImage, value: u16) {
    let summary = status::ERROR_SUMMARY | status::BUSY;
    let pending = value & !control(fx) & EXCEPTIONS != 0;
    let value = if pending { value | summary } else { value & !summary };
    fx.0[STATUS..STATUS + 2].copy_from_slice(&value.to_le_bytes());
}

/// One bit a physical register, set when it is not empty.
pub(super) fn tags(fx: &FxImage) -> u8 {
    fx.0[TAGS]
}

pub(super) fn set_tags(fx: &mut FxImage, tags: u8) {
    fx.0[TAGS] = tags;
}

pub(super) fn top(fx: &FxImage) -> u8 {
    (status(fx) >> status::TOP_SHIFT & 7) as u8
}

fn set_top(fx: &mut FxImage, top: u8) {
    let rest = status(fx) & !status::TOP;
    set_status(fx, rest | u16::from(top & 7) << status::TOP_SHIFT);
}

/// ST(i) holds nothing.
pub(super) fn is_empty(fx: &FxImage, i: u8) -> bool {
    tags(fx) >> (top(fx).wrapping_add(i) & 7) & 1 == 0
}

fn set_empty(fx: &mut FxImage, i: u8, empty: bool) {
    let bit = 1 << (top(fx).wrapping_add(i) & 7);
    set_tags(fx, if empty { tags(fx) & !bit } else { tags(fx) | bit });
}

/// ST(i).
pub(super) fn register(fx: &FxImage, i: u8) -> F80 {
    let at = REGISTERS.start + 16 * usize::from(i & 7);
    let significand = u64::from_le_bytes(std::array::from_fn(|j| fx.0[at + j]));
    F80 { significand, sign_exponent: word(fx, at + 8) }
}

/// Sets ST(i) and marks it full.
pub(super) fn set_register(fx: &mut FxImage, i: u8, value: F80) {
    let at = REGISTERS.start + 16 * usize::from(i & 7);
    fx.0[at..at + 8].copy_from_slice(&value.significand.to_le_bytes());
    fx.0[at + 8..at + 10].copy_from_slice(&value.sign_exponent.to_le_bytes());
    set_empty(fx, i, false);
}

/// Makes room for a new ST(0), which must be set next.
pub(super) fn push(fx: &mut FxImage) {
    set_top(fx, top(fx).wrapping_sub(1));
    fx.0[REGISTERS].rotate_right(16);
}

/// Empties ST(0) and moves on to the next.
pub(super) fn pop(fx: &mut FxImage) {
    set_empty(fx, 0, true);
    set_top(fx, top(fx).wrapping_add(1));
    fx.0[REGISTERS].rotate_left(16);
}

/// Replaces the status word. The registers stay where they are physically, so ST(0)…ST(7) become other ones
/// when TOP changes.
pub(super) fn replace_status(fx: &mut FxImage, value: u16) {
    let old = top(fx);
    set_status(fx, value);
    let turn = 16 * usize::from(top(fx).wrapping_sub(old) & 7);
    fx.0[REGISTERS].rotate_left(turn);
}

/// FNINIT: control, status and tags; the registers keep their contents.
pub(super) fn initialise(fx: &mut FxImage) {
    replace_status(fx, 0);
    set_tags(fx, 0);
    set_control(fx, CONTROL_RESET);
}

/// An unmasked error is pending.
pub(super) fn has_error(fx: &FxImage) -> bool {
    status(fx) & status::ERROR_SUMMARY != 0
}

/// Raises #MF for a pending error, as every waiting instruction does (SDM 1 8.6).
#[inline(always)]
pub(super) fn check_pending(core: &Core) -> Result<(), Fault> {
    if has_error(&core.cpu.data.fx) && core.cpu.cr0 & cr0::NE != 0 {
        return Err(Fault::new(vector::MF));
    }
    Ok(())
}

/// Takes over the state that the host saved after an instruction. False when it left an error that holds back a
/// store to memory: an unmasked one other than precision (SDM 1 8.5).
pub(super) fn commit(fx: &mut FxImage, saved: &[u8; 512]) -> bool {
    fx.0[..POINTERS.start].copy_from_slice(&saved[..POINTERS.start]);
    fx.0[POINTERS].fill(0);
    fx.0[REGISTERS].copy_from_slice(&saved[REGISTERS]);
    let errors = status(fx) & !control(fx) & EXCEPTIONS;
    errors & !status::PRECISION == 0
}

/// Takes over registers and words from memory in FXSAVE form, pointers dropped.
pub(super) fn load_image(fx: &mut FxImage, image: &[u8]) {
    fx.0[POINTERS].fill(0);
    set_tags(fx, image[TAGS]);
    fx.0[STATUS..STATUS + 2].copy_from_slice(&image[STATUS..STATUS + 2]);
    set_control(fx, u16::from_le_bytes([image[CONTROL], image[CONTROL + 1]]));
    for register in 0..8 {
        // The six bytes above each register are reserved and stay zero.
        let at = REGISTERS.start + 16 * register;
        fx.0[at..at + 10].copy_from_slice(&image[at..at + 10]);
    }
}

/// What every MMX instruction but EMMS does: TOP becomes 0, all registers full (SDM 1 9.5.1).
pub(super) fn enter_mmx(fx: &mut FxImage) {
    replace_status(fx, status(fx) & !status::TOP);
    set_tags(fx, 0xff);
}
