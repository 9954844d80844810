//! The registers of a CPU: their names in expressions, and `info registers` in QEMU's form.

use replay::inspect::{Registers, SegmentRegister};
use std::fmt::Write as _;

/// Names of the general registers in the order of their numbers.
const WIDE: [&str; 8] = ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"];
const NARROW: [&str; 8] = ["eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"];
/// In the order in which they are shown, by number.
const SHOWN: [usize; 8] = [0, 3, 1, 2, 6, 7, 5, 4];
const SEGMENTS: [&str; 6] = ["es", "cs", "ss", "ds", "fs", "gs"];
const XCR0_AVX: u64 = 1 << 2;

/// The value of a register by the name that follows the dollar sign. QEMU's names mean all 64 bits (`$eax` is RAX).
pub fn value(registers: &Registers, name: &str) -> Option<u64> {
    let name = name.to_ascii_lowercase();
    if let Some(number) = WIDE.iter().position(|known| *known == name) {
        return Some(registers.gpr[number]);
    }
    if let Some(number) = NARROW.iter().position(|known| *known == name) {
        return Some(registers.gpr[number]);
    }
    if let Some(number) = name.strip_prefix('r').and_then(|digits| digits.parse::<usize>().ok()) {
        return (8..16).contains(&number).then(|| registers.gpr[number]);
    }
    let (first, part) = name.split_once('.').unwrap_or((&name, ""));
    if let Some(number) = SEGMENTS.iter().position(|known| *known == first) {
        let segment = &registers.segments[number];
        return match part {
            "" => Some(u64::from(segment.selector)),
            "base" => Some(segment.base),
            "limit" => Some(u64::from(segment.limit)),
            _ => None,
        };
    }
    Some(match name.as_str() {
        "pc" | "rip" | "eip" => registers.rip,
        "sp" => registers.gpr[4],
        "fp" => registers.gpr[5],
        "rflags" | "eflags" => registers.rflags,
        "cr0" => registers.cr[0],
        "cr2" => registers.cr[1],
        "cr3" => registers.cr[2],
        "cr4" => registers.cr[3],
        "cr8" => u64::from(registers.cr8),
        "efer" => registers.efer,
        "fs_base" => registers.segments[4].base,
        "gs_base" => registers.segments[5].base,
        _ => return None,
    })
}

/// `info registers`.
pub fn text(registers: &Registers, cpu: usize) -> String {
    let mut out = format!("\nCPU#{cpu}\n");
    general(registers, &mut out);
    segments(registers, &mut out);
    control(registers, &mut out);
    floating(registers, &mut out);
    out
}

fn general(registers: &Registers, out: &mut String) {
    let wide = registers.code_bits == 64;
    let names = if wide { WIDE } else { NARROW };
    for (at, number) in SHOWN.into_iter().enumerate() {
        let (name, value) = (names[number].to_ascii_uppercase(), registers.gpr[number]);
        let end = if at % 4 == 3 { '\n' } else { ' ' };
        let _ = if wide {
            write!(out, "{name}={value:016x}{end}")
        } else {
            write!(out, "{name}={:08x}{end}", value as u32)
        };
    }
    if wide {
        for number in 8..16 {
            let end = if number % 4 == 3 { '\n' } else { ' ' };
            let _ = write!(out, "{:<3}={:016x}{end}", format!("R{number}"), registers.gpr[number]);
        }
        let _ = write!(out, "RIP={:016x} RFL={:08x}", registers.rip, registers.rflags);
    } else {
        let _ = write!(out, "EIP={:08x} EFL={:08x}", registers.rip as u32, registers.rflags);
    }
    let flag = |bit: u32, letter: char| if registers.rflags & 1 << bit != 0 { letter } else { '-' };
    let flags = [(10, 'D'), (11, 'O'), (7, 'S'), (6, 'Z'), (4, 'A'), (2, 'P'), (0, 'C')];
    let flags: String = flags.into_iter().map(|(bit, letter)| flag(bit, letter)).collect();
    let _ = writeln!(
        out,
        " [{flags}] CPL={} II={} A20={} SMM=0 HLT={}",
        registers.cpl,
        u8::from(registers.interrupt_shadow),
        u8::from(registers.a20),
        u8::from(registers.halted)
    );
}

fn segments(registers: &Registers, out: &mut String) {
    for (name, segment) in SEGMENTS.iter().zip(&registers.segments) {
        segment_line(registers, &name.to_ascii_uppercase(), segment, out);
    }
    segment_line(registers, "LDT", &registers.ldt, out);
    segment_line(registers, "TR", &registers.tr, out);
    for (name, table) in [("GDT", &registers.gdt), ("IDT", &registers.idt)] {
        let base = if registers.long {
            format!("{:016x}", table.base)
        } else {
            format!("{:08x}", table.base as u32)
        };
        let _ = writeln!(out, "{name}=     {base} {:08x}", table.limit);
    }
}

