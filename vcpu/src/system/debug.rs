//! Debug registers, breakpoint matching, single-stepping and the rules of RFLAGS.RF (SDM 3B chapter 17).
//!
//! The run loop asks `stepping()` before it takes the fast path through a block. When it says yes, it executes one
//! instruction between `begin_step` and `end_step`, and delivers what `take_debug_trap` gives.

use crate::core::Core;
use crate::fault::{Fault, vector};
use crate::isa::{Op, Row, last, row};
use crate::state::{Shadow, cr4, rflags};
use iced_x86::Code;

/// DR6: MOV DR found DR7.GD set.
pub const DR6_BD: u64 = 1 << 13;
/// DR6: single step.
pub const DR6_BS: u64 = 1 << 14;
const DR6_BREAKPOINTS: u64 = 0xf;
/// Bits of DR6 that read as one; those that may be written beside them.
const DR6_FIXED: u64 = 0xffff_0ff0;
const DR6_WRITABLE: u64 = 0xe00f;
/// DR7 likewise.
const DR7_FIXED: u64 = 1 << 10;
const DR7_WRITABLE: u64 = 0xffff_23ff;
const DR7_ENABLES: u64 = 0xff;
/// DR7: any access to a debug register raises #DB.
const DR7_GD: u64 = 1 << 13;

/// DR6 and DR7 after power-on (SDM 3A table 9-1).
pub const DR6_RESET: u64 = DR6_FIXED;
/// DR7 after power-on.
pub const DR7_RESET: u64 = DR7_FIXED;

/// R/W field of DR7 (SDM 3B 17.2.4).
mod access {
    pub const EXECUTE: u64 = 0;
    pub const WRITE: u64 = 1;
    /// With CR4.DE.
    pub const IO: u64 = 2;
    pub const READ_WRITE: u64 = 3;
}

/// The instructions of this file.
pub const ROWS: &[Row] = &[
    row(Code::Mov_r32_dr, read_dr::<false>),
    row(Code::Mov_r64_dr, read_dr::<true>),
    last(Code::Mov_dr_r32, write_dr::<false>),
    last(Code::Mov_dr_r64, write_dr::<true>),
];

/// One armed breakpoint.
struct Breakpoint {
    /// Its bit in DR6.
    bit: u64,
    address: u64,
    len: u64,
    access: u64,
}

fn armed(dr: &[u64; 8]) -> impl Iterator<Item = Breakpoint> {
    let (addresses, dr7) = ([dr[0], dr[1], dr[2], dr[3]], dr[7]);
    (0..4).filter(move |n| dr7 >> (2 * n) & 3 != 0).map(move |n| {
        let control = dr7 >> (16 + 4 * n) & 15;
        let len = [1, 2, 8, 4][(control >> 2) as usize];
        let address = addresses[n as usize] & !(len - 1);
        Breakpoint { bit: 1 << n, address, len, access: control & 3 }
    })
}

impl Breakpoint {
    fn overlaps(&self, address: u64, len: u64) -> bool {
        address.wrapping_sub(self.address) < self.len || self.address.wrapping_sub(address) < len
    }
}

/// DR6 bits of the data breakpoints that an access meets.
fn data_matches(dr: &[u64; 8], address: u64, len: u64, write: bool) -> u64 {
    let wanted = |b: &Breakpoint| b.access == access::READ_WRITE || write && b.access == access::WRITE;
    armed(dr).filter(|b| wanted(b) && b.overlaps(address, len)).fold(0, |bits, b| bits | b.bit)
}

impl Core {
    /// To be called after any change of DR7 or of a debugger's watchpoints: arms or disarms the slow path of memory accesses.
    pub fn breakpoints_changed(&mut self) {
        let on_data = |b: Breakpoint| matches!(b.access, access::WRITE | access::READ_WRITE);
        let own = self.cpu.dr[7] & DR7_ENABLES != 0 && armed(&self.cpu.dr).any(on_data);
        self.watched = own || self.probe.watches();
        self.leave_block = true;
        self.refresh_access();
    }

    /// A data access of `len` bytes happened; #DB follows the instruction if a breakpoint matches.
    pub fn data_breakpoint(&mut self, gva: u64, len: u64, write: bool) {
        self.hit(data_matches(&self.cpu.dr, gva, len, write));
        self.probe_access(gva, len, write);
    }

    /// An IN or OUT of `size` bytes happened. Cheap when no breakpoint is armed.
    pub fn io_breakpoint(&mut self, port: u16, size: u8) {
        if self.cpu.dr[7] & DR7_ENABLES == 0 || self.cpu.cr4 & cr4::DE == 0 {
            return;
        }
        let hit = armed(&self.cpu.dr)
            .filter(|b| b.access == access::IO && b.overlaps(u64::from(port), u64::from(size)))
            .fold(0, |bits, b| bits | b.bit);
        self.hit(hit);
    }

    fn hit(&mut self, bits: u64) {
        if bits != 0 {
            self.cpu.debug_pending |= bits;
            self.leave_block = true;
        }
    }

    fn instruction_breakpoints(&self) -> bool {
        self.cpu.dr[7] & DR7_ENABLES != 0 && armed(&self.cpu.dr).any(|b| b.access == access::EXECUTE)
    }

