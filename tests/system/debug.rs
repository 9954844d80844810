//! Debug exceptions: single-stepping, breakpoints on instructions, data and ports, RF, GD, INT1
//! (SDM 3B chapter 17).

use tests::check::{Expect, check};
use tests::code64;
use tests::guest::Guest;
use tests::layout::*;
use tests::segments::Gate;
use vcpu::fault::vector;
use vcpu::state::regs::gpr::{RAX, RBX, RCX, RDI, RDX, RSI};
use vcpu::state::{cr4, rflags, seg};

/// DR6 bits.
const B0: u64 = 1 << 0;
const B1: u64 = 1 << 1;
const BD: u64 = 1 << 13;
const BS: u64 = 1 << 14;
/// DR6 without any cause.
const DR6_CLEAR: u64 = 0xffff_0ff0;

fn dr6(guest: &Guest) -> u64 {
    guest.core.cpu.dr[6]
}

/// A #DB handler that appends the return address and DR6 to a list at `DATA`, clears DR6 and returns.
fn logger() -> &'static [u8] {
    code64!(
        "push rax",
        "mov rax, [rsp + 8]",
        "mov [r15], rax",
        "mov rax, dr6",
        "mov [r15 + 8], rax",
        "add r15, 16",
        "mov eax, 0xffff0ff0",
        "mov dr6, rax",
        "pop rax",
        "iretq"
    )
}

/// A guest whose #DB handler is `logger`, about to run `code` with TF set or with breakpoints.
fn logged(code: &[u8]) -> Guest {
    let mut guest = Guest::long();
    guest.set_gate(vector::DB, Gate::new(14, 8, CODE + 0x800));
    guest.put(CODE + 0x800, logger());
    guest.set(15, DATA);
    guest.program(code)
}

/// What `logger` must have noted: (offset of the return address from CODE, DR6 causes).
fn log(entries: &[(u64, u64)]) -> Vec<Expect> {
    let mut ends = vec![];
    for (number, (offset, causes)) in entries.iter().enumerate() {
        let at = DATA + 16 * number as u64;
        ends.extend([Expect::Memory(at, CODE + offset), Expect::Memory(at + 8, DR6_CLEAR | causes)]);
    }
    ends.push(Expect::Register(15, DATA + 16 * entries.len() as u64));
    ends
}

fn step(guest: &mut Guest) {
    guest.set_flags(rflags::TF);
}

/// TF: a trap after each instruction, DR6.BS set (SDM 3B 17.3.1.4). The last instruction clears TF and still traps.
#[test]
fn single_steps() {
    // TF is bit 8: AND with -257 clears it in the image that PUSHF left.
    let rows: [(&str, &[u8], &[(u64, u64)]); 7] = [
        (
            "plain",
            code64!("inc rax", "dec rax", "nop", "pushf", "and dword ptr [rsp], -257", "popf", "nop", "hlt"),
            &[(3, BS), (6, BS), (7, BS), (8, BS), (15, BS), (16, BS)],
        ),
        (
            "jumps",
            code64!(
                "jmp 2f",
                "int3",
                "2: call 3f",
                "3: pop rax",
                "pushf",
                "and dword ptr [rsp], -257",
                "popf",
                "hlt"
            ),
            &[(3, BS), (8, BS), (9, BS), (10, BS), (17, BS), (18, BS)],
        ),
        (
            "MOV SS",
            code64!("mov ss, esi", "nop", "pushf", "and dword ptr [rsp], -257", "popf", "hlt"),
            // No trap right after MOV SS; one after the next instruction (SDM 3A 6.8.3).
            &[(3, BS), (4, BS), (11, BS), (12, BS)],
        ),
        (
            "REP",
            code64!("rep stosb", "pushf", "and dword ptr [rsp], -257", "popf", "hlt"),
            // After every iteration; RIP moves on with the last (SDM 2, REP).
            &[(0, BS), (0, BS), (2, BS), (3, BS), (10, BS), (11, BS)],
        ),
        (
            "CPUID and RDTSC",
            code64!("cpuid", "rdtsc", "pushf", "and dword ptr [rsp], -257", "popf", "hlt"),
            &[(2, BS), (4, BS), (5, BS), (12, BS), (13, BS)],
        ),
        (
            "a device",
            code64!("out 0x80, al", "pushf", "and dword ptr [rsp], -257", "popf", "hlt"),
            &[(2, BS), (3, BS), (10, BS), (11, BS)],
        ),
        (
            "not taken",
            code64!("test esp, esp", "jz 2f", "2: pushf", "and dword ptr [rsp], -257", "popf", "hlt"),
            &[(2, BS), (4, BS), (5, BS), (12, BS), (13, BS)],
        ),
    ];
    for (name, code, entries) in rows {
        let guest = || {
            let mut guest = logged(code).with(step);
            guest.set(RSI, 0x10);
            guest.set(RCX, 3);
            guest.set(RDI, DATA + 0x1000);
            guest
        };
        check(name, guest, &log(entries));
    }
}

