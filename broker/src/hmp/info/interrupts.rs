//! `info pic`, `info lapic`, `info irq`.

use crate::hmp::args::Args;
use crate::hmp::inquiry::{Asker, Task};
use replay::inspect::{Answer, Interrupts, LAPIC_REGISTERS, LocalApic, Query};
use std::fmt::Write as _;

/// Bits of the entries of the I/O APIC and of the local vector table (SDM 3A figure 11-8; Intel 290566, 3.2.4).
const MASKED: u64 = 1 << 16;
const LEVEL: u64 = 1 << 15;
const REMOTE_IRR: u64 = 1 << 14;
const ACTIVE_LOW: u64 = 1 << 13;
const PENDING: u64 = 1 << 12;
const LOGICAL: u64 = 1 << 11;
const NMI: usize = 4;
const PIN_MODES: [&str; 8] = ["fixed", "lowest", "smi", "...", "nmi", "init", "...", "extint"];
const LVT_MODES: [&str; 8] = ["Fixed", "...", "SMI", "...", "NMI", "INIT", "...", "ExtINT"];
/// Version of the I/O APIC.
const IOAPIC_VERSION: u32 = 0x20;
/// The register of the first half of the first redirection entry.
const IOAPIC_TABLE: u8 = 0x10;

async fn interrupts(asker: &Asker) -> Result<Interrupts, String> {
    match asker.ask(Query::Interrupts).await {
        Answer::Interrupts(interrupts) => Ok(*interrupts),
        _ => Err(asker.unfit()),
    }
}

pub(in crate::hmp) fn pic(asker: Asker, _: Args) -> Task {
    Box::pin(async move { Ok(pic_text(&interrupts(&asker).await?)) })
}

fn mode(entry: u64) -> usize {
    (entry >> 8 & 7) as usize
}

fn polarity(entry: u64) -> &'static str {
    if entry & ACTIVE_LOW != 0 { "lo" } else { "hi" }
}

fn trigger(entry: u64) -> &'static str {
    if entry & LEVEL != 0 { "level" } else { "edge" }
}

fn masked(entry: u64) -> &'static str {
    if entry & MASKED != 0 { "masked" } else { "" }
}

fn pic_text(view: &Interrupts) -> String {
    let mut text = format!(
        "ioapic0: ver=0x{IOAPIC_VERSION:02x} id=0x{:02x} sel=0x{:02x}",
        view.ioapic_id >> 24,
        view.ioapic_select
    );
    if let Some(register) = view.ioapic_select.checked_sub(IOAPIC_TABLE) {
        let _ = write!(text, " (redir[{}])", register / 2);
    }
    text.push('\n');
    let mut waiting = String::new();
    for (pin, entry) in view.ioapic_table.iter().copied().enumerate() {
        let _ = writeln!(
            text,
            "  pin {pin:<2} 0x{entry:016x} dest={:x} vec={:<3} active-{} {:<5} {:<6} {:<6} {}",
            entry >> 56,
            entry & 0xff,
            polarity(entry),
            trigger(entry),
            masked(entry),
            PIN_MODES[mode(entry)],
            if entry & LOGICAL != 0 { "logical" } else { "physical" }
        );
        if entry & REMOTE_IRR != 0 && entry & LEVEL != 0 {
            let _ = write!(waiting, " {pin}");
        }
    }
    let asking = (0..32).filter(|pin| view.ioapic_requests & 1 << pin != 0);
    let asking: String = asking.map(|pin| format!(" {pin}")).collect();
    let or_none = |list: String| if list.is_empty() { " (none)".to_owned() } else { list };
    let _ = writeln!(text, "  IRR     {}", or_none(asking));
    let _ = writeln!(text, "  Remote IRR{}", or_none(waiting));
    for (number, pic) in view.pics.iter().enumerate().rev() {
        let _ = writeln!(
            text,
            "pic{number}: irr={:02x} imr={:02x} isr={:02x} hprio={} irq_base={:02x} rr_sel={} elcr={:02x} fnm={}",
            pic.requests,
            pic.mask,
            pic.in_service,
            pic.highest,
            pic.vector_base,
            u8::from(pic.reads_in_service),
            pic.level,
            u8::from(pic.fully_nested)
        );
    }
    text
}

