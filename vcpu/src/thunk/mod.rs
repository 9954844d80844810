//! thunk
