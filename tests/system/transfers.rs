//! Transfers between segments, rings and modes: IRET, far jumps, calls and returns, call gates, SYSCALL, SYSENTER
//! (SDM 3A 5.8, 9.8; vol. 2).

use tests::check::{Expect, check};
use tests::guest::Guest;
use tests::layout::*;
use tests::segments::*;
use tests::{code16, code32, code64};
use vcpu::fault::vector;
use vcpu::state::regs::gpr::{RAX, RBX, RCX, RDX, RSP};
use vcpu::state::{cr0, cr4, efer, rflags, seg};

fn cs(guest: &Guest) -> u64 {
    u64::from(guest.core.cpu.segments[seg::CS].selector)
}

fn ss(guest: &Guest) -> u64 {
    u64::from(guest.core.cpu.segments[seg::SS].selector)
}

fn ds(guest: &Guest) -> u64 {
    u64::from(guest.core.cpu.segments[seg::DS].selector)
}

fn rip(guest: &Guest) -> u64 {
    guest.core.cpu.rip
}

fn event_cs(guest: &Guest) -> u64 {
    u64::from(guest.event(false).cs)
}

fn event_ss(guest: &Guest) -> u64 {
    u64::from(guest.event(false).ss)
}

fn event_rsp(guest: &Guest) -> u64 {
    guest.event(false).rsp
}

/// A guest with an IRETQ frame at its stack pointer: RIP, CS, RFLAGS, RSP, SS.
fn with_frame(mut guest: Guest, frame: [u64; 5]) -> Guest {
    for (slot, value) in frame.into_iter().enumerate() {
        guest.put_u64(STACK - 40 + slot as u64 * 8, value);
    }
    guest.set(RSP, STACK - 40);
    guest.program(code64!("iretq"))
}

/// IRETQ to ring 3, to compatibility mode and inside ring 0 (SDM 2, IRET).
#[test]
fn iret_goes_out() {
    for (name, cs, ss, rsp) in [
        ("ring 3", selector::USER_CODE, selector::USER_DATA, STACK_USER - 8),
        ("compatibility mode", selector::USER_CODE32, selector::USER_DATA, STACK_USER - 8),
    ] {
        let frame = [CODE_USER, u64::from(cs), 0x202, rsp, u64::from(ss)];
        let guest = || {
            let mut guest = Guest::long();
            guest.put(CODE_USER, code32!("ud2"));
            with_frame(guest, frame)
        };
        let ends = [
            Expect::Event(vector::UD, None, CODE_USER),
            Expect::Is("CS", event_cs, u64::from(cs)),
            Expect::Is("SS", event_ss, u64::from(ss)),
            Expect::Is("RSP", event_rsp, rsp),
            // Segments of ring 0 do not go out to ring 3 (SDM 2, IRET).
            Expect::Is("DS", ds, 0),
            Expect::EventFlags { code: false, set: rflags::IF, clear: 0 },
        ];
        check(name, guest, &ends);
    }
    let frame = [CODE + 0x40, 8, 2, STACK - 0x123, 0x10];
    let guest = || {
        let mut guest = Guest::long();
        guest.put(CODE + 0x40, code64!("hlt"));
        with_frame(guest, frame)
    };
    let ends = [
        Expect::HaltedAt(CODE + 0x41),
        Expect::Register(RSP, STACK - 0x123),
        Expect::Is("SS", ss, 0x10),
        Expect::Is("DS", ds, 0x10),
    ];
    check("same ring", guest, &ends);
    let frame = [CODE + 0x40, 8, 2, STACK - 0x123, 0];
    let guest = || {
        let mut guest = Guest::long();
        guest.put(CODE + 0x40, code64!("hlt"));
        with_frame(guest, frame)
    };
    check("same ring, null SS", guest, &[Expect::HaltedAt(CODE + 0x41), Expect::Is("SS", ss, 0)]);
}

