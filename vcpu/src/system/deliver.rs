//! Delivery of exceptions and interrupts: who may interrupt whom, error codes, double and triple faults, and the
//! 64-bit IDT. The other IDT formats are in `deliver_legacy`.
//!
//! References: SDM 3A chapter 6; vol. 2, INT n for the checks and their order.

use super::descriptor::{Descriptor, code_of, is_null, kind};
use super::segment::null_stack;
use crate::core::Core;
use crate::fault::{Fault, vector};
use crate::mem::walk::is_canonical;
use crate::state::regs::gpr;
use crate::state::{Activity, Segment, Shadow, rflags, seg};

/// A fault during the delivery of a double fault: the CPU has shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Triple;

/// What arrives between instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A maskable interrupt from the APIC or the 8259.
    External,
    /// A non-maskable interrupt; blocks further ones until IRET.
    Nmi,
    /// A #DB trap: `cpu.rip` is the next instruction.
    Trap,
}

/// Error-code bit: the event came from outside the program (SDM 3A 6.13).
const EXT: u32 = 1;
/// Error-code bit: the index names an IDT gate.
const IDT: u32 = 2;

/// An event on its way through the IDT.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event {
    pub vector: u8,
    pub code: Option<u32>,
    /// INT n, INT3, INTO: the gate's DPL is checked.
    pub software: bool,
    /// RIP to return to.
    pub rip: u64,
    /// RFLAGS to return with.
    pub rflags: u32,
}

impl Event {
    /// Error code that names this event's gate.
    pub fn gate_code(&self) -> u32 {
        (u32::from(self.vector) << 3) | IDT
    }
}

/// A code segment that an event or a call through a gate goes to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub selector: u16,
    pub descriptor: Descriptor,
    /// CPL after the transfer.
    pub cpl: u8,
}

impl Core {
    /// Delivers an exception with `cpu.rip` at the instruction that raised it.
    pub fn deliver_exception(&mut self, fault: Fault) -> Result<(), Triple> {
        // Traps of the instruction that did not complete are void: it runs again.
        self.cpu.debug_pending = 0;
        self.trap_flag = false;
        let mut fault = fault;
        let mut nested = false;
        loop {
            if fault.vector() == vector::PF {
                self.cpu.cr2 = self.fault_address;
            }
            let event = Event {
                vector: fault.vector(),
                code: fault.code(),
                software: false,
                rip: self.cpu.rip,
                rflags: self.rflags() | self.resume_flag(fault, nested),
            };
            match self.deliver(&event) {
                Ok(()) => return Ok(()),
                Err(second) => fault = self.nested_fault(fault, outside_program(second))?,
            }
            nested = true;
        }
    }

    /// Delivers an interrupt, NMI or #DB trap between instructions.
    pub fn deliver_interrupt(&mut self, vector: u8, kind: Kind) -> Result<(), Triple> {
        self.trap_flag = false;
        let rflags = self.rflags();
        let event = Event { vector, code: None, software: false, rip: self.cpu.rip, rflags };
        match kind {
            Kind::Nmi => self.cpu.nmi_blocked = true,
            Kind::External | Kind::Trap => {}
        }
        match self.deliver(&event) {
            Ok(()) => Ok(()),
            Err(fault) => self.deliver_exception(outside_program(fault)),
        }
    }

    /// INT n, INT3 and INTO (`software`) or INT1 (not checked against the gate's DPL): the handler returns to `next_rip`.
    pub(super) fn software_interrupt(
        &mut self,
        vector: u8,
        next_rip: u64,
        software: bool,
    ) -> Result<(), Fault> {
        let event = Event { vector, code: None, software, rip: next_rip, rflags: self.rflags() };
        self.trap_flag = false;
        self.deliver(&event).map_err(|fault| if software { fault } else { outside_program(fault) })
    }

    /// RF in the saved RFLAGS: faults set it, so that an instruction breakpoint does not fire again when the
    /// instruction is restarted. A #DB that *is* an instruction breakpoint leaves that to its handler (SDM 3B 17.3.1.1).
    fn resume_flag(&self, fault: Fault, nested: bool) -> u32 {
        let breakpoint =
            fault.vector() == vector::DB && !nested && self.cpu.dr[6] & super::debug::DR6_BD == 0;
        if breakpoint { 0 } else { rflags::RF }
    }

