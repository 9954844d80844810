//! Runs one instruction on our own CPU: a bare machine in long mode at CPL 3, its page tables made by hand, its
//! exceptions seen through an IDT whose every gate leads to a HLT of its own.

use crate::arena::{self, CODE, Image, PAGE, RIGHTS, Rights};
use crate::state::{CodeSize, Outcome, Raised, State};
use replay::machine::{Boot, Clock, CpuChoice, Machine, PanicAction};
use vcpu::core::Core;
use vcpu::interp::{Interpreter, Stop};
use vcpu::state::{Activity, Segment, Shadow, TableReg, cr0, cr4, efer, seg};

/// RAM of the machine.
const RAM_BYTES: u64 = 4 << 20;
/// Where guest physical memory is mapped for the supervisor.
const SUPERVISOR: u64 = 0xffff_8000_0000_0000;
/// Guest physical addresses.
const PML4: u64 = 0x1000;
const GDT: u64 = 0x10_0000;
const IDT: u64 = 0x10_1000;
const TSS: u64 = 0x10_2000;
const HANDLERS: u64 = 0x10_3000;
const STACK_TOP: u64 = 0x10_5000;
const CODE_PAGE: u64 = 0x10_6000;
const ARENA: u64 = 0x11_0000;
/// Linux's own selectors, so that those which instructions show are the same.
const KERNEL_CODE: u16 = 0x10;
const USER_CODE32: u16 = 0x23;
const USER_DATA: u16 = 0x2b;
const USER_CODE64: u16 = 0x33;
const TSS_SELECTOR: u16 = 0x40;
/// Page-table entry bits.
const PRESENT: u64 = 1;
const WRITE: u64 = 2;
const USER: u64 = 4;
/// RFLAGS bits outside the status flags that a case may set: TF, IF, DF, AC, ID and the fixed one.
const RESUME_FLAG: u64 = 1 << 16;
/// Vectors that push an error code.
const WITH_CODE: [u8; 7] = [8, 10, 11, 12, 13, 14, 17];

/// Our CPU as an executor.
pub struct Guest {
    pub core: Core,
    interpreter: Interpreter,
    next_table: u64,
}

