//! 32-bit protected mode: segment limits and types, code and stack sizes, stack switches, call gates with parameters
//! (SDM 3A chapters 3, 5, 6).

use tests::check::{Expect, check};
use tests::guest::Guest;
use tests::layout::*;
use tests::segments::*;
use tests::{code16, code32};
use vcpu::fault::vector;
use vcpu::state::regs::gpr::{RAX, RBX, RCX, RDX, RSP};
use vcpu::state::{rflags, seg};

fn flag_zf(guest: &Guest) -> u64 {
    u64::from(guest.core.rflags() >> 6 & 1)
}

/// Data segments: descriptor, what is done to DS, whether it raises #GP(0) (SDM 3A 5.3, 5.5).
#[test]
fn limits_and_types_of_data_segments() {
    let base = DATA as u32;
    let up = |limit| segment(base, limit, 0x93, 4);
    let down = |limit, flags| segment(base, limit, 0x97, flags);
    let read_only = segment(base, 0xfff, 0x91, 4);
    let readable_code = segment(base, 0xfff, 0x9b, 4);
    let blind_code = segment(base, 0xfff, 0x99, 4);
    let pages = segment(base, 1, 0x93, 0xc);
    let read: &[u8] = code32!("mov ds, eax", "mov ecx, [ebx]", "hlt");
    let write: &[u8] = code32!("mov ds, eax", "mov [ebx], ecx", "hlt");
    let change: &[u8] = code32!("mov ds, eax", "or [ebx], ecx", "hlt");
    let push: &[u8] = code32!("mov ds, eax", "push dword ptr [ebx]", "hlt");
    let pop: &[u8] = code32!("mov ds, eax", "pop dword ptr [ebx]", "hlt");
    let call: &[u8] = code32!("mov ds, eax", "call dword ptr [ebx]", "hlt");
    for (name, descriptor, offset, code, fine) in [
        ("last dword", up(0xfff), 0xffc, read, true),
        ("one beyond", up(0xfff), 0xffd, read, false),
        ("far beyond", up(0xfff), 0xffff_fffe, read, false),
        ("last dword, written", up(0xfff), 0xffc, write, true),
        ("one beyond, written", up(0xfff), 0xffd, write, false),
        ("4 KiB granules", pages, 0x1ffc, read, true),
        ("4 KiB granules, beyond", pages, 0x1ffd, read, false),
        ("expand-down, below", down(0xfff, 4), 0xfff, read, false),
        ("expand-down, at the limit", down(0xfff, 4), 0x1000, read, true),
        ("expand-down, top", down(0xfff, 4), 0x7ffc, read, true),
        ("expand-down of 64 KiB, top", down(0xfff, 0), 0xfffc, read, true),
        ("expand-down of 64 KiB, beyond", down(0xfff, 0), 0xfffd, read, false),
        ("read-only, read", read_only, 0, read, true),
        ("read-only, written", read_only, 0, write, false),
        ("read-only, changed", read_only, 0, change, false),
        ("read-only, pushed", read_only, 0, push, true),
        ("read-only, popped", read_only, 0, pop, false),
        ("read-only, called through", read_only, 0, call, true),
        ("readable code, read", readable_code, 0, read, true),
        ("readable code, written", readable_code, 0, write, false),
    ] {
        // What is read is also the address that CALL goes to.
        const HLT: u64 = CODE + 4;
        let guest = || {
            let mut guest = Guest::protected();
            guest.set_descriptor(0x60, descriptor);
            guest.set(RAX, 0x60);
            guest.set(RBX, offset);
            guest.put_u64(DATA + (offset & 0xffff), HLT);
            guest.set(RCX, HLT);
            guest.program(code)
        };
        let end = if fine {
            Expect::HaltedAt(CODE + code.len() as u64)
        } else {
            Expect::Event(vector::GP, Some(0), CODE + 2)
        };
        check(name, guest, &[end, Expect::Register(RCX, HLT)]);
    }
    // Code that cannot be read cannot be loaded; the null selector can, and faults when used.
    let guest = || {
        let mut guest = Guest::protected();
        guest.set_descriptor(0x60, blind_code);
        guest.set(RAX, 0x60);
        guest.program(read)
    };
    check("execute-only", guest, &[Expect::Event(vector::GP, Some(0x60), CODE)]);
    let guest = || Guest::protected().program(code32!("xor eax, eax", "mov es, eax", "mov ecx, es:[ebx]"));
    check("null", guest, &[Expect::Event(vector::GP, Some(0), CODE + 4)]);
    let guest = || Guest::protected().program(code32!("xor eax, eax", "mov ss, eax"));
    check("null SS", guest, &[Expect::Event(vector::GP, Some(0), CODE + 2)]);
}

