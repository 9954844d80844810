//! Code that changes while it runs. This machine gives the strongest answer that any CPU gives: a change acts at the
//! next instruction, through whatever address it was made (SDM 3A 9.1.3, 12.6 ask less of software than of it).

use tests::check::{Expect, check};
use tests::code64;
use tests::guest::Guest;
use tests::layout::*;
use tests::paging::{PRESENT, WRITE};
use vcpu::interp::Stop;
use vcpu::state::cr4;
use vcpu::state::regs::gpr::{RAX, RBX, RCX, RDI, RDX, RSI, RSP};

const RW: u64 = PRESENT | WRITE;

/// Each program writes 7 over the operand of the `mov al, 1` that follows the write at once; RDI points to it.
#[test]
fn the_next_instruction() {
    let stores: [(&str, &[u8]); 14] = [
        ("MOV", code64!("mov byte ptr [rdi], 7", "mov al, 1", "hlt")),
        ("MOV of 8 bytes", code64!("mov [rdi - 7], rdx", "mov al, 1", "hlt", ".fill 8, 1, 0x90")),
        ("ADD", code64!("add byte ptr [rdi], 6", "mov al, 1", "hlt")),
        ("LOCK ADD", code64!("lock add byte ptr [rdi], 6", "mov al, 1", "hlt")),
        ("XCHG", code64!("xchg [rdi], bl", "mov al, 1", "hlt")),
        ("CMPXCHG", code64!("cmpxchg [rdi], bl", "mov al, 1", "hlt")),
        ("SETcc and INC", code64!("setne [rdi]", "add byte ptr [rdi], 6", "mov al, 1", "hlt")),
        ("STOSB", code64!("mov al, 7", "stosb", "mov al, 1", "hlt")),
        ("MOVSB", code64!("movsb", "mov al, 1", "hlt")),
        ("REP MOVSB", code64!("rep movsb", "mov al, 1", "hlt")),
        ("BTS", code64!("bts dword ptr [rdi], 1", "bts dword ptr [rdi], 2", "mov al, 1", "hlt")),
        ("PUSH", code64!("push rdx", "mov al, 1", "hlt")),
        ("MOVD", code64!("movd [rdi - 3], xmm1", "mov al, 1", "hlt")),
        ("MASKMOVDQU", code64!("maskmovdqu xmm0, xmm0", "mov al, 1", "hlt")),
    ];
    for (name, code) in stores {
        // The operand is the byte before HLT (F4).
        let hlt = code.iter().rposition(|&byte| byte == 0xf4).unwrap() as u64;
        let operand = CODE + hlt - 1;
        // The code as it will be, for stores of more than a byte.
        let mut after = code.to_vec();
        after[hlt as usize - 1] = 7;
        let bytes_to = |end: u64| -> u64 {
            (0..8u64).fold(0, |word, n| {
                let at = (end + n).wrapping_sub(CODE) as usize;
                word | u64::from(after.get(at).copied().unwrap_or(0)) << (8 * n)
            })
        };
        let guest = || {
            let mut guest = Guest::long();
            guest.set(RDI, operand);
            guest.set(RSI, DATA);
            guest.set(RCX, 1);
            guest.set(RBX, 7);
            guest.set(RAX, 1);
            guest.put_u64(DATA, 7);
            match name {
                "MOV of 8 bytes" => guest.set(RDX, bytes_to(operand - 7)),
                "PUSH" => {
                    guest.set(RDX, bytes_to(operand));
                    guest.set(RSP, operand + 8);
                }
                "MOVD" => guest.core.cpu.data.ymm[1][0] = bytes_to(operand - 3) & 0xffff_ffff,
                // A byte is stored where its mask has bit 7: 87H cannot be 7, so AL becomes 87H there.
                "MASKMOVDQU" => guest.core.cpu.data.ymm[0] = [0x87, 0, 0, 0],
                _ => {}
            }
            guest.with(|guest| guest.core.cpu.cr4 |= cr4::OSFXSR).program(code)
        };
        let al: fn(&Guest) -> u64 = |guest| guest.register(RAX) & 0x7f;
        check(name, guest, &[Expect::Is("AL", al, 7), Expect::HaltedAt(CODE + hlt + 1)]);
    }
}

