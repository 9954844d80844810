//! What a CPU is: plain data, one struct.

pub mod flags;
pub mod regs;
pub mod segment;

pub use flags::{Status, rflags};
pub use regs::DataRegs;
pub use segment::Segment;

use crate::mem::tlb::Tlb;

/// Segment registers in SDM order; the index of `Cpu::segments` and of `Op::segment`.
pub mod seg {
    pub const ES: usize = 0;
    pub const CS: usize = 1;
    pub const SS: usize = 2;
    pub const DS: usize = 3;
    pub const FS: usize = 4;
    pub const GS: usize = 5;
    /// No base at all: what ES, CS, SS and DS are in 64-bit mode.
    pub const NONE: usize = 6;
}

/// What a CPU is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Executing instructions.
    Running,
    /// In HLT, until an interrupt.
    Halted,
    /// A triple fault happened; only a reset helps.
    Shutdown,
}

/// Events held off for one instruction (SDM 3A 6.8.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shadow {
    None,
    /// After STI: interrupts wait.
    Sti,
    /// After MOV SS or POP SS: interrupts and debug traps wait.
    MovSs,
}

/// A descriptor-table register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableReg {
    pub base: u64,
    pub limit: u16,
}

/// One logical CPU.
#[repr(C)]
pub struct Cpu {
    /// What user-level instructions touch. Host thunks address it by offset.
    pub data: DataRegs,
    /// The next instruction to execute, valid between blocks (inside one see `Core::next_rip`).
    pub rip: u64,
    /// Instructions retired, valid between blocks (inside one see `Core::icount_now`).
    pub icount: u64,
    /// RFLAGS without the six status flags (they are in `data.status`); bit 1 always set.
    pub eflags: u32,
    /// Base added to an effective address, by `Op::segment`: see `seg`. Kept by `Core::mode_changed`.
    pub ea_base: [u64; 8],
    /// ES CS SS DS FS GS.
    pub segments: [Segment; 6],
    pub ldtr: Segment,
    pub tr: Segment,
    pub gdtr: TableReg,
    pub idtr: TableReg,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    /// Page-directory pointers of PAE paging, as they were when CR3 was loaded.
    pub pdpte: [u64; 4],
    pub xcr0: u64,
    pub efer: u64,
    pub dr: [u64; 8],
    pub msr: Msrs,
    pub activity: Activity,
    pub shadow: Shadow,
    /// NMIs are blocked until the next IRET.
    pub nmi_blocked: bool,
    /// Debug conditions met by the current instruction, as DR6 bits; #DB follows it.
    pub debug_pending: u64,
    /// Cached translations: part of the machine's state, because they decide when A and D bits are set.
    pub tlb: Box<Tlb>,
    /// APIC id at power-on, as CPUID shows it.
    pub apic_id: u32,
    /// CPUs of the machine, as CPUID shows it.
    pub cpu_count: u32,
    /// What the CPUID model offers; never changes after power-on.
    pub model: std::sync::Arc<crate::system::cpuid::Model>,
}

/// Model-specific registers that hold state of their own (system/msr.rs has the table).
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Msrs {
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub sfmask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub pat: u64,
    pub tsc_aux: u64,
    /// Added to the machine's TSC.
    pub tsc_offset: u64,
    pub tsc_adjust: u64,
    pub misc_enable: u64,
    pub mtrr_def_type: u64,
    pub mtrr_fixed: [u64; 11],
    pub mtrr_variable: [[u64; 2]; 8],
    pub spec_ctrl: u64,
    pub mcg_status: u64,
}

/// CR0 bits.
pub mod cr0 {
    pub const PE: u64 = 1 << 0;
    pub const MP: u64 = 1 << 1;
    pub const EM: u64 = 1 << 2;
    pub const TS: u64 = 1 << 3;
    pub const ET: u64 = 1 << 4;
    pub const NE: u64 = 1 << 5;
    pub const WP: u64 = 1 << 16;
    pub const AM: u64 = 1 << 18;
    pub const NW: u64 = 1 << 29;
    pub const CD: u64 = 1 << 30;
    pub const PG: u64 = 1 << 31;
}

/// CR4 bits.
pub mod cr4 {
    pub const VME: u64 = 1 << 0;
    pub const PVI: u64 = 1 << 1;
    pub const TSD: u64 = 1 << 2;
    pub const DE: u64 = 1 << 3;
    pub const PSE: u64 = 1 << 4;
    pub const PAE: u64 = 1 << 5;
    pub const MCE: u64 = 1 << 6;
    pub const PGE: u64 = 1 << 7;
    pub const PCE: u64 = 1 << 8;
    pub const OSFXSR: u64 = 1 << 9;
    pub const OSXMMEXCPT: u64 = 1 << 10;
    pub const UMIP: u64 = 1 << 11;
    pub const FSGSBASE: u64 = 1 << 16;
    pub const PCIDE: u64 = 1 << 17;
    pub const OSXSAVE: u64 = 1 << 18;
    pub const SMEP: u64 = 1 << 20;
    pub const SMAP: u64 = 1 << 21;
}

/// EFER bits.
pub mod efer {
    pub const SCE: u64 = 1 << 0;
    pub const LME: u64 = 1 << 8;
    pub const LMA: u64 = 1 << 10;
    pub const NXE: u64 = 1 << 11;
}
