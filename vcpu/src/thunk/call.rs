//! The one place where generated code is entered.

use super::code_cache::{CodeCache, CodeOffset};
use crate::state::DataRegs;

/// What a thunk works on besides the guest's registers.
///
/// The memory operand is moved through `memory`; `fx` receives the x87 state after an x87 or MMX instruction.
#[repr(C, align(64))]
pub struct Scratch {
    /// The memory operand.
    pub memory: [u64; 8],
    /// FXSAVE64 image; its XMM and MXCSR fields hold garbage.
    pub fx: [u8; 512],
}

impl Scratch {
    /// Offset of `fx`, for the generated code.
    pub const FX: i32 = 64;

    pub fn new() -> Scratch {
        Scratch { memory: [0; 8], fx: [0; 512] }
    }
}

type Entry = unsafe extern "sysv64" fn(*mut DataRegs, *mut Scratch);

/// Runs the thunk that starts at `offset`.
///
/// `offset` must come from `cache` and not be older than its last `clear`, and the code must be what `emit`
/// makes: `Thunks` sees to both, as it owns cache and offsets and empties them together.
#[inline(always)]
pub(super) fn enter(cache: &CodeCache, offset: CodeOffset, data: &mut DataRegs, scratch: &mut Scratch) {
    // SAFETY: the address holds a whole function emitted by `emit` (see above). It keeps the System V calling
    // convention: saves the callee-saved registers it uses, leaves RSP and DF alone, MXCSR at 0x1f80 and the x87
    // stack empty. It reads and writes only `data` and `scratch`, which are exclusively borrowed.
    unsafe {
        let entry = std::mem::transmute::<*const u8, Entry>(cache.address(offset));
        entry(data, scratch);
    }
}
