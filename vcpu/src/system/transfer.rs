//! What far returns and IRET share: the checks of the code and stack segments they go back to.

use super::descriptor::{Descriptor, code_of, is_null};
use super::segment::within_limit;
use super::stack::segment_mask;
use crate::core::Core;
use crate::fault::{Fault, vector};
use crate::mem::walk::is_canonical;
use crate::state::{Segment, seg};

impl Core {
    /// The code segment that a far return or IRET goes to: same or outer ring (SDM 2, RET and IRET).
    pub(super) fn return_target(&mut self, selector: u16) -> Result<Segment, Fault> {
        if is_null(selector) {
            return Err(Fault::gp(0));
        }
        let found = self.descriptor(selector, vector::GP)?;
        let rpl = (selector & 3) as u8;
        let ring_fits = if found.is_conforming() { found.dpl() <= rpl } else { found.dpl() == rpl };
        if !found.is_code() || rpl < self.mode.cpl || !ring_fits || self.contradicts(found) {
            return Err(Fault::gp(code_of(selector)));
        }
        if !found.present() {
            return Err(Fault::with_code(vector::NP, code_of(selector)));
        }
        Ok(self.mark_accessed(selector, found)?.segment(selector))
    }

    /// L and D both set is reserved in long mode.
    pub(super) fn contradicts(&self, code: Descriptor) -> bool {
        self.mode.long && code.is_long() && code.is_big()
    }

    /// 64-bit code, once it is in CS.
    pub(super) fn is_64bit(&self, code: &Segment) -> bool {
        self.mode.long && code.has(Segment::L)
    }

    /// #GP(0) when an instruction pointer cannot be in a code segment.
    pub(super) fn check_rip(&self, code: &Segment, rip: u64) -> Result<(), Fault> {
        let inside = if self.is_64bit(code) { is_canonical(rip) } else { within_limit(code, rip, 1) };
        if inside { Ok(()) } else { Err(Fault::gp(0)) }
    }

    /// The stack segment that a return to `code` goes back to.
    pub(super) fn return_stack(&mut self, selector: u16, code: &Segment) -> Result<Segment, Fault> {
        let is_64bit = self.is_64bit(code);
        self.stack_for(selector, (code.selector & 3) as u8, is_64bit)
    }

    /// Goes back to an outer ring, or in 64-bit mode to any: CS, SS, RSP, then the data segments that may stay.
    pub(super) fn commit_outer(&mut self, code: Segment, stack: Segment, pointer: u64) {
        let old_cpl = self.mode.cpl;
        let mask = if self.is_64bit(&code) { u64::MAX } else { segment_mask(&stack) };
        self.cpu.segments[seg::CS] = code;
        self.cpu.segments[seg::SS] = stack;
        self.set_stack_pointer(pointer, mask);
        let cpl = (code.selector & 3) as u8;
        if cpl > old_cpl {
            self.drop_inner_segments(cpl);
        }
    }
}
