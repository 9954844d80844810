//! The PCI host: configuration mechanism #1, ECAM, and the functions a PC always has.
//!
//! Both mechanisms lead to the same `ConfigSpace`; absent functions read all ones. Devices keep their
//! function here, so there is one owner of all configuration space. PCI Local Bus Specification 3.0,
//! 3.2.2.3.2; PCI Express Base Specification, 7.2.2.

use super::acpi_pm;
use super::pci_config::{ConfigSpace, Identity};
use replay::time::Vtime;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// First port of configuration mechanism #1: address, then four data ports from 0xcfc on.
pub const PORT: u16 = 0xcf8;
/// Ports 0xcf8..=0xcff.
pub const PORT_COUNT: u16 = 8;
/// Memory-mapped configuration space, for the MCFG table: buses 0 to 255.
pub const ECAM_BASE: u64 = 0xe000_0000;
/// 4 KiB a function, 256 functions a bus, 256 buses.
pub const ECAM_SIZE: u64 = 256 << 20;

/// IRQs to which firmware routes the PIRQs: two that no ISA device here has, shared by four PIRQs each.
const PIRQ_IRQS: [u8; 8] = [10, 10, 11, 11, 10, 10, 11, 11];
/// The same as a mask: what firmware makes level-triggered in the 8259 pair.
pub const PIRQ_IRQ_MASK: u16 = 1 << 10 | 1 << 11;
/// PIRQ[A-D]_ROUT and PIRQ[E-H]_ROUT of the ISA bridge (ICH9 data sheet, 13.1.15 and 13.1.19).
pub const PIRQ_ROUTES: [usize; 2] = [0x60, 0x68];

/// Address of a function: bus, device, function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Bdf(u16);

impl Bdf {
    /// Host bridge.
    pub const HOST_BRIDGE: Bdf = Bdf::new(0, 0, 0);
    /// PCI-to-ISA bridge.
    pub const ISA_BRIDGE: Bdf = Bdf::new(0, 0x1f, 0);

    /// Function `function` (0..8) of device `device` (0..32).
    pub const fn new(bus: u8, device: u8, function: u8) -> Bdf {
        assert!(device < 32 && function < 8);
        Bdf((bus as u16) << 8 | (device as u16) << 3 | function as u16)
    }

    /// As in a configuration address or a requester id.
    pub const fn number(self) -> u16 {
        self.0
    }

    /// Function number in its device.
    pub const fn function(self) -> u8 {
        self.0 as u8 & 7
    }

    /// Device number on its bus.
    pub const fn device(self) -> u8 {
        (self.0 >> 3) as u8 & 31
    }
}

/// The host bridge's registers and every function's configuration space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciHost {
    /// CONFIG_ADDRESS.
    config_address: u32,
    functions: BTreeMap<Bdf, ConfigSpace>,
    decode_changed: bool,
}

impl Default for PciHost {
    fn default() -> PciHost {
        PciHost::new()
    }
}

impl PciHost {
    const ENABLE: u32 = 1 << 31;
    /// Enable, bus, device, function, register.
    const ADDRESS_BITS: u32 = 0x80ff_fffc;

    /// A bus with host bridge and ISA bridge.
    pub fn new() -> PciHost {
        let functions = BTreeMap::from([(Bdf::HOST_BRIDGE, host_bridge()), (Bdf::ISA_BRIDGE, isa_bridge())]);
        PciHost { config_address: 0, functions, decode_changed: false }
    }

    /// Adds a function.
    pub fn insert(&mut self, at: Bdf, space: ConfigSpace) {
        let old = self.functions.insert(at, space);
        assert!(old.is_none(), "two functions at {at:?}");
        self.decode_changed = true;
    }

    /// The function at an address.
    pub fn function(&self, at: Bdf) -> Option<&ConfigSpace> {
        self.functions.get(&at)
    }

    /// The function at an address, for its device.
    pub fn function_mut(&mut self, at: Bdf) -> Option<&mut ConfigSpace> {
        self.functions.get_mut(&at)
    }

    /// All functions, in address order.
    pub fn functions(&self) -> impl Iterator<Item = (Bdf, &ConfigSpace)> {
        self.functions.iter().map(|(at, space)| (*at, space))
    }

    /// Whether a write has changed what functions decode, or may have, since the last call.
    pub fn take_decode_changed(&mut self) -> bool {
        std::mem::take(&mut self.decode_changed)
    }

    /// IRQ of the 8259 pair to which a PIRQ (0 is PIRQA) is routed; 0 if to none.
    pub fn pirq_route(&self, pirq: u8) -> u8 {
        /// IRQEN: set, the PIRQ goes to no IRQ.
        const NOT_ROUTED: u8 = 0x80;
        /// IRQs that the register cannot name; the data sheet calls them reserved.
        const RESERVED: u16 = 0b0010_0001_0000_0111;
        let register = PIRQ_ROUTES[usize::from(pirq) / 4 % 2] + usize::from(pirq) % 4;
        let bridge = self.functions.get(&Bdf::ISA_BRIDGE);
        let route = bridge.map_or(NOT_ROUTED, |space| space.bytes(register, 1)[0]);
        let irq = route & 0xf;
        if route & NOT_ROUTED != 0 || RESERVED & 1 << irq != 0 { 0 } else { irq }
    }

