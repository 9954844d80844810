//! fw_cfg: items that firmware and drivers read, by selector and data port or by DMA.
//!
//! Register semantics follow QEMU's docs/specs/fw_cfg. DMA touches guest memory, which a device does not
//! reach: writing the DMA address leaves a request that the run loop answers by calling `dma`.

use super::bytewise;
use replay::time::Vtime;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Selector (16 bits); data is the port above.
pub const PORT: u16 = 0x510;
/// Selector, data, and the DMA address register from 0x514 on.
pub const PORT_COUNT: u16 = 12;

/// What the DMA address register reads.
const DMA_SIGNATURE: &[u8; 8] = b"QEMU CFG";
/// Longest file name: 56 bytes with the final zero.
const NAME_MAX: usize = 55;
/// Bytes copied to the guest in one go.
const CHUNK_SIZE: usize = 4096;

/// Item keys.
mod key {
    pub const SIGNATURE: u16 = 0x00;
    pub const ID: u16 = 0x01;
    pub const UUID: u16 = 0x02;
    pub const RAM_SIZE: u16 = 0x03;
    pub const NO_GRAPHIC: u16 = 0x04;
    pub const CPU_COUNT: u16 = 0x05;
    pub const BOOT_MENU: u16 = 0x0e;
    pub const CPU_COUNT_MAX: u16 = 0x0f;
    pub const FILE_DIRECTORY: u16 = 0x19;
    pub const FILE_FIRST: u16 = 0x20;
    /// Keys above are not for files: bit 14 once said "write", bit 15 is the architecture's own.
    pub const FILE_END: u16 = 0x4000;
    pub const WRITE_FLAG: u16 = 0x4000;
}

/// Bits of the DMA control word.
mod control {
    pub const ERROR: u32 = 1 << 0;
    pub const READ: u32 = 1 << 1;
    pub const SKIP: u32 = 1 << 2;
    pub const SELECT: u32 = 1 << 3;
    pub const WRITE: u32 = 1 << 4;
}

/// Traditional interface and DMA.
const FEATURES: u32 = 0b11;

/// What the fixed items say of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MachineFacts {
    /// Guest RAM in bytes.
    pub ram_bytes: u64,
    /// Number of CPUs.
    pub cpu_count: u16,
    /// System UUID.
    pub uuid: [u8; 16],
}

/// A file that cannot be added.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// The directory has 55 bytes for a name.
    #[error("fw_cfg file name {0:?} is empty, longer than {NAME_MAX} bytes or not ASCII")]
    Name(String),
    /// Names are unique.
    #[error("fw_cfg file {0:?} is given twice")]
    Duplicate(String),
    /// Sizes are 32 bits.
    #[error("fw_cfg file {0:?} is larger than 4 GiB")]
    Size(String),
    /// All keys for files are in use.
    #[error("too many fw_cfg files")]
    Count,
}

/// Guest memory as DMA sees it; false means that the address is not RAM.
pub trait DmaMemory {
    /// Fills `bytes` from `gpa` on.
    fn read(&mut self, gpa: u64, bytes: &mut [u8]) -> bool;
    /// Stores `bytes` from `gpa` on.
    fn write(&mut self, gpa: u64, bytes: &[u8]) -> bool;
}

/// The device: items and where the guest reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FwCfg {
    items: BTreeMap<u16, Vec<u8>>,
    /// File names in the order of the directory, with their keys.
    files: BTreeMap<String, u16>,
    selected: u16,
    position: u32,
    dma_address: u64,
    dma_request: Option<u64>,
}

impl FwCfg {
    /// A device with the fixed items and an empty directory.
    pub fn new(facts: MachineFacts) -> FwCfg {
        let items = BTreeMap::from([
            (key::SIGNATURE, b"QEMU".to_vec()),
            (key::ID, FEATURES.to_le_bytes().to_vec()),
            (key::UUID, facts.uuid.to_vec()),
            (key::RAM_SIZE, facts.ram_bytes.to_le_bytes().to_vec()),
            (key::NO_GRAPHIC, 1u16.to_le_bytes().to_vec()),
            (key::CPU_COUNT, facts.cpu_count.to_le_bytes().to_vec()),
            (key::BOOT_MENU, 0u16.to_le_bytes().to_vec()),
            (key::CPU_COUNT_MAX, facts.cpu_count.to_le_bytes().to_vec()),
            (key::FILE_DIRECTORY, 0u32.to_be_bytes().to_vec()),
        ]);
        FwCfg { items, files: BTreeMap::new(), selected: 0, position: 0, dma_address: 0, dma_request: None }
    }

