//! Exceptions: which one, its error code and return address, the frame it pushes, and what happens when it cannot be
//! delivered (SDM 3A chapter 6).

use tests::check::{Expect, check};
use tests::guest::Guest;
use tests::layout::*;
use tests::segments::*;
use tests::{code32, code64};
use vcpu::fault::vector;
use vcpu::state::regs::gpr::{RAX, RCX, RDX, RSP};
use vcpu::state::{cr0, rflags};

const NP: u8 = vector::NP;

/// `at` is the distance of the return address from the start of the code.
struct Case {
    name: &'static str,
    code: &'static [u8],
    vector: u8,
    error: Option<u32>,
    at: u64,
}

fn cases64() -> Vec<Case> {
    let case = |name, code, vector, error, at| Case { name, code, vector, error, at };
    vec![
        case("DIV by zero", code64!("xor ecx, ecx", "div ecx"), vector::DE, None, 2),
        case("IDIV overflow", code64!("mov edx, 1", "mov ecx, 1", "idiv ecx"), vector::DE, None, 10),
        case("INT3", code64!("int3"), vector::BP, None, 1),
        case("INT 3", code64!(".byte 0xcd, 3"), vector::BP, None, 2),
        case("INT n", code64!("int 0x80"), 0x80, None, 2),
        case("INT1", code64!(".byte 0xf1"), vector::DB, None, 1),
        case("UD2", code64!("ud2"), vector::UD, None, 0),
        case("INTO in 64-bit mode", code64!(".byte 0xce"), vector::UD, None, 0),
        case("LOCK before a load", code64!(".byte 0xf0, 0x8b, 0x00"), vector::UD, None, 0),
        case("LOCK before a register", code64!(".byte 0xf0, 0x01, 0xc0"), vector::UD, None, 0),
        case("16 bytes", code64!(".fill 15, 1, 0x66", "nop"), vector::GP, Some(0), 0),
        case("MOV to CS", code64!(".byte 0x8e, 0xc8"), vector::UD, None, 0),
        case("MOV from CR1", code64!(".byte 0x0f, 0x20, 0xc8"), vector::UD, None, 0),
        case("selector beyond the GDT", code64!("mov eax, 0x108", "mov ds, eax"), vector::GP, Some(0x108), 5),
        case(
            "selector beyond the LDT",
            code64!("mov eax, 0x1004", "mov ds, eax"),
            vector::GP,
            Some(0x1004),
            5,
        ),
        case("RPL not in the code", code64!("mov eax, 0x10b", "mov es, eax"), vector::GP, Some(0x108), 5),
        case("a TSS in DS", code64!("mov eax, 0x40", "mov ds, eax"), vector::GP, Some(0x40), 5),
        case("code in SS", code64!("mov eax, 8", "mov ss, eax"), vector::GP, Some(8), 5),
        case("ring 3 in SS", code64!("mov eax, 0x23", "mov ss, eax"), vector::GP, Some(0x20), 5),
        case("absent DS", code64!("mov eax, 0x60", "mov ds, eax"), vector::NP, Some(0x60), 5),
        case("absent SS", code64!("mov eax, 0x60", "mov ss, eax"), vector::SS, Some(0x60), 5),
        case("busy TSS", code64!("mov eax, 0x70", "ltr ax"), vector::GP, Some(0x70), 5),
        case("null TSS", code64!("xor eax, eax", "ltr ax"), vector::GP, Some(0), 2),
        case("LDT in LTR", code64!("mov eax, 0x50", "ltr ax"), vector::GP, Some(0x50), 5),
    ]
}

