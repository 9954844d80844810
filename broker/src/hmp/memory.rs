//! Commands that look at memory and ports: `x`, `xp`, `print`, `i`, `sum`, `gva2gpa`, `memsave`, `pmemsave`.

use super::args::Args;
use super::disassembly;
use super::format::{Format, Show};
use super::inquiry::{Asker, TEXT_BYTES_MAX, Task};
use replay::inspect::{Answer, Query, Space};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;

/// Bytes of a line of single bytes, and of larger values.
const LINE_BYTES: (u64, u64) = (8, 16);
/// Bytes asked for at once.
const PIECE_BYTES: u64 = 4096;

fn integer(args: &Args, name: &str) -> u64 {
    args.integer(name).unwrap_or(0) as u64
}

pub(super) fn x(asker: Asker, args: Args) -> Task {
    Box::pin(async move { dump(&asker, &args, Space::Virtual).await })
}

pub(super) fn xp(asker: Asker, args: Args) -> Task {
    Box::pin(async move { dump(&asker, &args, Space::Physical).await })
}

async fn dump(asker: &Asker, args: &Args, space: Space) -> Result<String, String> {
    let (format, address) = (args.format(), integer(args, "addr"));
    asker.keep_format(format);
    if format.show == Show::Instructions {
        return instructions(asker, space, address, format.count).await;
    }
    let size = u64::from(format.size);
    let (mut out, mut left) = (String::new(), format.count.saturating_mul(size));
    let line_bytes = if size == 1 { LINE_BYTES.0 } else { LINE_BYTES.1 };
    let mut at = address;
    while left > 0 && out.len() <= TEXT_BYTES_MAX {
        let piece = left.min(PIECE_BYTES);
        let bytes = asker.memory(space, at, piece).await?;
        for start in (0..piece).step_by(line_bytes as usize) {
            let length = line_bytes.min(piece - start) as usize;
            let _ = write!(out, "{:016x}:", at.wrapping_add(start));
            let Some(line) = bytes.get(start as usize..start as usize + length) else {
                out.push_str(" Cannot access memory\n");
                return Ok(out);
            };
            values(&mut out, format, line);
            out.push('\n');
        }
        (at, left) = (at.wrapping_add(piece), left - piece);
    }
    Ok(out)
}

fn values(out: &mut String, format: Format, line: &[u8]) {
    for value in line.chunks(usize::from(format.size)) {
        let mut bytes = [0; 8];
        bytes[..value.len()].copy_from_slice(value);
        let _ = write!(out, " {}", format.value(u64::from_le_bytes(bytes)));
    }
}

async fn instructions(asker: &Asker, space: Space, address: u64, count: u64) -> Result<String, String> {
    let bits = asker.registers().await?.code_bits;
    let bits = if matches!(bits, 16 | 32 | 64) { bits } else { 64 };
    let (mut out, mut left, mut at) = (String::new(), count, address);
    while left > 0 && out.len() <= TEXT_BYTES_MAX {
        let bytes = asker.memory(space, at, PIECE_BYTES).await?;
        let more = bytes.len() as u64 == PIECE_BYTES;
        let (text, shown, length) = disassembly::text(bits, at, &bytes, left, more);
        out.push_str(&text);
        (left, at) = (left - shown, at.wrapping_add(length as u64));
        if left > 0 && !more {
            let _ = writeln!(out, "0x{at:08x}: unable to read memory");
            return Ok(out);
        }
    }
    Ok(out)
}

pub(super) fn print(asker: Asker, args: Args) -> Task {
    let format = args.format();
    asker.keep_format(format);
    let text = format!("{}\n", format.number(args.integer("val").unwrap_or(0)));
    Box::pin(async move { Ok(text) })
}

/// Letter and bytes of a port access.
fn port_size(format: Format) -> (char, u8) {
    match format.size {
        1 => ('b', 1),
        2 => ('w', 2),
        _ => ('l', 4),
    }
}

