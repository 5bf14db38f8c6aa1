//! From seeds to verdicts.

pub(super) mod calm;
pub(super) mod runner;
pub(super) mod shrink;
