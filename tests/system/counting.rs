//! The rules of counting (design section 4) and the exact stop: one retired instruction is one, a repeated string
//! instruction is one, HLT is one, a faulting instruction and the delivery of an event are none.

use tests::check::{Expect, check, registers};
use tests::code64;
use tests::guest::Guest;
use tests::layout::*;
use tests::paging::{PRESENT, WRITE};
use vcpu::fault::vector;
use vcpu::interp::Stop;
use vcpu::state::regs::gpr::{RAX, RBX, RCX, RDI};
use vcpu::state::{cr4, rflags};

/// Programs and their counts, HLT included.
#[test]
fn counts() {
    let rows: [(&str, &[u8], u64); 12] = [
        ("HLT", code64!("hlt"), 1),
        ("NOP", code64!("nop", ".byte 0x66, 0x90", "nop word ptr [rax]", "hlt"), 4),
        ("PAUSE and fences", code64!("pause", "mfence", "lfence", "sfence", "hlt"), 5),
        ("taken and not", code64!("cmp eax, eax", "jz 2f", "int3", "2: jnz 3f", "3: hlt"), 4),
        ("LOOP", code64!("mov ecx, 7", "2: loop 2b", "hlt"), 1 + 7 + 1),
        ("REP of none", code64!("xor ecx, ecx", "rep stosb", "hlt"), 3),
        ("REP of 300", code64!("mov ecx, 300", "mov edi, 0x20000", "rep stosq", "hlt"), 4),
        (
            "REPE that ends early",
            code64!("mov ecx, 300", "mov edi, 0x20000", "mov al, 1", "repe scasb", "hlt"),
            5,
        ),
        ("INT n and IRET", code64!("int 0x40", "hlt"), 1 + 2 + 1),
        ("a fault", code64!("ud2", "hlt"), 2 + 1),
        ("CALL and RET", code64!("call 2f", "hlt", "2: ret"), 3),
        ("serialising", code64!("cpuid", "mov rax, cr3", "mov cr3, rax", "hlt"), 4),
    ];
    for (name, code, icount) in rows {
        let guest = || {
            let mut guest = Guest::long();
            guest.put(handler(0x40), code64!("nop", "iretq"));
            // Two instructions that step over UD2.
            guest.put(handler(vector::UD), code64!("add qword ptr [rsp], 2", "iretq"));
            guest.program(code)
        };
        check(
            name,
            guest,
            &[Expect::Icount(icount), Expect::HaltedAt(CODE + code.len() as u64 - tail(code))],
        );
    }
}

/// Bytes after the first HLT.
fn tail(code: &[u8]) -> u64 {
    (code.len() - 1 - code.iter().position(|&byte| byte == 0xf4).unwrap()) as u64
}

/// RDTSC sees the count at its own place in a block: 16 ticks an instruction.
#[test]
fn rdtsc_counts_inside_blocks() {
    let code = code64!("nop", "nop", "rdtsc", "mov ebx, eax", "nop", "rdtsc", "sub eax, ebx", "hlt");
    let guest = || Guest::long().program(code);
    check("RDTSC", guest, &[Expect::Register(RBX, 32), Expect::Register(RAX, 48)]);
}

/// A bit of everything: branches, strings, faults, interrupts from a timer, code that changes itself, stepping,
/// page faults that map pages, devices.
fn medley() -> Guest {
    let code = code64!(
        // A timer that interrupts every 125 instructions.
        "mov ecx, 0x838",
        "xor edx, edx",
        "mov eax, 1000",
        "wrmsr",
        "sti",
        "mov r12d, 6",
        "2: mov ecx, 5",
        "3: add rax, rcx",
        "adc rbx, rax",
        "ror rbx, 7",
        "loop 3b",
        "mov edi, 0x20100",
        "mov ecx, 40",
        "rep stosb",
        "mov esi, 0x20100",
        "mov edi, 0x20180",
        "mov ecx, 9",
        "rep movsq",
        "push rbx",
        "popcnt rdx, rbx",
        "pop r8",
        "ud2",
        "inc byte ptr [r13]",
        "mov r9b, 1",
        "movq xmm0, rbx",
        "paddd xmm0, xmm0",
        "movq r10, xmm0",
        "mov [r14], rbx",
        "add r14, 0x1000",
        "int 0x40",
        "out 0x80, al",
        "in al, 0x71",
        "mov ss, ebp",
        "lea r11, [rbx + rbx * 4]",
        "rdrand rdx",
        "rdtsc",
        "pushf",
        "or dword ptr [rsp], 0x100",
        "popf",
        "xor eax, eax",
        "dec eax",
        "pushf",
        "and dword ptr [rsp], -257",
        "popf",
        "dec r12d",
        "jnz 2b",
        "cli",
        "hlt"
    );
    let store = code64!("inc byte ptr [r13]", "mov r9b, 1");
    let changed = code.windows(store.len()).position(|bytes| bytes == store).unwrap() + store.len() - 1;
    let mut guest = Guest::long();
    let base = guest.core.read_msr(0x1b).unwrap();
    for (number, value) in [(0x1b, base | 0xc00), (0x80f, 0x1ff), (0x83e, 0xb), (0x832, 1 << 17 | 0x51)] {
        guest.core.write_msr(number, value).unwrap();
    }
    guest.set(13, CODE + changed as u64);
    guest.set(14, WINDOW);
    guest.set(5, 0x10);
    let entry = guest.entry_address(WINDOW, 0);
    guest.set(15, entry);
    medley_handlers(&mut guest);
    guest.with(|guest| guest.core.cpu.cr4 |= cr4::OSFXSR).program(code)
}

