//! Interrupts between instructions: exactly where they arrive, what holds them off, NMI, HLT (SDM 3A 6.8, 6.9, 11.5, 11.8).

use tests::check::{Expect, check};
use tests::code64;
use tests::guest::Guest;
use tests::layout::*;
use tests::segments::Gate;
use vcpu::fault::vector;
use vcpu::state::regs::gpr::{RAX, RBX, RCX, RDX, RSI};
use vcpu::state::rflags;

/// TSC ticks an instruction: 8 ns at 2 GHz.
const TICKS: u64 = 16;
/// Vectors of the tests.
const TIMER: u8 = 0x51;

/// LVT timer modes.
const ONE_SHOT: u64 = 0 << 17;
const PERIODIC: u64 = 1 << 17;
const TSC_DEADLINE: u64 = 2 << 17;

/// A guest with its local APIC in x2APIC mode and on; interrupts are enabled.
fn apic() -> Guest {
    Guest::long().with(|guest| {
        let base = guest.core.read_msr(0x1b).unwrap();
        guest.core.write_msr(0x1b, base | 0xc00).unwrap();
        guest.core.write_msr(0x80f, 0x1ff).unwrap();
        guest.set_flags(rflags::IF);
    })
}

/// The same with IF clear.
fn apic_off() -> Guest {
    let mut guest = apic();
    guest.core.cpu.eflags &= !rflags::IF;
    guest
}

fn timer(mode: u64, divide: u64) -> Guest {
    apic().with(|guest| {
        guest.core.write_msr(0x83e, divide).unwrap();
        guest.core.write_msr(0x832, mode | u64::from(TIMER)).unwrap();
    })
}

/// The TSC deadline, in ticks from power-on, and how many instructions have retired when the interrupt arrives.
#[test]
fn tsc_deadline_is_exact() {
    let code = code64!("mov ecx, 0x6e0", "xor edx, edx", "mov eax, esi", "wrmsr", "2: inc rbx", "jmp 2b");
    for (deadline, icount) in [
        (4 * TICKS, 4),
        (4 * TICKS + 1, 5),
        (5 * TICKS, 5),
        (50 * TICKS, 50),
        (50 * TICKS + 1, 51),
        (51 * TICKS - 1, 51),
        (51 * TICKS, 51),
        (1000 * TICKS, 1000),
        // Passed when it is written: it expires at once.
        (TICKS, 4),
    ] {
        let guest = || {
            let mut guest = timer(TSC_DEADLINE, 0);
            guest.set(RSI, deadline);
            guest.program(code)
        };
        // The loop begins at offset 11 and has two instructions; HLT in the handler counts.
        let rounds: u64 = icount - 4;
        let at = CODE + 11 + if rounds % 2 == 1 { 3 } else { 0 };
        let ends = [
            Expect::Event(TIMER, None, at),
            Expect::Register(RBX, rounds.div_ceil(2)),
            Expect::Icount(icount + 1),
        ];
        check(&format!("deadline {deadline}"), guest, &ends);
    }
}

/// Initial count, divide configuration and the icount of the interrupt. The count starts with the WRMSR, the fourth
/// instruction; the input clock is 1 GHz.
#[test]
fn countdown_is_exact() {
    let code = code64!("mov ecx, 0x838", "xor edx, edx", "mov eax, esi", "wrmsr", "2: inc rbx", "jmp 2b");
    const BY_1: u64 = 0xb;
    const BY_2: u64 = 0;
    const BY_16: u64 = 3;
    for mode in [ONE_SHOT, PERIODIC] {
        for (count, divide, icount) in [
            (1000, BY_1, 3 + 125),
            (1001, BY_1, 3 + 126),
            (1007, BY_1, 3 + 126),
            (1008, BY_1, 3 + 126),
            (4000, BY_2, 3 + 1000),
            (500, BY_16, 3 + 1000),
        ] {
            let guest = || {
                let mut guest = timer(mode, divide);
                guest.set(RSI, count);
                guest.program(code)
            };
            let name = format!("count {count}, divide {divide}, mode {mode:x}");
            check(
                &name,
                guest,
                &[Expect::Icount(icount + 1), Expect::Register(RBX, (icount - 4u64).div_ceil(2))],
            );
        }
    }
}

/// A periodic timer, its handler storing the TSC: the times are exact multiples, whatever the handler does.
#[test]
fn periodic_timer_keeps_time() {
    let code = code64!("mov ecx, 0x838", "xor edx, edx", "mov eax, 1600", "wrmsr", "2: inc rbx", "jmp 2b");
    let handler_code = code64!(
        "rdtsc",
        "mov [rdi], rax",
        "add rdi, 8",
        "mov ecx, 0x80b",
        "xor eax, eax",
        "xor edx, edx",
        "wrmsr",
        "cmp rdi, 0x20028",
        "je 2f",
        "iretq",
        "2: hlt"
    );
    let guest = || {
        let mut guest = timer(PERIODIC, 0xb);
        guest.set(7, DATA);
        guest.set_gate(TIMER, Gate::new(14, 8, CODE + 0x100));
        guest.put(CODE + 0x100, handler_code);
        guest.program(code)
    };
    let first = 3 * TICKS;
    let times = [1, 2, 3, 4, 5].map(|n| Expect::Memory(DATA + (n - 1) * 8, first + n * 3200));
    check("periodic", guest, &times);
}

