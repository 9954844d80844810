//! Configuration space of one PCI function with a type 0 header.
//!
//! Behaviour is data: beside each byte stand the bits that the guest may write and the bits that writing
//! ones clears. PCI Local Bus Specification 3.0, chapter 6. Wrong calls while a function is built are bugs
//! of ours and assert; guest accesses never do.

use serde::{Deserialize, Serialize};

/// Size of the space in bytes. There are no extended capabilities, so no more than this.
pub const CONFIG_SIZE: usize = 256;

/// Offsets of the header (figure 6-1).
pub mod offset {
    /// Vendor ID.
    pub const VENDOR: usize = 0x00;
    /// Device ID.
    pub const DEVICE: usize = 0x02;
    /// Command register.
    pub const COMMAND: usize = 0x04;
    /// Status register.
    pub const STATUS: usize = 0x06;
    /// Revision ID.
    pub const REVISION: usize = 0x08;
    /// Class code, three bytes.
    pub const CLASS: usize = 0x09;
    /// Cache line size.
    pub const CACHE_LINE: usize = 0x0c;
    /// Header type.
    pub const HEADER_TYPE: usize = 0x0e;
    /// Six base address registers.
    pub const BARS: usize = 0x10;
    /// Subsystem vendor ID.
    pub const SUBSYSTEM_VENDOR: usize = 0x2c;
    /// Subsystem ID.
    pub const SUBSYSTEM: usize = 0x2e;
    /// Offset of the first capability.
    pub const CAPABILITIES: usize = 0x34;
    /// Interrupt line.
    pub const INTERRUPT_LINE: usize = 0x3c;
    /// Interrupt pin.
    pub const INTERRUPT_PIN: usize = 0x3d;
    /// First byte after the header.
    pub const DEVICE_SPECIFIC: usize = 0x40;
}

/// Command register bits (table 6-1).
pub mod command {
    /// Decodes I/O BARs.
    pub const IO: u16 = 1 << 0;
    /// Decodes memory BARs.
    pub const MEMORY: u16 = 1 << 1;
    /// May do DMA and send MSIs.
    pub const MASTER: u16 = 1 << 2;
    /// Parity error response.
    pub const PARITY: u16 = 1 << 6;
    /// SERR# enable.
    pub const SERR: u16 = 1 << 8;
    /// INTx is held off.
    pub const INTX_DISABLE: u16 = 1 << 10;
    /// What the guest may write.
    pub const WRITABLE: u16 = IO | MEMORY | MASTER | PARITY | SERR | INTX_DISABLE;
}

/// Status register bits (table 6-2).
pub mod status {
    /// State of INTx.
    pub const INTERRUPT: u16 = 1 << 3;
    /// There is a capability list.
    pub const CAPABILITIES: u16 = 1 << 4;
    /// Error bits, cleared by writing ones.
    pub const ERRORS: u16 = 0xf900;
}

/// What a function says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Revision ID.
    pub revision: u8,
    /// Base class, subclass, programming interface: `0xccssii`.
    pub class: u32,
    /// Subsystem vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem: u16,
}

/// What a base address register decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BarKind {
    /// I/O ports.
    Io,
    /// Memory below 4 GiB.
    Memory32,
    /// Takes two registers.
    Memory64 {
        /// Reads have no effects.
        prefetchable: bool,
    },
}

/// A base address register as the function was built with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Bar {
    kind: BarKind,
    size: u64,
}

/// Addresses that a base address register decodes now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarRange {
    /// What they are.
    pub kind: BarKind,
    /// The first.
    pub address: u64,
    /// How many.
    pub size: u64,
}

/// Configuration space of one function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigSpace {
    bytes: Vec<u8>,
    /// Bits the guest may write.
    writable: Vec<u8>,
    /// Bits that writing ones clears.
    clearable: Vec<u8>,
    bars: [Option<Bar>; 6],
    /// Last capability in the list, whose next pointer is zero; 0 when there is none.
    last_capability: u8,
    /// Where the next capability goes.
    free: u16,
}

