//! Power series in fixed point: 127 fraction bits, values below 2. Divisors are tables of reciprocals, because
//! 128-bit division is what would take most of the time.

use super::wide::{Wide, multiply_high};

/// 1.0.
const ONE: u128 = 1 << 127;

/// 1/(2·3), 1/(4·5), 1/(6·7), …
const SINE_STEPS: [u128; 16] = {
    let mut table = [0; 16];
    let mut k = 0;
    while k < table.len() {
        let even = 2 * (k as u128 + 1);
        table[k] = ONE / (even * (even + 1));
        k += 1;
    }
    table
};

/// 1/(1·2), 1/(3·4), 1/(5·6), …
const COSINE_STEPS: [u128; 17] = {
    let mut table = [0; 17];
    let mut k = 0;
    while k < table.len() {
        let even = 2 * (k as u128 + 1);
        table[k] = ONE / (even * (even - 1));
        k += 1;
    }
    table
};

/// 1/2, 1/3, 1/4, …
const INTEGERS: [u128; 32] = {
    let mut table = [0; 32];
    let mut k = 0;
    while k < table.len() {
        table[k] = ONE / (k as u128 + 2);
        k += 1;
    }
    table
};

/// 1, 1/3, 1/5, …
const ODD: [u128; 51] = {
    let mut table = [0; 51];
    let mut k = 0;
    while k < table.len() {
        table[k] = ONE / (2 * k as u128 + 1);
        k += 1;
    }
    table
};

fn multiply(a: u128, b: u128) -> u128 {
    multiply_high(a, b) << 1
}

/// r² in fixed point.
fn square(r: Wide) -> u128 {
    r.multiply(r).to_fixed()
}

/// sin r for |r| ≤ π/4: r (1 - r²/2·3 (1 - r²/4·5 (…))).
pub(super) fn sine(r: Wide) -> Wide {
    r.multiply(alternating(square(r), &SINE_STEPS))
}

/// cos r for |r| ≤ π/4.
pub(super) fn cosine(r: Wide) -> Wide {
    alternating(square(r), &COSINE_STEPS)
}

/// 1 - z·s₁ (1 - z·s₂ (1 - …)). Each product is taken a little too large, so that the sum stays below one.
fn alternating(z: u128, steps: &[u128]) -> Wide {
    let sum = steps.iter().rev().fold(ONE, |sum, &step| ONE - multiply(multiply(z, step), sum) - 1);
    Wide::from_fixed(sum)
}

/// (e^y - 1) / y for |y| ≤ ln 2: 1 + y/2 (1 + y/3 (…)).
pub(super) fn exponential_minus_one_ratio(y: Wide) -> Wide {
    let fixed = y.to_fixed();
    let sum = INTEGERS.iter().rev().fold(ONE, |sum, &step| {
        let term = multiply(multiply(fixed, step), sum);
        if y.negative { ONE - term } else { ONE + term }
    });
    Wide::from_fixed(sum)
}

/// atanh(s) / s for |s| < 0.18: 1 + s²/3 + s⁴/5 + ….
pub(super) fn inverse_tanh_ratio(s: Wide) -> Wide {
    let z = square(s);
    let sum = ODD[..27].iter().rev().fold(0, |sum, &term| term + multiply(z, sum));
    Wide::from_fixed(sum)
}

/// atan(t) / t for |t| < 0.42: 1 - t²/3 + t⁴/5 - ….
pub(super) fn inverse_tangent_ratio(t: Wide) -> Wide {
    let z = square(t);
    let sum = ODD.iter().rev().fold(0, |sum, &term| term - multiply(z, sum));
    Wide::from_fixed(sum)
}
