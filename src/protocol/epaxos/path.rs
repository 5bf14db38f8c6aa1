//! The paths that an instance may take; each is counted.

use crate::protocol::paths::{RECOVERY, RESUBMITTED, paths};

paths! {
    /// Committed by the owner after one round trip (§4.3).
    FastCommit = "fast_commit",
    /// The owner had to propose the union (§4.3).
    SlowPath = "slow_path",
    /// The slow path was chosen because the fast-path timeout passed.
    FastTimeout = "fast_timeout",
    /// Learned by counting AcceptOk (§4.5).
    AcceptCommit = "accept_commit",
    /// Learned from a Commit message.
    LearnedCommit = "learned_commit",
    /// A Commit arrived without its payload, which is not here.
    CommitWithoutPayload = "commit_without_payload",
    /// A message was resent.
    Retransmit = "retransmit",
    /// Missing decisions were requested.
    Fetch = "fetch",
    /// A decision was sent on request.
    FetchAnswered = "fetch_answered",
    /// A Reject was received: a higher ballot exists.
    Rejected = "rejected",
    /// A recovery began (§5.1).
    Recovery = RECOVERY,
    /// A recovery began again at a higher ballot (§5.6).
    RecoveryAgain = "recovery_again",
    /// §5.3.1: a replica had committed.
    RecoverCommitted = "recover_committed",
    /// §5.3.2: an accepted value was adopted.
    RecoverAccepted = "recover_accepted",
    /// §5.3.3: the owner answered and had not committed.
    RecoverOwnerNop = "recover_owner_nop",
    /// §5.3.4: enough fast votes, so validate.
    RecoverValidate = "recover_validate",
    /// §5.3.5: the fast path cannot have succeeded.
    RecoverNop = "recover_nop",
    /// §5.5: nothing interferes.
    ValidateClean = "validate_clean",
    /// §5.5: an interfering instance is committed.
    ValidateCommitted = "validate_committed",
    /// §5.5: the owner of an interfering instance is outside the quorum.
    ValidateOwnerOutside = "validate_owner_outside",
    /// §5.5: the recovery had to wait.
    Waiting = "waiting",
    /// §5.5: an instance waited for was committed without covering this one.
    WaitingNop = "waiting_nop",
    /// §5.5: all instances waited for were harmless.
    WaitingClean = "waiting_clean",
    /// §5.5: another waiting recovery proved the fast path impossible.
    WaitingYield = "waiting_yield",
    /// §5.5: a late RecoverOk settled it.
    WaitingLate = "waiting_late",
    /// An owner's instance ended as `Nop` and its commands were proposed again.
    Resubmitted = RESUBMITTED,
    /// A `Nop` was accepted whose payload is unknown: it conflicts with everything.
    Wildcard = "wildcard",
    /// A slot without state here was recovered.
    GapRecovered = "gap_recovered",
    /// The owner announced a fast-path commit before it was durable (§7).
    CommitUnflushed = "commit_unflushed",
    /// An owner restarted with an instance that it may have committed (§7).
    Orphan = "orphan",
    /// An owner restarted with a reserved slot that has no record (§7).
    LostSlot = "lost_slot",
    /// An instance of unknown payload was reported to a recovery (§7).
    UnknownReported = "unknown_reported",
    /// An instance reported as of unknown payload turned out not to conflict (§7).
    UnknownHarmless = "unknown_harmless",
    /// Records were forgotten because every member had executed them.
    Trimmed = "trimmed",
    /// Records were dropped that an absent member might have needed (§8a).
    Dropped = "dropped",
    /// A cut was proposed (§8a).
    CutProposed = "cut_proposed",
    /// This replica agreed to a cut.
    CutAgreed = "cut_agreed",
    /// This replica did not agree to a cut: not all of it is executed here, or it agreed to
    /// another.
    CutRefused = "cut_refused",
    /// A cut was established by `n - f` agreements.
    CutEstablished = "cut_established",
    /// A message about an instance that is dropped here was answered `Truncated`.
    Truncated = "truncated",
    /// An instance missing here is dropped elsewhere: a snapshot is needed.
    NeedsSnapshot = "needs_snapshot",
    /// A dropped instance was reported to a recovery (§5.4).
    DroppedReported = "dropped_reported",
    /// An instance reported to a recovery is dropped here, and was not harmless (§5.5).
    DroppedInterferes = "dropped_interferes",
    /// An instance reported to a recovery is dropped here, and harmless (§5.5).
    DroppedHarmless = "dropped_harmless",
    /// Another replica's snapshot was installed.
    Installed = "installed",
}

impl Path {
    /// Taken only by replicas with the optimisations of PROTOCOL.md §7; all but the first only
    /// after a restart.
    pub const OPTIMISED: &'static [Path] = &[
        Path::CommitUnflushed,
        Path::Orphan,
        Path::LostSlot,
        Path::UnknownReported,
        Path::UnknownHarmless,
    ];

    /// Taken only by replicas that drop records a member may still need (PROTOCOL.md §8a).
    pub const TRUNCATING: &'static [Path] = &[
        Path::Dropped,
        Path::CutProposed,
        Path::CutAgreed,
        Path::CutRefused,
        Path::CutEstablished,
        Path::Truncated,
        Path::NeedsSnapshot,
        Path::DroppedReported,
        Path::DroppedInterferes,
        Path::DroppedHarmless,
        Path::Installed,
    ];
}
