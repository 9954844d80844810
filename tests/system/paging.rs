//! Page faults and their error codes, accessed and dirty bits, accesses that cross pages (SDM 3A chapter 4).

use tests::check::{Expect, check};
use tests::guest::Guest;
use tests::layout::*;
use tests::paging::*;
use tests::{code32, code64};
use vcpu::fault::vector;
use vcpu::state::regs::gpr::{RAX, RBX, RSP};
use vcpu::state::{cr0, cr4, efer, rflags};

/// What the guest does with the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Read,
    Write,
    Fetch,
}
use Access::*;

/// Modifications of the machine: bits that are not there in the plain one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Set {
    /// CR0.WP clear.
    NoWp,
    Smep,
    Smap,
    /// SMAP with RFLAGS.AC.
    SmapAc,
    /// EFER.NXE clear.
    NoNxe,
}
use Set::*;

/// Error-code bits (SDM 3A figure 4-12).
const P: u32 = 1;
const W: u32 = 2;
const U: u32 = 4;
const R: u32 = 8;
const I: u32 = 16;

const RO: u64 = PRESENT;
const RW: u64 = PRESENT | WRITE;
const URO: u64 = PRESENT | USER;
const URW: u64 = PRESENT | WRITE | USER;
const NX: u64 = NO_EXECUTE;

/// Ring of the access.
const KERNEL: bool = false;
const RING3: bool = true;

type Row = (u64, bool, Access, &'static [Set], Option<u32>);

/// Leaf entry, ring, access, modifications, error code of the #PF if there is one (SDM 3A 4.6.1, 4.7).
const RIGHTS: &[Row] = &[
    (0, KERNEL, Read, &[], Some(0)),
    (0, KERNEL, Write, &[], Some(W)),
    (0, KERNEL, Fetch, &[], Some(I)),
    (0, RING3, Read, &[], Some(U)),
    (0, RING3, Write, &[], Some(U | W)),
    (0, RING3, Fetch, &[], Some(U | I)),
    (RO, KERNEL, Read, &[], None),
    (RO, KERNEL, Write, &[], Some(P | W)),
    (RO, KERNEL, Write, &[NoWp], None),
    (RO, KERNEL, Fetch, &[], None),
    (RW, KERNEL, Read, &[], None),
    (RW, KERNEL, Write, &[], None),
    (RW, KERNEL, Write, &[Smap], None),
    (RW, KERNEL, Fetch, &[Smep], None),
    (RW | NX, KERNEL, Read, &[], None),
    (RW | NX, KERNEL, Write, &[], None),
    (RW | NX, KERNEL, Fetch, &[], Some(P | I)),
    (RW, RING3, Read, &[], Some(P | U)),
    (RW, RING3, Write, &[], Some(P | U | W)),
    (RW, RING3, Write, &[NoWp], Some(P | U | W)),
    (RW, RING3, Fetch, &[], Some(P | U | I)),
    (URO, RING3, Read, &[], None),
    (URO, RING3, Write, &[], Some(P | U | W)),
    (URO, RING3, Write, &[NoWp], Some(P | U | W)),
    (URO, RING3, Fetch, &[Smep], None),
    (URW, RING3, Read, &[Smap], None),
    (URW, RING3, Write, &[Smap], None),
    (URW | NX, RING3, Read, &[], None),
    (URW | NX, RING3, Fetch, &[], Some(P | U | I)),
    (URW, KERNEL, Read, &[], None),
    (URW, KERNEL, Write, &[], None),
    (URW, KERNEL, Fetch, &[], None),
    (URO, KERNEL, Write, &[], Some(P | W)),
    (URO, KERNEL, Write, &[NoWp], None),
    (URW, KERNEL, Fetch, &[Smep], Some(P | I)),
    (URW, KERNEL, Read, &[Smap], Some(P)),
    (URW, KERNEL, Write, &[Smap], Some(P | W)),
    (URO, KERNEL, Write, &[Smap, NoWp], Some(P | W)),
    (URW, KERNEL, Read, &[SmapAc], None),
    (URW, KERNEL, Write, &[SmapAc], None),
    (URO, KERNEL, Write, &[SmapAc], Some(P | W)),
    // Without NXE the bit is reserved; fetches show in the code only with NXE or SMEP (SDM 3A 4.7).
    (RW | NX, KERNEL, Read, &[NoNxe], Some(P | R)),
    (RW | NX, KERNEL, Write, &[NoNxe], Some(P | R | W)),
    (URW | NX, RING3, Fetch, &[NoNxe], Some(P | R | U)),
    (URW | NX, RING3, Fetch, &[NoNxe, Smep], Some(P | R | U | I)),
    (0, KERNEL, Fetch, &[NoNxe], Some(0)),
    (0, KERNEL, Fetch, &[NoNxe, Smep], Some(I)),
    (RW, RING3, Fetch, &[NoNxe], Some(P | U)),
];

/// Where the byte in question lies in its page.
const OFFSET: u64 = 0x123;

/// Where the region of 1 GiB with the test's page begins: apart from all others at every level.
fn region(guest: &Guest) -> u64 {
    if guest.tables.format == Format::FourLevel { 0x80_0000_0000 + WINDOW } else { WINDOW }
}

/// Maps the page that holds `FRAME` to its place in `region`, with UD2 at `OFFSET`; returns the address of that byte.
fn place(guest: &mut Guest, level: usize, flags: u64) -> u64 {
    let region = region(guest);
    if level == 2 {
        guest.map(region, 0, 2, flags);
    } else {
        guest.map(region + FRAME, FRAME, level, flags);
    }
    guest.put(FRAME + OFFSET, &[0x0f, 0x0b]);
    region + FRAME + OFFSET
}

fn apply(guest: &mut Guest, set: Set) {
    let cpu = &mut guest.core.cpu;
    match set {
        NoWp => cpu.cr0 &= !cr0::WP,
        Smep => cpu.cr4 |= cr4::SMEP,
        Smap => cpu.cr4 |= cr4::SMAP,
        SmapAc => {
            cpu.cr4 |= cr4::SMAP;
            cpu.eflags |= rflags::AC;
        }
        NoNxe => cpu.efer &= !efer::NXE,
    }
}

/// The program: one access through RBX, then UD2.
fn program(access: Access) -> &'static [u8] {
    match access {
        Read => code32!("mov al, [ebx]", "ud2"),
        Write => code32!("mov [ebx], al", "ud2"),
        Fetch => code32!("jmp ebx"),
    }
}

