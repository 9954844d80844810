//! Random operand values, drawn so that edges are hit often.

use tests::random::Random;
use tests::state::State;

/// An integer: often an edge of some width, a small number or a single bit.
pub fn integer(random: &mut Random) -> u64 {
    const EDGES: [u64; 6] = [0, 1, u64::MAX, 0x7f, 0x80, 0xff];
    match random.below(8) {
        0 => random.pick(&EDGES),
        1 => {
            let width = random.pick(&[8, 16, 32, 64]);
            let top = 1u64 << (width - 1);
            let edge = random.pick(&[top, top - 1, top.wrapping_mul(2).wrapping_sub(1), top + 1]);
            // What lies above the operand must not matter.
            if width < 64 && random.chance(1, 2) { edge | random.bits() << width } else { edge }
        }
        2 => random.below(100),
        3 => random.below(100).wrapping_neg(),
        4 => 1 << random.below(64),
        _ => random.bits(),
    }
}

/// A shift or bit count.
pub fn count(random: &mut Random) -> u64 {
    const EDGES: [u64; 14] = [0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64];
    if random.chance(1, 2) { random.pick(&EDGES) } else { random.bits() & 0xff }
}

/// An immediate operand.
pub fn immediate(random: &mut Random) -> u64 {
    match random.below(4) {
        0 => count(random),
        1 => integer(random),
        _ => random.bits(),
    }
}

/// The bits of a binary32 number of some class.
pub fn single(random: &mut Random) -> u32 {
    let sign = (random.bits() as u32) << 31;
    let fraction = random.bits() as u32 & 0x7f_ffff;
    sign | match random.below(12) {
        0 => 0,
        1 => 0x7f80_0000,
        2 => 0x7f80_0000 | fraction | 1,
        3 => 0x7fc0_0000 | fraction,
        4 => fraction,
        5 => 1,
        6 => 0x7f7f_ffff,
        7 => (random.below(200) as f32).to_bits(),
        8 => 0x0080_0000 | fraction >> random.below(23),
        9 => (127 + 31 - random.below(34) as u32) << 23 | fraction,
        _ => random.bits() as u32 >> 1,
    }
}

/// The bits of a binary64 number of some class.
pub fn double(random: &mut Random) -> u64 {
    let sign = random.bits() << 63;
    let fraction = random.bits() & 0xf_ffff_ffff_ffff;
    sign | match random.below(12) {
        0 => 0,
        1 => 0x7ff0_0000_0000_0000,
        2 => 0x7ff0_0000_0000_0000 | fraction | 1,
        3 => 0x7ff8_0000_0000_0000 | fraction,
        4 => fraction,
        5 => 1,
        6 => 0x7fef_ffff_ffff_ffff,
        7 => (random.below(200) as f64).to_bits(),
        8 => f64::from(f32::from_bits(single(random) & 0x7fff_ffff)).to_bits() & !(1 << 63),
        9 => (1023 + 64 - random.below(70)) << 52 | fraction,
        _ => random.bits() >> 1,
    }
}

/// Significand and sign-exponent word of an x87 number of some class, unsupported ones included.
pub fn extended(random: &mut Random) -> (u64, u16) {
    const INTEGER: u64 = 1 << 63;
    let sign = (random.bits() as u16) << 15;
    let fraction = random.bits() & !INTEGER;
    let (significand, exponent) = match random.below(16) {
        0 => (0, 0),
        1 => (INTEGER, 0x7fff),
        2 => (INTEGER | fraction & !(1 << 62) | 1, 0x7fff),
        3 => (INTEGER | 1 << 62 | fraction, 0x7fff),
        4 => (fraction, 0),
        5 => (INTEGER | fraction, 0),
        6 => (fraction, random.bits() as u16 & 0x7fff),
        7 => (INTEGER | fraction, 0x7ffe),
        8 => (INTEGER | fraction, 1 + random.below(60) as u16),
        9 => (INTEGER, 0x3fff),
        10 => ((1 + random.below(500)) << 54 | INTEGER, 0x3fff + random.below(12) as u16),
        11 => (random.bits(), 0xffff),
        _ => (INTEGER | fraction, 0x3fff - 70 + random.below(140) as u16),
    };
    (significand, exponent | sign)
}

/// 256 bits, all elements of one kind.
pub fn vector(random: &mut Random) -> [u64; 4] {
    let pair = |random: &mut Random| u64::from(single(random)) | u64::from(single(random)) << 32;
    match random.below(7) {
        0 | 1 => std::array::from_fn(|_| pair(random)),
        2 | 3 => std::array::from_fn(|_| double(random)),
        4 => std::array::from_fn(|_| integer(random)),
        // Text with few letters, for the string comparisons.
        5 => std::array::from_fn(|_| random.bits() & 0x0301_0003_0102_0303),
        _ => std::array::from_fn(|_| random.bits()),
    }
}

/// Bytes for a memory operand.
pub fn bytes(random: &mut Random) -> [u8; 64] {
    let (low, high) = (vector(random), vector(random));
    let mut bytes = [0; 64];
    for (place, word) in bytes.chunks_exact_mut(8).zip(low.iter().chain(&high)) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    match random.below(6) {
        0 => {
            let (significand, top) = extended(random);
            bytes[..8].copy_from_slice(&significand.to_le_bytes());
            bytes[8..10].copy_from_slice(&top.to_le_bytes());
        }
        1 => {
            // Packed decimal.
            bytes[..9].iter_mut().for_each(|byte| *byte = (random.below(10) << 4 | random.below(10)) as u8);
            bytes[9] = random.pick(&[0, 0x80]);
        }
        2 => bytes[..8].copy_from_slice(&integer(random).to_le_bytes()),
        _ => {}
    }
    bytes
}

/// Registers of all kinds; RSP and RIP are left to the caller.
pub fn state(random: &mut Random) -> State {
    let mut state = State { gpr: std::array::from_fn(|_| integer(random)), ..State::default() };
    // Status flags and DF; a signal frame cannot set the others.
    const CHOSEN: u64 = 0xcd5;
    state.rflags = 0x202 | random.bits() & CHOSEN;
    state.ymm = std::array::from_fn(|_| vector(random));
    state.mxcsr = mxcsr(random);
    floating_point(random, &mut state);
    state
}

fn mxcsr(random: &mut Random) -> u32 {
    match random.below(8) {
        0..=3 => 0x1f80,
        // Any rounding, flushing and flags; all masked, or each mask as it comes.
        4..=6 => 0x1f80 | random.bits() as u32 & 0xe07f,
        _ => random.bits() as u32 & 0xffff,
    }
}

fn floating_point(random: &mut Random, state: &mut State) {
    state.fcw = match random.below(8) {
        0..=3 => 0x37f,
        4..=6 => 0x7f | random.bits() as u16 & 0x1f00,
        _ => 0x40 | random.bits() as u16 & 0x1f3f,
    };
    // Condition codes, stack top and error flags; the summary follows from them.
    state.fsw = random.bits() as u16 & 0x7f00;
    if random.chance(1, 4) {
        state.fsw |= random.bits() as u16 & 0x7f;
    }
    if state.fsw & !state.fcw & 0x3f != 0 {
        state.fsw |= 0x8080;
    }
    state.tags = match random.below(4) {
        0 => 0xff,
        1 => random.bits() as u8,
        // ST(0) and ST(1) full.
        _ => 3u8.rotate_left(u32::from(state.fsw >> 11 & 7)) | random.bits() as u8,
    };
    state.st = std::array::from_fn(|_| extended(random));
}