/// A loop whose body counts up its own operand.
#[test]
fn a_loop_that_changes_itself() {
    let code = code64!("mov ecx, 5", "2: add rax, 1", "inc byte ptr [rdi]", "loop 2b", "hlt");
    let guest = || {
        let mut guest = Guest::long();
        guest.set(RDI, CODE + 8);
        guest.program(code)
    };
    check("loop", guest, &[Expect::Register(RAX, 1 + 2 + 3 + 4 + 5)]);
}

/// The store goes through another linear address of the same page, or over a page boundary into it.
#[test]
fn through_an_alias() {
    let code = code64!("mov byte ptr [rdi], 7", "mov al, 1", "hlt");
    let guest = || {
        let mut guest = Guest::long();
        guest.map(WINDOW, CODE, 0, RW);
        guest.set(RDI, WINDOW + 4);
        guest.program(code)
    };
    check("alias", guest, &[Expect::Register(RAX, 7)]);
    // First the code runs from the alias, so that both have been decoded; then it is changed through the first one.
    let code =
        code64!("cmp rbx, 1", "je 2f", "inc ebx", "jmp rsi", "2: mov byte ptr [rdi], 7", "mov al, 1", "hlt");
    let at = code.len() as u64 - 2;
    let guest = || {
        let mut guest = Guest::long();
        guest.map(WINDOW, CODE, 0, RW);
        guest.set(RDI, CODE + at);
        guest.set(RSI, WINDOW);
        guest.program(code)
    };
    check("run through the alias", guest, &[Expect::Register(RAX, 7), Expect::HaltedAt(WINDOW + at + 2)]);
    // Eight bytes, the last four of them in the code page that follows.
    let guest = || {
        let mut guest = Guest::long();
        guest.map(WINDOW, FRAME, 0, RW);
        guest.map(WINDOW + 0x1000, FRAME + 0x2000, 0, RW);
        guest.put(FRAME + 0x2000, code64!("mov eax, 1", "ret"));
        guest.set(RSI, WINDOW + 0x1000);
        guest.set(RDI, WINDOW + 0xffc);
        // b8 07 00 00: MOV EAX, 7 again.
        guest.set(RDX, 0x0000_07b8_0000_0000);
        guest.program(code64!("call rsi", "mov rbx, rax", "mov [rdi], rdx", "call rsi", "hlt"))
    };
    check("over the boundary", guest, &[Expect::Register(RBX, 1), Expect::Register(RAX, 7)]);
}

/// A device writes code while the CPU stands between two instructions of it.
#[test]
fn by_a_device() {
    for stop in 0..3 {
        let mut guest = Guest::long().program(code64!("nop", "nop", "mov al, 1", "hlt"));
        assert_eq!(guest.run(stop), Stop::Limit);
        guest.put(CODE + 3, &[7]);
        assert_eq!(guest.run(100), Stop::Halted);
        assert_eq!(guest.register(RAX), 7, "after {stop} instructions");
    }
}

/// An instruction over two pages, run before and after either of them is changed.
#[test]
fn an_instruction_over_two_pages() {
    // MOV EAX, 01010101H: opcode in the first page, with 0…4 bytes of the operand.
    for in_first in 1..5u64 {
        for changed in 1..5u64 {
            let start = WINDOW + 0x1000 - in_first;
            let guest = || {
                let mut guest = Guest::long();
                guest.map(WINDOW, FRAME, 0, RW);
                guest.map(WINDOW + 0x1000, FRAME + 0x2000, 0, RW);
                for (n, byte) in [0xb8, 1, 1, 1, 1, 0xc3].into_iter().enumerate() {
                    let at = n as u64;
                    let gpa = if at < in_first {
                        FRAME + 0x1000 - in_first + at
                    } else {
                        FRAME + 0x2000 - in_first + at
                    };
                    guest.put(gpa, &[byte]);
                }
                guest.set(RSI, start);
                guest.set(RDI, start + changed);
                guest.program(code64!("call rsi", "mov rbx, rax", "mov byte ptr [rdi], 7", "call rsi", "hlt"))
            };
            let wanted = 0x0101_0101 & !(0xff << (8 * (changed - 1))) | 7 << (8 * (changed - 1));
            let name = format!("{in_first} bytes in the first page, byte {changed} changed");
            check(&name, guest, &[Expect::Register(RBX, 0x0101_0101), Expect::Register(RAX, wanted)]);
        }
    }
}

