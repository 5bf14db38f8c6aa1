//! The rules of Fast Paxos that a planted bug can break, by name (`protocol::rules`).

use crate::protocol::rules::rules;

rules! {
    /// §F1: a fast round takes a fast quorum.
    fast_rounds_take_a_fast_quorum = SmallFastQuorum;
    /// §F5: the value that may have been chosen in the fast round is picked in the coordinated one.
    forced_values_are_picked = IgnoreForced;
    /// §F2: a new coordinator finishes what phase 1 found.
    found_votes_bind = IgnoreFound;
}