    /// IRQs of the 8259 pair that these PIRQs drive, one bit each.
    pub fn pirq_irqs(&self, pirqs: u8) -> u16 {
        let driven = (0..8).filter(|pirq| pirqs & 1 << pirq != 0);
        driven.fold(0, |irqs, pirq| irqs | 1 << self.pirq_route(pirq)) & !1
    }

    /// Machine reset.
    pub fn reset(&mut self) {
        self.config_address = 0;
        self.functions.values_mut().for_each(ConfigSpace::reset);
        if let Some(bridge) = self.functions.get_mut(&Bdf::ISA_BRIDGE) {
            route_pirqs(bridge);
        }
        self.decode_changed = true;
    }

    /// The function and register that an access to the data ports means.
    pub fn port_target(&self, offset: u64) -> Option<(Bdf, usize)> {
        let (at, register) = self.selected().filter(|_| (4..8).contains(&offset))?;
        Some((at, register + (offset as usize & 3)))
    }

    /// Reads ports from `PORT + offset` on. The address register answers to dwords only.
    pub fn read(&mut self, offset: u64, size: u8, _now: Vtime) -> u64 {
        match (offset, size) {
            (0, 4) => u64::from(self.config_address),
            (4..8, _) => u64::from(self.read_data(offset as usize & 3, size)),
            _ => all_ones(size),
        }
    }

    /// Writes ports from `PORT + offset` on.
    pub fn write(&mut self, offset: u64, size: u8, value: u64, _now: Vtime) {
        match (offset, size) {
            (0, 4) => self.config_address = value as u32 & Self::ADDRESS_BITS,
            (4..8, _) => self.write_data(offset as usize & 3, size, value as u32),
            // Other accesses to the address register go to ISA, where nothing but 0xcf9 listens.
            _ => {}
        }
    }

    /// Reads at `ECAM_BASE + offset`.
    pub fn ecam_read(&mut self, offset: u64, size: u8) -> u64 {
        let (at, register) = ecam_target(offset);
        let low = self.config_read(at, register, size.min(4));
        if size <= 4 {
            return u64::from(low);
        }
        u64::from(low) | u64::from(self.config_read(at, register + 4, 4)) << 32
    }

    /// Writes at `ECAM_BASE + offset`.
    pub fn ecam_write(&mut self, offset: u64, size: u8, value: u64) {
        let (at, register) = ecam_target(offset);
        self.config_write(at, register, size.min(4), value as u32);
        if size > 4 {
            self.config_write(at, register + 4, 4, (value >> 32) as u32);
        }
    }

    fn read_data(&self, byte: usize, size: u8) -> u32 {
        match self.selected() {
            Some((at, register)) => self.config_read(at, register + byte, size),
            None => all_ones(size) as u32,
        }
    }

    fn write_data(&mut self, byte: usize, size: u8, value: u32) {
        if let Some((at, register)) = self.selected() {
            self.config_write(at, register + byte, size, value);
        }
    }

    /// What CONFIG_ADDRESS selects.
    fn selected(&self) -> Option<(Bdf, usize)> {
        let address = self.config_address;
        (address & Self::ENABLE != 0).then_some((Bdf((address >> 8) as u16), (address & 0xfc) as usize))
    }

    fn config_read(&self, at: Bdf, register: usize, size: u8) -> u32 {
        self.functions.get(&at).map_or(all_ones(size) as u32, |space| space.read(register, size))
    }

    fn config_write(&mut self, at: Bdf, register: usize, size: u8, value: u32) {
        if let Some(space) = self.functions.get_mut(&at) {
            self.decode_changed |= space.write(register, size, value);
        }
    }
}

fn all_ones(size: u8) -> u64 {
    super::bytewise::truncate(u64::MAX, size)
}

/// The function and register at `ECAM_BASE + offset`.
pub fn ecam_target(offset: u64) -> (Bdf, usize) {
    (Bdf((offset >> 12) as u16), (offset & 0xfff) as usize)
}

/// Memory controller hub of a Q35 (82G33), as guests' tables know it.
fn host_bridge() -> ConfigSpace {
    /// PCIEXBAR: where ECAM is, with its enable bit.
    const PCIEXBAR: usize = 0x60;
    let mut space = ConfigSpace::new(Identity {
        vendor: 0x8086,
        device: 0x29c0,
        class: 0x06_00_00,
        ..Identity::default()
    });
    space.set(PCIEXBAR, &(ECAM_BASE | 1).to_le_bytes());
    space
}

