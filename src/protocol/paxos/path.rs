//! The paths that a slot may take until it is decided; each is counted. The log counts its own.

use crate::protocol::paths::paths;

paths! {
    /// A decision was learned from a replica that knew it.
    LearnedCommit = "learned_commit",
    /// A message was resent.
    Retransmit = "retransmit",
    /// A Rejected was received: a higher ballot exists.
    Rejected = "rejected",
    /// Phase 1 of a slot began.
    Prepare = "sp_prepare",
    /// A majority's votes in one ballot were counted.
    Chosen = "sp_chosen",
    /// Phase 1 found another's value, which had to be proposed again.
    Adopted = "sp_adopted",
    /// Another proposer was found in the same slot.
    Collision = "sp_collision",
    /// A slot that its proposer left undecided was taken over.
    Gap = "sp_gap",
    /// Phase 1 found no vote in such a slot, so a `Nop` was proposed.
    Nop = "sp_nop",
}
