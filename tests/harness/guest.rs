//! A bare machine for test guests: CPU, RAM and chipset without loader or firmware, in a mode of the test's choice.

use super::layout::*;
use super::paging::{Format, PRESENT, Tables, USER, WRITE};
use super::segments::{self, Gate, INTERRUPT_GATE, selector};
use replay::machine::{Boot, Clock, CpuChoice, Machine, PanicAction};
use vcpu::core::Core;
use vcpu::interp::{Interpreter, Stop};
use vcpu::run::digest::{self, RamDigest};
use vcpu::run::power_on;
use vcpu::state::regs::gpr;
use vcpu::state::{Segment, TableReg, cr0, cr4, efer, rflags, seg};

/// Nanoseconds of guest time an instruction, as a power of two.
pub const SHIFT: u8 = 3;

/// A machine with a small program in it.
pub struct Guest {
    /// CPU, memory and chipset.
    pub core: Core,
    /// The page tables in use.
    pub tables: Tables,
    engine: Interpreter,
    memory_digest: RamDigest,
    long: bool,
}

/// What an exception or interrupt pushed for its handler, which has halted at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The vector whose default handler was reached.
    pub vector: u8,
    /// Error code, where it has one.
    pub code: Option<u32>,
    /// Return address.
    pub rip: u64,
    /// CS before it.
    pub cs: u16,
    /// RFLAGS to return with.
    pub rflags: u32,
    /// RSP before it; outside 64-bit mode only pushed with a change of rings.
    pub rsp: u64,
    /// SS before it, likewise.
    pub ss: u16,
}

fn description() -> Machine {
    Machine {
        ram_bytes: RAM_BYTES,
        cpu: CpuChoice { model: "x86-64-v3".into(), features: vec![] },
        cpu_count: 1,
        boot: Boot::default(),
        clock: Clock { shift: SHIFT, auto: false, sleep: false, rtc_base: 0, host_offset_s: None },
        uarts: vec![None],
        devices: vec![],
        functions: vec![],
        no_reboot: true,
        no_shutdown: false,
        panic_action: PanicAction::None,
        debug_exit_port: None,
        debug_console: None,
        uuid: None,
    }
}

fn flat(selector: u16, attributes: u16) -> Segment {
    Segment { selector, attributes, limit: u32::MAX, base: 0 }
}

impl Guest {
    /// Real mode, segments 0, at 0:CODE & 0xffff with the stack below.
    pub fn real() -> Guest {
        let core = power_on::bare(&description()).expect("a small machine");
        let mut guest = Guest {
            core,
            tables: Tables::new(Format::FourLevel),
            engine: Interpreter::default(),
            memory_digest: RamDigest::new(RAM_BYTES),
            long: false,
        };
        for index in [seg::ES, seg::CS, seg::SS, seg::DS, seg::FS, seg::GS] {
            guest.core.cpu.segments[index] = Segment {
                selector: 0,
                attributes: if index == seg::CS { 0x9b } else { 0x93 },
                limit: 0xffff,
                base: 0,
            };
        }
        guest.core.cpu.rip = 0xc000;
        // RDX holds the CPU's signature at power-on.
        guest.set(gpr::RDX, 0);
        guest.set(gpr::RSP, STACK);
        guest.changed()
    }

    /// 32-bit protected mode with flat segments, without paging.
    pub fn protected() -> Guest {
        let mut guest = Guest::real();
        guest.write_tables(false);
        guest.enter_ring0(false);
        guest.core.cpu.cr0 = cr0::PE | cr0::ET | cr0::NE;
        guest.changed()
    }

    /// 32-bit protected mode with PAE or two-level paging; the low 2 MiB are mapped as in `long`.
    pub fn paged32(format: Format) -> Guest {
        let mut guest = Guest::protected();
        guest.start_paging(format);
        guest.core.cpu.cr4 |= if format == Format::Pae { cr4::PAE } else { cr4::PSE };
        guest.changed()
    }

    /// 64-bit mode at CPL 0. The low 2 MiB are mapped to themselves; `CODE_USER`, `DATA_USER` and the stack of
    /// ring 3 are user pages.
    pub fn long() -> Guest {
        let mut guest = Guest::real();
        guest.write_tables(true);
        guest.enter_ring0(true);
        guest.core.cpu.cr0 = cr0::PE | cr0::ET | cr0::NE | cr0::WP;
        guest.core.cpu.cr4 = cr4::PAE | cr4::PGE;
        guest.core.cpu.efer = efer::LME | efer::LMA | efer::NXE | efer::SCE;
        guest.start_paging(Format::FourLevel);
        guest.changed()
    }