/// The stack: #SS(0) beyond its limit, by any instruction that goes through SS (SDM 3A 6.15, interrupt 12).
#[test]
fn limits_of_stack_segments() {
    for (name, code, at) in [
        ("PUSH", code32!("mov ss, eax", "mov esp, 2", "push eax"), 7),
        ("POP", code32!("mov ss, eax", "mov esp, 0xfffd", "pop eax"), 7),
        ("CALL", code32!("mov ss, eax", "mov esp, 3", "call 2f", "2: nop"), 7),
        ("RET", code32!("mov ss, eax", "mov esp, 0xffff", "ret"), 7),
        ("EBP", code32!("mov ss, eax", "mov ebp, 0xfffd", "mov ecx, [ebp]"), 7),
        ("SS:", code32!("mov ss, eax", "mov ebx, 0xfffd", "mov ecx, ss:[ebx]"), 7),
        ("PUSHA", code32!("mov ss, eax", "mov esp, 31", "pusha"), 7),
        ("LEAVE", code32!("mov ss, eax", "mov ebp, 0xfffe", "leave"), 7),
        ("ENTER", code32!("mov ss, eax", "mov esp, 8", "enter 16, 0"), 7),
    ] {
        let guest = || {
            // In ring 3, so that the handler gets a good stack.
            let mut guest = Guest::protected().user();
            guest.set_descriptor(0x60, segment(DATA as u32, 0xffff, 0xf3, 4));
            guest.set(RAX, 0x63);
            guest.program(code)
        };
        check(name, guest, &[Expect::Event(vector::SS, Some(0), CODE_USER + at)]);
    }
}

/// Code: a transfer beyond the limit faults where it is made, running beyond it where the next instruction would be
/// (SDM 3A 5.3; vol. 2, JMP).
#[test]
fn limits_of_code_segments() {
    let limit = CODE as u32 + 0xf;
    let inside = |code: &'static [u8]| {
        move || {
            let mut guest = Guest::protected();
            guest.set_descriptor(0x60, segment(0, limit, 0x9b, 4));
            guest.put(CODE + 7, code);
            guest.program(code32!("ljmp 0x60, 0x10007"))
        }
    };
    let fault = |at| [Expect::Event(vector::GP, Some(0), CODE + at)];
    check("jump", inside(code32!("jmp 2f", ".fill 7, 1, 0x90", "2: nop")), &fault(7));
    check(
        "jump to the last byte",
        inside(code32!("jmp 2f", ".fill 6, 1, 0x90", "2: hlt")),
        &[Expect::HaltedAt(CODE + 16)],
    );
    check("indirect jump", inside(code32!("mov eax, 0x10010", "jmp eax")), &fault(12));
    check(
        "condition not met",
        inside(code32!("xor eax, eax", "jnz 2f", "hlt", ".fill 8, 1, 0x90", "2: nop")),
        &[Expect::HaltedAt(CODE + 12)],
    );
    check("running off", inside(code32!(".fill 9, 1, 0x90", "nop")), &fault(16));
    check("an instruction over the end", inside(code32!(".fill 7, 1, 0x90", "mov eax, 1")), &fault(14));
    let guest = || {
        let mut guest = Guest::protected();
        guest.set_descriptor(0x60, segment(0, limit, 0x9b, 4));
        guest.program(code32!("ljmp 0x60, 0x10010"))
    };
    check("far jump", guest, &fault(0));
}

/// The same offset in two code segments is not the same code.
#[test]
fn code_segments_with_bases() {
    // Both calls go to offset 100H: of a segment at CODE + 1000H, of one at CODE + 2000H.
    let guest = || {
        let mut guest = Guest::protected();
        guest.set_descriptor(0x60, segment(CODE as u32 + 0x1000, 0xfff, 0x9b, 4));
        guest.set_descriptor(0x68, segment(CODE as u32 + 0x2000, 0xfff, 0x9b, 4));
        guest.put(CODE + 0x1100, code32!("add ebx, 1", "retf"));
        guest.put(CODE + 0x2100, code32!("add ebx, 0x10", "retf"));
        guest.program(code32!(
            "lcall 0x60, 0x100",
            "lcall 0x68, 0x100",
            "lcall 0x60, 0x100",
            "lcall 0x68, 0x100",
            "hlt"
        ))
    };
    check("two bases", guest, &[Expect::Register(RBX, 0x22)]);
    // Base and offset add up modulo 2^32.
    let guest = || {
        let mut guest = Guest::protected();
        guest.set_descriptor(0x60, segment(0xffff_0000, 0xfffff, 0x9b, 0xc));
        guest.set_descriptor(0x68, segment(0xffff_f000, 0xfffff, 0x93, 0xc));
        guest.put_u64(DATA, 0x55);
        guest.put(CODE + 0x100, code32!("mov eax, 0x68", "mov ds, eax", "mov ebx, [0x21000]", "hlt"));
        guest.program(code32!("ljmp 0x60, 0x20100"))
    };
    check("wrap", guest, &[Expect::Register(RBX, 0x55), Expect::HaltedAt(0x20100 + 14)]);
}