/// TF set by POPF and by IRET acts after the instruction that follows (SDM 3B 17.3.1.4).
#[test]
fn steps_begin_after_popf_and_iret() {
    let popf = code64!(
        "pushf",
        "or dword ptr [rsp], 256",
        "popf",
        "nop",
        "pushf",
        "and dword ptr [rsp], -257",
        "popf",
        "hlt"
    );
    check("POPF", || logged(popf), &log(&[(10, BS), (11, BS), (18, BS), (19, BS)]));
    let iret = code64!("iretq", "nop", "pushf", "and dword ptr [rsp], -257", "popf", "hlt");
    let guest = || {
        let mut guest = logged(iret);
        for (slot, value) in [CODE + 2, 8, 2 | u64::from(rflags::TF), STACK, 0x10].into_iter().enumerate() {
            guest.put_u64(STACK - 40 + slot as u64 * 8, value);
        }
        guest.set(4, STACK - 40);
        guest
    };
    check("IRET", guest, &log(&[(3, BS), (4, BS), (11, BS), (12, BS)]));
}

/// Instructions that end stepping by entering a handler: gates clear TF, no trap in the handler or after the INT
/// (SDM 3B 17.3.1.4).
#[test]
fn handlers_run_unstepped() {
    let code = code64!("int 0x40", "nop", "pushf", "and dword ptr [rsp], -257", "popf", "hlt");
    let guest = || {
        let mut guest = logged(code).with(step);
        guest.put(handler(0x40), code64!("nop", "nop", "iretq"));
        guest
    };
    check("INT n", guest, &log(&[(3, BS), (4, BS), (11, BS), (12, BS)]));
    // A fault: the step of the restarted instruction is reported once.
    let code = code64!("div ecx", "nop", "pushf", "and dword ptr [rsp], -257", "popf", "hlt");
    let guest = || {
        let mut guest = logged(code).with(step);
        guest.put(handler(0), code64!("inc ecx", "iretq"));
        guest
    };
    check("#DE", guest, &log(&[(2, BS), (3, BS), (4, BS), (11, BS), (12, BS)]));
    // MOV SS before INT n: the step of MOV SS is gone, and INT n clears TF.
    let code = code64!("mov ss, esi", "int 0x40", "hlt");
    let guest = || {
        let mut guest = logged(code).with(step);
        guest.set(RSI, 0x10);
        guest
    };
    check("MOV SS, INT n", guest, &[Expect::Event(0x40, None, CODE + 4), Expect::Register(15, DATA)]);
}