fn cr2(guest: &Guest) -> u64 {
    guest.core.cpu.cr2
}

/// Runs one row on pages of one level; `upper` clears the rights in the entry of that level instead of the leaf.
fn try_row(make: fn() -> Guest, level: usize, upper: Option<usize>, row: &Row) {
    let &(flags, ring3, access, sets, code) = row;
    let start = if ring3 { CODE_USER } else { CODE };
    let guest = || {
        let mut guest = make();
        if ring3 {
            guest = guest.user();
        }
        guest.core.cpu.cr0 |= cr0::WP;
        let leaf = if upper.is_some() { URW } else { flags };
        let address = place(&mut guest, level, leaf);
        if let Some(upper) = upper {
            let entry = guest.pte(address, upper);
            let rights = PRESENT | WRITE | USER;
            guest.set_pte(address, upper, entry & !rights | flags);
        }
        guest.set(RBX, address);
        guest.with(|guest| sets.iter().for_each(|&set| apply(guest, set))).program(program(access))
    };
    let address = region(&make()) + FRAME + OFFSET;
    let name = format!("{row:x?} at level {level}, by the entry of level {upper:?}");
    match (code, access) {
        (Some(code), Fetch) => {
            let end = Expect::Event(vector::PF, Some(code), address);
            check(&name, guest, &[end, Expect::Is("CR2", cr2, address), Expect::Icount(2)]);
        }
        (Some(code), _) => {
            let end = Expect::Event(vector::PF, Some(code), start);
            check(&name, guest, &[end, Expect::Is("CR2", cr2, address), Expect::Icount(1)]);
        }
        (None, Fetch) => {
            check(&name, guest, &[Expect::Event(vector::UD, None, address), Expect::Is("CR2", cr2, 0)]);
        }
        (None, _) => {
            check(&name, guest, &[Expect::Event(vector::UD, None, start + 2), Expect::Is("CR2", cr2, 0)]);
        }
    }
}