    /// The same machine about to run `CODE_USER` in ring 3.
    pub fn user(mut self) -> Guest {
        let code = if self.long { (selector::USER_CODE, 0xa0fb) } else { (selector::USER_CODE32, 0xc0fb) };
        self.core.cpu.segments = [flat(selector::USER_DATA, 0xc0f3); 6];
        self.core.cpu.segments[seg::CS] = flat(code.0, code.1);
        self.core.cpu.rip = CODE_USER;
        self.core.cpu.data.gpr[gpr::RSP] = STACK_USER;
        self.changed()
    }

    /// The same machine about to run 32-bit code at `CODE_USER` in ring 3, with the 64-bit tables.
    pub fn compatible(self) -> Guest {
        let mut guest = self.user();
        guest.core.cpu.segments[seg::CS] = flat(selector::USER_CODE32, 0xc0fb);
        guest.changed()
    }

    fn enter_ring0(&mut self, long: bool) {
        let cpu = &mut self.core.cpu;
        let code = if long { (selector::KERNEL_CODE, 0xa09b) } else { (selector::KERNEL_CODE32, 0xc09b) };
        cpu.segments = [flat(selector::KERNEL_DATA, 0xc093); 6];
        cpu.segments[seg::CS] = flat(code.0, code.1);
        cpu.gdtr = TableReg { base: GDT, limit: selector::LIMIT };
        cpu.idtr = TableReg { base: IDT, limit: if long { 0xfff } else { 0x7ff } };
        cpu.tr = Segment { selector: selector::TSS, attributes: 0x8b, limit: 0x67, base: TSS };
        cpu.ldtr = Segment { selector: selector::LDT, attributes: 0x82, limit: 0xfff, base: LDT };
        cpu.rip = CODE;
        cpu.data.gpr[gpr::RSP] = STACK;
    }

    /// GDT, IDT, TSS and handlers.
    fn write_tables(&mut self, long: bool) {
        self.long = long;
        let entries = [
            (selector::KERNEL_CODE, segments::CODE64),
            (selector::KERNEL_DATA, segments::DATA32),
            (selector::USER_CODE32, segments::CODE32 | segments::DPL3),
            (selector::USER_DATA, segments::DATA32 | segments::DPL3),
            (selector::USER_CODE, segments::CODE64 | segments::DPL3),
            (selector::KERNEL_CODE32, segments::CODE32),
            (selector::TSS, segments::segment(TSS as u32, 0x67, 0x89, 0)),
            (selector::LDT, segments::segment(LDT as u32, 0xfff, 0x82, 0)),
        ];
        for (selector, descriptor) in entries {
            self.set_descriptor(selector, descriptor);
        }
        for vector in 0..=255 {
            self.put(handler(vector), &[0xf4]);
            self.set_gate(vector, Gate::new(INTERRUPT_GATE, self.kernel_code(), handler(vector)));
        }
        if long {
            self.put(TSS + 4, &STACK_INNER.to_le_bytes());
            self.put(TSS + 0x24, &STACK_IST.to_le_bytes());
        } else {
            self.put(TSS + 4, &(STACK_INNER as u32).to_le_bytes());
            self.put(TSS + 8, &u32::from(selector::KERNEL_DATA).to_le_bytes());
        }
        // No I/O permission bitmap.
        self.put(TSS + 0x66, &0x68u16.to_le_bytes());
    }

    fn start_paging(&mut self, format: Format) {
        self.tables = Tables::new(format);
        let user = |at| {
            (CODE_USER..CODE_USER_END).contains(&at)
                || (DATA_USER..DATA_USER_END).contains(&at)
                || (STACK_USER - 0x2000..STACK_USER).contains(&at)
        };
        for at in (0..TABLES_END).step_by(0x1000) {
            self.map(at, at, 0, PRESENT | WRITE | if user(at) { USER } else { 0 });
        }
        self.core.cpu.cr3 = self.tables.root;
        self.core.cpu.cr0 |= cr0::PG;
    }

    /// The code segment of ring 0 in this mode.
    pub fn kernel_code(&self) -> u16 {
        if self.long { selector::KERNEL_CODE } else { selector::KERNEL_CODE32 }
    }

    /// Follows a change of control registers, segments or RFLAGS by the test.
    pub fn changed(mut self) -> Guest {
        self.core.mode_changed();
        self.core.breakpoints_changed();
        if self.tables.format == Format::Pae {
            self.core.cpu.pdpte = self.core.read_pdptes(self.core.cpu.cr3).unwrap_or_default();
        }
        self
    }

    /// The same machine after some set-up by the test.
    pub fn with(mut self, set_up: impl FnOnce(&mut Guest)) -> Guest {
        set_up(&mut self);
        self.changed()
    }

