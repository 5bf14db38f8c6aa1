//! The common part of protocols that agree on one log: the decisions, how a replica fetches missed
//! ones, when they may be dropped, and which names and rounds a replica may use after a restart.
//! Each protocol adds its own way to decide a slot.
//!
// The targets of the page's links in rustdoc: if a link is defined twice, the first counts.
#![doc = include_str!("LINKS.md")]
#![doc = ""]
#![doc = include_str!("PROTOCOL.md")]

mod choice;
mod decided;
mod marks;
mod path;
mod reserve;
mod step;
#[cfg(test)]
pub(in crate::protocol) mod tests;
mod upkeep;

pub use choice::{Choice, LogRecord, ProtocolSnapshot, Upkeep};
pub(super) use choice::{decision, log_floor, need_snapshot, weight};
pub(super) use decided::{DecidedLog, Standing};
pub use path::Path;
pub(super) use reserve::Reserve;
pub(super) use step::{Core, Step};

/// How far above the decided prefix a slot may be for a replica to vote in it or to keep its
/// decision (§L4). It bounds the memory of a replica that lags; such a replica catches up first.
pub(super) const HORIZON: crate::types::Slot = 1 << 16;
