//! Digests of the machine's state, compared between recording and replay.

use crate::core::Core;
use crate::mem::ram::PAGE_SIZE;
use replay::codec;
use replay::digest::{self, MemoryDigest};
use xxhash_rust::xxh3::Xxh3;

/// A running digest of RAM: pages are hashed again only after they were written.
pub struct RamDigest {
    /// Pages written since the last update.
    written: Vec<u64>,
    /// What every page adds to the sum, as of the last update.
    pages: Vec<u64>,
    sum: MemoryDigest,
}

impl RamDigest {
    /// For a RAM that spans `bytes` of guest physical addresses.
    pub fn new(bytes: u64) -> RamDigest {
        RamDigest {
            written: Vec::new(),
            pages: vec![0; (bytes / PAGE_SIZE) as usize],
            sum: MemoryDigest::default(),
        }
    }

    /// Notes pages that were written.
    pub fn note(&mut self, pages: &[u64]) {
        self.written.extend(pages);
    }

    /// Digest of RAM now, when every written page was noted (`replay::digest` says how it is made).
    pub fn update(&mut self, core: &Core) -> u64 {
        self.written.sort_unstable();
        self.written.dedup();
        for page in std::mem::take(&mut self.written) {
            let new = digest::of_page(page, core.mem.ram.page(page));
            let old = std::mem::replace(&mut self.pages[page as usize], new);
            self.sum.replace(old, new);
        }
        self.sum.value()
    }
}

/// Digest of everything but RAM: CPU, translations, clock, chipset.
pub fn registers(core: &Core) -> u64 {
    let mut hash = Xxh3::new();
    let cpu = &core.cpu;
    let mut word = |value: u64| hash.update(&value.to_le_bytes());
    cpu.data.gpr[..16].iter().copied().for_each(&mut word);
    cpu.data.ymm.iter().flatten().copied().for_each(&mut word);
    word(cpu.rip);
    word(cpu.icount);
    word(u64::from(core.rflags()) | u64::from(cpu.data.mxcsr) << 32);
    for segment in cpu.segments.iter().chain([&cpu.ldtr, &cpu.tr]) {
        word(
            u64::from(segment.selector)
                | u64::from(segment.attributes) << 16
                | u64::from(segment.limit) << 32,
        );
        word(segment.base);
    }
    for table in [cpu.gdtr, cpu.idtr] {
        word(table.base);
        word(u64::from(table.limit));
    }
    [cpu.cr0, cpu.cr2, cpu.cr3, cpu.cr4, cpu.xcr0, cpu.efer, cpu.debug_pending]
        .into_iter()
        .for_each(&mut word);
    cpu.pdpte.iter().chain(&cpu.dr).copied().for_each(&mut word);
    word(cpu.activity as u64 | (cpu.shadow as u64) << 8 | u64::from(cpu.nmi_blocked) << 16);
    for (slot, entry) in cpu.tlb.entries() {
        word(slot);
        word(entry);
    }
    word(core.vtime_now().0);
    hash.update(&cpu.data.fx.0[..160]);
    hash.update(&codec::encode(&cpu.msr));
    hash.update(&codec::encode(&core.chipset));
    hash.update(&codec::encode(&core.virtio));
    hash.update(&codec::encode(&core.entropy.save()));
    hash.digest()
}
