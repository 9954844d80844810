//! The registers as gdb knows them: one row each, in the order of their numbers.
//!
//! The description that gdb is sent and the `g` packet follow from this table. Names and features are those of QEMU and gdb,
//! except for the last feature, which is our own.

use crate::core::Core;
use crate::state::{cr0, seg};
use std::fmt::Write as _;

/// A feature of the target description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Feature {
    Core,
    Sse,
    Avx,
    Segments,
    System,
}

/// What a register is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    General(usize),
    Rip,
    Rflags,
    Selector(usize),
    /// ST(n).
    Stack(usize),
    /// Two bytes of the FXSAVE image at this offset, shown as four.
    FxWord(usize),
    /// The tag word in full.
    FxTags,
    Xmm(usize),
    Mxcsr,
    /// Upper half of YMM.
    YmmHigh(usize),
    FsBase,
    GsBase,
    KernelGsBase,
    Cr0,
    Cr2,
    Cr3,
    Cr4,
    Cr8,
    Efer,
    Icount,
}

/// One register.
#[derive(Debug)]
struct Register {
    name: &'static str,
    bits: usize,
    kind_name: &'static str,
    feature: Feature,
    kind: Kind,
}

const fn register(
    name: &'static str,
    bits: usize,
    kind_name: &'static str,
    feature: Feature,
    kind: Kind,
) -> Register {
    Register { name, bits, kind_name, feature, kind }
}

use Feature::{Avx, Core as Basic, Segments, Sse, System};

