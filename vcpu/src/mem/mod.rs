//! Guest memory: RAM, address translation, dirty and code pages.

pub mod access;
pub mod operand;
pub mod ram;
pub mod tlb;
pub mod walk;

/// Guest RAM and what is known of its pages.
pub struct Memory {
    pub ram: ram::Ram,
}
