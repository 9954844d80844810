//! RCPPS and RSQRTPS: approximate reciprocal and reciprocal square root of single-precision numbers.
//!
//! The manual bounds the relative error by 1.5 × 2^-12 and leaves the bits open; vendors differ. Here: the true
//! value rounded to 13 significant bits (error at most 2^-13), denormal inputs count as zero and tiny results
//! become zero (SDM 2B RCPPS). No MXCSR bit matters, no flag is raised.

const SIGN: u32 = 1 << 31;
const QUIET: u32 = 1 << 22;
const INFINITY: u32 = 0x7f80_0000;
/// The default NaN.
const INDEFINITE: u32 = 0xffc0_0000;
/// Fraction bits of a result.
const KEPT: u32 = 12;

fn exponent(x: u32) -> i32 {
    (x >> 23 & 0xff) as i32
}

/// Significand with its leading one.
fn significand(x: u32) -> u64 {
    u64::from(x & 0x7f_ffff | 1 << 23)
}

/// A float from a biased exponent and a significand of KEPT + 1 bits, or one more after rounding.
fn assemble(sign: u32, exponent: i32, rounded: u64) -> u32 {
    let (exponent, rounded) =
        if rounded >> (KEPT + 1) != 0 { (exponent + 1, rounded >> 1) } else { (exponent, rounded) };
    if exponent < 1 {
        return sign;
    }
    let fraction = (rounded as u32 & ((1 << KEPT) - 1)) << (23 - KEPT);
    sign | (exponent as u32) << 23 | fraction
}

/// RCPSS of one element, as bits.
pub fn reciprocal(x: u32) -> u32 {
    let sign = x & SIGN;
    match exponent(x) {
        0 => sign | INFINITY,
        255 if x & 0x7f_ffff != 0 => x | QUIET,
        255 => sign,
        biased => {
            // 1/(m × 2^-23) for m in [2^23, 2^24) is in (1/2, 1]; below one it has a lower exponent.
            let m = significand(x);
            if m == 1 << 23 {
                return assemble(sign, 254 - biased, 1 << KEPT);
            }
            let numerator = 1u64 << (24 + KEPT);
            assemble(sign, 253 - biased, numerator / m + u64::from(numerator % m * 2 >= m))
        }
    }
}

/// RSQRTSS of one element, as bits.
pub fn reciprocal_square_root(x: u32) -> u32 {
    let sign = x & SIGN;
    match exponent(x) {
        0 => sign | INFINITY,
        255 if x & 0x7f_ffff != 0 => x | QUIET,
        _ if sign != 0 => INDEFINITE,
        255 => 0,
        biased => {
            // x = v × 2^(2h) with v in [1, 4), so 1/√x = (1/√v) × 2^-h with 1/√v in (1/2, 1].
            let unbiased = biased - 127;
            let half = unbiased.div_euclid(2);
            let v = significand(x) << unbiased.rem_euclid(2);
            if v == 1 << 23 {
                return assemble(0, 127 - half, 1 << KEPT);
            }
            // (2^(KEPT+1) / √(v × 2^-23))² = 2^(2·KEPT + 25) / v; two more bits to round with.
            let root = ((1u128 << (2 * KEPT + 25 + 40)) / u128::from(v)).isqrt() as u64;
            assemble(0, 126 - half, (root + (1 << 19)) >> 20)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: f64 = 1.5 / 4096.0;

    #[test]
    fn errors_stay_within_the_manual() {
        let mut x = 0x0080_0000u32;
        while x < 0x7e80_0000 {
            let value = f64::from(f32::from_bits(x));
            let reciprocal = f64::from(f32::from_bits(reciprocal(x)));
            assert!((reciprocal * value - 1.0).abs() <= BOUND / 2.0, "1/{value} gives {reciprocal}");
            let root = f64::from(f32::from_bits(reciprocal_square_root(x)));
            assert!((root * value.sqrt() - 1.0).abs() <= BOUND / 2.0, "1/√{value} gives {root}");
            x += 99_991;
        }
    }

    /// SDM 2B, tables of RCPSS and RSQRTSS.
    #[test]
    fn special_values() {
        for (x, recip, root) in [
            (0, INFINITY, INFINITY),
            (SIGN, SIGN | INFINITY, SIGN | INFINITY),
            (1, INFINITY, INFINITY),
            (INFINITY, 0, 0),
            (SIGN | INFINITY, SIGN, INDEFINITE),
            (0x7f80_0001, 0x7fc0_0001, 0x7fc0_0001),
            (0xffc0_1234, 0xffc0_1234, 0xffc0_1234),
            (1f32.to_bits(), 1f32.to_bits(), 1f32.to_bits()),
            (4f32.to_bits(), 0.25f32.to_bits(), 0.5f32.to_bits()),
            (f32::MAX.to_bits(), 0, 0x1f80_0000),
            ((-1f32).to_bits(), (-1f32).to_bits(), INDEFINITE),
        ] {
            assert_eq!(reciprocal(x), recip, "reciprocal of {x:#x}");
            assert_eq!(reciprocal_square_root(x), root, "root of {x:#x}");
        }
    }
}