#[rustfmt::skip]
static REGISTERS: &[Register] = &[
    register("rax", 64, "int64", Basic, Kind::General(0)),
    register("rbx", 64, "int64", Basic, Kind::General(3)),
    register("rcx", 64, "int64", Basic, Kind::General(1)),
    register("rdx", 64, "int64", Basic, Kind::General(2)),
    register("rsi", 64, "int64", Basic, Kind::General(6)),
    register("rdi", 64, "int64", Basic, Kind::General(7)),
    register("rbp", 64, "data_ptr", Basic, Kind::General(5)),
    register("rsp", 64, "data_ptr", Basic, Kind::General(4)),
    register("r8", 64, "int64", Basic, Kind::General(8)),
    register("r9", 64, "int64", Basic, Kind::General(9)),
    register("r10", 64, "int64", Basic, Kind::General(10)),
    register("r11", 64, "int64", Basic, Kind::General(11)),
    register("r12", 64, "int64", Basic, Kind::General(12)),
    register("r13", 64, "int64", Basic, Kind::General(13)),
    register("r14", 64, "int64", Basic, Kind::General(14)),
    register("r15", 64, "int64", Basic, Kind::General(15)),
    register("rip", 64, "code_ptr", Basic, Kind::Rip),
    register("eflags", 32, "x86_eflags", Basic, Kind::Rflags),
    register("cs", 32, "int32", Basic, Kind::Selector(seg::CS)),
    register("ss", 32, "int32", Basic, Kind::Selector(seg::SS)),
    register("ds", 32, "int32", Basic, Kind::Selector(seg::DS)),
    register("es", 32, "int32", Basic, Kind::Selector(seg::ES)),
    register("fs", 32, "int32", Basic, Kind::Selector(seg::FS)),
    register("gs", 32, "int32", Basic, Kind::Selector(seg::GS)),
    register("st0", 80, "i387_ext", Basic, Kind::Stack(0)),
    register("st1", 80, "i387_ext", Basic, Kind::Stack(1)),
    register("st2", 80, "i387_ext", Basic, Kind::Stack(2)),
    register("st3", 80, "i387_ext", Basic, Kind::Stack(3)),
    register("st4", 80, "i387_ext", Basic, Kind::Stack(4)),
    register("st5", 80, "i387_ext", Basic, Kind::Stack(5)),
    register("st6", 80, "i387_ext", Basic, Kind::Stack(6)),
    register("st7", 80, "i387_ext", Basic, Kind::Stack(7)),
    register("fctrl", 32, "int", Basic, Kind::FxWord(0)),
    register("fstat", 32, "int", Basic, Kind::FxWord(2)),
    register("ftag", 32, "int", Basic, Kind::FxTags),
    register("fiseg", 32, "int", Basic, Kind::FxWord(12)),
    register("fioff", 32, "int", Basic, Kind::FxWord(8)),
    register("foseg", 32, "int", Basic, Kind::FxWord(20)),
    register("fooff", 32, "int", Basic, Kind::FxWord(16)),
    register("fop", 32, "int", Basic, Kind::FxWord(6)),
    register("xmm0", 128, "vec128", Sse, Kind::Xmm(0)),
    register("xmm1", 128, "vec128", Sse, Kind::Xmm(1)),
    register("xmm2", 128, "vec128", Sse, Kind::Xmm(2)),
    register("xmm3", 128, "vec128", Sse, Kind::Xmm(3)),
    register("xmm4", 128, "vec128", Sse, Kind::Xmm(4)),
    register("xmm5", 128, "vec128", Sse, Kind::Xmm(5)),
    register("xmm6", 128, "vec128", Sse, Kind::Xmm(6)),
    register("xmm7", 128, "vec128", Sse, Kind::Xmm(7)),
    register("xmm8", 128, "vec128", Sse, Kind::Xmm(8)),
    register("xmm9", 128, "vec128", Sse, Kind::Xmm(9)),
    register("xmm10", 128, "vec128", Sse, Kind::Xmm(10)),
    register("xmm11", 128, "vec128", Sse, Kind::Xmm(11)),
    register("xmm12", 128, "vec128", Sse, Kind::Xmm(12)),
    register("xmm13", 128, "vec128", Sse, Kind::Xmm(13)),
    register("xmm14", 128, "vec128", Sse, Kind::Xmm(14)),
    register("xmm15", 128, "vec128", Sse, Kind::Xmm(15)),
    register("mxcsr", 32, "x86_mxcsr", Sse, Kind::Mxcsr),
    register("ymm0h", 128, "uint128", Avx, Kind::YmmHigh(0)),
    register("ymm1h", 128, "uint128", Avx, Kind::YmmHigh(1)),
    register("ymm2h", 128, "uint128", Avx, Kind::YmmHigh(2)),
    register("ymm3h", 128, "uint128", Avx, Kind::YmmHigh(3)),
    register("ymm4h", 128, "uint128", Avx, Kind::YmmHigh(4)),
    register("ymm5h", 128, "uint128", Avx, Kind::YmmHigh(5)),
    register("ymm6h", 128, "uint128", Avx, Kind::YmmHigh(6)),
    register("ymm7h", 128, "uint128", Avx, Kind::YmmHigh(7)),
    register("ymm8h", 128, "uint128", Avx, Kind::YmmHigh(8)),
    register("ymm9h", 128, "uint128", Avx, Kind::YmmHigh(9)),
    register("ymm10h", 128, "uint128", Avx, Kind::YmmHigh(10)),
    register("ymm11h", 128, "uint128", Avx, Kind::YmmHigh(11)),
    register("ymm12h", 128, "uint128", Avx, Kind::YmmHigh(12)),
    register("ymm13h", 128, "uint128", Avx, Kind::YmmHigh(13)),
    register("ymm14h", 128, "uint128", Avx, Kind::YmmHigh(14)),
    register("ymm15h", 128, "uint128", Avx, Kind::YmmHigh(15)),
    register("fs_base", 64, "int", Segments, Kind::FsBase),
    register("gs_base", 64, "int", Segments, Kind::GsBase),
    register("k_gs_base", 64, "int64", System, Kind::KernelGsBase),
    register("cr0", 64, "int64", System, Kind::Cr0),
    register("cr2", 64, "int64", System, Kind::Cr2),
    register("cr3", 64, "int64", System, Kind::Cr3),
    register("cr4", 64, "int64", System, Kind::Cr4),
    register("cr8", 64, "int64", System, Kind::Cr8),
    register("efer", 64, "int64", System, Kind::Efer),
    register("icount", 64, "int64", System, Kind::Icount),
];