/// INVLPG's operand has a segment, too.
#[test]
fn invlpg_with_a_base() {
    let guest = || {
        let mut guest = Guest::paged32(tests::paging::Format::TwoLevel);
        guest.map(WINDOW, FRAME, 0, 3);
        guest.put_u64(FRAME, 1);
        guest.put_u64(FRAME + 0x1000, 2);
        guest.set_descriptor(0x60, segment(WINDOW as u32, 0xfffff, 0x93, 0xc));
        let entry = guest.entry_address(WINDOW, 0);
        guest.set(RDX, entry);
        guest.program(code32!(
            "mov eax, 0x60",
            "mov ds, eax",
            "mov ebx, ds:[0]",
            "mov dword ptr es:[edx], 0x401003",
            "invlpg ds:[0]",
            "mov ecx, ds:[0]",
            "hlt"
        ))
    };
    check("INVLPG", guest, &[Expect::Register(RBX, 1), Expect::Register(RCX, 2)]);
}

/// SS.B = 0: PUSH and POP use SP, and the upper half of ESP stays (SDM 3A 3.4.5, vol. 1 6.2.3).
#[test]
fn sixteen_bit_stacks() {
    let guest = || {
        let mut guest = Guest::protected();
        guest.set_descriptor(0x60, segment(DATA as u32, 0xffff, 0x93, 0));
        guest.put_u64(DATA + 0xfffc, 0);
        guest.program(code32!(
            "mov eax, 0x60",
            "mov ss, eax",
            "mov esp, 0x12340000",
            "push 0x55667788",
            "mov ebx, esp",
            "pop ecx",
            "mov edx, esp",
            "hlt"
        ))
    };
    let ends = [
        Expect::Register(RBX, 0x1234_fffc),
        Expect::Register(RCX, 0x5566_7788),
        Expect::Register(RDX, 0x1234_0000),
        Expect::Is("pushed", |guest| guest.memory(DATA + 0xfffc) & 0xffff_ffff, 0x5566_7788),
    ];
    check("SP", guest, &ends);
}

/// 16-bit code in protected mode: operand and address size, IP of 16 bits.
#[test]
fn sixteen_bit_code() {
    let guest = || {
        let mut guest = Guest::protected();
        guest.set_descriptor(0x60, segment(CODE as u32, 0xffff, 0x9b, 0));
        guest.put(
            CODE + 0x100,
            code16!("mov bx, 0x1234", "mov ecx, 0x12345678", "mov ax, 0", "dec ax", "hlt"),
        );
        guest.set(RBX, 0xffff_ffff);
        guest.program(code32!("ljmp 0x60, 0x100"))
    };
    let ends = [
        Expect::Register(RBX, 0xffff_1234),
        Expect::Register(RCX, 0x1234_5678),
        Expect::Register(RAX, 0xffff),
    ];
    check("16 bits", guest, &ends);
}

