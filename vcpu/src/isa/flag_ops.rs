//! CLC STC CMC CLD STD LAHF SAHF, NOP and its reserved forms, the undefined instructions.

use super::registers::Reg;
use super::{Op, Row, row};
use crate::core::Core;
use crate::fault::Fault;
use crate::state::{Status, rflags};
use iced_x86::Code::{self, *};

fn clc(core: &mut Core, _: &Op) -> Result<(), Fault> {
    core.cpu.data.status = core.cpu.data.status.with(Status::CF, false);
    Ok(())
}

fn stc(core: &mut Core, _: &Op) -> Result<(), Fault> {
    core.cpu.data.status = core.cpu.data.status.with(Status::CF, true);
    Ok(())
}

fn cmc(core: &mut Core, _: &Op) -> Result<(), Fault> {
    core.cpu.data.status.0 ^= Status::CF;
    Ok(())
}

fn cld(core: &mut Core, _: &Op) -> Result<(), Fault> {
    core.cpu.eflags &= !rflags::DF;
    Ok(())
}

fn std(core: &mut Core, _: &Op) -> Result<(), Fault> {
    core.cpu.eflags |= rflags::DF;
    Ok(())
}

/// AH is byte 1 of the register file.
const AH: u8 = 1;

fn lahf(core: &mut Core, _: &Op) -> Result<(), Fault> {
    let low = core.cpu.data.status.to_rflags() as u8 | 2;
    u8::set(&mut core.cpu.data, AH, low);
    Ok(())
}

fn sahf(core: &mut Core, _: &Op) -> Result<(), Fault> {
    let ah = u32::from(u8::get(&core.cpu.data, AH));
    let overflow = core.cpu.data.status.has(Status::OF);
    core.cpu.data.status = Status::from_rflags(ah & 0xd5).with(Status::OF, overflow);
    Ok(())
}

/// NOP, PAUSE, ENDBR, and what does nothing on this CPU: the operand is not accessed.
pub fn nop(_: &mut Core, _: &Op) -> Result<(), Fault> {
    Ok(())
}

/// Codes in the hint-NOP space (0F 0D, 0F 18…0F 1F): without their feature they are NOPs, not #UD (SDM 2B, NOP).
pub fn is_hint(code: Code) -> bool {
    HINTS.contains(&code)
}

#[rustfmt::skip]
const HINTS: &[Code] = &[
    Endbr64, Endbr32, Rdsspd_r32, Rdsspq_r64, Cldemote_m8, Prefetchit0_m8, Prefetchit1_m8, Prefetchwt1_m8,
    Bndldx_bnd_mib, Bndmov_bnd_bndm64, Bndmov_bnd_bndm128, Bndcl_bnd_rm32, Bndcl_bnd_rm64,
    Bndcu_bnd_rm32, Bndcu_bnd_rm64, Bndstx_mib_bnd, Bndmov_bndm64_bnd, Bndmov_bndm128_bnd,
    Bndmk_bnd_m32, Bndmk_bnd_m64, Bndcn_bnd_rm32, Bndcn_bnd_rm64,
];

/// UD0, UD1, UD2 and every instruction without a row.
pub fn undefined(_: &mut Core, _: &Op) -> Result<(), Fault> {
    Err(Fault::ud())
}

/// The family's rows.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    row(Clc, clc), row(Stc, stc), row(Cmc, cmc), row(Cld, cld), row(Std, std), row(Lahf, lahf), row(Sahf, sahf),
    row(Nopw, nop), row(Nopd, nop), row(Nopq, nop), row(Pause, nop),
    row(Nop_rm16, nop), row(Nop_rm32, nop), row(Nop_rm64, nop),
    row(Endbr64, nop), row(Endbr32, nop), row(Rdsspd_r32, nop), row(Rdsspq_r64, nop),
    row(Cldemote_m8, nop), row(Prefetchit0_m8, nop), row(Prefetchit1_m8, nop),
    row(Bndldx_bnd_mib, nop), row(Bndmov_bnd_bndm64, nop), row(Bndmov_bnd_bndm128, nop), row(Bndcl_bnd_rm32, nop),
    row(Bndcl_bnd_rm64, nop), row(Bndcu_bnd_rm32, nop), row(Bndcu_bnd_rm64, nop), row(Bndstx_mib_bnd, nop),
    row(Bndmov_bndm64_bnd, nop), row(Bndmov_bndm128_bnd, nop), row(Bndmk_bnd_m32, nop), row(Bndmk_bnd_m64, nop),
    row(Bndcn_bnd_rm32, nop), row(Bndcn_bnd_rm64, nop),
    row(Ud2, undefined), row(Ud0, undefined),
    row(Ud0_r16_rm16, undefined), row(Ud0_r32_rm32, undefined), row(Ud0_r64_rm64, undefined),
    row(Ud1_r16_rm16, undefined), row(Ud1_r32_rm32, undefined), row(Ud1_r64_rm64, undefined),
    row(Reservednop_rm16_r16_0F0D, nop),
    row(Reservednop_rm32_r32_0F0D, nop),
    row(Reservednop_rm64_r64_0F0D, nop),
    row(Reservednop_rm16_r16_0F18, nop),
    row(Reservednop_rm32_r32_0F18, nop),
    row(Reservednop_rm64_r64_0F18, nop),
    row(Reservednop_rm16_r16_0F19, nop),
    row(Reservednop_rm32_r32_0F19, nop),
    row(Reservednop_rm64_r64_0F19, nop),
    row(Reservednop_rm16_r16_0F1A, nop),
    row(Reservednop_rm32_r32_0F1A, nop),
    row(Reservednop_rm64_r64_0F1A, nop),
    row(Reservednop_rm16_r16_0F1B, nop),
    row(Reservednop_rm32_r32_0F1B, nop),
    row(Reservednop_rm64_r64_0F1B, nop),
    row(Reservednop_rm16_r16_0F1C, nop),
    row(Reservednop_rm32_r32_0F1C, nop),
    row(Reservednop_rm64_r64_0F1C, nop),
    row(Reservednop_rm16_r16_0F1D, nop),
    row(Reservednop_rm32_r32_0F1D, nop),
    row(Reservednop_rm64_r64_0F1D, nop),
    row(Reservednop_rm16_r16_0F1E, nop),
    row(Reservednop_rm32_r32_0F1E, nop),
    row(Reservednop_rm64_r64_0F1E, nop),
    row(Reservednop_rm16_r16_0F1F, nop),
    row(Reservednop_rm32_r32_0F1F, nop),
    row(Reservednop_rm64_r64_0F1F, nop),
];
