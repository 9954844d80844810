//! Chance for tests, with a seed that is printed.

/// SplitMix64.
pub struct Random(u64);

impl Random {
    /// `REPRISE_TEST_SEED` repeats a run.
    pub fn new(what: &str) -> Random {
        let seed = match std::env::var("REPRISE_TEST_SEED") {
            Ok(seed) => seed.parse().expect("REPRISE_TEST_SEED is a number"),
            Err(_) => u64::from(std::process::id()) << 20 ^ 0x9e37_79b9,
        };
        println!("{what}: REPRISE_TEST_SEED={seed}");
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}
