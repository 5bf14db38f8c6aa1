//! What replicas say to each other, and what they must not forget. The names are the paper's.

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
        /// The conflicting instances that the owner knew of.
        deps: Deps,
    },
    /// A vote at the owner's ballot, with the dependencies as the voter sees them.
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
        /// The owner's commands or nothing.
        value: Value,
        /// What it covers.
        deps: Deps,
    },
    /// A vote for the value proposed at a ballot; goes to everybody.
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
        /// What it covers.
        deps: Deps,
    },
    /// A recovery asks for promises.
    Recover {
        /// The instance.
        id: InstanceId,
        /// The recovery's ballot.
        ballot: Ballot,
    },
    /// A promise, with all that the sender knows. Who has committed answers `Commit` instead.
    RecoverOk {
        /// The instance.
        id: InstanceId,
        /// The recovery's ballot.
        ballot: Ballot,
        /// What the sender knows.
        report: Report,
    },
    /// A recovery asks what speaks against the fast path having happened.
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
    /// What speaks against it here.
    ValidateOk {
        /// The instance.
        id: InstanceId,
        /// The recovery's ballot.
        ballot: Ballot,
        /// The instances that interfere; empty when nothing does.
        interfering: Vec<Interfering>,
    },
    /// A recovery waits, and says how many fast votes it counted at most.
    Waiting {
        /// The instance under recovery.
        id: InstanceId,
        /// `|Rmax|`.
        fast_votes: u8,
    },
    /// The receiver's ballot is too low.
    Reject {
        /// The instance.
        id: InstanceId,
        /// The ballot that the sender has joined.
        ballot: Ballot,
    },
    /// Gossip: how far the sender has proposed, knows and has executed.
    Marks {
        /// The last slot that the sender proposed in.
        proposed: Slot,
        /// Per owner, the slot up to which the sender knows every decision (K).
        known: Deps,
        /// Per owner, the slot up to which the sender has executed everything, for good (E).
        executed: Deps,
        /// Per owner, the slot up to which every member has executed everything, for good, as far
        /// as the sender knows, itself or from others (W): for the receiver's proposals to cover.
        /// Boxed, or it would make every message longer.
        by_all: Box<Deps>,
        /// The highest cut that the sender knows to be established (C).
        cut: Deps,
    },
    /// Asks for the decisions of one owner from `from` to `to`, both included.
    Fetch {
        /// The owner.
        owner: ReplicaId,
        /// The first slot.
        from: Slot,
        /// The last slot.
        to: Slot,
    },
    /// The instance is executed and dropped at the sender, which has no vote about it any more.
    Truncated {
        /// The instance; in answer to a Fetch, the first one asked for.
        id: InstanceId,
    },
    /// A proposal to drop everything up to here, once it is in one's own durable snapshot.
    Cut {
        /// Per owner, the last slot to go.
        cut: Deps,
    },
    /// What the sender has agreed to last: to the proposal, if it is this.
    CutOk {
        /// Per owner, the last slot to go.
        cut: Deps,
    },
}

/// What a snapshot holds of the protocol for every replica alike (PROTOCOL.md §8a).
#[derive(Clone, PartialEq, Debug)]
pub struct ProtocolSnapshot {
    /// Everything up to here was executed by every member and is forgotten altogether (part of W).
    pub floor: Deps,
    /// The highest cut known to be established (C).
    pub cut: Deps,
    /// Everything up to here is executed and its record dropped.
    pub dropped: Deps,
    /// What of the dropped instances still speaks for or against others.
    pub index: DroppedIndex,
    /// The decisions that are executed and not dropped, by instance.
    pub decisions: Vec<ExecutedDecision>,
}

/// An executed decision, with all that is known of it.
#[derive(Clone, PartialEq, Debug)]
pub struct ExecutedDecision {
    /// The instance.
    pub id: InstanceId,
    /// What was decided.
    pub value: ExecutedValue,
    /// What it covers.
    pub deps: Deps,
}

