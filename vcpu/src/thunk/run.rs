//! The routines of thunked instructions: checks, memory operand, host call, exceptions.
//!
//! Order of checks: control registers, pending x87 errors, address, then the instruction (SDM 3A 6.9).

use super::Thunk;
use super::plan::{Access, Domain};
use crate::core::Core;
use crate::fault::{Fault, vector};
use crate::isa::{Op, Routine};
use crate::state::{cr0, cr4, rflags};
use crate::thunk::fpu;

/// MXCSR bits (SDM 1 10.2.3).
pub(super) mod mxcsr {
    /// Exception flags.
    pub const FLAGS: u32 = 0x3f;
    /// Flags of exceptions that come before the computation: invalid, denormal, divide by zero.
    pub const BEFORE: u32 = 0x07;
    pub const UNDERFLOW: u32 = 1 << 4;
    /// Exception masks; each stands 7 bits above its flag.
    pub const MASKS: u32 = 0x1f80;
    pub const MASK_SHIFT: u32 = 7;
    pub const FLUSH_TO_ZERO: u32 = 1 << 15;
    /// Bits that exist: MXCSR_MASK of every model.
    pub const DEFINED: u32 = 0xffff;
    /// Value after reset and in the initial state.
    pub const RESET: u32 = 0x1f80;
}

/// The routine for instructions of a domain with this use of memory.
pub(super) fn routine(domain: Domain, access: Access) -> Routine {
    match domain {
        Domain::Bits => by_access::<{ Domain::Bits as u8 }>(access),
        Domain::Bmi => by_access::<{ Domain::Bmi as u8 }>(access),
        Domain::Sse => by_access::<{ Domain::Sse as u8 }>(access),
        Domain::Avx => by_access::<{ Domain::Avx as u8 }>(access),
        Domain::Fpu => by_access::<{ Domain::Fpu as u8 }>(access),
        Domain::Mmx => by_access::<{ Domain::Mmx as u8 }>(access),
        Domain::MmxSse => by_access::<{ Domain::MmxSse as u8 }>(access),
    }
}

fn by_access<const DOMAIN: u8>(access: Access) -> Routine {
    match access {
        Access::None => registers::<DOMAIN>,
        Access::Load => load::<DOMAIN>,
        Access::Store => store::<DOMAIN>,
    }
}

fn registers<const DOMAIN: u8>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    check::<DOMAIN>(core)?;
    let thunk = core.thunks.thunk(op.aux);
    core.execute(&thunk).map(|_| ())
}

fn load<const DOMAIN: u8>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    check::<DOMAIN>(core)?;
    let thunk = core.thunks.thunk(op.aux);
    let gva = core.vector_address(op, thunk.align_mask)?;
    let memory = core.read_vector(op, gva, thunk.size)?;
    core.thunks.scratch.memory[..4].copy_from_slice(&memory);
    core.execute(&thunk).map(|_| ())
}

fn store<const DOMAIN: u8>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    check::<DOMAIN>(core)?;
    let thunk = core.thunks.thunk(op.aux);
    let gva = core.vector_address(op, thunk.align_mask)?;
    if thunk.fpu {
        return store_fpu(core, op, &thunk, gva);
    }
    let mxcsr = core.cpu.data.mxcsr;
    core.execute(&thunk)?;
    store_result(core, op, &thunk, gva).inspect_err(|_| core.cpu.data.mxcsr = mxcsr)
}

#[inline(always)]
fn store_result(core: &mut Core, op: &Op, thunk: &Thunk, gva: u64) -> Result<(), Fault> {
    let mut memory = [0; 4];
    memory.copy_from_slice(&core.thunks.scratch.memory[..4]);
    core.write_vector(op, gva, thunk.size, &memory)
}

/// An x87 store that an unmasked error holds back does not look at memory; one that faults has changed nothing.
fn store_fpu(core: &mut Core, op: &Op, thunk: &Thunk, gva: u64) -> Result<(), Fault> {
    let before = core.cpu.data.fx.clone();
    if !core.execute(thunk)? {
        return Ok(());
    }
    store_result(core, op, thunk, gva).inspect_err(|_| core.cpu.data.fx = before)
}

