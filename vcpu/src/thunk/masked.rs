//! Instructions that touch memory element by element: masked moves and gathers.
//!
//! Only selected elements are accessed and can fault.

use super::fpu;
use super::moves::set_vector;
use super::plan::Domain;
use super::run::{check, to_bytes};
use crate::core::Core;
use crate::fault::Fault;
use crate::isa::{Op, Row, row};
use iced_x86::Code::*;

const SSE: u8 = Domain::Sse as u8;
const AVX: u8 = Domain::Avx as u8;
const MMX: u8 = Domain::Mmx as u8;

#[rustfmt::skip]
pub(super) const ROWS: &[Row] = &[
    row(VEX_Vmaskmovps_xmm_xmm_m128, mask_load::<16, 4>),
    row(VEX_Vmaskmovps_ymm_ymm_m256, mask_load::<32, 4>),
    row(VEX_Vmaskmovpd_xmm_xmm_m128, mask_load::<16, 8>),
    row(VEX_Vmaskmovpd_ymm_ymm_m256, mask_load::<32, 8>),
    row(VEX_Vpmaskmovd_xmm_xmm_m128, mask_load::<16, 4>),
    row(VEX_Vpmaskmovd_ymm_ymm_m256, mask_load::<32, 4>),
    row(VEX_Vpmaskmovq_xmm_xmm_m128, mask_load::<16, 8>),
    row(VEX_Vpmaskmovq_ymm_ymm_m256, mask_load::<32, 8>),
    row(VEX_Vmaskmovps_m128_xmm_xmm, mask_store::<16, 4>),
    row(VEX_Vmaskmovps_m256_ymm_ymm, mask_store::<32, 4>),
    row(VEX_Vmaskmovpd_m128_xmm_xmm, mask_store::<16, 8>),
    row(VEX_Vmaskmovpd_m256_ymm_ymm, mask_store::<32, 8>),
    row(VEX_Vpmaskmovd_m128_xmm_xmm, mask_store::<16, 4>),
    row(VEX_Vpmaskmovd_m256_ymm_ymm, mask_store::<32, 4>),
    row(VEX_Vpmaskmovq_m128_xmm_xmm, mask_store::<16, 8>),
    row(VEX_Vpmaskmovq_m256_ymm_ymm, mask_store::<32, 8>),
    row(Maskmovdqu_rDI_xmm_xmm, byte_mask_store::<SSE>),
    row(VEX_Vmaskmovdqu_rDI_xmm_xmm, byte_mask_store::<AVX>),
    row(Maskmovq_rDI_mm_mm, byte_mask_store::<MMX>),
    row(VEX_Vpgatherdd_xmm_vm32x_xmm, gather::<4, 4, 4>),
    row(VEX_Vpgatherdd_ymm_vm32y_ymm, gather::<4, 4, 8>),
    row(VEX_Vpgatherdq_xmm_vm32x_xmm, gather::<4, 8, 2>),
    row(VEX_Vpgatherdq_ymm_vm32x_ymm, gather::<4, 8, 4>),
    row(VEX_Vpgatherqd_xmm_vm64x_xmm, gather::<8, 4, 2>),
    row(VEX_Vpgatherqd_xmm_vm64y_xmm, gather::<8, 4, 4>),
    row(VEX_Vpgatherqq_xmm_vm64x_xmm, gather::<8, 8, 2>),
    row(VEX_Vpgatherqq_ymm_vm64y_ymm, gather::<8, 8, 4>),
    row(VEX_Vgatherdps_xmm_vm32x_xmm, gather::<4, 4, 4>),
    row(VEX_Vgatherdps_ymm_vm32y_ymm, gather::<4, 4, 8>),
    row(VEX_Vgatherdpd_xmm_vm32x_xmm, gather::<4, 8, 2>),
    row(VEX_Vgatherdpd_ymm_vm32x_ymm, gather::<4, 8, 4>),
    row(VEX_Vgatherqps_xmm_vm64x_xmm, gather::<8, 4, 2>),
    row(VEX_Vgatherqps_xmm_vm64y_xmm, gather::<8, 4, 4>),
    row(VEX_Vgatherqpd_xmm_vm64x_xmm, gather::<8, 8, 2>),
    row(VEX_Vgatherqpd_ymm_vm64y_ymm, gather::<8, 8, 4>),
];

/// Scratch slot of the register file that carries a gather's index through `operand_address`.
const INDEX_SLOT: usize = 18;

/// Element `i` of `SIZE` bytes (4 or 8).
fn element<const SIZE: usize>(vector: &[u64; 4], i: usize) -> u64 {
    if SIZE == 8 { vector[i] } else { vector[i / 2] >> (32 * (i % 2)) & 0xffff_ffff }
}

fn set_element<const SIZE: usize>(vector: &mut [u64; 4], i: usize, value: u64) {
    if SIZE == 8 {
        vector[i] = value;
    } else {
        let shift = 32 * (i % 2);
        vector[i / 2] = vector[i / 2] & !(0xffff_ffff << shift) | (value & 0xffff_ffff) << shift;
    }
}

/// The top bit of the mask's element `i` is set.
fn selected<const SIZE: usize>(mask: &[u64; 4], i: usize) -> bool {
    element::<SIZE>(mask, i) >> (8 * SIZE - 1) & 1 != 0
}

fn read_element<const SIZE: usize>(core: &mut Core, op: &Op, gva: u64) -> Result<u64, Fault> {
    let read = if SIZE == 8 { core.read::<u64>(gva) } else { core.read::<u32>(gva).map(u64::from) };
    read.map_err(|fault| core.refine_fault(op, fault))
}

