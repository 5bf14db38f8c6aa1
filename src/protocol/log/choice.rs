//! The choice of a slot (§L1), and the messages and records common to all protocols with one log.

use crate::protocol::Effects;
use crate::types::{Batch, Decision, Deps, Executed, InstanceId, Slot, Value};

/// A value with the name of its proposal. No two values have one name, so votes for different
/// values differ in the name. A `Nop` has a name too.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Choice {
    /// Its proposer, and that replica's number for it.
    pub proposal: InstanceId,
    /// The value.
    pub value: Value,
}

/// The messages about decided slots.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Upkeep {
    /// The sender's progress.
    Marks {
        /// The sender knows all decisions up to here.
        known: Slot,
        /// The sender has durably executed everything up to here: in a durable snapshot, or, in
        /// memory mode, at all.
        saved: Slot,
    },
    /// Requests the decisions from `from` to `to`, both included.
    Fetch {
        /// The first slot, from 1.
        from: Slot,
        /// The last one.
        to: Slot,
    },
    /// A decision.
    Decided {
        /// The slot.
        slot: Slot,
        /// Its decision.
        choice: Choice,
    },
    /// The sender has dropped everything up to here: it is decided, and a snapshot holds it.
    Truncated {
        /// The last dropped slot.
        up_to: Slot,
    },
}

/// The records common to all protocols with one log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LogRecord {
    /// A decision became known.
    Decided {
        /// The slot.
        slot: Slot,
        /// The name of the choice.
        proposal: InstanceId,
        /// The value; `None` if the last vote on record here is for that proposal.
        value: Option<Value>,
    },
    /// Names and rounds up to these may have been used.
    Reserved {
        /// The highest number of a name.
        names: Slot,
        /// The highest round of a ballot of this replica.
        rounds: u32,
    },
}

/// The protocol's part of a snapshot, besides its own records.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProtocolSnapshot {
    /// The replica that wrote the snapshot has dropped decisions up to here.
    pub floor: Slot,
}

impl Choice {
    /// Roughly how many bytes of memory it takes.
    pub(in crate::protocol) fn weight(&self) -> usize {
        weight(&self.value)
    }
}

/// Roughly how many bytes of memory a slot with this value takes; at least its encoded length.
pub(in crate::protocol) fn weight(value: &Value) -> usize {
    let Some(batch) = value.batch() else { return 128 };
    let keys = |batch: &Batch| -> usize {
        batch.commands().iter().map(|c| c.footprint.keys().map_or(0, <[_]>::len)).sum()
    };
    128 + batch.bytes() + size_of_val(batch.commands()) + keys(batch) * 32
}

/// The executor's form of a decided slot, in a cluster of `n`.
pub(in crate::protocol) fn decision(
    n: usize,
    slot: Slot,
    proposal: InstanceId,
    value: Value,
) -> Decision {
    let id = InstanceId::new(InstanceId::LOG, slot);
    Decision { id, proposal, value, deps: Deps::none(n) }
}

/// The slot up to which the log is executed.
pub(in crate::protocol) fn log_floor(executed: &Executed) -> Slot {
    executed.floor().slot(InstanceId::LOG)
}

/// Asks for a snapshot of everything up to `floor`: what is missing here is dropped elsewhere.
pub(in crate::protocol) fn need_snapshot<M, R>(n: usize, floor: Slot, fx: &mut Effects<M, R>) {
    let mut needed = fx.needs_snapshot.take().unwrap_or_else(|| Deps::none(n));
    needed.raise(InstanceId::LOG, floor);
    fx.needs_snapshot = Some(needed);
}