/// Frames that IRETQ refuses, with the state of before (SDM 2, IRET, 64-bit mode exceptions).
#[test]
fn iret_refuses() {
    let good = [CODE_USER, 0x2b, 2, STACK_USER, 0x23];
    let with = |slot: usize, value: u64| {
        let mut frame = good;
        frame[slot] = value;
        frame
    };
    for (name, frame, number, code) in [
        ("null CS", with(1, 3), vector::GP, 0),
        ("CS beyond the GDT", with(1, 0x203), vector::GP, 0x200),
        ("data in CS", with(1, 0x23), vector::GP, 0x20),
        ("RPL is not DPL", with(1, 0x28), vector::GP, 0x28),
        ("absent CS", with(1, 0x63), vector::NP, 0x60),
        ("null SS for ring 3", with(4, 3), vector::GP, 0),
        ("SS of ring 0", with(4, 0x10), vector::GP, 0x10),
        ("code in SS", with(4, 0x2b), vector::GP, 0x28),
        ("absent SS", with(4, 0x6b), vector::SS, 0x68),
        ("RIP not canonical", with(0, 1 << 47), vector::GP, 0),
    ] {
        let guest = || {
            let mut guest = Guest::long();
            guest.set_descriptor(0x60, segment(0, 0xfffff, 0x7b, 0xa));
            guest.set_descriptor(0x68, segment(0, 0xfffff, 0x73, 0xc));
            with_frame(guest, frame)
        };
        let ends = [
            Expect::Event(number, Some(code), CODE),
            Expect::Is("pushed RSP", |guest| guest.event(true).rsp, STACK - 40),
            Expect::Is("pushed SS", |guest| u64::from(guest.event(true).ss), 0x10),
        ];
        check(name, guest, &ends);
    }
}

/// RFLAGS that ring 3 may not change: IF above IOPL, IOPL itself (SDM 2, IRET and POPF).
#[test]
fn flags_of_ring_3() {
    // IOPL 3, IF, DF and the status flags.
    let image = 0x3ed7;
    let iret = code64!("mov [rsp + 16], rax", "iretq", ".fill 9, 1, 0x90", "ud2");
    let popf = code64!("push rax", "popf", "ud2");
    for code in [iret, popf] {
        let guest = || {
            let mut guest = Guest::long().user();
            let frame = [CODE_USER + 16, 0x2b, 2, STACK_USER, 0x23];
            for (slot, value) in frame.into_iter().enumerate() {
                guest.put_u64(STACK_USER - 0x100 + slot as u64 * 8, value);
            }
            guest.set(RSP, STACK_USER - 0x100);
            guest.set(RAX, image);
            guest.program(code)
        };
        let ends = [Expect::EventFlags { code: false, set: 0xcd5 | 2, clear: 0x3200 }];
        check(&format!("{code:x?}"), guest, &ends);
    }
}

/// Far transfers between 64-bit code, compatibility mode and 32-bit code of ring 0, there and back.
#[test]
fn far_transfers_between_code_sizes() {
    // To compatibility mode by RETFQ, back by a far jump with an immediate selector.
    let guest = || {
        let mut guest = Guest::long();
        guest.put(CODE + 0x100, code32!("mov eax, -1", "inc eax", "ljmp 0x08, 0x10200"));
        guest.put(CODE + 0x200, code64!("mov rbx, 0x1122334455667788", "hlt"));
        guest.set(RAX, u64::MAX);
        guest.program(code64!("push 0x30", "push 0x10100", "retfq"))
    };
    let ends = [
        Expect::Register(RAX, 0),
        Expect::Register(RBX, 0x1122_3344_5566_7788),
        Expect::Is("CS", cs, 8),
        Expect::Register(RSP, STACK),
    ];
    check("there and back", guest, &ends);
    // In compatibility mode addresses and operands have 32 bits: 48 is DEC EAX.
    let guest = || {
        Guest::long()
            .compatible()
            .program(code32!(".byte 0x48, 0xff, 0xc0", "ud2"))
            .with(|guest| guest.set(RAX, 7))
    };
    check("DEC EAX", guest, &[Expect::Register(RAX, 7), Expect::Event(vector::UD, None, CODE_USER + 3)]);
    // A far call by memory operand pushes CS and RIP in slots of its operand size.
    let guest = || {
        let mut guest = Guest::long();
        guest.put_u64(DATA, CODE + 0x100);
        guest.put_u64(DATA + 8, 8);
        guest.put(CODE + 0x100, code64!("mov rax, [rsp]", "mov rbx, [rsp + 8]", "retfq"));
        guest.program(code64!("rex64 call fword ptr [0x20000]", "hlt"))
    };
    let ends = [Expect::Register(RAX, CODE + 8), Expect::Register(RBX, 8), Expect::HaltedAt(CODE + 9)];
    check("far call", guest, &ends);
}