impl ConfigSpace {
    /// A function without BARs or capabilities.
    pub fn new(identity: Identity) -> ConfigSpace {
        let mut space = ConfigSpace {
            bytes: vec![0; CONFIG_SIZE],
            writable: vec![0; CONFIG_SIZE],
            clearable: vec![0; CONFIG_SIZE],
            bars: [None; 6],
            last_capability: 0,
            free: offset::DEVICE_SPECIFIC as u16,
        };
        space.set(offset::VENDOR, &identity.vendor.to_le_bytes());
        space.set(offset::DEVICE, &identity.device.to_le_bytes());
        space.set(offset::REVISION, &[identity.revision]);
        space.set(offset::CLASS, &identity.class.to_le_bytes()[..3]);
        space.set(offset::SUBSYSTEM_VENDOR, &identity.subsystem_vendor.to_le_bytes());
        space.set(offset::SUBSYSTEM, &identity.subsystem.to_le_bytes());
        space.allow(offset::COMMAND, &command::WRITABLE.to_le_bytes());
        space.allow(offset::CACHE_LINE, &[0xff]);
        space.allow(offset::INTERRUPT_LINE, &[0xff]);
        space.clearable[offset::STATUS..offset::STATUS + 2].copy_from_slice(&status::ERRORS.to_le_bytes());
        space
    }

    /// Sets bytes as the device, whatever the guest may write.
    pub fn set(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Lets the guest write the bits of `mask` from `at` on.
    pub fn allow(&mut self, at: usize, mask: &[u8]) {
        self.writable[at..at + mask.len()].copy_from_slice(mask);
    }

    /// The bytes from `at` on, without effects.
    pub fn bytes(&self, at: usize, length: usize) -> &[u8] {
        &self.bytes[at..at + length]
    }

    /// Interrupt pin: 1 is INTA#.
    pub fn set_interrupt_pin(&mut self, pin: u8) {
        assert!(pin <= 4, "PCI has INTA# to INTD#");
        self.set(offset::INTERRUPT_PIN, &[pin]);
    }

    /// Interrupt line: what firmware notes for the operating system.
    pub fn set_interrupt_line(&mut self, line: u8) {
        self.set(offset::INTERRUPT_LINE, &[line]);
    }

    /// Adds base address register `index`; `size` is a power of two.
    pub fn add_bar(&mut self, index: usize, kind: BarKind, size: u64) {
        let (least, most, flags) = match kind {
            BarKind::Io => (4, 256, 0x1),
            BarKind::Memory32 => (16, 1 << 31, 0x0),
            BarKind::Memory64 { prefetchable: false } => (16, 1 << 62, 0x4),
            BarKind::Memory64 { prefetchable: true } => (16, 1 << 62, 0xc),
        };
        assert!(size.is_power_of_two() && (least..=most).contains(&size), "BAR size {size:#x}");
        assert!(self.bars[index].is_none(), "BAR {index} exists");
        let at = offset::BARS + 4 * index;
        let mask = (!(size - 1)).to_le_bytes();
        self.set(at, &[flags]);
        if let BarKind::Memory64 { .. } = kind {
            assert!(index < 5 && self.bars[index + 1].is_none(), "a 64-bit BAR takes two registers");
            self.allow(at, &mask);
        } else {
            self.allow(at, &mask[..4]);
        }
        self.bars[index] = Some(Bar { kind, size });
    }

    /// Puts a BAR at an address, as firmware would.
    pub fn set_bar_address(&mut self, index: usize, address: u64) {
        let bar = self.bars[index].expect("only BARs that were added get an address");
        assert!(address.is_multiple_of(bar.size), "BAR {index} of {:#x} at {address:#x}", bar.size);
        self.write(offset::BARS + 4 * index, 4, address as u32);
        if let BarKind::Memory64 { .. } = bar.kind {
            self.write(offset::BARS + 4 * (index + 1), 4, (address >> 32) as u32);
        }
    }

    /// Size of BAR `index`, if there is one.
    pub fn bar_size(&self, index: usize) -> Option<u64> {
        self.bars.get(index)?.map(|bar| bar.size)
    }

    /// What BAR `index` decodes when it decodes, if there is one.
    pub fn bar_shape(&self, index: usize) -> Option<(BarKind, u64)> {
        self.bars.get(index)?.map(|bar| (bar.kind, bar.size))
    }

    /// What BAR `index` decodes now: none while decoding is off or no address is set.
    pub fn bar(&self, index: usize) -> Option<BarRange> {
        let bar = (*self.bars.get(index)?)?;
        let at = offset::BARS + 4 * index;
        let low = u64::from(self.dword(at));
        let (enable, address) = match bar.kind {
            BarKind::Io => (command::IO, low & !0x3),
            BarKind::Memory32 => (command::MEMORY, low & !0xf),
            BarKind::Memory64 { .. } => (command::MEMORY, low & !0xf | u64::from(self.dword(at + 4)) << 32),
        };
        // An address of zero means "not assigned" on PCs; all ones is a size being asked for.
        let decodes = self.command() & enable != 0 && address != 0 && address.checked_add(bar.size).is_some();
        decodes.then_some(BarRange { kind: bar.kind, address, size: bar.size })
    }

    /// Adds a capability: `body` follows the id and next bytes, `writable` is its mask (shorter: rest is
    /// read-only). Returns the offset of the id byte.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> u8 {
        let at = usize::from(self.free);
        let end = at + 2 + body.len();
        assert!(end <= CONFIG_SIZE, "capability {id:#x} does not fit");
        assert!(writable.len() <= body.len(), "the mask of capability {id:#x} is longer than it");
        let offset = u8::try_from(at).expect("the space has 256 bytes");
        self.set(at, &[id, 0]);
        self.set(at + 2, body);
        self.allow(at + 2, writable);
        let link = match self.last_capability {
            0 => offset::CAPABILITIES,
            last => usize::from(last) + 1,
        };
        self.set(link, &[offset]);
        self.bytes[offset::STATUS] |= status::CAPABILITIES as u8;
        self.last_capability = offset;
        self.free = (end as u16).next_multiple_of(4);
        offset
    }