/// Flags and structures that the description defines, by feature.
const CORE_TYPES: &str = "\
<flags id=\"x86_eflags\" size=\"4\">\
<field name=\"CF\" start=\"0\" end=\"0\"/><field name=\"\" start=\"1\" end=\"1\"/>\
<field name=\"PF\" start=\"2\" end=\"2\"/><field name=\"AF\" start=\"4\" end=\"4\"/>\
<field name=\"ZF\" start=\"6\" end=\"6\"/><field name=\"SF\" start=\"7\" end=\"7\"/>\
<field name=\"TF\" start=\"8\" end=\"8\"/><field name=\"IF\" start=\"9\" end=\"9\"/>\
<field name=\"DF\" start=\"10\" end=\"10\"/><field name=\"OF\" start=\"11\" end=\"11\"/>\
<field name=\"NT\" start=\"14\" end=\"14\"/><field name=\"RF\" start=\"16\" end=\"16\"/>\
<field name=\"VM\" start=\"17\" end=\"17\"/><field name=\"AC\" start=\"18\" end=\"18\"/>\
<field name=\"VIF\" start=\"19\" end=\"19\"/><field name=\"VIP\" start=\"20\" end=\"20\"/>\
<field name=\"ID\" start=\"21\" end=\"21\"/></flags>";
const SSE_TYPES: &str = "\
<vector id=\"v4f\" type=\"ieee_single\" count=\"4\"/><vector id=\"v2d\" type=\"ieee_double\" count=\"2\"/>\
<vector id=\"v16i8\" type=\"int8\" count=\"16\"/><vector id=\"v8i16\" type=\"int16\" count=\"8\"/>\
<vector id=\"v4i32\" type=\"int32\" count=\"4\"/><vector id=\"v2i64\" type=\"int64\" count=\"2\"/>\
<union id=\"vec128\"><field name=\"v4_float\" type=\"v4f\"/><field name=\"v2_double\" type=\"v2d\"/>\
<field name=\"v16_int8\" type=\"v16i8\"/><field name=\"v8_int16\" type=\"v8i16\"/>\
<field name=\"v4_int32\" type=\"v4i32\"/><field name=\"v2_int64\" type=\"v2i64\"/>\
<field name=\"uint128\" type=\"uint128\"/></union>\
<flags id=\"x86_mxcsr\" size=\"4\">\
<field name=\"IE\" start=\"0\" end=\"0\"/><field name=\"DE\" start=\"1\" end=\"1\"/>\
<field name=\"ZE\" start=\"2\" end=\"2\"/><field name=\"OE\" start=\"3\" end=\"3\"/>\
<field name=\"UE\" start=\"4\" end=\"4\"/><field name=\"PE\" start=\"5\" end=\"5\"/>\
<field name=\"DAZ\" start=\"6\" end=\"6\"/><field name=\"IM\" start=\"7\" end=\"7\"/>\
<field name=\"DM\" start=\"8\" end=\"8\"/><field name=\"ZM\" start=\"9\" end=\"9\"/>\
<field name=\"OM\" start=\"10\" end=\"10\"/><field name=\"UM\" start=\"11\" end=\"11\"/>\
<field name=\"PM\" start=\"12\" end=\"12\"/><field name=\"FZ\" start=\"15\" end=\"15\"/></flags>";

impl Feature {
    fn name(self) -> &'static str {
        match self {
            Basic => "org.gnu.gdb.i386.core",
            Sse => "org.gnu.gdb.i386.sse",
            Avx => "org.gnu.gdb.i386.avx",
            Segments => "org.gnu.gdb.i386.segments",
            System => "org.reprise.x86.system",
        }
    }

    fn types(self) -> &'static str {
        match self {
            Basic => CORE_TYPES,
            Sse => SSE_TYPES,
            Avx | Segments | System => "",
        }
    }
}

