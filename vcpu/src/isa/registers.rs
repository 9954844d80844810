//! General registers by operand size.

use super::host_alu::Alu;
use crate::state::DataRegs;

/// Access to general registers of one operand size. For bytes `index` is the byte offset in the register
/// file (see `Op`); for the others the register number.
pub trait Reg: Alu {
    /// The register's value.
    fn get(regs: &DataRegs, index: u8) -> Self;
    /// Writes the register; 32 bits clear the upper half, fewer keep the rest.
    fn set(regs: &mut DataRegs, index: u8, value: Self);
}

impl Reg for u8 {
    #[inline(always)]
    fn get(regs: &DataRegs, index: u8) -> u8 {
        (regs.gpr[(index >> 3 & 31) as usize] >> (8 * (index & 1))) as u8
    }

    #[inline(always)]
    fn set(regs: &mut DataRegs, index: u8, value: u8) {
        let shift = 8 * (index & 1);
        let place = &mut regs.gpr[(index >> 3 & 31) as usize];
        *place = *place & !(0xff << shift) | u64::from(value) << shift;
    }
}

impl Reg for u16 {
    #[inline(always)]
    fn get(regs: &DataRegs, index: u8) -> u16 {
        regs.gpr[(index & 31) as usize] as u16
    }

    #[inline(always)]
    fn set(regs: &mut DataRegs, index: u8, value: u16) {
        let place = &mut regs.gpr[(index & 31) as usize];
        *place = *place & !0xffff | u64::from(value);
    }
}

impl Reg for u32 {
    #[inline(always)]
    fn get(regs: &DataRegs, index: u8) -> u32 {
        regs.gpr[(index & 31) as usize] as u32
    }

    /// Clears the upper half (SDM 1 3.4.1.1).
    #[inline(always)]
    fn set(regs: &mut DataRegs, index: u8, value: u32) {
        regs.gpr[(index & 31) as usize] = u64::from(value);
    }
}

impl Reg for u64 {
    #[inline(always)]
    fn get(regs: &DataRegs, index: u8) -> u64 {
        regs.gpr[(index & 31) as usize]
    }

    #[inline(always)]
    fn set(regs: &mut DataRegs, index: u8, value: u64) {
        regs.gpr[(index & 31) as usize] = value;
    }
}