    /// What a fault during the delivery of another one leads to (SDM 3A table 6-5).
    fn nested_fault(&mut self, first: Fault, second: Fault) -> Result<Fault, Triple> {
        if second.vector() == vector::PF {
            self.cpu.cr2 = self.fault_address;
        }
        match combine(first.vector(), second.vector()) {
            Combined::Serial => Ok(second),
            Combined::Double => Ok(Fault::with_code(vector::DF, 0)),
            Combined::Triple => {
                self.cpu.activity = Activity::Shutdown;
                self.leave_block = true;
                Err(Triple)
            }
        }
    }

    fn deliver(&mut self, event: &Event) -> Result<(), Fault> {
        if !self.mode.protected {
            self.deliver_real(event)?;
        } else if self.mode.long {
            self.deliver_long(event)?;
        } else {
            self.deliver_protected(event)?;
        }
        self.cpu.activity = Activity::Running;
        self.cpu.shadow = Shadow::None;
        self.mode_changed();
        Ok(())
    }

    /// 64-bit IDT (SDM 3A 6.14).
    fn deliver_long(&mut self, event: &Event) -> Result<(), Fault> {
        let (gate, offset) = self.long_gate(event)?;
        let target = self.gate_target(gate.gate_selector())?;
        if !target.descriptor.is_long() || target.descriptor.is_big() {
            return Err(Fault::gp(code_of(target.selector)));
        }
        let inner = target.cpl < self.mode.cpl;
        let old_rsp = self.cpu.data.gpr[gpr::RSP];
        let top = match gate.gate_ist() {
            0 if inner => self.tss_long(4 + 8 * u64::from(target.cpl))?,
            0 => old_rsp,
            ist => self.tss_long(0x24 + 8 * u64::from(ist - 1))?,
        };
        if !is_canonical(offset) {
            return Err(Fault::gp(0));
        }
        if !is_canonical(top) {
            return Err(Fault::ss(0));
        }
        let old_ss = self.cpu.segments[seg::SS].selector;
        let old_cs = self.cpu.segments[seg::CS].selector;
        let frame = [
            u64::from(old_ss),
            old_rsp,
            u64::from(event.rflags),
            u64::from(old_cs),
            event.rip,
            u64::from(event.code.unwrap_or(0)),
        ];
        let count = if event.code.is_some() { 6 } else { 5 };
        let mut rsp = top & !15;
        let code = self.accessed_code(&target)?;
        self.with_cpl(target.cpl, |core| {
            for value in &frame[..count] {
                rsp = rsp.wrapping_sub(8);
                core.write(rsp, *value).map_err(|fault| core.stack_fault(fault))?;
            }
            Ok(())
        })?;
        self.cpu.data.gpr[gpr::RSP] = rsp;
        if inner {
            self.cpu.segments[seg::SS] = null_stack(u16::from(target.cpl), target.cpl);
        }
        self.enter_handler(code, offset, gate.kind() == kind::INTERRUPT_GATE);
        Ok(())
    }

    /// The 16-byte gate of a vector and its offset.
    fn long_gate(&mut self, event: &Event) -> Result<(Descriptor, u64), Fault> {
        let at = u64::from(event.vector) * 16;
        if at + 15 > u64::from(self.cpu.idtr.limit) {
            return Err(Fault::gp(event.gate_code()));
        }
        let gva = self.cpu.idtr.base.wrapping_add(at);
        let gate = Descriptor(self.read_system(gva)?);
        let high: u64 = self.read_system(gva.wrapping_add(8))?;
        if !matches!(gate.kind(), kind::INTERRUPT_GATE | kind::TRAP_GATE) {
            return Err(Fault::gp(event.gate_code()));
        }
        self.check_gate(event, gate)?;
        Ok((gate, u64::from(gate.gate_offset()) | high << 32))
    }

