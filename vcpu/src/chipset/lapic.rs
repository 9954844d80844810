//! The local APIC: state, registers and IA32_APIC_BASE (SDM 3A chapter 11).
//!
//! `lapic_delivery` holds what interrupts do to this state, `lapic_x2apic` the MSR view of the registers,
//! `lapic_timer` the timer. A local APIC never reaches another device: what it sends is left in
//! `take_output` for the chipset.

use super::interrupts::Message;
use super::lapic_timer::{LapicTimer, TimerMode};
use super::vectors::VectorSet;
use crate::fault::Fault;
use replay::time::Vtime;
use serde::{Deserialize, Serialize};

/// Address of the registers after reset.
pub const LAPIC_BASE: u64 = 0xfee0_0000;

/// IA32_APIC_BASE: this is the bootstrap processor.
pub const BASE_BSP: u64 = 1 << 8;
/// IA32_APIC_BASE: x2APIC mode.
pub const BASE_X2APIC: u64 = 1 << 10;
/// IA32_APIC_BASE: the APIC is on.
pub const BASE_ENABLE: u64 = 1 << 11;
/// Page number in IA32_APIC_BASE; bits above MAXPHYADDR are the CPU model's business.
const BASE_ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Version 0x14 (integrated), six LVT entries, EOI broadcasts can be suppressed (SDM 3A 11.4.8).
const VERSION: u32 = 1 << 24 | 5 << 16 | 0x14;

/// Register numbers: MMIO offset / 16, MSR number − 0x800 (SDM 3A tables 11-1 and 11-6).
pub mod register {
    pub const ID: u32 = 0x02;
    pub const VERSION: u32 = 0x03;
    pub const TPR: u32 = 0x08;
    pub const APR: u32 = 0x09;
    pub const PPR: u32 = 0x0a;
    pub const EOI: u32 = 0x0b;
    pub const LDR: u32 = 0x0d;
    pub const DFR: u32 = 0x0e;
    pub const SVR: u32 = 0x0f;
    pub const ISR: u32 = 0x10;
    pub const TMR: u32 = 0x18;
    pub const IRR: u32 = 0x20;
    pub const ESR: u32 = 0x28;
    pub const ICR_LOW: u32 = 0x30;
    pub const ICR_HIGH: u32 = 0x31;
    pub const LVT: u32 = 0x32;
    pub const LVT_LAST: u32 = 0x37;
    pub const INITIAL_COUNT: u32 = 0x38;
    pub const CURRENT_COUNT: u32 = 0x39;
    pub const DIVIDE: u32 = 0x3e;
    pub const SELF_IPI: u32 = 0x3f;
}

/// Entries of the local vector table, in register order.
pub mod lvt {
    pub const TIMER: usize = 0;
    pub const LINT0: usize = 3;
    pub const LINT1: usize = 4;
    pub const ERROR: usize = 5;
    /// Bits software may write, per entry: timer, thermal, performance, LINT0, LINT1, error.
    pub const WRITABLE: [u32; 6] = [0x700ff, 0x107ff, 0x107ff, 0x1a7ff, 0x1a7ff, 0x100ff];
    /// The local interrupt is not delivered.
    pub const MASKED: u32 = 1 << 16;
    /// LINT0 and LINT1: level-triggered.
    pub const LEVEL: u32 = 1 << 15;
    /// LINT0 and LINT1: accepted and not yet at its EOI; read-only.
    pub const REMOTE_IRR: u32 = 1 << 14;
}

/// Spurious-interrupt vector register: software enable.
pub const SVR_ENABLE: u32 = 1 << 8;
/// Spurious-interrupt vector register: an EOI is not broadcast.
pub const SVR_SUPPRESS_BROADCAST: u32 = 1 << 12;
const SVR_WRITABLE: u32 = 0xff | SVR_ENABLE | SVR_SUPPRESS_BROADCAST;

/// Bits of the error status register (SDM 3A 11.5.3).
pub mod error {
    pub const SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
    pub const RECEIVE_ILLEGAL_VECTOR: u32 = 1 << 6;
    pub const ILLEGAL_REGISTER: u32 = 1 << 7;
}

const ICR_LOW_WRITABLE: u32 = 0x000c_cfff;

/// What a local APIC asks of its CPU beside maskable interrupts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signals {
    /// A non-maskable interrupt is pending.
    pub nmi: bool,
    /// INIT arrived: the CPU resets and, unless it is the bootstrap processor, waits.
    pub init: bool,
    /// A start-up message arrived after INIT: execution begins at this vector × 4096.
    pub startup: Option<u8>,
}

/// What a local APIC sends; the chipset delivers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// A level-triggered vector was ended.
    EndOfInterrupt(u8),
    /// An inter-processor interrupt.
    Send(Message),
}