#[test]
fn rights_of_four_level_pages() {
    for row in RIGHTS {
        for level in 0..3 {
            try_row(Guest::long, level, None, row);
        }
    }
}

/// Rights are the intersection of all levels' (SDM 3A 4.6.1).
#[test]
fn rights_of_upper_levels() {
    for row in RIGHTS {
        for upper in 1..4 {
            try_row(Guest::long, 0, Some(upper), row);
        }
        try_row(Guest::long, 2, Some(3), row);
    }
}

fn pae() -> Guest {
    let mut guest = Guest::paged32(Format::Pae);
    guest.core.cpu.efer |= efer::NXE;
    guest
}

#[test]
fn rights_of_pae_pages() {
    for row in RIGHTS {
        for level in 0..2 {
            try_row(pae, level, None, row);
        }
        try_row(pae, 0, Some(1), row);
    }
}

#[test]
fn rights_of_two_level_pages() {
    let two_level = || Guest::paged32(Format::TwoLevel);
    for row in RIGHTS {
        // No entry has bit 63, and without PAE only SMEP makes fetches show in the code.
        let wide = row.0 & NX != 0;
        let fetch_told = row.4.is_none_or(|code| code & I == 0) || row.3.contains(&Smep);
        if wide || !fetch_told {
            continue;
        }
        for level in 0..2 {
            try_row(two_level, level, None, row);
        }
        try_row(two_level, 0, Some(1), row);
    }
}

/// Without PAE the code has no I bit even if EFER.NXE is set (SDM 3A 4.7).
#[test]
fn fetches_do_not_show_without_pae() {
    let two_level = || {
        let mut guest = Guest::paged32(Format::TwoLevel);
        guest.core.cpu.efer |= efer::NXE;
        guest
    };
    try_row(two_level, 0, None, &(0, KERNEL, Fetch, &[], Some(0)));
    try_row(two_level, 0, None, &(RW, RING3, Fetch, &[], Some(P | U)));
}

/// Reserved bits (SDM 3A 4.5.4, tables 4-15…4-20): which entry, which bit.
#[test]
fn reserved_bits_of_four_level_entries() {
    // MAXPHYADDR of the models is 46.
    let mut rows: Vec<(usize, usize, u64)> = vec![(2, 3, LARGE), (0, 3, LARGE)];
    for level in 0..3 {
        for entry in level..4 {
            rows.extend([(level, entry, 1 << 46), (level, entry, 1 << 51)]);
        }
    }
    rows.extend([(1, 1, 1 << 13), (1, 1, 1 << 20), (2, 2, 1 << 13), (2, 2, 1 << 29)]);
    for (level, entry, bit) in rows {
        let guest = |ring3: bool| {
            move || {
                let mut guest = if ring3 { Guest::long().user() } else { Guest::long() };
                let address = place(&mut guest, level, URW);
                let value = guest.pte(address, entry);
                guest.set_pte(address, entry, value | bit);
                guest.set(RBX, address);
                guest.program(program(Write))
            }
        };
        let name = format!("bit {bit:x} of the entry at level {entry}, page of level {level}");
        let fault = |code, start| Expect::Event(vector::PF, Some(code), start);
        check(&name, guest(KERNEL), &[fault(P | R | W, CODE)]);
        check(&name, guest(RING3), &[fault(P | R | W | U, CODE_USER)]);
    }
}