/// SYSCALL with TF in IA32_FMASK is not stepped; without, the trap is in the kernel. SYSRET to TF traps at once.
#[test]
fn steps_over_fast_calls() {
    let with_msrs = |mask: u64| {
        move |guest: &mut Guest| {
            guest.core.write_msr(0xc000_0081, 0x1b << 48 | 8 << 32).unwrap();
            guest.core.write_msr(0xc000_0082, CODE + 0x100).unwrap();
            guest.core.write_msr(0xc000_0084, mask).unwrap();
            guest.put(CODE + 0x100, code64!("hlt"));
        }
    };
    let masked = || Guest::long().user().with(with_msrs(0x100)).with(step).program(code64!("syscall"));
    check("masked", masked, &[Expect::HaltedAt(CODE + 0x101), Expect::Is("DR6", dr6, DR6_CLEAR)]);
    let open = || Guest::long().user().with(with_msrs(0)).with(step).program(code64!("syscall"));
    check(
        "open",
        open,
        &[Expect::Event(vector::DB, None, CODE + 0x100), Expect::Is("DR6", dr6, DR6_CLEAR | BS)],
    );
    let back = || {
        let mut guest = Guest::long().with(with_msrs(0));
        guest.set(RCX, CODE_USER);
        guest.set(11, u64::from(rflags::TF));
        guest.program(code64!("sysretq"))
    };
    check(
        "SYSRET",
        back,
        &[Expect::Event(vector::DB, None, CODE_USER), Expect::Is("DR6", dr6, DR6_CLEAR | BS)],
    );
}

/// HLT under TF: the trap wakes the CPU.
#[test]
fn step_over_halt() {
    let code = code64!("hlt", "pushf", "and dword ptr [rsp], -257", "popf", "hlt");
    check("HLT", || logged(code).with(step), &log(&[(1, BS), (2, BS), (9, BS), (10, BS)]));
}

/// Arms DR0: R/W and LEN fields of DR7.
fn arm(guest: &mut Guest, address: u64, access: u64, len: u64) {
    guest.core.cpu.dr[0] = address;
    guest.core.cpu.dr[7] = 0x400 | 1 | access << 16 | len << 18;
}

const EXECUTE: u64 = 0;
const WRITE: u64 = 1;
const IO: u64 = 2;
const READ_WRITE: u64 = 3;

/// Breakpoints on data: a trap after the instruction, if any byte overlaps (SDM 3B 17.2.5, 17.3.1.2).
#[test]
fn data_breakpoints() {
    const B: u64 = DATA + 0x100;
    let read: &[u8] = code64!("mov eax, [rbx]", "hlt");
    let write: &[u8] = code64!("mov [rbx], eax", "hlt");
    let change: &[u8] = code64!("add [rbx], eax", "hlt");
    for (code, len_of_code) in [(read, 2), (write, 2), (change, 2)] {
        for access in [WRITE, READ_WRITE] {
            for (len, bytes) in [(0, 1), (1, 2), (3, 4), (2, 8)] {
                for offset in -4i64..=9 {
                    let guest = || {
                        let mut guest = logged(code).with(|guest| arm(guest, B, access, len));
                        guest.set(RBX, B.wrapping_add_signed(offset));
                        guest
                    };
                    let overlaps = offset > -4 && offset < bytes;
                    let hits = overlaps && (access == READ_WRITE || code != read);
                    let name = format!("{code:x?}, access {access}, {bytes} bytes, offset {offset}");
                    let mut guest = guest();
                    guest.run(100);
                    let noted = (guest.register(15) - DATA) / 16;
                    assert_eq!(noted, u64::from(hits), "{name}");
                    if hits {
                        assert_eq!(guest.memory(DATA), CODE + len_of_code, "{name}");
                        assert_eq!(guest.memory(DATA + 8), DR6_CLEAR | B0, "{name}");
                    }
                }
            }
        }
    }
}

