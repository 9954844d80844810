//! RDRAND and RDSEED: a seeded generator. The seed is an input of the run; what comes after follows from it.

use crate::core::Core;
use crate::fault::Fault;
use crate::isa::{Op, Row, row};
use crate::mem::access::Word;
use crate::state::Status;
use iced_x86::Code;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// The instructions of this file.
pub const ROWS: &[Row] = &[
    row(Code::Rdrand_r16, random::<u16>),
    row(Code::Rdrand_r32, random::<u32>),
    row(Code::Rdrand_r64, random::<u64>),
    row(Code::Rdseed_r16, random::<u16>),
    row(Code::Rdseed_r32, random::<u32>),
    row(Code::Rdseed_r64, random::<u64>),
];

/// The machine's random numbers: ChaCha20 from a seed of 32 bytes.
#[derive(Clone, Debug)]
pub struct Entropy {
    generator: ChaCha20Rng,
}

/// Where a generator stands; all that has to be saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct EntropyState {
    /// Seed of the generator.
    pub seed: [u8; 32],
    /// 32-bit words taken so far.
    pub word_position: u128,
}

impl Entropy {
    /// A generator at its start.
    pub fn new(seed: [u8; 32]) -> Entropy {
        Entropy { generator: ChaCha20Rng::from_seed(seed) }
    }

    /// A generator where a saved one stood.
    pub fn restore(state: &EntropyState) -> Entropy {
        let mut generator = ChaCha20Rng::from_seed(state.seed);
        generator.set_word_pos(state.word_position);
        Entropy { generator }
    }

    /// Where the generator stands.
    pub fn save(&self) -> EntropyState {
        EntropyState { seed: self.generator.get_seed(), word_position: self.generator.get_word_pos() }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.generator.next_u64()
    }

    /// Fills a buffer, as a virtio-rng device inside the machine would.
    pub fn fill(&mut self, into: &mut [u8]) {
        self.generator.fill_bytes(into);
    }
}

/// RDRAND and RDSEED always succeed: CF set, the other status flags clear. Every size takes 64 bits of the stream.
fn random<T: Word>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let value = core.entropy.next_u64();
    let register = &mut core.cpu.data.gpr[usize::from(op.rm & 15)];
    *register = if T::SIZE == 2 { *register & !0xffff | value & 0xffff } else { T::from_u64(value).to_u64() };
    core.cpu.data.status = Status(Status::CF);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// First block of the ChaCha20 key stream for an all-zero key and nonce (RFC 7539, A.1 test vector 1).
    #[test]
    fn stream_is_chacha20() {
        let mut entropy = Entropy::new([0; 32]);
        assert_eq!(entropy.next_u64().to_le_bytes(), [0x76, 0xb8, 0xe0, 0xad, 0xa0, 0xf1, 0x3d, 0x90]);
    }

    #[test]
    fn a_saved_generator_goes_on() {
        let mut entropy = Entropy::new([7; 32]);
        for _ in 0..37 {
            entropy.next_u64();
        }
        let mut other = Entropy::restore(&entropy.save());
        assert_eq!(other.next_u64(), entropy.next_u64());
        let mut bytes = [[0; 5]; 2];
        entropy.fill(&mut bytes[0]);
        other.fill(&mut bytes[1]);
        assert_eq!(bytes[0], bytes[1]);
        assert_eq!(entropy.save(), other.save());
    }
}
