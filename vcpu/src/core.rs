//! What an instruction's routine may reach: the CPU, memory, the chipset.

use crate::chipset::Chipset;
use crate::isa::Op;
use crate::mem::Memory;
use crate::mem::access::FastMasks;
use crate::state::Cpu;
use replay::time::Vtime;

/// The address line that the A20 gate holds.
const A20: u64 = 1 << 20;

/// The machine as seen from one instruction.
pub struct Core {
    /// The CPU that executes now.
    pub cpu: Cpu,
    /// Guest RAM and what is known of its pages.
    pub mem: Memory,
    /// Interrupt controllers, timers and what else hangs on ports and device memory.
    pub chipset: Chipset,
    /// Rings and requests of the virtio functions.
    pub virtio: crate::virtio::Virtio,
    /// Host code for vector and x87 instructions.
    pub thunks: crate::thunk::Thunks,
    /// Linear address of the #PF on its way.
    pub fault_address: u64,
    /// Leave the block after the current instruction: code was changed, an interrupt may be due, time moved.
    pub leave_block: bool,
    /// A device was used: deadlines, interrupt lines or effects may have changed.
    pub service: bool,
    /// Index of the current op in its block.
    pub op_index: u32,
    /// How icount maps to guest time.
    pub clock: crate::run::vtime::VirtualClock,
    /// Fast-path masks of memory accesses; `refresh_access` keeps them.
    pub fast: FastMasks,
    /// A data breakpoint or a debugger's watchpoint is armed: every access takes the slow path (`refresh_access` sees to it).
    pub watched: bool,
    /// The current op has set `cpu.rip` although its row does not say so (a taken Jcc).
    pub jumped: bool,
    /// What a debugger waits for. Not machine state.
    pub probe: crate::probe::Probe,
    /// Random numbers of RDRAND and RDSEED.
    pub entropy: crate::system::entropy::Entropy,
    /// RFLAGS.TF when the current instruction began; #DB follows it (system/debug.rs).
    pub trap_flag: bool,
    /// What the A20 gate lets through of a physical address; `set_a20` keeps it.
    pub a20_mask: u64,
    /// icount at which an exception or interrupt was last delivered. While it is the CPU's icount, no instruction
    /// has retired since, and the machine is at no place that an icount names: no event may land.
    pub delivered_icount: Option<u64>,
    /// Mode facts kept by `mode_changed`.
    pub mode: Mode,
}

/// Facts derived from control registers and segments; `Core::mode_changed` keeps them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mode {
    /// 16, 32 or 64: size of code in CS.
    pub bits: u8,
    /// Current privilege level, 0…3.
    pub cpl: u8,
    /// EFER.LMA: long mode, 64-bit or compatibility.
    pub long: bool,
    /// CR0.PE.
    pub protected: bool,
    /// SSE instructions raise this: 0 none, `vector::UD` or `vector::NM`.
    pub sse_fault: u8,
    /// AVX instructions raise this.
    pub avx_fault: u8,
    /// x87 and MMX instructions raise this (MMX also #UD with CR0.EM: see thunk).
    pub x87_fault: u8,
}

impl Core {
    /// RIP of the current instruction.
    #[inline(always)]
    pub fn this_rip(&self, op: &Op) -> u64 {
        self.cpu.data.gpr[crate::state::regs::gpr::BLOCK_RIP].wrapping_add(u64::from(op.offset))
    }

    /// RIP of the instruction after this one.
    #[inline(always)]
    pub fn next_rip(&self, op: &Op) -> u64 {
        self.this_rip(op).wrapping_add(u64::from(op.length))
    }

    /// Instructions retired before the current one.
    #[inline(always)]
    pub fn icount_now(&self) -> u64 {
        self.cpu.icount + u64::from(self.op_index)
    }

    /// To be called at every use of the chipset by an instruction: the block ends, so that what it changed acts
    /// before the next instruction, in every engine.
    pub fn use_device(&mut self) {
        self.leave_block = true;
        self.service = true;
    }

    /// Opens or closes the A20 gate. Translations hold what it let through, so they go.
    pub fn set_a20(&mut self, open: bool) {
        self.a20_mask = if open { u64::MAX } else { !A20 };
        self.cpu.tlb.flush_all();
    }

    /// Something was delivered and no instruction has retired since: an event stamped with this icount would be
    /// applied before the delivery in a replay.
    pub fn between_delivery_and_retirement(&self) -> bool {
        self.delivered_icount == Some(self.cpu.icount)
    }

    /// Guest time at the current instruction.
    pub fn vtime_now(&self) -> Vtime {
        self.clock.at(self.icount_now())
    }
}
