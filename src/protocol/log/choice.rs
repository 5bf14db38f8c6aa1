//! What is chosen for a slot (§L1), and what replicas say and write of it whatever the protocol.

use crate::protocol::Effects;
use crate::types::{Batch, Decision, Deps, Executed, InstanceId, Slot, Value};

/// A value with the name of its proposal. No two values have the same name, so that votes for
/// different ones are told apart by name alone: a `Nop` has one, too.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Choice {
    /// Who proposed it, and that replica's own number for it.
    pub proposal: InstanceId,
    /// What the slot executes.
    pub value: Value,
}

/// What replicas tell each other about decided slots.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Upkeep {
    /// How far the sender is.
    Marks {
        /// It knows all decisions up to here.
        known: Slot,
        /// It has executed everything up to here for good: in a durable snapshot, or at all, if it
        /// never comes back.
        saved: Slot,
    },
    /// Asks for decisions, from `from` to `to`, both included.
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
        /// What it decided.
        choice: Choice,
    },
    /// Everything up to here is decided, executed by a majority and not kept any more: a snapshot
    /// holds it.
    Truncated {
        /// The last slot that is dropped.
        up_to: Slot,
    },
}

/// What a replica writes down, whatever the protocol.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LogRecord {
    /// A decision became known.
    Decided {
        /// The slot.
        slot: Slot,
        /// The name of what was chosen.
        proposal: InstanceId,
        /// The value; left out if the last vote on record here is for that proposal.
        value: Option<Value>,
    },
    /// Names of proposals and rounds of ballots up to these may have been used.
    Reserved {
        /// The highest number of a proposal's name.
        names: Slot,
        /// The highest round of an own ballot.
        rounds: u32,
    },
}

/// What a snapshot holds of the protocol besides its own records.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProtocolSnapshot {
    /// Decisions up to here are not kept any more by who wrote the snapshot.
    pub floor: Slot,
}

impl Choice {
    /// About how many bytes of memory it takes.
    pub(in crate::protocol) fn weight(&self) -> usize {
        weight(&self.value)
    }
}

/// About how many bytes of memory a slot with this value takes, and no fewer than on the wire.
pub(in crate::protocol) fn weight(value: &Value) -> usize {
    let Some(batch) = value.batch() else { return 128 };
    let keys = |batch: &Batch| -> usize {
        batch.commands().iter().map(|c| c.footprint.keys().map_or(0, <[_]>::len)).sum()
    };
    128 + batch.bytes() + size_of_val(batch.commands()) + keys(batch) * 32
}

/// What the executor is told of a decided slot, in a cluster of `n`.
pub(in crate::protocol) fn decision(
    n: usize,
    slot: Slot,
    proposal: InstanceId,
    value: Value,
) -> Decision {
    let id = InstanceId::new(InstanceId::LOG, slot);
    Decision { id, proposal, value, deps: Deps::none(n) }
}

/// Up to where the log is executed.
pub(in crate::protocol) fn log_floor(executed: &Executed) -> Slot {
    executed.floor().slot(InstanceId::LOG)
}

/// What is missing here is not kept elsewhere any more: a snapshot of everything up to `floor` is
/// needed.
pub(in crate::protocol) fn need_snapshot<M, R>(n: usize, floor: Slot, fx: &mut Effects<M, R>) {
    let mut needed = fx.needs_snapshot.take().unwrap_or_else(|| Deps::none(n));
    needed.raise(InstanceId::LOG, floor);
    fx.needs_snapshot = Some(needed);
}