/// What far jumps and returns refuse (SDM 2, JMP and RET).
#[test]
fn far_transfers_refused() {
    let jump = |pointer: u64| {
        move || {
            let mut guest = Guest::long();
            guest.set_descriptor(0x60, segment(0, 0xfffff, 0x1b, 0xa)); // not present
            guest.set_descriptor(0x68, segment(0, 0xfffff, 0x9b, 0xe)); // L and D
            guest.put_u64(DATA, CODE + 0x40);
            guest.put_u64(DATA + 8, pointer);
            guest.program(code64!("rex64 jmp fword ptr [0x20000]"))
        }
    };
    for (name, selector, number, code) in [
        ("null", 0, vector::GP, 0),
        ("null with RPL", 3, vector::GP, 0),
        ("data", 0x10, vector::GP, 0x10),
        ("outer code", 0x28, vector::GP, 0x28),
        ("RPL above CPL", 0x0b, vector::GP, 8),
        ("absent", 0x60, vector::NP, 0x60),
        ("L and D", 0x68, vector::GP, 0x68),
        ("TSS", 0x40, vector::GP, 0x40),
        ("LDT", 0x50, vector::GP, 0x50),
        ("beyond the GDT", 0x100, vector::GP, 0x100),
    ] {
        check(name, jump(selector), &[Expect::Event(number, Some(code), CODE)]);
    }
    // A return goes out, never in.
    let guest = || {
        let mut guest = Guest::long().user();
        guest.put_u64(STACK_USER - 16, CODE);
        guest.put_u64(STACK_USER - 8, 8);
        guest.set(RSP, STACK_USER - 16);
        guest.program(code64!("retfq"))
    };
    check("return inwards", guest, &[Expect::Event(vector::GP, Some(8), CODE_USER)]);
}

/// A call gate of 16 bytes: to the stack of the TSS with a frame of four slots, and back by RETF (SDM 3A 5.8.3.1).
#[test]
fn call_gates_of_long_mode() {
    let gate = |dpl: u8| Gate { dpl, ..Gate::new(CALL_GATE, 8, CODE + 0x100) };
    let guest = |gate: Gate, ring3: bool| {
        move || {
            let mut guest = if ring3 { Guest::long().user() } else { Guest::long() };
            guest.set_descriptor(0x60, gate.low());
            guest.set_descriptor(0x68, gate.high());
            guest.put(CODE + 0x100, code64!("mov rax, [rsp]", "mov rbx, [rsp + 8]", "mov rdx, rsp", "retfq"));
            let at = if ring3 { DATA_USER } else { DATA };
            guest.put_u64(at, 0xdead_beef);
            guest.put_u64(at + 8, 0x63);
            guest.set(RCX, at);
            guest.program(code64!("rex64 call fword ptr [rcx]", "ud2"))
        }
    };
    let ends = [
        Expect::Event(vector::UD, None, CODE_USER + 3),
        Expect::Register(RAX, CODE_USER + 3),
        Expect::Register(RBX, 0x2b),
        Expect::Register(RDX, STACK_INNER - 32),
        Expect::Is("RSP", event_rsp, STACK_USER),
        Expect::Is("SS", event_ss, 0x23),
    ];
    check("to ring 0", guest(gate(3), true), &ends);
    let ends = [
        Expect::Event(vector::UD, None, CODE + 3),
        Expect::Register(RBX, 8),
        Expect::Register(RDX, STACK - 16),
    ];
    check("same ring", guest(gate(3), false), &ends);
    let fault = |code| [Expect::Event(vector::GP, Some(code), CODE_USER)];
    check("DPL", guest(gate(0), true), &fault(0x60));
    check("to compatibility mode", guest(Gate { selector: 0x30, ..gate(3) }, true), &fault(0x30));
    check("absent", guest(gate(3).absent(), true), &[Expect::Event(vector::NP, Some(0x60), CODE_USER)]);
}