/// Bits that are not reserved: available ones, PAT, bit 62…52 (SDM 3A tables 4-15…4-20).
#[test]
fn free_bits_of_four_level_entries() {
    for (level, entry, bit) in [
        (0, 0, 1 << 52),
        (0, 0, 1 << 58),
        (0, 0, LARGE),
        (1, 1, 1 << 12),
        (2, 2, 1 << 12),
        (0, 1, 1 << 62),
        (0, 3, 1 << 52),
        (0, 3, GLOBAL),
        (0, 2, DIRTY),
    ] {
        let guest = || {
            let mut guest = Guest::long();
            let address = place(&mut guest, level, RW);
            let value = guest.pte(address, entry);
            guest.set_pte(address, entry, value | bit);
            guest.set(RBX, address);
            guest.program(program(Write))
        };
        check(&format!("bit {bit:x} at level {entry}"), guest, &[Expect::Event(vector::UD, None, CODE + 2)]);
    }
}

/// The page of 4 MiB: bit 21 is reserved, bits 20…13 extend the frame (SDM 3A table 4-4).
#[test]
fn large_pages_of_two_levels() {
    let guest = |bits: u64| {
        move || {
            let mut guest = Guest::paged32(Format::TwoLevel);
            let address = place(&mut guest, 1, RW);
            let value = guest.pte(address, 1);
            guest.set_pte(address, 1, value | bits);
            guest.set(RBX, address);
            guest.program(program(Read))
        }
    };
    let fault = Expect::Event(vector::PF, Some(P | R), CODE);
    check("bit 21", guest(1 << 21), &[fault]);
    // Physical address 1 << 32 is beyond RAM: an empty bus reads as ones.
    let end = [Expect::Event(vector::UD, None, CODE + 2), Expect::Register(RAX, 0xff)];
    check("frame extension", guest(1 << 13), &end);
}

/// Without CR4.PSE bit 7 of a page-directory entry is ignored (SDM 3A table 4-5).
#[test]
fn page_size_bit_without_pse() {
    let guest = || {
        let mut guest = Guest::paged32(Format::TwoLevel);
        let address = place(&mut guest, 0, RW);
        let value = guest.pte(address, 1);
        guest.set_pte(address, 1, value | LARGE);
        guest.set(RBX, address);
        guest.with(|guest| guest.core.cpu.cr4 &= !cr4::PSE).program(program(Read))
    };
    check("PSE off", guest, &[Expect::Event(vector::UD, None, CODE + 2), Expect::Register(RAX, 0x0f)]);
}

/// Accessed bits at every level, the dirty bit in the leaf, and neither where the access is refused (SDM 3A 4.8).
#[test]
fn accessed_and_dirty_bits() {
    for level in 0..3 {
        for (access, flags, bits) in [
            (Read, RW, ACCESSED),
            (Fetch, RW, ACCESSED),
            (Write, RW, ACCESSED | DIRTY),
            (Write, RO, 0),
            (Fetch, RW | NX, 0),
        ] {
            let mut guest = Guest::long();
            let address = place(&mut guest, level, flags);
            guest.set(RBX, address);
            let mut guest = guest.changed().program(program(access));
            guest.run(100);
            let marks = ACCESSED | DIRTY;
            assert_eq!(guest.pte(address, level) & marks, bits, "{access:?} of {flags:x} at level {level}");
            for upper in level + 1..4 {
                assert_eq!(guest.pte(address, upper) & marks, ACCESSED, "level {upper} above {level}");
            }
        }
    }
}

/// A write after a read that filled the TLB still sets the dirty bit; a cached dirty bit is not set again.
#[test]
fn dirty_bit_after_a_read() {
    let code = code64!(
        "mov al, [rbx]",
        "mov r8, [rdi]", // the entry after the read
        "mov [rbx], al",
        "mov r9, [rdi]", // and after the write
        "and qword ptr [rdi], -65",
        "mov [rbx], al", // stale: D is cached as set
        "mov r10, [rdi]",
        "invlpg [rbx]",
        "mov [rbx], al",
        "mov r11, [rdi]",
        "hlt"
    );
    let guest = || {
        let mut guest = Guest::long();
        let address = place(&mut guest, 0, RW);
        let entry = guest.entry_address(address, 0);
        guest.set(RBX, address);
        guest.set(7, entry);
        guest.program(code)
    };
    let entry = FRAME | RW | ACCESSED;
    let ends = [
        Expect::Register(8, entry),
        Expect::Register(9, entry | DIRTY),
        Expect::Register(10, entry),
        Expect::Register(11, entry | DIRTY),
    ];
    check("dirty after read", guest, &ends);
}