/// HLT until the timer: time jumps to the deadline, the count does not (design section 4).
#[test]
fn halt_until_the_timer() {
    let code =
        code64!("mov ecx, 0x6e0", "xor edx, edx", "mov eax, 0x1000001", "wrmsr", "hlt", "inc rbx", "hlt");
    let guest = || {
        let mut guest = timer(TSC_DEADLINE, 0);
        guest.put(handler(TIMER), code64!("rdtsc", "hlt"));
        guest.program(code)
    };
    // The deadline is odd: the first nanosecond after it is one tick later.
    let ends = [Expect::Register(RAX, 0x100_0002), Expect::Icount(7), Expect::Register(RBX, 0)];
    check("HLT", guest, &ends);
}

/// STI holds interrupts off for one instruction, if IF was clear (SDM 2, STI).
#[test]
fn sti_shadow() {
    // Vector 0x60 is pending from the first instruction on.
    let rows: [(&str, &[u8], u64, u64); 6] = [
        ("STI INC", code64!("sti", "inc rbx", "inc rbx"), 4, 1),
        ("STI STI INC", code64!("sti", "sti", "inc rbx"), 2, 0),
        ("STI HLT", code64!("sti", "hlt", "inc rbx"), 2, 0),
        ("POPF", code64!("pushf", "bts qword ptr [rsp], 9", "popf", "inc rbx"), 8, 0),
        ("STI CLI STI INC", code64!("sti", "cli", "inc rbx", "sti", "inc rbx"), 9, 2),
        ("STI, a jump", code64!("sti", "jmp 2f", "int3", "2: inc rbx"), 4, 0),
    ];
    for (name, code, at, count) in rows {
        let guest = || {
            let mut guest = apic_off();
            guest.core.write_msr(0x83f, 0x60).unwrap();
            guest.program(code)
        };
        check(name, guest, &[Expect::Event(0x60, None, CODE + at), Expect::Register(RBX, count)]);
    }
}

/// An instruction that faults in the shadow of STI ends it: the interrupt comes when the handler lets it.
#[test]
fn sti_shadow_and_a_fault() {
    let guest = || {
        let mut guest = apic_off();
        guest.core.write_msr(0x83f, 0x60).unwrap();
        guest.put(handler(vector::UD), code64!("add qword ptr [rsp], 2", "iretq"));
        guest.program(code64!("sti", "ud2", "inc rbx"))
    };
    check("STI UD2", guest, &[Expect::Event(0x60, None, CODE + 3), Expect::Register(RBX, 0)]);
}

/// MOV SS and POP SS hold interrupts off for one instruction, LSS need not (SDM 3A 6.8.3): the timer expires at each
/// instruction of a row; where does it arrive?
#[test]
fn mov_ss_shadow() {
    // WRMSR is the fourth instruction; then four of interest: icount → offset of the return address.
    let rows: [(&str, &[u8], [u64; 4]); 3] = [
        ("MOV DS", code64!("nop", "mov ds, edi", "inc rbx", "inc rbx", "cli", "hlt"), [0, 1, 3, 6]),
        ("MOV SS", code64!("nop", "mov ss, edi", "inc rbx", "inc rbx", "cli", "hlt"), [0, 1, 6, 6]),
        ("LSS", code64!("nop", "lss eax, [0x20000]", "inc rbx", "inc rbx", "cli", "hlt"), [0, 1, 9, 12]),
    ];
    for (name, code, offsets) in rows {
        for (due, offset) in (4..).zip(offsets) {
            let guest = || {
                let mut guest = timer(TSC_DEADLINE, 0);
                guest.set(RSI, due * TICKS);
                guest.set(7, 0x10);
                guest.put_u64(DATA, 0x10 << 32);
                guest.put(CODE + 11, code);
                guest.program(code64!("mov ecx, 0x6e0", "xor edx, edx", "mov eax, esi", "wrmsr"))
            };
            check(&format!("{name} due at {due}"), guest, &[Expect::Event(TIMER, None, CODE + 11 + offset)]);
        }
    }
}

