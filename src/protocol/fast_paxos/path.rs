//! The paths that a slot may take until it is decided; each is counted. The log counts its own.

use crate::protocol::paths::paths;

paths! {
    /// A decision was learned from a replica that knew it.
    LearnedCommit = "learned_commit",
    /// A message was resent.
    Retransmit = "retransmit",
    /// A Rejected was received: a higher ballot exists.
    Rejected = "rejected",
    /// A fast quorum's votes in a fast round were counted.
    ChosenFast = "fp_chosen_fast",
    /// A majority's votes in a coordinated round were counted.
    ChosenCoordinated = "fp_chosen_coordinated",
    /// No value can get a fast quorum in a slot any more.
    Collision = "fp_collision",
    /// A slot waited too long for its fast quorum.
    TimedOut = "fp_timed_out",
    /// The coordinator had to pick a value that may have been chosen.
    Forced = "fp_forced",
    /// A slot with too few votes was suggested to all acceptors.
    Suggested = "fp_suggested",
    /// A vote that had led to nothing was repeated to the coordinator.
    Repeated = "fp_repeated",
    /// An own value lost its slot and was resent.
    Lost = "fp_lost",
    /// A value was sent to the coordinator, for a classic round.
    Forwarded = "fp_forwarded",
    /// The coordinator filled a slot with a `Nop`.
    Nop = "fp_nop",
    /// Phase 1 began.
    Campaign = "fp_campaign",
    /// Phase 1 succeeded.
    Elected = "fp_elected",
    /// The coordinator changed to classic ballots.
    ToClassic = "fp_to_classic",
    /// The coordinator changed back to fast ballots.
    FastAgain = "fp_fast_again",
}