pub(in crate::hmp) fn irq(asker: Asker, _: Args) -> Task {
    Box::pin(async move {
        let view = interrupts(&asker).await?;
        let mut text = String::new();
        for (name, counts) in [("ioapic", &view.ioapic_raised), ("isa-i8259", &view.pic_raised)] {
            let _ = writeln!(text, "IRQ statistics for {name}:");
            for (line, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
                let _ = writeln!(text, "{line:2}: {count}");
            }
        }
        Ok(text)
    })
}

pub(in crate::hmp) fn lapic(asker: Asker, args: Args) -> Task {
    Box::pin(async move {
        if args.integer("apic-id").is_some_and(|id| id != 0) {
            return Ok("No CPU available\n".to_owned());
        }
        match asker.ask(Query::LocalApic).await {
            Answer::LocalApic(apic) if apic.registers.len() == LAPIC_REGISTERS => Ok(lapic_text(&apic)),
            _ => Err(asker.unfit()),
        }
    })
}

/// Index of registers: their address / 16 (SDM 3A table 11-1).
mod register {
    pub const TPR: usize = 0x08;
    pub const APR: usize = 0x09;
    pub const PPR: usize = 0x0a;
    pub const LDR: usize = 0x0d;
    pub const DFR: usize = 0x0e;
    pub const SVR: usize = 0x0f;
    pub const ISR: usize = 0x10;
    pub const TMR: usize = 0x18;
    pub const IRR: usize = 0x20;
    pub const ESR: usize = 0x28;
    pub const ICR_LOW: usize = 0x30;
    pub const ICR_HIGH: usize = 0x31;
    pub const LVT_TIMER: usize = 0x32;
    pub const LVT_THERMAL: usize = 0x33;
    pub const LVT_PERFORMANCE: usize = 0x34;
    pub const LVT_LINT0: usize = 0x35;
    pub const LVT_LINT1: usize = 0x36;
    pub const LVT_ERROR: usize = 0x37;
    pub const INITIAL_COUNT: usize = 0x38;
    pub const CURRENT_COUNT: usize = 0x39;
    pub const DIVIDE: usize = 0x3e;
}

/// The local vector table in the order in which it is shown.
const LVT: [(&str, usize); 6] = [
    ("LVT0", register::LVT_LINT0),
    ("LVT1", register::LVT_LINT1),
    ("LVTPC", register::LVT_PERFORMANCE),
    ("LVTERR", register::LVT_ERROR),
    ("LVTTHMR", register::LVT_THERMAL),
    ("LVTT", register::LVT_TIMER),
];

fn lapic_text(apic: &LocalApic) -> String {
    let register = |index: usize| apic.registers[index];
    let mut text = format!("dumping local APIC state for CPU {} \n\n", apic.id);
    for (name, index) in LVT {
        lvt_line(&mut text, name, u64::from(register(index)), index == register::LVT_TIMER);
    }
    let divide = register(register::DIVIDE);
    let _ = writeln!(
        text,
        "Timer\t DCR=0x{divide:x} (divide by {}) initial_count = {} current_count = {}",
        1 << (((divide >> 1 & 4 | divide & 3) + 1) & 7),
        register(register::INITIAL_COUNT),
        register(register::CURRENT_COUNT)
    );
    let spurious = register(register::SVR);
    let _ = writeln!(
        text,
        "SPIV\t 0x{spurious:08x} APIC {}, focus={}, spurious vec {}",
        if spurious & 1 << 8 != 0 { "enabled" } else { "disabled" },
        if spurious & 1 << 9 != 0 { "on" } else { "off" },
        spurious & 0xff
    );
    command_lines(&mut text, apic);
    let _ = writeln!(text, "ESR\t 0x{:08x}", register(register::ESR));
    vectors_line(&mut text, "ISR", apic, register::ISR);
    vectors_line(&mut text, "IRR", apic, register::IRR);
    let _ = writeln!(
        text,
        "\nAPR 0x{:02x} TPR 0x{:02x} DFR 0x{:02x} LDR 0x{:02x} PPR 0x{:02x}",
        register(register::APR),
        register(register::TPR),
        register(register::DFR) >> 28,
        if is_x2apic(apic) { register(register::LDR) } else { register(register::LDR) >> 24 },
        register(register::PPR)
    );
    text
}

