//! The 80-bit extended format of the x87 registers (SDM 1 4.2.2), and rounding into it.

use super::wide::Wide;

/// An x87 register's contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct F80 {
    /// Integer bit (63) and fraction.
    pub significand: u64,
    /// Sign (15) and biased exponent.
    pub sign_exponent: u16,
}

/// What kind of value an `F80` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Zero,
    /// Denormal or pseudo-denormal.
    Denormal,
    Normal,
    Infinity,
    QuietNan,
    SignalingNan,
    /// Unnormal, pseudo-infinity, pseudo-NaN (SDM 1 8.2.2).
    Unsupported,
}

/// Rounding control, as in control word bits 10 and 11.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    Nearest,
    Down,
    Up,
    Zero,
}

impl Rounding {
    /// From the low two bits of `bits`.
    pub fn from_bits(bits: u16) -> Rounding {
        match bits & 3 {
            0 => Rounding::Nearest,
            1 => Rounding::Down,
            2 => Rounding::Up,
            _ => Rounding::Zero,
        }
    }
}

/// Exception flags, as in the status word.
pub mod flag {
    pub const INVALID: u16 = 1;
    pub const DENORMAL: u16 = 2;
    pub const ZERO_DIVIDE: u16 = 4;
    pub const OVERFLOW: u16 = 8;
    pub const UNDERFLOW: u16 = 16;
    pub const PRECISION: u16 = 32;
}

/// A rounded result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rounded {
    pub value: F80,
    /// `flag` bits raised.
    pub flags: u16,
    /// The magnitude was rounded up (C1).
    pub up: bool,
}

const EXPONENT_MAX: u16 = 0x7fff;
const BIAS: i32 = 16383;
const QUIET: u64 = 1 << 62;
const INTEGER: u64 = 1 << 63;
/// Added to the exponent when an unmasked overflow or underflow has a register destination (SDM 1 8.5.4).
const EXPONENT_ADJUST: i32 = 24576;

impl F80 {
    /// The default NaN, "real indefinite".
    pub const INDEFINITE: F80 = F80 { significand: INTEGER | QUIET, sign_exponent: 0xffff };
    pub const ONE: F80 = F80 { significand: INTEGER, sign_exponent: 0x3fff };

    pub const fn zero(negative: bool) -> F80 {
        F80 { significand: 0, sign_exponent: (negative as u16) << 15 }
    }

    pub const fn infinity(negative: bool) -> F80 {
        F80 { significand: INTEGER, sign_exponent: EXPONENT_MAX | (negative as u16) << 15 }
    }

    /// Biased exponent.
    pub fn exponent(self) -> u16 {
        self.sign_exponent & EXPONENT_MAX
    }

    pub fn is_negative(self) -> bool {
        self.sign_exponent >> 15 != 0
    }

    pub fn class(self) -> Class {
        match (self.exponent(), self.significand) {
            (0, 0) => Class::Zero,
            (0, _) => Class::Denormal,
            (_, significand) if significand & INTEGER == 0 => Class::Unsupported,
            (EXPONENT_MAX, INTEGER) => Class::Infinity,
            (EXPONENT_MAX, significand) if significand & QUIET != 0 => Class::QuietNan,
            (EXPONENT_MAX, _) => Class::SignalingNan,
            _ => Class::Normal,
        }
    }

    pub fn is_nan(self) -> bool {
        matches!(self.class(), Class::QuietNan | Class::SignalingNan)
    }

    /// The quiet form of a NaN.
    pub fn quieted(self) -> F80 {
        F80 { significand: self.significand | QUIET, ..self }
    }

    /// The NaN that an operation on two operands gives (SDM 1 table 4-7): the larger significand wins, or the
    /// positive one when they are equal.
    pub fn choose_nan(a: F80, b: F80) -> F80 {
        let chosen = match (a.is_nan(), b.is_nan()) {
            (true, false) => a,
            (false, true) => b,
            _ => match (a.class(), b.class()) {
                (Class::SignalingNan, Class::QuietNan) => b,
                (Class::QuietNan, Class::SignalingNan) => a,
                _ if a.significand > b.significand => a,
                _ if a.significand < b.significand => b,
                _ if a.sign_exponent < b.sign_exponent => a,
                _ => b,
            },
        };
        chosen.quieted()
    }

    /// Value of a finite number.
    pub fn to_wide(self) -> Wide {
        let exponent = i32::from(self.exponent().max(1)) - BIAS;
        Wide::new(self.is_negative(), exponent, u128::from(self.significand) << 64)
    }

    /// Rounds to 64 bits. `exact` tells whether `value` is the true result or only near it. Exceptions of which
    /// `masks` has no bit give the exponent-adjusted result.
    pub fn round(value: Wide, exact: bool, rounding: Rounding, masks: u16) -> Rounded {
        if value.significand == 0 {
            return Rounded { value: F80::zero(value.negative), flags: 0, up: false };
        }
        let full = cut(value, 64, exact, rounding);
        if full.exponent > BIAS {
            return overflow(value, &full, rounding, masks);
        }
        if full.exponent < 1 - BIAS {
            return underflow(value, &full, exact, rounding, masks);
        }
        full.pack(0, 0)
    }
}