/// One local APIC.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Lapic {
    /// Index of its CPU.
    pub(super) cpu: usize,
    /// IA32_APIC_BASE.
    pub(super) base: u64,
    /// The ID register of xAPIC mode, bits 31:24.
    pub(super) id_register: u32,
    pub(super) tpr: u8,
    pub(super) ldr: u32,
    pub(super) dfr: u32,
    pub(super) svr: u32,
    /// What a read of the error status register returns.
    pub(super) esr: u32,
    /// Errors since the last write to it.
    pub(super) errors: u32,
    pub(super) icr: u64,
    pub(super) lvt: [u32; 6],
    pub(super) irr: VectorSet,
    pub(super) isr: VectorSet,
    pub(super) tmr: VectorSet,
    pub(super) timer: LapicTimer,
    /// Level of the LINT0 pin.
    pub(super) lint0: bool,
    pub(super) signals: Signals,
    pub(super) output: Option<Output>,
}

impl Lapic {
    /// The local APIC of CPU `cpu` at power-on; CPU 0 is the bootstrap processor.
    pub fn new(cpu: usize) -> Lapic {
        let bsp = if cpu == 0 { BASE_BSP } else { 0 };
        let mut lapic = Lapic {
            cpu,
            base: LAPIC_BASE | BASE_ENABLE | bsp,
            id_register: 0,
            tpr: 0,
            ldr: 0,
            dfr: 0,
            svr: 0,
            esr: 0,
            errors: 0,
            icr: 0,
            lvt: [0; 6],
            irr: VectorSet::default(),
            isr: VectorSet::default(),
            tmr: VectorSet::default(),
            timer: LapicTimer::default(),
            lint0: false,
            signals: Signals::default(),
            output: None,
        };
        lapic.reset_registers();
        lapic
    }

    /// Puts all registers into the state after reset (SDM 3A 11.4.7.1); IA32_APIC_BASE stays.
    pub(super) fn reset_registers(&mut self) {
        *self = Lapic {
            cpu: self.cpu,
            base: self.base,
            id_register: self.apic_id() << 24,
            tpr: 0,
            ldr: 0,
            dfr: u32::MAX,
            svr: 0xff,
            esr: 0,
            errors: 0,
            icr: 0,
            lvt: [lvt::MASKED; 6],
            irr: VectorSet::default(),
            isr: VectorSet::default(),
            tmr: VectorSet::default(),
            timer: LapicTimer::default(),
            lint0: self.lint0,
            signals: self.signals,
            output: self.output,
        };
    }

    /// Virtual wire mode through LINT0, NMI on LINT1: what PC firmware leaves on the bootstrap processor
    /// (MultiProcessor Specification 3.6.2.2).
    pub fn set_virtual_wire(&mut self) {
        self.svr |= SVR_ENABLE;
        self.lvt[lvt::LINT0] = 0x700;
        self.lvt[lvt::LINT1] = 0x400;
    }

    /// The APIC ID the CPU was given at power-on; also its x2APIC ID.
    pub fn apic_id(&self) -> u32 {
        self.cpu as u32
    }

    /// IA32_APIC_BASE.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Whether the registers are in memory: on and not in x2APIC mode.
    pub fn is_xapic(&self) -> bool {
        self.base & (BASE_ENABLE | BASE_X2APIC) == BASE_ENABLE
    }

    /// Whether the registers are MSRs.
    pub fn is_x2apic(&self) -> bool {
        self.base & BASE_X2APIC != 0
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.base & BASE_ENABLE != 0
    }

    pub(super) fn is_software_enabled(&self) -> bool {
        self.is_enabled() && self.svr & SVR_ENABLE != 0
    }

    /// Writes IA32_APIC_BASE; #GP for reserved bits and for illegal changes of mode (SDM 3A 11.12.5).
    pub fn set_base(&mut self, value: u64) -> Result<(), Fault> {
        if value & !(BASE_ADDRESS | BASE_BSP | BASE_X2APIC | BASE_ENABLE) != 0 {
            return Err(Fault::gp(0));
        }
        let mode = |base: u64| (base & BASE_ENABLE != 0, base & BASE_X2APIC != 0);
        match (mode(self.base), mode(value)) {
            // x2APIC mode needs the enable bit, is entered from xAPIC mode and left by switching off.
            (_, (false, true)) | ((false, _), (true, true)) | ((true, true), (true, false)) => {
                return Err(Fault::gp(0));
            }
            ((true, false), (true, true)) => {
                self.ldr = x2apic_ldr(self.apic_id());
                self.icr &= 0xffff_ffff;
            }
            ((true, _), (false, false)) => self.reset_registers(),
            _ => {}
        }
        self.base = value;
        Ok(())
    }

    /// Reads 32 bits at `offset` of the register page; `offset` is any byte of it.
    pub fn read(&mut self, offset: u64, size: u8, now: Vtime) -> u64 {
        // Only the first of the four words of a register is there (SDM 3A 11.4.1).
        if offset & 0xc != 0 {
            return 0;
        }
        let value = self.read_register((offset >> 4) as u32, now).unwrap_or_else(|| {
            self.report_error(error::ILLEGAL_REGISTER);
            0
        });
        let shifted = u64::from(value) >> (8 * (offset & 3));
        if size >= 4 { shifted } else { shifted & ((1 << (8 * size)) - 1) }
    }

