//! The PC's chipset: every device that lives in the vCPU process.
//!
//! A device is a plain struct in a file of its own: registers, `read`, `write`, `deadline`, `advance`, a
//! line. It knows no other device. `map` says which device answers where, `bus` carries accesses to it,
//! `routing` carries lines and messages to the CPUs, `effects` is what the run loop has to do.
//!
//! Nothing here ticks: what depends on time is computed from `now`, and the only times at which something
//! happens by itself are deadlines, exact to the nanosecond.

pub mod acpi_pm;
mod bus;
pub mod bytewise;
pub mod config;
pub mod debug_port;
pub mod effects;
pub mod frequency;
pub mod fw_cfg;
mod host_io;
mod hpet;
pub mod i8042;
pub mod interrupts;
mod ioapic;
mod keyboard;
mod lapic;
mod lapic_delivery;
mod lapic_timer;
mod lapic_x2apic;
pub mod map;
mod mouse;
mod msix;
pub mod pci_config;
pub mod pci_host;
mod pic;
mod pit;
mod pit_counter;
mod platform;
mod power;
pub mod pvpanic;
pub mod reset;
mod routing;
pub mod rtc;
mod rtc_calendar;
mod scancodes;
pub mod uart16550;
mod vectors;
mod view;
pub mod virtio;

pub use config::ChipsetConfig;
pub use effects::Effects;
pub use frequency::TSC_HZ;
pub use lapic::LAPIC_BASE;
pub use virtio::{QueueRegisters, VirtioRegisters, Work};

use crate::fault::Fault;
use acpi_pm::AcpiPm;
use config::{RAM_BELOW_4G_MAX, UARTS_MAX};
use debug_port::{DebugConsole, DebugExit, PostCode};
use fw_cfg::{FwCfg, MachineFacts};
use hpet::Hpet;
use i8042::I8042;
use ioapic::IoApic;
use lapic::Lapic;
use pci_host::PciHost;
use pic::PicPair;
use pit::Pit;
use pvpanic::Pvpanic;
use replay::time::Vtime;
use reset::{ControlA, ResetControl};
use routing::Lines;
use rtc::{RamSize, Rtc};
use serde::{Deserialize, Serialize};
use uart16550::Uart16550;
use virtio::VirtioBus;

/// All devices that live in the vCPU process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Chipset {
    config: ChipsetConfig,
    /// One a CPU.
    lapics: Vec<Lapic>,
    ioapic: IoApic,
    pic: PicPair,
    pit: Pit,
    hpet: Hpet,
    rtc: Rtc,
    acpi_pm: AcpiPm,
    uarts: Vec<Uart16550>,
    i8042: I8042,
    pci: PciHost,
    virtio: VirtioBus,
    fw_cfg: FwCfg,
    reset_control: ResetControl,
    control_a: ControlA,
    debug_console: DebugConsole,
    debug_exit: DebugExit,
    post_code: PostCode,
    pvpanic: Pvpanic,
    lines: Lines,
    /// An NMI was raised while port 0x70 held NMIs off.
    nmi_waits: bool,
    effects: Effects,
    /// CPU whose accesses and interrupts are meant.
    current: usize,
    /// Cached: a maskable interrupt for the current CPU.
    interrupt: bool,
    /// Cached: the earliest deadline of the devices other than local APICs.
    device_deadline: Option<Vtime>,
    /// Cached: the earliest deadline of all.
    deadline: Option<Vtime>,
}