    /// The command register.
    pub fn command(&self) -> u16 {
        u16::from_le_bytes([self.bytes[offset::COMMAND], self.bytes[offset::COMMAND + 1]])
    }

    /// Sets the command register, as firmware would.
    pub fn set_command(&mut self, value: u16) {
        self.set(offset::COMMAND, &(value & command::WRITABLE).to_le_bytes());
    }

    /// The state of the function's INTx output, in the status register.
    pub fn set_interrupt_status(&mut self, active: bool) {
        let bit = status::INTERRUPT as u8;
        let byte = &mut self.bytes[offset::STATUS];
        *byte = if active { *byte | bit } else { *byte & !bit };
    }

    /// Whether the function drives INTx now: active and not disabled by the command register.
    pub fn intx(&self) -> bool {
        self.bytes[offset::STATUS] & status::INTERRUPT as u8 != 0
            && self.command() & command::INTX_DISABLE == 0
    }

    /// Reads 1, 2 or 4 bytes; beyond the end all ones.
    pub fn read(&self, at: usize, size: u8) -> u32 {
        (0..usize::from(size.min(4))).fold(0, |value, index| {
            let byte = at.checked_add(index).and_then(|at| self.bytes.get(at)).copied().unwrap_or(0xff);
            value | u32::from(byte) << (8 * index)
        })
    }

    /// Writes 1, 2 or 4 bytes as the guest; true if what the function decodes may have changed.
    pub fn write(&mut self, at: usize, size: u8, value: u32) -> bool {
        let before = self.bytes[offset::COMMAND];
        let mut decode = false;
        for (index, byte) in value.to_le_bytes().into_iter().take(usize::from(size)).enumerate() {
            let Some(at) = at.checked_add(index).filter(|&at| at < CONFIG_SIZE) else { break };
            let old = self.bytes[at];
            let writable = self.writable[at];
            let kept = old & !writable & !(self.clearable[at] & byte);
            self.bytes[at] = kept | byte & writable;
            let in_bars = (offset::BARS..offset::BARS + 24).contains(&at);
            decode |= in_bars && self.bytes[at] != old;
        }
        decode || self.bytes[offset::COMMAND] != before
    }

    /// Machine reset: command, BARs and the interrupt line lose what the guest wrote. Writable bits of
    /// capabilities are the device's own to reset.
    pub fn reset(&mut self) {
        let header = (offset::COMMAND..offset::STATUS).chain(offset::BARS..offset::BARS + 24);
        for at in header.chain([offset::CACHE_LINE, offset::INTERRUPT_LINE]) {
            self.bytes[at] &= !self.writable[at];
        }
    }

