//! The messages, records and snapshots of EPaxos*. Names follow the paper. `wire` encodes them.

use std::sync::Arc;

use super::DroppedIndex;
use crate::types::{Ballot, Batch, Deps, InstanceId, ReplicaId, Slot, Value};

/// A message of EPaxos* (PROTOCOL.md §4, §5).
#[derive(Clone, PartialEq, Debug)]
pub enum Message {
    /// The owner proposes `batch` with dependencies `deps` (its D0), at its own ballot.
    PreAccept {
        /// The instance.
        id: InstanceId,
        /// Its commands.
        batch: Arc<Batch>,
        /// The conflicting instances known to the owner.
        deps: Deps,
    },
    /// A vote at the owner's ballot, with the voter's dependencies.
    PreAcceptOk {
        /// The instance.
        id: InstanceId,
        /// `D0 ⊔ conf` at the voter.
        deps: Deps,
    },
    /// A proposal of a value at a ballot.
    Accept {
        /// The instance.
        id: InstanceId,
        /// The ballot.
        ballot: Ballot,
        /// The owner's commands, or `Nop`.
        value: Value,
        /// Its dependencies.
        deps: Deps,
    },
    /// A vote for the value proposed at a ballot; sent to all replicas.
    AcceptOk {
        /// The instance.
        id: InstanceId,
        /// The ballot.
        ballot: Ballot,
    },
    /// The decision.
    Commit {
        /// The instance.
        id: InstanceId,
        /// What was decided.
        value: CommitValue,
        /// Its dependencies.
        deps: Deps,
    },
    /// A recovery asks for promises.
    Recover {
        /// The instance.
        id: InstanceId,
        /// The recovery's ballot.
        ballot: Ballot,
    },
    /// A promise, with all that the sender knows. A replica that has committed answers `Commit`
    /// instead.
    RecoverOk {
        /// The instance.
        id: InstanceId,
        /// The recovery's ballot.
        ballot: Ballot,
        /// What the sender knows.
        report: Report,
    },
    /// A recovery asks for instances that speak against the fast path.
    Validate {
        /// The instance.
        id: InstanceId,
        /// The recovery's ballot.
        ballot: Ballot,
        /// The owner's commands.
        batch: Arc<Batch>,
        /// The dependencies as the owner first sent them.
        deps: Deps,
    },
    /// The instances known to the sender that speak against the fast path.
    ValidateOk {
        /// The instance.
        id: InstanceId,
        /// The recovery's ballot.
        ballot: Ballot,
        /// The instances that interfere; empty when nothing does.
        interfering: Vec<Interfering>,
    },
    /// A recovery is in its Waiting stage; tells how many fast votes it counted.
    Waiting {
        /// The instance under recovery.
        id: InstanceId,
        /// `|Rmax|`.
        fast_votes: u8,
    },
    /// The ballot of the receiver is too low.
    Reject {
        /// The instance.
        id: InstanceId,
        /// The ballot that the sender has joined.
        ballot: Ballot,
    },
    /// Gossip: how far the sender has proposed, knows decisions, and has executed.
    Marks {
        /// The last slot that the sender proposed in.
        proposed: Slot,
        /// Per owner, the slot up to which the sender knows every decision (K).
        known: Deps,
        /// Per owner, the slot up to which the sender has durably executed everything (E).
        executed: Deps,
        /// Per owner, the slot up to which every member has durably executed everything (W), as far
        /// as the sender knows first-hand or from others. The receiver's proposals may cover it.
        /// Boxed, because it would make every message larger.
        by_all: Box<Deps>,
        /// The highest established cut that the sender knows (C).
        cut: Deps,
    },
    /// Requests the decisions of one owner from `from` to `to`, both included.
    Fetch {
        /// The owner.
        owner: ReplicaId,
        /// The first slot.
        from: Slot,
        /// The last slot.
        to: Slot,
    },
    /// The instance is executed and dropped at the sender, which no longer votes on it.
    Truncated {
        /// The instance; in answer to a Fetch, the first one requested.
        id: InstanceId,
    },
    /// Proposes to drop everything up to here. A member drops it once its durable snapshot holds
    /// it.
    Cut {
        /// Per owner, the last slot to drop.
        cut: Deps,
    },
    /// The last cut that the sender agreed to. If it is the proposed one, the sender agrees.
    CutOk {
        /// Per owner, the last slot to drop.
        cut: Deps,
    },
}

/// The part of a snapshot that is the same for every replica (PROTOCOL.md §8a).
#[derive(Clone, PartialEq, Debug)]
pub struct ProtocolSnapshot {
    /// Every member executed everything up to here, and it is forgotten (part of W).
    pub floor: Deps,
    /// The highest known established cut (C).
    pub cut: Deps,
    /// Everything up to here is executed, and its records are dropped.
    pub dropped: Deps,
    /// The dropped instances that still count as conflicts.
    pub index: DroppedIndex,
    /// The decisions that are executed and not dropped, ordered by instance.
    pub decisions: Vec<ExecutedDecision>,
}

/// An executed decision, with all that is known of it.
#[derive(Clone, PartialEq, Debug)]
pub struct ExecutedDecision {
    /// The instance.
    pub id: InstanceId,
    /// What was decided.
    pub value: ExecutedValue,
    /// Its dependencies.
    pub deps: Deps,
}

/// The value of an executed instance.
#[derive(Clone, PartialEq, Debug)]
pub enum ExecutedValue {
    /// Its owner's commands.
    Batch(Arc<Batch>),
    /// `Nop` in place of these commands, which still count as a conflict (PROTOCOL.md §3).
    NopOf(Arc<Batch>),
    /// `Nop` in place of commands that no replica knows.
    Nop,
}

