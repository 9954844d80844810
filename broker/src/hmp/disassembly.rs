//! Instructions as the monitor shows them, in QEMU's form: address, bytes, AT&T syntax.

use iced_x86::{Decoder, DecoderOptions, Formatter, GasFormatter, Instruction};
use std::fmt::Write as _;

/// Longest instruction (SDM 2A 2.3.11).
pub const INSTRUCTION_BYTES_MAX: usize = 15;
/// Bytes shown in a line.
const LINE_BYTES: usize = 8;
/// Columns of a mnemonic.
const MNEMONIC_COLUMNS: usize = 8;

/// Shows up to `count` instructions of `bytes`, which lie at `address`; `more`: bytes follow that are not in hand, so
/// the last instruction may not be whole. Gives the text, the number of instructions, and their bytes.
pub fn text(bits: u8, address: u64, bytes: &[u8], count: u64, more: bool) -> (String, u64, usize) {
    let mut formatter = formatter();
    let (mut out, mut shown, mut at) = (String::new(), 0, 0);
    while shown < count && at < bytes.len() {
        let rest = &bytes[at..];
        if more && rest.len() < INSTRUCTION_BYTES_MAX {
            break;
        }
        let ip = address.wrapping_add(at as u64);
        let mut decoder = Decoder::with_ip(u32::from(bits), rest, ip, DecoderOptions::NONE);
        let instruction = decoder.decode();
        let (length, words) = if instruction.is_invalid() {
            (1, format!(".byte    0x{:02x}", rest[0]))
        } else {
            (instruction.len(), words(&mut formatter, &instruction))
        };
        lines(&mut out, ip, &rest[..length], &words);
        (shown, at) = (shown + 1, at + length);
    }
    (out, shown, at)
}

fn formatter() -> GasFormatter {
    let mut formatter = GasFormatter::new();
    let options = formatter.options_mut();
    options.set_uppercase_hex(false);
    options.set_space_after_operand_separator(true);
    options.set_gas_space_after_memory_operand_comma(true);
    options.set_gas_show_mnemonic_size_suffix(true);
    options.set_branch_leading_zeros(false);
    options.set_signed_immediate_operands(true);
    options.set_rip_relative_addresses(true);
    formatter
}

fn words(formatter: &mut GasFormatter, instruction: &Instruction) -> String {
    let (mut mnemonic, mut operands) = (String::new(), String::new());
    formatter.format_mnemonic(instruction, &mut mnemonic);
    formatter.format_all_operands(instruction, &mut operands);
    format!("{mnemonic:<MNEMONIC_COLUMNS$} {operands}")
}

fn lines(out: &mut String, ip: u64, bytes: &[u8], words: &str) {
    for (number, part) in bytes.chunks(LINE_BYTES).enumerate() {
        let hex: String = part.iter().map(|byte| format!("{byte:02x} ")).collect();
        let place = ip.wrapping_add((number * LINE_BYTES) as u64);
        let width = LINE_BYTES * 3;
        let _ = if number == 0 {
            writeln!(out, "0x{place:08x}:  {hex:<width$} {words}")
        } else {
            writeln!(out, "0x{place:08x}:  {}", hex.trim_end())
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_the_form_of_qemu() {
        // Samples of QEMU 7.2.
        for (bits, address, bytes, wanted) in [
            (
                64,
                0xffff_ffff_a681_7a0b,
                &[0xe9, 0xd0, 0xa4, 0x3e, 0x00][..],
                "0xffffffffa6817a0b:  e9 d0 a4 3e 00           jmp      0xffffffffa6c01ee0\n",
            ),
            (
                16,
                0xf_fff5,
                &[0x30, 0x36, 0x2f, 0x32],
                "0x000ffff5:  30 36 2f 32              xorb     %dh, 0x322f\n",
            ),
            (
                16,
                0x2009,
                &[0x11, 0x48, 0x81],
                "0x00002009:  11 48 81                 adcw     %cx, -0x7f(%bx, %si)\n",
            ),
            (
                16,
                0x201a,
                &[0xc5, 0xfc, 0x28, 0xc1],
                "0x0000201a:  c5 fc 28 c1              vmovaps  %ymm1, %ymm0\n",
            ),
            (16, 0x201e, &[0xf0], "0x0000201e:  f0                       .byte    0xf0\n"),
        ] {
            let (text, count, length) = text(bits, address, bytes, 1, false);
            assert_eq!((text.as_str(), count, length), (wanted, 1, bytes.len()));
        }
    }

    #[test]
    fn long_instructions_take_two_lines_and_cut_ones_wait() {
        let bytes = [0x48, 0xb8, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0x90];
        let (shown, count, length) = text(64, 0, &bytes, 5, false);
        assert_eq!((shown.lines().count(), count, length), (3, 2, 11), "{shown}");
        assert!(shown.contains("\n0x00000008:  22 11\n"), "{shown}");
        assert_eq!(text(64, 0, &bytes, 5, true), (String::new(), 0, 0));
    }

    #[test]
    fn any_bytes_are_survived() {
        let bytes: Vec<u8> = (0..4096u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for bits in [16, 32, 64] {
            let (_, count, length) = text(bits, u64::MAX - 100, &bytes, u64::MAX, false);
            assert!(count > 500 && length == bytes.len());
        }
    }
}