impl Chipset {
    /// The chipset at power-on, with the bootstrap processor's local APIC as firmware leaves it.
    pub fn new(config: &ChipsetConfig) -> Chipset {
        let config = ChipsetConfig { uart_count: config.uart_count.min(UARTS_MAX), ..config.clone() };
        let below_4g = config.ram_bytes.min(RAM_BELOW_4G_MAX);
        let ram = RamSize { below_4g, above_4g: config.ram_bytes - below_4g };
        let mut pci = PciHost::new();
        let virtio = VirtioBus::new(&config.functions, &mut pci);
        let mut chipset = Chipset {
            lapics: Chipset::new_lapics(&config),
            ioapic: IoApic::default(),
            pic: PicPair::default(),
            pit: Pit::default(),
            hpet: Hpet::default(),
            rtc: Rtc::new(config.rtc_base, config.host_offset_s, ram),
            acpi_pm: AcpiPm::new(),
            uarts: (0..config.uart_count).map(|_| Uart16550::new()).collect(),
            i8042: I8042::new(),
            pci,
            virtio,
            fw_cfg: FwCfg::new(MachineFacts {
                ram_bytes: config.ram_bytes,
                cpu_count: u16::try_from(config.cpu_count).unwrap_or(u16::MAX),
                uuid: config.uuid,
            }),
            reset_control: ResetControl::default(),
            control_a: ControlA::default(),
            debug_console: DebugConsole::default(),
            debug_exit: DebugExit::default(),
            post_code: PostCode::default(),
            pvpanic: Pvpanic::default(),
            lines: Lines::default(),
            nmi_waits: false,
            effects: Effects::default(),
            current: 0,
            interrupt: false,
            device_deadline: None,
            deadline: None,
            config,
        };
        chipset.set_up_virtio();
        let port = pvpanic::PORT.to_le_bytes().to_vec();
        chipset.fw_cfg.add_file(pvpanic::PORT_FILE, port).expect("the first file, with a short name");
        chipset.settle();
        chipset
    }

    /// One local APIC a CPU; the first in virtual wire mode.
    fn new_lapics(config: &ChipsetConfig) -> Vec<Lapic> {
        let mut lapics: Vec<Lapic> =
            (0..config.cpu_count.max(1)).map(|cpu| Lapic::new(cpu as usize)).collect();
        lapics[0].set_virtual_wire();
        lapics
    }

    /// Chooses the CPU whose local APIC the methods below mean.
    pub fn select_cpu(&mut self, cpu: usize) {
        assert!(cpu < self.lapics.len(), "CPU {cpu} of {}", self.lapics.len());
        self.current = cpu;
        self.refresh();
    }

    /// The earliest time at which something happens by itself.
    #[inline]
    pub fn next_deadline(&self) -> Option<Vtime> {
        self.deadline
    }

    /// Does everything that is due at `now`.
    pub fn advance(&mut self, now: Vtime) {
        self.pit.advance(now);
        self.hpet.advance(now);
        self.rtc.advance(now);
        self.acpi_pm.advance(now);
        for uart in &mut self.uarts {
            uart.advance(now);
        }
        self.i8042.advance(now);
        for lapic in &mut self.lapics {
            lapic.advance(now);
        }
        self.settle();
    }

