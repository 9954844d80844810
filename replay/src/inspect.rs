//! What a monitor asks a vCPU process about its machine, and the answers: plain facts, no text.
//!
//! A query never changes the machine: no accessed bits, no effects of reads, no guest time. So it may come at any moment,
//! and no journal knows of it.

use crate::device::PciAddress;
use serde::{Deserialize, Serialize};

/// Most bytes of memory in one answer.
pub const MEMORY_BYTES_MAX: u32 = 64 << 10;
/// Most mappings in one answer.
pub const MAPPINGS_MAX: usize = 1024;
/// Registers of a local APIC in an answer; the index is the register's address / 16.
pub const LAPIC_REGISTERS: usize = 64;

/// A question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// All registers of the CPU.
    Registers,
    /// Bytes of memory.
    Memory {
        /// In which address space.
        space: Space,
        /// The first byte.
        address: u64,
        /// How many; at most [`MEMORY_BYTES_MAX`] are answered.
        length: u32,
    },
    /// The physical address behind a linear one.
    Translate {
        /// The linear address.
        address: u64,
    },
    /// What the page tables map.
    Mappings {
        /// Where to begin: 0, or what the answer before said.
        from: u64,
    },
    /// What a read of an I/O port would give now.
    Port {
        /// The port.
        port: u16,
        /// 1, 2 or 4 bytes.
        size: u8,
    },
    /// 8259 pair, I/O APIC, and how often lines were raised.
    Interrupts,
    /// The local APIC.
    LocalApic,
    /// All functions on the PCI bus.
    PciFunctions,
    /// What answers at which port and address.
    AddressMap,
}

/// An address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Space {
    /// Linear addresses, through the CPU's page tables.
    Virtual,
    /// Guest physical addresses; device registers are shown as a read would give them.
    Physical,
}

/// An answer; its variant is that of the query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Query::Registers`].
    Registers(Box<Registers>),
    /// To [`Query::Memory`]: the bytes up to the first that cannot be read.
    Memory(Vec<u8>),
    /// To [`Query::Translate`]; none: it is not mapped.
    Translated(Option<u64>),
    /// To [`Query::Mappings`].
    Mappings {
        /// Paging is on.
        paging: bool,
        /// In rising order.
        list: Vec<Mapping>,
        /// Where to go on; none: that was all.
        next: Option<u64>,
    },
    /// To [`Query::Port`].
    Port(u32),
    /// To [`Query::Interrupts`].
    Interrupts(Box<Interrupts>),
    /// To [`Query::LocalApic`].
    LocalApic(Box<LocalApic>),
    /// To [`Query::PciFunctions`].
    PciFunctions(Vec<PciFunction>),
    /// To [`Query::AddressMap`].
    AddressMap(AddressMap),
}

/// A segment register with its hidden part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRegister {
    /// The visible part.
    pub selector: u16,
    /// First byte.
    pub base: u64,
    /// In bytes.
    pub limit: u32,
    /// The second half of a descriptor, without the parts of its base.
    pub flags: u32,
}

/// A descriptor-table register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRegister {
    /// First byte.
    pub base: u64,
    /// Offset of the last byte.
    pub limit: u16,
}