pub(super) fn port_read(asker: Asker, args: Args) -> Task {
    Box::pin(async move {
        let (format, port) = (args.format(), integer(&args, "addr") as u16);
        asker.keep_format(format);
        let (letter, size) = port_size(format);
        let Answer::Port(value) = asker.ask(Query::Port { port, size }).await else {
            return Err(asker.unfit());
        };
        let width = 2 * usize::from(size);
        Ok(format!("port{letter}[0x{port:04x}] = 0x{value:0width$x}\n"))
    })
}

pub(super) fn gva2gpa(asker: Asker, args: Args) -> Task {
    Box::pin(async move {
        match asker.ask(Query::Translate { address: integer(&args, "addr") }).await {
            Answer::Translated(Some(0)) => Ok("gpa: 0\n".to_owned()),
            Answer::Translated(Some(gpa)) => Ok(format!("gpa: {gpa:#x}\n")),
            Answer::Translated(None) => Ok("Unmapped\n".to_owned()),
            _ => Err(asker.unfit()),
        }
    })
}

/// The checksum of BSD's `sum` over physical memory.
pub(super) fn sum(asker: Asker, args: Args) -> Task {
    Box::pin(async move {
        let (mut at, mut left) = (integer(&args, "start"), integer(&args, "size"));
        let mut sum = 0u16;
        while left > 0 {
            let piece = left.min(u64::from(replay::inspect::MEMORY_BYTES_MAX));
            let bytes = asker.memory(Space::Physical, at, piece).await?;
            for byte in &bytes {
                sum = sum.rotate_right(1).wrapping_add(u16::from(*byte));
            }
            if (bytes.len() as u64) < piece {
                let end = at.wrapping_add(bytes.len() as u64);
                return Err(format!("Error: there is no memory at {end:#x}"));
            }
            (at, left) = (at.wrapping_add(piece), left - piece);
        }
        Ok(format!("{sum:05}\n"))
    })
}

pub(super) fn memsave(asker: Asker, args: Args) -> Task {
    Box::pin(async move { save(&asker, &args, Space::Virtual).await })
}

pub(super) fn pmemsave(asker: Asker, args: Args) -> Task {
    Box::pin(async move { save(&asker, &args, Space::Physical).await })
}

async fn save(asker: &Asker, args: &Args, space: Space) -> Result<String, String> {
    let path = args.text("filename").unwrap_or_default();
    let (address, size) = (integer(args, "val"), integer(args, "size"));
    let failed = |error: std::io::Error| format!("Error: Could not write '{path}': {error}");
    let mut file =
        File::create(path).map_err(|error| format!("Error: Could not open '{path}': {}", plain(&error)))?;
    let (mut at, mut left) = (address, size);
    while left > 0 {
        let piece = left.min(u64::from(replay::inspect::MEMORY_BYTES_MAX));
        let bytes = asker.memory(space, at, piece).await?;
        file.write_all(&bytes).map_err(failed)?;
        if (bytes.len() as u64) < piece {
            return Err(format!("Error: Invalid addr 0x{address:016x}/size {size} specified"));
        }
        (at, left) = (at.wrapping_add(piece), left - piece);
    }
    Ok(String::new())
}

