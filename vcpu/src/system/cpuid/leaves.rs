//! The CPUID leaves of a model (SDM 2, CPUID), and the CPUID instruction.

use super::Model;
use super::feature::{Feature, Word};
use crate::core::Core;
use crate::fault::Fault;
use crate::isa::{Op, Row, last};
use crate::mem::walk::PHYSICAL_BITS;
use crate::state::cr4;
use crate::state::regs::gpr;
use crate::system::mode::xcr0;
use iced_x86::Code;

/// The instructions of this file.
pub const ROWS: &[Row] = &[last(Code::Cpuid, cpuid)];

/// TSC frequency that CPUID tells: two ticks a guest nanosecond (system/tsc.rs).
pub const TSC_HZ: u64 = 2_000_000_000;
/// Crystal clock of leaf 15H; Linux takes it for the APIC timer's frequency.
pub const CRYSTAL_HZ: u32 = 1_000_000_000;

/// Highest subleaf of leaf 7.
const LEAF_7_SUBLEAF_MAX: u32 = 2;
const BASIC_MAX: u32 = 0x16;
const HYPERVISOR_BASE: u32 = 0x4000_0000;
/// Leaf that tells the TSC and APIC timer frequency to guests that know it from VMware and Xen.
const HYPERVISOR_MAX: u32 = 0x4000_0010;
const HYPERVISOR_SIGNATURE: &[u8; 12] = b"ReprisReplay";
const EXTENDED_BASE: u32 = 0x8000_0000;
const EXTENDED_MAX: u32 = 0x8000_0008;
const OSXSAVE: u32 = 1 << 27;

/// XSAVE area: legacy region and header, then the AVX component (SDM 1, 13.4).
const XSAVE_LEGACY_BYTES: u32 = 576;
const AVX_STATE_BYTES: u32 = 256;

/// What CPUID shows beside the model.
#[derive(Clone, Copy, Debug, Default)]
pub struct Surroundings {
    /// Initial APIC id.
    pub apic_id: u32,
    /// Logical processors of the machine.
    pub cpu_count: u32,
    /// CR4: leaf 1 shows CR4.OSXSAVE.
    pub cr4: u64,
    /// XCR0: leaf DH shows the size of its XSAVE area.
    pub xcr0: u64,
}

/// Deterministic cache parameters of leaf 4.
struct Cache {
    kind: u32,
    level: u32,
    bytes: u32,
    ways: u32,
    /// All CPUs share it.
    shared: bool,
}

const LINE_BYTES: u32 = 64;
const CACHES: &[Cache] = &[
    Cache { kind: 1, level: 1, bytes: 32 << 10, ways: 8, shared: false },
    Cache { kind: 2, level: 1, bytes: 32 << 10, ways: 8, shared: false },
    Cache { kind: 3, level: 2, bytes: 1 << 20, ways: 16, shared: false },
    Cache { kind: 3, level: 3, bytes: 16 << 20, ways: 16, shared: true },
];

impl Model {
    /// EAX, EBX, ECX, EDX of a leaf.
    pub fn cpuid(&self, leaf: u32, subleaf: u32, around: &Surroundings) -> [u32; 4] {
        match leaf {
            0..=BASIC_MAX => self.basic(leaf, subleaf, around),
            HYPERVISOR_BASE..=0x4fff_ffff => self.hypervisor(leaf),
            EXTENDED_BASE..=EXTENDED_MAX => self.extended(leaf),
            // A leaf beyond the highest one shows the highest basic leaf (SDM 2, CPUID).
            _ => self.basic(BASIC_MAX, subleaf, around),
        }
    }

    fn basic(&self, leaf: u32, subleaf: u32, around: &Surroundings) -> [u32; 4] {
        let word = |word| self.features.word(word);
        match leaf {
            0 => {
                let [ebx, edx, ecx] = words(b"GenuineIntel");
                [BASIC_MAX, ebx, ecx, edx]
            }
            1 => self.version(around),
            // All caches: see leaf 4; no TLB information; prefetch of 64 bytes.
            2 => [0x00fe_ff01, 0xf0, 0, 0],
            4 => cache_leaf(subleaf, around),
            6 => [word(Word::L6Eax), 0, 0, 0],
            7 if subleaf == 0 => {
                [LEAF_7_SUBLEAF_MAX, word(Word::L7Ebx), word(Word::L7Ecx), word(Word::L7Edx)]
            }
            7 if subleaf == 2 => [0, 0, 0, word(Word::L72Edx)],
            0xb => topology(subleaf, around),
            0xd if self.has(Feature::Xsave) => self.xsave(subleaf, around),
            0x15 => [1, (TSC_HZ / u64::from(CRYSTAL_HZ)) as u32, CRYSTAL_HZ, 0],
            0x16 => [(TSC_HZ / 1_000_000) as u32, (TSC_HZ / 1_000_000) as u32, 100, 0],
            _ => [0; 4],
        }
    }

