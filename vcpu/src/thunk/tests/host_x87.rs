//! x87 instructions written in Rust against the host's own.

use super::super::fpu::{self, EXCEPTIONS, status};
use super::super::transcendental;
use super::{instruction, thunks};
use crate::softfp::{Class, F80};
use crate::state::DataRegs;
use crate::state::regs::FxImage;
use crate::thunk::Thunks;

/// A small generator of test operands (SplitMix64).
pub(super) struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A normal number with an unbiased exponent in the range.
    fn normal(&mut self, exponents: std::ops::Range<i64>) -> F80 {
        let span = (exponents.end - exponents.start) as u64;
        let exponent = exponents.start + (self.next() % span) as i64 + 16383;
        let sign = (self.next() & 1) as u16;
        F80 { significand: self.next() | 1 << 63, sign_exponent: exponent as u16 | sign << 15 }
    }
}

/// Zeros, ones, denormals, infinities, NaNs of both kinds, unsupported and huge values.
pub(super) const SPECIAL: [(u16, u64); 17] = [
    (0, 0),
    (0x8000, 0),
    (0x3fff, 1 << 63),
    (0xbfff, 1 << 63),
    (0x4000, 1 << 63),
    (0xc000, 0xc000 << 48),
    (0x3ffe, 1 << 63),
    (0, 12345),
    (0x8000, 1 << 63),
    (0x7fff, 1 << 63),
    (0xffff, 1 << 63),
    (0x7fff, 0xc000_0000_0000_0123),
    (0xffff, 0xc000_0000_0000_0456),
    (0x7fff, 0x8000_0000_0000_0789),
    (0x3fff, 1),
    (0x7ffe, u64::MAX),
    (0x403e, 1 << 63),
];

pub(super) fn special(i: usize) -> F80 {
    F80 { sign_exponent: SPECIAL[i].0, significand: SPECIAL[i].1 }
}

/// State with ST(0) = x, ST(1) = y.
fn state(x: F80, y: F80, control: u16) -> DataRegs {
    let mut data = DataRegs::reset();
    fpu::initialise(&mut data.fx);
    fpu::set_control(&mut data.fx, control);
    for value in [y, x] {
        fpu::push(&mut data.fx);
        fpu::set_register(&mut data.fx, 0, value);
    }
    data
}

fn native(thunks: &mut Thunks, bytes: &[u8], data: &mut DataRegs) {
    let (id, _) = thunks.native(&instruction(bytes)).expect("can run natively");
    let thunk = thunks.thunk(id);
    thunks.enter(&thunk, data);
    fpu::commit(&mut data.fx, &thunks.scratch.fx);
}

/// Distance in units in the last place; values of different kind are far apart.
fn distance(a: F80, b: F80) -> u128 {
    if a.sign_exponent >> 15 != b.sign_exponent >> 15 || a.class() != b.class() {
        return if a == b { 0 } else { u128::MAX };
    }
    let position = |x: F80| u128::from(x.exponent()) << 63 | u128::from(x.significand & !(1 << 63));
    position(a).abs_diff(position(b))
}

/// Everything but the values: status without C0, C1, C3, tags.
fn facts(fx: &FxImage) -> (u16, u16, u8) {
    let kept = EXCEPTIONS | status::STACK_FAULT | status::ERROR_SUMMARY | status::TOP | status::C2;
    (fpu::status(fx) & kept, fpu::control(fx), fpu::tags(fx))
}

struct Case {
    name: &'static str,
    code: [u8; 2],
    x: std::ops::Range<i64>,
    y: std::ops::Range<i64>,
}

#[rustfmt::skip]
const CASES: [Case; 8] = [
    Case { name: "fsin", code: [0xd9, 0xfe], x: -70..63, y: 0..1 },
    Case { name: "fcos", code: [0xd9, 0xff], x: -70..63, y: 0..1 },
    Case { name: "fsincos", code: [0xd9, 0xfb], x: -70..63, y: 0..1 },
    Case { name: "fptan", code: [0xd9, 0xf2], x: -70..63, y: 0..1 },
    Case { name: "fpatan", code: [0xd9, 0xf3], x: -80..80, y: -80..80 },
    Case { name: "f2xm1", code: [0xd9, 0xf0], x: -80..0, y: 0..1 },
    Case { name: "fyl2x", code: [0xd9, 0xf1], x: -200..200, y: -100..100 },
    Case { name: "fyl2xp1", code: [0xd9, 0xf9], x: -100..-2, y: -100..100 },
];

