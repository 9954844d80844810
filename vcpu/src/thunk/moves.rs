//! Plain vector moves, written in Rust because they are frequent and a host call would cost more than the copy.

use super::plan::Domain;
use super::run::check;
use crate::core::Core;
use crate::fault::Fault;
use crate::isa::{Op, Row, opflag, row};
use iced_x86::Code::{self, *};

const SSE: u8 = Domain::Sse as u8;
const AVX: u8 = Domain::Avx as u8;

/// Move of 16 bytes, legacy: the upper half of a destination register stays.
const fn to_register(code: Code) -> Row {
    row(code, load::<SSE, 16, false>)
}

const fn to_register_aligned(code: Code) -> Row {
    row(code, load::<SSE, 16, true>)
}

const fn to_memory(code: Code) -> Row {
    row(code, store::<SSE, 16, false>)
}

const fn to_memory_aligned(code: Code) -> Row {
    row(code, store::<SSE, 16, true>)
}

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    to_register(Movups_xmm_xmmm128),
    to_register(Movupd_xmm_xmmm128),
    to_register(Movdqu_xmm_xmmm128),
    to_register(Lddqu_xmm_m128),
    to_register_aligned(Movaps_xmm_xmmm128),
    to_register_aligned(Movapd_xmm_xmmm128),
    to_register_aligned(Movdqa_xmm_xmmm128),
    to_register_aligned(Movntdqa_xmm_m128),
    to_memory(Movups_xmmm128_xmm),
    to_memory(Movupd_xmmm128_xmm),
    to_memory(Movdqu_xmmm128_xmm),
    to_memory_aligned(Movaps_xmmm128_xmm),
    to_memory_aligned(Movapd_xmmm128_xmm),
    to_memory_aligned(Movdqa_xmmm128_xmm),
    to_memory_aligned(Movntps_m128_xmm),
    to_memory_aligned(Movntpd_m128_xmm),
    to_memory_aligned(Movntdq_m128_xmm),
    row(VEX_Vmovups_xmm_xmmm128, load::<AVX, 16, false>),
    row(VEX_Vmovupd_xmm_xmmm128, load::<AVX, 16, false>),
    row(VEX_Vmovdqu_xmm_xmmm128, load::<AVX, 16, false>),
    row(VEX_Vlddqu_xmm_m128, load::<AVX, 16, false>),
    row(VEX_Vmovaps_xmm_xmmm128, load::<AVX, 16, true>),
    row(VEX_Vmovapd_xmm_xmmm128, load::<AVX, 16, true>),
    row(VEX_Vmovdqa_xmm_xmmm128, load::<AVX, 16, true>),
    row(VEX_Vmovntdqa_xmm_m128, load::<AVX, 16, true>),
    row(VEX_Vmovups_ymm_ymmm256, load::<AVX, 32, false>),
    row(VEX_Vmovupd_ymm_ymmm256, load::<AVX, 32, false>),
    row(VEX_Vmovdqu_ymm_ymmm256, load::<AVX, 32, false>),
    row(VEX_Vlddqu_ymm_m256, load::<AVX, 32, false>),
    row(VEX_Vmovaps_ymm_ymmm256, load::<AVX, 32, true>),
    row(VEX_Vmovapd_ymm_ymmm256, load::<AVX, 32, true>),
    row(VEX_Vmovdqa_ymm_ymmm256, load::<AVX, 32, true>),
    row(VEX_Vmovntdqa_ymm_m256, load::<AVX, 32, true>),
    row(VEX_Vmovups_xmmm128_xmm, store::<AVX, 16, false>),
    row(VEX_Vmovupd_xmmm128_xmm, store::<AVX, 16, false>),
    row(VEX_Vmovdqu_xmmm128_xmm, store::<AVX, 16, false>),
    row(VEX_Vmovaps_xmmm128_xmm, store::<AVX, 16, true>),
    row(VEX_Vmovapd_xmmm128_xmm, store::<AVX, 16, true>),
    row(VEX_Vmovdqa_xmmm128_xmm, store::<AVX, 16, true>),
    row(VEX_Vmovntps_m128_xmm, store::<AVX, 16, true>),
    row(VEX_Vmovntpd_m128_xmm, store::<AVX, 16, true>),
    row(VEX_Vmovntdq_m128_xmm, store::<AVX, 16, true>),
    row(VEX_Vmovups_ymmm256_ymm, store::<AVX, 32, false>),
    row(VEX_Vmovupd_ymmm256_ymm, store::<AVX, 32, false>),
    row(VEX_Vmovdqu_ymmm256_ymm, store::<AVX, 32, false>),
    row(VEX_Vmovaps_ymmm256_ymm, store::<AVX, 32, true>),
    row(VEX_Vmovapd_ymmm256_ymm, store::<AVX, 32, true>),
    row(VEX_Vmovdqa_ymmm256_ymm, store::<AVX, 32, true>),
    row(VEX_Vmovntps_m256_ymm, store::<AVX, 32, true>),
    row(VEX_Vmovntpd_m256_ymm, store::<AVX, 32, true>),
    row(VEX_Vmovntdq_m256_ymm, store::<AVX, 32, true>),
];

/// Address bits that must be zero.
const fn align_mask(size: u8, aligned: bool) -> u8 {
    if aligned { size - 1 } else { 0 }
}

/// Writes a vector register: legacy keeps the upper half, VEX.128 clears it.
#[inline(always)]
pub(super) fn set_vector<const DOMAIN: u8, const SIZE: u8>(core: &mut Core, register: u8, value: &[u64; 4]) {
    let register = &mut core.cpu.data.ymm[usize::from(register & 15)];
    register[..2].copy_from_slice(&value[..2]);
    if SIZE == 32 {
        register[2..].copy_from_slice(&value[2..]);
    } else if DOMAIN == AVX {
        register[2..].fill(0);
    }
}

fn load<const DOMAIN: u8, const SIZE: u8, const ALIGNED: bool>(
    core: &mut Core,
    op: &Op,
) -> Result<(), Fault> {
    check::<DOMAIN>(core)?;
    let value = if op.flags & opflag::MEMORY != 0 {
        let gva = core.vector_address(op, align_mask(SIZE, ALIGNED))?;
        core.read_vector(op, gva, SIZE)?
    } else {
        core.cpu.data.ymm[usize::from(op.rm & 15)]
    };
    set_vector::<DOMAIN, SIZE>(core, op.reg, &value);
    Ok(())
}

fn store<const DOMAIN: u8, const SIZE: u8, const ALIGNED: bool>(
    core: &mut Core,
    op: &Op,
) -> Result<(), Fault> {
    check::<DOMAIN>(core)?;
    let value = core.cpu.data.ymm[usize::from(op.reg & 15)];
    if op.flags & opflag::MEMORY != 0 {
        let gva = core.vector_address(op, align_mask(SIZE, ALIGNED))?;
        core.write_vector(op, gva, SIZE, &value)
    } else {
        set_vector::<DOMAIN, SIZE>(core, op.rm, &value);
        Ok(())
    }
}
