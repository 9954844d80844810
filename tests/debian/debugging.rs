//! gdb on Debian's kernel, with the kernel's symbols, forward and back.

use super::{BOOT_PATIENCE, CLOUD, INITRD, guests};
use crate::lab::Lab;
use std::process::Command;

/// Records a boot of the cloud kernel, which stays where it was linked, that runs `command` of busybox; what it printed.
pub fn record_command(lab: &Lab, command: &str) -> Option<String> {
    let guests = guests()?;
    let path = |name| guests.join(name).to_str().unwrap().to_owned();
    let box_ = "/bin/busybox";
    let script = format!("{box_} mount -t proc none /proc; {box_} {command}; {box_} poweroff -f");
    let append = format!("console=ttyS0 quiet panic=-1 nokaslr rdinit={box_} -- sh -c \"{script}\"");
    let (kernel, initrd) = (path(CLOUD), path(INITRD));
    let mut words = vec!["record", "-o", "rec", "-kernel", &kernel, "-initrd", &initrd, "-append", &append];
    words.extend(["-m", "256", "-display", "none", "-no-reboot", "-serial", "stdio"]);
    // Timers of a fixed number, however slow the host is.
    words.extend(["-icount", "shift=2,sleep=off"]);
    Some(lab.start_words(&words).end(BOOT_PATIENCE).well().text())
}

/// Runs a script of gdb on a replay of `rec` that waits at its beginning and ends with the script; what gdb printed, and its
/// complaints.
pub fn debug(lab: &Lab, script: &str) -> (String, String) {
    debug_recording(lab, "rec", script)
}

/// The same with another recording.
pub fn debug_recording(lab: &Lab, recording: &str, script: &str) -> (String, String) {
    lab.write("script", script);
    let _ = std::fs::remove_file(lab.path("g"));
    let child = lab.start(&format!("replay {recording} -S -gdb unix:g"));
    while !lab.path("g").exists() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let mut gdb = Command::new("gdb");
    gdb.args(["-nx", "-batch", "-x", "script"]).current_dir(lab.path("."));
    let output = gdb.output().expect("the test needs gdb");
    child.end(BOOT_PATIENCE).well();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// An ELF file that holds nothing but symbols: names, addresses, and whether they are functions.
fn elf_of_symbols(symbols: &[(&str, u64, bool)]) -> Vec<u8> {
    const HEADER: usize = 64;
    let names = b"\0.text\0.symtab\0.strtab\0";
    let (mut strings, mut table) = (names.to_vec(), vec![0; 24]);
    for (name, address, is_function) in symbols {
        table.extend((strings.len() as u32).to_le_bytes());
        // Global, of its kind, in section 1.
        table.extend([0x10 | if *is_function { 2 } else { 1 }, 0, 1, 0]);
        table.extend(address.to_le_bytes());
        table.extend(if *is_function { 0u64 } else { 8 }.to_le_bytes());
        strings.extend(name.bytes().chain([0]));
    }
    let (at_table, at_strings) = (HEADER, HEADER + table.len());
    let at_sections = at_strings + strings.len();
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // Executable for x86-64, version 1; no entry, no program headers, where the section headers are.
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for word in [0, 0, at_sections as u64] {
        file.extend(word.to_le_bytes());
    }
    file.extend([0; 4]);
    for half in [HEADER as u16, 56, 0, 64, 4, 3] {
        file.extend(half.to_le_bytes());
    }
    file.extend(&table);
    file.extend(&strings);
    // Name, type, flags, address, offset, size, link, first global, alignment, size of an entry.
    let sections: [[u64; 10]; 4] = [
        [0; 10],
        [1, 8, 6, 0xffff_ffff_8000_0000, HEADER as u64, 1 << 30, 0, 0, 1, 0],
        [7, 2, 0, 0, at_table as u64, table.len() as u64, 3, 1, 8, 24],
        [15, 3, 0, 0, at_strings as u64, strings.len() as u64, 0, 0, 1, 0],
    ];
    for [name, kind, rest @ ..] in sections {
        file.extend((name as u32).to_le_bytes());
        file.extend((kind as u32).to_le_bytes());
        let [flags, address, offset, size, link, first, alignment, entry] = rest;
        for word in [flags, address, offset, size, link | first << 32, alignment, entry] {
            file.extend(word.to_le_bytes());
        }
    }
    file
}

const SCRIPT: &str = r#"set pagination off
set confirm off
file symbols.elf
target remote g
define walk
set $first = $icount
nexti
nexti
nexti
printf "three on %d\n", $icount >= $first + 3
if $arg0
monitor savevm mid
end
reverse-continue
printf "back at %#lx %d\n", $pc, $icount == $first
tbreak rest_init
continue
set $ticks = *(unsigned long *)&jiffies
watch *(unsigned long *)&jiffies
reverse-continue
printf "ticks %d\n", $ticks - *(unsigned long *)&jiffies
set $before = $icount
reverse-continue
printf "ticks %d earlier %d\n", $ticks - *(unsigned long *)&jiffies, $icount < $before
continue
printf "ticks %d\n", $ticks - *(unsigned long *)&jiffies
delete $bpnum
reverse-continue
printf "again at %#lx %d\n", $pc, $icount == $first
end
break start_kernel
continue
printf "at %#lx\n", $pc
walk 0
walk 1
monitor loadvm mid
maintenance flush register-cache
printf "loaded %d\n", $icount >= $first + 3
reverse-continue
printf "back at %#lx %d\n", $pc, $icount == $first
delete
reverse-continue
printf "begin %lu\n", $icount
printf "long mode %d\n", ($efer & 0x400) != 0
maintenance packet Qqemu.PhyMemMode:1
kill
"#;

#[test]
fn gdb_finds_its_way_through_the_kernel() {
    let lab = Lab::new();
    let command = "grep -E ' (start_kernel|rest_init|jiffies)$' /proc/kallsyms";
    let Some(text) = record_command(&lab, command) else { return };
    let address = |name: &str| {
        let line = text.lines().find(|line| line.trim().ends_with(name));
        let digits = line.and_then(|line| line.split_whitespace().next());
        u64::from_str_radix(digits.unwrap_or_else(|| panic!("no {name} in {text}")), 16).unwrap()
    };
    let start = address(" start_kernel");
    let symbols = [
        ("start_kernel", start, true),
        ("rest_init", address(" rest_init"), true),
        ("jiffies", address(" jiffies"), false),
    ];
    lab.write("symbols.elf", elf_of_symbols(&symbols));
    let (text, said) = debug(&lab, SCRIPT);
    let back = format!("back at {start:#x} 1");
    let again = format!("again at {start:#x} 1");
    let walk = ["three on 1", &back, "ticks 1", "ticks 2 earlier 1", "ticks 1", &again];
    let at = format!("at {start:#x}");
    let end = [
        "loaded 1",
        &back,
        "No more reverse-execution history.",
        "begin 0",
        "long mode 1",
        "received: \"OK\"",
    ];
    let mut lines = text.lines();
    for line in [at.as_str()].into_iter().chain(walk).chain(walk).chain(end) {
        assert!(lines.any(|found| found == line), "no {line:?} in {text}\n{said}");
    }
}