/// IA32_STAR for the test guests: SYSCALL to selector 8, SYSRET to 18H and following.
fn with_syscall(guest: &mut Guest) {
    guest.core.write_msr(0xc000_0081, 0x1b << 48 | 8 << 32).unwrap();
    guest.core.write_msr(0xc000_0082, CODE + 0x100).unwrap();
    guest.core.write_msr(0xc000_0084, u64::from(rflags::IF | rflags::DF | rflags::AC)).unwrap();
}

/// SYSCALL and both SYSRETs (SDM 2): RCX, R11, flags, selectors, and the stack that stays.
#[test]
fn syscall_and_sysret() {
    let flags = rflags::IF | rflags::DF | rflags::AC | rflags::ID;
    let guest = || {
        let mut guest = Guest::long().user().with(with_syscall);
        guest.set_flags(flags);
        guest.put(CODE + 0x100, code64!("pushf", "pop rbx", "hlt"));
        guest.program(code64!("syscall"))
    };
    let ends = [
        Expect::HaltedAt(CODE + 0x103),
        Expect::Register(RCX, CODE_USER + 2),
        Expect::Register(11, u64::from(flags | 2)),
        Expect::Register(RBX, u64::from(rflags::ID | 2)),
        Expect::Register(RSP, STACK_USER),
        Expect::Is("CS", cs, 8),
        Expect::Is("SS", ss, 0x10),
    ];
    check("SYSCALL", guest, &ends);
    for (name, code, cs) in
        [("SYSRETQ", code64!("sysretq"), 0x2b), ("SYSRETL", code64!(".byte 0x0f, 0x07"), 0x1b)]
    {
        let guest = || {
            let mut guest = Guest::long().with(with_syscall);
            guest.put(CODE_USER, code32!("ud2"));
            guest.set(RCX, CODE_USER);
            // RF and VM are not taken from R11; reserved bits neither.
            guest.set(11, u64::from(u32::MAX));
            guest.core.cpu.data.gpr[11] &= !u64::from(rflags::TF);
            guest.program(code)
        };
        let ends = [
            Expect::Event(vector::UD, None, CODE_USER),
            Expect::Is("CS", event_cs, cs),
            Expect::Is("SS", event_ss, 0x23),
            Expect::EventFlags {
                code: false,
                set: rflags::IF | rflags::IOPL | 2,
                clear: rflags::VM | 8 | 0x20,
            },
        ];
        check(name, guest, &ends);
    }
}

/// Where SYSCALL and SYSRET do not exist or refuse (SDM 2).
#[test]
fn syscall_refused() {
    let no_sce = |guest: &mut Guest| guest.core.cpu.efer &= !efer::SCE;
    let ud = [Expect::Event(vector::UD, None, CODE_USER)];
    check("SCE", || Guest::long().user().with(no_sce).program(code64!("syscall")), &ud);
    check("compatibility", || Guest::long().compatible().program(code64!("syscall")), &ud);
    let far = |guest: &mut Guest| guest.set(RCX, 1 << 47);
    let guest = || Guest::long().with(with_syscall).with(far).program(code64!("sysretq"));
    check("RCX not canonical", guest, &[Expect::Event(vector::GP, Some(0), CODE)]);
}

fn with_sysenter(guest: &mut Guest) {
    guest.core.write_msr(0x174, 0x60).unwrap();
    guest.core.write_msr(0x175, STACK_INNER).unwrap();
    guest.core.write_msr(0x176, CODE + 0x100).unwrap();
}

