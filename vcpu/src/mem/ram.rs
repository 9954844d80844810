//! Guest RAM.

/// Guest RAM, at guest physical 0…3 GiB and from 4 GiB on.
pub struct Ram {}

impl Ram {
    /// Copies bytes out of RAM; false when the range is not all RAM.
    pub fn read_bytes(&self, _gpa: u64, _into: &mut [u8]) -> bool {
        todo!()
    }

    /// Copies bytes into RAM, noting the pages as dirty and their code as stale; false when the range is not all RAM.
    pub fn write_bytes(&mut self, _gpa: u64, _from: &[u8]) -> bool {
        todo!()
    }
}