/// The target description.
pub fn description() -> String {
    let mut text = "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\">\
                    <target version=\"1.0\"><architecture>i386:x86-64</architecture>"
        .to_owned();
    for feature in [Basic, Sse, Avx, Segments, System] {
        let _ = write!(text, "<feature name=\"{}\">{}", feature.name(), feature.types());
        for row in REGISTERS.iter().filter(|row| row.feature == feature) {
            let Register { name, bits, kind_name, .. } = row;
            let _ = write!(text, "<reg name=\"{name}\" bitsize=\"{bits}\" type=\"{kind_name}\"/>");
        }
        text.push_str("</feature>");
    }
    text.push_str("</target>");
    text
}

/// Bytes of a register; `None`: there is no such register.
pub fn size(number: usize) -> Option<usize> {
    REGISTERS.get(number).map(|row| row.bits / 8)
}

/// All registers, as the `g` packet has them.
pub fn read_all(core: &Core) -> Vec<u8> {
    REGISTERS.iter().flat_map(|row| read_row(core, row)).collect()
}

/// One register, little endian; `None`: there is no such register.
pub fn read(core: &Core, number: usize) -> Option<Vec<u8>> {
    REGISTERS.get(number).map(|row| read_row(core, row))
}

fn read_row(core: &Core, row: &Register) -> Vec<u8> {
    let (cpu, data) = (&core.cpu, &core.cpu.data);
    let halves = |pair: &[u64]| pair.iter().flat_map(|half| half.to_le_bytes()).collect::<Vec<u8>>();
    let fx_word = |at: usize| u64::from(u16::from_le_bytes([data.fx.0[at], data.fx.0[at + 1]]));
    let value = match row.kind {
        Kind::Stack(n) => return data.fx.0[32 + 16 * n..][..10].to_vec(),
        Kind::Xmm(n) => return halves(&data.ymm[n][..2]),
        Kind::YmmHigh(n) => return halves(&data.ymm[n][2..]),
        Kind::General(n) => data.gpr[n],
        Kind::Rip => cpu.rip,
        Kind::Rflags => core.rflags().into(),
        Kind::Selector(n) => cpu.segments[n].selector.into(),
        Kind::FxWord(at) => fx_word(at),
        Kind::FxTags => full_tags(&data.fx.0).into(),
        Kind::Mxcsr => data.mxcsr.into(),
        Kind::FsBase => cpu.segments[seg::FS].base,
        Kind::GsBase => cpu.segments[seg::GS].base,
        Kind::KernelGsBase => cpu.msr.kernel_gs_base,
        Kind::Cr0 => cpu.cr0,
        Kind::Cr2 => cpu.cr2,
        Kind::Cr3 => cpu.cr3,
        Kind::Cr4 => cpu.cr4,
        Kind::Cr8 => core.chipset.cr8().into(),
        Kind::Efer => cpu.efer,
        Kind::Icount => cpu.icount,
    };
    value.to_le_bytes()[..row.bits / 8].to_vec()
}

/// The tag word as FSTENV stores it, from FXSAVE's abridged one (SDM 1 table 10-2).
fn full_tags(fx: &[u8; 512]) -> u16 {
    let top = usize::from(fx[3] >> 3 & 7);
    let tag = |register: usize| -> u16 {
        if fx[4] >> register & 1 == 0 {
            return 3;
        }
        let place = &fx[32 + 16 * ((register + 8 - top) & 7)..][..10];
        let exponent = u16::from_le_bytes([place[8], place[9]]) & 0x7fff;
        let fraction = u64::from_le_bytes(place[..8].try_into().expect("eight bytes"));
        match (exponent, fraction >> 63) {
            (0, _) if fraction == 0 => 1,
            (0 | 0x7fff, _) | (_, 0) => 2,
            _ => 0,
        }
    };
    (0..8).fold(0, |tags, register| tags | tag(register) << (2 * register))
}

/// Bits of RFLAGS that a debugger may change: not VM, and not those that are fixed.
const RFLAGS_WRITABLE: u64 = 0x3d_7fd5;
/// Bits of MXCSR that may be set (SDM 1 figure 10-3).
const MXCSR_WRITABLE: u64 = 0xffff;

