//! PCI and fw_cfg as the rest of the vCPU process reaches them.

use super::Chipset;
use super::fw_cfg::{DmaMemory, FwCfg};
use super::pci_host::PciHost;

impl Chipset {
    /// The PCI bus.
    pub fn pci(&self) -> &PciHost {
        &self.pci
    }

    /// The PCI bus, for the devices on it.
    pub fn pci_mut(&mut self) -> &mut PciHost {
        &mut self.pci
    }

    /// Firmware configuration, to add files before power-on.
    pub fn fw_cfg_mut(&mut self) -> &mut FwCfg {
        &mut self.fw_cfg
    }

    /// Does the transfer of `Effects::fw_cfg_dma`.
    pub fn fw_cfg_dma(&mut self, gpa: u64, memory: &mut dyn DmaMemory) {
        self.fw_cfg.dma(gpa, memory);
    }
}
