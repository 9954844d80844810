//! RCPPS, RCPSS, RSQRTPS, RSQRTSS: `softfp::approx` applied to vectors.

use super::moves::set_vector;
use super::plan::Domain;
use super::run::check;
use crate::core::Core;
use crate::fault::Fault;
use crate::isa::{Op, Row, opflag, row};
use crate::softfp::approx::{reciprocal, reciprocal_square_root};
use iced_x86::Code::*;

const SSE: u8 = Domain::Sse as u8;
const AVX: u8 = Domain::Avx as u8;
const RCP: bool = false;
const RSQRT: bool = true;

pub(super) const ROWS: &[Row] = &[
    row(Rcpps_xmm_xmmm128, packed::<SSE, 16, RCP>),
    row(VEX_Vrcpps_xmm_xmmm128, packed::<AVX, 16, RCP>),
    row(VEX_Vrcpps_ymm_ymmm256, packed::<AVX, 32, RCP>),
    row(Rcpss_xmm_xmmm32, scalar::<SSE, RCP>),
    row(VEX_Vrcpss_xmm_xmm_xmmm32, scalar::<AVX, RCP>),
    row(Rsqrtps_xmm_xmmm128, packed::<SSE, 16, RSQRT>),
    row(VEX_Vrsqrtps_xmm_xmmm128, packed::<AVX, 16, RSQRT>),
    row(VEX_Vrsqrtps_ymm_ymmm256, packed::<AVX, 32, RSQRT>),
    row(Rsqrtss_xmm_xmmm32, scalar::<SSE, RSQRT>),
    row(VEX_Vrsqrtss_xmm_xmm_xmmm32, scalar::<AVX, RSQRT>),
];

fn single<const ROOT: bool>(x: u32) -> u32 {
    if ROOT { reciprocal_square_root(x) } else { reciprocal(x) }
}

/// The second operand; `SIZE` bytes of it count.
fn source(core: &mut Core, op: &Op, size: u8, align_mask: u8) -> Result<[u64; 4], Fault> {
    if op.flags & opflag::MEMORY == 0 {
        return Ok(core.cpu.data.ymm[usize::from(op.rm & 15)]);
    }
    let gva = core.vector_address(op, align_mask)?;
    core.read_vector(op, gva, size)
}

fn packed<const DOMAIN: u8, const SIZE: u8, const ROOT: bool>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    check::<DOMAIN>(core)?;
    let align_mask = if DOMAIN == SSE { 15 } else { 0 };
    let value = source(core, op, SIZE, align_mask)?.map(|pair| {
        let (low, high) = (single::<ROOT>(pair as u32), single::<ROOT>((pair >> 32) as u32));
        u64::from(low) | u64::from(high) << 32
    });
    set_vector::<DOMAIN, SIZE>(core, op.reg, &value);
    Ok(())
}

/// The rest of the low half comes from the destination (legacy) or the first source (VEX).
fn scalar<const DOMAIN: u8, const ROOT: bool>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    check::<DOMAIN>(core)?;
    let low = single::<ROOT>(source(core, op, 4, 0)?[0] as u32);
    let rest = if DOMAIN == SSE { op.reg } else { op.vvvv };
    let mut value = core.cpu.data.ymm[usize::from(rest & 15)];
    value[0] = value[0] >> 32 << 32 | u64::from(low);
    set_vector::<DOMAIN, 16>(core, op.reg, &value);
    Ok(())
}