/// PDPTEs of PAE paging have no accessed bit (SDM 3A 4.4.1).
#[test]
fn pae_pointers_have_no_accessed_bit() {
    let mut guest = Guest::paged32(Format::Pae);
    let address = place(&mut guest, 0, RW);
    guest.set(RBX, address);
    let mut guest = guest.changed().program(program(Write));
    guest.run(100);
    assert_eq!(guest.pte(address, 2) & 0xfff, PRESENT);
    assert_eq!(guest.pte(address, 1) & (ACCESSED | DIRTY), ACCESSED);
    assert_eq!(guest.pte(address, 0) & (ACCESSED | DIRTY), ACCESSED | DIRTY);
}

/// Reserved bits in a PDPTE: the load of CR3 raises #GP(0) (SDM 3A 4.4.1).
#[test]
fn pae_pointers_are_checked_when_loaded() {
    for bit in [1, 2, 5, 6, 7, 8, 46, 63] {
        let guest = || {
            let mut guest = Guest::paged32(Format::Pae);
            guest.set_pte(WINDOW, 2, PRESENT | 1 << bit);
            guest.program(code32!("mov eax, cr3", "mov cr3, eax", "hlt"))
        };
        check(&format!("bit {bit}"), guest, &[Expect::Event(vector::GP, Some(0), CODE + 3)]);
    }
}

/// An 8-byte access over the end of a page: (first page, second page) → error code and CR2 of a write, if it faults.
#[test]
fn accesses_that_cross_pages() {
    let start = WINDOW + 0xffc;
    for (first, second, fault) in [
        (RW, RW, None),
        (RW, 0, Some((W, WINDOW + 0x1000))),
        (RW, RO, Some((P | W, WINDOW + 0x1000))),
        (0, RW, Some((W, start))),
        (RO, RW, Some((P | W, start))),
        (0, 0, Some((W, start))),
    ] {
        let old = 0x1122_3344_5566_7788;
        let guest = |code: &'static [u8]| {
            move || {
                let mut guest = Guest::long();
                guest.map(WINDOW, FRAME, 0, first);
                guest.map(WINDOW + 0x1000, FRAME + 0x3000, 0, second);
                guest.put_u64(FRAME + 0xff8, old);
                guest.put_u64(FRAME + 0x3000, old);
                guest.set(RBX, start);
                guest.set(RAX, u64::MAX);
                guest.program(code)
            }
        };
        let changed = [
            Expect::Memory(FRAME + 0xff8, 0xffff_ffff_5566_7788),
            Expect::Memory(FRAME + 0x3000, 0x1122_3344_ffff_ffff),
        ];
        let unchanged = [Expect::Memory(FRAME + 0xff8, old), Expect::Memory(FRAME + 0x3000, old)];
        for code in [
            code64!("mov [rbx], rax", "hlt"),
            code64!("or [rbx], rax", "hlt"),
            code64!("xchg [rbx], rax", "hlt"),
            code64!("movq xmm0, rax", "movq [rbx], xmm0", "hlt"),
        ] {
            let name = format!("{code:x?} on {first:x} and {second:x}");
            let sse = |guest: &mut Guest| guest.core.cpu.cr4 |= cr4::OSFXSR;
            let guest = || guest(code)().with(sse);
            let at = if code[0] == 0x66 { CODE + 5 } else { CODE };
            match fault {
                None => check(&name, guest, &changed),
                Some((error, address)) => {
                    let event = Expect::Event(vector::PF, Some(error), at);
                    let cr2 = Expect::Is("CR2", cr2, address);
                    check(&name, guest, &[event, cr2, unchanged[0], unchanged[1]]);
                }
            }
        }
        let read = code64!("mov rax, [rbx]", "hlt");
        match fault.filter(|(error, _)| error & P == 0) {
            None => check("crossing read", guest(read), &[Expect::HaltedAt(CODE + 4)]),
            Some((_, address)) => {
                let end = [Expect::Event(vector::PF, Some(0), CODE), Expect::Is("CR2", cr2, address)];
                check("crossing read", guest(read), &end);
            }
        }
    }
}

