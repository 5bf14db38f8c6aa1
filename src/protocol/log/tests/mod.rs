//! Tests of the common part, and the stage on which the protocols that use it are tested.

pub(in crate::protocol) mod chaos;
mod decided;
pub(in crate::protocol) mod stage;
