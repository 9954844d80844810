//! The MSR view of the local APIC's registers (SDM 3A 11.12, table 11-6).

use super::lapic::{Lapic, lvt, register};
use replay::time::Vtime;

/// First MSR of the x2APIC range.
pub const X2APIC_MSR_FIRST: u32 = 0x800;

/// One range of x2APIC registers.
struct Row {
    first: u32,
    last: u32,
    readable: bool,
    /// Bits that may be set in a write; none where the range is read-only.
    writable: Option<u64>,
}

const fn row(first: u32, last: u32, readable: bool, writable: Option<u64>) -> Row {
    Row { first, last, readable, writable }
}

/// Read-only bits of an LVT entry that a write may carry along: delivery status and remote IRR.
const LVT_STATUS: u64 = 1 << 12 | 1 << 14;

const fn lvt_row(entry: usize) -> Row {
    let index = register::LVT + entry as u32;
    row(index, index, true, Some(lvt::WRITABLE[entry] as u64 | LVT_STATUS))
}

/// What the MSRs allow; anything else is #GP. The DFR, the high half of the ICR and
/// CMCI (0x82f) do not exist here.
const ROWS: [Row; 19] = [
    row(register::ID, register::VERSION, true, None),
    row(register::TPR, register::TPR, true, Some(0xff)),
    row(register::PPR, register::PPR, true, None),
    row(register::EOI, register::EOI, false, Some(0)),
    row(register::LDR, register::LDR, true, None),
    row(register::SVR, register::SVR, true, Some(0x11ff)),
    row(register::ISR, register::IRR + 7, true, None),
    row(register::ESR, register::ESR, true, Some(0)),
    // Bit 12 was delivery status in xAPIC mode and is tolerated.
    row(register::ICR_LOW, register::ICR_LOW, true, Some(0xffff_ffff_000c_dfff)),
    lvt_row(0),
    lvt_row(1),
    lvt_row(2),
    lvt_row(3),
    lvt_row(4),
    lvt_row(5),
    row(register::INITIAL_COUNT, register::INITIAL_COUNT, true, Some(0xffff_ffff)),
    row(register::CURRENT_COUNT, register::CURRENT_COUNT, true, None),
    row(register::DIVIDE, register::DIVIDE, true, Some(0b1011)),
    row(register::SELF_IPI, register::SELF_IPI, false, Some(0xff)),
];

fn find(index: u32) -> Option<&'static Row> {
    ROWS.iter().find(|row| (row.first..=row.last).contains(&index))
}

impl Lapic {
    /// RDMSR of an x2APIC register; none is #GP.
    pub fn x2apic_read(&mut self, msr: u32, now: Vtime) -> Option<u64> {
        let index = msr.checked_sub(X2APIC_MSR_FIRST)?;
        if !self.is_x2apic() || !find(index)?.readable {
            return None;
        }
        match index {
            register::ID => Some(u64::from(self.apic_id())),
            register::ICR_LOW => Some(self.icr),
            _ => self.read_register(index, now).map(u64::from),
        }
    }

    /// WRMSR of an x2APIC register; false is #GP.
    pub fn x2apic_write(&mut self, msr: u32, value: u64, now: Vtime) -> bool {
        let Some(index) = msr.checked_sub(X2APIC_MSR_FIRST) else { return false };
        let Some(writable) = find(index).and_then(|row| row.writable) else { return false };
        if !self.is_x2apic() || value & !writable != 0 {
            return false;
        }
        match index {
            register::ICR_LOW => {
                self.icr = value & !(1 << 12);
                self.send_icr();
            }
            register::SELF_IPI => {
                // The same as an ICR write with the self shorthand, but the ICR keeps its content.
                let icr = std::mem::replace(&mut self.icr, 1 << 18 | value);
                self.send_icr();
                self.icr = icr;
            }
            _ => return self.write_register(index, value as u32, now),
        }
        true
    }
}
