//! Runs the CPU: delivers what is due between instructions, then runs a block.

use super::block::Block;
use super::cache::BlockCache;
use crate::core::Core;
use crate::fault::{Fault, vector};
use crate::isa::{Op, opflag};
use crate::state::regs::gpr;
use crate::state::{Activity, Shadow, rflags, seg};
use crate::system::deliver::{Kind, Triple};

/// Why `Interpreter::run` came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The icount limit is reached.
    Limit,
    /// An instruction used a device: deadlines, interrupts and effects want a look.
    Service,
    /// The CPU waits in HLT.
    Halted,
    /// A fault during delivery of a double fault.
    TripleFault,
    /// Exceptions follow one another and no instruction ever retires.
    Stuck,
    /// A debugger's breakpoint or watchpoint was met.
    Probe,
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
        if core.probe.is_armed() {
            self.run_as::<true>(core, limit)
        } else {
            self.run_as::<false>(core, limit)
        }
    }

    /// `PROBED`: with a look at what a debugger waits for.
    #[inline(always)]
    fn run_as<const PROBED: bool>(&mut self, core: &mut Core, limit: u64) -> Stop {
        let mut rounds = 0;
        let mut last_icount = core.cpu.icount;
        loop {
            if core.cpu.icount != last_icount {
                (rounds, last_icount) = (0, core.cpu.icount);
            } else if rounds > ROUNDS_WITHOUT_PROGRESS_MAX {
                return Stop::Stuck;
            }
            rounds += 1;
            if PROBED && core.probe.has_hit() {
                return Stop::Probe;
            }
            // At the limit nothing is delivered: events that are due here come first.
            if core.cpu.icount >= limit {
                return Stop::Limit;
            }
            match between(core) {
                Between::Execute => {}
                Between::LookAgain => continue,
                Between::Stop(stop) => return stop,
            }
            if PROBED && core.meets_breakpoint() {
                return Stop::Probe;
            }
            self.cache.drop_stale(core);
            let result = match self.cache.find(core) {
                Ok(id) => run_block::<PROBED>(core, self.cache.block(id), limit),
                Err(fault) => fetch_fault(core, fault),
            };
            match result {
                Ok(false) => {}
                Ok(true) => return Stop::Service,
                Err(Triple) => return shut_down(core),
            }
        }
    }

    /// Drops all decoded blocks: the thunks they refer to are gone, or the machine was reset.
    pub fn forget_blocks(&mut self) {
        self.cache.clear();
    }
}

fn shut_down(core: &mut Core) -> Stop {
    core.cpu.activity = Activity::Shutdown;
    Stop::TripleFault
}

/// What comes after a look at what is pending between two instructions.
enum Between {
    Execute,
    /// Something was delivered. More may be pending, and no instruction of the handler runs before it: else the
    /// place of its delivery would depend on where a block ends.
    LookAgain,
    Stop(Stop),
}

/// Delivers traps and interrupts that are due before the next instruction.
#[inline(always)]
fn between(core: &mut Core) -> Between {
    let interrupt = core.chipset.interrupt_pending() && core.cpu.eflags & rflags::IF != 0;
    let quiet = core.cpu.activity == Activity::Running
        && core.cpu.debug_pending == 0
        && !interrupt
        && !core.chipset.nmi_pending();
    if quiet { Between::Execute } else { between_slow(core) }
}

#[inline(never)]
fn between_slow(core: &mut Core) -> Between {
    if core.cpu.activity == Activity::Shutdown {
        return Between::Stop(Stop::TripleFault);
    }
    match deliver_pending(core) {
        Err(Triple) => Between::Stop(shut_down(core)),
        Ok(true) => Between::LookAgain,
        Ok(false) if core.cpu.activity == Activity::Halted => Between::Stop(Stop::Halted),
        Ok(false) => Between::Execute,
    }
}

/// Delivers the most urgent of what is pending (SDM 3A table 6-2); false: there is nothing.
fn deliver_pending(core: &mut Core) -> Result<bool, Triple> {
    if core.take_debug_trap() {
        return deliver_interrupt(core, vector::DB, Kind::Trap);
    }
    let shadow = core.cpu.shadow;
    if shadow != Shadow::MovSs && !core.cpu.nmi_blocked && core.chipset.take_nmi() {
        return deliver_interrupt(core, vector::NMI, Kind::Nmi);
    }
    if shadow == Shadow::None && core.cpu.eflags & rflags::IF != 0 && core.chipset.interrupt_pending() {
        let now = core.vtime_now();
        if let Some(vector) = core.chipset.acknowledge(now) {
            return deliver_interrupt(core, vector, Kind::External);
        }
    }
    Ok(false)
}

/// An instruction breakpoint comes before the fault of the fetch (SDM 3A table 6-2).
fn fetch_fault(core: &mut Core, fault: Fault) -> Result<bool, Triple> {
    let fault = core.begin_step().err().unwrap_or(fault);
    deliver_exception(core, fault)?;
    Ok(false)
}

fn deliver_interrupt(core: &mut Core, vector: u8, kind: Kind) -> Result<bool, Triple> {
    core.delivered_icount = Some(core.cpu.icount);
    core.deliver_interrupt(vector, kind)?;
    Ok(true)
}

fn deliver_exception(core: &mut Core, fault: Fault) -> Result<(), Triple> {
    core.delivered_icount = Some(core.cpu.icount);
    core.deliver_exception(fault)
}

/// Runs a block, or as much of it as the limit allows. True when the caller should look at devices.
#[inline(always)]
fn run_block<const PROBED: bool>(core: &mut Core, block: &Block, limit: u64) -> Result<bool, Triple> {
    let room = (limit - core.cpu.icount).min(u64::from(u32::MAX)) as usize;
    let mut count = block.ops.len().min(room);
    if PROBED {
        count = count.min(core.ops_before_breakpoint(&block.ops));
    }
    core.leave_block = false;
    core.jumped = false;
    core.service = false;
    let alone = core.stepping();
    if alone {
        count = 1;
        if let Err(fault) = core.begin_step() {
            deliver_exception(core, fault)?;
            return Ok(false);
        }
    }
    if block.key.bits != 64 {
        count = count.min(inside_limit(core, block));
        if count == 0 {
            core.deliver_exception(Fault::gp(0))?;
            return Ok(false);
        }
    }
    core.cpu.data.gpr[gpr::BLOCK_RIP] = core.cpu.rip;
    let (done, fault) = execute(core, block, count);
    core.op_index = 0;
    core.cpu.icount += done as u64;
    if let Some(fault) = fault {
        core.cpu.rip = core.this_rip(&block.ops[done]);
        deliver_exception(core, fault)?;
        return Ok(core.service);
    }
    let last = &block.ops[done - 1];
    if !core.jumped && last.flags & opflag::SETS_RIP == 0 {
        let next = core.next_rip(last);
        core.cpu.rip = if block.key.bits == 64 { next } else { next & 0xffff_ffff };
    }
    if alone {
        core.end_step();
    }
    Ok(core.service)
}

/// How many ops of a block lie inside the limit of CS (SDM 3A 5.3); it counts outside 64-bit mode only.
fn inside_limit(core: &Core, block: &Block) -> usize {
    let limit = u64::from(core.cpu.segments[seg::CS].limit);
    let inside = |op: &Op| core.cpu.rip + u64::from(op.offset) + u64::from(op.length.max(1)) - 1 <= limit;
    block.ops.partition_point(inside)
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
