//! FSIN, FCOS, FSINCOS, FPTAN, FPATAN, F2XM1, FYL2X, FYL2XP1: operands, special cases and exceptions.
//!
//! The functions themselves are in `softfp`; the special cases are the tables of each instruction in SDM 2A.

use super::fpu::{self, EXCEPTIONS, status};
use super::plan::Domain;
use super::run::check;
use crate::core::Core;
use crate::fault::Fault;
use crate::isa::{Row, row};
use crate::softfp::f80::{Rounded, flag};
use crate::softfp::{Class, F80, Rounding, Wide, log, trig};
use crate::state::regs::FxImage;
use iced_x86::Code;

pub(super) const ROWS: &[Row] = &[
    row(Code::Fsin, |core, _| run(core, sine)),
    row(Code::Fcos, |core, _| run(core, cosine)),
    row(Code::Fsincos, |core, _| run(core, sine_cosine)),
    row(Code::Fptan, |core, _| run(core, tangent)),
    row(Code::Fpatan, |core, _| run(core, arctangent)),
    row(Code::F2xm1, |core, _| run(core, exponential)),
    row(Code::Fyl2x, |core, _| run(core, logarithm)),
    row(Code::Fyl2xp1, |core, _| run(core, logarithm_plus_one)),
];

fn run(core: &mut Core, instruction: fn(&mut FxImage)) -> Result<(), Fault> {
    check::<{ Domain::Fpu as u8 }>(core)?;
    run_on(&mut core.cpu.data.fx, instruction);
    Ok(())
}

/// Runs one instruction; errors pending with CR0.NE clear stay pending and are otherwise ignored.
fn run_on(fx: &mut FxImage, instruction: fn(&mut FxImage)) {
    let control = fpu::control(fx);
    if fpu::has_error(fx) {
        fpu::set_control(fx, control | EXCEPTIONS);
    }
    instruction(fx);
    fpu::set_control(fx, control);
}

/// Rounding control is in bits 10 and 11 of the control word; precision control does not count here.
fn rounding(fx: &FxImage) -> Rounding {
    Rounding::from_bits(fpu::control(fx) >> 10)
}

/// None of these exceptions holds the result back; precision never does.
fn masked(fx: &FxImage, flags: u16) -> bool {
    flags & !fpu::control(fx) & EXCEPTIONS & !flag::PRECISION == 0
}

/// Adds exception flags and sets C1 and C2.
fn raise(fx: &mut FxImage, flags: u16, up: bool, c2: bool) {
    let conditions = if up { status::C1 } else { 0 } | if c2 { status::C2 } else { 0 };
    let rest = fpu::status(fx) & !(status::C1 | status::C2);
    fpu::set_status(fx, rest | flags | conditions);
}

/// As `raise` for instructions that leave C2 alone.
fn raise_keeping_c2(fx: &mut FxImage, flags: u16, up: bool) {
    let c2 = fpu::status(fx) & status::C2 != 0;
    raise(fx, flags, up, c2);
}

fn round(fx: &FxImage, value: Wide, exact: bool) -> Rounded {
    F80::round(value, exact, rounding(fx), fpu::control(fx) & EXCEPTIONS)
}

/// A value that needs no rounding.
fn plain(value: F80) -> Rounded {
    Rounded { value, flags: 0, up: false }
}

/// What the trigonometric instructions do with their operand.
enum Angle {
    Finite(Wide),
    Zero(F80),
    /// The result is this NaN.
    Nan(F80),
    /// |x| ≥ 2^63: C2 is set, nothing else happens.
    OutOfRange,
    /// An unmasked exception: no result.
    Refused,
}

/// Operand of a trigonometric instruction; raises what it raises. `pushes`: ST(7) must be free.
fn angle(fx: &mut FxImage, pushes: bool) -> Angle {
    let underflow = fpu::is_empty(fx, 0);
    if underflow || pushes && !fpu::is_empty(fx, 7) {
        let flags = status::INVALID | status::STACK_FAULT;
        raise(fx, flags, !underflow, false);
        return if masked(fx, flag::INVALID) { Angle::Nan(F80::INDEFINITE) } else { Angle::Refused };
    }
    let x = fpu::register(fx, 0);
    let (flags, found) = match x.class() {
        Class::Zero => (0, Angle::Zero(x)),
        Class::Normal if x.exponent() >= 0x3fff + 63 => (0, Angle::OutOfRange),
        Class::Normal => (0, Angle::Finite(x.to_wide())),
        Class::Denormal => (flag::DENORMAL, Angle::Finite(x.to_wide())),
        Class::QuietNan => (0, Angle::Nan(x)),
        Class::SignalingNan => (flag::INVALID, Angle::Nan(x.quieted())),
        Class::Infinity | Class::Unsupported => (flag::INVALID, Angle::Nan(F80::INDEFINITE)),
    };
    raise(fx, flags, false, matches!(found, Angle::OutOfRange));
    if masked(fx, flags) { found } else { Angle::Refused }
}

fn set(fx: &mut FxImage, i: u8, result: Rounded) {
    raise_keeping_c2(fx, result.flags, result.up);
    fpu::set_register(fx, i, result.value);
}

