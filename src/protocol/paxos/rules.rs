//! The rules of Paxos that a planted bug can break, by name (`protocol::rules`).

use super::Step;
use crate::protocol::rules::rules;

rules! {
    /// §P1: any two quorums have a member in common.
    quorums_meet = SmallQuorum;
    /// §P3: a proposer proposes the value it has found.
    found_votes_bind = IgnoreFound;
}

/// The size of a quorum, for promises and votes: a majority.
pub(super) fn quorum(s: &Step<'_>) -> usize {
    let majority = s.cx.quorums().slow();
    if s.cx.rules.quorums_meet() { majority } else { (majority - 1).max(1) }
}
