//! Chance from a seed.

/// A generator of numbers (SplitMix64).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// A generator of its own, for another purpose.
    pub fn fork(&mut self) -> Dice {
        Dice(self.next())
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ value >> 31
    }

    /// 0..limit; 0 for a limit of 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        if limit == 0 { 0 } else { self.next() % limit }
    }

    /// 1..=2^bits_max, small numbers as likely as large ones.
    pub fn magnitude(&mut self, bits_max: u64) -> u64 {
        let bits = self.below(bits_max + 1);
        1 + self.below(1 << bits)
    }

    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    pub fn pick(&mut self, letters: &[u8]) -> u8 {
        letters[self.below(letters.len() as u64) as usize]
    }
}