    /// Does what is due before an access at `now` looks at a device.
    pub(crate) fn catch_up(&mut self, now: Vtime) {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.advance(now);
        }
    }

    /// Keeps the cached answers; after every change of an interrupt controller.
    fn refresh(&mut self) {
        let lapic = &self.lapics[self.current];
        self.interrupt = lapic.pending_vector().is_some() || self.extint_pending(self.current);
        let lapics = self.lapics.iter().filter_map(Lapic::deadline).min();
        self.deadline = [lapics, self.device_deadline].into_iter().flatten().min();
        self.effects.init |= std::mem::take(&mut self.lapics[0].signals.init);
    }

    /// Keeps the deadline of the devices; after every change of one.
    fn refresh_device_deadline(&mut self) {
        let uarts = self.uarts.iter().filter_map(Uart16550::deadline).min();
        // In legacy routing the outputs of the 8254 and the RTC go nowhere.
        let (pit, rtc) =
            if self.hpet.is_legacy() { (None, None) } else { (self.pit.deadline(), self.rtc.deadline()) };
        let all = [self.hpet.deadline(), pit, rtc, self.acpi_pm.deadline(), uarts, self.i8042.deadline()];
        self.device_deadline = all.into_iter().flatten().min();
    }

    /// Whether a maskable interrupt is pending for the CPU.
    #[inline]
    pub fn interrupt_pending(&self) -> bool {
        self.interrupt
    }

    /// An interrupt acknowledge cycle: the local APIC's vector, else the 8259 pair's.
    pub fn acknowledge(&mut self, now: Vtime) -> Option<u8> {
        self.catch_up(now);
        let vector = match self.lapics[self.current].acknowledge() {
            Some(vector) => Some(vector),
            None => self.extint_pending(self.current).then(|| self.pic.acknowledge()),
        };
        self.settle_apics();
        vector
    }

    /// Takes the pending non-maskable interrupt.
    pub fn take_nmi(&mut self) -> bool {
        std::mem::take(&mut self.lapics[self.current].signals.nmi)
    }

    /// Whether a non-maskable interrupt is pending.
    #[inline]
    pub fn nmi_pending(&self) -> bool {
        self.lapics[self.current].signals.nmi
    }

    /// Raises the NMI pin of the bootstrap processor (LINT1); port 0x70 may hold it off.
    pub fn raise_nmi(&mut self) {
        self.nmi_waits = true;
        self.settle();
    }

    /// Takes the vector of a start-up message to the current CPU.
    pub fn take_startup(&mut self) -> Option<u8> {
        self.lapics[self.current].signals.startup.take()
    }

    /// Whether `take_effects` has something.
    #[inline]
    pub fn has_effects(&self) -> bool {
        !self.effects.is_empty()
    }

    /// Takes what the run loop has to do.
    pub fn take_effects(&mut self) -> Effects {
        std::mem::take(&mut self.effects)
    }

    /// IA32_APIC_BASE (MSR 0x1b).
    pub fn apic_base(&self) -> u64 {
        self.lapics[self.current].base()
    }

    /// Writes IA32_APIC_BASE; #GP where the manual forbids it.
    pub fn set_apic_base(&mut self, value: u64) -> Result<(), Fault> {
        self.lapics[self.current].set_base(value)?;
        self.settle_apics();
        Ok(())
    }

    /// RDMSR 0x800–0x8ff; none is #GP.
    pub fn x2apic_read(&mut self, msr: u32, now: Vtime) -> Option<u64> {
        self.catch_up(now);
        let value = self.lapics[self.current].x2apic_read(msr, now);
        self.settle_apics();
        value
    }

    /// WRMSR 0x800–0x8ff; false is #GP.
    pub fn x2apic_write(&mut self, msr: u32, value: u64, now: Vtime) -> bool {
        self.catch_up(now);
        let written = self.lapics[self.current].x2apic_write(msr, value, now);
        self.settle_apics();
        written
    }

    /// IA32_TSC_DEADLINE (MSR 0x6e0) in units of the time-stamp counter; zero once it has expired.
    pub fn tsc_deadline(&self, now: Vtime) -> u64 {
        let timer = &self.lapics[self.current].timer;
        if timer.deadline().is_some_and(|expiry| expiry <= now) { 0 } else { timer.tsc_deadline() }
    }

    /// Writes IA32_TSC_DEADLINE; one that has passed expires at once.
    pub fn set_tsc_deadline(&mut self, value: u64, tsc_offset: u64, now: Vtime) {
        self.catch_up(now);
        let lapic = &mut self.lapics[self.current];
        lapic.timer.set_tsc_deadline(value, tsc_offset, now);
        lapic.advance(now);
        self.settle_apics();
    }

    /// Follows a write to the time-stamp counter or IA32_TSC_ADJUST: an armed deadline moves.
    pub fn tsc_changed(&mut self, tsc_offset: u64, now: Vtime) {
        self.catch_up(now);
        let lapic = &mut self.lapics[self.current];
        lapic.timer.tsc_changed(tsc_offset, now);
        lapic.advance(now);
        self.settle_apics();
    }

    /// CR8: bits 7:4 of the task priority.
    #[inline]
    pub fn cr8(&self) -> u8 {
        self.lapics[self.current].tpr >> 4
    }

    /// Writes CR8 (0..=15).
    pub fn set_cr8(&mut self, value: u8) {
        self.lapics[self.current].tpr = value << 4;
        self.refresh();
    }
}

#[cfg(test)]
mod random_tests;
#[cfg(test)]
mod tests;
