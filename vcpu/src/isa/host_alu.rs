//! Integer arithmetic by the host's own instructions, so that results and flags are right by construction.
//!
//! Flags that the manual leaves undefined are set to one canonical value by the callers, not here.

use crate::mem::access::Word;
use crate::state::Status;
use std::arch::asm;

/// Arithmetic on one operand size. Each returns the result and the flags of the host instruction.
pub trait Alu: Word {
    /// ADD.
    fn host_add(self, other: Self) -> (Self, Status);
    /// SUB.
    fn host_sub(self, other: Self) -> (Self, Status);
    /// ADC with CF taken from `flags`.
    fn host_adc(self, other: Self, flags: Status) -> (Self, Status);
    /// SBB with CF taken from `flags`.
    fn host_sbb(self, other: Self, flags: Status) -> (Self, Status);
    /// AND.
    fn host_and(self, other: Self) -> (Self, Status);
    /// OR.
    fn host_or(self, other: Self) -> (Self, Status);
    /// XOR.
    fn host_xor(self, other: Self) -> (Self, Status);
    /// INC: CF stays as in `flags`.
    fn host_inc(self, flags: Status) -> (Self, Status);
    /// DEC: CF stays as in `flags`.
    fn host_dec(self, flags: Status) -> (Self, Status);
    /// NEG.
    fn host_neg(self) -> (Self, Status);
}

macro_rules! binary {
    ($name:ident, $t:ty, $class:ident, $op:literal) => {
        #[inline(always)]
        fn $name(self, other: $t) -> ($t, Status) {
            let mut value = self;
            let flags: u16;
            // SAFETY: touches only the registers named; no memory, no stack.
            unsafe {
                asm!($op, "lahf", "seto al", inout($class) value, in($class) other, out("ax") flags,
                     options(pure, nomem, nostack));
            }
            (value, Status(flags & Status::ALL))
        }
    };
}

macro_rules! with_carry {
    ($name:ident, $t:ty, $class:ident, $op:literal) => {
        #[inline(always)]
        fn $name(self, other: $t, status: Status) -> ($t, Status) {
            let mut value = self;
            let flags: u16;
            // SAFETY: touches only the registers named; no memory, no stack.
            unsafe {
                asm!("bt {2:e}, 8", $op, "lahf", "seto al", inout($class) value, in($class) other,
                     in(reg) u32::from(status.0), out("ax") flags, options(pure, nomem, nostack));
            }
            (value, Status(flags & Status::ALL))
        }
    };
}

macro_rules! unary_carry {
    ($name:ident, $t:ty, $class:ident, $op:literal) => {
        #[inline(always)]
        fn $name(self, status: Status) -> ($t, Status) {
            let mut value = self;
            let flags: u16;
            // SAFETY: touches only the registers named; no memory, no stack.
            unsafe {
                asm!("bt {1:e}, 8", $op, "lahf", "seto al", inout($class) value,
                     in(reg) u32::from(status.0), out("ax") flags, options(pure, nomem, nostack));
            }
            (value, Status(flags & Status::ALL))
        }
    };
}

impl Alu for u8 {
    binary!(host_add, u8, reg_byte, "add {0}, {1}");
    binary!(host_sub, u8, reg_byte, "sub {0}, {1}");
    binary!(host_and, u8, reg_byte, "and {0}, {1}");
    binary!(host_or, u8, reg_byte, "or {0}, {1}");
    binary!(host_xor, u8, reg_byte, "xor {0}, {1}");
    with_carry!(host_adc, u8, reg_byte, "adc {0}, {1}");
    with_carry!(host_sbb, u8, reg_byte, "sbb {0}, {1}");
    unary_carry!(host_inc, u8, reg_byte, "inc {0}");
    unary_carry!(host_dec, u8, reg_byte, "dec {0}");

