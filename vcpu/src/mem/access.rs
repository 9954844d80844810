//! Reads and writes of guest linear memory that may fault.

use crate::core::Core;
use crate::fault::Fault;
use crate::isa::Op;

/// An integer that one access moves.
pub trait Word: Copy + Default + 'static {
    const SIZE: u64 = size_of::<Self>() as u64;
    fn from_u64(value: u64) -> Self;
    fn to_u64(self) -> u64;
}

macro_rules! words {
    ($($t:ty),*) => {$(
        impl Word for $t {
            #[inline(always)]
            fn from_u64(value: u64) -> Self { value as $t }
            #[inline(always)]
            fn to_u64(self) -> u64 { self as u64 }
        }
    )*};
}
words!(u8, u16, u32, u64);

impl Core {
    /// Reads at a linear address with the rights of the current CPL.
    pub fn read<T: Word>(&mut self, _gva: u64) -> Result<T, Fault> {
        todo!()
    }

    /// Writes at a linear address with the rights of the current CPL.
    pub fn write<T: Word>(&mut self, _gva: u64, _value: T) -> Result<(), Fault> {
        todo!()
    }

    /// Reads with supervisor rights: descriptor tables, TSS, stacks of an inner ring (SDM 3A 4.6.1).
    pub fn read_system<T: Word>(&mut self, _gva: u64) -> Result<T, Fault> {
        todo!()
    }

    /// Writes with supervisor rights.
    pub fn write_system<T: Word>(&mut self, _gva: u64, _value: T) -> Result<(), Fault> {
        todo!()
    }

    /// Reads bytes that may cross pages, with the rights of the current CPL.
    pub fn read_bytes(&mut self, _gva: u64, _into: &mut [u8]) -> Result<(), Fault> {
        todo!()
    }

    /// Writes bytes that may cross pages; nothing is written when any of them faults.
    pub fn write_bytes(&mut self, _gva: u64, _from: &[u8]) -> Result<(), Fault> {
        todo!()
    }

    /// Checks that `len` bytes could be written, raising the fault the write would raise.
    pub fn probe_write(&mut self, _gva: u64, _len: u64) -> Result<(), Fault> {
        todo!()
    }

    /// Linear address of the op's memory operand.
    pub fn operand_address(&mut self, _op: &Op) -> Result<u64, Fault> {
        todo!()
    }
}
