//! Cached translations: what they outlive and what drops them (SDM 3A 4.10). Where the manual lets a CPU choose, this
//! machine keeps a translation until something must drop it, so that runs repeat.

use tests::check::{Expect, check};
use tests::guest::Guest;
use tests::layout::*;
use tests::paging::*;
use tests::{code32, code64};
use vcpu::fault::vector;
use vcpu::state::cr4;
use vcpu::state::regs::gpr::{RAX, RBP, RBX, RCX, RDI, RDX, RSI};

const OLD: u64 = 0x0101;
const NEW: u64 = 0x0202;
const RW: u64 = PRESENT | WRITE;

/// Reads through RBX, changes the entry at RDI to RSI, runs `$flush`, reads again: RAX and RDX.
macro_rules! change_then {
    ($($flush:literal),*) => {
        code64!("mov rax, [rbx]", "mov [rdi], rsi", $($flush,)* "mov rdx, [rbx]", "hlt")
    };
}

/// A guest whose page at `WINDOW` moves from one frame to another.
fn moving(level: usize, flags: u64, code: &[u8]) -> Guest {
    let mut guest = Guest::long();
    let distance = if level == 0 { 0x1000 } else { 0x20_0000 };
    guest.map(WINDOW, FRAME, level, RW | flags);
    guest.put_u64(FRAME, OLD);
    guest.put_u64(FRAME + distance, NEW);
    let entry = guest.entry_address(WINDOW, level);
    let value = guest.pte(WINDOW, level) + distance;
    guest.set(RBX, WINDOW);
    guest.set(RDI, entry);
    guest.set(RSI, value);
    // Operands of INVPCID: PCID 0, address WINDOW.
    guest.put_u64(DATA + 8, WINDOW);
    guest.program(code)
}

/// What drops a translation that is not global, and one that is (SDM 3A 4.10.4.1).
#[test]
fn flushes() {
    let both = |code: &'static [u8]| (code, NEW, NEW);
    let neither = |code: &'static [u8]| (code, OLD, OLD);
    let local_only = |code: &'static [u8]| (code, NEW, OLD);
    for (number, (code, local, global)) in [
        neither(change_then!("nop")),
        neither(change_then!("mfence")),
        neither(change_then!("mov r8, rax", "mov r9, rbx", "cpuid", "mov rax, r8", "mov rbx, r9")),
        neither(change_then!("invlpg [rbx + 0x1000]")),
        neither(change_then!("mov r8, rax", "mov ecx, 0xc0000080", "rdmsr", "wrmsr", "mov rax, r8")),
        both(change_then!("invlpg [rbx]")),
        both(change_then!("invlpg [rbx + 0xfff]")),
        local_only(change_then!("mov rcx, cr3", "mov cr3, rcx")),
        both(change_then!("mov rcx, cr4", "xor rcx, 0x80", "mov cr4, rcx")),
        neither(change_then!("mov rcx, cr4", "mov cr4, rcx")),
        // INVPCID types 0…3 (SDM 2, INVPCID).
        both(change_then!("xor ecx, ecx", "invpcid rcx, [0x20000]")),
        local_only(change_then!("mov ecx, 1", "invpcid rcx, [0x20000]")),
        both(change_then!("mov ecx, 2", "invpcid rcx, [0x20000]")),
        local_only(change_then!("mov ecx, 3", "invpcid rcx, [0x20000]")),
    ]
    .into_iter()
    .enumerate()
    {
        for level in 0..2 {
            // INVPCID of one address need not drop a global translation; here it does.
            for (flags, wanted) in [(0, local), (GLOBAL, global)] {
                if level == 1 && number == 3 {
                    continue; // The next 4 KiB are in the same large page.
                }
                let name = format!("flush {number}, level {level}, flags {flags:x}");
                let guest = || moving(level, flags, code);
                check(&name, guest, &[Expect::Register(RAX, OLD), Expect::Register(RDX, wanted)]);
            }
        }
    }
}

/// Without CR4.PGE the G bit means nothing.
#[test]
fn global_pages_without_pge() {
    let code = change_then!("mov rcx, cr3", "mov cr3, rcx");
    let guest = || moving(0, GLOBAL, code).with(|guest| guest.core.cpu.cr4 &= !cr4::PGE);
    check("PGE off", guest, &[Expect::Register(RDX, NEW)]);
}