/// The registers of a CPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registers {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8…R15.
    pub gpr: [u64; 16],
    /// The next instruction.
    pub rip: u64,
    /// All of RFLAGS.
    pub rflags: u64,
    /// ES, CS, SS, DS, FS, GS.
    pub segments: [SegmentRegister; 6],
    /// LDTR.
    pub ldt: SegmentRegister,
    /// Task register.
    pub tr: SegmentRegister,
    /// GDTR.
    pub gdt: TableRegister,
    /// IDTR.
    pub idt: TableRegister,
    /// CR0, CR2, CR3, CR4.
    pub cr: [u64; 4],
    /// CR8.
    pub cr8: u8,
    /// DR0…DR3, DR6, DR7.
    pub dr: [u64; 6],
    /// EFER.
    pub efer: u64,
    /// XCR0.
    pub xcr0: u64,
    /// x87 control word.
    pub fcw: u16,
    /// x87 status word.
    pub fsw: u16,
    /// Abridged tag word: a bit for each register that is in use.
    pub ftw: u8,
    /// MXCSR.
    pub mxcsr: u32,
    /// The eight x87 registers, by number: significand; sign and exponent.
    pub fpr: [(u64, u16); 8],
    /// YMM0…YMM15, the lowest quarter first.
    pub ymm: [[u64; 4]; 16],
    /// Size of code: 16, 32 or 64.
    pub code_bits: u8,
    /// Privilege level.
    pub cpl: u8,
    /// Protected mode.
    pub protected: bool,
    /// Long mode.
    pub long: bool,
    /// Interrupts wait for one instruction.
    pub interrupt_shadow: bool,
    /// The A20 gate is open.
    pub a20: bool,
    /// In HLT.
    pub halted: bool,
}

/// One page that is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    /// Its linear address.
    pub address: u64,
    /// Its size.
    pub size: u64,
    /// Its physical address.
    pub physical: u64,
    /// The low bits (0 to 8) and the execute-disable bit (63) of its page-table entry.
    pub entry: u64,
    /// All levels allow user mode.
    pub user: bool,
    /// All levels allow writing.
    pub writable: bool,
}

/// An 8259.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pic {
    /// Requests.
    pub requests: u8,
    /// Mask.
    pub mask: u8,
    /// In service.
    pub in_service: u8,
    /// The input of highest priority.
    pub highest: u8,
    /// Vector of input 0.
    pub vector_base: u8,
    /// A read gives the in-service register.
    pub reads_in_service: bool,
    /// Level-triggered inputs.
    pub level: u8,
    /// Special fully nested mode.
    pub fully_nested: bool,
}

/// Interrupt controllers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interrupts {
    /// Master and slave.
    pub pics: [Pic; 2],
    /// I/O APIC: its id register.
    pub ioapic_id: u32,
    /// I/O APIC: the selected register.
    pub ioapic_select: u8,
    /// I/O APIC: the redirection table.
    pub ioapic_table: Vec<u64>,
    /// I/O APIC: pins with a request.
    pub ioapic_requests: u32,
    /// How often each pin of the I/O APIC was raised, by number of the interrupt line.
    pub ioapic_raised: Vec<u64>,
    /// How often each input of the 8259 pair was raised.
    pub pic_raised: Vec<u64>,
}

/// A local APIC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalApic {
    /// Its id.
    pub id: u32,
    /// IA32_APIC_BASE.
    pub base: u64,
    /// [`LAPIC_REGISTERS`] registers as a read gives them.
    pub registers: Vec<u32>,
}

/// A base address register of a PCI function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciBar {
    /// Its number.
    pub index: u8,
    /// It decodes ports.
    pub io: bool,
    /// It has 64 bits.
    pub wide: bool,
    /// Reads have no effects.
    pub prefetchable: bool,
    /// Where it decodes; none: nowhere now.
    pub address: Option<u64>,
    /// How much.
    pub size: u64,
}

/// A function on the PCI bus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciFunction {
    /// Its place.
    pub address: PciAddress,
    /// The first 64 bytes of its configuration space.
    pub header: Vec<u8>,
    /// Its base address registers.
    pub bars: Vec<PciBar>,
}

/// What answers at some addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// The first address.
    pub first: u64,
    /// The last.
    pub last: u64,
    /// Where regions overlap, the higher priority answers.
    pub priority: u8,
    /// RAM, not registers.
    pub ram: bool,
    /// Its name.
    pub name: String,
}

/// Both address spaces of a machine, each in rising order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressMap {
    /// I/O ports.
    pub ports: Vec<Region>,
    /// Physical addresses.
    pub memory: Vec<Region>,
}
