//! IN and OUT, and the check of the right to use a port (SDM 1 19.5).

use super::registers::Reg;
use super::{Op, Row, last};
use crate::core::Core;
use crate::fault::Fault;
use crate::state::regs::gpr::RDX;
use crate::state::rflags;
use iced_x86::Code::*;

impl Core {
    /// #GP unless CPL ≤ IOPL or the TSS's I/O permission bitmap allows all bytes of the port.
    pub fn check_port(&mut self, port: u16, size: u64) -> Result<(), Fault> {
        let iopl = (self.cpu.eflags & rflags::IOPL) >> 12;
        let free = u32::from(self.mode.cpl) <= iopl && self.cpu.eflags & rflags::VM == 0;
        if !self.mode.protected || free {
            return Ok(());
        }
        let limit = u64::from(self.cpu.tr.limit);
        // The bitmap's offset is at 66h of a 32- or 64-bit TSS; other types have none.
        if self.cpu.tr.kind() & 13 != 9 || limit < 0x67 {
            return Err(Fault::gp(0));
        }
        let base = self.cpu.tr.base;
        let bitmap = u64::from(self.read_system::<u16>(base.wrapping_add(0x66))?);
        let at = bitmap + u64::from(port >> 3);
        // Two bytes are always read, so both must lie inside the limit.
        if at + 1 > limit {
            return Err(Fault::gp(0));
        }
        let bits = self.read_system::<u16>(base.wrapping_add(at))?;
        let wanted = ((1u16 << size) - 1) << (port & 7);
        if bits & wanted != 0 { Err(Fault::gp(0)) } else { Ok(()) }
    }

    /// Reads a port at the current instruction.
    pub fn port_in(&mut self, port: u16, size: u8) -> u32 {
        self.use_device();
        let now = self.vtime_now();
        self.io_breakpoint(port, size);
        self.chipset.port_read(port, size, now)
    }

    /// Writes a port at the current instruction.
    pub fn port_out(&mut self, port: u16, size: u8, value: u32) {
        self.use_device();
        let now = self.vtime_now();
        self.io_breakpoint(port, size);
        self.chipset.port_write(port, size, value, now);
    }
}

fn input<T: Reg>(core: &mut Core, port: u16) -> Result<(), Fault> {
    core.check_port(port, T::SIZE)?;
    let value = core.port_in(port, T::SIZE as u8);
    T::set(&mut core.cpu.data, 0, T::from_u64(u64::from(value)));
    Ok(())
}

fn output<T: Reg>(core: &mut Core, port: u16) -> Result<(), Fault> {
    core.check_port(port, T::SIZE)?;
    let value = T::get(&core.cpu.data, 0).to_u64() as u32;
    core.port_out(port, T::SIZE as u8, value);
    Ok(())
}

fn in_imm<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    input::<T>(core, op.imm as u8 as u16)
}

fn in_dx<T: Reg>(core: &mut Core, _: &Op) -> Result<(), Fault> {
    input::<T>(core, core.cpu.data.gpr[RDX] as u16)
}

fn out_imm<T: Reg>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    output::<T>(core, op.imm as u8 as u16)
}

fn out_dx<T: Reg>(core: &mut Core, _: &Op) -> Result<(), Fault> {
    output::<T>(core, core.cpu.data.gpr[RDX] as u16)
}

/// The family's rows.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    last(In_AL_imm8, in_imm::<u8>), last(In_AX_imm8, in_imm::<u16>), last(In_EAX_imm8, in_imm::<u32>),
    last(In_AL_DX, in_dx::<u8>), last(In_AX_DX, in_dx::<u16>), last(In_EAX_DX, in_dx::<u32>),
    last(Out_imm8_AL, out_imm::<u8>), last(Out_imm8_AX, out_imm::<u16>), last(Out_imm8_EAX, out_imm::<u32>),
    last(Out_DX_AL, out_dx::<u8>), last(Out_DX_AX, out_dx::<u16>), last(Out_DX_EAX, out_dx::<u32>),
];
