//! Reading and writing the registers that gdb sees.

use super::description::{Architecture, Kind, Register};
use crate::core::Core;
use crate::state::{cr0, seg};

/// All registers, as the `g` packet has them.
pub fn read_all(core: &Core, architecture: Architecture) -> Vec<u8> {
    architecture.rows().flat_map(|row| read_row(core, architecture, row)).collect()
}

/// One register, little endian; `None`: there is no such register.
pub fn read(core: &Core, architecture: Architecture, number: usize) -> Option<Vec<u8>> {
    architecture.row(number).map(|row| read_row(core, architecture, row))
}

/// What is added to RIP where gdb knows of no segments: it takes what it is told for the address of the code.
fn code_base(core: &Core, architecture: Architecture) -> u64 {
    match architecture {
        Architecture::Amd64 => 0,
        Architecture::I386 | Architecture::I8086 => core.cpu.segments[seg::CS].base,
    }
}

/// The program counter.
pub fn pc(core: &Core, architecture: Architecture) -> u64 {
    core.cpu.rip.wrapping_add(code_base(core, architecture))
}

fn read_row(core: &Core, architecture: Architecture, row: &Register) -> Vec<u8> {
    let (cpu, data) = (&core.cpu, &core.cpu.data);
    let halves = |pair: &[u64]| pair.iter().flat_map(|half| half.to_le_bytes()).collect::<Vec<u8>>();
    let fx_word = |at: usize| u64::from(u16::from_le_bytes([data.fx.0[at], data.fx.0[at + 1]]));
    let value = match row.kind {
        Kind::Stack(n) => return data.fx.0[32 + 16 * n..][..10].to_vec(),
        Kind::Xmm(n) => return halves(&data.ymm[n][..2]),
        Kind::YmmHigh(n) => return halves(&data.ymm[n][2..]),
        Kind::General(n) => data.gpr[n],
        Kind::Rip => pc(core, architecture),
        Kind::Rflags => core.rflags().into(),
        Kind::Selector(n) => cpu.segments[n].selector.into(),
        Kind::FxWord(at) => fx_word(at),
        Kind::FxTags => full_tags(&data.fx.0).into(),
        Kind::Mxcsr => data.mxcsr.into(),
        Kind::FsBase => cpu.segments[seg::FS].base,
        Kind::GsBase => cpu.segments[seg::GS].base,
        Kind::KernelGsBase => cpu.msr.kernel_gs_base,
        Kind::Cr0 => cpu.cr0,
        Kind::Cr2 => cpu.cr2,
        Kind::Cr3 => cpu.cr3,
        Kind::Cr4 => cpu.cr4,
        Kind::Cr8 => core.chipset.cr8().into(),
        Kind::Efer => cpu.efer,
        Kind::Icount => cpu.icount,
    };
    value.to_le_bytes()[..row.bits / 8].to_vec()
}

/// The tag word as FSTENV stores it, from FXSAVE's abridged one (SDM 1 table 10-2).
fn full_tags(fx: &[u8; 512]) -> u16 {
    let top = usize::from(fx[3] >> 3 & 7);
    let tag = |register: usize| -> u16 {
        if fx[4] >> register & 1 == 0 {
            return 3;
        }
        let place = &fx[32 + 16 * ((register + 8 - top) & 7)..][..10];
        let exponent = u16::from_le_bytes([place[8], place[9]]) & 0x7fff;
        let fraction = u64::from_le_bytes(place[..8].try_into().expect("eight bytes"));
        match (exponent, fraction >> 63) {
            (0, _) if fraction == 0 => 1,
            (0 | 0x7fff, _) | (_, 0) => 2,
            _ => 0,
        }
    };
    (0..8).fold(0, |tags, register| tags | tag(register) << (2 * register))
}

/// Bits of RFLAGS that a debugger may change: not VM, and not those that are fixed.
const RFLAGS_WRITABLE: u64 = 0x3d_7fd5;
/// Bits of MXCSR that may be set (SDM 1 figure 10-3).
const MXCSR_WRITABLE: u64 = 0xffff;

