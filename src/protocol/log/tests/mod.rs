//! The shared part on its own, and the stage on which the protocols that use it are tried out.

pub(in crate::protocol) mod chaos;
mod decided;
pub(in crate::protocol) mod stage;
