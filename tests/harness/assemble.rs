//! Machine code from assembly text, made by the compiler's own assembler: no tool, no file, no second syntax.
//!
//! The text is in Intel syntax. It is position-independent as long as it only jumps inside itself; constants of the
//! test come in as operands: `code64!("mov rax, [{data}]"; data = const DATA)`. Labels are numbers (`2:`, `jnz 2b`).

/// The bytes between two addresses that `assemble!` found.
///
/// # Safety
/// Both point into one constant section, `start` not after `end`.
pub unsafe fn between(start: *const u8, end: *const u8) -> &'static [u8] {
    // SAFETY: the caller's promise; constant sections live as long as the program.
    unsafe { std::slice::from_raw_parts(start, end.offset_from(start) as usize) }
}

/// 64-bit machine code of some assembly text.
#[macro_export]
macro_rules! code64 { ($($text:tt)+) => { $crate::assemble!(".code64"; $($text)+) } }

/// 32-bit machine code.
#[macro_export]
macro_rules! code32 { ($($text:tt)+) => { $crate::assemble!(".code32"; $($text)+) } }

/// 16-bit machine code.
#[macro_export]
macro_rules! code16 { ($($text:tt)+) => { $crate::assemble!(".code16"; $($text)+) } }

/// What the `code` macros share.
#[macro_export]
macro_rules! assemble {
    ($mode:literal; $($line:literal),+ $(,)? $(; $($operands:tt)*)?) => {{
        let (start, end): (*const u8, *const u8);
        // SAFETY: the host executes two LEA only; the guest's code goes to a section of its own, between the labels.
        unsafe {
            ::std::arch::asm!(
                ".pushsection .rodata.guest,\"a\",@progbits",
                $mode, "771:", $($line,)+ "772:", ".code64", ".popsection",
                "lea {guest_start}, [rip + 771b]", "lea {guest_end}, [rip + 772b]",
                guest_start = out(reg) start, guest_end = out(reg) end,
                $($($operands)*,)?
                options(nomem, nostack, preserves_flags)
            );
            $crate::assemble::between(start, end)
        }
    }};
}