/// Frames in 32-bit mode: four bytes a slot, SS:ESP only with a change of rings; 16-bit gates have slots of two
/// (SDM 3A 6.12.1).
#[test]
fn frames_of_protected_mode() {
    let dword: fn(&Guest, u64) -> u64 = |guest, at| guest.memory(at) & 0xffff_ffff;
    let guest = || Guest::protected().program(code32!("int 0x40"));
    let mut same = guest();
    same.run(10);
    assert_eq!(same.register(RSP), STACK - 12);
    assert_eq!([0, 4, 8].map(|slot| dword(&same, STACK - 12 + slot)), [CODE + 2, 0x30, 2]);
    check("same ring", guest, &[Expect::HaltedAt(handler(0x40) + 1)]);
    let open = |guest: &mut Guest| guest.set_gate(0x40, Gate::new(14, 0x30, handler(0x40)).user());
    let guest = || Guest::protected().user().with(open).program(code32!("int 0x40"));
    let mut inner = guest();
    inner.run(10);
    assert_eq!(inner.register(RSP), STACK_INNER - 20);
    let slots = [0, 4, 8, 12, 16].map(|slot| dword(&inner, STACK_INNER - 20 + slot));
    assert_eq!(slots, [CODE_USER + 2, 0x1b, 2, STACK_USER, 0x23]);
    check("ring 3", guest, &[Expect::HaltedAt(handler(0x40) + 1)]);
    let short = |guest: &mut Guest| guest.set_gate(0x40, Gate::new(6, 0x30, handler(0x40)));
    let guest = || Guest::protected().with(short).program(code32!("int 0x40"));
    let mut small = guest();
    small.run(10);
    assert_eq!(small.register(RSP), STACK - 6);
    assert_eq!(small.memory(STACK - 6) & 0xffff_ffff_ffff, 2 << 32 | 0x30 << 16 | (CODE + 2) & 0xffff);
    check("16-bit gate", guest, &[Expect::HaltedAt(handler(0x40) + 1)]);
}

/// The stack that the TSS names is checked: #TS, #SS or #NP with its selector (SDM 2, INT n).
#[test]
fn inner_stacks_are_checked() {
    for (name, selector, number, code) in [
        ("null", 0, vector::TS, 0),
        ("RPL", 0x13, vector::TS, 0x10),
        ("DPL", 0x23, vector::TS, 0x20),
        ("code", 0x30, vector::TS, 0x30),
        ("beyond the GDT", 0x200, vector::TS, 0x200),
        ("absent", 0x60, vector::SS, 0x60),
    ] {
        let guest = || {
            let mut guest = Guest::protected().user();
            guest.set_descriptor(0x60, segment(0, 0xfffff, 0x13, 0xc));
            guest.put(TSS + 8, &u32::to_le_bytes(selector));
            // The fault goes to conforming code: it stays in ring 3 and needs no stack. There it notes what it got
            // and repairs the TSS, so that the next #UD arrives.
            guest.set_descriptor(0x68, segment(0, 0xfffff, 0x9f, 0xc));
            guest.set_gate(number, Gate::new(14, 0x68, CODE_USER + 0x100));
            guest
                .put(CODE_USER + 0x100, code32!("pop ebx", "pop ecx", "mov dword ptr [0x3008], 0x10", "ud2"));
            guest.program(code32!("ud2"))
        };
        let ends = [
            // EXT is set: #UD was not asked for by INT n.
            Expect::Register(RBX, code + 1),
            Expect::Register(RCX, CODE_USER),
            Expect::HaltedAt(handler(vector::UD) + 1),
        ];
        check(name, guest, &ends);
    }
}

/// A call gate with parameters: they are copied between the halves of the frame; RETF n drops both copies
/// (SDM 3A 5.8.5, 5.8.6).
#[test]
fn call_gates_with_parameters() {
    let gate = Gate { dpl: 3, ..Gate::new(CALL_GATE, 0x30, CODE + 0x100) }.extra(2);
    let guest = || {
        let mut guest = Guest::protected().user();
        guest.set_descriptor(0x60, gate.low());
        guest.put(
            CODE + 0x100,
            code32!(
                "mov eax, [esp + 8]",
                "mov ebx, [esp + 12]",
                "mov ecx, [esp + 16]",
                "mov edx, esp",
                "retf 8"
            ),
        );
        guest.program(code32!("push 0x1111", "push 0x2222", "lcall 0x63, 0", "mov esi, esp", "ud2"))
    };
    let ends = [
        Expect::Register(RAX, 0x2222),
        Expect::Register(RBX, 0x1111),
        Expect::Register(RCX, STACK_USER - 8),
        Expect::Register(RDX, STACK_INNER - 24),
        Expect::Register(6, STACK_USER),
        Expect::Event(vector::UD, None, CODE_USER + 19),
        Expect::Is("DS", |guest| u64::from(guest.core.cpu.segments[seg::DS].selector), 0x23),
    ];
    check("two parameters", guest, &ends);
}