/// The second page of such an instruction is exchanged: the change acts with the flush.
#[test]
fn the_second_page_is_exchanged() {
    let guest = |code: &'static [u8]| {
        move || {
            let mut guest = Guest::long();
            guest.map(WINDOW, FRAME, 0, RW);
            guest.map(WINDOW + 0x1000, FRAME + 0x2000, 0, RW);
            guest.put(FRAME + 0xffe, &[0xb8, 1]);
            guest.put(FRAME + 0x2000, &[1, 1, 1, 0xc3]);
            guest.put(FRAME + 0x3000, &[2, 2, 2, 0xc3]);
            let entry = guest.entry_address(WINDOW + 0x1000, 0);
            guest.set(RSI, WINDOW + 0xffe);
            guest.set(RDI, entry);
            guest.set(RDX, (FRAME + 0x3000) | RW);
            guest.program(code)
        }
    };
    let stale = code64!("call rsi", "mov [rdi], rdx", "call rsi", "hlt");
    check("no flush", guest(stale), &[Expect::Register(RAX, 0x0101_0101)]);
    let fresh = code64!("call rsi", "mov [rdi], rdx", "invlpg [rsi + 2]", "call rsi", "hlt");
    check("INVLPG", guest(fresh), &[Expect::Register(RAX, 0x0202_0201)]);
    let gone = code64!("call rsi", "mov qword ptr [rdi], 0", "invlpg [rsi + 2]", "call rsi", "hlt");
    check("absent", guest(gone), &[Expect::Event(14, Some(16), WINDOW + 0xffe)]);
}

/// Two functions at one linear address, by exchanging the page.
fn two_pages(code: &[u8]) -> Guest {
    let mut guest = Guest::long();
    guest.map(WINDOW, FRAME, 0, RW);
    guest.put(FRAME, code64!("mov eax, 1", "ret"));
    guest.put(FRAME + 0x1000, code64!("mov eax, 2", "ret"));
    let entry = guest.entry_address(WINDOW, 0);
    guest.set(RSI, WINDOW);
    guest.set(RDI, entry);
    guest.set(RDX, (FRAME + 0x1000) | RW);
    guest.program(code)
}

/// A code page is remapped: the old code runs until a flush (SDM 3A 4.10.4.2).
#[test]
fn a_code_page_is_exchanged() {
    let rows: [(&str, &[u8], u64); 6] = [
        ("no flush", code64!("call rsi", "mov [rdi], rdx", "call rsi", "hlt"), 1),
        ("INVLPG", code64!("call rsi", "mov [rdi], rdx", "invlpg [rsi]", "call rsi", "hlt"), 2),
        ("CR3", code64!("call rsi", "mov [rdi], rdx", "mov rcx, cr3", "mov cr3, rcx", "call rsi", "hlt"), 2),
        ("data read", code64!("call rsi", "mov [rdi], rdx", "mov rcx, [rsi]", "call rsi", "hlt"), 1),
        // The write has to set the dirty bit, which walks the tables anew; from then on the new page is there.
        ("data write", code64!("call rsi", "mov [rdi], rdx", "mov [rsi + 0x800], rcx", "call rsi", "hlt"), 2),
        (
            "back again",
            code64!(
                "call rsi",
                "mov rcx, [rdi]",
                "mov [rdi], rdx",
                "invlpg [rsi]",
                "call rsi",
                "mov [rdi], rcx",
                "invlpg [rsi]",
                "call rsi",
                "hlt"
            ),
            1,
        ),
    ];
    for (name, code, wanted) in rows {
        check(name, || two_pages(code), &[Expect::Register(RAX, wanted)]);
    }
}