/// Control registers, MSRs and what they switch off.
fn cases_of_control() -> Vec<Case> {
    let case = |name, code, vector, error, at| Case { name, code, vector, error, at };
    vec![
        case("CR0 PG without PE", code64!("mov eax, 0x80000000", "mov cr0, rax"), vector::GP, Some(0), 5),
        case(
            "CR0 NW without CD",
            code64!("mov rax, cr0", "bts rax, 29", "mov cr0, rax"),
            vector::GP,
            Some(0),
            8,
        ),
        case("CR4 PAE off", code64!("mov rax, cr4", "btr rax, 5", "mov cr4, rax"), vector::GP, Some(0), 8),
        case("CR4 bit 63", code64!("mov rax, cr4", "bts rax, 63", "mov cr4, rax"), vector::GP, Some(0), 8),
        case("CR8 above 15", code64!("mov eax, 16", "mov cr8, rax"), vector::GP, Some(0), 5),
        case("DR7 bit 32", code64!("bts rax, 32", "mov dr7, rax"), vector::GP, Some(0), 5),
        case("unknown MSR", code64!("mov ecx, 0x12345", "rdmsr"), vector::GP, Some(0), 5),
        case("EFER LME off", code64!("mov ecx, 0xc0000080", "xor eax, eax", "wrmsr"), vector::GP, Some(0), 7),
        case(
            "MSR not canonical",
            code64!("mov ecx, 0xc0000102", "mov edx, 0x8000", "wrmsr"),
            vector::GP,
            Some(0),
            10,
        ),
        case("XSETBV", code64!("xsetbv"), vector::UD, None, 0),
        case("x87 with TS", code64!("fld1"), vector::NM, None, 0),
        case("SSE without OSFXSR", code64!("movaps xmm0, xmm1"), vector::UD, None, 0),
        case("CMPXCHG16B misaligned", code64!("cmpxchg16b [0x20008]"), vector::GP, Some(0), 0),
        case(
            "IRET with NT",
            code64!("pushf", "bts qword ptr [rsp], 14", "popf", "iretq"),
            vector::GP,
            Some(0),
            8,
        ),
        case(
            "far jump to null",
            code64!("push 0", "push 0", "rex64 jmp fword ptr [rsp]"),
            vector::GP,
            Some(0),
            4,
        ),
    ]
}

/// One instruction, one exception (SDM 3A 6.15).
#[test]
fn sources_of_exceptions() {
    for case in cases64().into_iter().chain(cases_of_control()) {
        let guest = || {
            let mut guest = Guest::long();
            // A data segment that is not present, a TSS that is busy.
            guest.set_descriptor(0x60, segment(0, 0xfffff, 0x12, 0xc));
            guest.set_descriptor(0x70, segment(TSS as u32, 0x67, 0x8b, 0));
            guest.with(|guest| guest.core.cpu.cr0 |= cr0::TS).program(case.code)
        };
        check(case.name, guest, &[Expect::Event(case.vector, case.error, CODE + case.at)]);
    }
}

/// Instructions that only ring 0 may execute (SDM 3A 5.9): in ring 3 #GP(0).
#[test]
fn privileged_instructions() {
    for code in [
        code64!("hlt"),
        code64!("mov rax, cr0"),
        code64!("mov cr2, rax"),
        code64!("mov rax, dr7"),
        code64!("mov dr0, rax"),
        code64!("clts"),
        code64!("lmsw ax"),
        code64!("lgdt [0x28000]"),
        code64!("lidt [0x28000]"),
        code64!("lldt ax"),
        code64!("ltr ax"),
        code64!("invlpg [rax]"),
        code64!("invd"),
        code64!("wbinvd"),
        code64!("rdmsr"),
        code64!("wrmsr"),
        code64!("swapgs"),
        code64!("cli"),
        code64!("sti"),
        code64!("in al, 0x80"),
        code64!("out 0x80, al"),
        code64!("rep insb"),
        code64!("sysretq"),
        code64!("rdpmc"),
    ] {
        let guest = || Guest::long().user().with(|guest| guest.set(RCX, 0x1b)).program(code);
        check(&format!("{code:x?}"), guest, &[Expect::Event(vector::GP, Some(0), CODE_USER)]);
    }
    for code in [code64!("clac"), code64!("stac")] {
        check("AC", || Guest::long().user().program(code), &[Expect::Event(vector::UD, None, CODE_USER)]);
    }
}