/// IRET of 32 bits goes out with SS:ESP and stays without; POPF and IRET keep IOPL in ring 3 (SDM 2, IRET).
#[test]
fn iret_of_protected_mode() {
    let guest = || {
        let mut guest = Guest::protected();
        guest.put(CODE_USER, code32!("ud2"));
        guest.program(code32!(
            "push 0x23",
            "push 0xd000",
            "push 0x3202",
            "push 0x1b",
            "push 0x18000",
            "iretd"
        ))
    };
    let ends = [
        Expect::Event(vector::UD, None, CODE_USER),
        Expect::Is("ESP", |guest| guest.event(false).rsp, 0xd000),
        Expect::EventFlags { code: false, set: rflags::IF | rflags::IOPL, clear: 0 },
    ];
    check("to ring 3", guest, &ends);
    let guest = || {
        let mut guest = Guest::protected();
        guest.put(CODE + 0x100, code32!("mov ebx, esp", "hlt"));
        guest.program(code32!("push 2", "push 0x30", "push 0x10100", "iretd"))
    };
    check("same ring", guest, &[Expect::Register(RBX, STACK), Expect::HaltedAt(CODE + 0x103)]);
}

/// LAR, LSL, VERR, VERW: selector, from ring 3, and what they tell (SDM 2). None is ZF clear.
#[test]
fn questions_about_descriptors() {
    let readable = segment(0, 0xfff, 0xfb, 4);
    let rows: [(u16, Option<u64>, Option<u64>, bool, bool); 9] = [
        (0, None, None, false, false),
        (0x23, Some(0x00cf_f300), Some(0xffff_ffff), true, true),
        (0x1b, Some(0x00cf_fb00), Some(0xffff_ffff), true, false),
        (0x10, None, None, false, false),
        (0x63, Some(0x0040_fb00), Some(0xfff), true, false),
        (0x43, None, None, false, false),
        (0x68, Some(0x0040_9f00), Some(0xfff), true, false),
        (0x7b, Some(0x0000_e200), Some(0xfff), false, false),
        (0x203, None, None, false, false),
    ];
    for (selector, lar, lsl, verr, verw) in rows {
        let guest = |code: &'static [u8]| {
            move || {
                let mut guest = Guest::protected().user();
                guest.set_descriptor(0x60, readable);
                guest.set_descriptor(0x68, segment(0, 0xfff, 0x9f, 4));
                guest.set_descriptor(0x78, segment(0, 0xfff, 0xe2, 0));
                guest.set(RAX, u64::from(selector));
                guest.set(RBX, 0x7777);
                guest.program(code)
            }
        };
        let told = |value: Option<u64>| {
            [
                Expect::Register(RBX, value.map_or(0x7777, |value| value & 0x00ff_ffff_ffff)),
                Expect::EventFlags {
                    code: false,
                    set: if value.is_some() { 0x40 } else { 0 },
                    clear: if value.is_some() { 0 } else { 0x40 },
                },
            ]
        };
        let name = format!("selector {selector:x}");
        // LAR shows bits 8…23 of the upper half; the limit bits 16…19 are undefined and left out.
        check(&name, guest(code32!("lar ebx, eax", "and ebx, 0xfff0ffff", "ud2")), &{
            let mut ends = told(lar.map(|value| value & 0xfff0_ffff));
            ends[1] = Expect::Register(RAX, u64::from(selector));
            ends
        });
        check(&name, guest(code32!("lsl ebx, eax", "ud2")), &told(lsl));
        for (code, good) in [(code32!("verr ax", "ud2"), verr), (code32!("verw ax", "ud2"), verw)] {
            let (set, clear) = if good { (0x40, 0) } else { (0, 0x40) };
            check(&name, guest(code), &[Expect::EventFlags { code: false, set, clear }]);
        }
    }
    let guest =
        || Guest::protected().program(code32!("mov eax, 0x10", "mov ecx, 0x23", "arpl ax, cx", "hlt"));
    check("ARPL", guest, &[Expect::Register(RAX, 0x13), Expect::Is("ZF", flag_zf, 1)]);
    let guest =
        || Guest::protected().program(code32!("mov eax, 0x13", "mov ecx, 0x22", "arpl ax, cx", "hlt"));
    check("ARPL", guest, &[Expect::Register(RAX, 0x13), Expect::Is("ZF", flag_zf, 0)]);
}

/// PVH entry: 32-bit protected mode with flat segments and no paging runs far apart code at full speed and takes
/// exceptions without a GDT of its own being reloaded.
#[test]
fn flat_protected_mode() {
    let guest = || {
        Guest::protected().program(code32!(
            "mov ecx, 10",
            "xor eax, eax",
            "2: add eax, ecx",
            "loop 2b",
            "mov [0x20000], eax",
            "int3"
        ))
    };
    let ends = [Expect::Register(RAX, 55), Expect::Memory(DATA, 55), Expect::Icount(2 + 20 + 2 + 1)];
    check("sum", guest, &ends);
}
