//! Descriptor-table registers: LGDT, LIDT, LLDT, LTR and their stores (SDM 3A 2.4, vol. 2).

use super::control::{check_umip, source16, store_system};
use super::descriptor::{Descriptor, code_of, is_null, kind};
use crate::core::Core;
use crate::fault::{Fault, vector};
use crate::isa::{Op, Row, last, row};
use crate::mem::walk::is_canonical;
use crate::state::{Segment, TableReg};
use iced_x86::Code;

/// The instructions of this file.
pub const ROWS: &[Row] = &[
    row(Code::Lgdt_m1632_16, lgdt::<2>),
    row(Code::Lgdt_m1632, lgdt::<4>),
    row(Code::Lgdt_m1664, lgdt::<8>),
    row(Code::Lidt_m1632_16, lidt::<2>),
    row(Code::Lidt_m1632, lidt::<4>),
    row(Code::Lidt_m1664, lidt::<8>),
    row(Code::Sgdt_m1632_16, sgdt::<4>),
    row(Code::Sgdt_m1632, sgdt::<4>),
    row(Code::Sgdt_m1664, sgdt::<8>),
    row(Code::Sidt_m1632_16, sidt::<4>),
    row(Code::Sidt_m1632, sidt::<4>),
    row(Code::Sidt_m1664, sidt::<8>),
    row(Code::Sldt_rm16, sldt::<2>),
    row(Code::Sldt_r32m16, sldt::<4>),
    row(Code::Sldt_r64m16, sldt::<8>),
    row(Code::Str_rm16, str_::<2>),
    row(Code::Str_r32m16, str_::<4>),
    row(Code::Str_r64m16, str_::<8>),
    last(Code::Lldt_rm16, lldt),
    last(Code::Lldt_r32m16, lldt),
    last(Code::Lldt_r64m16, lldt),
    last(Code::Ltr_rm16, ltr),
    last(Code::Ltr_r32m16, ltr),
    last(Code::Ltr_r64m16, ltr),
];

/// Limit and base from memory; a 16-bit operand has a base of 24 bits.
fn load_table<const SIZE: u8>(core: &mut Core, op: &Op) -> Result<TableReg, Fault> {
    core.require_cpl0()?;
    let at = core.operand_address(op)?;
    let limit = core.read::<u16>(at).map_err(|fault| core.refine_fault(op, fault))?;
    let at = at.wrapping_add(2);
    let base = match SIZE {
        2 => u64::from(core.read::<u32>(at)? & 0xff_ffff),
        4 => u64::from(core.read::<u32>(at)?),
        _ => core.read::<u64>(at)?,
    };
    if is_canonical(base) { Ok(TableReg { base, limit }) } else { Err(Fault::gp(0)) }
}

fn store_table<const SIZE: u8>(core: &mut Core, op: &Op, table: TableReg) -> Result<(), Fault> {
    check_umip(core)?;
    let at = core.operand_address(op)?;
    let mut image = [0; 10];
    image[..2].copy_from_slice(&table.limit.to_le_bytes());
    image[2..].copy_from_slice(&table.base.to_le_bytes());
    let len = 2 + usize::from(SIZE);
    core.write_bytes(at, &image[..len]).map_err(|fault| core.refine_fault(op, fault))
}

fn lgdt<const SIZE: u8>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    core.cpu.gdtr = load_table::<SIZE>(core, op)?;
    Ok(())
}

fn lidt<const SIZE: u8>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    core.cpu.idtr = load_table::<SIZE>(core, op)?;
    Ok(())
}

fn sgdt<const SIZE: u8>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let table = core.cpu.gdtr;
    store_table::<SIZE>(core, op, table)
}

fn sidt<const SIZE: u8>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let table = core.cpu.idtr;
    store_table::<SIZE>(core, op, table)
}

fn sldt<const SIZE: u8>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    check_protected(core)?;
    check_umip(core)?;
    let selector = u64::from(core.cpu.ldtr.selector);
    store_system::<SIZE>(core, op, selector)
}

fn str_<const SIZE: u8>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    check_protected(core)?;
    check_umip(core)?;
    let selector = u64::from(core.cpu.tr.selector);
    store_system::<SIZE>(core, op, selector)
}

/// These instructions do not exist in real and virtual-8086 mode.
pub(super) fn check_protected(core: &Core) -> Result<(), Fault> {
    if core.real_segments() { Err(Fault::ud()) } else { Ok(()) }
}

fn lldt(core: &mut Core, op: &Op) -> Result<(), Fault> {
    check_protected(core)?;
    core.require_cpl0()?;
    let selector = source16(core, op)?;
    if is_null(selector) {
        core.cpu.ldtr = Segment { selector, ..Segment::default() };
        return Ok(());
    }
    let found = system_descriptor(core, selector)?;
    if found.kind() != kind::LDT {
        return Err(Fault::gp(code_of(selector)));
    }
    core.cpu.ldtr = system_segment(core, selector, found)?;
    Ok(())
}

fn ltr(core: &mut Core, op: &Op) -> Result<(), Fault> {
    check_protected(core)?;
    core.require_cpl0()?;
    let selector = source16(core, op)?;
    if is_null(selector) {
        return Err(Fault::gp(0));
    }
    let found = system_descriptor(core, selector)?;
    let available = found.kind() == kind::TSS || !core.mode.long && found.kind() == kind::TSS16;
    if !available {
        return Err(Fault::gp(code_of(selector)));
    }
    let busy = Descriptor(found.0 | 2 << 40);
    let loaded = system_segment(core, selector, busy)?;
    core.write_type(selector, busy)?;
    core.cpu.tr = loaded;
    Ok(())
}

/// A system descriptor of the GDT.
fn system_descriptor(core: &mut Core, selector: u16) -> Result<Descriptor, Fault> {
    if selector & 4 != 0 {
        return Err(Fault::gp(code_of(selector)));
    }
    let found = core.descriptor(selector, vector::GP)?;
    if found.is_system() { Ok(found) } else { Err(Fault::gp(code_of(selector))) }
}

/// LDTR or TR with a present descriptor; in long mode the base is in the upper half, too.
fn system_segment(core: &mut Core, selector: u16, found: Descriptor) -> Result<Segment, Fault> {
    if !found.present() {
        return Err(Fault::with_code(vector::NP, code_of(selector)));
    }
    let mut segment = found.segment(selector);
    if core.mode.long {
        let high = core.descriptor_high(selector, vector::GP)?;
        segment.base |= high << 32;
        let upper_type = high >> 40 & 0x1f;
        if upper_type != 0 || !is_canonical(segment.base) {
            return Err(Fault::gp(code_of(selector)));
        }
    }
    Ok(segment)
}
