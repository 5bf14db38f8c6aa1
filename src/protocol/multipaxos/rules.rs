//! The rules of Multi-Paxos that a planted bug can break, by name (`protocol::rules`).

use super::Context;
use crate::protocol::rules::rules;

rules! {
    /// §M4: any two quorums have a member in common.
    quorums_meet = SmallQuorum;
    /// §M9: nothing is executed that rests on an installed snapshot that was lost.
    lost_snapshots_are_missed = NoHole;
    /// §M4: only a vote at the leader's own ballot is taken as decided.
    old_votes_decide_nothing = CommitAnyBallot;
    /// §M6: a leader proposes again the votes that phase 1 found.
    found_votes_bind = IgnoreAccepted;
    /// §M7: a leader's lease counts from when it was requested.
    leases_count_from_asking = LeaseFromReceipt;
    /// §M7: a restarted replica waits for the end of the lease it may have granted.
    grants_outlive_a_crash = ForgetGrants;
    /// §M7: a new leader answers reads only after deciding what phase 1 found.
    reads_wait_for_the_barrier = NoBarrier;
    /// §M7: a leader answers reads only while its lease holds.
    reads_need_a_lease = ExpiredLease;
    /// §M6: followers keep votes that the leader still has to propose again.
    votes_below_the_barrier_stay = DropBelowBarrier;
}

/// The size of a quorum: a majority.
pub(super) fn quorum(cx: &Context) -> usize {
    let majority = cx.quorums().slow();
    if cx.rules.quorums_meet() { majority } else { (majority - 1).max(1) }
}