    /// The next instruction must be executed alone, between `begin_step` and `end_step`.
    pub fn stepping(&self) -> bool {
        self.cpu.eflags & (rflags::TF | rflags::RF) != 0
            || self.cpu.shadow != Shadow::None
            || self.cpu.debug_pending != 0
            || self.instruction_breakpoints()
    }

    /// Before an instruction at `cpu.rip` that runs alone: instruction breakpoints, and the ends of RF and of the
    /// interrupt shadow, which last for one instruction.
    pub fn begin_step(&mut self) -> Result<(), Fault> {
        if self.cpu.eflags & rflags::RF == 0 && self.cpu.shadow != Shadow::MovSs {
            self.check_instruction_breakpoint()?;
        }
        self.cpu.eflags &= !rflags::RF;
        self.trap_flag = self.cpu.eflags & rflags::TF != 0;
        self.cpu.shadow = Shadow::None;
        Ok(())
    }

    fn check_instruction_breakpoint(&mut self) -> Result<(), Fault> {
        if self.cpu.dr[7] & DR7_ENABLES == 0 {
            return Ok(());
        }
        let base = if self.mode.bits == 64 { 0 } else { self.cpu.segments[crate::state::seg::CS].base };
        let gva = base.wrapping_add(self.cpu.rip) & self.code_mask();
        let hit = armed(&self.cpu.dr)
            .filter(|b| b.access == access::EXECUTE && b.address == gva)
            .fold(0, |bits, b| bits | b.bit);
        if hit == 0 { Ok(()) } else { Err(self.debug_fault(hit)) }
    }

    /// After an instruction that ran alone and raised no fault: notes the single-step trap. MOV SS has none
    /// (SDM 3A 6.8.3).
    pub fn end_step(&mut self) {
        if std::mem::take(&mut self.trap_flag) && self.cpu.shadow != Shadow::MovSs {
            self.cpu.debug_pending |= DR6_BS;
        }
    }

    /// The #DB trap due at this instruction boundary, its causes put in DR6; to be delivered as `Kind::Trap`.
    pub fn take_debug_trap(&mut self) -> bool {
        if self.cpu.debug_pending == 0 || self.cpu.shadow == Shadow::MovSs {
            return false;
        }
        let causes = std::mem::take(&mut self.cpu.debug_pending);
        self.note_debug(causes);
        true
    }

    /// A #DB fault with these causes.
    fn debug_fault(&mut self, causes: u64) -> Fault {
        self.note_debug(causes);
        Fault::new(vector::DB)
    }

    fn note_debug(&mut self, causes: u64) {
        // The CPU never clears other causes, but B0…B3 belong to the event that set them.
        self.cpu.dr[6] = self.cpu.dr[6] & !DR6_BREAKPOINTS | causes;
        self.cpu.dr[7] &= !DR7_GD;
    }

    /// Number of the register that MOV DR reaches: DR4 and DR5 are aliases unless CR4.DE is set.
    fn debug_register(&mut self, op: &Op) -> Result<usize, Fault> {
        let number = usize::from(op.reg);
        if number >= 8 || matches!(number, 4 | 5) && self.cpu.cr4 & cr4::DE != 0 {
            return Err(Fault::ud());
        }
        self.require_cpl0()?;
        if self.cpu.dr[7] & DR7_GD != 0 {
            return Err(self.debug_fault(DR6_BD));
        }
        Ok(if matches!(number, 4 | 5) { number + 2 } else { number })
    }
}

fn read_dr<const WIDE: bool>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let number = core.debug_register(op)?;
    let value = core.cpu.dr[number];
    core.cpu.data.gpr[usize::from(op.rm)] = if WIDE { value } else { u64::from(value as u32) };
    Ok(())
}

fn write_dr<const WIDE: bool>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let number = core.debug_register(op)?;
    let raw = core.cpu.data.gpr[usize::from(op.rm)];
    let value = if WIDE { raw } else { u64::from(raw as u32) };
    if number >= 6 && value >> 32 != 0 {
        return Err(Fault::gp(0));
    }
    core.cpu.dr[number] = match number {
        6 => value & DR6_WRITABLE | DR6_FIXED,
        7 => value & DR7_WRITABLE | DR7_FIXED,
        _ => value,
    };
    core.breakpoints_changed();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// DR0 at 0x1002, four bytes (so 0x1000…0x1003), on writes; DR1 at 0x2000, one byte, on execution.
    const DR: [u64; 8] = [0x1002, 0x2000, 0, 0, 0, 0, 0, 0x000d_0000 | 1 | 1 << 3];

    #[test]
    fn data_breakpoints_cover_aligned_ranges() {
        assert_eq!(data_matches(&DR, 0xfff, 1, true), 0);
        assert_eq!(data_matches(&DR, 0xfff, 2, true), 1);
        assert_eq!(data_matches(&DR, 0x1003, 8, true), 1);
        assert_eq!(data_matches(&DR, 0x1004, 4, true), 0);
        assert_eq!(data_matches(&DR, 0x1000, 4, false), 0);
        assert_eq!(data_matches(&DR, 0x2000, 1, true), 0);
    }

    #[test]
    fn lengths_decode() {
        let mut dr = [0; 8];
        dr[7] = 0x3 << 16 | 0x7 << 20 | 0xb << 24 | 0xf << 28 | 0xaa;
        let lens: Vec<u64> = armed(&dr).map(|b| b.len).collect();
        assert_eq!(lens, [1, 2, 8, 4]);
    }
}