/// A significand cut to fewer bits.
struct Cut {
    negative: bool,
    /// Unbiased exponent of bit 63.
    exponent: i32,
    significand: u64,
    inexact: bool,
    up: bool,
}

impl Cut {
    fn pack(&self, adjust: i32, flags: u16) -> Rounded {
        let biased = (self.exponent + BIAS + adjust).clamp(0, i32::from(EXPONENT_MAX) - 1) as u16;
        let value =
            F80 { significand: self.significand, sign_exponent: biased | u16::from(self.negative) << 15 };
        let precision = if self.inexact { flag::PRECISION } else { 0 };
        Rounded { value, flags: flags | precision, up: self.up }
    }
}

/// Keeps the top `bits` bits (0…64) of the significand.
fn cut(value: Wide, bits: u32, exact: bool, rounding: Rounding) -> Cut {
    let kept = if bits == 0 { 0 } else { value.significand >> (128 - bits) };
    let rest = value.significand << bits;
    let inexact = rest != 0 || !exact;
    let up = match rounding {
        Rounding::Nearest => rest > 1 << 127 || rest == 1 << 127 && (kept & 1 == 1 || !exact),
        Rounding::Down => inexact && value.negative,
        Rounding::Up => inexact && !value.negative,
        Rounding::Zero => false,
    };
    let rounded = kept + u128::from(up);
    let (significand, exponent) =
        if rounded >> 64 != 0 { (1 << 63, value.exponent + 1) } else { (rounded as u64, value.exponent) };
    Cut { negative: value.negative, exponent, significand, inexact, up }
}

fn overflow(value: Wide, full: &Cut, rounding: Rounding, masks: u16) -> Rounded {
    if masks & flag::OVERFLOW == 0 {
        return full.pack(-EXPONENT_ADJUST, flag::OVERFLOW);
    }
    let to_infinity = match rounding {
        Rounding::Nearest => true,
        Rounding::Down => value.negative,
        Rounding::Up => !value.negative,
        Rounding::Zero => false,
    };
    let largest = F80 { significand: u64::MAX, sign_exponent: 0x7ffe | u16::from(value.negative) << 15 };
    let result = if to_infinity { F80::infinity(value.negative) } else { largest };
    Rounded { value: result, flags: flag::OVERFLOW | flag::PRECISION, up: to_infinity }
}

fn underflow(value: Wide, full: &Cut, exact: bool, rounding: Rounding, masks: u16) -> Rounded {
    if masks & flag::UNDERFLOW == 0 {
        return full.pack(EXPONENT_ADJUST, flag::UNDERFLOW);
    }
    let lost = (1 - BIAS).saturating_sub(value.exponent);
    // Far below the smallest denormal only "not zero" matters.
    let (value, bits) =
        if lost > 64 { (Wide { significand: 1 << 120, ..value }, 0) } else { (value, 64 - lost as u32) };
    let tiny = cut(value, bits, exact, rounding);
    let (significand, inexact) = (tiny.significand, tiny.inexact);
    let sign_exponent = u16::from(value.negative) << 15 | (significand >> 63) as u16;
    let flags = if inexact { flag::UNDERFLOW | flag::PRECISION } else { 0 };
    Rounded { value: F80 { significand, sign_exponent }, flags, up: tiny.up }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wide(exponent: i32, significand: u128) -> Wide {
        Wide::new(false, exponent, significand)
    }

    #[test]
    fn exact_values_come_back() {
        for value in [F80::ONE, F80 { significand: u64::MAX, sign_exponent: 0xbffe }] {
            let rounded = F80::round(value.to_wide(), true, Rounding::Nearest, 0x3f);
            assert_eq!(rounded, Rounded { value, flags: 0, up: false });
        }
        let denormal = F80 { significand: 5, sign_exponent: 0 };
        assert_eq!(F80::round(denormal.to_wide(), true, Rounding::Nearest, 0x3f).value, denormal);
    }

    #[test]
    fn halfway_rounds_to_even_and_carries() {
        let half = wide(0, (u64::MAX as u128) << 64 | 1 << 63);
        let up = F80::round(half, true, Rounding::Nearest, 0x3f);
        assert_eq!(up.value, F80 { significand: 1 << 63, sign_exponent: 0x4000 });
        assert!(up.up && up.flags == flag::PRECISION);
        let down = F80::round(half, true, Rounding::Zero, 0x3f);
        assert_eq!(down.value, F80 { significand: u64::MAX, sign_exponent: 0x3fff });
    }

    #[test]
    fn extremes_overflow_and_underflow() {
        let huge = F80::round(wide(20000, 1 << 127), true, Rounding::Nearest, 0x3f);
        assert_eq!(huge.value, F80::infinity(false));
        assert_eq!(huge.flags, flag::OVERFLOW | flag::PRECISION);
        let tiny = F80::round(wide(-20000, 1 << 127), true, Rounding::Up, 0x3f);
        assert_eq!(tiny.value, F80 { significand: 1, sign_exponent: 0 });
        assert_eq!(tiny.flags, flag::UNDERFLOW | flag::PRECISION);
        let adjusted = F80::round(wide(16384, 1 << 127), true, Rounding::Nearest, 0);
        assert_eq!(adjusted.value.exponent(), (16384 + 16383 - 24576) as u16);
    }
}
