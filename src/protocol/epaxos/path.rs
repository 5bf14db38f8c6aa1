//! The ways that an instance may go, for the counts of them.

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
    /// A Commit without its payload had to be fetched.
    CommitWithoutPayload = "commit_without_payload",
    /// Something was sent again.
    Retransmit = "retransmit",
    /// A missing decision was asked for.
    Fetch = "fetch",
    /// A decision was sent on request.
    FetchAnswered = "fetch_answered",
    /// Reject was received: a higher ballot is at work.
    Rejected = "rejected",
    /// A recovery began (§5.1).
    Recovery = RECOVERY,
    /// A recovery began again at a higher ballot (§5.6).
    RecoveryAgain = "recovery_again",
    /// §5.3.1: somebody had committed.
    RecoverCommitted = "recover_committed",
    /// §5.3.2: an accepted value was adopted.
    RecoverAccepted = "recover_accepted",
    /// §5.3.3: the owner answered and had not committed.
    RecoverOwnerNop = "recover_owner_nop",
    /// §5.3.4: enough fast votes, so validate.
    RecoverValidate = "recover_validate",
    /// §5.3.5: the fast path cannot have happened.
    RecoverNop = "recover_nop",
    /// §5.5: nothing interferes.
    ValidateClean = "validate_clean",
    /// §5.5: something interfering is committed.
    ValidateCommitted = "validate_committed",
    /// §5.5: the owner of something interfering is outside the quorum.
    ValidateOwnerOutside = "validate_owner_outside",
    /// §5.5: had to wait.
    Waiting = "waiting",
    /// §5.5: what was waited for committed without covering this instance.
    WaitingNop = "waiting_nop",
    /// §5.5: all that was waited for turned out harmless.
    WaitingClean = "waiting_clean",
    /// §5.5: another waiting recovery proved the fast path impossible.
    WaitingYield = "waiting_yield",
    /// §5.5: a late RecoverOk settled it.
    WaitingLate = "waiting_late",
    /// An owner's instance ended as `Nop` and its commands were proposed again.
    Resubmitted = RESUBMITTED,
    /// A `Nop` was accepted whose payload is unknown: it conflicts with everything.
    Wildcard = "wildcard",
    /// A slot that nobody here had heard of was recovered.
    GapRecovered = "gap_recovered",
    /// The owner told of a fast-path commit before it was durable (§7).
    CommitUnflushed = "commit_unflushed",
    /// An owner came back to an instance that it may have committed (§7).
    Orphan = "orphan",
    /// An owner came back to a slot that it had reserved and has no record of (§7).
    LostSlot = "lost_slot",
    /// An instance of unknown payload was reported to a recovery (§7).
    UnknownReported = "unknown_reported",
    /// An instance reported as of unknown payload turned out not to conflict (§7).
    UnknownHarmless = "unknown_harmless",
    /// Records were forgotten because every member had executed them.
    Trimmed = "trimmed",
    /// Records were dropped that an absent member might have asked for (§8a).
    Dropped = "dropped",
    /// A cut was proposed (§8a).
    CutProposed = "cut_proposed",
    /// A cut was agreed to.
    CutAgreed = "cut_agreed",
    /// A cut was not agreed to: not all of it is executed here, or another one was agreed to.
    CutRefused = "cut_refused",
    /// A cut was established by `n - f` agreements.
    CutEstablished = "cut_established",
    /// Somebody wanted something about an instance that is dropped here.
    Truncated = "truncated",
    /// What is missing here is dropped elsewhere: a snapshot is needed.
    NeedsSnapshot = "needs_snapshot",
    /// A dropped instance was reported to a recovery (§5.4).
    DroppedReported = "dropped_reported",
    /// An instance reported to a recovery is dropped here, and was not harmless (§5.5).
    DroppedInterferes = "dropped_interferes",
    /// An instance reported to a recovery is dropped here, and harmless (§5.5).
    DroppedHarmless = "dropped_harmless",
    /// Another replica's snapshot took the place of the state here.
    Installed = "installed",
}

impl Path {
    /// Those that only replicas take that save latency by the optimisations of PROTOCOL.md §7, and
    /// all but the first only after a restart.
    pub const OPTIMISED: &'static [Path] = &[
        Path::CommitUnflushed,
        Path::Orphan,
        Path::LostSlot,
        Path::UnknownReported,
        Path::UnknownHarmless,
    ];

    /// Those that only replicas take that drop what a member may still need (PROTOCOL.md §8a).
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
