//! Memory-type registers: MTRRs and PAT (SDM 3A 11.11, 11.12). Memory types have no effect here; the guest reads
//! back what it or the firmware wrote.

use crate::core::Core;
use crate::fault::Fault;
use crate::mem::walk::PHYSICAL_BITS;
use crate::state::Msrs;

/// IA32_MTRRCAP: eight variable ranges, fixed ranges, write-combining.
pub const CAPABILITIES: u64 = 8 | 1 << 8 | 1 << 10;
/// PAT after power-on: WB WT UC- UC, twice.
pub const PAT_RESET: u64 = 0x0007_0406_0007_0406;

const UNCACHEABLE: u8 = 0;
const WRITE_PROTECTED: u8 = 5;
const WRITE_BACK: u8 = 6;
/// PAT only: UC-.
const UNCACHED_MINUS: u8 = 7;

const DEF_TYPE_ENABLE: u64 = 1 << 11;
const DEF_TYPE_FIXED: u64 = 1 << 10;
const MASK_VALID: u64 = 1 << 11;
const ADDRESS_BITS: u64 = (1 << PHYSICAL_BITS) - (1 << 12);

/// Numbers of the fixed-range MSRs, in the order of `Msrs::mtrr_fixed`.
const FIXED: [u32; 11] = [0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f];
/// First variable-range MSR: IA32_MTRR_PHYSBASE0.
pub const VARIABLE_FIRST: u32 = 0x200;

fn is_type(value: u8) -> bool {
    matches!(value, 0 | 1 | 4 | 5 | 6)
}

fn all_bytes(value: u64, good: impl Fn(u8) -> bool) -> Result<(), Fault> {
    if value.to_le_bytes().into_iter().all(good) { Ok(()) } else { Err(Fault::gp(0)) }
}

fn fixed_index(number: u32) -> Result<usize, Fault> {
    FIXED.iter().position(|&n| n == number).ok_or(Fault::gp(0))
}

pub(super) fn read_fixed(core: &mut Core, number: u32) -> Result<u64, Fault> {
    Ok(core.cpu.msr.mtrr_fixed[fixed_index(number)?])
}

pub(super) fn write_fixed(core: &mut Core, number: u32, value: u64) -> Result<(), Fault> {
    all_bytes(value, is_type)?;
    core.cpu.msr.mtrr_fixed[fixed_index(number)?] = value;
    Ok(())
}

fn variable(msrs: &mut Msrs, number: u32) -> &mut u64 {
    let index = (number - VARIABLE_FIRST) as usize & 15;
    &mut msrs.mtrr_variable[index / 2][index % 2]
}

pub(super) fn read_variable(core: &mut Core, number: u32) -> Result<u64, Fault> {
    Ok(*variable(&mut core.cpu.msr, number))
}

pub(super) fn write_variable(core: &mut Core, number: u32, value: u64) -> Result<(), Fault> {
    let is_mask = number & 1 != 0;
    let allowed = ADDRESS_BITS | if is_mask { MASK_VALID } else { 0xff };
    if value & !allowed != 0 || !is_mask && !is_type(value as u8) {
        return Err(Fault::gp(0));
    }
    *variable(&mut core.cpu.msr, number) = value;
    Ok(())
}

pub(super) fn read_default(core: &mut Core, _number: u32) -> Result<u64, Fault> {
    Ok(core.cpu.msr.mtrr_def_type)
}

pub(super) fn write_default(core: &mut Core, _number: u32, value: u64) -> Result<(), Fault> {
    if value & !(DEF_TYPE_ENABLE | DEF_TYPE_FIXED | 0xff) != 0 || !is_type(value as u8) {
        return Err(Fault::gp(0));
    }
    core.cpu.msr.mtrr_def_type = value;
    Ok(())
}

pub(super) fn read_pat(core: &mut Core, _number: u32) -> Result<u64, Fault> {
    Ok(core.cpu.msr.pat)
}

pub(super) fn write_pat(core: &mut Core, _number: u32, value: u64) -> Result<(), Fault> {
    all_bytes(value, |kind| is_type(kind) || kind == UNCACHED_MINUS)?;
    core.cpu.msr.pat = value;
    Ok(())
}

impl Msrs {
    /// The MTRRs as a PC's firmware leaves them: RAM write-back, the video range and the hole from 3 GiB to 4 GiB
    /// uncacheable, the BIOS range write-protected. For loaders that enter a kernel without firmware: Linux
    /// switches PAT off when MTRRs are off.
    pub fn set_firmware_mtrrs(&mut self) {
        let all = |kind: u8| u64::from_le_bytes([kind; 8]);
        self.mtrr_def_type = DEF_TYPE_ENABLE | DEF_TYPE_FIXED | u64::from(WRITE_BACK);
        self.mtrr_fixed = [all(WRITE_PROTECTED); 11];
        self.mtrr_fixed[0] = all(WRITE_BACK);
        self.mtrr_fixed[1] = all(WRITE_BACK);
        self.mtrr_fixed[2] = all(UNCACHEABLE);
        let hole = 3u64 << 30;
        let size = 1u64 << 30;
        self.mtrr_variable = [[0; 2]; 8];
        self.mtrr_variable[0] = [hole | u64::from(UNCACHEABLE), !(size - 1) & ADDRESS_BITS | MASK_VALID];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn firmware_setting_is_valid() {
        let mut msrs = Msrs::default();
        msrs.set_firmware_mtrrs();
        assert_eq!(msrs.mtrr_def_type, 0xc06);
        assert_eq!(msrs.mtrr_variable[0], [0xc000_0000, 0x3fff_c000_0800]);
        assert!(msrs.mtrr_fixed.iter().all(|&value| all_bytes(value, is_type).is_ok()));
        assert!(all_bytes(PAT_RESET, |kind| is_type(kind) || kind == UNCACHED_MINUS).is_ok());
    }
}
