//! The ways that a slot may go until it is decided, for the counts of them. The log has its own for
//! what follows.

use crate::protocol::paths::paths;

paths! {
    /// A decision was learned from a replica that knew it.
    LearnedCommit = "learned_commit",
    /// Something was sent again.
    Retransmit = "retransmit",
    /// Reject was received: a higher ballot is at work.
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
    /// A slot that too few have voted in was pushed.
    Suggested = "fp_suggested",
    /// A vote that had come to nothing was told to the coordinator again.
    Repeated = "fp_repeated",
    /// An own value lost its slot, and was proposed again.
    Lost = "fp_lost",
    /// A value was sent to the coordinator, for a classic round.
    Forwarded = "fp_forwarded",
    /// The coordinator had nothing to put into a slot.
    Nop = "fp_nop",
    /// Phase 1 began.
    Campaign = "fp_campaign",
    /// Phase 1 was done.
    Elected = "fp_elected",
    /// Fast rounds do not pay: classic ones follow.
    ToClassic = "fp_to_classic",
    /// Fast rounds are tried again.
    FastAgain = "fp_fast_again",
}