    #[inline(always)]
    fn host_neg(self) -> (u8, Status) {
        let (result, flags) = 0u8.host_sub(self);
        (result, flags)
    }
}

impl Alu for u16 {
    binary!(host_add, u16, reg, "add {0:x}, {1:x}");
    binary!(host_sub, u16, reg, "sub {0:x}, {1:x}");
    binary!(host_and, u16, reg, "and {0:x}, {1:x}");
    binary!(host_or, u16, reg, "or {0:x}, {1:x}");
    binary!(host_xor, u16, reg, "xor {0:x}, {1:x}");
    with_carry!(host_adc, u16, reg, "adc {0:x}, {1:x}");
    with_carry!(host_sbb, u16, reg, "sbb {0:x}, {1:x}");
    unary_carry!(host_inc, u16, reg, "inc {0:x}");
    unary_carry!(host_dec, u16, reg, "dec {0:x}");

    #[inline(always)]
    fn host_neg(self) -> (u16, Status) {
        let (result, flags) = 0u16.host_sub(self);
        (result, flags)
    }
}

impl Alu for u32 {
    binary!(host_add, u32, reg, "add {0:e}, {1:e}");
    binary!(host_sub, u32, reg, "sub {0:e}, {1:e}");
    binary!(host_and, u32, reg, "and {0:e}, {1:e}");
    binary!(host_or, u32, reg, "or {0:e}, {1:e}");
    binary!(host_xor, u32, reg, "xor {0:e}, {1:e}");
    with_carry!(host_adc, u32, reg, "adc {0:e}, {1:e}");
    with_carry!(host_sbb, u32, reg, "sbb {0:e}, {1:e}");
    unary_carry!(host_inc, u32, reg, "inc {0:e}");
    unary_carry!(host_dec, u32, reg, "dec {0:e}");

    #[inline(always)]
    fn host_neg(self) -> (u32, Status) {
        let (result, flags) = 0u32.host_sub(self);
        (result, flags)
    }
}

impl Alu for u64 {
    binary!(host_add, u64, reg, "add {0:r}, {1:r}");
    binary!(host_sub, u64, reg, "sub {0:r}, {1:r}");
    binary!(host_and, u64, reg, "and {0:r}, {1:r}");
    binary!(host_or, u64, reg, "or {0:r}, {1:r}");
    binary!(host_xor, u64, reg, "xor {0:r}, {1:r}");
    with_carry!(host_adc, u64, reg, "adc {0:r}, {1:r}");
    with_carry!(host_sbb, u64, reg, "sbb {0:r}, {1:r}");
    unary_carry!(host_inc, u64, reg, "inc {0:r}");
    unary_carry!(host_dec, u64, reg, "dec {0:r}");

    #[inline(always)]
    fn host_neg(self) -> (u64, Status) {
        let (result, flags) = 0u64.host_sub(self);
        (result, flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_known_sums() {
        let (sum, flags) = 0x7fu8.host_add(1);
        assert_eq!((sum, flags.0), (0x80, Status::SF | Status::OF | Status::AF));
        let (sum, flags) = 0xffff_ffffu32.host_add(1);
        assert_eq!((sum, flags.0), (0, Status::ZF | Status::CF | Status::AF | Status::PF));
        let (difference, flags) = 0u64.host_sbb(0, Status(Status::CF));
        assert_eq!((difference, flags.0), (u64::MAX, Status::SF | Status::CF | Status::AF | Status::PF));
        let (sum, flags) = 1u16.host_adc(1, Status(Status::CF | Status::ZF));
        assert_eq!((sum, flags.0), (3, Status::PF));
        let (less, flags) = 0u32.host_dec(Status(Status::CF));
        assert_eq!((less, flags.0), (u32::MAX, Status::SF | Status::CF | Status::AF | Status::PF));
        assert_eq!(1u8.host_neg(), (0xff, Status(Status::SF | Status::CF | Status::AF | Status::PF)));
    }
}
