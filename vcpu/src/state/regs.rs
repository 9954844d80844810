//! Registers that user-level instructions touch, laid out for host thunks.

use super::flags::Status;

/// Indexes into `DataRegs::gpr`.
pub mod gpr {
    /// RAX.
    pub const RAX: usize = 0;
    /// RCX.
    pub const RCX: usize = 1;
    /// RDX.
    pub const RDX: usize = 2;
    /// RBX.
    pub const RBX: usize = 3;
    /// RSP.
    pub const RSP: usize = 4;
    /// RBP.
    pub const RBP: usize = 5;
    /// RSI.
    pub const RSI: usize = 6;
    /// RDI.
    pub const RDI: usize = 7;
    /// R8.
    pub const R8: usize = 8;
    /// R9.
    pub const R9: usize = 9;
    /// R10.
    pub const R10: usize = 10;
    /// R11.
    pub const R11: usize = 11;
    /// R12.
    pub const R12: usize = 12;
    /// R13.
    pub const R13: usize = 13;
    /// R14.
    pub const R14: usize = 14;
    /// R15.
    pub const R15: usize = 15;
    /// Always zero: the base or index of an address that has none.
    pub const ZERO: usize = 16;
    /// RIP of the current block's first instruction: the base of RIP-relative addresses.
    pub const BLOCK_RIP: usize = 17;
}

/// General registers, vector registers, x87, MXCSR and the status flags.
#[derive(Clone)]
#[repr(C, align(64))]
pub struct DataRegs {
    /// RAX…R15 in SDM order, then ZERO and BLOCK_RIP; the rest is unused and zero.
    pub gpr: [u64; 32],
    /// YMM0…YMM15, 32 bytes each, little endian.
    pub ymm: [[u64; 4]; 16],
    /// x87 and MMX state as FXSAVE64 lays it out (bytes 0…159 used; its XMM and MXCSR fields are not).
    pub fx: FxImage,
    /// MXCSR.
    pub mxcsr: u32,
    /// CF PF AF ZF SF OF.
    pub status: Status,
}

/// The legacy region of FXSAVE64.
#[derive(Clone)]
#[repr(C, align(64))]
pub struct FxImage(pub [u8; 512]);

impl DataRegs {
    /// State after power-on or INIT apart from the general registers (SDM 3A table 9-1).
    pub fn reset() -> DataRegs {
        let mut fx = [0; 512];
        fx[0..2].copy_from_slice(&0x0040u16.to_le_bytes());
        fx[4] = 0xff; // Abridged tag word: all valid, as after power-on (FTW = 5555h).
        DataRegs { gpr: [0; 32], ymm: [[0; 4]; 16], fx: FxImage(fx), mxcsr: 0x1f80, status: Status(0) }
    }
}
