//! The registers as gdb knows them: one row each, in the order of their numbers, for each architecture that gdb can be told.
//!
//! The description that gdb is sent and the `g` packet follow from these tables. Names and features are those of QEMU and gdb,
//! except for the last feature, which is our own.

use crate::state::seg;
use std::fmt::Write as _;

/// What gdb takes the CPU for: it decides how gdb shows code and how wide registers are. A connection keeps the one it began with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Architecture {
    /// All registers; code is shown as 64-bit code.
    #[default]
    Amd64,
    /// Code is shown as 32-bit code.
    I386,
    /// Code is shown as 16-bit code.
    I8086,
}

impl Architecture {
    /// All of them.
    pub const ALL: [Architecture; 3] = [Architecture::Amd64, Architecture::I386, Architecture::I8086];

    /// As gdb calls it.
    pub fn name(self) -> &'static str {
        match self {
            Architecture::Amd64 => "i386:x86-64",
            Architecture::I386 => "i386",
            Architecture::I8086 => "i8086",
        }
    }

    /// The one that gdb calls so.
    pub fn named(name: &str) -> Option<Architecture> {
        Architecture::ALL.into_iter().find(|architecture| architecture.name() == name)
    }

    /// Its registers in the order of their numbers.
    pub fn rows(self) -> impl Iterator<Item = &'static Register> {
        let groups: &[&[Register]] = match self {
            Architecture::Amd64 => &[CORE, SELECTORS, X87, XMM, MXCSR, YMM_HIGH, BASES, SYSTEM],
            // Without the eight registers that need a REX prefix.
            Architecture::I386 | Architecture::I8086 => {
                const { &[CORE_32, SELECTORS, X87, XMM.split_at(8).0, MXCSR, YMM_HIGH.split_at(8).0, SYSTEM_32] }
            }
        };
        groups.iter().flat_map(|group| group.iter())
    }

    /// One of them.
    pub fn row(self, number: usize) -> Option<&'static Register> {
        self.rows().nth(number)
    }
}

/// A feature of the target description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    Core,
    Sse,
    Avx,
    Segments,
    System,
}

/// What a register is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
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
pub struct Register {
    name: &'static str,
    /// Its width.
    pub bits: usize,
    kind_name: &'static str,
    feature: Feature,
    /// What it is.
    pub kind: Kind,
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
const CORE: &[Register] = &[
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
];

#[rustfmt::skip]
const CORE_32: &[Register] = &[
    register("eax", 32, "int32", Basic, Kind::General(0)),
    register("ecx", 32, "int32", Basic, Kind::General(1)),
    register("edx", 32, "int32", Basic, Kind::General(2)),
    register("ebx", 32, "int32", Basic, Kind::General(3)),
    register("esp", 32, "data_ptr", Basic, Kind::General(4)),
    register("ebp", 32, "data_ptr", Basic, Kind::General(5)),
    register("esi", 32, "int32", Basic, Kind::General(6)),
    register("edi", 32, "int32", Basic, Kind::General(7)),
    register("eip", 32, "code_ptr", Basic, Kind::Rip),
];

#[rustfmt::skip]
const SELECTORS: &[Register] = &[
    register("eflags", 32, "x86_eflags", Basic, Kind::Rflags),
    register("cs", 32, "int32", Basic, Kind::Selector(seg::CS)),
    register("ss", 32, "int32", Basic, Kind::Selector(seg::SS)),
    register("ds", 32, "int32", Basic, Kind::Selector(seg::DS)),
    register("es", 32, "int32", Basic, Kind::Selector(seg::ES)),
    register("fs", 32, "int32", Basic, Kind::Selector(seg::FS)),
    register("gs", 32, "int32", Basic, Kind::Selector(seg::GS)),
];

#[rustfmt::skip]
const X87: &[Register] = &[
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
];

#[rustfmt::skip]
const XMM: &[Register] = &[
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
];

#[rustfmt::skip]
const MXCSR: &[Register] = &[
    register("mxcsr", 32, "x86_mxcsr", Sse, Kind::Mxcsr),
];

#[rustfmt::skip]
const YMM_HIGH: &[Register] = &[
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
];

#[rustfmt::skip]
const BASES: &[Register] = &[
    register("fs_base", 64, "int", Segments, Kind::FsBase),
    register("gs_base", 64, "int", Segments, Kind::GsBase),
];

#[rustfmt::skip]
const SYSTEM: &[Register] = &[
    register("k_gs_base", 64, "int64", System, Kind::KernelGsBase),
    register("cr0", 64, "int64", System, Kind::Cr0),
    register("cr2", 64, "int64", System, Kind::Cr2),
    register("cr3", 64, "int64", System, Kind::Cr3),
    register("cr4", 64, "int64", System, Kind::Cr4),
    register("cr8", 64, "int64", System, Kind::Cr8),
    register("efer", 64, "int64", System, Kind::Efer),
    register("icount", 64, "int64", System, Kind::Icount),
];

#[rustfmt::skip]
const SYSTEM_32: &[Register] = &[
    register("cr0", 32, "int32", System, Kind::Cr0),
    register("cr2", 32, "int32", System, Kind::Cr2),
    register("cr3", 64, "int64", System, Kind::Cr3),
    register("cr4", 32, "int32", System, Kind::Cr4),
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
pub fn description(architecture: Architecture) -> String {
    let mut text = format!(
        "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\">\
         <target version=\"1.0\"><architecture>{}</architecture>",
        architecture.name()
    );
    for feature in [Basic, Sse, Avx, Segments, System] {
        let mut rows = architecture.rows().filter(|row| row.feature == feature).peekable();
        if rows.peek().is_none() {
            continue;
        }
        let _ = write!(text, "<feature name=\"{}\">{}", feature.name(), feature.types());
        for Register { name, bits, kind_name, .. } in rows {
            let _ = write!(text, "<reg name=\"{name}\" bitsize=\"{bits}\" type=\"{kind_name}\"/>");
        }
        text.push_str("</feature>");
    }
    text.push_str("</target>");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_in_the_order_of_the_numbers() {
        for architecture in Architecture::ALL {
            // gdb numbers registers by their order in the description.
            let mut order: Vec<Feature> = architecture.rows().map(|row| row.feature).collect();
            order.dedup();
            let without_bases =
                |feature: &Feature| *feature != Segments || architecture == Architecture::Amd64;
            let all: Vec<Feature> =
                [Basic, Sse, Avx, Segments, System].into_iter().filter(without_bases).collect();
            assert_eq!(order, all);
            let text = description(architecture);
            assert_eq!(text.matches("<reg ").count(), architecture.rows().count());
            assert!(text.contains("<reg name=\"icount\" bitsize=\"64\""));
            assert_eq!(Architecture::named(architecture.name()), Some(architecture));
        }
        assert_eq!(Architecture::named("i486"), None);
    }
}
