//! The working format: a sign, a wide exponent, 128 bits of significand. Results are truncated, not rounded;
//! a chain of a few operations stays within 2^-120 of the true value.

/// ± significand × 2^(exponent - 127); the top bit of the significand is set unless the value is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wide {
    pub negative: bool,
    pub exponent: i32,
    pub significand: u128,
}

/// High half of the 256-bit product.
pub fn multiply_high(a: u128, b: u128) -> u128 {
    let (a1, a0) = (a >> 64, a & u128::from(u64::MAX));
    let (b1, b0) = (b >> 64, b & u128::from(u64::MAX));
    let low = (a0 * b0) >> 64;
    let (middle, carry) = (a1 * b0).overflowing_add(low);
    let (middle, carry2) = middle.overflowing_add(a0 * b1);
    a1 * b1 + (middle >> 64) + ((u128::from(carry) + u128::from(carry2)) << 64)
}

impl Wide {
    pub const ZERO: Wide = Wide { negative: false, exponent: 0, significand: 0 };
    pub const ONE: Wide = Wide { negative: false, exponent: 0, significand: 1 << 127 };

    /// A value from any significand, normalised.
    pub fn new(negative: bool, exponent: i32, significand: u128) -> Wide {
        if significand == 0 {
            return Wide { negative, ..Wide::ZERO };
        }
        let shift = significand.leading_zeros();
        Wide { negative, exponent: exponent - shift as i32, significand: significand << shift }
    }

    pub fn from_integer(value: i32) -> Wide {
        Wide::new(value < 0, 127, u128::from(value.unsigned_abs()))
    }

    pub fn is_zero(self) -> bool {
        self.significand == 0
    }

    pub fn negate(self) -> Wide {
        Wide { negative: !self.negative, ..self }
    }

    pub fn magnitude(self) -> Wide {
        Wide { negative: false, ..self }
    }

    /// Times a power of two.
    pub fn scale(self, power: i32) -> Wide {
        Wide { exponent: self.exponent + power, ..self }
    }

    pub fn multiply(self, other: Wide) -> Wide {
        let negative = self.negative != other.negative;
        let product = multiply_high(self.significand, other.significand);
        Wide::new(negative, self.exponent + other.exponent + 1, product)
    }

    /// The quotient; `other` is not zero.
    pub fn divide(self, other: Wide) -> Wide {
        let negative = self.negative != other.negative;
        if self.is_zero() {
            return Wide { negative, ..Wide::ZERO };
        }
        // One quotient bit a step; the remainder stays below the divisor, and `carry` is its 129th bit.
        let divisor = other.significand;
        let ahead = self.significand >= divisor;
        let mut remainder = if ahead { self.significand - divisor } else { self.significand };
        let mut quotient = u128::from(ahead);
        for _ in 0..127 {
            let carry = remainder >> 127 != 0;
            remainder <<= 1;
            let fits = carry || remainder >= divisor;
            remainder = if fits { remainder.wrapping_sub(divisor) } else { remainder };
            quotient = quotient << 1 | u128::from(fits);
        }
        Wide::new(negative, self.exponent - other.exponent, quotient)
    }

    pub fn add(self, other: Wide) -> Wide {
        let (big, small) = if self.is_below(other) { (other, self) } else { (self, other) };
        if small.is_zero() {
            return big;
        }
        let shift = big.exponent.saturating_sub(small.exponent) as u32;
        let aligned = small.significand.checked_shr(shift).unwrap_or(0);
        if big.negative != small.negative {
            // What was shifted out makes the difference a little smaller.
            let lost = shift > 0 && aligned.checked_shl(shift) != Some(small.significand);
            return Wide::new(big.negative, big.exponent, big.significand - aligned - u128::from(lost));
        }
        match big.significand.checked_add(aligned) {
            Some(sum) => Wide { significand: sum, ..big },
            None => {
                let sum = big.significand.wrapping_add(aligned) >> 1 | 1 << 127;
                Wide { exponent: big.exponent + 1, significand: sum, ..big }
            }
        }
    }

    pub fn subtract(self, other: Wide) -> Wide {
        self.add(other.negate())
    }

    /// |self| < |other|.
    pub fn is_below(self, other: Wide) -> bool {
        match (self.is_zero(), other.is_zero()) {
            (_, true) => false,
            (true, false) => true,
            _ => (self.exponent, self.significand) < (other.exponent, other.significand),
        }
    }

    /// |self| as a fixed-point number with 127 fraction bits; |self| must be below 2.
    pub fn to_fixed(self) -> u128 {
        debug_assert!(self.is_zero() || self.exponent <= 0);
        self.significand.checked_shr(self.exponent.unsigned_abs()).unwrap_or(0)
    }

    /// A non-negative fixed-point number with 127 fraction bits.
    pub fn from_fixed(value: u128) -> Wide {
        Wide::new(false, 0, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_have_the_right_high_half() {
        assert_eq!(multiply_high(u128::MAX, u128::MAX), u128::MAX - 1);
        assert_eq!(multiply_high(1 << 127, 1 << 127), 1 << 126);
        assert_eq!(multiply_high(u128::from(u64::MAX) << 64, 1 << 64), u128::from(u64::MAX));
    }

    #[test]
    fn quotient_times_divisor_comes_back() {
        let (a, b) = (Wide::from_integer(355), Wide::from_integer(-113));
        let back = a.divide(b).multiply(b);
        let error = back.subtract(a);
        assert!(error.is_zero() || error.exponent < a.exponent - 124);
        assert_eq!(Wide::from_integer(12).divide(Wide::from_integer(4)), Wide::from_integer(3));
    }

    #[test]
    fn sums_of_opposite_signs() {
        let three = Wide::from_integer(3);
        assert_eq!(three.subtract(Wide::from_integer(5)), Wide::from_integer(-2));
        assert!(three.subtract(three).is_zero());
        assert_eq!(Wide::from_integer(i32::MAX).add(Wide::ONE), Wide::ONE.scale(31));
    }
}
