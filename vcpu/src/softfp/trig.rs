//! Sine, cosine, tangent, arctangent.
//!
//! Arguments are reduced by the 66-bit π of the manual (SDM 1 8.3.8), so that results near its multiples are
//! those of real processors and not of mathematics.

use super::series::{cosine, inverse_tangent_ratio, sine};
use super::wide::Wide;

/// π/4 in units of 2^-68: the manual's constant 0.C90FDAA2 2168C234 C.
const QUARTER_PI: u128 = 0xc_90fd_aa22_168c_234c;

/// π, correct to 128 bits, for results (arguments use the constant above).
pub const PI: Wide =
    Wide { negative: false, exponent: 1, significand: 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1 };

/// tan(π/8): above it the arctangent series gets slow.
const TAN_EIGHTH_PI: Wide =
    Wide { negative: false, exponent: -2, significand: 0xd413_cccf_e779_9211_65f6_26cd_d52a_fa7c };

/// An angle as quarter turns (modulo 4) and a remainder of at most π/4 either way.
struct Reduced {
    quadrant: u8,
    rest: Wide,
}

/// Reduces |angle| < 2^63.
fn reduce(angle: Wide) -> Reduced {
    if angle.is_zero() || angle.exponent < -1 {
        return Reduced { quadrant: 0, rest: angle };
    }
    // angle = mantissa × 2^(exponent - 63), an integer number of units of 2^-68 as exponent ≥ -1.
    let mut shift = (angle.exponent + 5).clamp(0, 68) as u32;
    let turn = 8 * QUARTER_PI;
    let mut units = (angle.significand >> 64) % turn;
    while shift > 0 {
        // `turn` has 71 bits.
        let step = shift.min(56);
        units = (units << step) % turn;
        shift -= step;
    }
    let quadrant = (units / QUARTER_PI).div_ceil(2);
    let centre = quadrant * 2 * QUARTER_PI;
    let (below, distance) = (units < centre, units.abs_diff(centre));
    let rest = Wide::new(below, 127 - 68, distance);
    if angle.negative {
        Reduced { quadrant: (4 - quadrant as u8) & 3, rest: rest.negate() }
    } else {
        Reduced { quadrant: quadrant as u8 & 3, rest }
    }
}

/// Sine and cosine of |angle| < 2^63.
pub fn sine_cosine(angle: Wide) -> (Wide, Wide) {
    let Reduced { quadrant, rest } = reduce(angle);
    let (s, c) = (sine(rest), cosine(rest));
    match quadrant {
        0 => (s, c),
        1 => (c, s.negate()),
        2 => (s.negate(), c.negate()),
        _ => (c.negate(), s),
    }
}

/// Tangent of |angle| < 2^63. A cosine of zero cannot happen: no 64-bit number is an odd multiple of π/2.
pub fn tangent(angle: Wide) -> Wide {
    let (s, c) = sine_cosine(angle);
    s.divide(c)
}

/// Angle of the point (x, y), neither coordinate zero; in (-π, π).
pub fn arctangent(y: Wide, x: Wide) -> Wide {
    let (height, width) = (y.magnitude(), x.magnitude());
    let steep = width.is_below(height);
    let ratio = if steep { width.divide(height) } else { height.divide(width) };
    let mut angle = arctangent_below_one(ratio);
    if steep {
        angle = PI.scale(-1).subtract(angle);
    }
    if x.negative {
        angle = PI.subtract(angle);
    }
    Wide { negative: y.negative, ..angle }
}

/// Arctangent of a ratio in (0, 1].
fn arctangent_below_one(ratio: Wide) -> Wide {
    if ratio.is_below(TAN_EIGHTH_PI) {
        return ratio.multiply(inverse_tangent_ratio(ratio));
    }
    let turned = ratio.subtract(Wide::ONE).divide(ratio.add(Wide::ONE));
    PI.scale(-2).add(turned.multiply(inverse_tangent_ratio(turned)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(x: Wide) -> f64 {
        let magnitude = (x.significand >> 64) as f64 * 2f64.powi(x.exponent - 63);
        if x.negative { -magnitude } else { magnitude }
    }

    fn wide(x: f64) -> Wide {
        let bits = x.to_bits();
        let exponent = (bits >> 52 & 0x7ff) as i32 - 1023;
        Wide::new(x < 0.0, exponent, u128::from(1 << 52 | bits & ((1 << 52) - 1)) << 75)
    }

    #[test]
    fn agrees_with_double_precision() {
        for i in -400..400 {
            let x = f64::from(i) * 0.07 + 0.01;
            let (s, c) = sine_cosine(wide(x));
            assert!((value(s) - x.sin()).abs() < 1e-15, "sin {x}: {} {}", value(s), x.sin());
            assert!((value(c) - x.cos()).abs() < 1e-15, "cos {x}");
            let a = arctangent(wide(x), wide(0.7));
            assert!((value(a) - x.atan2(0.7)).abs() < 1e-15, "atan {x}");
            let a = arctangent(wide(x), wide(-3.0));
            assert!((value(a) - x.atan2(-3.0)).abs() < 1e-15, "atan {x}");
        }
    }

    #[test]
    fn identities_hold_to_120_bits() {
        for i in 1..50 {
            let angle = Wide::from_integer(i).divide(Wide::from_integer(7));
            let (s, c) = sine_cosine(angle);
            let one = s.multiply(s).add(c.multiply(c)).subtract(Wide::ONE);
            assert!(one.is_zero() || one.exponent < -120, "{i}: {one:?}");
        }
        // Below π/4 no reduction with the shorter π interferes.
        for i in 1..25 {
            let angle = Wide::from_integer(i).divide(Wide::from_integer(32));
            let back = arctangent(tangent(angle), Wide::ONE).subtract(angle);
            assert!(back.is_zero() || back.exponent < -120, "{back:?}");
        }
    }
}
