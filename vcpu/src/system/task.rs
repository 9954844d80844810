//! Task switches (SDM 3A 7.3). One entrance for all who would switch.

use super::descriptor::code_of;
use crate::core::Core;
use crate::fault::Fault;

impl Core {
    /// JMP, CALL, IRET or an interrupt reached a task gate or a TSS in 32-bit protected mode.
    ///
    /// Task switching by hardware is not offered yet: it raises #GP with the selector, as long mode does for the
    /// same descriptors (SDM 3A 7.7), so that a guest which relies on it stops where it tries.
    pub(super) fn task_switch(&mut self, selector: u16) -> Result<(), Fault> {
        Err(Fault::gp(code_of(selector)))
    }
}