impl ExecutedValue {
    /// What was decided.
    pub fn value(&self) -> Value {
        match self {
            ExecutedValue::Batch(batch) => Value::Batch(batch.clone()),
            ExecutedValue::NopOf(_) | ExecutedValue::Nop => Value::Nop,
        }
    }

    /// The owner's commands, executed or not, if they are known.
    pub fn payload(&self) -> Option<&Arc<Batch>> {
        match self {
            ExecutedValue::Batch(batch) | ExecutedValue::NopOf(batch) => Some(batch),
            ExecutedValue::Nop => None,
        }
    }
}

/// The value that a [`Message::Commit`] carries.
#[derive(Clone, PartialEq, Debug)]
pub enum CommitValue {
    /// `Nop`.
    Nop,
    /// The owner's commands.
    Batch(Arc<Batch>),
    /// The owner's commands, which the receiver probably has already.
    OwnersBatch,
}

/// What a replica knows about an undecided instance; part of RecoverOk.
#[derive(Clone, PartialEq, Debug)]
pub struct Report {
    /// The phase: never Committed.
    pub phase: Phase,
    /// The ballot at which the value was accepted.
    pub accepted: Ballot,
    /// The current value and dependencies; `None` while Initial.
    pub value: Option<(Value, Deps)>,
    /// Commands and dependencies as the owner first sent them, if known.
    pub initial: Option<(Arc<Batch>, Deps)>,
}

/// An instance that speaks against another instance's fast path (PROTOCOL.md §5.4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Interfering {
    /// The instance.
    pub id: InstanceId,
    /// What the sender knows about it.
    pub standing: Standing,
}

/// How an instance speaks against another's fast path; later variants are stronger.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Standing {
    /// Undecided, and its owner, the sender, has lost its payload. It may not even conflict
    /// (PROTOCOL.md §7, reserved slots).
    Unknown,
    /// Undecided. It conflicts, and its proposal did not cover the other instance.
    Open,
    /// Decided. It conflicts, and does not cover the other instance.
    Committed,
}

/// The phase of an instance at one replica.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
#[non_exhaustive]
pub enum Phase {
    /// Nothing is known, except perhaps a ballot.
    #[default]
    Initial,
    /// Voted for at the owner's ballot.
    PreAccepted,
    /// Voted for at the ballot in `accepted`.
    Accepted,
    /// Decided.
    Committed,
}

/// A record that has to be durable before certain messages leave (the table of PROTOCOL.md §7).
#[derive(Clone, PartialEq, Debug)]
pub enum Record {
    /// A vote at the owner's ballot. The owner's own vote is its proposal.
    PreAccepted {
        /// The instance.
        id: InstanceId,
        /// Its commands.
        batch: Arc<Batch>,
        /// The owner's dependencies (D0).
        initial: Deps,
        /// This replica's dependencies (Dq).
        deps: Deps,
    },
    /// A vote at a ballot.
    Accepted {
        /// The instance.
        id: InstanceId,
        /// The ballot.
        ballot: Ballot,
        /// The value.
        value: Value,
        /// Its dependencies.
        deps: Deps,
    },
    /// Own slots up to here are never used again, whether or not another record shows their use.
    Reserved {
        /// The last slot reserved.
        up_to: Slot,
    },
    /// Own instances up to here may have been announced as committed before that was durable; those
    /// above were not. The last record of this kind counts (PROTOCOL.md §7).
    EarlyCommit {
        /// The last slot of that kind; [`MAX_SLOT`](crate::types::MAX_SLOT) for all to come.
        up_to: Slot,
    },
    /// A promise.
    Joined {
        /// The instance.
        id: InstanceId,
        /// The ballot.
        ballot: Ballot,
    },
    /// A payload learned from Validate.
    Validated {
        /// The instance.
        id: InstanceId,
        /// The ballot.
        ballot: Ballot,
        /// Its commands.
        batch: Arc<Batch>,
        /// The owner's dependencies (D0).
        initial: Deps,
    },
    /// A decision.
    Committed {
        /// The instance.
        id: InstanceId,
        /// What was decided.
        value: Value,
        /// Its dependencies.
        deps: Deps,
    },
    /// An agreement to a cut (PROTOCOL.md §8a).
    Agreed {
        /// Per owner, the last slot to drop.
        cut: Deps,
    },
    /// A payload that no other record in a snapshot shows; never in a log.
    Learned {
        /// The instance.
        id: InstanceId,
        /// Its commands.
        batch: Arc<Batch>,
    },
}

impl Record {
    /// The instance it is about, if it is about one.
    pub fn instance(&self) -> Option<InstanceId> {
        match self {
            Record::PreAccepted { id, .. }
            | Record::Accepted { id, .. }
            | Record::Joined { id, .. }
            | Record::Validated { id, .. }
            | Record::Committed { id, .. }
            | Record::Learned { id, .. } => Some(*id),
            Record::Reserved { .. } | Record::EarlyCommit { .. } | Record::Agreed { .. } => None,
        }
    }
}

impl Message {
    /// The instance it is about, if it is about one.
    pub fn instance(&self) -> Option<InstanceId> {
        match self {
            Message::PreAccept { id, .. }
            | Message::PreAcceptOk { id, .. }
            | Message::Accept { id, .. }
            | Message::AcceptOk { id, .. }
            | Message::Commit { id, .. }
            | Message::Recover { id, .. }
            | Message::RecoverOk { id, .. }
            | Message::Validate { id, .. }
            | Message::ValidateOk { id, .. }
            | Message::Waiting { id, .. }
            | Message::Truncated { id }
            | Message::Reject { id, .. } => Some(*id),
            Message::Marks { .. }
            | Message::Fetch { .. }
            | Message::Cut { .. }
            | Message::CutOk { .. } => None,
        }
    }
}