/// Writes all registers that can be written, from a `G` packet; false when its length is wrong.
pub fn write_all(core: &mut Core, mut bytes: &[u8]) -> bool {
    let length: usize = REGISTERS.iter().map(|row| row.bits / 8).sum();
    if bytes.len() != length {
        return false;
    }
    for (number, row) in REGISTERS.iter().enumerate() {
        let (now, later) = bytes.split_at(row.bits / 8);
        // One that cannot be written keeps its value.
        write(core, number, now);
        bytes = later;
    }
    true
}

/// Writes one register; false when there is none that could be written, or its length is another.
pub fn write(core: &mut Core, number: usize, bytes: &[u8]) -> bool {
    let Some(row) = REGISTERS.get(number) else { return false };
    if bytes.len() != row.bits / 8 {
        return false;
    }
    let mut wide = [0; 16];
    wide[..bytes.len()].copy_from_slice(bytes);
    let both = u128::from_le_bytes(wide);
    let (value, high) = (both as u64, (both >> 64) as u64);
    let data = &mut core.cpu.data;
    match row.kind {
        Kind::General(n) => data.gpr[n] = value,
        Kind::Rip => core.cpu.rip = if core.mode.bits == 64 { value } else { value & 0xffff_ffff },
        Kind::Rflags => {
            let kept = u64::from(core.rflags()) & !RFLAGS_WRITABLE;
            core.set_rflags((value & RFLAGS_WRITABLE | kept) as u32);
            core.mode_changed();
        }
        Kind::Stack(n) => data.fx.0[32 + 16 * n..][..10].copy_from_slice(bytes),
        Kind::FxWord(at) => data.fx.0[at..at + 2].copy_from_slice(&bytes[..2]),
        Kind::Xmm(n) => data.ymm[n][..2].copy_from_slice(&[value, high]),
        Kind::YmmHigh(n) => data.ymm[n][2..].copy_from_slice(&[value, high]),
        Kind::Mxcsr => data.mxcsr = (value & MXCSR_WRITABLE) as u32,
        Kind::FsBase => return write_base(core, seg::FS, value),
        Kind::GsBase => return write_base(core, seg::GS, value),
        Kind::KernelGsBase if crate::mem::walk::is_canonical(value) => core.cpu.msr.kernel_gs_base = value,
        Kind::Cr2 => core.cpu.cr2 = value,
        Kind::KernelGsBase
        | Kind::Selector(_)
        | Kind::FxTags
        | Kind::Cr0
        | Kind::Cr3
        | Kind::Cr4
        | Kind::Cr8
        | Kind::Efer
        | Kind::Icount => return false,
    }
    true
}

fn write_base(core: &mut Core, segment: usize, value: u64) -> bool {
    let fits = if core.cpu.cr0 & cr0::PE != 0 && core.mode.long {
        crate::mem::walk::is_canonical(value)
    } else {
        value >> 32 == 0
    };
    if fits {
        core.cpu.segments[segment].base = value;
        core.mode_changed();
    }
    fits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_in_the_order_of_the_numbers() {
        // gdb numbers registers by their order in the description.
        let mut order: Vec<Feature> = REGISTERS.iter().map(|row| row.feature).collect();
        order.dedup();
        assert_eq!(order, [Basic, Sse, Avx, Segments, System]);
        let text = description();
        assert_eq!(text.matches("<reg ").count(), REGISTERS.len());
        assert!(text.contains("<reg name=\"icount\" bitsize=\"64\""));
    }

    #[test]
    fn tags_say_what_the_registers_hold() {
        let mut fx = [0; 512];
        assert_eq!(full_tags(&fx), 0xffff, "all empty");
        fx[3] = 6 << 3;
        fx[4] = 0b1100_0000;
        // ST(0), register 6: 1.0; ST(1), register 7: zero.
        fx[32 + 7] = 0x80;
        fx[32 + 8..32 + 10].copy_from_slice(&0x3fffu16.to_le_bytes());
        assert_eq!(full_tags(&fx), 0b01_00 << 12 | 0xfff);
    }
}