fn sine(fx: &mut FxImage) {
    let result = match angle(fx, false) {
        Angle::Finite(x) => round(fx, trig::sine_cosine(x).0, false),
        Angle::Zero(x) | Angle::Nan(x) => plain(x),
        Angle::OutOfRange | Angle::Refused => return,
    };
    set(fx, 0, result);
}

fn cosine(fx: &mut FxImage) {
    let result = match angle(fx, false) {
        Angle::Finite(x) => round(fx, trig::sine_cosine(x).1, false),
        Angle::Zero(_) => plain(F80::ONE),
        Angle::Nan(x) => plain(x),
        Angle::OutOfRange | Angle::Refused => return,
    };
    set(fx, 0, result);
}

/// Puts `first` in place of the operand and pushes `second`.
fn set_both(fx: &mut FxImage, first: Rounded, second: Rounded) {
    let up = second.up;
    fpu::set_register(fx, 0, first.value);
    fpu::push(fx);
    fpu::set_register(fx, 0, second.value);
    raise_keeping_c2(fx, first.flags | second.flags, up);
}

/// C1 after a result that needed no rounding: the stack overflow mark stays.
fn set_both_plain(fx: &mut FxImage, first: F80, second: F80) {
    let c1 = fpu::status(fx) & status::C1 != 0;
    set_both(fx, plain(first), Rounded { up: c1, ..plain(second) });
}

fn sine_cosine(fx: &mut FxImage) {
    match angle(fx, true) {
        Angle::Finite(x) => {
            let (sine, cosine) = trig::sine_cosine(x);
            let (sine, cosine) = (round(fx, sine, false), round(fx, cosine, false));
            set_both(fx, sine, cosine);
        }
        Angle::Zero(x) => set_both_plain(fx, x, F80::ONE),
        Angle::Nan(x) => set_both_plain(fx, x, x),
        Angle::OutOfRange | Angle::Refused => {}
    }
}

fn tangent(fx: &mut FxImage) {
    match angle(fx, true) {
        Angle::Finite(x) => {
            let result = round(fx, trig::tangent(x), false);
            set_both(fx, result, Rounded { up: result.up, ..plain(F80::ONE) });
        }
        Angle::Zero(x) => set_both_plain(fx, x, F80::ONE),
        Angle::Nan(x) => set_both_plain(fx, x, x),
        Angle::OutOfRange | Angle::Refused => {}
    }
}

/// Raises `flags` and, when they are masked, gives back the result they come with.
fn special(fx: &mut FxImage, flags: u16, value: F80) -> Option<Rounded> {
    raise_keeping_c2(fx, flags, false);
    masked(fx, flags).then_some(plain(value))
}

/// 2^ST(0) - 1. Outside -1…1 the manual leaves the result open; here the operand stays.
fn exponential(fx: &mut FxImage) {
    if fpu::is_empty(fx, 0) {
        if let Some(result) = special(fx, status::INVALID | status::STACK_FAULT, F80::INDEFINITE) {
            set(fx, 0, result);
        }
        return;
    }
    let x = fpu::register(fx, 0);
    let minus_one = F80 { sign_exponent: 0xbfff, ..F80::ONE };
    let result = match x.class() {
        Class::Zero | Class::QuietNan => special(fx, 0, x),
        Class::SignalingNan => special(fx, flag::INVALID, x.quieted()),
        Class::Unsupported => special(fx, flag::INVALID, F80::INDEFINITE),
        Class::Infinity if x.is_negative() => special(fx, 0, minus_one),
        Class::Infinity => special(fx, 0, x),
        // Exact, but processors report precision loss here too.
        Class::Normal if x == F80::ONE => special(fx, flag::PRECISION, x),
        Class::Normal if x == minus_one => {
            special(fx, flag::PRECISION, F80 { sign_exponent: 0xbffe, ..F80::ONE })
        }
        Class::Normal if x.exponent() >= 0x3fff => special(fx, 0, x),
        Class::Normal => Some(round(fx, log::exp2_minus_one(x.to_wide()), false)),
        Class::Denormal => {
            special(fx, flag::DENORMAL, x).map(|_| round(fx, log::exp2_minus_one(x.to_wide()), false))
        }
    };
    if let Some(result) = result {
        set(fx, 0, result);
    }
}

/// Runs an instruction of ST(1) and ST(0) whose result replaces ST(1), popping ST(0).
fn two_operands(fx: &mut FxImage, function: fn(&FxImage, F80, F80) -> (u16, Rounded)) {
    let (flags, result) = if fpu::is_empty(fx, 0) || fpu::is_empty(fx, 1) {
        (status::INVALID | status::STACK_FAULT, plain(F80::INDEFINITE))
    } else {
        let (x, y) = (fpu::register(fx, 0), fpu::register(fx, 1));
        common(x, y).unwrap_or_else(|| function(fx, x, y))
    };
    raise_keeping_c2(fx, flags, false);
    if masked(fx, flags) {
        fpu::pop(fx);
        set(fx, 0, result);
    }
}

