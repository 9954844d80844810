//! Loading segment registers, with the checks of SDM 3A 5.4–5.8 and vol. 2 (MOV).

use super::descriptor::{Descriptor, code_of, is_null};
use crate::core::Core;
use crate::fault::{Fault, vector};
use crate::state::{Segment, rflags, seg};

/// Whether `len` bytes at `offset` are inside a segment (SDM 3A 5.3); type bit 2 of data expands down.
pub fn within_limit(segment: &Segment, offset: u64, len: u64) -> bool {
    let Some(last) = offset.checked_add(len - 1) else { return false };
    let limit = u64::from(segment.limit);
    if segment.has(Segment::S) && segment.attributes & 0xc == 4 {
        let top = if segment.has(Segment::DB) { 0xffff_ffff } else { 0xffff };
        offset > limit && last <= top
    } else {
        last <= limit
    }
}

/// The flat code segment that SYSCALL and its kin load without reading a descriptor.
pub fn flat_code(selector: u16, dpl: u8, long: bool) -> Segment {
    let size = if long { Segment::L } else { Segment::DB };
    let attributes = 0xb | Segment::S | u16::from(dpl) << 5 | Segment::P | Segment::G | size;
    Segment { selector, attributes, limit: u32::MAX, base: 0 }
}

/// The flat stack segment that goes with it.
pub fn flat_stack(selector: u16, dpl: u8) -> Segment {
    let attributes = 3 | Segment::S | u16::from(dpl) << 5 | Segment::P | Segment::G | Segment::DB;
    Segment { selector, attributes, limit: u32::MAX, base: 0 }
}

/// A null SS: unusable, but its DPL is the CPL.
pub fn null_stack(selector: u16, cpl: u8) -> Segment {
    Segment { selector, attributes: u16::from(cpl) << 5, limit: 0, base: 0 }
}

impl Core {
    /// Segments are plain numbers: real mode or virtual-8086 mode.
    pub(super) fn real_segments(&self) -> bool {
        !self.mode.protected || self.cpu.eflags & rflags::VM != 0
    }

    /// Loads a segment register as MOV and POP do.
    pub fn load_segment(&mut self, index: usize, selector: u16) -> Result<(), Fault> {
        let loaded = self.check_segment(index, selector)?;
        self.set_segment(index, loaded);
        Ok(())
    }

    /// What a load of the segment register would put there, after all checks; marks the descriptor accessed.
    pub(super) fn check_segment(&mut self, index: usize, selector: u16) -> Result<Segment, Fault> {
        if self.real_segments() {
            Ok(self.real_segment(index, selector))
        } else if index == seg::SS {
            self.check_stack(selector)
        } else {
            self.check_data(selector)
        }
    }

    /// A segment register other than CS gets a value that was checked.
    pub(super) fn set_segment(&mut self, index: usize, value: Segment) {
        self.cpu.segments[index] = value;
        if self.mode.bits != 64 || index >= seg::FS {
            self.cpu.ea_base[index] = value.base;
        }
        if index == seg::SS && self.mode.bits != 64 {
            self.mode_changed();
        }
    }

    /// Base from the selector; limit and attributes stay, which is what "unreal" mode rests on (SDM 3A 21.1.1).
    pub(super) fn real_segment(&self, index: usize, selector: u16) -> Segment {
        Segment { selector, base: u64::from(selector) << 4, ..self.cpu.segments[index] }
    }

    fn check_stack(&mut self, selector: u16) -> Result<Segment, Fault> {
        self.stack_for(selector, self.mode.cpl, self.mode.bits == 64)
    }

    /// The stack segment of code at `cpl`; a null one is for 64-bit code of rings 0…2.
    pub(super) fn stack_for(&mut self, selector: u16, cpl: u8, is_64bit: bool) -> Result<Segment, Fault> {
        let rpl = (selector & 3) as u8;
        if is_null(selector) {
            let allowed = is_64bit && cpl != 3 && rpl == cpl;
            return if allowed { Ok(null_stack(selector, cpl)) } else { Err(Fault::gp(0)) };
        }
        let found = self.descriptor(selector, vector::GP)?;
        if rpl != cpl || !found.is_writable() || found.dpl() != cpl {
            return Err(Fault::gp(code_of(selector)));
        }
        if !found.present() {
            return Err(Fault::ss(code_of(selector)));
        }
        Ok(self.mark_accessed(selector, found)?.segment(selector))
    }

    fn check_data(&mut self, selector: u16) -> Result<Segment, Fault> {
        if is_null(selector) {
            return Ok(Segment { selector, ..Segment::default() });
        }
        let found = self.descriptor(selector, vector::GP)?;
        if !found.is_readable() || !self.may_reach(found, selector) {
            return Err(Fault::gp(code_of(selector)));
        }
        if !found.present() {
            return Err(Fault::with_code(vector::NP, code_of(selector)));
        }
        Ok(self.mark_accessed(selector, found)?.segment(selector))
    }

    /// Privilege check of data accesses: conforming code is open to all, else DPL ≥ CPL and RPL.
    pub(super) fn may_reach(&self, descriptor: Descriptor, selector: u16) -> bool {
        let weaker = self.mode.cpl.max((selector & 3) as u8);
        descriptor.is_conforming() || descriptor.dpl() >= weaker
    }

    /// Nulls the data segments that an outer ring may not keep after a return to it (SDM 2, RET).
    pub(super) fn drop_inner_segments(&mut self, cpl: u8) {
        for index in [seg::ES, seg::DS, seg::FS, seg::GS] {
            let segment = &mut self.cpu.segments[index];
            let conforming = segment.is_code() && segment.attributes & 4 != 0;
            if !segment.is_null() && segment.dpl() < cpl && !conforming {
                // The base stays: in 64-bit mode FS and GS have one of their own.
                *segment = Segment { base: segment.base, ..Segment::default() };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_up_and_down() {
        let up = Segment { attributes: 0x93, limit: 0xfff, ..Segment::default() };
        assert!(within_limit(&up, 0xffc, 4) && !within_limit(&up, 0xffd, 4));
        let down = Segment { attributes: 0x97, limit: 0xfff, ..Segment::default() };
        assert!(!within_limit(&down, 0xfff, 1) && within_limit(&down, 0x1000, 4));
        assert!(within_limit(&down, 0xfffc, 4) && !within_limit(&down, 0xfffd, 4));
        assert!(!within_limit(&up, u64::MAX, 2));
    }

    #[test]
    fn flat_segments_have_the_attributes_of_the_manual() {
        assert_eq!(flat_code(8, 0, true).attributes, 0xa09b);
        assert_eq!(flat_code(0x23, 3, false).attributes, 0xc0fb);
        assert_eq!(flat_stack(0x2b, 3).attributes, 0xc0f3);
        assert_eq!(null_stack(3, 3).dpl(), 3);
    }
}
