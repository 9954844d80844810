//! Power series in fixed point: 127 fraction bits, values below 2.

use super::wide::{Wide, multiply_high};

/// 1.0.
pub(super) const ONE: u128 = 1 << 127;

fn multiply(a: u128, b: u128) -> u128 {
    multiply_high(a, b) << 1
}

/// r² in fixed point.
fn square(r: Wide) -> u128 {
    r.multiply(r).to_fixed()
}

/// sin r for |r| ≤ π/4: r (1 - r²/2·3 (1 - r²/4·5 (…))).
pub(super) fn sine(r: Wide) -> Wide {
    r.multiply(alternating(square(r), 16, |k| 2 * k * (2 * k + 1)))
}

/// cos r for |r| ≤ π/4.
pub(super) fn cosine(r: Wide) -> Wide {
    alternating(square(r), 17, |k| (2 * k - 1) * 2 * k)
}

/// 1 - z/d₁ (1 - z/d₂ (1 - …)). Each product is taken a little too large, so that the sum stays below one.
fn alternating(z: u128, terms: u128, divisor: impl Fn(u128) -> u128) -> Wide {
    let sum = (1..=terms).rev().fold(ONE, |sum, k| ONE - multiply(z, sum) / divisor(k) - 1);
    Wide::from_fixed(sum)
}

/// (e^y - 1) / y for |y| ≤ ln 2: 1 + y/2 (1 + y/3 (…)).
pub(super) fn exponential_minus_one_ratio(y: Wide) -> Wide {
    let fixed = y.to_fixed();
    let sum = (2..=33u128).rev().fold(ONE, |sum, k| {
        let term = multiply(fixed, sum) / k;
        if y.negative { ONE - term } else { ONE + term }
    });
    Wide::from_fixed(sum)
}

/// atanh(s) / s for |s| < 0.18: 1 + s²/3 + s⁴/5 + ….
pub(super) fn inverse_tanh_ratio(s: Wide) -> Wide {
    let z = square(s);
    let sum = (0..=26u128).rev().fold(0, |sum, k| ONE / (2 * k + 1) + multiply(z, sum));
    Wide::from_fixed(sum)
}

/// atan(t) / t for |t| < 0.42: 1 - t²/3 + t⁴/5 - ….
pub(super) fn inverse_tangent_ratio(t: Wide) -> Wide {
    let z = square(t);
    let sum = (0..=50u128).rev().fold(0, |sum, k| ONE / (2 * k + 1) - multiply(z, sum));
    Wide::from_fixed(sum)
}