/// LPC bridge of an ICH9: what drivers and quirks of this id look at.
fn isa_bridge() -> ConfigSpace {
    /// PMBASE: ports of ACPI's fixed hardware, with the I/O flag.
    const PMBASE: usize = 0x40;
    /// ACPI_CNTL: ACPI_EN, SCI on IRQ 9.
    const ACPI_CNTL: usize = 0x44;
    let mut space = ConfigSpace::new(Identity {
        vendor: 0x8086,
        device: 0x2918,
        revision: 2,
        class: 0x06_01_00,
        ..Identity::default()
    });
    space.set(PMBASE, &(u32::from(acpi_pm::PORT) | 1).to_le_bytes());
    space.set(ACPI_CNTL, &[0x80]);
    for register in PIRQ_ROUTES {
        space.allow(register, &[0x8f; 4]);
    }
    route_pirqs(&mut space);
    space
}

/// Routes the PIRQs as firmware does.
fn route_pirqs(bridge: &mut ConfigSpace) {
    for (register, irqs) in PIRQ_ROUTES.into_iter().zip(PIRQ_IRQS.chunks(4)) {
        bridge.set(register, irqs);
    }
}

#[cfg(test)]
mod tests {
    use super::super::pci_config::BarKind;
    use super::*;

    const T0: Vtime = Vtime(0);

    fn select(host: &mut PciHost, device: u64, register: u64) {
        host.write(0, 4, 1 << 31 | device << 11 | register, T0);
    }

    #[test]
    fn mechanism_one_is_found() {
        let mut host = PciHost::new();
        // What operating systems check: the register keeps its enable bit.
        host.write(0, 4, 0x8000_0000, T0);
        assert_eq!(host.read(0, 4, T0), 0x8000_0000);
        host.write(0, 4, 0xffff_ffff, T0);
        assert_eq!(host.read(0, 4, T0), 0x80ff_fffc);
        host.write(3, 1, 0, T0);
        assert_eq!(host.read(0, 4, T0), 0x80ff_fffc, "bytes are not for the address register");
        assert_eq!(host.read(2, 1, T0), 0xff);
    }

    #[test]
    fn bridges() {
        let mut host = PciHost::new();
        select(&mut host, 0, 0);
        assert_eq!(host.read(4, 4, T0), 0x29c0_8086);
        select(&mut host, 0, 8);
        assert_eq!(host.read(6, 2, T0), 0x0600);
        select(&mut host, 0x1f, 0);
        assert_eq!(host.read(4, 2, T0), 0x8086);
        assert_eq!(host.read(6, 2, T0), 0x2918);
        select(&mut host, 0x1f, 8);
        assert_eq!(host.read(7, 1, T0), 0x06);
        assert_eq!(host.read(6, 1, T0), 0x01);
        select(&mut host, 0x1f, 0x40);
        assert_eq!(host.read(4, 4, T0), 0x601);
    }

    #[test]
    fn absent_functions_read_all_ones() {
        let mut host = PciHost::new();
        select(&mut host, 5, 0);
        assert_eq!(host.read(4, 4, T0), 0xffff_ffff);
        assert_eq!(host.read(4, 2, T0), 0xffff);
        host.write(4, 4, 0, T0);
        host.write(0, 4, 0, T0);
        assert_eq!(host.read(4, 1, T0), 0xff, "not enabled");
        assert_eq!(host.ecam_read(0x0ff0_0000, 4), 0xffff_ffff);
        assert_eq!(host.ecam_read(ECAM_SIZE - 4, 8), u64::MAX);
        assert_eq!(host.ecam_read(0x100, 4), 0xffff_ffff, "no extended space");
    }

    #[test]
    fn ecam_and_ports_show_the_same() {
        let mut host = PciHost::new();
        let mut space = ConfigSpace::new(Identity { vendor: 0x1af4, device: 0x1041, ..Identity::default() });
        space.add_bar(0, BarKind::Memory32, 4096);
        let at = Bdf::new(0, 3, 0);
        host.insert(at, space);
        assert!(host.take_decode_changed());
        assert_eq!(host.ecam_read(3 << 15, 4), 0x1041_1af4);
        host.ecam_write(3 << 15 | 0x10, 4, 0xfeb0_0000);
        host.ecam_write(3 << 15 | 4, 2, 2);
        assert!(host.take_decode_changed());
        select(&mut host, 3, 0x10);
        assert_eq!(host.read(4, 4, T0), 0xfeb0_0000);
        assert_eq!(host.read(6, 1, T0), 0xb0);
        assert_eq!(host.function(at).unwrap().bar(0).unwrap().address, 0xfeb0_0000);
        host.write(7, 1, 0xfd, T0);
        assert_eq!(host.function(at).unwrap().bar(0).unwrap().address, 0xfdb0_0000);
        assert!(host.take_decode_changed());
        select(&mut host, 3, 0x3c);
        host.write(4, 1, 11, T0);
        assert!(!host.take_decode_changed());
        assert_eq!(at.device(), 3);
        assert_eq!(at.number(), 0x18);
        let saved = serde_json::to_vec(&host).unwrap();
        assert_eq!(serde_json::from_slice::<PciHost>(&saved).unwrap(), host);
    }
}
