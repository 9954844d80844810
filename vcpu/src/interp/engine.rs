//! Runs the CPU: delivers what is due between instructions, then runs a block.

use super::block::Block;
use super::cache::BlockCache;
use crate::core::Core;
use crate::fault::Fault;
use crate::isa::opflag;
use crate::state::regs::gpr;
use crate::state::{Activity, Shadow, rflags};
use crate::system::deliver::TripleFault;

/// Why `Interpreter::run` came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The icount limit is reached.
    Limit,
    /// An instruction used a device or changed what interrupts it: deadlines and effects want a look.
    Service,
    /// The CPU waits in HLT.
    Halted,
    /// A fault during delivery of a double fault.
    TripleFault,
    /// Exceptions follow one another and no instruction ever retires.
    Stuck,
}

/// Rounds without a retired instruction after which the CPU counts as stuck.
const ROUNDS_WITHOUT_PROGRESS_MAX: u32 = 100_000;

/// The reference engine.
#[derive(Default)]
pub struct Interpreter {
    cache: BlockCache,
}

impl Interpreter {
    /// Runs until `limit` instructions have retired in all, or something else stops the CPU.
    pub fn run(&mut self, core: &mut Core, limit: u64) -> Stop {
        let mut rounds = 0;
        let mut last_icount = core.cpu.icount;
        loop {
            if core.cpu.icount != last_icount {
                (rounds, last_icount) = (0, core.cpu.icount);
            } else if rounds > ROUNDS_WITHOUT_PROGRESS_MAX {
                return Stop::Stuck;
            }
            rounds += 1;
            if let Some(stop) = self.between(core) {
                return stop;
            }
            if core.cpu.icount >= limit {
                return Stop::Limit;
            }
            self.cache.drop_stale(core);
            let result = match self.cache.find(core) {
                Ok(block) => self.run_block(core, &block, limit),
                Err(fault) => self.fetch_fault(core, fault),
            };
            match result {
                Ok(false) => {}
                Ok(true) => return Stop::Service,
                Err(TripleFault) => {
                    core.cpu.activity = Activity::Shutdown;
                    return Stop::TripleFault;
                }
            }
        }
    }

    /// Drops all decoded blocks: the thunks they refer to are gone, or the machine was reset.
    pub fn forget_blocks(&mut self) {
        self.cache.clear();
    }

    /// Delivers traps and interrupts that are due before the next instruction (SDM 3A 6.9).
    #[inline(always)]
    fn between(&mut self, core: &mut Core) -> Option<Stop> {
        let quiet = core.cpu.activity == Activity::Running
            && core.cpu.debug_pending == 0
            && !core.chipset.interrupt_pending()
            && !core.chipset.nmi_pending();
        if quiet { None } else { self.between_slow(core) }
    }

    #[inline(never)]
    fn between_slow(&mut self, core: &mut Core) -> Option<Stop> {
        if core.cpu.activity == Activity::Shutdown {
            return Some(Stop::TripleFault);
        }
        let delivered = core.deliver_pending();
        match delivered {
            Err(TripleFault) => {
                core.cpu.activity = Activity::Shutdown;
                Some(Stop::TripleFault)
            }
            Ok(()) if core.cpu.activity == Activity::Halted => Some(Stop::Halted),
            Ok(()) => None,
        }
    }

    fn fetch_fault(&mut self, core: &mut Core, fault: Fault) -> Result<bool, TripleFault> {
        core.op_index = 0;
        core.cpu.shadow = Shadow::None;
        core.deliver_exception(fault)?;
        Ok(false)
    }

    /// Runs a block, or as much of it as the limit allows. True when the caller should look at devices.
    #[inline(always)]
    fn run_block(&mut self, core: &mut Core, block: &Block, limit: u64) -> Result<bool, TripleFault> {
        let room = limit - core.cpu.icount;
        let mut count = block.ops.len().min(room.min(u64::from(u32::MAX)) as usize);
        core.leave_block = false;
        core.jumped = false;
        core.service = false;
        let mut trap = false;
        if core.cpu.shadow != Shadow::None
            || core.cpu.eflags & (rflags::TF | rflags::RF) != 0
            || core.breakpoints_armed()
        {
            count = 1;
            trap = core.begin_step()?;
            if core.leave_block {
                return Ok(false);
            }
        }
        core.cpu.data.gpr[gpr::BLOCK_RIP] = core.cpu.rip;
        let (done, fault) = execute(core, block, count);
        core.op_index = 0;
        core.cpu.icount += done as u64;
        if let Some(fault) = fault {
            core.cpu.rip = core.this_rip(&block.ops[done]);
            core.deliver_exception(fault)?;
            return Ok(core.service);
        }
        let last = &block.ops[done - 1];
        if !core.jumped && last.flags & opflag::SETS_RIP == 0 {
            let next = core.next_rip(last);
            core.cpu.rip = if block.key.bits == 64 { next } else { next & 0xffff_ffff };
        }
        if trap {
            core.note_single_step();
        }
        Ok(core.service)
    }
}

/// Runs the first `count` ops: how many retired, and the fault of the next one.
#[inline(always)]
fn execute(core: &mut Core, block: &Block, count: usize) -> (usize, Option<Fault>) {
    for (index, op) in block.ops[..count].iter().enumerate() {
        core.op_index = index as u32;
        if let Err(fault) = (op.run)(core, op) {
            return (index, Some(fault));
        }
        if core.leave_block {
            return (index + 1, None);
        }
    }
    (count, None)
}