/// Runs both ways and compares; returns the largest distance of the two top registers.
fn compare(thunks: &mut Thunks, case: &Case, x: F80, y: F80, control: u16) -> u128 {
    let mut theirs = state(x, y, control);
    let mut ours = theirs.clone();
    native(thunks, &case.code, &mut theirs);
    transcendental::run_code(instruction(&case.code).code(), &mut ours.fx);
    let about = format!("{} of {x:x?}, {y:x?} with control word {control:x}", case.name);
    assert_eq!(facts(&ours.fx), facts(&theirs.fx), "status, control word, tags: {about}");
    let apart = |i| distance(fpu::register(&ours.fx, i), fpu::register(&theirs.fx, i));
    let worst = apart(0).max(apart(1));
    let values = |fx: &FxImage| [fpu::register(fx, 0), fpu::register(fx, 1)];
    assert!(worst <= 2, "{about}: {:x?}, host {:x?}", values(&ours.fx), values(&theirs.fx));
    worst
}

#[test]
fn ordinary_operands_give_the_hosts_results() {
    let (mut thunks, mut random) = (thunks(), Random(1));
    for case in &CASES {
        let mut differ = 0;
        for i in 0..400u16 {
            let (x, mut y) = (random.normal(case.x.clone()), random.normal(case.y.clone()));
            let positive = F80 { sign_exponent: x.exponent(), ..x };
            let x = if case.name == "fyl2x" { positive } else { x };
            if case.name == "fsin" {
                y = F80::ONE;
            }
            let rounding = (i & 3) << 10;
            differ += u32::from(compare(&mut thunks, case, x, y, 0x037f | rounding) != 0);
        }
        println!("{}: {differ} of 400 differ by an ulp", case.name);
    }
}

#[test]
fn special_operands_give_the_hosts_results() {
    let mut thunks = thunks();
    let mut wrong = Vec::new();
    for case in &CASES {
        for (i, j) in (0..SPECIAL.len()).flat_map(|i| (0..SPECIAL.len()).map(move |j| (i, j))) {
            for control in [0x037f, 0x0340] {
                let (x, y) = (special(i), special(j));
                let is_one = (x.exponent(), x.significand) == (0x3fff, 1 << 63);
                // Left open by the manual.
                let open = match case.name {
                    "f2xm1" => x.exponent() >= 0x3fff && x.class() == Class::Normal && !is_one,
                    "fyl2xp1" => {
                        x.exponent() >= 0x3ffd && matches!(x.class(), Class::Normal | Class::Infinity)
                    }
                    _ => false,
                };
                if open {
                    continue;
                }
                let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    compare(&mut thunks, case, x, y, control)
                }));
                if let Err(error) = result {
                    wrong.push(error.downcast_ref::<String>().cloned().unwrap_or_default());
                }
            }
        }
    }
    for line in &wrong {
        println!("{}", line.replace("\n", " "));
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn empty_and_full_stacks_give_the_hosts_results() {
    let mut thunks = thunks();
    for case in &CASES {
        for (tags, control) in [0u8, 0xff, 0x80, 0x40].into_iter().flat_map(|t| [(t, 0x037f), (t, 0x037e)]) {
            let mut theirs = state(F80::ONE, F80::ONE, control);
            fpu::set_tags(&mut theirs.fx, tags);
            let mut ours = theirs.clone();
            native(&mut thunks, &case.code, &mut theirs);
            transcendental::run_code(instruction(&case.code).code(), &mut ours.fx);
            let about = format!("{} with tags {tags:x}, control {control:x}", case.name);
            assert_eq!(facts(&ours.fx), facts(&theirs.fx), "{about}");
            let fault = fpu::status(&theirs.fx) & status::STACK_FAULT != 0;
            let c1 = |fx: &FxImage| fpu::status(fx) & status::C1;
            assert!(!fault || c1(&ours.fx) == c1(&theirs.fx), "C1: {about}");
            for i in 0..2 {
                let (ours, theirs) = (fpu::register(&ours.fx, i), fpu::register(&theirs.fx, i));
                assert!(distance(ours, theirs) <= 1, "{about}: ST{i} {ours:x?}, host {theirs:x?}");
            }
        }
    }
}
