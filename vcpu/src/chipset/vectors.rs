//! A set of interrupt vectors: the shape of the local APIC's IRR, ISR and TMR.

use serde::{Deserialize, Serialize};

/// 256 bits, one a vector, in eight registers of 32 (SDM 3A 11.8.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VectorSet([u32; 8]);

impl VectorSet {
    /// Adds or removes a vector.
    pub fn set(&mut self, vector: u8, on: bool) {
        let bit = 1 << (vector & 31);
        let word = &mut self.0[usize::from(vector >> 5)];
        *word = if on { *word | bit } else { *word & !bit };
    }

    /// Whether the vector is in the set.
    pub fn contains(&self, vector: u8) -> bool {
        self.0[usize::from(vector >> 5)] & 1 << (vector & 31) != 0
    }

    /// The highest vector, which is the one with the highest priority.
    pub fn highest(&self) -> Option<u8> {
        (0..8)
            .rev()
            .find(|&i| self.0[i] != 0)
            .map(|i| (i as u8) << 5 | (31 - self.0[i].leading_zeros() as u8))
    }

    /// Register `index` of the eight.
    pub fn word(&self, index: usize) -> u32 {
        self.0[index & 7]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn highest_vector_wins() {
        let mut set = VectorSet::default();
        assert_eq!(set.highest(), None);
        for vector in [0x31, 0x10, 0xff] {
            set.set(vector, true);
        }
        assert_eq!(set.highest(), Some(0xff));
        set.set(0xff, false);
        assert_eq!((set.highest(), set.word(1)), (Some(0x31), 1 << 17));
        assert!(set.contains(0x10) && !set.contains(0x11));
    }
}