/// Handlers that count in memory: INT 40H, #UD, #DB, the timer, #PF.
fn medley_handlers(guest: &mut Guest) {
    guest.put(handler(0x40), code64!("inc qword ptr [0x20008]", "iretq"));
    guest.put(handler(vector::UD), code64!("add qword ptr [rsp], 2", "iretq"));
    guest.put(handler(vector::DB), code64!("inc qword ptr [0x20018]", "iretq"));
    // End of interrupt, all registers kept.
    let timer = code64!(
        "push rax",
        "push rcx",
        "push rdx",
        "mov ecx, 0x80b",
        "xor eax, eax",
        "xor edx, edx",
        "wrmsr",
        "inc qword ptr [0x20010]",
        "pop rdx",
        "pop rcx",
        "pop rax",
        "iretq"
    );
    guest.put(CODE + 0x800, timer);
    guest.set_gate(0x51, tests::segments::Gate::new(14, 8, CODE + 0x800));
    // A page fault takes the next page of memory.
    let fault = code64!(
        "push rax",
        "mov rax, [0x20020]",
        "add qword ptr [0x20020], 0x1000",
        "mov [r15], rax",
        "add r15, 8",
        "pop rax",
        "add rsp, 8",
        "iretq"
    );
    guest.put_u64(DATA + 0x20, FRAME | PRESENT | WRITE);
    guest.put(CODE + 0x900, fault);
    guest.set_gate(vector::PF, tests::segments::Gate::new(14, 8, CODE + 0x900));
}

/// The medley does what it was made for.
#[test]
fn the_medley_has_everything() {
    let mut guest = medley();
    assert_eq!(guest.run(100_000), Stop::Halted, "{}", registers(&guest));
    assert_eq!(guest.memory(DATA + 8), 6, "INT n");
    assert!(guest.memory(DATA + 0x10) >= 4, "timer interrupts: {}", guest.memory(DATA + 0x10));
    assert!(guest.memory(DATA + 0x18) > 12, "single steps: {}", guest.memory(DATA + 0x18));
    assert_eq!(guest.memory(DATA + 0x20), FRAME | PRESENT | WRITE | 0x6000, "page faults");
    assert_eq!(guest.register(9) & 0xff, 7, "changed code");
}

/// Every icount can be stopped at, in one go from the start, and the state there is the same as on the way of a
/// machine that stops at each.
#[test]
fn every_count_can_be_stopped_at() {
    let mut stepped = medley();
    let mut end = 0;
    let mut states = vec![];
    for limit in 0.. {
        let stop = stepped.run(limit);
        if stop != Stop::Limit {
            end = stepped.core.cpu.icount;
            break;
        }
        assert_eq!(stepped.core.cpu.icount, limit, "the limit is exact");
        states.push(stepped.digests());
    }
    assert!(states.len() > 300, "{} states", states.len());
    for (limit, state) in states.iter().enumerate() {
        let mut guest = medley();
        assert_eq!(guest.run(limit as u64), Stop::Limit);
        assert_eq!(guest.digests(), *state, "at {limit}:\n{}", registers(&guest));
    }
    // Any other slicing passes through the same states.
    for slice in [2, 3, 5, 16, 37, 100] {
        let mut guest = medley();
        for limit in (0..end).step_by(slice) {
            guest.run(limit);
            assert_eq!(guest.digests(), states[limit as usize], "slices of {slice}, at {limit}");
        }
    }
}

/// At the limit nothing is delivered: an event that falls due there comes with the next run, before the instruction.
#[test]
fn events_wait_at_the_limit() {
    let mut guest = Guest::long().program(code64!("nop", "nop", "nop", "hlt"));
    let base = guest.core.read_msr(0x1b).unwrap();
    guest.core.write_msr(0x1b, base | 0xc00).unwrap();
    guest.core.write_msr(0x80f, 0x1ff).unwrap();
    guest.set_flags(rflags::IF);
    assert_eq!(guest.run(2), Stop::Limit);
    guest.core.write_msr(0x83f, 0x60).unwrap();
    assert_eq!(guest.run(2), Stop::Limit);
    assert_eq!((guest.core.cpu.rip, guest.core.cpu.icount), (CODE + 2, 2));
    assert_eq!(guest.run(3), Stop::Limit);
    assert_eq!((guest.core.cpu.rip, guest.core.cpu.icount), (handler(0x60) + 1, 3));
}

/// An instruction that is restarted after a fault counts once, a string instruction too, however often it faults.
#[test]
fn restarts_count_once() {
    let guest = || {
        let mut guest = Guest::long();
        for page in 0..4 {
            guest.set_pte(WINDOW + page * 0x1000, 0, FRAME + page * 0x1000);
        }
        let entry = guest.entry_address(WINDOW, 0);
        guest.set(RBX, entry);
        guest.set(RDI, WINDOW);
        guest.set(RCX, 0x4000);
        // Makes the next page present.
        guest.put(CODE + 0x800, code64!("or qword ptr [rbx], 3", "add rbx, 8", "add rsp, 8", "iretq"));
        guest.set_gate(vector::PF, tests::segments::Gate::new(14, 8, CODE + 0x800));
        guest.program(code64!("rep stosb", "hlt"))
    };
    let ends =
        [Expect::Register(RCX, 0), Expect::Register(RDI, WINDOW + 0x4000), Expect::Icount(4 * 4 + 1 + 1)];
    check("REP STOSB", guest, &ends);
}
