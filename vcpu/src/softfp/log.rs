//! Binary logarithm and 2^x - 1.

use super::series::{exponential_minus_one_ratio, inverse_tanh_ratio};
use super::wide::Wide;

const LN_2: Wide =
    Wide { negative: false, exponent: -1, significand: 0xb172_17f7_d1cf_79ab_c9e3_b398_03f2_f6af };
const TWO_BY_LN_2: Wide =
    Wide { negative: false, exponent: 1, significand: 0xb8aa_3b29_5c17_f0bb_be87_fed0_691d_3e89 };
const SQRT_2: u128 = 0xb504_f333_f9de_6484_597d_89b3_754a_be9f;

/// 2^x - 1 for 0 < |x| ≤ 1.
pub fn exp2_minus_one(x: Wide) -> Wide {
    let y = x.multiply(LN_2);
    y.multiply(exponential_minus_one_ratio(y))
}

/// log2 of a positive number. Exact (and an integer) for powers of two.
pub fn log2(x: Wide) -> Wide {
    let (exponent, scaled) = if x.significand > SQRT_2 { (x.exponent + 1, -1) } else { (x.exponent, 0) };
    let near_one = Wide { exponent: scaled, ..x };
    let difference = near_one.subtract(Wide::ONE);
    if difference.is_zero() {
        return Wide::from_integer(exponent);
    }
    let s = difference.divide(near_one.add(Wide::ONE));
    Wide::from_integer(exponent).add(log2_from_ratio(s))
}

/// log2(1 + x) for x > -1, precise near zero.
pub fn log2_of_one_plus(x: Wide) -> Wide {
    // Where the series in x/(2+x) converges fast; beyond it 1 + x loses nothing.
    if x.is_zero() || x.exponent < -2 {
        let s = x.divide(Wide::from_integer(2).add(x));
        return log2_from_ratio(s);
    }
    log2(Wide::ONE.add(x))
}

/// log2((1 + s) / (1 - s)).
fn log2_from_ratio(s: Wide) -> Wide {
    s.multiply(TWO_BY_LN_2).multiply(inverse_tanh_ratio(s))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_two_are_exact() {
        for power in [-16445, -1, 0, 1, 3, 16383] {
            assert_eq!(log2(Wide::ONE.scale(power)), Wide::from_integer(power));
        }
    }

    #[test]
    fn functions_undo_each_other() {
        for i in 1..64 {
            for sign in [1, -1] {
                let x = Wide::from_integer(sign * i).divide(Wide::from_integer(65));
                let power = exp2_minus_one(x);
                let error = log2_of_one_plus(power).subtract(x);
                assert!(error.is_zero() || error.exponent < -119, "{i}: {error:?}");
                let error = log2(power.add(Wide::ONE)).subtract(x);
                assert!(error.is_zero() || error.exponent < -119, "{i}: {error:?}");
            }
        }
    }
}