fn is_x2apic(apic: &LocalApic) -> bool {
    apic.base & 1 << 10 != 0
}

fn lvt_line(text: &mut String, name: &str, entry: u64, timer: bool) {
    let kind = match entry >> 17 & 3 {
        _ if !timer => "",
        1 => "periodic",
        2 => "tsc-deadline",
        _ => "one-shot",
    };
    let _ = write!(
        text,
        "{name}\t 0x{entry:08x} active-{} {:<5} {:<6} {:<7} {kind:<12} {:<6}",
        polarity(entry),
        trigger(entry),
        masked(entry),
        if entry & PENDING != 0 { "pending" } else { "" },
        LVT_MODES[mode(entry)]
    );
    if mode(entry) != NMI {
        let _ = write!(text, " (vec {})", entry & 0xff);
    }
    text.push('\n');
}

fn command_lines(text: &mut String, apic: &LocalApic) {
    let (low, high) = (apic.registers[register::ICR_LOW], apic.registers[register::ICR_HIGH]);
    let shorthand = (low >> 18 & 3) as usize;
    let logical = low & 1 << 11 != 0;
    let _ = write!(
        text,
        "ICR\t 0x{low:08x} {} {} {} {}\nICR2\t 0x{high:08x}",
        if logical { "logical" } else { "physical" },
        if low & 1 << 15 != 0 { "level" } else { "edge" },
        if low & 1 << 14 != 0 { "assert" } else { "de-assert" },
        ["no-shorthand", "self", "all-self", "all"][shorthand]
    );
    let (to, name) = if is_x2apic(apic) { (high, "X2APIC ID") } else { (high >> 24, "APIC ID") };
    let _ = match (shorthand, logical) {
        (0, false) => write!(text, " cpu {to} ({name})"),
        (0, true) => write!(text, " mask {to:b} ({name})"),
        _ => Ok(()),
    };
    text.push('\n');
}