    /// Family, model and stepping as leaf 1 and EDX after reset show them.
    pub fn signature(&self) -> u32 {
        let (low, high) = if self.family >= 15 { (15, self.family - 15) } else { (self.family, 0) };
        self.stepping | (self.model & 15) << 4 | low << 8 | (self.model >> 4 & 15) << 16 | (high & 0xff) << 20
    }

    /// Leaf 1: version, APIC id, features.
    fn version(&self, around: &Surroundings) -> [u32; 4] {
        let ebx = (LINE_BYTES / 8) << 8 | (around.cpu_count.min(255)) << 16 | (around.apic_id & 0xff) << 24;
        let mut ecx = self.features.word(Word::L1Ecx);
        if around.cr4 & cr4::OSXSAVE != 0 {
            ecx |= OSXSAVE;
        }
        let mut edx = self.features.word(Word::L1Edx);
        if around.cpu_count > 1 {
            edx |= 1 << 28;
        }
        [self.signature(), ebx, ecx, edx]
    }

    /// Leaf DH: sizes in the standard format.
    fn xsave(&self, subleaf: u32, around: &Surroundings) -> [u32; 4] {
        let size = |bits: u64| XSAVE_LEGACY_BYTES + if bits & xcr0::AVX != 0 { AVX_STATE_BYTES } else { 0 };
        let all = self.xcr0_bits();
        match subleaf {
            0 => [all as u32, size(around.xcr0), size(all), 0],
            1 => [self.features.word(Word::LDEax), 0, 0, 0],
            2 if all & xcr0::AVX != 0 => [AVX_STATE_BYTES, XSAVE_LEGACY_BYTES, 0, 0],
            _ => [0; 4],
        }
    }

    fn hypervisor(&self, leaf: u32) -> [u32; 4] {
        if !self.has(Feature::Hypervisor) {
            return [0; 4];
        }
        match leaf {
            HYPERVISOR_BASE => {
                let [ebx, ecx, edx] = words(HYPERVISOR_SIGNATURE);
                [HYPERVISOR_MAX, ebx, ecx, edx]
            }
            HYPERVISOR_MAX => [(TSC_HZ / 1000) as u32, CRYSTAL_HZ / 1000, 0, 0],
            _ => [0; 4],
        }
    }

    fn extended(&self, leaf: u32) -> [u32; 4] {
        let word = |word| self.features.word(word);
        match leaf {
            EXTENDED_BASE => [EXTENDED_MAX, 0, 0, 0],
            0x8000_0001 => [0, 0, word(Word::X1Ecx), word(Word::X1Edx)],
            0x8000_0002..=0x8000_0004 => self.brand_part((leaf - 0x8000_0002) as usize),
            // L2: size in KiB, associativity code 8 (16 ways), line size.
            0x8000_0006 => [0, 0, (CACHES[2].bytes >> 10) << 16 | 8 << 12 | LINE_BYTES, 0],
            0x8000_0007 => [0, 0, 0, word(Word::X7Edx)],
            0x8000_0008 => [PHYSICAL_BITS | 48 << 8, 0, 0, 0],
            _ => [0; 4],
        }
    }

    fn brand_part(&self, part: usize) -> [u32; 4] {
        let mut text = [0; 48];
        text[..self.brand.len()].copy_from_slice(self.brand.as_bytes());
        std::array::from_fn(|n| {
            let at = part * 16 + n * 4;
            u32::from_le_bytes([text[at], text[at + 1], text[at + 2], text[at + 3]])
        })
    }
}

/// Twelve characters as three registers hold them.
fn words(text: &[u8; 12]) -> [u32; 3] {
    std::array::from_fn(|n| {
        u32::from_le_bytes([text[4 * n], text[4 * n + 1], text[4 * n + 2], text[4 * n + 3]])
    })
}

