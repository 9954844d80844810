//! Guest memory: RAM, address translation, dirty and code pages.

pub mod access;
pub mod operand;
pub mod outgoing;
pub mod ram;
pub mod tlb;
pub mod walk;

/// Guest RAM and what is known of its pages.
pub struct Memory {
    /// Guest RAM with its page marks.
    pub ram: ram::Ram,
}

impl crate::chipset::fw_cfg::DmaMemory for Memory {
    fn read(&mut self, gpa: u64, bytes: &mut [u8]) -> bool {
        self.ram.read_bytes(gpa, bytes)
    }

    fn write(&mut self, gpa: u64, bytes: &[u8]) -> bool {
        self.ram.device_write(gpa, bytes)
    }
}