/// The G bit of an entry that points to a table is ignored.
#[test]
fn global_bit_above_the_leaf() {
    let code = change_then!("mov rcx, cr3", "mov cr3, rcx");
    let guest = || {
        let mut guest = moving(0, 0, code);
        for level in 1..4 {
            let entry = guest.pte(WINDOW, level);
            guest.set_pte(WINDOW, level, entry | GLOBAL);
        }
        guest
    };
    check("G above", guest, &[Expect::Register(RDX, NEW)]);
}

/// INVLPG on any address of a large page drops every part of it (SDM 2, INVLPG).
#[test]
fn invlpg_of_large_pages() {
    let code = code64!(
        "mov rax, [rbx]",
        "mov rcx, [rbx + 0x5000]",
        "mov [rdi], rsi",
        "invlpg [rbx + 0x100000]",
        "mov r8, [rbx]",
        "mov r9, [rbx + 0x5000]",
        "hlt"
    );
    for global in [0, GLOBAL] {
        let guest = || {
            let mut guest = moving(1, global, code);
            guest.put_u64(FRAME + 0x5000, OLD + 5);
            guest.put_u64(FRAME + 0x20_5000, NEW + 5);
            guest
        };
        let ends = [(RAX, OLD), (RCX, OLD + 5), (8, NEW), (9, NEW + 5)];
        check("2 MiB", guest, &ends.map(|(number, value)| Expect::Register(number, value)));
    }
    // The page of 1 GiB becomes a table of pages of 2 MiB.
    let guest = || {
        let mut guest = Guest::long();
        guest.map(WINDOW + 0x4000_0000, FRAME, 1, RW);
        let table = guest.pte(WINDOW + 0x4000_0000, 2);
        guest.map(WINDOW, 0, 2, RW);
        guest.put_u64(FRAME, OLD);
        guest.put_u64(FRAME + 0x5000, OLD + 5);
        // The table's first entry maps its first 2 MiB to FRAME, so what was at FRAME + x is at x.
        guest.put_u64(DATA, NEW);
        guest.put_u64(DATA + 0x5000, NEW + 5);
        guest.set(RBX, WINDOW + DATA);
        guest.put_u64(FRAME + DATA, OLD);
        guest.put_u64(FRAME + DATA + 0x5000, OLD + 5);
        let entry = guest.entry_address(WINDOW, 2);
        guest.set(RDI, entry);
        guest.set(RSI, table);
        guest.program(code)
    };
    let ends = [(RAX, NEW), (RCX, NEW + 5), (8, OLD), (9, OLD + 5)];
    check("1 GiB", guest, &ends.map(|(number, value)| Expect::Register(number, value)));
}

/// The same for a page of 4 MiB, whose other half is as far away as it gets.
#[test]
fn invlpg_of_4_mib_pages() {
    let code = code32!(
        "mov eax, [ebx]",
        "mov ecx, [ebx + 0x200000]",
        "mov [edi], esi",
        "invlpg [ebx]",
        "mov edx, [ebx]",
        "mov ebp, [ebx + 0x200000]",
        "hlt"
    );
    let guest = || {
        let mut guest = Guest::paged32(Format::TwoLevel);
        guest.map(WINDOW, FRAME, 1, RW);
        for (n, offset) in [0, 0x20_0000].into_iter().enumerate() {
            guest.put_u64(FRAME + offset, OLD + n as u64);
            guest.put_u64(FRAME + 0x40_0000 + offset, NEW + n as u64);
        }
        let entry = guest.entry_address(WINDOW, 1);
        guest.set(RBX, WINDOW);
        guest.set(RDI, entry);
        guest.set(RSI, (FRAME + 0x40_0000) | RW | LARGE);
        guest.program(code)
    };
    let ends = [(RAX, OLD), (RCX, OLD + 1), (RDX, NEW), (RBP, NEW + 1)];
    check("4 MiB", guest, &ends.map(|(number, value)| Expect::Register(number, value)));
}