/// What an executed instance holds.
#[derive(Clone, PartialEq, Debug)]
pub enum ExecutedValue {
    /// Its owner's commands.
    Batch(Arc<Batch>),
    /// Nothing, in place of these commands, which go on being a conflict (PROTOCOL.md §3).
    NopOf(Arc<Batch>),
    /// Nothing, in place of nobody knows what.
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

    /// The owner's commands, executed or not, if anybody knows them.
    pub fn payload(&self) -> Option<&Arc<Batch>> {
        match self {
            ExecutedValue::Batch(batch) | ExecutedValue::NopOf(batch) => Some(batch),
            ExecutedValue::Nop => None,
        }
    }
}

/// What a [`Message::Commit`] carries.
#[derive(Clone, PartialEq, Debug)]
pub enum CommitValue {
    /// Nothing is executed.
    Nop,
    /// The owner's commands.
    Batch(Arc<Batch>),
    /// The owner's commands, which the receiver is thought to have.
    OwnersBatch,
}

/// What a replica knows about an undecided instance.
#[derive(Clone, PartialEq, Debug)]
pub struct Report {
    /// How far the instance is: never Committed.
    pub phase: Phase,
    /// The ballot at which the value was accepted.
    pub accepted: Ballot,
    /// The current value and dependencies; `None` while Initial.
    pub value: Option<(Value, Deps)>,
    /// Commands and dependencies as the owner first sent them, if known.
    pub initial: Option<(Arc<Batch>, Deps)>,
}

/// An instance that speaks against another's fast path (PROTOCOL.md §5.4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Interfering {
    /// The instance.
    pub id: InstanceId,
    /// What the sender knows of it.
    pub standing: Standing,
}

/// How an instance speaks against another's fast path; the stronger the later.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Standing {
    /// Undecided, and the sender, its owner, has forgotten its payload: it may not even conflict
    /// (PROTOCOL.md §7, reserved slots).
    Unknown,
    /// Undecided. It conflicts, and was proposed without covering the other.
    Open,
    /// Decided. It conflicts, and does not cover the other.
    Committed,
}

/// How far an instance is, at one replica.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
#[non_exhaustive]
pub enum Phase {
    /// Nothing but, maybe, a ballot.
    #[default]
    Initial,
    /// Voted for at the owner's ballot.
    PreAccepted,
    /// Voted for at the ballot in `accepted`.
    Accepted,
    /// Decided.
    Committed,
}

/// What must survive a crash before something is said (the table of PROTOCOL.md §7).
#[derive(Clone, PartialEq, Debug)]
pub enum Record {
    /// A vote at the owner's ballot; the owner's own is its proposal.
    PreAccepted {
        /// The instance.
        id: InstanceId,
        /// Its commands.
        batch: Arc<Batch>,
        /// The owner's dependencies.
        initial: Deps,
        /// This replica's.
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
        /// What it covers.
        deps: Deps,
    },
    /// Own slots are never used again up to here, whether or not another record shows their use.
    Reserved {
        /// The last slot reserved.
        up_to: Slot,
    },
    /// Own instances up to here were told of as committed before that was durable, if they were;
    /// those above were not. What the last such record says counts (PROTOCOL.md §7).
    EarlyCommit {
        /// The last such slot; [`MAX_SLOT`](crate::types::MAX_SLOT) for all to come.
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
        /// The owner's dependencies.
        initial: Deps,
    },
    /// A decision.
    Committed {
        /// The instance.
        id: InstanceId,
        /// What was decided.
        value: Value,
        /// What it covers.
        deps: Deps,
    },
    /// An agreement to a cut (PROTOCOL.md §8a).
    Agreed {
        /// Per owner, the last slot to go.
        cut: Deps,
    },
    /// A payload that no other record of a snapshot shows; never in a log.
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
    /// The instance it is about, unless it is about none in particular.
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
