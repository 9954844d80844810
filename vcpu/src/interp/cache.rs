//! Decoded blocks, by physical address and by where the CPU just jumped.

use super::block::{Block, BlockKey};
use super::decode::decode_block;
use crate::core::Core;
use crate::fault::Fault;
use crate::state::seg;

/// Entries of the jump cache; a power of two.
const JUMP_ENTRIES: usize = 1 << 14;
/// Blocks kept before all are dropped.
const BLOCKS_MAX: usize = 1 << 19;

/// Number of a block in the cache; it may be given out again after the block was dropped.
pub type BlockId = u32;

/// A recently used block, by linear address.
#[derive(Clone, Copy, Default)]
struct Jump {
    /// CS base and RIP added up; a 32-bit sum is not cut off.
    address: u64,
    /// Translation generation, cache epoch, code size and privilege under which it was found; 0: none.
    context: u64,
    block: BlockId,
}

/// The blocks of one physical page.
#[derive(Default)]
struct PageBlocks {
    /// Blocks that begin here, sorted by key.
    own: Vec<(BlockKey, BlockId)>,
    /// Blocks of another page whose last instruction crosses into this one.
    crossing: Vec<BlockKey>,
}

/// Pages of one group; a power of two.
const GROUP_PAGES: usize = 512;
type PageGroup = [Option<Box<PageBlocks>>; GROUP_PAGES];

/// All decoded blocks.
pub struct BlockCache {
    blocks: Vec<Option<Block>>,
    free: Vec<BlockId>,
    /// By physical page number, in groups: RAM may be large and code far up in it.
    pages: Vec<Option<Box<PageGroup>>>,
    jumps: Vec<Jump>,
    /// Rises when blocks are dropped.
    epoch: u64,
}

impl Default for BlockCache {
    fn default() -> Self {
        let jumps = vec![Jump::default(); JUMP_ENTRIES];
        BlockCache { blocks: vec![], free: vec![], pages: vec![], jumps, epoch: 1 }
    }
}

impl BlockCache {
    /// A block that `find` gave out since blocks were last dropped.
    #[inline(always)]
    pub fn block(&self, id: BlockId) -> &Block {
        self.blocks[id as usize].as_ref().expect("ids are used before blocks are dropped again")
    }

    /// The block at the CPU's RIP, decoded if need be.
    #[inline(always)]
    pub fn find(&mut self, core: &mut Core) -> Result<BlockId, Fault> {
        let address = core.cpu.rip.wrapping_add(core.cpu.ea_base[seg::CS]);
        let slot = (address ^ address >> 14) as usize & (JUMP_ENTRIES - 1);
        let jump = &self.jumps[slot];
        if jump.address == address && jump.context == self.context(core) {
            return Ok(jump.block);
        }
        self.find_slow(core, address, slot)
    }

    /// Both counters only rise, so their sum changes when either does.
    #[inline(always)]
    fn context(&self, core: &Core) -> u64 {
        let mode = u64::from(core.mode.bits >> 5) | u64::from(core.mode.cpl == 3) << 2;
        (core.cpu.tlb.generation() + self.epoch) << 3 | mode
    }

    #[inline(never)]
    fn find_slow(&mut self, core: &mut Core, address: u64, slot: usize) -> Result<BlockId, Fault> {
        if core.mode.bits != 64 && core.cpu.rip > u64::from(core.cpu.segments[seg::CS].limit) {
            return Err(Fault::gp(0));
        }
        let linear = address & core.code_mask();
        let gpa = core.fetch_address(linear)?;
        let key = BlockKey { gpa, bits: core.mode.bits };
        // The walk may have set accessed bits in a page that holds code.
        self.drop_stale(core);
        let id = match self.lookup(&key) {
            Some(id) if self.still_right(core, id, linear)? => id,
            _ => {
                if core.thunks.make_room() {
                    // Blocks name host code that is gone.
                    self.clear();
                }
                let block = decode_block(core, linear, gpa)?;
                self.drop_stale(core);
                self.insert(block)
            }
        };
        self.jumps[slot] = Jump { address, context: self.context(core), block: id };
        Ok(id)
    }

    fn lookup(&self, key: &BlockKey) -> Option<BlockId> {
        let number = (key.gpa >> 12) as usize;
        let page = self.pages.get(number / GROUP_PAGES)?.as_ref()?[number % GROUP_PAGES].as_ref()?;
        let at = page.own.binary_search_by(|(own, _)| own.cmp(key)).ok()?;
        Some(page.own[at].1)
    }

    /// A block that crosses a page is right while its second page is where it was.
    fn still_right(&self, core: &mut Core, id: BlockId, linear: u64) -> Result<bool, Fault> {
        let block = self.block(id);
        let Some(second) = block.second_page else { return Ok(true) };
        let next = (linear | 0xfff).wrapping_add(1) & core.code_mask();
        Ok(core.fetch_address(next)? == second)
    }

    fn page(&mut self, gpa: u64) -> &mut PageBlocks {
        let number = (gpa >> 12) as usize;
        let group = number / GROUP_PAGES;
        if group >= self.pages.len() {
            self.pages.resize_with(group + 1, || None);
        }
        let group = self.pages[group].get_or_insert_with(|| Box::new([const { None }; GROUP_PAGES]));
        group[number % GROUP_PAGES].get_or_insert_default()
    }

    fn page_slot(&mut self, number: u64) -> Option<&mut Option<Box<PageBlocks>>> {
        let group = self.pages.get_mut(number as usize / GROUP_PAGES)?.as_mut()?;
        Some(&mut group[number as usize % GROUP_PAGES])
    }

    fn insert(&mut self, block: Block) -> BlockId {
        if self.blocks.len() - self.free.len() >= BLOCKS_MAX {
            self.clear();
        }
        let key = block.key;
        self.remove(&key);
        if let Some(second) = block.second_page {
            self.page(second).crossing.push(key);
        }
        let id = match self.free.pop() {
            Some(id) => {
                self.blocks[id as usize] = Some(block);
                id
            }
            None => {
                self.blocks.push(Some(block));
                (self.blocks.len() - 1) as BlockId
            }
        };
        let own = &mut self.page(key.gpa).own;
        let at = own.partition_point(|(other, _)| *other < key);
        own.insert(at, (key, id));
        id
    }

    /// Drops one block; the caller makes sure that the epoch rises before anybody jumps to it.
    fn remove(&mut self, key: &BlockKey) {
        let Some(Some(page)) = self.page_slot(key.gpa >> 12) else { return };
        if let Ok(at) = page.own.binary_search_by(|(own, _)| own.cmp(key)) {
            let (_, id) = page.own.remove(at);
            self.release(id);
            self.epoch += 1;
        }
    }

    fn release(&mut self, id: BlockId) {
        self.blocks[id as usize] = None;
        self.free.push(id);
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
        for number in core.mem.ram.take_stale_code() {
            core.mem.ram.forget_code(number);
            let Some(page) = self.page_slot(number).and_then(Option::take) else { continue };
            for (_, id) in page.own {
                self.release(id);
            }
            for key in page.crossing {
                self.remove(&key);
            }
        }
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        let epoch = self.epoch + 1;
        *self = BlockCache { epoch, ..BlockCache::default() };
    }
}