/// Data breakpoints of other instructions: stack, strings, vectors, and two registers at once.
#[test]
fn data_breakpoints_by_instruction() {
    const B: u64 = DATA + 0x100;
    let rows: [(&str, &[u8], u64, &[(u64, u64)]); 8] = [
        ("PUSH", code64!("mov rsp, 0x20108", "push rax", "mov rsp, 0x8000", "hlt"), WRITE, &[(8, B0)]),
        ("POP", code64!("mov rsp, 0x20100", "pop rax", "mov rsp, 0x8000", "hlt"), READ_WRITE, &[(8, B0)]),
        ("MOVS reads", code64!("mov esi, ebx", "movsq", "hlt"), READ_WRITE, &[(4, B0)]),
        ("STOS writes", code64!("mov edi, ebx", "stosq", "hlt"), WRITE, &[(4, B0)]),
        ("CMPXCHG that fails", code64!("inc eax", "lock cmpxchg [rbx], ecx", "hlt"), WRITE, &[(6, B0)]),
        ("MOVUPS", code64!("movups [rbx - 8], xmm0", "hlt"), WRITE, &[(4, B0)]),
        ("LEA", code64!("lea rax, [rbx]", "hlt"), READ_WRITE, &[]),
        ("PREFETCH", code64!("prefetcht0 [rbx]", "hlt"), READ_WRITE, &[]),
    ];
    for (name, code, access, entries) in rows {
        let guest = || {
            let mut guest = logged(code).with(|guest| {
                arm(guest, B, access, 0);
                guest.core.cpu.cr4 |= cr4::OSFXSR;
            });
            guest.set(RBX, B);
            guest.set(RDI, DATA + 0x1000);
            guest
        };
        check(name, guest, &log(entries));
    }
    // REP STOSB over the breakpoint: after the iteration that met it, then on (SDM 3B 17.3.1.2).
    let guest = || {
        let mut guest = logged(code64!("rep stosb", "hlt")).with(|guest| arm(guest, B, WRITE, 0));
        guest.set(RCX, 16);
        guest.set(RDI, B - 5);
        guest.put(CODE + 0x800, code64!("mov [r15], rcx", "add r15, 8", "iretq"));
        guest
    };
    check(
        "REP STOSB",
        guest,
        &[Expect::Register(15, DATA + 8), Expect::Memory(DATA, 10), Expect::Register(RCX, 0)],
    );
    // Two registers on one address, and a write that meets one of them in either half of a page crossing.
    let guest = || {
        logged(code64!("mov [rbx], rax", "hlt")).with(|guest| {
            arm(guest, B, WRITE, 0);
            guest.core.cpu.dr[1] = DATA + 0x1000;
            guest.core.cpu.dr[7] |= 0x8 | 1 << 20;
            guest.set(RBX, DATA + 0xffc);
        })
    };
    check("page crossing", guest, &log(&[(3, B1)]));
}

/// A MOV SS that meets a data breakpoint: the trap waits for the next instruction to end (SDM 3A 6.8.3).
#[test]
fn data_breakpoint_on_mov_ss() {
    const B: u64 = DATA + 0x100;
    let guest = |code: &'static [u8]| {
        move || {
            let mut guest = logged(code).with(|guest| arm(guest, B, READ_WRITE, 0));
            guest.put_u64(B, 0x10);
            guest.set(RBX, B);
            guest
        }
    };
    check("MOV SS, NOP", guest(code64!("mov ss, [rbx]", "nop", "hlt")), &log(&[(3, B0)]));
    // INT n runs first; the trap hits the first instruction of its handler.
    let ends = [Expect::Memory(DATA, handler(0x40)), Expect::Memory(DATA + 8, DR6_CLEAR | B0)];
    check("MOV SS, INT n", guest(code64!("mov ss, [rbx]", "int 0x40")), &ends);
}

