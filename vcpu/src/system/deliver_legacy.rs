//! Delivery outside long mode: the 32-bit IDT with 16- and 32-bit gates, and the interrupt vector table of real
//! mode; and the stack switch through 16- and 32-bit task-state segments that call gates use too.

use super::deliver::Event;
use super::descriptor::{Descriptor, code_of, is_null, kind};
use super::segment::within_limit;
use super::stack::Stack;
use crate::core::Core;
use crate::fault::{Fault, vector};
use crate::state::regs::gpr;
use crate::state::{Segment, rflags, seg};

impl Core {
    /// Protected-mode IDT (SDM 3A 6.12).
    pub(super) fn deliver_protected(&mut self, event: &Event) -> Result<(), Fault> {
        let gate = self.protected_gate(event)?;
        let (size, offset) = match gate.kind() {
            kind::TASK_GATE => return self.task_switch(gate.gate_selector()),
            kind::INTERRUPT_GATE16 | kind::TRAP_GATE16 => (2, gate.gate_offset() & 0xffff),
            _ => (4, gate.gate_offset()),
        };
        let target = self.gate_target(gate.gate_selector())?;
        let inner = target.cpl < self.mode.cpl;
        let mut stack = if inner { self.inner_stack(target.cpl)? } else { Stack::current(self) };
        let code = self.accessed_code(&target)?;
        if !within_limit(&code, u64::from(offset), 1) {
            return Err(Fault::gp(0));
        }
        let old_ss = u64::from(self.cpu.segments[seg::SS].selector);
        let old_cs = u64::from(self.cpu.segments[seg::CS].selector);
        let old_esp = self.cpu.data.gpr[gpr::RSP];
        self.with_cpl(target.cpl, |core| {
            if inner {
                stack.push(core, size, old_ss)?;
                stack.push(core, size, old_esp)?;
            }
            stack.push(core, size, u64::from(event.rflags))?;
            stack.push(core, size, old_cs)?;
            stack.push(core, size, event.rip)?;
            match event.code {
                Some(error) => stack.push(core, size, u64::from(error)),
                None => Ok(()),
            }
        })?;
        self.cpu.segments[seg::SS] = stack.segment;
        stack.commit(self);
        let interrupt_gate = matches!(gate.kind(), kind::INTERRUPT_GATE | kind::INTERRUPT_GATE16);
        self.enter_handler(code, u64::from(offset), interrupt_gate);
        Ok(())
    }

    fn protected_gate(&mut self, event: &Event) -> Result<Descriptor, Fault> {
        let at = u64::from(event.vector) * 8;
        if at + 7 > u64::from(self.cpu.idtr.limit) {
            return Err(Fault::gp(event.gate_code()));
        }
        let gate = Descriptor(self.read_system(self.cpu.idtr.base.wrapping_add(at))?);
        let known = matches!(
            gate.kind(),
            kind::TASK_GATE
                | kind::INTERRUPT_GATE16
                | kind::TRAP_GATE16
                | kind::INTERRUPT_GATE
                | kind::TRAP_GATE
        );
        if !known {
            return Err(Fault::gp(event.gate_code()));
        }
        self.check_gate(event, gate)?;
        Ok(gate)
    }

    /// The stack that the TSS names for an inner ring, checked (SDM 2, INT n: stack switch).
    pub(super) fn inner_stack(&mut self, cpl: u8) -> Result<Stack, Fault> {
        let (selector, pointer) = self.tss_stack(cpl)?;
        let bad = Fault::with_code(vector::TS, code_of(selector));
        if is_null(selector) {
            return Err(bad);
        }
        let found = self.descriptor(selector, vector::TS)?;
        if (selector & 3) as u8 != cpl || found.dpl() != cpl || !found.is_writable() {
            return Err(bad);
        }
        if !found.present() {
            return Err(Fault::ss(code_of(selector)));
        }
        let segment = self.mark_accessed(selector, found)?.segment(selector);
        Ok(Stack::switched(segment, u64::from(pointer), code_of(selector)))
    }

    /// SS and (E)SP for a ring from the 16- or 32-bit TSS.
    fn tss_stack(&mut self, cpl: u8) -> Result<(u16, u32), Fault> {
        let tr = self.cpu.tr;
        let wide = tr.kind() & 8 != 0;
        let entry = if wide { 4 + 8 * u64::from(cpl) } else { 2 + 4 * u64::from(cpl) };
        let last = if wide { entry + 5 } else { entry + 3 };
        if last > u64::from(tr.limit) {
            return Err(Fault::with_code(vector::TS, code_of(tr.selector)));
        }
        let at = tr.base.wrapping_add(entry);
        if wide {
            let pointer = self.read_system::<u32>(at)?;
            Ok((self.read_system(at.wrapping_add(4))?, pointer))
        } else {
            let pointer = self.read_system::<u16>(at)?;
            Ok((self.read_system(at.wrapping_add(2))?, u32::from(pointer)))
        }
    }

    /// Interrupt vector table of real mode (SDM 3A 21.1.4). There are no error codes.
    pub(super) fn deliver_real(&mut self, event: &Event) -> Result<(), Fault> {
        let at = u64::from(event.vector) * 4;
        if at + 3 > u64::from(self.cpu.idtr.limit) {
            return Err(Fault::gp(0));
        }
        let entry: u32 = self.read_system(self.cpu.idtr.base.wrapping_add(at))?;
        let mut stack = Stack::current(self);
        stack.push(self, 2, u64::from(event.rflags))?;
        stack.push(self, 2, u64::from(self.cpu.segments[seg::CS].selector))?;
        stack.push(self, 2, event.rip)?;
        stack.commit(self);
        let code = self.real_code((entry >> 16) as u16);
        self.cpu.segments[seg::CS] = code;
        self.cpu.rip = u64::from(entry & 0xffff);
        self.cpu.eflags &= !(rflags::IF | rflags::TF | rflags::RF | rflags::AC);
        Ok(())
    }

    /// CS as a far transfer in real mode leaves it.
    pub(super) fn real_code(&self, selector: u16) -> Segment {
        self.real_segment(seg::CS, selector)
    }
}
