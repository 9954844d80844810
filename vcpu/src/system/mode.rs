//! What follows from control registers and segments: `Core::mode` and the segment bases of `Cpu::ea_base`.

use crate::core::{Core, Mode};
use crate::fault::{Fault, vector};
use crate::state::{Cpu, Segment, cr0, cr4, efer, rflags, seg};

/// XCR0 state components.
pub mod xcr0 {
    /// x87 state.
    pub const X87: u64 = 1 << 0;
    /// XMM registers and MXCSR.
    pub const SSE: u64 = 1 << 1;
    /// Upper halves of the YMM registers.
    pub const AVX: u64 = 1 << 2;
}

impl Core {
    /// Recomputes what is derived from CR0, CR4, EFER, XCR0, RFLAGS and the segment registers. To be called after
    /// any change of them; the current block ends, because its code was decoded for the old mode.
    pub fn mode_changed(&mut self) {
        self.mode = derive_mode(&self.cpu);
        self.cpu.ea_base = derive_bases(&self.cpu, self.mode.bits);
        self.leave_block = true;
        self.refresh_access();
    }

    /// Runs `work` with the access rights of another privilege level; a fault restores the old ones.
    pub(super) fn with_cpl<R>(
        &mut self,
        cpl: u8,
        work: impl FnOnce(&mut Core) -> Result<R, Fault>,
    ) -> Result<R, Fault> {
        let old = self.mode.cpl;
        self.set_cpl(cpl);
        let result = work(self);
        if result.is_err() {
            self.set_cpl(old);
        }
        result
    }

    fn set_cpl(&mut self, cpl: u8) {
        if cpl != self.mode.cpl {
            self.mode.cpl = cpl;
            self.refresh_access();
        }
    }

    /// #GP(0) unless at CPL 0.
    pub(super) fn require_cpl0(&self) -> Result<(), Fault> {
        if self.mode.cpl == 0 { Ok(()) } else { Err(Fault::gp(0)) }
    }

    /// Bits of a linear address of code.
    pub fn code_mask(&self) -> u64 {
        if self.mode.bits == 64 { u64::MAX } else { 0xffff_ffff }
    }

    /// RFLAGS with the status flags at their places.
    pub fn rflags(&self) -> u32 {
        self.cpu.eflags | self.cpu.data.status.to_rflags() | 2
    }

    /// Sets RFLAGS, status flags included. The caller knows what may change and calls `mode_changed` or
    /// `flags_changed`.
    pub fn set_rflags(&mut self, value: u32) {
        self.cpu.data.status = crate::state::Status::from_rflags(value);
        self.cpu.eflags = value & rflags_mask::SYSTEM | 2;
    }

    /// To be called when RFLAGS may have changed in IF, TF, RF or AC and nothing else of the mode did.
    pub(super) fn flags_changed(&mut self, old: u32) {
        let changed =
            (old ^ self.cpu.eflags) & (rflags::IF | rflags::TF | rflags::RF | rflags::AC | rflags::VM);
        if changed != 0 {
            self.leave_block = true;
            if changed & rflags::AC != 0 {
                self.refresh_access();
            }
        }
    }
}

/// Sets of RFLAGS bits.
pub mod rflags_mask {
    use crate::state::rflags::*;

    /// Every bit that exists outside the status flags, apart from the fixed one.
    pub const SYSTEM: u32 = TF | IF | DF | IOPL | NT | RF | VM | AC | VIF | VIP | ID;
    /// Every bit that exists.
    pub const ALL: u32 = SYSTEM | STATUS;
}

fn derive_mode(cpu: &Cpu) -> Mode {
    let protected = cpu.cr0 & cr0::PE != 0;
    let long = cpu.efer & efer::LMA != 0;
    let virtual_8086 = protected && cpu.eflags & rflags::VM != 0;
    let code = &cpu.segments[seg::CS];
    let bits = if long && code.has(Segment::L) {
        64
    } else if code.has(Segment::DB) && !virtual_8086 {
        32
    } else {
        16
    };
    let cpl = match (protected, virtual_8086) {
        (false, _) => 0,
        (true, true) => 3,
        // SS.DPL is the CPL even for a null SS (SDM 3A 5.5, note; vol. 3C 25.3).
        (true, false) => cpu.segments[seg::SS].dpl(),
    };
    let switched = cpu.cr0 & cr0::TS != 0;
    let emulated = cpu.cr0 & cr0::EM != 0;
    let nm_if = |on| if on { vector::NM } else { 0 };
    let sse_fault = if emulated || cpu.cr4 & cr4::OSFXSR == 0 { vector::UD } else { nm_if(switched) };
    let avx_state = xcr0::SSE | xcr0::AVX;
    let avx_usable =
        protected && !virtual_8086 && cpu.cr4 & cr4::OSXSAVE != 0 && cpu.xcr0 & avx_state == avx_state;
    Mode {
        bits,
        cpl,
        long,
        protected,
        sse_fault,
        avx_fault: if avx_usable { nm_if(switched) } else { vector::UD },
        x87_fault: nm_if(emulated || switched),
    }
}

/// Bases by `seg` index; ES, CS, SS and DS have none in 64-bit mode.
fn derive_bases(cpu: &Cpu, bits: u8) -> [u64; 8] {
    let mut bases = [0; 8];
    for (index, segment) in cpu.segments.iter().enumerate() {
        if bits != 64 || index >= seg::FS {
            bases[index] = segment.base;
        }
    }
    bases
}