fn vectors_line(text: &mut String, name: &str, apic: &LocalApic, first: usize) {
    let has = |first: usize, vector: usize| apic.registers[first + vector / 32] & 1 << (vector % 32) != 0;
    let _ = write!(text, "{name}\t ");
    let set: Vec<usize> = (0..256).filter(|vector| has(first, *vector)).collect();
    for vector in &set {
        let _ = write!(text, "{vector}{} ", if has(register::TMR, *vector) { "(level)" } else { "" });
    }
    text.push_str(if set.is_empty() { "(none)\n" } else { "\n" });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hmp::inquiry::tests::run;
    use replay::inspect::Pic;

    fn view() -> Interrupts {
        let mut table = vec![MASKED; 24];
        (table[1], table[9]) = (0x0100_0000_0000_0823, 0x0100_0000_0000_c821);
        Interrupts {
            pics: [
                Pic { requests: 0x13, mask: 0xff, vector_base: 0x30, ..Pic::default() },
                Pic { requests: 0x11, mask: 0xff, vector_base: 0x38, level: 0xc, ..Pic::default() },
            ],
            ioapic_select: 0x18,
            ioapic_table: table,
            ioapic_requests: 1 << 9,
            ioapic_raised: vec![254, 11, 0, 0, 1871],
            pic_raised: vec![254],
            ..Interrupts::default()
        }
    }

    #[test]
    fn controllers_are_shown_as_by_qemu() {
        let text = pic_text(&view());
        for line in [
            "ioapic0: ver=0x20 id=0x00 sel=0x18 (redir[4])",
            "  pin 0  0x0000000000010000 dest=0 vec=0   active-hi edge  masked fixed  physical",
            "  pin 1  0x0100000000000823 dest=1 vec=35  active-hi edge         fixed  logical",
            "  IRR      9",
            "  Remote IRR 9",
            "pic1: irr=11 imr=ff isr=00 hprio=0 irq_base=38 rr_sel=0 elcr=0c fnm=0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\nis not in\n{text}");
        }
        let counts =
            run(Box::new(|asker| irq(asker, Args::default())), |_| Answer::Interrupts(Box::new(view())));
        assert_eq!(
            counts,
            "IRQ statistics for ioapic:\n 0: 254\n 1: 11\n 4: 1871\nIRQ statistics for isa-i8259:\n 0: 254\n"
        );
    }

    #[test]
    fn the_local_apic_is_shown_as_by_qemu() {
        let mut registers = vec![0; LAPIC_REGISTERS];
        for (index, value) in [
            (register::LVT_LINT0, 0x0001_0700),
            (register::LVT_LINT1, 0x400),
            (register::LVT_PERFORMANCE, 0x0001_0000),
            (register::LVT_ERROR, 0xfe),
            (register::LVT_THERMAL, 0x0001_0000),
            (register::LVT_TIMER, 0xec),
            (register::DIVIDE, 3),
            (register::INITIAL_COUNT, 248_921),
            (register::CURRENT_COUNT, 141_628),
            (register::SVR, 0x1ff),
            (register::ICR_LOW, 0x000c_4610),
            (register::TPR, 0x10),
            (register::PPR, 0x10),
            (register::DFR, u32::MAX),
            (register::LDR, 1 << 24),
        ] {
            registers[index] = value;
        }
        let mut apic = LocalApic { id: 0, base: 0xfee0_0900, registers };
        let text = lapic_text(&apic);
        assert_eq!(
            text,
            "dumping local APIC state for CPU 0 \n\n\
             LVT0\t 0x00010700 active-hi edge  masked                      ExtINT (vec 0)\n\
             LVT1\t 0x00000400 active-hi edge                              NMI   \n\
             LVTPC\t 0x00010000 active-hi edge  masked                      Fixed  (vec 0)\n\
             LVTERR\t 0x000000fe active-hi edge                              Fixed  (vec 254)\n\
             LVTTHMR\t 0x00010000 active-hi edge  masked                      Fixed  (vec 0)\n\
             LVTT\t 0x000000ec active-hi edge                 one-shot     Fixed  (vec 236)\n\
             Timer\t DCR=0x3 (divide by 16) initial_count = 248921 current_count = 141628\n\
             SPIV\t 0x000001ff APIC enabled, focus=off, spurious vec 255\n\
             ICR\t 0x000c4610 physical edge assert all\n\
             ICR2\t 0x00000000\n\
             ESR\t 0x00000000\n\
             ISR\t (none)\n\
             IRR\t (none)\n\n\
             APR 0x00 TPR 0x10 DFR 0x0f LDR 0x01 PPR 0x10\n"
        );
        (apic.registers[register::IRR + 1], apic.registers[register::TMR + 1]) = (3, 2);
        apic.registers[register::ICR_LOW] = 0;
        let text = lapic_text(&apic);
        assert!(text.contains("IRR\t 32 33(level) \n"), "{text}");
        assert!(text.contains("de-assert no-shorthand\nICR2\t 0x00000000 cpu 0 (APIC ID)\n"), "{text}");
    }
}
