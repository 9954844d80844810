//! Decoded blocks, by physical address and by where the CPU just jumped.

use super::block::{Block, BlockKey};
use super::decode::decode_block;
use crate::core::Core;
use crate::fault::Fault;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Entries of the jump cache; a power of two.
const JUMP_ENTRIES: usize = 1 << 14;
/// Blocks kept before all are dropped.
const BLOCKS_MAX: usize = 1 << 19;

/// A recently used block, by linear address.
#[derive(Clone, Default)]
struct Jump {
    rip: u64,
    /// Translation generation, cache epoch, code size and privilege under which it was found.
    context: u64,
    block: Option<Rc<Block>>,
}

/// All decoded blocks.
pub struct BlockCache {
    blocks: BTreeMap<BlockKey, Rc<Block>>,
    /// Keys of the blocks that have bytes in a page, by page number.
    pages: BTreeMap<u64, Vec<BlockKey>>,
    jumps: Vec<Jump>,
    /// Rises when blocks are dropped.
    epoch: u64,
}

impl Default for BlockCache {
    fn default() -> Self {
        BlockCache {
            blocks: BTreeMap::new(),
            pages: BTreeMap::new(),
            jumps: vec![Jump::default(); JUMP_ENTRIES],
            epoch: 1,
        }
    }
}

impl BlockCache {
    /// The block at the CPU's RIP, decoded if need be.
    #[inline(always)]
    pub fn find(&mut self, core: &mut Core) -> Result<Rc<Block>, Fault> {
        let rip = core.cpu.rip;
        let context = self.context(core);
        let slot = (rip ^ rip >> 14) as usize & (JUMP_ENTRIES - 1);
        let jump = &self.jumps[slot];
        if jump.rip == rip && jump.context == context {
            if let Some(block) = &jump.block {
                return Ok(block.clone());
            }
        }
        self.find_slow(core, slot)
    }

    /// Both counters only rise, so their sum changes when either does.
    fn context(&self, core: &Core) -> u64 {
        let mode = u64::from(core.mode.bits >> 5) | u64::from(core.mode.cpl == 3) << 2;
        (core.cpu.tlb.generation() + self.epoch) << 3 | mode
    }

    #[inline(never)]
    fn find_slow(&mut self, core: &mut Core, slot: usize) -> Result<Rc<Block>, Fault> {
        let rip = core.cpu.rip;
        let gpa = core.fetch_address(rip)?;
        let key = BlockKey { gpa, bits: core.mode.bits };
        let known = self.blocks.get(&key).cloned();
        let block = match known {
            Some(block) if self.still_right(core, &block)? => block,
            _ => self.insert(decode_block(core, rip, gpa)?),
        };
        // The walk above may have set accessed bits in a page that holds code.
        self.drop_stale(core);
        self.jumps[slot] = Jump { rip, context: self.context(core), block: Some(block.clone()) };
        Ok(block)
    }

    /// A block that crosses a page is right while its second page is where it was.
    fn still_right(&self, core: &mut Core, block: &Block) -> Result<bool, Fault> {
        let Some(second) = block.second_page else { return Ok(true) };
        let mask = if block.key.bits == 64 { u64::MAX } else { 0xffff_ffff };
        let next = ((core.cpu.rip | 0xfff) + 1) & mask;
        Ok(core.fetch_address(next)? == second)
    }

    fn insert(&mut self, block: Block) -> Rc<Block> {
        if self.blocks.len() >= BLOCKS_MAX {
            self.clear();
        }
        let key = block.key;
        let block = Rc::new(block);
        if self.blocks.insert(key, block.clone()).is_none() {
            let first = key.gpa >> 12;
            self.pages.entry(first).or_default().push(key);
            if let Some(second) = block.second_page {
                self.pages.entry(second >> 12).or_default().push(key);
            }
        }
        block
    }

    /// Drops the blocks of pages whose code was overwritten.
    #[inline(always)]
    pub fn drop_stale(&mut self, core: &mut Core) {
        if core.mem.ram.has_stale_code() {
            self.drop_stale_pages(core);
        }
    }

    #[inline(never)]
    fn drop_stale_pages(&mut self, core: &mut Core) {
        self.epoch += 1;
        for page in core.mem.ram.take_stale_code() {
            core.mem.ram.forget_code(page);
            for key in self.pages.remove(&page).unwrap_or_default() {
                self.blocks.remove(&key);
            }
        }
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.blocks.clear();
        self.pages.clear();
        self.jumps.fill(Jump::default());
        self.epoch += 1;
    }
}
