//! Far jumps, calls and returns (SDM 2, JMP, CALL, RET; vol. 3A 5.8). Call gates are in `call_gate`.

use super::deliver::Target;
use super::descriptor::{Descriptor, code_of, is_null, kind};
use super::stack::Stack;
use crate::core::Core;
use crate::fault::{Fault, vector};
use crate::isa::{Op, Row, jump};
use crate::mem::access::Word;
use crate::state::seg;
use iced_x86::Code;

/// The instructions of this file.
pub const ROWS: &[Row] = &[
    jump(Code::Jmp_ptr1616, direct::<{ Transfer::JUMP }, 2>),
    jump(Code::Jmp_ptr1632, direct::<{ Transfer::JUMP }, 4>),
    jump(Code::Call_ptr1616, direct::<{ Transfer::CALL }, 2>),
    jump(Code::Call_ptr1632, direct::<{ Transfer::CALL }, 4>),
    jump(Code::Jmp_m1616, indirect::<{ Transfer::JUMP }, u16>),
    jump(Code::Jmp_m1632, indirect::<{ Transfer::JUMP }, u32>),
    jump(Code::Jmp_m1664, indirect::<{ Transfer::JUMP }, u64>),
    jump(Code::Call_m1616, indirect::<{ Transfer::CALL }, u16>),
    jump(Code::Call_m1632, indirect::<{ Transfer::CALL }, u32>),
    jump(Code::Call_m1664, indirect::<{ Transfer::CALL }, u64>),
    jump(Code::Retfw, far_return::<2>),
    jump(Code::Retfd, far_return::<4>),
    jump(Code::Retfq, far_return::<8>),
    jump(Code::Retfw_imm16, far_return::<2>),
    jump(Code::Retfd_imm16, far_return::<4>),
    jump(Code::Retfq_imm16, far_return::<8>),
];

/// A far jump or call on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    pub call: bool,
    pub selector: u16,
    pub offset: u64,
    /// Operand size in bytes.
    pub size: u8,
    /// RIP after the instruction.
    pub next_rip: u64,
}

impl Transfer {
    const JUMP: bool = false;
    const CALL: bool = true;
}

/// Far pointer in the instruction: selector in the upper half of the immediate.
fn direct<const CALL: bool, const SIZE: u8>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let (selector, offset) = ((op.imm >> 32) as u16, op.imm & 0xffff_ffff);
    core.far_transfer(Transfer { call: CALL, selector, offset, size: SIZE, next_rip: core.next_rip(op) })
}

/// Far pointer in memory: offset, then selector.
fn indirect<const CALL: bool, T: Word>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let at = core.operand_address(op)?;
    let offset = core.read::<T>(at).map_err(|fault| core.refine_fault(op, fault))?.to_u64();
    let selector = core.read::<u16>(at.wrapping_add(T::SIZE))?;
    core.far_transfer(Transfer {
        call: CALL,
        selector,
        offset,
        size: T::SIZE as u8,
        next_rip: core.next_rip(op),
    })
}

impl Core {
    fn far_transfer(&mut self, transfer: Transfer) -> Result<(), Fault> {
        if self.real_segments() {
            return self.far_real(&transfer);
        }
        let selector = transfer.selector;
        if is_null(selector) {
            return Err(Fault::gp(0));
        }
        let found = self.descriptor(selector, vector::GP)?;
        if !found.is_system() {
            return self.far_code(&transfer, found);
        }
        let legacy = !self.mode.long;
        match found.kind() {
            kind::CALL_GATE => self.far_gate(&transfer, found),
            kind::CALL_GATE16 if legacy => self.far_gate(&transfer, found),
            kind::TSS | kind::TSS16 | kind::TASK_GATE if legacy => self.task_switch(selector),
            _ => Err(Fault::gp(code_of(selector))),
        }
    }

    /// Straight to a code segment, at the same privilege level.
    fn far_code(&mut self, transfer: &Transfer, found: Descriptor) -> Result<(), Fault> {
        let cpl = self.mode.cpl;
        let rpl = (transfer.selector & 3) as u8;
        let ring_fits =
            if found.is_conforming() { found.dpl() <= cpl } else { found.dpl() == cpl && rpl <= cpl };
        if !found.is_code() || !ring_fits || self.contradicts(found) {
            return Err(Fault::gp(code_of(transfer.selector)));
        }
        if !found.present() {
            return Err(Fault::with_code(vector::NP, code_of(transfer.selector)));
        }
        let target = Target { selector: transfer.selector, descriptor: found, cpl };
        self.enter_same_ring(transfer, &target, transfer.offset, transfer.size)
    }

    /// Goes to a code segment without changing the CPL; a call pushes CS and RIP in slots of `size` bytes.
    pub(super) fn enter_same_ring(
        &mut self,
        transfer: &Transfer,
        target: &Target,
        offset: u64,
        size: u8,
    ) -> Result<(), Fault> {
        let code = self.accessed_code(target)?;
        self.check_rip(&code, offset)?;
        if transfer.call {
            let mut stack = Stack::current(self);
            stack.push(self, size, u64::from(self.cpu.segments[seg::CS].selector))?;
            stack.push(self, size, transfer.next_rip)?;
            stack.commit(self);
        }
        self.cpu.segments[seg::CS] = code;
        self.cpu.rip = offset;
        self.mode_changed();
        Ok(())
    }

    fn far_real(&mut self, transfer: &Transfer) -> Result<(), Fault> {
        let code = self.real_code(transfer.selector);
        self.check_rip(&code, transfer.offset)?;
        if transfer.call {
            let mut stack = Stack::current(self);
            stack.push(self, transfer.size, u64::from(self.cpu.segments[seg::CS].selector))?;
            stack.push(self, transfer.size, transfer.next_rip)?;
            stack.commit(self);
        }
        self.cpu.segments[seg::CS] = code;
        self.cpu.rip = transfer.offset;
        self.mode_changed();
        Ok(())
    }
}

/// RETF, with the number of parameter bytes to drop as immediate.
fn far_return<const SIZE: u8>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let parameter_bytes = op.imm & 0xffff;
    let mut stack = Stack::current(core);
    let rip = stack.pop(core, SIZE)?;
    let selector = stack.pop(core, SIZE)? as u16;
    if core.real_segments() {
        let code = core.real_code(selector);
        core.check_rip(&code, rip)?;
        stack.skip(parameter_bytes);
        stack.commit(core);
        core.cpu.segments[seg::CS] = code;
        core.cpu.rip = rip;
        core.mode_changed();
        return Ok(());
    }
    let code = core.return_target(selector)?;
    core.check_rip(&code, rip)?;
    stack.skip(parameter_bytes);
    if (selector & 3) as u8 > core.mode.cpl {
        let pointer = stack.pop(core, SIZE)?;
        let stack_selector = stack.pop(core, SIZE)? as u16;
        let segment = core.return_stack(stack_selector, &code)?;
        core.commit_outer(code, segment, pointer);
        let mut outer = Stack::new(core, &code, segment);
        outer.skip(parameter_bytes);
        outer.commit(core);
    } else {
        stack.commit(core);
        core.cpu.segments[seg::CS] = code;
    }
    core.cpu.rip = rip;
    core.mode_changed();
    Ok(())
}