    /// The same machine with its program at RIP.
    pub fn program(mut self, code: &[u8]) -> Guest {
        let at = self.core.cpu.rip;
        self.put(at, code);
        self
    }

    /// Writes physical memory as a device would.
    pub fn put(&mut self, gpa: u64, bytes: &[u8]) {
        assert!(self.core.mem.ram.write_bytes(gpa, bytes), "{gpa:#x} is not RAM");
    }

    /// Writes eight bytes of physical memory.
    pub fn put_u64(&mut self, gpa: u64, value: u64) {
        self.put(gpa, &value.to_le_bytes());
    }

    /// Eight bytes of physical memory.
    pub fn memory(&self, gpa: u64) -> u64 {
        let mut bytes = [0; 8];
        assert!(self.core.mem.ram.read_bytes(gpa, &mut bytes), "{gpa:#x} is not RAM");
        u64::from_le_bytes(bytes)
    }

    /// A general register.
    pub fn register(&self, register: usize) -> u64 {
        self.core.cpu.data.gpr[register]
    }

    /// Sets a general register.
    pub fn set(&mut self, register: usize, value: u64) {
        self.core.cpu.data.gpr[register] = value;
    }

    /// Sets RFLAGS bits outside the status flags.
    pub fn set_flags(&mut self, flags: u32) {
        self.core.cpu.eflags |= flags;
    }

    /// Puts a descriptor into the GDT.
    pub fn set_descriptor(&mut self, selector: u16, value: u64) {
        self.put_u64(GDT + u64::from(selector & !7), value);
    }

    /// Puts a gate into the IDT.
    pub fn set_gate(&mut self, vector: u8, gate: Gate) {
        if self.long {
            self.put_u64(IDT + u64::from(vector) * 16, gate.low());
            self.put_u64(IDT + u64::from(vector) * 16 + 8, gate.high());
        } else {
            self.put_u64(IDT + u64::from(vector) * 8, gate.low());
        }
    }

    /// Runs until `limit` instructions have retired, the guest halts for good, or it can go no further. A halted
    /// guest with interrupts enabled sleeps until its next timer.
    pub fn run(&mut self, limit: u64) -> Stop {
        loop {
            let icount = self.core.cpu.icount;
            let now = self.core.clock.at(icount);
            if self.core.chipset.next_deadline().is_some_and(|deadline| deadline <= now) {
                self.core.chipset.advance(now);
            }
            if icount >= limit {
                return Stop::Limit;
            }
            let deadline = self.core.chipset.next_deadline();
            let timer = deadline.map_or(u64::MAX, |deadline| self.core.clock.icount_at(deadline));
            match self.engine.run(&mut self.core, limit.min(timer)) {
                Stop::Limit | Stop::Service | Stop::Probe => {}
                Stop::Halted => match deadline_to_wait_for(&self.core) {
                    Some(deadline) => self.core.clock.skip_to(self.core.cpu.icount, deadline),
                    None => return Stop::Halted,
                },
                stop @ (Stop::TripleFault | Stop::Stuck) => return stop,
            }
        }
    }

    /// Drops what the engine has cached beyond the machine's state.
    pub fn forget(&mut self) {
        self.engine.forget_blocks();
        self.core.cpu.tlb.drop_fast_writes();
    }

    /// Digests of registers and of memory: equal in equal machines.
    pub fn digests(&mut self) -> (u64, u64) {
        self.core.cpu.tlb.drop_fast_writes();
        let written = self.core.mem.ram.take_dirty();
        self.memory_digest.note(&written);
        (digest::registers(&self.core), self.memory_digest.update(&self.core))
    }

    /// What was pushed for the default handler that the guest halted in.
    pub fn event(&self, has_code: bool) -> Event {
        let slot = if self.long { 8 } else { 4 };
        let mut at = self.core.cpu.data.gpr[gpr::RSP];
        let mut pop = || {
            at += slot;
            if slot == 8 { self.memory(at - 8) } else { self.memory(at - 4) & 0xffff_ffff }
        };
        let code = has_code.then(|| pop() as u32);
        let (rip, cs, rflags, rsp, ss) = (pop(), pop() as u16, pop() as u32, pop(), pop() as u16);
        let vector = (self.core.cpu.rip.wrapping_sub(HANDLERS) / HANDLER_BYTES).min(255) as u8;
        Event { vector, code, rip, cs, rflags, rsp, ss }
    }
}

fn deadline_to_wait_for(core: &Core) -> Option<replay::time::Vtime> {
    let awake = core.cpu.eflags & rflags::IF != 0;
    core.chipset.next_deadline().filter(|_| awake)
}