/// SYSENTER and SYSEXIT from every mode (SDM 2): selectors are fixed distances from IA32_SYSENTER_CS.
#[test]
fn sysenter_and_sysexit() {
    type Make = fn() -> Guest;
    let makes: [(&str, Make); 3] = [
        ("64-bit", || Guest::long().user()),
        ("compatibility", || Guest::long().compatible()),
        ("32-bit", || Guest::protected().user()),
    ];
    for (name, make) in makes {
        let guest = || {
            let mut guest = make().with(with_sysenter);
            guest.set_flags(rflags::IF);
            guest.put(CODE + 0x100, code32!("pushfd", "pop eax", "hlt"));
            guest.program(code32!("sysenter"))
        };
        let ends = [
            Expect::HaltedAt(CODE + 0x103),
            Expect::Register(RSP, STACK_INNER),
            Expect::Register(RAX, 2),
            Expect::Is("CS", cs, 0x60),
            Expect::Is("SS", ss, 0x68),
        ];
        check(name, guest, &ends);
    }
    let exit = |long: bool, code: &'static [u8]| {
        move || {
            let mut guest = if long { Guest::long() } else { Guest::protected() }.with(with_sysenter);
            guest.put(CODE_USER, code32!("ud2"));
            guest.set(RDX, CODE_USER);
            guest.set(RCX, STACK_USER);
            guest.program(code)
        }
    };
    for (name, long, code, cs, ss) in [
        ("SYSEXIT", true, code32!("sysexit"), 0x73, 0x7b),
        ("REX.W SYSEXIT", true, code64!("sysexitq"), 0x83, 0x8b),
        ("SYSEXIT in 32-bit mode", false, code32!("sysexit"), 0x73, 0x7b),
    ] {
        let ends = [
            Expect::Event(vector::UD, None, CODE_USER),
            Expect::Is("CS", event_cs, cs),
            Expect::Is("SS", event_ss, ss),
            Expect::Is("RSP", event_rsp, STACK_USER),
        ];
        check(name, exit(long, code), &ends);
    }
    let null = |guest: &mut Guest| guest.core.write_msr(0x174, 3).unwrap();
    let guest = || Guest::long().user().with(null).program(code64!("sysenter"));
    check("null CS", guest, &[Expect::Event(vector::GP, Some(0), CODE_USER)]);
    let guest = || Guest::long().user().with(with_sysenter).program(code64!("sysexit"));
    check("SYSEXIT in ring 3", guest, &[Expect::Event(vector::GP, Some(0), CODE_USER)]);
}

/// Into long mode and out of it again, as the manual's recipe says (SDM 3A 9.8.5).
#[test]
fn long_mode_on_and_off() {
    let enter = code32!(
        "mov eax, cr4",
        "or eax, 0x20",
        "mov cr4, eax",
        "mov eax, 0x100000",
        "mov cr3, eax",
        "mov ecx, 0xc0000080",
        "rdmsr",
        "or eax, 0x100",
        "wrmsr",
        "mov eax, cr0",
        "or eax, 0x80000000",
        "mov cr0, eax",
        "rdmsr",
        "mov esi, eax",
        "ljmp 0x08, 0x10100"
    );
    // 64-bit code; then by RETFQ to compatibility mode.
    let inside = code64!("mov rbx, 0x1122334455667788", "push 0x30", "push 0x10200", "retfq");
    let leave = code32!(
        "mov eax, cr0",
        "and eax, 0x7fffffff",
        "mov cr0, eax",
        "mov ecx, 0xc0000080",
        "rdmsr",
        "mov edi, eax",
        "xor eax, eax",
        "wrmsr",
        "hlt"
    );
    let guest = || {
        let mut image = vec![0; (TABLES_END - TABLES) as usize];
        assert!(Guest::long().core.mem.ram.read_bytes(TABLES, &mut image));
        let mut guest = Guest::protected();
        guest.put(TABLES, &image);
        guest.put(CODE + 0x100, inside);
        guest.put(CODE + 0x200, leave);
        guest.program(enter)
    };
    let lma = efer::LME | efer::LMA;
    let ends = [
        Expect::Register(6, lma),
        Expect::Register(7, efer::LME),
        Expect::Register(RBX, 0x1122_3344_5566_7788),
        Expect::HaltedAt(CODE + 0x200 + leave.len() as u64),
        Expect::Is("EFER", |guest| guest.core.cpu.efer, 0),
        Expect::Is("CS", cs, 0x30),
    ];
    check("there and back", guest, &ends);
}

