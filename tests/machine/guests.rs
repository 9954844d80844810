//! Guests: the one that is part of the program, and tiny multiboot kernels, written here as machine code.

use crate::lab::{Lab, PATIENCE};
use crate::process::{Child, Done};

/// Where the code of a tiny guest is loaded, and the first instruction.
const LOAD_ADDRESS: u32 = 0x10_0000;
const CODE_OFFSET: u32 = 96;

/// ELF32 with one segment that holds the whole file, and a multiboot header.
fn multiboot(code: &[u8]) -> Vec<u8> {
    let length = CODE_OFFSET + code.len() as u32;
    let mut file = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // Executable, i386, version 1; entry, program headers at 52, no sections; sizes.
    for half in [2u16, 3, 1, 0] {
        file.extend(half.to_le_bytes());
    }
    for word in [LOAD_ADDRESS + CODE_OFFSET, 52, 0, 0] {
        file.extend(word.to_le_bytes());
    }
    for half in [52u16, 32, 1, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    // PT_LOAD: offset, virtual and physical address, sizes (with room for a stack), all rights, alignment.
    for word in [1, 0, LOAD_ADDRESS, LOAD_ADDRESS, length, length + 0x1_0000, 7, 0x1000] {
        file.extend(word.to_le_bytes());
    }
    const MAGIC: u32 = 0x1bad_b002;
    for word in [MAGIC, 0, MAGIC.wrapping_neg()] {
        file.extend(word.to_le_bytes());
    }
    file.extend(code);
    file
}

/// mov dx, 0x604; mov ax, SLP_EN with SLP_TYP 5; out dx, ax; hlt (ACPI 6.5, 4.8.3.2.1).
const POWER_OFF: &[u8] = &[0x66, 0xba, 0x04, 0x06, 0x66, 0xb8, 0x00, 0x34, 0x66, 0xef, 0xf4];

/// Code before which a letter is printed: mov dx, 0x3f8; mov al, 'B'; out dx, al.
fn after_letter(code: &[u8]) -> Vec<u8> {
    multiboot(&[&[0x66, 0xba, 0xf8, 0x03, 0xb0, b'B', 0xee], code].concat())
}

pub fn power_off() -> Vec<u8> {
    after_letter(POWER_OFF)
}

/// lidt [LOAD_ADDRESS + 32] (zeros: limit 0); int3.
pub fn triple_fault() -> Vec<u8> {
    after_letter(&[0x0f, 0x01, 0x1d, 0x20, 0x00, 0x10, 0x00, 0xcc])
}

/// mov eax, 0xd0000000; jmp eax: nothing answers there.
pub fn nowhere() -> Vec<u8> {
    after_letter(&[0xb8, 0, 0, 0, 0xd0, 0xff, 0xe0])
}

/// mov dx, 0xcf9; mov al, 6; out dx, al; hlt.
pub fn reset() -> Vec<u8> {
    after_letter(&[0x66, 0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee, 0xf4])
}

/// mov dx, 0x505; mov al, 1; out dx, al; then the code.
fn after_panic(code: &[u8]) -> Vec<u8> {
    after_letter(&[&[0x66, 0xba, 0x05, 0x05, 0xb0, 0x01, 0xee], code].concat())
}

/// Panics, then resets as `reset`.
pub fn panic_and_reset() -> Vec<u8> {
    after_panic(&[0x66, 0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee, 0xf4])
}

/// Panics, then powers off.
pub fn panic_and_power_off() -> Vec<u8> {
    after_panic(POWER_OFF)
}

/// mov dx, 0xf4; mov al, 0x10; out dx, al; hlt.
pub fn debug_exit() -> Vec<u8> {
    after_letter(&[0x66, 0xba, 0xf4, 0x00, 0xb0, 0x10, 0xee, 0xf4])
}

/// cli; hlt: waits for ever.
pub fn halted() -> Vec<u8> {
    after_letter(&[0xfa, 0xf4, 0xeb, 0xfd])
}

/// cli; a periodic timer that nobody hears (mov al, 0x34; out 0x43, al; mov al, 0; out 0x40, al twice); hlt for ever.
pub fn halted_with_timer() -> Vec<u8> {
    after_letter(&[0xfa, 0xb0, 0x34, 0xe6, 0x43, 0xb0, 0x00, 0xe6, 0x40, 0xe6, 0x40, 0xf4, 0xeb, 0xfd])
}

/// Raises #UD for ever, by a handler that is an invalid instruction itself: 2 GiB of stack last for minutes.
pub fn stuck() -> Vec<u8> {
    stuck_on(0x7ff0_0000)
}

/// The same with a stack where no memory is.
pub fn stuck_on_nothing() -> Vec<u8> {
    stuck_on(0xc000_0000)
}

fn stuck_on(stack: u32) -> Vec<u8> {
    // Behind the seven bytes of `after_letter`.
    let code = LOAD_ADDRESS + CODE_OFFSET + 7;
    let (handler, idt) = (code + 12, code + 20);
    let mut bytes = vec![0xbc]; // mov esp, stack
    bytes.extend(stack.to_le_bytes());
    bytes.extend([0x0f, 0x01, 0x1d]); // lidt [code + 14]
    bytes.extend((code + 14).to_le_bytes());
    bytes.extend([0x0f, 0x0b]); // ud2
    bytes.extend([0x37, 0x00]);
    bytes.extend(idt.to_le_bytes());
    bytes.extend([0; 6 * 8]);
    // A 32-bit interrupt gate (SDM 3A 6.11).
    let [low, high] = [handler as u16, (handler >> 16) as u16].map(u16::to_le_bytes);
    bytes.extend(low);
    bytes.extend([0x10, 0x00, 0x00, 0x8e]);
    bytes.extend(high);
    after_letter(&bytes)
}

/// Prints what it reads at 3 MiB ('Z') while the A20 gate is closed (2 MiB answers: 'A') and when it is open again.
pub fn a20() -> Vec<u8> {
    const PRINT_3_MIB: &[u8] = &[0xa0, 0x00, 0x00, 0x30, 0x00, 0x66, 0xba, 0xf8, 0x03, 0xee];
    let code = [
        // It goes on in its copy at 2 MiB: its own address has the bit.
        &[0xbe, 0x00, 0x00, 0x10, 0x00][..], // mov esi, 1 MiB
        &[0xbf, 0x00, 0x00, 0x20, 0x00],     // mov edi, 2 MiB
        &[0xb9, 0x00, 0x10, 0x00, 0x00],     // mov ecx, 4096
        &[0xf3, 0xa4],                       // rep movsb
        &[0xb8, 0x7f, 0x00, 0x20, 0x00],     // mov eax, after
        &[0xff, 0xe0],                       // jmp eax
        &[0xc6, 0x05, 0, 0, 0x20, 0, b'A'],  // after: mov byte [2 MiB], 'A'
        &[0xc6, 0x05, 0, 0, 0x30, 0, b'Z'],  // mov byte [3 MiB], 'Z'
        &[0xb0, 0xdd, 0xe6, 0x64],           // mov al, 0xdd; out 0x64, al
        &[0xb0, 0x00, 0xe6, 0x92],           // mov al, 0; out 0x92, al
        PRINT_3_MIB,
        &[0xb0, 0x02, 0xe6, 0x92], // mov al, 2; out 0x92, al
        PRINT_3_MIB,
        POWER_OFF,
    ];
    after_letter(&code.concat())
}

/// Echoes what is typed; Ctrl-d ends it.
pub fn echo() -> Vec<u8> {
    let code = [
        &[0x66, 0xba, 0xfd, 0x03][..], // again: mov dx, 0x3fd
        &[0xec, 0xa8, 0x01],           // poll: in al, dx; test al, 1
        &[0x74, 0xfb],                 // jz poll
        &[0x66, 0xba, 0xf8, 0x03],     // mov dx, 0x3f8
        &[0xec, 0x3c, 0x04],           // in al, dx; cmp al, 4
        &[0x74, 0x03],                 // je end
        &[0xee],                       // out dx, al
        &[0xeb, 0xeb],                 // jmp again
        POWER_OFF,                     // end:
    ];
    after_letter(&code.concat())
}

/// Prints the low half of the time stamp counter as eight letters a line, for ever; a typed q ends it, other input is
/// echoed. What it prints depends on the rate of guest time and on when something is typed.
pub fn ticker() -> Vec<u8> {
    let code = [
        &[0xb9, 0x40, 0x0d, 0x03, 0x00][..], // again: mov ecx, 200000
        &[0x49, 0x75, 0xfd],                 // dec ecx; jnz -1
        &[0x0f, 0x31, 0x89, 0xc3],           // rdtsc; mov ebx, eax
        &[0x66, 0xba, 0xf8, 0x03],           // mov dx, 0x3f8
        &[0xb9, 0x08, 0x00, 0x00, 0x00],     // mov ecx, 8
        &[0xc1, 0xc3, 0x04],                 // digit: rol ebx, 4
        &[0x88, 0xd8, 0x24, 0x0f],           // mov al, bl; and al, 15
        &[0x04, b'a', 0xee],                 // add al, 'a'; out dx, al
        &[0x49, 0x75, 0xf3],                 // dec ecx; jnz digit
        &[0xb0, 0x0a, 0xee],                 // mov al, '\n'; out dx, al
        &[0x66, 0xba, 0xfd, 0x03],           // mov dx, 0x3fd
        &[0xec, 0xa8, 0x01, 0x74, 0xd2],     // in al, dx; test al, 1; jz again
        &[0x66, 0xba, 0xf8, 0x03],           // mov dx, 0x3f8
        &[0xec, 0xee, 0x3c, b'q'],           // in al, dx; out dx, al; cmp al, 'q'
        &[0x75, 0xc8],                       // jne again
        POWER_OFF,
    ];
    multiboot(&code.concat())
}

/// Counts in memory for ever: at 0x100060 inc [0x200000], at 66 nop, at 67 reads 0x200004, at 6c writes a byte to 0x200009, at 73
/// jumps back.
pub fn counter() -> Vec<u8> {
    let code = [
        &[0xff, 0x05, 0, 0, 0x20, 0][..],   // again: inc dword [0x200000]
        &[0x90],                            // nop
        &[0xa1, 0x04, 0, 0x20, 0],          // mov eax, [0x200004]
        &[0xc6, 0x05, 0x09, 0, 0x20, 0, 1], // mov byte [0x200009], 1
        &[0xeb, 0xeb],                      // jmp again
    ];
    multiboot(&code.concat())
}

/// Counts in AX for ever, in a segment of 16-bit code that begins at 0x1000a0: after mov ax, 0x1234 at a3 inc ax, at a4 jumps back.
pub fn counter_16() -> Vec<u8> {
    let mut code = [
        &[0x0f, 0x01, 0x15, 0x80, 0, 0x10, 0][..], // lgdt [0x100080]
        &[0xea, 0, 0, 0, 0, 0x08, 0],              // jmp 8:0
    ]
    .concat();
    code.resize(0x80 - CODE_OFFSET as usize, 0x90);
    code.extend([0x0f, 0, 0x90, 0, 0x10, 0]); // limit and address of the table
    code.resize(0x98 - CODE_OFFSET as usize, 0);
    code.extend([0xff, 0xff, 0xa0, 0, 0x10, 0x9a, 0, 0]); // 64 KiB at 0x1000a0, 16-bit code
    code.extend([0xb8, 0x34, 0x12, 0x40, 0xeb, 0xfd]);
    multiboot(&code)
}

/// First instruction of the handlers of `sleeper`: timer, and #UD.
pub const SLEEPER_HANDLERS: [u64; 2] = [0x10_0200, 0x10_0220];
/// Its invalid instruction.
pub const SLEEPER_INVALID: u64 = 0x10_00a1;

/// Sleeps in HLT until a timer wakes it, then runs into an invalid instruction, `rounds` times; then powers off. It counts rounds
/// at 2 MiB, timers 4 bytes behind, invalid instructions 8 bytes behind.
pub fn sleeper(rounds: u8) -> Vec<u8> {
    let gate = |handler: u64| {
        let [low, high] = [handler as u16, (handler >> 16) as u16].map(u16::to_le_bytes);
        [low[0], low[1], 0x10, 0, 0, 0x8e, high[0], high[1]]
    };
    let [timer, invalid] = SLEEPER_HANDLERS;
    let begin = [
        &[0xbc, 0, 0, 0x18, 0][..],                        // mov esp, 0x180000
        &[0x0f, 0x01, 0x1d, 0xf0, 0x02, 0x10, 0],          // lidt [0x1002f0]
        &[0xb0, 0x11, 0xe6, 0x20, 0xb0, 0x20, 0xe6, 0x21], // 8259: vectors from 0x20
        &[0xb0, 0x04, 0xe6, 0x21, 0xb0, 0x01, 0xe6, 0x21],
        &[0xb0, 0xfe, 0xe6, 0x21], // only IRQ 0
        &[0xb0, 0x34, 0xe6, 0x43, 0xb0, 0x00, 0xe6, 0x40, 0xb0, 0x04, 0xe6, 0x40], // 8254: 1024 ticks
        &[0xfb],                   // sti
    ];
    let mut code = begin.concat();
    // Where the loop begins is part of `SLEEPER_INVALID`.
    code.resize(0xa0 - CODE_OFFSET as usize, 0x90);
    code.extend([0xf4]); // again: hlt
    code.extend([0x0f, 0x0b]); // ud2
    code.extend([0xff, 0x05, 0, 0, 0x20, 0]); // inc dword [0x200000]
    code.extend([0x83, 0x3d, 0, 0, 0x20, 0, rounds]); // cmp dword [0x200000], rounds
    code.extend([0x72, 0xee]); // jb again
    code.extend(POWER_OFF);
    code.resize(0x200 - CODE_OFFSET as usize, 0x90);
    code.extend([0xff, 0x05, 4, 0, 0x20, 0]); // timer: inc dword [0x200004]
    code.extend([0x50, 0xb0, 0x20, 0xe6, 0x20, 0x58, 0xcf]); // push eax; end of interrupt; pop eax; iretd
    code.resize(0x220 - CODE_OFFSET as usize, 0x90);
    code.extend([0x83, 0x04, 0x24, 2]); // invalid: add dword [esp], 2
    code.extend([0xff, 0x05, 8, 0, 0x20, 0, 0xcf]); // inc dword [0x200008]; iretd
    code.resize(0x2f0 - CODE_OFFSET as usize, 0x90);
    code.extend([0x07, 0x01, 0xf6, 0x02, 0x10, 0]); // limit and address of what follows
    let mut gates = vec![0; 0x21 * 8];
    gates[6 * 8..7 * 8].copy_from_slice(&gate(invalid));
    gates[0x20 * 8..0x21 * 8].copy_from_slice(&gate(timer));
    code.extend(gates);
    multiboot(&code)
}

/// Prints a letter whenever the seconds of the RTC change, three times, and ends.
pub fn seconds() -> Vec<u8> {
    let code = [
        &[0xb9, 0x03, 0x00, 0x00, 0x00][..],   // mov ecx, 3
        &[0xb0, 0x0a, 0xe6, 0x70, 0xe4, 0x71], // again: mov al, 10; out 0x70, al; in al, 0x71
        &[0xb0, 0x00, 0xe6, 0x70, 0xe4, 0x71], // mov al, 0; out 0x70, al; in al, 0x71
        &[0x38, 0xd8, 0x74, 0xf0],             // cmp al, bl; je again
        &[0x88, 0xc3],                         // mov bl, al
        &[0x66, 0xba, 0xf8, 0x03],             // mov dx, 0x3f8
        &[0xb0, b'T', 0xee],                   // mov al, 'T'; out dx, al
        &[0x49, 0x75, 0xe4],                   // dec ecx; jnz again
        POWER_OFF,
    ];
    multiboot(&code.concat())
}

/// Number of whole lines.
pub fn lines(out: &[u8]) -> usize {
    out.iter().filter(|byte| **byte == b'\n').count()
}

/// Options that every run of the demo guest shares.
pub const DEMO: &str = "-kernel demo.elf -m 16 -display none -no-reboot";

/// A laboratory with the demo guest, and a recording `rec` of it with a typed line.
pub fn demo_recorded() -> (Lab, Done) {
    let lab = demo_lab();
    let recorded = record_demo(&lab, "rec");
    (lab, recorded)
}

pub fn demo_lab() -> Lab {
    let lab = Lab::new();
    lab.write("demo.elf", broker::demo_guest::IMAGE);
    lab
}

pub fn record_demo(lab: &Lab, to: &str) -> Done {
    let words = format!("record --digest-interval 1000000 -o {to} {DEMO} -serial stdio -icount shift=0");
    answer_demo(lab.start(&words)).well()
}

/// Types a line when the demo guest asks for it.
pub fn answer_demo(mut child: Child) -> Done {
    child.until_text("type a line: ", PATIENCE);
    child.type_bytes(b"never diverge\n");
    let done = child.end(PATIENCE);
    assert!(done.text().contains("egrevid reven"), "{:?} {:?}", done.text(), done.err);
    done
}