    fn dword(&self, at: usize) -> u32 {
        self.read(at, 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function() -> ConfigSpace {
        let mut space = ConfigSpace::new(Identity {
            vendor: 0x1af4,
            device: 0x1042,
            revision: 1,
            class: 0x01_00_00,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        });
        space.add_bar(0, BarKind::Io, 32);
        space.add_bar(1, BarKind::Memory32, 4096);
        space.add_bar(4, BarKind::Memory64 { prefetchable: true }, 16384);
        space
    }

    #[test]
    fn header() {
        let space = function();
        assert_eq!(space.read(0, 4), 0x1042_1af4);
        assert_eq!(space.read(8, 4), 0x0100_0001);
        assert_eq!(space.read(0x0e, 1), 0);
        assert_eq!(space.read(0x2c, 4), 0x1100_1af4);
        assert_eq!(space.read(0xff, 2), 0xff00);
        assert_eq!(space.read(usize::MAX, 4), 0xffff_ffff);
    }

    #[test]
    fn identity_is_read_only() {
        let mut space = function();
        for at in [0, 8, 0x2c, 0x34] {
            let before = space.read(at, 4);
            assert!(!space.write(at, 4, 0xffff_ffff));
            assert_eq!(space.read(at, 4), before);
        }
    }

    #[test]
    fn bar_sizing() {
        // Section 6.2.5.1: write all ones, read back, mask the flags, invert, add one.
        let mut space = function();
        let mut size = |at: usize| {
            space.write(at, 4, 0xffff_ffff);
            space.read(at, 4)
        };
        assert_eq!(size(0x10), 0xffff_ffe1);
        assert_eq!(size(0x14), 0xffff_f000);
        assert_eq!(size(0x18), 0);
        assert_eq!(size(0x20), 0xffff_c00c);
        assert_eq!(size(0x24), 0xffff_ffff);
        assert_eq!(size(0x30), 0, "no expansion ROM");
    }

    #[test]
    fn bars_decode_when_enabled_and_assigned() {
        let mut space = function();
        assert!(space.write(4, 2, 0x0003));
        assert_eq!(space.bar(1), None, "not assigned");
        assert!(space.write(0x14, 4, 0xfeb0_0123));
        let range = BarRange { kind: BarKind::Memory32, address: 0xfeb0_0000, size: 4096 };
        assert_eq!(space.bar(1), Some(range));
        space.write(0x20, 4, 0x0000_4000);
        space.write(0x24, 4, 0x0000_0080);
        assert_eq!(space.bar(4).unwrap().address, 0x80_0000_4000);
        assert_eq!(space.bar(5), None);
        assert_eq!(space.bar(6), None);
        space.set_bar_address(0, 0xc000);
        assert_eq!(space.read(0x10, 4), 0xc001);
        assert_eq!(space.bar(0).unwrap().address, 0xc000);
        assert!(space.write(4, 2, 0x0001));
        assert_eq!(space.bar(1), None, "memory decoding is off");
        assert!(!space.write(4, 2, 0x0001));
        space.write(4, 2, 3);
        space.write(0x20, 4, !0);
        space.write(0x24, 4, !0);
        assert_eq!(space.bar(4), None, "a BAR being sized does not wrap around");
    }

    #[test]
    fn command_and_status() {
        let mut space = function();
        space.write(4, 4, 0xffff_ffff);
        assert_eq!(space.read(4, 2), 0x0547);
        assert_eq!(space.read(6, 2), 0);
        space.bytes[7] = 0x80;
        space.write(7, 1, 0x80);
        assert_eq!(space.read(7, 1), 0);
        space.set_interrupt_status(true);
        assert!(!space.intx(), "disabled by the command register");
        space.write(4, 2, 0);
        assert!(space.intx());
        assert_eq!(space.read(6, 2), 0x0008);
    }

    #[test]
    fn capability_list() {
        let mut space = function();
        assert_eq!(space.read(6, 2) & 0x10, 0);
        assert_eq!(space.add_capability(0x09, &[14, 1, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]), 0x40);
        assert_eq!(space.add_capability(0x11, &[3, 0, 1, 0, 0, 0, 1, 8, 0, 0], &[0, 0xc0]), 0x50);
        assert_eq!(space.read(6, 2) & 0x10, 0x10);
        assert_eq!(space.read(0x34, 1), 0x40);
        assert_eq!(space.read(0x40, 2), 0x5009);
        assert_eq!(space.read(0x50, 2), 0x0011);
        space.write(0x52, 2, 0xffff);
        assert_eq!(space.read(0x52, 2), 0xc003);
    }

    #[test]
    fn reset_forgets_what_the_guest_wrote() {
        let mut space = function();
        let fresh = space.clone();
        space.write(4, 2, 7);
        space.write(0x10, 4, 0xc000);
        space.write(0x20, 4, 0xfe00_0000);
        space.write(0x3c, 1, 11);
        space.reset();
        assert_eq!(space, fresh);
    }
}
