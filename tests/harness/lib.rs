//! What the test targets share: guests written as assembly text, and a bare machine to run them on.

pub mod assemble;
pub mod check;
pub mod guest;
pub mod layout;
pub mod paging;
pub mod segments;