/// Breakpoints on instructions: a fault before the instruction, with RF clear in the image; RF lets it run once
/// (SDM 3B 17.3.1.1).
#[test]
fn instruction_breakpoints() {
    let code = code64!("nop", "inc rax", "nop", "hlt");
    let at_inc = |guest: &mut Guest| arm(guest, CODE + 1, EXECUTE, 0);
    let guest = || Guest::long().program(code).with(at_inc);
    let ends = [
        Expect::Event(vector::DB, None, CODE + 1),
        Expect::EventFlags { code: false, set: 0, clear: rflags::RF },
        Expect::Is("DR6", dr6, DR6_CLEAR | B0),
        Expect::Register(RAX, 0),
        Expect::Icount(2),
    ];
    check("fault", guest, &ends);
    // A handler that sets RF in the image.
    let guest = || {
        let mut guest = Guest::long().program(code).with(at_inc);
        guest.set_gate(vector::DB, Gate::new(14, 8, CODE + 0x800));
        guest.put(CODE + 0x800, code64!("inc rbx", "bts dword ptr [rsp + 16], 16", "iretq"));
        guest
    };
    check("RF", guest, &[Expect::Register(RAX, 1), Expect::Register(RBX, 1), Expect::HaltedAt(CODE + 6)]);
    // In the middle of an instruction: no breakpoint. On the first byte after a jump: one.
    let inside = |guest: &mut Guest| arm(guest, CODE + 2, EXECUTE, 0);
    check("inside", || Guest::long().program(code).with(inside), &[Expect::HaltedAt(CODE + 6)]);
    let jump = code64!("jmp 2f", "int3", "2: hlt");
    let target = |guest: &mut Guest| arm(guest, CODE + 3, EXECUTE, 0);
    check(
        "target",
        || Guest::long().program(jump).with(target),
        &[Expect::Event(vector::DB, None, CODE + 3)],
    );
    // A loop: the breakpoint hits in every round.
    let code = code64!("mov ecx, 3", "2: inc rax", "loop 2b", "hlt");
    let guest = || {
        let mut guest = Guest::long().program(code).with(|guest| arm(guest, CODE + 5, EXECUTE, 0));
        guest.set_gate(vector::DB, Gate::new(14, 8, CODE + 0x800));
        guest.put(CODE + 0x800, code64!("inc rbx", "bts dword ptr [rsp + 16], 16", "iretq"));
        guest
    };
    check("loop", guest, &[Expect::Register(RBX, 3), Expect::Register(RAX, 3)]);
}

/// The instruction at the breakpoint faults: #DB first; with RF the fault, its image with RF, so that the restart does
/// not break again (SDM 3B 17.3.1.1).
#[test]
fn breakpoint_on_a_faulting_instruction() {
    let guest = || {
        let mut guest =
            Guest::long().program(code64!("div ecx", "hlt")).with(|guest| arm(guest, CODE, EXECUTE, 0));
        guest.set_gate(vector::DB, Gate::new(14, 8, CODE + 0x800));
        guest.put(CODE + 0x800, code64!("inc rbx", "bts dword ptr [rsp + 16], 16", "iretq"));
        guest.put(handler(0), code64!("inc ecx", "inc rsi", "iretq"));
        guest
    };
    check("DIV", guest, &[Expect::Register(RBX, 1), Expect::Register(RSI, 1), Expect::HaltedAt(CODE + 3)]);
    // On a page that is not there: #DB has priority over the page fault of the fetch (SDM 3A table 6-2).
    let guest = || {
        let mut guest =
            Guest::long().program(code64!("jmp rbx")).with(|guest| arm(guest, WINDOW, EXECUTE, 0));
        guest.set(RBX, WINDOW);
        guest
    };
    check(
        "absent page",
        guest,
        &[Expect::Event(vector::DB, None, WINDOW), Expect::Is("CR2", |guest| guest.core.cpu.cr2, 0)],
    );
}

/// MOV SS holds off an instruction breakpoint on the next instruction (SDM 3A 6.8.3).
#[test]
fn mov_ss_hides_an_instruction_breakpoint() {
    let guest = || {
        let mut guest = Guest::long().program(code64!("mov ss, esi", "nop", "hlt"));
        guest.set(RSI, 0x10);
        guest.with(|guest| arm(guest, CODE + 2, EXECUTE, 0))
    };
    check("MOV SS", guest, &[Expect::HaltedAt(CODE + 4), Expect::Is("DR6", dr6, DR6_CLEAR)]);
}