/// Execution rights that go with a flush only, and rights that a data access finds changed.
#[test]
fn a_code_page_loses_its_rights() {
    let no_execute = 1u64 << 63;
    let rows: [(&str, &[u8], Option<u64>); 3] = [
        ("no flush", code64!("call rsi", "mov [rdi], rdx", "call rsi", "hlt"), None),
        ("INVLPG", code64!("call rsi", "mov [rdi], rdx", "invlpg [rsi]", "call rsi", "hlt"), Some(WINDOW)),
        (
            "data write",
            code64!("call rsi", "mov [rdi], rdx", "mov [rsi + 0x800], rcx", "call rsi", "hlt"),
            Some(WINDOW),
        ),
    ];
    for (name, code, fault) in rows {
        let guest = || {
            let mut guest = two_pages(code);
            guest.set(RDX, FRAME | RW | no_execute);
            guest
        };
        let end = match fault {
            None => Expect::HaltedAt(CODE + code.len() as u64),
            Some(at) => Expect::Event(14, Some(17), at),
        };
        check(name, guest, &[end]);
    }
}

/// Code and data in one page, also in one line of 64 bytes: writes beside the code change nothing else.
#[test]
fn data_beside_code() {
    let code = code64!("mov ecx, 50", "2: add [rdi], rcx", "inc qword ptr [rsi]", "loop 2b", "hlt");
    for (first, second) in [(0x20, 0x28), (0x400, 0xff8), (0x20, 0x800)] {
        let guest = || {
            let mut guest = Guest::long();
            guest.set(RDI, CODE + first);
            guest.set(RSI, CODE + second);
            guest.program(code)
        };
        let ends = [
            Expect::Memory(CODE + first, 1275),
            Expect::Memory(CODE + second, 50),
            Expect::Icount(1 + 150 + 1),
        ];
        check(&format!("data at {first:x} and {second:x}"), guest, &ends);
    }
}

/// The stack in the code page: a CALL pushes over the instruction after next.
#[test]
fn a_push_over_code() {
    // The return address lands on the NOPs, whose place is read back.
    let code = code64!("call 2f", "2: pop rax", "hlt", ".fill 20, 1, 0x90");
    let guest = || {
        let mut guest = Guest::long();
        guest.set(RSP, CODE + 20);
        guest.program(code)
    };
    check("CALL", guest, &[Expect::Register(RAX, CODE + 5), Expect::Memory(CODE + 12, CODE + 5)]);
}

/// The same bytes as 64-bit and as 32-bit code: 48 FF C0 is INC RAX or DEC EAX, INC EAX.
#[test]
fn the_same_bytes_in_two_modes() {
    let guest = || {
        let mut guest = Guest::long();
        guest.put(CODE + 0x100, code64!("inc rax", "retf"));
        guest.put_u64(DATA, (CODE + 0x100) | (0x08 << 32));
        guest.put_u64(DATA + 8, (CODE + 0x100) | (0x30 << 32));
        guest.set(RBX, DATA);
        guest.program(code64!(
            "call fword ptr [rbx]",
            "mov rcx, rax",
            "call fword ptr [rbx + 8]",
            "mov rdx, rax",
            "hlt"
        ))
    };
    check("INC RAX", guest, &[Expect::Register(RCX, 1), Expect::Register(RDX, 1)]);
}

/// One page of code at two linear addresses with different offsets from what it refers to.
#[test]
fn relative_addresses_follow_the_alias() {
    let guest = || {
        let mut guest = Guest::long();
        guest.map(WINDOW, FRAME, 0, RW);
        guest.map(WINDOW + 0x1000, FRAME + 0x1000, 0, RW);
        guest.map(WINDOW + 0x5000, FRAME, 0, RW);
        guest.map(WINDOW + 0x6000, FRAME + 0x2000, 0, RW);
        guest.put_u64(FRAME + 0x1000, 11);
        guest.put_u64(FRAME + 0x2000, 22);
        // 48 8b 05 f9 0f 00 00: MOV RAX, [RIP + FF9H], seven bytes long.
        guest.put(FRAME, code64!("mov rax, [rip + 0xff9]", "ret"));
        guest.set(RSI, WINDOW);
        guest.program(code64!("call rsi", "mov rbx, rax", "add rsi, 0x5000", "call rsi", "hlt"))
    };
    check("RIP-relative", guest, &[Expect::Register(RBX, 11), Expect::Register(RAX, 22)]);
}
