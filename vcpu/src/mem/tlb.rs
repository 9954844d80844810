//! Cached translations of one CPU.

/// The translations of one CPU, in a flat table by page number.
pub struct Tlb {}

impl Tlb {
    /// Drops all translations, global ones too.
    pub fn flush_all(&mut self) {
        todo!()
    }
    /// Drops all translations that are not global.
    pub fn flush_non_global(&mut self) {
        todo!()
    }
    /// Drops the translation of the page of `gva`, global or not.
    pub fn flush_page(&mut self, _gva: u64) {
        todo!()
    }
}