/// Raises what the control registers say about an instruction of this domain.
#[inline(always)]
pub(super) fn check<const DOMAIN: u8>(core: &mut Core) -> Result<(), Fault> {
    if DOMAIN == Domain::Sse as u8 {
        refuse(core.mode.sse_fault)
    } else if DOMAIN == Domain::Avx as u8 {
        refuse(core.mode.avx_fault)
    } else if DOMAIN == Domain::Fpu as u8 {
        refuse(core.mode.x87_fault)?;
        fpu::check_pending(core)
    } else if DOMAIN == Domain::Mmx as u8 {
        check_mmx(core)
    } else if DOMAIN == Domain::MmxSse as u8 {
        refuse(core.mode.sse_fault)?;
        check_mmx(core)
    } else if DOMAIN == Domain::Bmi as u8 {
        check_vex_mode(core)
    } else {
        Ok(())
    }
}

/// A fact of `Mode`: 0, or the vector to raise.
#[inline(always)]
fn refuse(raised: u8) -> Result<(), Fault> {
    if raised == 0 { Ok(()) } else { Err(Fault::new(raised)) }
}

/// MMX: CR0.EM means #UD, not #NM (SDM 3A table 12-1).
fn check_mmx(core: &mut Core) -> Result<(), Fault> {
    if core.mode.x87_fault != 0 {
        return Err(if core.cpu.cr0 & cr0::EM != 0 { Fault::ud() } else { Fault::new(vector::NM) });
    }
    fpu::check_pending(core)
}

/// VEX prefixes are not recognised in real and virtual-8086 mode (SDM 2A 2.3.2).
fn check_vex_mode(core: &Core) -> Result<(), Fault> {
    if core.mode.protected && core.cpu.eflags & rflags::VM == 0 { Ok(()) } else { Err(Fault::ud()) }
}

impl Core {
    /// Linear address of a vector operand, aligned as it must be.
    #[inline(always)]
    pub(super) fn vector_address(&mut self, op: &Op, align_mask: u8) -> Result<u64, Fault> {
        let gva = self.operand_address(op)?;
        if gva & u64::from(align_mask) == 0 { Ok(gva) } else { Err(Fault::gp(0)) }
    }

    /// Reads `size` bytes, at most 32, zero-extended.
    #[inline(always)]
    pub(super) fn read_vector(&mut self, op: &Op, gva: u64, size: u8) -> Result<[u64; 4], Fault> {
        let read = match size {
            4 => self.read::<u32>(gva).map(|low| [u64::from(low), 0, 0, 0]),
            8 => self.read::<u64>(gva).map(|low| [low, 0, 0, 0]),
            // In one page: a fault hits the first word, so no device is read in part.
            16 if gva & 0xff8 <= 0xff0 && gva & 7 == 0 => self.read_words::<2>(gva),
            32 if gva & 0xff8 <= 0xfe0 && gva & 7 == 0 => self.read_words::<4>(gva),
            _ => self.read_odd(gva, size),
        };
        read.map_err(|fault| self.refine_fault(op, fault))
    }

    #[inline(always)]
    fn read_words<const COUNT: usize>(&mut self, gva: u64) -> Result<[u64; 4], Fault> {
        let mut words = [0; 4];
        for (i, word) in words[..COUNT].iter_mut().enumerate() {
            *word = self.read::<u64>(gva + 8 * i as u64)?;
        }
        Ok(words)
    }

    fn read_odd(&mut self, gva: u64, size: u8) -> Result<[u64; 4], Fault> {
        let mut bytes = [0; 32];
        self.read_bytes(gva, &mut bytes[..usize::from(size)])?;
        Ok(from_bytes(&bytes))
    }

    /// Writes the low `size` bytes, at most 32; nothing when any of them faults.
    #[inline(always)]
    pub(super) fn write_vector(
        &mut self,
        op: &Op,
        gva: u64,
        size: u8,
        value: &[u64; 4],
    ) -> Result<(), Fault> {
        let written = match size {
            4 => self.write(gva, value[0] as u32),
            8 => self.write(gva, value[0]),
            16 if gva & 0xff8 <= 0xff0 && gva & 7 == 0 => self.write_words(gva, &value[..2]),
            32 if gva & 0xff8 <= 0xfe0 && gva & 7 == 0 => self.write_words(gva, value),
            _ => self.write_bytes(gva, &to_bytes(value)[..usize::from(size)]),
        };
        written.map_err(|fault| self.refine_fault(op, fault))
    }