/// What the way into long mode must not be (SDM 3A 9.8.5): #GP(0) from MOV to CR0.
#[test]
fn long_mode_refused() {
    let turn_on = code32!("mov eax, 0x80000011", "mov cr0, eax");
    let lme = |guest: &mut Guest| guest.core.cpu.efer |= efer::LME;
    let guest = || Guest::protected().with(lme).program(turn_on);
    check("without PAE", guest, &[Expect::Event(vector::GP, Some(0), CODE + 5)]);
    let long_cs = |guest: &mut Guest| {
        guest.core.cpu.efer |= efer::LME;
        guest.core.cpu.cr4 |= cr4::PAE;
        guest.core.cpu.segments[seg::CS].attributes |= 0x2000;
    };
    let guest = || Guest::protected().with(long_cs).program(turn_on);
    check("CS.L", guest, &[Expect::Event(vector::GP, Some(0), CODE + 5)]);
    let guest = || Guest::long().program(code64!("mov eax, 0x11", "mov cr0, rax"));
    check("paging off in 64-bit mode", guest, &[Expect::Event(vector::GP, Some(0), CODE + 5)]);
    let guest = || Guest::long().program(code64!("mov ecx, 0xc0000080", "mov eax, 1", "wrmsr"));
    check("LME off under paging", guest, &[Expect::Event(vector::GP, Some(0), CODE + 10)]);
}

/// From real mode to protected mode and back (SDM 3A 9.9), and an interrupt through the real-mode table.
#[test]
fn real_mode() {
    let enter = code16!("lgdt [0x6000]", "mov eax, cr0", "or al, 1", "mov cr0, eax", "ljmp 0x30, 0xd000");
    let protected = code32!("mov ecx, 0x12345678", "ljmp 0x68, 0xe000");
    let back = code16!("mov eax, cr0", "and al, 0xfe", "mov cr0, eax", "ljmp 0xf00, 0");
    let real = code16!("mov ax, 0x2000", "mov ds, ax", "mov word ptr [0x10], 0x55aa", "int 0x21", "hlt");
    let guest = || {
        let mut guest = Guest::real();
        guest.put(0x6000, &[0x7f, 0, 0, 0x10, 0, 0]);
        guest.set_descriptor(0x30, CODE32);
        guest.set_descriptor(0x68, segment(0, 0xffff, 0x9b, 0));
        guest.put(0x21 * 4, &[0x00, 0x70, 0, 0]);
        guest.put(0x7000, code16!("mov bp, sp", "mov dx, [bp]", "mov bx, [bp + 2]", "iret"));
        guest.put(0xd000, protected);
        guest.put(0xe000, back);
        guest.put(0xf000, real);
        guest.program(enter)
    };
    let low: fn(&Guest) -> u64 = |guest| guest.register(RDX) & 0xffff;
    let ends = [
        Expect::Register(RCX, 0x1234_5678),
        Expect::Is("pushed IP", low, real.len() as u64 - 1),
        Expect::Is("pushed CS", |guest| guest.register(RBX) & 0xffff, 0xf00),
        Expect::Is("word at 2000:10", |guest| guest.memory(0x2_0010) & 0xffff, 0x55aa),
        Expect::Is("CS", cs, 0xf00),
        Expect::Is("IP", rip, real.len() as u64),
        Expect::Is("PE", |guest| guest.core.cpu.cr0 & cr0::PE, 0),
        Expect::Register(RSP, STACK),
    ];
    check("real mode", guest, &ends);
}