fn pushed_rsp(guest: &Guest) -> u64 {
    guest.event(false).rsp
}

fn frame_top(guest: &Guest) -> u64 {
    guest.register(RSP)
}

fn handler_ss(guest: &Guest) -> u64 {
    u64::from(guest.core.cpu.segments[2].selector)
}

/// Frames in 64-bit mode: stack aligned to 16 bytes, SS:RSP always pushed, IST, TSS (SDM 3A 6.14).
#[test]
fn frames_of_long_mode() {
    let int = code64!("int 0x40");
    let set_ist = |guest: &mut Guest| guest.set_gate(0x40, Gate::new(14, 8, handler(0x40)).user().extra(1));
    let user_gate = |guest: &mut Guest| guest.set_gate(0x40, Gate::new(14, 8, handler(0x40)).user());
    let odd = |guest: &mut Guest| guest.set(RSP, STACK - 3);
    type Row = (&'static str, bool, fn(&mut Guest), u64, u64, u64);
    let rows: [Row; 5] = [
        ("same ring", false, |_| {}, STACK - 40, STACK, 0x10),
        ("same ring, odd stack", false, odd, STACK - 16 - 40, STACK - 3, 0x10),
        ("same ring, IST", false, set_ist, STACK_IST - 40, STACK, 0x10),
        ("ring 3", true, user_gate, STACK_INNER - 40, STACK_USER, 0),
        ("ring 3, IST", true, set_ist, STACK_IST - 40, STACK_USER, 0),
    ];
    for (name, ring3, set_up, top, old, ss) in rows {
        let guest = || {
            let guest = if ring3 { Guest::long().user() } else { Guest::long() };
            guest.with(set_up).program(int)
        };
        let start = if ring3 { CODE_USER } else { CODE };
        let ends = [
            Expect::Event(0x40, None, start + 2),
            Expect::Is("RSP in the handler", frame_top, top),
            Expect::Is("pushed RSP", pushed_rsp, old),
            Expect::Is("SS in the handler", handler_ss, ss),
        ];
        check(name, guest, &ends);
    }
}

/// RFLAGS in the frame and in the handler: RF for faults only; interrupt gates clear IF, all gates TF, NT and RF
/// (SDM 3A 6.12.1.3, 3B 17.3.1.1).
#[test]
fn flags_in_frames_and_handlers() {
    for (code, vector, rf) in [
        (code64!("ud2"), vector::UD, true),
        (code64!("mov cr4, rax"), vector::GP, true),
        (code64!("int 0x40"), 0x40, false),
        (code64!("int3"), vector::BP, false),
    ] {
        for kind in [INTERRUPT_GATE, TRAP_GATE] {
            let guest = || {
                let mut guest = Guest::long();
                guest.set(RAX, u64::MAX);
                guest.set_flags(rflags::NT | rflags::IF | rflags::AC);
                guest.set_gate(vector, Gate::new(kind, 8, handler(vector)));
                // A trap gate leaves interrupts on: HLT would wait for the next timer.
                guest.put(handler(vector), code64!("pushf", "pop rdx", "cli", "hlt"));
                guest.program(code)
            };
            let mut image = u64::from(rflags::NT | rflags::IF | rflags::AC | 2);
            let mut inside = u64::from(rflags::AC | 2);
            if kind == TRAP_GATE {
                inside |= u64::from(rflags::IF);
            }
            if rf {
                image |= u64::from(rflags::RF);
            }
            // With or without an error code: SS, RSP, then RFLAGS.
            let ends = [Expect::Memory(STACK - 24, image), Expect::Register(RDX, inside)];
            check(&format!("{code:x?} through a gate of type {kind}"), guest, &ends);
        }
    }
}

/// DPL of gates counts for INT n, INT3 and INTO only (SDM 3A 6.12.1.2).
#[test]
fn privilege_of_gates() {
    let gp = vector::GP;
    let rows: [(&str, &[u8], u8, Option<u32>, u64); 4] = [
        ("INT n", code64!("int 0x40"), gp, Some(0x40 * 8 + 2), 0),
        ("INT3", code64!("int3"), gp, Some(3 * 8 + 2), 0),
        ("INT1", code64!(".byte 0xf1"), vector::DB, None, 1),
        ("UD2", code64!("ud2"), vector::UD, None, 0),
    ];
    for (name, code, number, error, at) in rows {
        let guest = || Guest::long().user().program(code);
        check(name, guest, &[Expect::Event(number, error, CODE_USER + at)]);
    }
    for (name, code, number) in [("INT n", code64!("int 0x40"), 0x40), ("INT3", code64!("int3"), 3)] {
        let guest = || {
            let open = |guest: &mut Guest| guest.set_gate(number, Gate::new(14, 8, handler(number)).user());
            Guest::long().user().with(open).program(code)
        };
        check(name, guest, &[Expect::Event(number, None, CODE_USER + code.len() as u64)]);
    }
    // INTO exists outside 64-bit mode only.
    let overflow = code32!("mov al, 0x7f", "inc al", "into");
    let guest = || Guest::long().compatible().program(overflow);
    check("INTO", guest, &[Expect::Event(gp, Some(4 * 8 + 2), CODE_USER + 4)]);
    let open = |guest: &mut Guest| guest.set_gate(4, Gate::new(14, 8, handler(4)).user());
    let guest = || Guest::long().compatible().with(open).program(overflow);
    check("INTO", guest, &[Expect::Event(4, None, CODE_USER + 5)]);
    let guest = || Guest::protected().program(code32!("mov al, 1", "inc al", "into", "hlt"));
    check("INTO without OF", guest, &[Expect::HaltedAt(CODE + 6)]);
}

/// Gates that cannot be used: the error code names the gate, with EXT for what the program did not ask for
/// (SDM 3A 6.13; vol. 2, INT n).
#[test]
fn broken_gates() {
    let good = |number: u8| Gate::new(14, 8, handler(number));
    type Row = (&'static str, fn(Gate) -> Gate, u8, u32, bool);
    // Error code: Some bits for the gate's own number are filled in when `of_gate`.
    let rows: [Row; 9] = [
        ("absent", |gate| gate.absent(), NP, 2, true),
        ("type 5", |gate| Gate { kind: 5, ..gate }, vector::GP, 2, true),
        ("type 6", |gate| Gate { kind: 6, ..gate }, vector::GP, 2, true),
        ("call gate", |gate| Gate { kind: 12, ..gate }, vector::GP, 2, true),
        ("null CS", |gate| Gate { selector: 0, ..gate }, vector::GP, 0, false),
        ("data in CS", |gate| Gate { selector: 0x10, ..gate }, vector::GP, 0x10, false),
        ("32-bit CS", |gate| Gate { selector: 0x30, ..gate }, vector::GP, 0x30, false),
        ("outer CS", |gate| Gate { selector: 0x28, ..gate }, vector::GP, 0x28, false),
        ("offset not canonical", |gate| Gate { offset: 1 << 47, ..gate }, vector::GP, 0, false),
    ];
    for (name, spoil, number, code, of_gate) in rows {
        for (instruction, source, ext) in [(code64!("int 0x40"), 0x40, 0), (code64!("ud2"), vector::UD, 1)] {
            let guest = || {
                let mut guest = Guest::long();
                guest.set_gate(source, spoil(good(source)));
                guest.program(instruction)
            };
            let error = code + ext + if of_gate { u32::from(source) * 8 } else { 0 };
            check(&format!("{name}, {source}"), guest, &[Expect::Event(number, Some(error), CODE)]);
        }
    }
    let short = |guest: &mut Guest| guest.core.cpu.idtr.limit = 16 * 16 - 1;
    let guest = || Guest::long().with(short).program(code64!("int 0x40"));
    check("beyond the IDT", guest, &[Expect::Event(vector::GP, Some(0x40 * 8 + 2), CODE)]);
}

/// Table 6-5: what two faults in a row come to. The second is made by spoiling the first one's gate or stack.
#[test]
fn double_faults() {
    let absent = |number: u8| Gate::new(14, 8, handler(number)).absent();
    let div = code64!("xor ecx, ecx", "div ecx");
    let gp = code64!("mov eax, 0x108", "mov ds, eax");
    let pf = code64!("mov al, [0x40000000]");
    let rows: [(&str, &[u8], u8, u8, Option<u32>, u64); 4] = [
        ("#UD then #NP", code64!("ud2"), vector::UD, NP, Some(6 * 8 + 3), 0),
        ("#DE then #NP", div, vector::DE, vector::DF, Some(0), 2),
        ("#GP then #NP", gp, vector::GP, vector::DF, Some(0), 5),
        ("#PF then #NP", pf, vector::PF, vector::DF, Some(0), 0),
    ];
    for (name, code, first, end, error, at) in rows {
        let guest = || {
            let mut guest = Guest::long();
            guest.set_gate(first, absent(first));
            guest.program(code)
        };
        check(name, guest, &[Expect::Event(end, error, CODE + at)]);
    }
    // The stack is gone: only a handler with an IST stack can run.
    let no_stack = |name: &str, code: &'static [u8], ist: u8, end: u8, error: Option<u32>, cr2: u64| {
        let guest = || {
            let mut guest = Guest::long();
            guest.set(RSP, WINDOW + 0x1000);
            guest.set_gate(ist, Gate::new(14, 8, handler(ist)).extra(1));
            guest.program(code)
        };
        let read_cr2: fn(&Guest) -> u64 = |guest| guest.core.cpu.cr2;
        check(name, guest, &[Expect::Event(end, error, CODE), Expect::Is("CR2", read_cr2, cr2)]);
    };
    no_stack("#UD then #PF", code64!("ud2"), vector::PF, vector::PF, Some(2), WINDOW + 0xff8);
    no_stack("#PF then #PF", code64!("push rax"), vector::DF, vector::DF, Some(0), WINDOW + 0xff8);
    no_stack("INT n then #PF", code64!("int 0x40"), vector::PF, vector::PF, Some(2), WINDOW + 0xff8);
}

/// A fault in the delivery of a double fault shuts the CPU down (SDM 3A 6.15, interrupt 8).
#[test]
fn triple_faults() {
    let no_gates = |guest: &mut Guest| guest.core.cpu.idtr.limit = 0;
    check("no IDT", || Guest::long().with(no_gates).program(code64!("ud2")), &[Expect::TripleFault]);
    check(
        "no IDT, 32-bit",
        || Guest::protected().with(no_gates).program(code32!("ud2")),
        &[Expect::TripleFault],
    );
    let no_stack = |guest: &mut Guest| guest.set(RSP, WINDOW);
    check("no stack", || Guest::long().with(no_stack).program(code64!("push rax")), &[Expect::TripleFault]);
}

/// A handler that returns restarts the instruction; nothing of it happened before (SDM 3A 6.6).
#[test]
fn faults_restart() {
    // The handler of #DE makes the divisor 7; the instruction counts once.
    let code = code64!("mov eax, 42", "xor edx, edx", "xor ecx, ecx", "div ecx", "hlt");
    let guest = || {
        let mut guest = Guest::long();
        guest.put(handler(0), code64!("mov ecx, 7", "iretq"));
        guest.program(code)
    };
    check("#DE", guest, &[Expect::Register(RAX, 6), Expect::Icount(7), Expect::HaltedAt(CODE + 12)]);
}