fn write_element<const SIZE: usize>(core: &mut Core, gva: u64, value: u64) -> Result<(), Fault> {
    if SIZE == 8 { core.write(gva, value) } else { core.write(gva, value as u32) }
}

/// VMASKMOV, VPMASKMOV from memory: unselected elements are zero.
fn mask_load<const WIDTH: u8, const SIZE: usize>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    check::<AVX>(core)?;
    let gva = core.operand_address(op)?;
    let mask = core.cpu.data.ymm[usize::from(op.vvvv & 15)];
    let mut value = [0; 4];
    for i in (0..usize::from(WIDTH) / SIZE).filter(|&i| selected::<SIZE>(&mask, i)) {
        let loaded = read_element::<SIZE>(core, op, gva.wrapping_add((i * SIZE) as u64))?;
        set_element::<SIZE>(&mut value, i, loaded);
    }
    set_vector::<AVX, WIDTH>(core, op.reg, &value);
    Ok(())
}

/// VMASKMOV, VPMASKMOV to memory: all selected elements are checked before the first is written.
fn mask_store<const WIDTH: u8, const SIZE: usize>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    check::<AVX>(core)?;
    let gva = core.operand_address(op)?;
    let mask = core.cpu.data.ymm[usize::from(op.vvvv & 15)];
    let value = core.cpu.data.ymm[usize::from(op.reg & 15)];
    let elements = || (0..usize::from(WIDTH) / SIZE).filter(|&i| selected::<SIZE>(&mask, i));
    let at = |i: usize| gva.wrapping_add((i * SIZE) as u64);
    for i in elements() {
        core.probe_write(at(i), SIZE as u64).map_err(|fault| core.refine_fault(op, fault))?;
    }
    for i in elements() {
        write_element::<SIZE>(core, at(i), element::<SIZE>(&value, i))?;
    }
    Ok(())
}

/// MASKMOVDQU, MASKMOVQ: bytes whose mask byte has its top bit set go to DS:[rDI].
fn byte_mask_store<const DOMAIN: u8>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    check::<DOMAIN>(core)?;
    let gva = core.operand_address(op)?;
    let source = |core: &Core, register: u8| {
        if DOMAIN == MMX {
            [fpu::register(&core.cpu.data.fx, physical(core, register)).significand, 0, 0, 0]
        } else {
            core.cpu.data.ymm[usize::from(register & 15)]
        }
    };
    let (value, mask) = (to_bytes(&source(core, op.reg)), to_bytes(&source(core, op.rm)));
    let count = if DOMAIN == MMX { 8 } else { 16 };
    let bytes = || (0..count).filter(|&i| mask[i] & 0x80 != 0);
    for i in bytes() {
        let at = gva.wrapping_add(i as u64);
        core.probe_write(at, 1).map_err(|fault| core.refine_fault(op, fault))?;
    }
    for i in bytes() {
        core.write(gva.wrapping_add(i as u64), value[i])?;
    }
    if DOMAIN == MMX {
        fpu::enter_mmx(&mut core.cpu.data.fx);
    }
    Ok(())
}

/// ST(i) that is MMX register `number`: those are numbered physically.
fn physical(core: &Core, number: u8) -> u8 {
    number.wrapping_sub(fpu::top(&core.cpu.data.fx)) & 7
}

/// VPGATHER, VGATHER: completed elements and their cleared mask bits stay when a later one faults.
fn gather<const INDEX: usize, const SIZE: usize, const COUNT: usize>(
    core: &mut Core,
    op: &Op,
) -> Result<(), Fault> {
    check::<AVX>(core)?;
    let indexes = core.cpu.data.ymm[usize::from(op.rm & 15)];
    let (to, mask_register) = (usize::from(op.reg & 15), usize::from(op.vvvv & 15));
    let mask = core.cpu.data.ymm[mask_register];
    // 16 or 32: the longer one of index vector and data.
    let vector_bytes = INDEX.max(SIZE) * COUNT;
    core.cpu.data.ymm[mask_register] = widened::<SIZE>(&mask, vector_bytes / SIZE);
    for i in (0..COUNT).filter(|&i| selected::<SIZE>(&mask, i)) {
        let index = element::<INDEX>(&indexes, i);
        let index = if INDEX == 4 { index as i32 as u64 } else { index };
        let loaded = gather_element::<SIZE>(core, op, index)?;
        set_element::<SIZE>(&mut core.cpu.data.ymm[to], i, loaded);
        core.cpu.data.ymm[to][vector_bytes / 8..].fill(0);
        set_element::<SIZE>(&mut core.cpu.data.ymm[mask_register], i, 0);
    }
    core.cpu.data.ymm[mask_register] = [0; 4];
    core.cpu.data.ymm[to][SIZE * COUNT / 8..].fill(0);
    Ok(())
}

/// A gather's mask as it is between elements: all bits of an element are as its top bit was.
fn widened<const SIZE: usize>(mask: &[u64; 4], elements: usize) -> [u64; 4] {
    let mut widened = [0; 4];
    for i in (0..elements).filter(|&i| selected::<SIZE>(mask, i)) {
        set_element::<SIZE>(&mut widened, i, u64::MAX);
    }
    widened
}

fn gather_element<const SIZE: usize>(core: &mut Core, op: &Op, index: u64) -> Result<u64, Fault> {
    core.cpu.data.gpr[INDEX_SLOT] = index;
    let gva = core.operand_address(&Op { index: INDEX_SLOT as u8, ..op.clone() });
    core.cpu.data.gpr[INDEX_SLOT] = 0;
    read_element::<SIZE>(core, op, gva?)
}