/// PAE paging keeps its page-directory pointers from the load of CR3 on; INVLPG does not look at memory (SDM 3A 4.4.1).
#[test]
fn pae_pointers_are_registers() {
    let guest = |code: &'static [u8]| {
        move || {
            let mut guest = Guest::paged32(Format::Pae);
            guest.map(WINDOW, FRAME, 1, RW);
            guest.map(2 * WINDOW, FRAME + 0x20_0000, 1, RW);
            guest.put_u64(FRAME, OLD);
            guest.put_u64(FRAME + 0x20_0000, NEW);
            let other = guest.pte(2 * WINDOW, 2);
            let entry = guest.entry_address(WINDOW, 2);
            guest.set(RBX, WINDOW);
            guest.set(RDI, entry);
            guest.set(RSI, other);
            guest.changed().program(code)
        }
    };
    let flush = code32!("mov [edi], esi", "invlpg [ebx]", "mov eax, [ebx]", "hlt");
    check("INVLPG", guest(flush), &[Expect::Register(RAX, OLD)]);
    let load = code32!("mov [edi], esi", "mov ecx, cr3", "mov cr3, ecx", "mov eax, [ebx]", "hlt");
    check("CR3", guest(load), &[Expect::Register(RAX, NEW)]);
    let toggle =
        code32!("mov [edi], esi", "mov ecx, cr4", "xor ecx, 0x80", "mov cr4, ecx", "mov eax, [ebx]", "hlt");
    check("CR4.PGE", guest(toggle), &[Expect::Register(RAX, NEW)]);
}

/// A translation for one rights check does not stop another from seeing the tables: an access that the cached rights
/// refuse is walked again before it faults (SDM 3A 4.10.2.3 allows it, and Linux counts on it).
#[test]
fn rights_that_grow_need_no_flush() {
    let code = code64!("mov rax, [rbx]", "mov [rdi], rsi", "mov [rbx], rsi", "hlt");
    let guest = || {
        let mut guest = moving(0, 0, code);
        guest.set_pte(WINDOW, 0, FRAME | PRESENT);
        guest.set(RSI, FRAME | RW);
        guest
    };
    check("read-only to writable", guest, &[Expect::Memory(FRAME, FRAME | RW), Expect::Register(RAX, OLD)]);
}

/// Rights that shrink stay as they were until a flush.
#[test]
fn rights_that_shrink_wait_for_a_flush() {
    let guest = |code: &'static [u8]| {
        move || {
            let mut guest = moving(0, 0, code);
            guest.set(RSI, 0);
            guest
        }
    };
    check("stale", guest(change_then!("nop")), &[Expect::Register(RDX, OLD)]);
    // A first write has to set the dirty bit and looks at the tables.
    let write = change_then!("mov [rbx], rax");
    check("write", guest(write), &[Expect::Event(vector::PF, Some(2), CODE + 6)]);
    let fresh = change_then!("invlpg [rbx]");
    check("fresh", guest(fresh), &[Expect::Event(vector::PF, Some(0), CODE + 9)]);
}

/// A page fault for one address leaves nothing cached for it: the handler maps the page and returns.
#[test]
fn absent_pages_are_not_cached() {
    let code = code64!("mov rax, [rbx]", "hlt", ".fill 60, 1, 0x90", "mov [rdi], rsi", "add rsp, 8", "iretq");
    let guest = || {
        let mut guest = moving(0, 0, code);
        guest.set_pte(WINDOW, 0, 0);
        guest.set(RSI, FRAME | RW);
        guest.set_gate(vector::PF, tests::segments::Gate::new(14, 8, CODE + 4 + 60));
        guest
    };
    check("demand paging", guest, &[Expect::Register(RAX, OLD), Expect::Icount(5)]);
}

