//! The simulator's room: what happened, and whether it was right.

pub mod history;
pub mod linearizability;