fn machine(model: &str, features: &[(&str, bool)]) -> Machine {
    let features = features.iter().map(|&(name, on)| (name.to_string(), on)).collect();
    Machine {
        ram_bytes: RAM_BYTES,
        cpu: CpuChoice { model: model.into(), features },
        cpu_count: 1,
        boot: Boot::default(),
        clock: Clock { shift: 0, auto: false, sleep: false, rtc_base: 0, host_offset_s: None },
        uarts: vec![],
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

impl Guest {
    /// A CPU of the named model, in long mode.
    pub fn new(model: &str, features: &[(&str, bool)]) -> Guest {
        let core = vcpu::run::power_on::bare(&machine(model, features)).expect("a machine");
        let mut guest = Guest { core, interpreter: Interpreter::default(), next_table: PML4 + PAGE };
        guest.map_everything();
        guest.write_tables();
        guest.set_control_registers();
        guest
    }

    fn map_everything(&mut self) {
        for page in 0..RAM_BYTES / PAGE {
            self.map(SUPERVISOR + page * PAGE, page * PAGE, PRESENT | WRITE);
        }
        self.map(CODE, CODE_PAGE, PRESENT | WRITE | USER);
        for base in [arena::LOW, arena::HIGH] {
            for (page, rights) in RIGHTS.iter().enumerate() {
                let at = page as u64 * PAGE;
                match rights {
                    Rights::Absent => {}
                    Rights::Read => self.map(base + at, ARENA + at, PRESENT | USER),
                    Rights::Write => self.map(base + at, ARENA + at, PRESENT | WRITE | USER),
                }
            }
        }
    }

    /// Maps a page in the four-level tables.
    fn map(&mut self, linear: u64, gpa: u64, bits: u64) {
        let mut table = PML4;
        for shift in [39, 30, 21] {
            let at = table + (linear >> shift & 511) * 8;
            let mut entry = self.core.mem.ram.get::<u64>(at);
            if entry == 0 {
                entry = self.next_table | PRESENT | WRITE | USER;
                self.next_table += PAGE;
                assert!(self.next_table <= GDT, "page tables fit below the GDT");
                self.put(at, entry);
            }
            table = entry & !0xfff;
        }
        self.put(table + (linear >> 12 & 511) * 8, gpa | bits);
    }

    fn put(&mut self, gpa: u64, value: u64) {
        assert!(self.core.mem.ram.write_bytes(gpa, &value.to_le_bytes()), "RAM at {gpa:#x}");
    }

    fn write_tables(&mut self) {
        let tss = SUPERVISOR + TSS;
        let low = 0x67 | (tss & 0xff_ffff) << 16 | 0x8b << 40 | (tss >> 24 & 0xff) << 56;
        let descriptors = [
            (KERNEL_CODE, 0x00af_9b00_0000_ffff),
            (USER_CODE32, 0x00cf_fb00_0000_ffff),
            (USER_DATA, 0x00cf_f300_0000_ffff),
            (USER_CODE64, 0x00af_fb00_0000_ffff),
            (TSS_SELECTOR, low),
            (TSS_SELECTOR + 8, tss >> 32),
        ];
        for (selector, descriptor) in descriptors {
            self.put(GDT + u64::from(selector & !7), descriptor);
        }
        for vector in 0..256 {
            let handler = SUPERVISOR + HANDLERS + vector;
            let gate =
                handler & 0xffff | u64::from(KERNEL_CODE) << 16 | 0x8e << 40 | (handler >> 16 & 0xffff) << 48;
            self.put(IDT + 16 * vector, gate);
            self.put(IDT + 16 * vector + 8, handler >> 32);
        }
        let stack = (SUPERVISOR + STACK_TOP).to_le_bytes();
        assert!(self.core.mem.ram.write_bytes(TSS + 4, &stack), "RAM holds the TSS");
        // The I/O permission bitmap lies beyond the limit: no port is allowed.
        assert!(self.core.mem.ram.write_bytes(TSS + 0x66, &0x68u16.to_le_bytes()), "RAM holds the TSS");
        assert!(self.core.mem.ram.write_bytes(HANDLERS, &[0xf4; 256]), "RAM holds the handlers");
    }

    fn set_control_registers(&mut self) {
        let cpu = &mut self.core.cpu;
        cpu.cr0 = cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::AM | cr0::PG;
        cpu.cr3 = PML4;
        cpu.cr4 = cr4::PAE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE | cr4::FSGSBASE;
        cpu.xcr0 = 7;
        cpu.efer = efer::LME | efer::LMA | efer::NXE | efer::SCE;
        cpu.gdtr = TableReg { base: SUPERVISOR + GDT, limit: 0x4f };
        cpu.idtr = TableReg { base: SUPERVISOR + IDT, limit: 0xfff };
        cpu.tr = Segment { selector: TSS_SELECTOR, attributes: 0x8b, limit: 0x67, base: SUPERVISOR + TSS };
    }

    /// Executes `code` once at `before.rip` in the code page; `memory` is the arena before and after.
    pub fn run(&mut self, code: &[u8], size: CodeSize, before: &State, memory: &mut Image) -> Outcome {
        let at = CODE_PAGE + before.rip.wrapping_sub(CODE);
        let ram = &mut self.core.mem.ram;
        assert!(ram.write_bytes(at, code), "the code page is RAM");
        assert!(ram.write_bytes(at + code.len() as u64, &[0xcc; 16]), "the code page is RAM");
        for page in present() {
            ram.write_bytes(ARENA + page as u64, &memory[page..page + PAGE as usize]);
        }
        self.load(size, before);
        let limit = self.core.cpu.icount + 1;
        let stop = self.interpreter.run(&mut self.core, limit);
        assert!(
            matches!(stop, Stop::Limit | Stop::Service | Stop::Halted),
            "the interpreter stopped: {stop:?}"
        );
        for page in present() {
            memory[page..page + PAGE as usize]
                .copy_from_slice(self.core.mem.ram.page((ARENA + page as u64) / PAGE));
        }
        self.store()
    }

    fn load(&mut self, size: CodeSize, before: &State) {
        let cpu = &mut self.core.cpu;
        let flat = |selector, attributes| Segment { selector, attributes, limit: u32::MAX, base: 0 };
        let null = |base| Segment { base, ..Segment::default() };
        cpu.segments = [flat(USER_DATA, 0xc0f3); 6];
        cpu.segments[seg::FS] = null(before.fs_base);
        cpu.segments[seg::GS] = null(before.gs_base);
        cpu.segments[seg::CS] = match size {
            CodeSize::Bits32 => flat(USER_CODE32, 0xc0fb),
            CodeSize::Bits64 => flat(USER_CODE64, 0xa0fb),
        };
        cpu.activity = Activity::Running;
        cpu.shadow = Shadow::None;
        cpu.debug_pending = 0;
        cpu.cr2 = 0;
        cpu.rip = before.rip;
        cpu.data.gpr[..16].copy_from_slice(&before.gpr);
        cpu.data.ymm = before.ymm;
        cpu.data.mxcsr = before.mxcsr;
        let fx = &mut cpu.data.fx.0;
        fx[0..2].copy_from_slice(&before.fcw.to_le_bytes());
        fx[2..4].copy_from_slice(&before.fsw.to_le_bytes());
        fx[4] = before.tags;
        for (i, (significand, top)) in before.st.iter().enumerate() {
            fx[32 + 16 * i..][..8].copy_from_slice(&significand.to_le_bytes());
            fx[40 + 16 * i..][..2].copy_from_slice(&top.to_le_bytes());
        }
        self.core.set_rflags(before.rflags as u32);
        self.core.mode_changed();
    }

    fn store(&self) -> Outcome {
        let cpu = &self.core.cpu;
        let fx = &cpu.data.fx.0;
        let word = |at: usize| u16::from_le_bytes([fx[at], fx[at + 1]]);
        let quad = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| fx[at + i]));
        let mut state = State {
            gpr: std::array::from_fn(|i| cpu.data.gpr[i]),
            rip: cpu.rip,
            rflags: u64::from(self.core.rflags()) & !RESUME_FLAG,
            fs_base: cpu.segments[seg::FS].base,
            gs_base: cpu.segments[seg::GS].base,
            ymm: cpu.data.ymm,
            mxcsr: cpu.data.mxcsr,
            fcw: word(0),
            fsw: word(2),
            tags: fx[4],
            st: std::array::from_fn(|i| (quad(32 + 16 * i), word(40 + 16 * i))),
        };
        if cpu.activity != Activity::Halted {
            return Outcome { state, raised: None };
        }
        let vector = (cpu.rip - 1 - SUPERVISOR - HANDLERS) as u8;
        let frame = cpu.data.gpr[4] - SUPERVISOR;
        let pushed = |slot: u64| self.core.mem.ram.get::<u64>(frame + 8 * slot);
        let with_code = WITH_CODE.contains(&vector);
        let first = u64::from(with_code);
        state.rip = pushed(first);
        state.rflags = pushed(first + 2) & !RESUME_FLAG;
        state.gpr[4] = pushed(first + 3);
        let code = if with_code { pushed(0) as u32 } else { 0 };
        let address = if vector == 14 { cpu.cr2 } else { 0 };
        Outcome { state, raised: Some(Raised { vector, code, address }) }
    }
}

/// Offsets of the arena's pages that exist.
fn present() -> impl Iterator<Item = usize> {
    let exists = |(_, rights): &(usize, &Rights)| **rights != Rights::Absent;
    RIGHTS.iter().enumerate().filter(exists).map(|(page, _)| page * PAGE as usize)
}