fn cache_leaf(subleaf: u32, around: &Surroundings) -> [u32; 4] {
    let Some(cache) = CACHES.get(subleaf as usize) else { return [0; 4] };
    let cpus = around.cpu_count.max(1);
    let sharing = if cache.shared { cpus.next_power_of_two() } else { 1 };
    let cores = cpus.next_power_of_two().min(64);
    let sets = cache.bytes / (cache.ways * LINE_BYTES);
    // Bit 8: needs no initialisation by software.
    let eax = cache.kind | cache.level << 5 | 1 << 8 | (sharing - 1) << 14 | (cores - 1) << 26;
    [eax, (LINE_BYTES - 1) | (cache.ways - 1) << 22, sets - 1, 0]
}

/// Leaf BH: one thread a core, all cores in one package.
fn topology(subleaf: u32, around: &Surroundings) -> [u32; 4] {
    let cpus = around.cpu_count.max(1);
    match subleaf {
        0 => [0, 1, 1 << 8, around.apic_id],
        1 => [cpus.next_power_of_two().trailing_zeros(), cpus, 1 | 2 << 8, around.apic_id],
        _ => [0, 0, subleaf & 0xff, around.apic_id],
    }
}

/// CPUID serialises: the block ends after it.
fn cpuid(core: &mut Core, _op: &Op) -> Result<(), Fault> {
    let around = Surroundings {
        apic_id: core.cpu.apic_id,
        cpu_count: core.cpu.cpu_count,
        cr4: core.cpu.cr4,
        xcr0: core.cpu.xcr0,
    };
    let registers = &core.cpu.data.gpr;
    let (leaf, subleaf) = (registers[gpr::RAX] as u32, registers[gpr::RCX] as u32);
    let [eax, ebx, ecx, edx] = core.cpu.model.cpuid(leaf, subleaf, &around).map(u64::from);
    let registers = &mut core.cpu.data.gpr;
    registers[gpr::RAX] = eax;
    registers[gpr::RBX] = ebx;
    registers[gpr::RCX] = ecx;
    registers[gpr::RDX] = edx;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v3(leaf: u32, subleaf: u32) -> [u32; 4] {
        let around = Surroundings { apic_id: 0, cpu_count: 1, cr4: 0, xcr0: 1 };
        Model::named("x86-64-v3").expect("the default").cpuid(leaf, subleaf, &around)
    }

    #[test]
    fn vendor_and_signature() {
        assert_eq!(v3(0, 0), [0x16, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]);
        assert_eq!(v3(1, 0)[0], 0x606a6);
        assert_eq!(v3(1, 0)[1], 0x0001_0800);
        assert_eq!(v3(0x4000_0000, 0)[1], u32::from_le_bytes(*b"Repr"));
    }

    #[test]
    fn frequency_of_leaf_15h() {
        let [denominator, numerator, crystal, _] = v3(0x15, 0);
        assert_eq!(u64::from(crystal) * u64::from(numerator) / u64::from(denominator), TSC_HZ);
    }

    #[test]
    fn xsave_sizes() {
        assert_eq!(v3(0xd, 0), [7, 576, 832, 0]);
        assert_eq!(v3(0xd, 1)[0], 1);
        assert_eq!(v3(0xd, 2), [256, 576, 0, 0]);
        let around = Surroundings { xcr0: 7, ..Surroundings::default() };
        assert_eq!(Model::named("SandyBridge").expect("a model").cpuid(0xd, 0, &around)[1], 832);
        assert_eq!(Model::named("Nehalem").expect("a model").cpuid(0xd, 0, &around), [0; 4]);
    }

    #[test]
    fn caches_multiply_up() {
        for (index, cache) in CACHES.iter().enumerate() {
            let [_, ebx, ecx, _] = v3(4, index as u32);
            let ways = (ebx >> 22) + 1;
            let line = (ebx & 0xfff) + 1;
            assert_eq!(ways * line * (ecx + 1), cache.bytes);
        }
        assert_eq!(v3(4, 4), [0; 4]);
    }

    #[test]
    fn osxsave_follows_cr4() {
        let around = Surroundings { cr4: cr4::OSXSAVE, ..Surroundings::default() };
        let model = Model::named("x86-64-v3").expect("the default");
        assert_ne!(model.cpuid(1, 0, &around)[2] & OSXSAVE, 0);
        assert_eq!(v3(1, 0)[2] & OSXSAVE, 0);
    }
}
