//! Call gates: 16- and 32-bit ones of protected mode, 64-bit ones of long mode (SDM 3A 5.8.3–5.8.6).

use super::deliver::Target;
use super::descriptor::{Descriptor, code_of, is_null, kind};
use super::far::Transfer;
use super::segment::null_stack;
use super::stack::Stack;
use crate::core::Core;
use crate::fault::{Fault, vector};
use crate::mem::walk::is_canonical;
use crate::state::regs::gpr;
use crate::state::seg;

/// A call gate, read and checked.
struct Gate {
    offset: u64,
    /// Slot size of its frame in bytes.
    size: u8,
    parameters: u8,
}

impl Core {
    /// JMP or CALL to a call gate.
    pub(super) fn far_gate(&mut self, transfer: &Transfer, found: Descriptor) -> Result<(), Fault> {
        let cpl = self.mode.cpl;
        if found.dpl() < cpl.max((transfer.selector & 3) as u8) {
            return Err(Fault::gp(code_of(transfer.selector)));
        }
        if !found.present() {
            return Err(Fault::with_code(vector::NP, code_of(transfer.selector)));
        }
        let gate = self.read_gate(transfer.selector, found)?;
        let target = self.call_target(transfer, found.gate_selector())?;
        if target.cpl == cpl {
            self.enter_same_ring(transfer, &target, gate.offset, gate.size)
        } else if self.mode.long {
            self.enter_inner_long(transfer, &target, &gate)
        } else {
            self.enter_inner(transfer, &target, &gate)
        }
    }

    fn read_gate(&mut self, selector: u16, found: Descriptor) -> Result<Gate, Fault> {
        if self.mode.long {
            let high = self.descriptor_high(selector, vector::GP)?;
            if high >> 40 & 0x1f != 0 {
                return Err(Fault::gp(code_of(selector)));
            }
            let offset = u64::from(found.gate_offset()) | high << 32;
            return Ok(Gate { offset, size: 8, parameters: 0 });
        }
        let parameters = found.gate_parameters();
        Ok(if found.kind() == kind::CALL_GATE16 {
            Gate { offset: u64::from(found.gate_offset() & 0xffff), size: 2, parameters }
        } else {
            Gate { offset: u64::from(found.gate_offset()), size: 4, parameters }
        })
    }

    /// The code segment that the gate names: only a call to a non-conforming one may change the ring.
    fn call_target(&mut self, transfer: &Transfer, selector: u16) -> Result<Target, Fault> {
        let cpl = self.mode.cpl;
        if is_null(selector) {
            return Err(Fault::gp(0));
        }
        let found = self.descriptor(selector, vector::GP)?;
        let stays = found.is_conforming() || !transfer.call;
        let ring_fits =
            if transfer.call || found.is_conforming() { found.dpl() <= cpl } else { found.dpl() == cpl };
        let long_fits = !self.mode.long || found.is_long() && !found.is_big();
        if !found.is_code() || !ring_fits || !long_fits {
            return Err(Fault::gp(code_of(selector)));
        }
        if !found.present() {
            return Err(Fault::with_code(vector::NP, code_of(selector)));
        }
        Ok(Target { selector, descriptor: found, cpl: if stays { cpl } else { found.dpl() } })
    }

    /// To an inner ring in long mode: SS is null, the frame has four slots.
    fn enter_inner_long(&mut self, transfer: &Transfer, target: &Target, gate: &Gate) -> Result<(), Fault> {
        let top = self.tss_long(4 + 8 * u64::from(target.cpl))?;
        if !is_canonical(top) {
            return Err(Fault::ss(0));
        }
        let code = self.accessed_code(target)?;
        self.check_rip(&code, gate.offset)?;
        let segment = null_stack(u16::from(target.cpl), target.cpl);
        let mut stack = Stack::long(segment, top);
        let frame = self.caller(transfer);
        self.with_cpl(target.cpl, |core| frame.iter().try_for_each(|&value| stack.push(core, 8, value)))?;
        self.cpu.data.gpr[gpr::RSP] = stack.pointer;
        self.cpu.segments[seg::SS] = segment;
        self.cpu.segments[seg::CS] = code;
        self.cpu.rip = gate.offset;
        self.mode_changed();
        Ok(())
    }

    /// To an inner ring in protected mode: parameters are copied between the two halves of the frame.
    fn enter_inner(&mut self, transfer: &Transfer, target: &Target, gate: &Gate) -> Result<(), Fault> {
        let mut stack = self.inner_stack(target.cpl)?;
        let code = self.accessed_code(target)?;
        self.check_rip(&code, gate.offset)?;
        let mut old_stack = Stack::current(self);
        let mut parameters = Vec::with_capacity(usize::from(gate.parameters));
        for _ in 0..gate.parameters {
            parameters.push(old_stack.pop(self, gate.size)?);
        }
        let [old_ss, old_esp, old_cs, old_eip] = self.caller(transfer);
        self.with_cpl(target.cpl, |core| {
            stack.push(core, gate.size, old_ss)?;
            stack.push(core, gate.size, old_esp)?;
            for value in parameters.iter().rev() {
                stack.push(core, gate.size, *value)?;
            }
            stack.push(core, gate.size, old_cs)?;
            stack.push(core, gate.size, old_eip)
        })?;
        self.cpu.segments[seg::SS] = stack.segment;
        stack.commit(self);
        self.cpu.segments[seg::CS] = code;
        self.cpu.rip = gate.offset;
        self.mode_changed();
        Ok(())
    }

    /// SS, RSP, CS and RIP of the caller.
    fn caller(&self, transfer: &Transfer) -> [u64; 4] {
        let segments = &self.cpu.segments;
        [
            u64::from(segments[seg::SS].selector),
            self.cpu.data.gpr[gpr::RSP],
            u64::from(segments[seg::CS].selector),
            transfer.next_rip,
        ]
    }
}