/// NaNs and unsupported operands, the same for all instructions with two operands.
fn common(x: F80, y: F80) -> Option<(u16, Rounded)> {
    let either = |class| x.class() == class || y.class() == class;
    if either(Class::Unsupported) {
        return Some(invalid());
    }
    if x.is_nan() || y.is_nan() {
        let flags = if either(Class::SignalingNan) { flag::INVALID } else { 0 };
        return Some((flags, plain(F80::choose_nan(y, x))));
    }
    None
}

fn invalid() -> (u16, Rounded) {
    (flag::INVALID, plain(F80::INDEFINITE))
}

/// The denormal flag of two operands.
fn denormal(x: F80, y: F80) -> u16 {
    let either = x.class() == Class::Denormal || y.class() == Class::Denormal;
    if either { flag::DENORMAL } else { 0 }
}

fn arctangent(fx: &mut FxImage) {
    two_operands(fx, |fx, x, y| {
        let flags = denormal(x, y);
        let turned = |straight, back| if x.is_negative() { back } else { straight };
        // The angle in eighths of a turn where it is a special one; SDM 2A table 3-30.
        let eighths = match (y.class(), x.class()) {
            (Class::Zero, _) => turned(0, 4),
            (Class::Infinity, Class::Infinity) => turned(1, 3),
            (Class::Infinity, _) | (_, Class::Zero) => 2,
            (_, Class::Infinity) => turned(0, 4),
            _ => return (flags, round(fx, trig::arctangent(y.to_wide(), x.to_wide()), false)),
        };
        if eighths == 0 {
            return (flags, plain(F80::zero(y.is_negative())));
        }
        let angle = trig::PI.multiply(Wide::from_integer(eighths)).scale(-2);
        (flags, round(fx, Wide { negative: y.is_negative(), ..angle }, false))
    });
}

/// ST(1) × log2 ST(0).
fn logarithm(fx: &mut FxImage) {
    two_operands(fx, |fx, x, y| {
        if x.class() == Class::Zero {
            return logarithm_of_zero(y);
        }
        if x.is_negative() {
            return invalid();
        }
        let one = x == F80::ONE;
        let infinite = x.class() == Class::Infinity;
        let logarithm_negative = !infinite && x.exponent() < 0x3fff;
        let flags = denormal(x, y);
        match (y.class(), infinite, one) {
            (Class::Zero, true, _) | (Class::Infinity, _, true) => invalid(),
            (Class::Infinity, _, _) | (_, true, _) => {
                (flags, plain(F80::infinity(y.is_negative() != logarithm_negative)))
            }
            (Class::Zero, _, _) | (_, _, true) => {
                (flags, plain(F80::zero(y.is_negative() != logarithm_negative)))
            }
            _ => {
                let log = log::log2(x.to_wide());
                let exact = x.significand.is_power_of_two();
                (flags, round_product(fx, y, log, exact))
            }
        }
    });
}

/// FYL2X of zero: minus infinity times ST(1).
fn logarithm_of_zero(y: F80) -> (u16, Rounded) {
    match y.class() {
        Class::Zero => invalid(),
        Class::Infinity => (0, plain(F80::infinity(!y.is_negative()))),
        _ => (flag::ZERO_DIVIDE, plain(F80::infinity(!y.is_negative()))),
    }
}

/// y × log. Processors report precision loss (and underflow) even where the product is exact.
fn round_product(fx: &FxImage, y: F80, log: Wide, exact: bool) -> Rounded {
    let mut result = round(fx, y.to_wide().multiply(log), exact);
    result.flags |= flag::PRECISION;
    if result.value.class() == Class::Denormal {
        result.flags |= flag::UNDERFLOW;
    }
    result
}

/// ST(1) × log2(ST(0) + 1). Beyond -1 the manual leaves the result open; here it is invalid.
fn logarithm_plus_one(fx: &mut FxImage) {
    two_operands(fx, |fx, x, y| {
        let flags = denormal(x, y);
        let negative = y.is_negative() != x.is_negative();
        if x.is_negative() && x.exponent() >= 0x3fff {
            return invalid();
        }
        match (x.class(), y.class()) {
            (Class::Zero, Class::Infinity) | (Class::Infinity, Class::Zero) => invalid(),
            (Class::Zero, _) | (_, Class::Zero) => (flags, plain(F80::zero(negative))),
            (Class::Infinity, _) | (_, Class::Infinity) => (flags, plain(F80::infinity(negative))),
            _ => {
                let log = log::log2_of_one_plus(x.to_wide());
                (flags, round_product(fx, y, log, false))
            }
        }
    });
}

/// Runs the instruction with this code, for comparison with the host's.
#[cfg(test)]
pub(super) fn run_code(code: Code, fx: &mut FxImage) {
    let instruction = match code {
        Code::Fsin => sine,
        Code::Fcos => cosine,
        Code::Fsincos => sine_cosine,
        Code::Fptan => tangent,
        Code::Fpatan => arctangent,
        Code::F2xm1 => exponential,
        Code::Fyl2x => logarithm,
        Code::Fyl2xp1 => logarithm_plus_one,
        _ => panic!("{code:?} is not transcendental"),
    };
    run_on(fx, instruction);
}