fn segment_line(registers: &Registers, name: &str, segment: &SegmentRegister, out: &mut String) {
    let base = if registers.code_bits == 64 {
        format!("{:016x}", segment.base)
    } else {
        format!("{:08x}", segment.base as u32)
    };
    let _ =
        write!(out, "{name:<3}={:04x} {base} {:08x} {:08x}", segment.selector, segment.limit, segment.flags);
    if registers.protected && segment.flags & 1 << 15 != 0 {
        let _ = write!(out, " DPL={} {}", segment.flags >> 13 & 3, segment_kind(registers.long, segment));
    }
    out.push('\n');
}

/// Names of system segments by type (SDM 3A table 3-2).
const SYSTEM_NARROW: [&str; 16] = [
    "Reserved",
    "TSS16-avl",
    "LDT",
    "TSS16-busy",
    "CallGate16",
    "TaskGate",
    "IntGate16",
    "TrapGate16",
    "Reserved",
    "TSS32-avl",
    "Reserved",
    "TSS32-busy",
    "CallGate32",
    "Reserved",
    "IntGate32",
    "TrapGate32",
];
const SYSTEM_WIDE: [&str; 16] = [
    "<hiword>",
    "Reserved",
    "LDT",
    "Reserved",
    "Reserved",
    "Reserved",
    "Reserved",
    "Reserved",
    "Reserved",
    "TSS64-avl",
    "Reserved",
    "TSS64-busy",
    "CallGate64",
    "Reserved",
    "IntGate64",
    "TrapGate64",
];

fn segment_kind(long: bool, segment: &SegmentRegister) -> String {
    let has = |bit: u32| segment.flags & 1 << bit != 0;
    let letter = |bit: u32, letter: char| if has(bit) { letter } else { '-' };
    if !has(12) {
        let names = if long { SYSTEM_WIDE } else { SYSTEM_NARROW };
        return names[(segment.flags >> 8 & 15) as usize].to_owned();
    }
    let accessed = letter(8, 'A');
    if has(11) {
        let size = if has(21) {
            "CS64"
        } else if has(22) {
            "CS32"
        } else {
            "CS16"
        };
        format!("{size} [{}{}{accessed}]", letter(10, 'C'), letter(9, 'R'))
    } else {
        let size = if has(22) || long { "DS  " } else { "DS16" };
        format!("{size} [{}{}{accessed}]", letter(10, 'E'), letter(9, 'W'))
    }
}

fn control(registers: &Registers, out: &mut String) {
    let [cr0, cr2, cr3, cr4] = registers.cr;
    let _ = if registers.long {
        writeln!(out, "CR0={cr0:08x} CR2={cr2:016x} CR3={cr3:016x} CR4={cr4:08x}")
    } else {
        writeln!(out, "CR0={cr0:08x} CR2={:08x} CR3={:08x} CR4={cr4:08x}", cr2 as u32, cr3 as u32)
    };
    for (number, value) in registers.dr[..4].iter().enumerate() {
        let _ = write!(out, "DR{number}={value:016x} ");
    }
    let _ = writeln!(out, "\nDR6={:016x} DR7={:016x}", registers.dr[4], registers.dr[5]);
    let _ = writeln!(out, "EFER={:016x}", registers.efer);
}