    /// Adds a named file, e.g. `etc/e820` or `opt/org.example/data`.
    pub fn add_file(&mut self, name: &str, data: Vec<u8>) -> Result<(), FileError> {
        if name.is_empty() || name.len() > NAME_MAX || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(FileError::Name(name.to_owned()));
        }
        if self.files.contains_key(name) {
            return Err(FileError::Duplicate(name.to_owned()));
        }
        if u32::try_from(data.len()).is_err() {
            return Err(FileError::Size(name.to_owned()));
        }
        let next = u16::try_from(self.files.len()).ok().and_then(|count| key::FILE_FIRST.checked_add(count));
        let key = next.filter(|&key| key < key::FILE_END).ok_or(FileError::Count)?;
        self.items.insert(key, data);
        self.files.insert(name.to_owned(), key);
        let directory = self.directory();
        self.items.insert(key::FILE_DIRECTORY, directory);
        Ok(())
    }

    /// Machine reset: nothing is selected; items stay.
    pub fn reset(&mut self) {
        (self.selected, self.position, self.dma_address, self.dma_request) = (0, 0, 0, None);
    }

    /// Reads ports from `PORT + offset` on.
    pub fn read(&mut self, offset: u64, size: u8, _now: Vtime) -> u64 {
        bytewise::read(offset, size, |port| match port {
            1 => self.next_byte(),
            4..12 => DMA_SIGNATURE[(port - 4) as usize],
            _ => 0xff,
        })
    }

    /// Writes ports from `PORT + offset` on. The DMA address is big-endian; its low half starts the transfer.
    pub fn write(&mut self, offset: u64, size: u8, value: u64, _now: Vtime) {
        match (offset, size) {
            (0, 2) => self.select(value as u16),
            (4, 4) => {
                let high = u64::from((value as u32).swap_bytes());
                self.dma_address = self.dma_address & 0xffff_ffff | high << 32;
            }
            (8, 4) => {
                let low = u64::from((value as u32).swap_bytes());
                self.dma_request = Some(self.dma_address & !0xffff_ffff | low);
                self.dma_address = 0;
            }
            (4, 8) => self.dma_request = Some(value.swap_bytes()),
            // Writing data was taken out of the interface; other sizes were never in it.
            _ => {}
        }
    }

    /// Guest-physical address of a transfer that the guest has asked for since the last call.
    pub fn take_dma_request(&mut self) -> Option<u64> {
        self.dma_request.take()
    }

    /// Does the transfer whose control structure is at `gpa`: control, length (32 bits each), address (64
    /// bits), all big-endian; the control word is written back as zero or as the error bit.
    pub fn dma(&mut self, gpa: u64, memory: &mut dyn DmaMemory) {
        let mut structure = [0; 16];
        if !memory.read(gpa, &mut structure) {
            // There is no place to report the error to.
            return;
        }
        let word = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|index| structure[at + index]));
        let (command, length) = (word(0), word(4));
        let address = u64::from(word(8)) << 32 | u64::from(word(12));
        if command & control::SELECT != 0 {
            self.select((command >> 16) as u16);
        }
        let done = if command & control::READ != 0 {
            self.copy_out(address, length, memory)
        } else if command & control::WRITE != 0 {
            // No item is writable.
            false
        } else {
            if command & control::SKIP != 0 {
                self.position = self.position.saturating_add(length);
            }
            true
        };
        let result = if done { 0 } else { control::ERROR };
        memory.write(gpa, &result.to_be_bytes());
    }

    fn select(&mut self, key: u16) {
        self.selected = key & !key::WRITE_FLAG;
        self.position = 0;
    }

    fn next_byte(&mut self) -> u8 {
        let byte = self.rest().first().copied().unwrap_or(0);
        self.position = self.position.saturating_add(1);
        byte
    }

    /// What the selected item has from the position on; reads beyond it give zeros.
    fn rest(&self) -> &[u8] {
        let item = self.items.get(&self.selected).map_or(&[][..], Vec::as_slice);
        item.get(self.position as usize..).unwrap_or(&[])
    }

    /// Stops at the first address that is not RAM, so the guest's length costs at most its RAM size.
    fn copy_out(&mut self, address: u64, length: u32, memory: &mut dyn DmaMemory) -> bool {
        let mut copied = 0;
        while copied < length {
            let count = (length - copied).min(CHUNK_SIZE as u32) as usize;
            let mut chunk = [0; CHUNK_SIZE];
            let rest = self.rest();
            let known = rest.len().min(count);
            chunk[..known].copy_from_slice(&rest[..known]);
            let Some(to) = address.checked_add(u64::from(copied)) else { return false };
            if !memory.write(to, &chunk[..count]) {
                return false;
            }
            copied += count as u32;
            self.position = self.position.saturating_add(count as u32);
        }
        true
    }

    /// The directory: a count, then size, key, two reserved bytes and the name of each file, big-endian.
    fn directory(&self) -> Vec<u8> {
        let mut bytes = (self.files.len() as u32).to_be_bytes().to_vec();
        for (name, key) in &self.files {
            let size = self.items[key].len() as u32;
            bytes.extend(size.to_be_bytes());
            bytes.extend(key.to_be_bytes());
            bytes.extend([0; 2]);
            bytes.extend(name.as_bytes());
            bytes.resize(bytes.len() + NAME_MAX + 1 - name.len(), 0);
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Vtime = Vtime(0);

    struct Ram(Vec<u8>);

    impl DmaMemory for Ram {
        fn read(&mut self, gpa: u64, bytes: &mut [u8]) -> bool {
            let from = self.0.get(gpa as usize..).and_then(|rest| rest.get(..bytes.len()));
            from.map(|from| bytes.copy_from_slice(from)).is_some()
        }

        fn write(&mut self, gpa: u64, bytes: &[u8]) -> bool {
            let to = self.0.get_mut(gpa as usize..).and_then(|rest| rest.get_mut(..bytes.len()));
            to.map(|to| to.copy_from_slice(bytes)).is_some()
        }
    }

    fn device() -> FwCfg {
        let facts = MachineFacts { ram_bytes: 512 << 20, cpu_count: 1, uuid: [7; 16] };
        let mut device = FwCfg::new(facts);
        device.add_file("opt/b", b"hello".to_vec()).unwrap();
        device.add_file("etc/e820", vec![1; 20]).unwrap();
        device
    }

    fn item(device: &mut FwCfg, key: u16, length: usize) -> Vec<u8> {
        device.write(0, 2, u64::from(key), T0);
        (0..length).map(|_| device.read(1, 1, T0) as u8).collect()
    }

    #[test]
    fn fixed_items() {
        let mut device = device();
        assert_eq!(item(&mut device, 0x00, 6), b"QEMU\0\0");
        assert_eq!(item(&mut device, 0x01, 4), [3, 0, 0, 0]);
        assert_eq!(item(&mut device, 0x02, 16), [7; 16]);
        assert_eq!(item(&mut device, 0x03, 8), (512u64 << 20).to_le_bytes());
        assert_eq!(item(&mut device, 0x05, 2), [1, 0]);
        assert_eq!(item(&mut device, 0x0f, 2), [1, 0]);
        assert_eq!(item(&mut device, 0x77, 2), [0, 0]);
    }

    #[test]
    fn directory_and_files() {
        let mut device = device();
        let directory = item(&mut device, 0x19, 4 + 2 * 64);
        assert_eq!(directory[..4], [0, 0, 0, 2]);
        assert_eq!(directory[4..12], [0, 0, 0, 20, 0, 0x21, 0, 0]);
        assert_eq!(&directory[12..21], b"etc/e820\0");
        assert_eq!(directory[68..76], [0, 0, 0, 5, 0, 0x20, 0, 0]);
        assert_eq!(&directory[76..82], b"opt/b\0");
        assert_eq!(item(&mut device, 0x20, 6), b"hello\0");
    }

    #[test]
    fn bad_files_are_refused() {
        let mut device = device();
        assert!(matches!(device.add_file(&"x".repeat(56), vec![]), Err(FileError::Name(_))));
        assert!(matches!(device.add_file("", vec![]), Err(FileError::Name(_))));
        assert!(matches!(device.add_file("opt/b", vec![]), Err(FileError::Duplicate(_))));
        device.add_file(&"x".repeat(55), vec![]).unwrap();
    }

    fn transfer(device: &mut FwCfg, ram: &mut Ram, control: u32, length: u32, address: u64) -> u32 {
        ram.0[0..4].copy_from_slice(&control.to_be_bytes());
        ram.0[4..8].copy_from_slice(&length.to_be_bytes());
        ram.0[8..16].copy_from_slice(&address.to_be_bytes());
        device.write(4, 4, 0, T0);
        assert_eq!(device.take_dma_request(), None);
        device.write(8, 4, 0, T0);
        let gpa = device.take_dma_request().unwrap();
        device.dma(gpa, ram);
        u32::from_be_bytes(ram.0[..4].try_into().unwrap())
    }

    #[test]
    fn dma() {
        let (mut device, mut ram) = (device(), Ram(vec![0xee; 0x10000]));
        assert_eq!(device.read(4, 4, T0) as u32, u32::from_le_bytes(*b"QEMU"));
        assert_eq!(device.read(8, 4, T0) as u32, u32::from_le_bytes(*b" CFG"));
        assert_eq!(transfer(&mut device, &mut ram, 0x20 << 16 | 0x0a, 3, 0x100), 0);
        assert_eq!(&ram.0[0x100..0x104], b"hel\xee");
        assert_eq!(transfer(&mut device, &mut ram, 0x04, 1, 0), 0, "skip");
        assert_eq!(transfer(&mut device, &mut ram, 0x02, 3, 0x200), 0);
        assert_eq!(&ram.0[0x200..0x204], b"o\0\0\xee");
        assert_eq!(transfer(&mut device, &mut ram, 0x20 << 16 | 0x18, 3, 0x100), 1, "no item is writable");
        assert_eq!(transfer(&mut device, &mut ram, 0x02, u32::MAX, 0x300), 1, "beyond RAM");
        assert_eq!(transfer(&mut device, &mut ram, 0x02, 16, u64::MAX - 4), 1);
        device.dma(u64::MAX, &mut ram);
    }

    #[test]
    fn dma_address_is_big_endian() {
        let mut device = device();
        device.write(4, 4, u64::from(0x0000_0001u32.swap_bytes()), T0);
        device.write(8, 4, u64::from(0x2345_6000u32.swap_bytes()), T0);
        assert_eq!(device.take_dma_request(), Some(0x1_2345_6000));
    }
}