    #[inline(always)]
    fn write_words(&mut self, gva: u64, words: &[u64]) -> Result<(), Fault> {
        for (i, &word) in words.iter().enumerate() {
            self.write(gva + 8 * i as u64, word)?;
        }
        Ok(())
    }

    /// Runs a thunk whose memory operand is in place. False when an unmasked x87 error holds the store back.
    #[inline(always)]
    pub(super) fn execute(&mut self, thunk: &Thunk) -> Result<bool, Fault> {
        if thunk.fpu && fpu::has_error(&self.cpu.data.fx) {
            return self.execute_ignoring_errors(thunk);
        }
        self.execute_now(thunk)
    }

    #[inline(always)]
    fn execute_now(&mut self, thunk: &Thunk) -> Result<bool, Fault> {
        if thunk.mxcsr && self.cpu.data.mxcsr & mxcsr::MASKS != mxcsr::MASKS {
            self.execute_unmasked(thunk)?;
        } else {
            self.thunks.enter(thunk, &mut self.cpu.data);
        }
        Ok(!thunk.fpu || fpu::commit(&mut self.cpu.data.fx, &self.thunks.scratch.fx))
    }

    /// Runs with all SIMD exceptions masked, then raises #XM if one was not (SDM 1 11.5.3).
    #[cold]
    fn execute_unmasked(&mut self, thunk: &Thunk) -> Result<(), Fault> {
        let old = self.cpu.data.mxcsr;
        let before = self.cpu.data.clone();
        let enabled = !(old >> mxcsr::MASK_SHIFT) & mxcsr::FLAGS;
        // FTZ acts only on masked underflow.
        let drop = mxcsr::FLAGS | if enabled & mxcsr::UNDERFLOW != 0 { mxcsr::FLUSH_TO_ZERO } else { 0 };
        let masked = (old | mxcsr::MASKS) & !drop;
        let mut raised = 0;
        if enabled & mxcsr::UNDERFLOW != 0 {
            // Unmasked, a tiny result counts even when it is exact; flushing shows which are tiny.
            self.cpu.data.mxcsr = masked | mxcsr::FLUSH_TO_ZERO;
            self.thunks.enter(thunk, &mut self.cpu.data);
            raised = self.cpu.data.mxcsr & mxcsr::UNDERFLOW;
            self.cpu.data = before.clone();
        }
        self.cpu.data.mxcsr = masked;
        self.thunks.enter(thunk, &mut self.cpu.data);
        raised |= self.cpu.data.mxcsr & mxcsr::FLAGS;
        if raised & enabled == 0 {
            self.cpu.data.mxcsr = old | raised;
            return Ok(());
        }
        if raised & enabled & mxcsr::BEFORE != 0 {
            raised &= mxcsr::BEFORE;
        }
        self.cpu.data = before;
        self.cpu.data.mxcsr = old | raised;
        let reported = self.cpu.cr4 & cr4::OSXMMEXCPT != 0;
        Err(Fault::new(if reported { vector::XM } else { vector::UD }))
    }

    /// Runs an x87 or MMX instruction with an error pending that CR0.NE = 0 leaves to nobody, as with IGNNE#
    /// asserted (SDM 1 8.7.2).
    #[cold]
    fn execute_ignoring_errors(&mut self, thunk: &Thunk) -> Result<bool, Fault> {
        let control = fpu::control(&self.cpu.data.fx);
        fpu::set_control(&mut self.cpu.data.fx, control | fpu::EXCEPTIONS);
        let stored = self.execute_now(thunk);
        fpu::set_control(&mut self.cpu.data.fx, control);
        stored
    }
}

/// Little-endian words of a vector in memory.
pub(super) fn from_bytes(bytes: &[u8; 32]) -> [u64; 4] {
    std::array::from_fn(|i| u64::from_le_bytes(std::array::from_fn(|j| bytes[8 * i + j])))
}

/// A vector as it lies in memory.
pub(super) fn to_bytes(words: &[u64; 4]) -> [u8; 32] {
    std::array::from_fn(|i| (words[i / 8] >> (8 * (i % 8))) as u8)
}

#[test]
fn bytes_round_trip() {
    let words = [1, u64::MAX, 0x0123_4567_89ab_cdef, 1 << 63];
    assert_eq!(from_bytes(&to_bytes(&words)), words);
}