/// CR4.PCIDE: each PCID has translations of its own; bit 63 of CR3 asks to keep them and reads as zero (SDM 3A 4.10.1).
#[test]
fn pcids_are_apart() {
    const HIGH: u64 = 0x80_0000_0000;
    let code = code64!(
        "mov rax, [rbx]",
        "mov cr3, rdi",
        "mov rcx, [rbx]",
        "mov cr3, rsi",
        "mov rdx, [rbx]",
        "mov cr3, rdi",
        "mov r8, [rbx]",
        "mov r9, cr3",
        "hlt"
    );
    let keep = 1u64 << 63;
    for bit in [0, keep] {
        let guest = || {
            let mut guest = Guest::long();
            guest.map(HIGH, FRAME, 0, RW);
            guest.put_u64(FRAME, OLD);
            guest.put_u64(FRAME + 0x1000, NEW);
            // The second root: the same first 512 GiB.
            let root = guest.tables.root;
            guest.tables.root = FRAME + 0x10_0000;
            let low = guest.memory(root);
            guest.put_u64(FRAME + 0x10_0000, low);
            guest.map(HIGH, FRAME + 0x1000, 0, RW);
            guest.set(RBX, HIGH);
            guest.set(RSI, root | 1 | bit);
            guest.set(RDI, (FRAME + 0x10_0000) | 2 | bit);
            guest.core.cpu.cr3 = root | 1;
            guest.with(|guest| guest.core.cpu.cr4 |= cr4::PCIDE).program(code)
        };
        let ends = [(RAX, OLD), (RCX, NEW), (RDX, OLD), (8, NEW), (9, (FRAME + 0x10_0000) | 2)];
        check("PCID", guest, &ends.map(|(number, value)| Expect::Register(number, value)));
    }
}

/// What CR4.PCIDE and INVPCID refuse (SDM 3A 4.10.1; vol. 2, INVPCID and MOV CR).
#[test]
fn pcid_faults() {
    let pcide = |guest: &mut Guest| guest.core.cpu.cr4 |= cr4::PCIDE;
    let plain = |_: &mut Guest| {};
    let pcid1 = |guest: &mut Guest| guest.core.cpu.cr3 |= 1;
    let pcid_operand = |guest: &mut Guest| guest.put_u64(DATA, 1);
    let large_operand = |guest: &mut Guest| {
        guest.core.cpu.cr4 |= cr4::PCIDE;
        guest.put_u64(DATA, 0x1000);
    };
    let far_operand = |guest: &mut Guest| guest.put_u64(DATA + 8, 1 << 47);
    let user = |guest: &mut Guest| {
        guest.put(CODE_USER, code64!("invpcid rcx, [0x20000]"));
        guest.core.cpu.rip = CODE_USER;
        for index in 0..6 {
            guest.core.cpu.segments[index].attributes |= 0x60;
        }
    };
    let type_in_rcx = code64!("invpcid rcx, [0x20000]", "ud2");
    let set_pcide = code64!("mov rax, cr4", "or eax, 0x20000", "mov cr4, rax", "ud2");
    let clear_paging = code64!("mov cr0, rcx", "ud2");
    type Row = (&'static str, fn(&mut Guest), u64, &'static [u8], Option<u64>);
    let rows: [Row; 9] = [
        ("type 4", plain, 4, type_in_rcx, Some(CODE)),
        ("PCID without PCIDE", pcid_operand, 1, type_in_rcx, Some(CODE)),
        ("PCID of 13 bits", large_operand, 1, type_in_rcx, Some(CODE)),
        ("PCID of 13 bits for all", large_operand, 2, type_in_rcx, Some(CODE)),
        ("address not canonical", far_operand, 0, type_in_rcx, Some(CODE)),
        ("address not used", far_operand, 1, type_in_rcx, None),
        ("ring 3", user, 2, type_in_rcx, Some(CODE_USER)),
        ("PCIDE with a PCID", pcid1, 0, set_pcide, Some(CODE + 8)),
        ("paging off with PCIDE", pcide, 0x11, clear_paging, Some(CODE)),
    ];
    for (name, set_up, rcx, code, fault) in rows {
        let guest = || {
            let mut guest = Guest::long();
            guest.set(RCX, rcx);
            let guest = guest.program(code).with(set_up);
            guest
        };
        let end = match fault {
            Some(at) => Expect::Event(vector::GP, Some(0), at),
            None => Expect::Event(vector::UD, None, CODE + code.len() as u64 - 2),
        };
        check(name, guest, &[end]);
    }
}

/// MOV to CR3 with a bit beyond MAXPHYADDR (SDM 2, MOV CR).
#[test]
fn cr3_reserved_bits() {
    for bit in [46, 51, 63] {
        let guest = || {
            let mut guest = Guest::long();
            let root = guest.tables.root;
            guest.set(RAX, root | 1 << bit);
            guest.program(code64!("mov cr3, rax"))
        };
        check(&format!("bit {bit}"), guest, &[Expect::Event(vector::GP, Some(0), CODE)]);
    }
}