fn floating(registers: &Registers, out: &mut String) {
    let _ = writeln!(
        out,
        "FCW={:04x} FSW={:04x} [ST={}] FTW={:02x} MXCSR={:08x}",
        registers.fcw,
        registers.fsw,
        registers.fsw >> 11 & 7,
        registers.ftw,
        registers.mxcsr
    );
    for (number, (significand, exponent)) in registers.fpr.iter().enumerate() {
        let end = if number % 2 == 1 { '\n' } else { ' ' };
        let _ = write!(out, "FPR{number}={significand:016x} {exponent:04x}{end}");
    }
    let count = if registers.code_bits == 64 { 16 } else { 8 };
    for (number, parts) in registers.ymm[..count].iter().enumerate() {
        let _ = if registers.xcr0 & XCR0_AVX != 0 {
            writeln!(
                out,
                "YMM{number:02}={:016x} {:016x} {:016x} {:016x}",
                parts[3], parts[2], parts[1], parts[0]
            )
        } else {
            let end = if number % 2 == 1 { '\n' } else { ' ' };
            write!(out, "XMM{number:02}={:016x} {:016x}{end}", parts[1], parts[0])
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The registers of QEMU 7.2's idle Linux, as far as they are in its text below.
    fn linux() -> Registers {
        let code = SegmentRegister { selector: 0x10, base: 0, limit: u32::MAX, flags: 0x00a0_9b00 };
        let data = SegmentRegister { selector: 0x18, base: 0, limit: u32::MAX, flags: 0x00c0_9300 };
        let none = SegmentRegister::default();
        let tr = SegmentRegister {
            selector: 0x40,
            base: 0xffff_fe00_0000_3000,
            limit: 0x4087,
            flags: 0x0000_8900,
        };
        let mut gpr = [0; 16];
        (gpr[0], gpr[8], gpr[10]) = (0xffff_ffff_a681_78a0, 4, 0xffff_fffb);
        Registers {
            gpr,
            rip: 0xffff_ffff_a681_7a0b,
            rflags: 0x202,
            segments: [none, code, data, none, none, none],
            ldt: SegmentRegister { flags: 0x8200, ..none },
            tr,
            cr: [0x8005_0033, 0x4b_fdc0, 0x2ac_8000, 0x6b0],
            dr: [0, 0, 0, 0, 0xffff_0ff0, 0x400],
            efer: 0xd01,
            fcw: 0x37f,
            mxcsr: 0x1f80,
            code_bits: 64,
            protected: true,
            long: true,
            a20: true,
            halted: true,
            ..Registers::default()
        }
    }

    #[test]
    fn the_text_is_that_of_qemu() {
        let text = text(&linux(), 0);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[..3],
            [
                "",
                "CPU#0",
                "RAX=ffffffffa68178a0 RBX=0000000000000000 RCX=0000000000000000 RDX=0000000000000000"
            ]
        );
        for line in [
            "R8 =0000000000000004 R9 =0000000000000000 R10=00000000fffffffb R11=0000000000000000",
            "RIP=ffffffffa6817a0b RFL=00000202 [-------] CPL=0 II=0 A20=1 SMM=0 HLT=1",
            "ES =0000 0000000000000000 00000000 00000000",
            "CS =0010 0000000000000000 ffffffff 00a09b00 DPL=0 CS64 [-RA]",
            "SS =0018 0000000000000000 ffffffff 00c09300 DPL=0 DS   [-WA]",
            "LDT=0000 0000000000000000 00000000 00008200 DPL=0 LDT",
            "TR =0040 fffffe0000003000 00004087 00008900 DPL=0 TSS64-avl",
            "GDT=     0000000000000000 00000000",
            "CR0=80050033 CR2=00000000004bfdc0 CR3=0000000002ac8000 CR4=000006b0",
            "DR0=0000000000000000 DR1=0000000000000000 DR2=0000000000000000 DR3=0000000000000000 ",
            "DR6=00000000ffff0ff0 DR7=0000000000000400",
            "EFER=0000000000000d01",
            "FCW=037f FSW=0000 [ST=0] FTW=00 MXCSR=00001f80",
            "FPR6=0000000000000000 0000 FPR7=0000000000000000 0000",
            "XMM14=0000000000000000 0000000000000000 XMM15=0000000000000000 0000000000000000",
        ] {
            assert!(lines.contains(&line), "{line}\nis not in\n{text}");
        }
    }

    #[test]
    fn other_modes() {
        let real = Registers { code_bits: 16, long: false, protected: false, ..linux() };
        let shown = text(&real, 0);
        assert!(shown.contains("EIP=a6817a0b EFL=00000202 [-------] CPL=0"), "{shown}");
        assert!(shown.contains("CS =0010 00000000 ffffffff 00a09b00\n"), "{shown}");
        assert!(shown.contains("GDT=     00000000 00000000\nIDT="), "{shown}");
        assert!(shown.contains("CR0=80050033 CR2=004bfdc0 CR3=02ac8000 CR4=000006b0\n"), "{shown}");
        assert!(!shown.contains("XMM08") && shown.contains("XMM07"), "{shown}");
        let avx = Registers { xcr0: 7, ..linux() };
        assert!(text(&avx, 0).contains("\nYMM15=0000000000000000 0000000000000000 0000000000000000 0"));
    }

    #[test]
    fn names() {
        let all = linux();
        for (name, wanted) in [
            ("rax", Some(0xffff_ffff_a681_78a0)),
            ("EAX", Some(0xffff_ffff_a681_78a0)),
            ("r8", Some(4)),
            ("r16", None),
            ("pc", Some(0xffff_ffff_a681_7a0b)),
            ("cs", Some(0x10)),
            ("cs.limit", Some(0xffff_ffff)),
            ("cs.nosuch", None),
            ("cr3", Some(0x2ac_8000)),
            ("", None),
            (".", None),
        ] {
            assert_eq!(value(&all, name), wanted, "{name}");
        }
    }
}