/// An error's text as C has it, without the number.
fn plain(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).desc().to_owned(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::inquiry::Begin;
    use super::super::inquiry::tests::run;
    use super::super::table::{COMMANDS, Run, find};
    use super::*;
    use crate::hmp::commands::ask_row;
    use replay::inspect::Registers;

    /// A machine with bytes of memory at 0x1000, 16-bit code, and ports that read as their number.
    fn machine(query: Query) -> Answer {
        const BYTES: [u8; 12] = [0xea, 0x5b, 0xe0, 0x00, 0xf0, 0x30, 0x36, 0x2f, 0x32, 0x33, 0x2f, 0x39];
        match query {
            Query::Registers => {
                Answer::Registers(Box::new(Registers { rip: 0x1000, code_bits: 16, ..Registers::default() }))
            }
            Query::Memory { address, length, .. } => {
                let at = address.wrapping_sub(0x1000).min(BYTES.len() as u64) as usize;
                let end = (at + length as usize).min(BYTES.len());
                Answer::Memory(BYTES[at..end].to_vec())
            }
            Query::Translate { address } => Answer::Translated((address < 0x2000).then_some(address & 0xfff)),
            Query::Port { port, .. } => Answer::Port(u32::from(port) & 0xff),
            other => panic!("{other:?}"),
        }
    }

    fn ask(line: &str) -> String {
        let end = line.find(|c: char| c == '/' || c.is_whitespace()).unwrap_or(line.len());
        let row = find(COMMANDS, &line[..end]).unwrap();
        let Run::Asks(command) = row.run else { panic!("{line}") };
        let begin: Begin = ask_row(row, row.names[0], &line[end..], command);
        run(begin, machine)
    }

    #[test]
    fn answers_are_those_of_qemu() {
        for (line, answer) in [
            ("x/4xb $pc", "0000000000001000: 0xea 0x5b 0xe0 0x00\n"),
            ("x/2xw $pc", "0000000000001000: 0x00e05bea 0x2f3630f0\n"),
            (
                "xp/9xb 0x1000",
                "0000000000001000: 0xea 0x5b 0xe0 0x00 0xf0 0x30 0x36 0x2f\n0000000000001008: 0x32\n",
            ),
            ("x/2c 0x1000", "0000000000001000: '\\xea' '['\n"),
            ("xp/xg 0x1008", "0000000000001008: Cannot access memory\n"),
            ("x/0xw $pc", ""),
            ("xp 0x2000", "0000000000002000: Cannot access memory\n"),
            ("x/i $pc", "0x00001000:  ea 5b e0 00 f0           ljmpw    $0xf000, $0xe05b\n"),
            (
                "x/2i 0x100b",
                "0x0000100b:  39                       .byte    0x39\n0x0000100c: unable to read memory\n",
            ),
            ("p 1+2*3", "0x7\n"),
            ("print/d $pc+1", "4097\n"),
            ("i/b 0x64", "portb[0x0064] = 0x64\n"),
            ("i/h 0x170", "portw[0x0170] = 0x0070\n"),
            ("i 0x10064", "portl[0x0064] = 0x00000064\n"),
            ("gva2gpa 0x1234", "gpa: 0x234\n"),
            ("gva2gpa 0x1000", "gpa: 0\n"),
            ("gva2gpa 0x2000", "Unmapped\n"),
            ("sum 0x1000 4", "00164\n"),
            ("sum 0 0", "00000\n"),
            ("sum 0x1008 8", "Error: there is no memory at 0x100c\n"),
            ("x", "unexpected end of expression\nTry \"help x\" for more information\n"),
            ("x/4z 0", "invalid char in format: 'z'\nTry \"help x\" for more information\n"),
            ("p $nosuch", "unknown register\nTry \"help print\" for more information\n"),
            (
                "p 1)",
                "print|p: extraneous characters at the end of line\nTry \"help print\" for more information\n",
            ),
            (
                "memsave $pc 16 /x",
                "invalid char 'x' in expression\nTry \"help memsave\" for more information\n",
            ),
            ("pmemsave 0 16", "pmemsave: string expected\nTry \"help pmemsave\" for more information\n"),
        ] {
            assert_eq!(ask(line), answer, "{line}");
        }
    }

    #[test]
    fn memory_is_saved() {
        let guard = tempfile::tempdir().unwrap();
        let path = guard.path().join("m").display().to_string();
        assert_eq!(ask(&format!("pmemsave 0x1001 3 \"{path}\"")), "");
        assert_eq!(std::fs::read(&path).unwrap(), [0x5b, 0xe0, 0]);
        let text = ask(&format!("memsave 0x1008 16 \"{path}\""));
        assert_eq!(text, "Error: Invalid addr 0x0000000000001008/size 16 specified\n");
        assert_eq!(
            ask("memsave 0 1 \"/nonexist/x\""),
            "Error: Could not open '/nonexist/x': No such file or directory\n"
        );
    }
}