/// Breakpoints on ports need CR4.DE (SDM 3B 17.2.4).
#[test]
fn port_breakpoints() {
    let code = code64!("in al, 0x80", "out 0x82, al", "mov edx, 0x81", "out dx, al", "hlt");
    for (de, entries) in [(true, &[(2, B0), (10, B0)][..]), (false, &[])] {
        let guest = || {
            logged(code).with(|guest| {
                arm(guest, 0x80, IO, 1);
                if de {
                    guest.core.cpu.cr4 |= cr4::DE;
                }
            })
        };
        check(&format!("DE {de}"), guest, &log(entries));
    }
}

/// DR7.GD: any MOV DR faults with DR6.BD, and GD is off in the handler (SDM 3B 17.2.4). RF is set in the image.
#[test]
fn general_detect() {
    for code in [code64!("mov rax, dr0"), code64!("mov dr6, rax"), code64!("mov dr7, rax")] {
        let guest = || Guest::long().program(code).with(|guest| guest.core.cpu.dr[7] |= 1 << 13);
        let ends = [
            Expect::Event(vector::DB, None, CODE),
            Expect::EventFlags { code: false, set: rflags::RF, clear: 0 },
            Expect::Is("DR6", dr6, DR6_CLEAR | BD),
            Expect::Is("DR7", |guest| guest.core.cpu.dr[7], 0x400),
        ];
        check(&format!("{code:x?}"), guest, &ends);
    }
}

/// Fixed bits, aliases and CR4.DE (SDM 3B 17.2.2, 17.2.3).
#[test]
fn debug_registers_as_registers() {
    let code = code64!(
        "mov eax, 0xffffffff",
        "mov dr6, rax",
        "mov rbx, dr6",
        "xor eax, eax",
        "mov dr6, rax",
        "mov rcx, dr6",
        "mov dr7, rax",
        "mov rdx, dr7",
        "mov rax, 0x123456789abcdef0",
        "mov dr3, rax",
        "mov rsi, dr3",
        "mov rdi, dr4",
        "hlt"
    );
    let ends = [
        Expect::Register(RBX, 0xffff_efff),
        Expect::Register(RCX, DR6_CLEAR),
        Expect::Register(RDX, 0x400),
        Expect::Register(RSI, 0x1234_5678_9abc_def0),
        Expect::Register(RDI, DR6_CLEAR),
    ];
    check("values", || Guest::long().program(code), &ends);
    for code in [code64!("mov rax, dr4"), code64!("mov dr5, rax")] {
        let guest = || Guest::long().program(code).with(|guest| guest.core.cpu.cr4 |= cr4::DE);
        check("DE", guest, &[Expect::Event(vector::UD, None, CODE)]);
    }
}

/// INT1 enters #DB without any cause in DR6 (SDM 2, INT1).
#[test]
fn int1_has_no_cause() {
    let guest = || Guest::long().program(code64!(".byte 0xf1"));
    check("INT1", guest, &[Expect::Event(vector::DB, None, CODE + 1), Expect::Is("DR6", dr6, DR6_CLEAR)]);
}

/// A step and a breakpoint on data at once are one trap with two causes.
#[test]
fn one_trap_with_two_causes() {
    let code = code64!("mov [rbx], eax", "pushf", "and dword ptr [rsp], -257", "popf", "hlt");
    let guest = || {
        let mut guest = logged(code).with(step).with(|guest| arm(guest, DATA + 0x100, WRITE, 0));
        guest.set(RBX, DATA + 0x100);
        guest
    };
    check("two causes", guest, &log(&[(2, B0 | BS), (3, BS), (10, BS), (11, BS)]));
}

/// Breakpoint addresses are linear: a segment base counts.
#[test]
fn breakpoints_are_linear() {
    let guest = || {
        let mut guest = logged(code64!("mov fs:[rbx], eax", "hlt")).with(|guest| {
            arm(guest, DATA + 0x100, WRITE, 0);
            guest.core.cpu.segments[seg::FS].base = DATA;
        });
        guest.set(RBX, 0x100);
        guest
    };
    check("FS", guest, &log(&[(3, B0)]));
}
