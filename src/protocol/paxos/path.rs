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
    /// Phase 1 of a slot began.
    Prepare = "sp_prepare",
    /// A majority's votes in one ballot were counted.
    Chosen = "sp_chosen",
    /// Phase 1 found another's value, which has to be finished.
    Adopted = "sp_adopted",
    /// Another proposer was found at work in the same slot.
    Collision = "sp_collision",
    /// A slot that its proposer left undecided was taken over.
    Gap = "sp_gap",
    /// Phase 1 found nothing in such a slot, so it was decided as nothing.
    Nop = "sp_nop",
}
