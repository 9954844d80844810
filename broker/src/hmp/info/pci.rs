//! `info pci`: the functions on the bus, with what the guest has set up.

use crate::hmp::args::Args;
use crate::hmp::inquiry::{Asker, Task};
use replay::inspect::{Answer, PciBar, PciFunction, Query};
use replay::machine::Machine;
use std::fmt::Write as _;

/// Bytes of a header, and where its fields are (PCI 3.0 figure 6-1).
const HEADER_BYTES: usize = 64;
const VENDOR: usize = 0x00;
const DEVICE: usize = 0x02;
const CLASS: usize = 0x0a;
const SUBSYSTEM_VENDOR: usize = 0x2c;
const SUBSYSTEM: usize = 0x2e;
const INTERRUPT_LINE: usize = 0x3c;
const INTERRUPT_PIN: usize = 0x3d;

/// Classes as QEMU names them.
const CLASSES: [(u16, &str); 6] = [
    (0x0100, "SCSI controller"),
    (0x0180, "Storage controller"),
    (0x0200, "Ethernet controller"),
    (0x0600, "Host bridge"),
    (0x0601, "ISA bridge"),
    (0x0780, "Class 0780"),
];

pub(in crate::hmp) fn pci(asker: Asker, _: Args) -> Task {
    Box::pin(async move {
        match asker.ask(Query::PciFunctions).await {
            Answer::PciFunctions(functions)
                if functions.iter().all(|function| function.header.len() == HEADER_BYTES) =>
            {
                let machine = asker.machine();
                Ok(functions.iter().map(|function| function_text(function, machine)).collect())
            }
            _ => Err(asker.unfit()),
        }
    })
}

fn function_text(function: &PciFunction, machine: Option<&Machine>) -> String {
    let header = &function.header;
    let word = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let (device, number) = (function.address.device, function.address.function);
    let mut text = format!("  Bus  0, device {device:3}, function {number}:\n");
    let class = word(CLASS);
    let name = match CLASSES.iter().find(|(known, _)| *known == class) {
        Some((_, name)) => (*name).to_owned(),
        None => format!("Class {class:04x}"),
    };
    let _ = writeln!(text, "    {name}: PCI device {:04x}:{:04x}", word(VENDOR), word(DEVICE));
    if word(SUBSYSTEM_VENDOR) != 0 {
        let _ = writeln!(text, "      PCI subsystem {:04x}:{:04x}", word(SUBSYSTEM_VENDOR), word(SUBSYSTEM));
    }
    if let pin @ 1..=4 = header[INTERRUPT_PIN] {
        let _ = writeln!(text, "      IRQ {}, pin {}", header[INTERRUPT_LINE], (b'@' + pin) as char);
    }
    for bar in &function.bars {
        bar_line(&mut text, bar);
    }
    let named =
        machine.and_then(|machine| machine.functions.iter().find(|known| known.address == function.address));
    let _ = writeln!(text, "      id \"{}\"", named.map_or("", |known| &known.id));
    text
}

fn bar_line(text: &mut String, bar: &PciBar) {
    let first = bar.address.unwrap_or(u64::MAX);
    let last = first.wrapping_add(bar.size.wrapping_sub(1));
    let index = bar.index;
    let _ = if bar.io {
        writeln!(text, "      BAR{index}: I/O at 0x{first:04x} [0x{last:04x}].")
    } else {
        let (bits, kind) =
            (if bar.wide { 64 } else { 32 }, if bar.prefetchable { " prefetchable" } else { "" });
        writeln!(text, "      BAR{index}: {bits} bit{kind} memory at 0x{first:08x} [0x{last:08x}].")
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use replay::device::PciAddress;

    #[test]
    fn functions_are_shown_as_by_qemu() {
        let machine = crate::machine::tests::machine(
            "-drive file=/d,if=none,id=a,format=raw -device virtio-blk,drive=a,id=x,addr=3",
        );
        let mut header = vec![0; HEADER_BYTES];
        header[..4].copy_from_slice(&[0xf4, 0x1a, 0x42, 0x10]);
        header[CLASS..CLASS + 2].copy_from_slice(&[0, 1]);
        header[SUBSYSTEM_VENDOR..SUBSYSTEM_VENDOR + 4].copy_from_slice(&[0xf4, 0x1a, 0, 0x11]);
        (header[INTERRUPT_LINE], header[INTERRUPT_PIN]) = (11, 1);
        let bar = PciBar {
            index: 1,
            io: false,
            wide: false,
            prefetchable: false,
            address: Some(0xfebc_2000),
            size: 0x1000,
        };
        let wide = PciBar { index: 4, wide: true, address: None, ..bar };
        let function =
            PciFunction { address: PciAddress { device: 3, function: 0 }, header, bars: vec![bar, wide] };
        assert_eq!(
            function_text(&function, Some(&machine)),
            "  Bus  0, device   3, function 0:\n    SCSI controller: PCI device 1af4:1042\n      \
             PCI subsystem 1af4:1100\n      IRQ 11, pin A\n      \
             BAR1: 32 bit memory at 0xfebc2000 [0xfebc2fff].\n      \
             BAR4: 64 bit memory at 0xffffffffffffffff [0x00000ffe].\n      id \"x\"\n"
        );
    }
}