/// Writes all registers that can be written, from a `G` packet; false when its length is wrong.
pub fn write_all(core: &mut Core, architecture: Architecture, mut bytes: &[u8]) -> bool {
    let length: usize = architecture.rows().map(|row| row.bits / 8).sum();
    if bytes.len() != length {
        return false;
    }
    for (number, row) in architecture.rows().enumerate() {
        let (now, later) = bytes.split_at(row.bits / 8);
        // One that cannot be written keeps its value.
        write(core, architecture, number, now);
        bytes = later;
    }
    true
}

/// Writes one register; false when there is none that could be written, or its length is another.
pub fn write(core: &mut Core, architecture: Architecture, number: usize, bytes: &[u8]) -> bool {
    let Some(row) = architecture.row(number) else { return false };
    if bytes.len() != row.bits / 8 {
        return false;
    }
    let mut wide = [0; 16];
    wide[..bytes.len()].copy_from_slice(bytes);
    let both = u128::from_le_bytes(wide);
    let (value, high) = (both as u64, (both >> 64) as u64);
    let code_base = code_base(core, architecture);
    let data = &mut core.cpu.data;
    match row.kind {
        // The upper half is not there for who sees 32 bits.
        Kind::General(n) if row.bits == 32 => data.gpr[n] = data.gpr[n] & !0xffff_ffff | value,
        Kind::General(n) => data.gpr[n] = value,
        Kind::Rip => {
            let offset = value.wrapping_sub(code_base);
            core.cpu.rip = if core.mode.bits == 64 { offset } else { offset & 0xffff_ffff };
        }
        Kind::Rflags => {
            let kept = u64::from(core.rflags()) & !RFLAGS_WRITABLE;
            core.set_rflags((value & RFLAGS_WRITABLE | kept) as u32);
            core.mode_changed();
        }
        Kind::Stack(n) => data.fx.0[32 + 16 * n..][..10].copy_from_slice(bytes),
        Kind::FxWord(at) => data.fx.0[at..at + 2].copy_from_slice(&bytes[..2]),
        Kind::Xmm(n) => data.ymm[n][..2].copy_from_slice(&[value, high]),
        Kind::YmmHigh(n) => data.ymm[n][2..].copy_from_slice(&[value, high]),
        Kind::Mxcsr => data.mxcsr = (value & MXCSR_WRITABLE) as u32,
        Kind::FsBase => return write_base(core, seg::FS, value),
        Kind::GsBase => return write_base(core, seg::GS, value),
        Kind::KernelGsBase if crate::mem::walk::is_canonical(value) => core.cpu.msr.kernel_gs_base = value,
        Kind::Cr2 => core.cpu.cr2 = value,
        Kind::KernelGsBase
        | Kind::Selector(_)
        | Kind::FxTags
        | Kind::Cr0
        | Kind::Cr3
        | Kind::Cr4
        | Kind::Cr8
        | Kind::Efer
        | Kind::Icount => return false,
    }
    true
}

fn write_base(core: &mut Core, segment: usize, value: u64) -> bool {
    let fits = if core.cpu.cr0 & cr0::PE != 0 && core.mode.long {
        crate::mem::walk::is_canonical(value)
    } else {
        value >> 32 == 0
    };
    if fits {
        core.cpu.segments[segment].base = value;
        core.mode_changed();
    }
    fits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_say_what_the_registers_hold() {
        let mut fx = [0; 512];
        assert_eq!(full_tags(&fx), 0xffff, "all empty");
        fx[3] = 6 << 3;
        fx[4] = 0b1100_0000;
        // ST(0), register 6: 1.0; ST(1), register 7: zero.
        fx[32 + 7] = 0x80;
        fx[32 + 8..32 + 10].copy_from_slice(&0x3fffu16.to_le_bytes());
        assert_eq!(full_tags(&fx), 0b01_00 << 12 | 0xfff);
    }
}