/// A push over a page boundary that faults leaves RSP alone; the fault is taken on the inner stack.
#[test]
fn pushes_that_cross_pages() {
    let guest = || {
        let mut guest = Guest::long().user();
        guest.map(WINDOW + 0x1000, FRAME, 0, URW);
        guest.set(RSP, WINDOW + 0x1004);
        guest.program(code64!("push rax"))
    };
    let end = [
        Expect::Event(vector::PF, Some(U | W), CODE_USER),
        Expect::Is("CR2", cr2, WINDOW + 0xffc),
        Expect::Is("RSP of the frame", |guest| guest.event(true).rsp, WINDOW + 0x1004),
        Expect::Memory(FRAME, 0),
    ];
    check("push", guest, &end);
}

/// Descriptor tables are read with supervisor rights whatever the CPL, and SMAP forbids them in user pages even with
/// RFLAGS.AC (SDM 3A 4.6).
#[test]
fn implicit_supervisor_accesses() {
    let guest = |smap: bool| {
        move || {
            let mut guest = Guest::long();
            guest.core.cpu.gdtr.base = DATA_USER;
            for at in (0..0x100).step_by(8) {
                let descriptor = guest.memory(GDT + at);
                guest.put_u64(DATA_USER + at, descriptor);
            }
            guest.set_flags(rflags::AC);
            guest.with(|guest| guest.core.cpu.cr4 |= if smap { cr4::SMAP } else { 0 }).program(code64!(
                "mov eax, 0x10",
                "mov ds, eax",
                "ud2"
            ))
        }
    };
    check("without SMAP", guest(false), &[Expect::Event(vector::UD, None, CODE + 7)]);
    // Delivery needs the GDT, too: nothing can be delivered any more.
    check("with SMAP", guest(true), &[Expect::TripleFault, Expect::Is("CR2", cr2, DATA_USER + 8)]);
}

/// Addresses that are not canonical raise #GP(0), through SS #SS(0); CR2 stays (SDM 1 3.3.7.1, 3A 6.15).
#[test]
fn addresses_that_are_not_canonical() {
    let edge = 0x0000_8000_0000_0000u64;
    for (code, fault) in [
        (code64!("mov al, [rbx]"), vector::GP),
        (code64!("mov [rbx], al"), vector::GP),
        (code64!("mov rax, [rbx - 4]"), vector::GP),
        (code64!("jmp rbx"), vector::GP),
        (code64!("mov rsp, rbx; mov al, [rsp]"), vector::SS),
        (code64!("mov rsp, rbx; pop rax"), vector::SS),
        (code64!("mov rbp, rbx; mov al, [rbp]"), vector::SS),
    ] {
        let guest = || {
            let mut guest = Guest::long();
            guest.map(edge - 0x1000, FRAME, 0, RW);
            guest.set(RBX, edge);
            // The stack moves away: a double fault would be the end, so the handlers have one of their own.
            for number in [vector::GP, vector::SS] {
                let gate = tests::segments::Gate::new(14, 8, handler(number)).extra(1);
                guest.set_gate(number, gate);
            }
            guest.program(code)
        };
        let at = CODE + if fault == vector::SS { 3 } else { 0 };
        check(&format!("{code:x?}"), guest, &[Expect::Event(fault, Some(0), at), Expect::Is("CR2", cr2, 0)]);
    }
}