/// Priorities: the higher vector first, CR8 holds lower classes off, EOI lets the next one in (SDM 3A 11.8.3).
#[test]
fn priorities() {
    let two_pending = |guest: &mut Guest| {
        guest.core.write_msr(0x83f, 0x60).unwrap();
        guest.core.write_msr(0x83f, 0x70).unwrap();
    };
    let guest = || apic_off().with(two_pending).program(code64!("sti", "nop"));
    check("two", guest, &[Expect::Event(0x70, None, CODE + 2)]);
    let code = code64!("mov eax, 7", "mov cr8, rax", "sti", "nop", "nop", "dec eax", "mov cr8, rax", "nop");
    let guest = || apic_off().with(two_pending).program(code);
    check("CR8", guest, &[Expect::Event(0x70, None, CODE + 18)]);
    // The handler of 0x70 ends its interrupt with IF still clear: 0x60 comes after IRET.
    let guest = || {
        let mut guest = apic_off().with(two_pending);
        let end = code64!("mov ecx, 0x80b", "xor eax, eax", "xor edx, edx", "wrmsr", "inc rbx", "iretq");
        guest.set_gate(0x70, Gate::new(14, 8, CODE + 0x100));
        guest.put(CODE + 0x100, end);
        guest.program(code64!("sti", "nop", "nop"))
    };
    check("EOI", guest, &[Expect::Event(0x60, None, CODE + 2), Expect::Register(RBX, 1)]);
    // Without EOI the lower one waits for ever.
    let guest = || {
        let mut guest = apic_off().with(two_pending);
        guest.put(handler(0x70), code64!("iretq"));
        guest.program(code64!("sti", "nop", "nop", "cli", "hlt"))
    };
    check("no EOI", guest, &[Expect::HaltedAt(CODE + 5)]);
}

/// WRMSR of an NMI to the own CPU.
const SEND_NMI: [u64; 3] = [0x830, 0x4400, 0];

fn nmi_guest(code: &[u8], handler_code: &[u8]) -> Guest {
    let mut guest = apic_off();
    guest.set(RCX, SEND_NMI[0]);
    guest.set(RAX, SEND_NMI[1]);
    guest.set(RDX, SEND_NMI[2]);
    guest.set_gate(vector::NMI, Gate::new(14, 8, CODE + 0x200));
    guest.put(CODE + 0x200, handler_code);
    guest.program(code)
}

/// An NMI needs no IF, and blocks others until IRET, even one that faults (SDM 3A 6.7.1).
#[test]
fn nmi_blocks_nmi() {
    let guest = || nmi_guest(code64!("wrmsr", "inc rbx"), code64!("hlt"));
    let ends =
        [Expect::HaltedAt(CODE + 0x201), Expect::Memory(STACK - 40, CODE + 2), Expect::Register(RBX, 0)];
    check("NMI", guest, &ends);
    // The second NMI is sent in the handler and arrives after its IRET, before the next instruction.
    let handler_code = code64!("inc rsi", "cmp esi, 2", "je 2f", "wrmsr", "inc r8", "iretq", "2: hlt");
    let guest = || nmi_guest(code64!("wrmsr", "inc rbx"), handler_code);
    let ends = [
        Expect::Register(RSI, 2),
        Expect::Register(8, 1),
        Expect::Register(RBX, 0),
        Expect::Memory(STACK - 40, CODE + 2),
    ];
    check("NMI in NMI", guest, &ends);
    // INT 2 does not block.
    let handler_code = code64!("inc rsi", "cmp esi, 2", "je 2f", "wrmsr", "inc r8", "2: hlt");
    let guest = || nmi_guest(code64!("int 2"), handler_code);
    check("INT 2", guest, &[Expect::Register(RSI, 2), Expect::Register(8, 0)]);
    // IRET to a null CS: #GP, and the NMI is delivered before the first instruction of its handler.
    let handler_code =
        code64!("inc rsi", "cmp esi, 2", "je 2f", "wrmsr", "mov qword ptr [rsp + 8], 0", "iretq", "2: hlt");
    let guest = || nmi_guest(code64!("wrmsr", "inc rbx"), handler_code);
    let pushed: fn(&Guest) -> u64 = |guest| guest.memory(guest.register(4));
    check(
        "faulting IRET",
        guest,
        &[Expect::Register(RSI, 2), Expect::Is("RIP", pushed, handler(vector::GP))],
    );
}

/// HLT ends with an NMI, whatever IF (SDM 2, HLT).
#[test]
fn nmi_wakes() {
    let mut guest = nmi_guest(code64!("hlt", "inc rbx"), code64!("inc rsi", "hlt"));
    guest.run(100);
    assert_eq!((guest.core.cpu.icount, guest.core.cpu.rip), (1, CODE + 1));
    guest.core.chipset.raise_nmi();
    guest.run(100);
    assert_eq!((guest.core.cpu.icount, guest.register(RSI)), (3, 1));
    assert_eq!(guest.memory(STACK - 40), CODE + 1);
}

/// A repeated string instruction is one instruction: an interrupt that falls due in it comes after it.
#[test]
fn strings_are_not_split() {
    let guest = || {
        let mut guest = timer(TSC_DEADLINE, 0);
        guest.put(CODE + 11, code64!("mov ecx, 1000", "mov edi, 0x20000", "rep stosb", "inc rbx"));
        guest.set(RSI, 7 * TICKS);
        guest.program(code64!("mov ecx, 0x6e0", "xor edx, edx", "mov eax, esi", "wrmsr"))
    };
    let ends = [Expect::Event(TIMER, None, CODE + 23), Expect::Register(RCX, 0), Expect::Icount(8)];
    check("REP STOSB", guest, &ends);
}
