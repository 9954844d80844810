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
    /// ES.
    pub const ES: usize = 0;
    /// CS.
    pub const CS: usize = 1;
    /// SS.
    pub const SS: usize = 2;
    /// DS.
    pub const DS: usize = 3;
    /// FS.
    pub const FS: usize = 4;
    /// GS.
    pub const GS: usize = 5;
    /// No base at all: what ES, CS, SS and DS are in 64-bit mode.
    pub const NONE: usize = 6;
}

/// What a CPU is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Activity {
    /// Executing instructions.
    Running,
    /// In HLT, until an interrupt.
    Halted,
    /// A triple fault happened; only a reset helps.
    Shutdown,
}

/// Events held off for one instruction (SDM 3A 6.8.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Shadow {
    /// No event is held off.
    None,
    /// After STI: interrupts wait.
    Sti,
    /// After MOV SS or POP SS: interrupts and debug traps wait.
    MovSs,
}

/// A descriptor-table register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TableReg {
    /// Linear address of the table.
    pub base: u64,
    /// Offset of the table's last byte.
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
    /// LDTR.
    pub ldtr: Segment,
    /// Task register.
    pub tr: Segment,
    /// GDTR.
    pub gdtr: TableReg,
    /// IDTR.
    pub idtr: TableReg,
    /// CR0: see `cr0` for its bits.
    pub cr0: u64,
    /// CR2: linear address of the last page fault.
    pub cr2: u64,
    /// CR3: physical address of the top paging structure, PCID.
    pub cr3: u64,
    /// CR4: see `cr4` for its bits.
    pub cr4: u64,
    /// Page-directory pointers of PAE paging, as they were when CR3 was loaded.
    pub pdpte: [u64; 4],
    /// XCR0: state components that XSAVE handles.
    pub xcr0: u64,
    /// IA32_EFER: see `efer` for its bits.
    pub efer: u64,
    /// DR0…DR7; DR4 and DR5 are unused.
    pub dr: [u64; 8],
    /// Other model-specific registers.
    pub msr: Msrs,
    /// Whether it executes.
    pub activity: Activity,
    /// What the instruction before holds off.
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
    /// IA32_STAR.
    pub star: u64,
    /// IA32_LSTAR.
    pub lstar: u64,
    /// IA32_CSTAR.
    pub cstar: u64,
    /// IA32_FMASK.
    pub sfmask: u64,
    /// IA32_KERNEL_GS_BASE.
    pub kernel_gs_base: u64,
    /// IA32_SYSENTER_CS.
    pub sysenter_cs: u64,
    /// IA32_SYSENTER_ESP.
    pub sysenter_esp: u64,
    /// IA32_SYSENTER_EIP.
    pub sysenter_eip: u64,
    /// IA32_PAT.
    pub pat: u64,
    /// IA32_TSC_AUX.
    pub tsc_aux: u64,
    /// Added to the machine's TSC.
    pub tsc_offset: u64,
    /// IA32_TSC_ADJUST.
    pub tsc_adjust: u64,
    /// IA32_MISC_ENABLE.
    pub misc_enable: u64,
    /// IA32_MTRR_DEF_TYPE.
    pub mtrr_def_type: u64,
    /// The eleven fixed-range MTRRs, by address.
    pub mtrr_fixed: [u64; 11],
    /// IA32_MTRR_PHYSBASEn and IA32_MTRR_PHYSMASKn.
    pub mtrr_variable: [[u64; 2]; 8],
    /// IA32_SPEC_CTRL.
    pub spec_ctrl: u64,
    /// IA32_MCG_STATUS.
    pub mcg_status: u64,
}

/// CR0 bits.
pub mod cr0 {
    /// Protection enable.
    pub const PE: u64 = 1 << 0;
    /// Monitor coprocessor.
    pub const MP: u64 = 1 << 1;
    /// Emulation.
    pub const EM: u64 = 1 << 2;
    /// Task switched.
    pub const TS: u64 = 1 << 3;
    /// Extension type; always 1.
    pub const ET: u64 = 1 << 4;
    /// Numeric error.
    pub const NE: u64 = 1 << 5;
    /// Write protect.
    pub const WP: u64 = 1 << 16;
    /// Alignment mask.
    pub const AM: u64 = 1 << 18;
    /// Not write-through.
    pub const NW: u64 = 1 << 29;
    /// Cache disable.
    pub const CD: u64 = 1 << 30;
    /// Paging.
    pub const PG: u64 = 1 << 31;
}

/// CR4 bits.
pub mod cr4 {
    /// Virtual-8086 mode extensions.
    pub const VME: u64 = 1 << 0;
    /// Protected-mode virtual interrupts.
    pub const PVI: u64 = 1 << 1;
    /// Time stamp disable.
    pub const TSD: u64 = 1 << 2;
    /// Debugging extensions.
    pub const DE: u64 = 1 << 3;
    /// Page size extensions.
    pub const PSE: u64 = 1 << 4;
    /// Physical address extension.
    pub const PAE: u64 = 1 << 5;
    /// Machine-check enable.
    pub const MCE: u64 = 1 << 6;
    /// Page global enable.
    pub const PGE: u64 = 1 << 7;
    /// Performance-monitoring counter enable.
    pub const PCE: u64 = 1 << 8;
    /// The operating system uses FXSAVE and FXRSTOR.
    pub const OSFXSR: u64 = 1 << 9;
    /// The operating system handles #XM.
    pub const OSXMMEXCPT: u64 = 1 << 10;
    /// User-mode instruction prevention.
    pub const UMIP: u64 = 1 << 11;
    /// RDFSBASE, WRFSBASE and their like are enabled.
    pub const FSGSBASE: u64 = 1 << 16;
    /// Process-context identifiers enable.
    pub const PCIDE: u64 = 1 << 17;
    /// XSAVE and extended states enable.
    pub const OSXSAVE: u64 = 1 << 18;
    /// Supervisor-mode execution prevention.
    pub const SMEP: u64 = 1 << 20;
    /// Supervisor-mode access prevention.
    pub const SMAP: u64 = 1 << 21;
}

/// EFER bits.
pub mod efer {
    /// SYSCALL enable.
    pub const SCE: u64 = 1 << 0;
    /// IA-32e mode enable.
    pub const LME: u64 = 1 << 8;
    /// IA-32e mode active.
    pub const LMA: u64 = 1 << 10;
    /// Execute-disable bit enable.
    pub const NXE: u64 = 1 << 11;
}