    /// S bit, privilege and presence of an IDT gate.
    pub(super) fn check_gate(&self, event: &Event, gate: Descriptor) -> Result<(), Fault> {
        if !gate.is_system() || event.software && gate.dpl() < self.mode.cpl {
            return Err(Fault::gp(event.gate_code()));
        }
        if !gate.present() {
            return Err(Fault::with_code(vector::NP, event.gate_code()));
        }
        Ok(())
    }

    /// The code segment an IDT gate names, after the privilege checks.
    pub(super) fn gate_target(&mut self, selector: u16) -> Result<Target, Fault> {
        if is_null(selector) {
            return Err(Fault::gp(0));
        }
        let descriptor = self.descriptor(selector, vector::GP)?;
        if !descriptor.is_code() || descriptor.dpl() > self.mode.cpl {
            return Err(Fault::gp(code_of(selector)));
        }
        if !descriptor.present() {
            return Err(Fault::with_code(vector::NP, code_of(selector)));
        }
        let cpl = if descriptor.is_conforming() { self.mode.cpl } else { descriptor.dpl() };
        Ok(Target { selector, descriptor, cpl })
    }

    /// The CS value for a target, its descriptor marked accessed.
    pub(super) fn accessed_code(&mut self, target: &Target) -> Result<Segment, Fault> {
        let descriptor = self.mark_accessed(target.selector, target.descriptor)?;
        Ok(descriptor.segment(target.selector & !3 | u16::from(target.cpl)))
    }

    /// CS, RIP and RFLAGS of a handler.
    pub(super) fn enter_handler(&mut self, code: Segment, rip: u64, interrupt_gate: bool) {
        self.cpu.segments[seg::CS] = code;
        self.cpu.rip = rip;
        self.cpu.eflags &= !(rflags::TF | rflags::NT | rflags::RF | rflags::VM);
        if interrupt_gate {
            self.cpu.eflags &= !rflags::IF;
        }
    }

    /// Eight bytes of the 64-bit TSS.
    pub(super) fn tss_long(&mut self, offset: u64) -> Result<u64, Fault> {
        if offset + 7 > u64::from(self.cpu.tr.limit) {
            return Err(Fault::with_code(vector::TS, code_of(self.cpu.tr.selector)));
        }
        self.read_system(self.cpu.tr.base.wrapping_add(offset))
    }
}

/// A fault during delivery of an event that the program did not ask for has EXT in its error code.
fn outside_program(fault: Fault) -> Fault {
    match (fault.vector(), fault.code()) {
        (number @ (vector::TS | vector::NP | vector::SS | vector::GP), Some(code)) => {
            Fault::with_code(number, code | EXT)
        }
        _ => fault,
    }
}

/// What two faults, the second in the delivery of the first, come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Combined {
    Serial,
    Double,
    Triple,
}

/// SDM 3A tables 6-4 and 6-5.
fn combine(first: u8, second: u8) -> Combined {
    let contributory =
        |number| matches!(number, vector::DE | vector::TS | vector::NP | vector::SS | vector::GP);
    match first {
        vector::DF if contributory(second) || second == vector::PF => Combined::Triple,
        vector::PF if contributory(second) || second == vector::PF => Combined::Double,
        _ if contributory(first) && contributory(second) => Combined::Double,
        _ => Combined::Serial,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_faults_follow_table_6_5() {
        assert_eq!(combine(vector::UD, vector::GP), Combined::Serial);
        assert_eq!(combine(vector::DB, vector::PF), Combined::Serial);
        assert_eq!(combine(vector::GP, vector::NP), Combined::Double);
        assert_eq!(combine(vector::GP, vector::PF), Combined::Serial);
        assert_eq!(combine(vector::PF, vector::PF), Combined::Double);
        assert_eq!(combine(vector::PF, vector::GP), Combined::Double);
        assert_eq!(combine(vector::DF, vector::PF), Combined::Triple);
        assert_eq!(combine(vector::DF, vector::SS), Combined::Triple);
    }

    #[test]
    fn ext_marks_selector_codes_only() {
        assert_eq!(outside_program(Fault::gp(0x6a)).code(), Some(0x6b));
        assert_eq!(outside_program(Fault::with_code(vector::PF, 2)).code(), Some(2));
    }
}
