//! What protocols that agree on one log share: the decided part of it, how a replica that missed
//! some of it gets it, when it may be forgotten, and what a replica may call its own after a
//! restart. Used by the protocols beside it, which bring their own way to decide a slot.
//!
// Where the links of the page lead in rustdoc: of two definitions of a link, the first counts.
#![doc = include_str!("LINKS.md")]
#![doc = ""]
#![doc = include_str!("PROTOCOL.md")]

mod choice;
mod decided;
mod marks;
mod reserve;
mod step;
#[cfg(test)]
pub(in crate::protocol) mod tests;
mod upkeep;

pub use choice::{Choice, LogRecord, ProtocolSnapshot, Upkeep};
pub(super) use choice::{decision, log_floor, need_snapshot, weight};
pub(super) use decided::{DecidedLog, Standing};
pub(super) use reserve::Reserve;
pub(super) use step::{Core, Step};

/// How far above the decided prefix a slot may lie for anybody to vote in it, or to keep a decision
/// of it (§L4): bounds what a replica that is far behind keeps in memory. It catches up first.
pub(super) const HORIZON: crate::types::Slot = 1 << 16;
