//! The address space that host and guest share: eight pages of different rights, seen at two linear addresses,
//! and one page of code.

/// Size of a page.
pub const PAGE: u64 = 4096;
/// Pages of the arena.
pub const PAGES: usize = 8;
/// Bytes of the arena, absent pages included.
pub const BYTES: usize = PAGES * PAGE as usize;
/// Where the arena lies for 32-bit and displacement-only addresses.
pub const LOW: u64 = 0x1000_0000;
/// Where it lies for 64-bit addresses, with the same bytes.
pub const HIGH: u64 = 0x10_4000_0000;
/// The page that holds the instruction under test; the page after it is absent.
pub const CODE: u64 = LOW + 0x10_0000;

/// Rights of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    Absent,
    Read,
    Write,
}

use Rights::{Absent, Read, Write};

/// Rights of the arena's pages: every kind of crossing occurs.
pub const RIGHTS: [Rights; PAGES] = [Absent, Write, Write, Absent, Read, Write, Read, Absent];

/// Contents of the arena.
pub type Image = [u8; BYTES];

/// Offset in the arena of a linear address, if it lies there.
pub fn offset(linear: u64) -> Option<usize> {
    [LOW, HIGH]
        .iter()
        .map(|base| linear.wrapping_sub(*base))
        .find(|&at| at < BYTES as u64)
        .map(|at| at as usize)
}