    /// Writes a register; all but aligned 32-bit writes are undefined and have no effect here.
    pub fn write(&mut self, offset: u64, size: u8, value: u64, now: Vtime) {
        if offset & 0xf == 0 && size >= 4 && !self.write_register((offset >> 4) as u32, value as u32, now) {
            self.report_error(error::ILLEGAL_REGISTER);
        }
    }

    /// Reads a register; none if there is no such register.
    pub(super) fn read_register(&mut self, index: u32, now: Vtime) -> Option<u32> {
        Some(match index {
            register::ID => self.id_register,
            register::VERSION => VERSION,
            register::TPR => u32::from(self.tpr),
            // Arbitration went with the APIC bus; the register is still readable.
            register::APR => 0,
            register::PPR => u32::from(self.ppr()),
            register::EOI => 0,
            register::LDR => self.ldr,
            register::DFR => self.dfr,
            register::SVR => self.svr,
            register::ISR..register::TMR => self.isr.word((index - register::ISR) as usize),
            register::TMR..register::IRR => self.tmr.word((index - register::TMR) as usize),
            register::IRR..register::ESR => self.irr.word((index - register::IRR) as usize),
            register::ESR => self.esr,
            register::ICR_LOW => self.icr as u32,
            register::ICR_HIGH => (self.icr >> 32) as u32,
            register::LVT..=register::LVT_LAST => self.lvt[(index - register::LVT) as usize],
            register::INITIAL_COUNT => self.timer.initial_count(),
            register::CURRENT_COUNT => {
                self.advance(now);
                self.timer.current_count(now)
            }
            register::DIVIDE => self.timer.divide_register(),
            _ => return None,
        })
    }

    /// Writes a register; false if there is no such register.
    pub(super) fn write_register(&mut self, index: u32, value: u32, now: Vtime) -> bool {
        self.advance(now);
        match index {
            register::ID => self.id_register = value & 0xff00_0000,
            register::TPR => self.tpr = value as u8,
            register::EOI => self.end_of_interrupt(),
            register::LDR => self.ldr = value & 0xff00_0000,
            register::DFR => self.dfr = value | 0x0fff_ffff,
            register::SVR => self.write_svr(value),
            register::ESR => self.esr = std::mem::take(&mut self.errors),
            register::ICR_LOW => {
                self.icr = self.icr & !0xffff_ffff | u64::from(value & ICR_LOW_WRITABLE);
                self.send_icr();
            }
            register::ICR_HIGH => self.icr = self.icr & 0xffff_ffff | u64::from(value & 0xff00_0000) << 32,
            register::LVT..=register::LVT_LAST => self.write_lvt((index - register::LVT) as usize, value),
            register::INITIAL_COUNT => self.timer.set_initial_count(value, now),
            register::DIVIDE => self.timer.set_divide(value, now),
            // Read-only registers exist; a write to one is ignored.
            register::VERSION | register::APR | register::PPR | register::CURRENT_COUNT => {}
            register::ISR..register::ESR => {}
            _ => return false,
        }
        true
    }

    fn write_svr(&mut self, value: u32) {
        self.svr = value & SVR_WRITABLE;
        if self.svr & SVR_ENABLE == 0 {
            for entry in &mut self.lvt {
                *entry |= lvt::MASKED;
            }
        }
    }

    fn write_lvt(&mut self, entry: usize, value: u32) {
        let kept = self.lvt[entry] & lvt::REMOTE_IRR;
        // Remote IRR means nothing for an edge.
        let kept = if value & lvt::LEVEL != 0 { kept } else { 0 };
        let forced = if self.svr & SVR_ENABLE == 0 { lvt::MASKED } else { 0 };
        self.lvt[entry] = value & lvt::WRITABLE[entry] | kept | forced;
        match entry {
            lvt::TIMER => self.timer.set_mode(TimerMode::decode(value)),
            lvt::LINT0 => self.poll_lint0(),
            _ => {}
        }
    }

    /// Time of the next timer interrupt; a masked timer counts without one.
    pub fn deadline(&self) -> Option<Vtime> {
        if self.lvt[lvt::TIMER] & lvt::MASKED != 0 { None } else { self.timer.deadline() }
    }

    /// Lets the timer expire if it is due.
    pub fn advance(&mut self, now: Vtime) {
        if self.timer.advance(now) {
            self.deliver_local(lvt::TIMER);
        }
    }

    /// What was sent since the last call.
    pub fn take_output(&mut self) -> Option<Output> {
        self.output.take()
    }
}

/// The logical ID of x2APIC mode (SDM 3A 11.12.10.2).
pub(super) fn x2apic_ldr(id: u32) -> u32 {
    (id >> 4) << 16 | 1 << (id & 15)
}

#[cfg(test)]
#[path = "lapic_tests.rs"]
mod tests;
