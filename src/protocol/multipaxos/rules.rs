//! The rules of Multi-Paxos that a planted bug can break, by name (`protocol::rules`).

use super::Context;
use crate::protocol::rules::rules;

rules! {
    /// §M4: any two quorums have a member in common.
    quorums_meet = SmallQuorum;
    /// §M9: what follows a snapshot that was installed and lost again is not executed.
    lost_snapshots_are_missed = NoHole;
    /// §M4: what is decided is a vote at the leader's own ballot.
    old_votes_decide_nothing = CommitAnyBallot;
    /// §M6: a leader proposes again what phase 1 has found.
    found_votes_bind = IgnoreAccepted;
    /// §M7: a leader's lease counts from when it asked for it.
    leases_count_from_asking = LeaseFromReceipt;
    /// §M7: a replica that comes back waits out what it may have granted.
    grants_outlive_a_crash = ForgetGrants;
    /// §M7: a new leader reads nothing before what it found is decided.
    reads_wait_for_the_barrier = NoBarrier;
    /// §M7: a leader answers reads only while its lease lasts.
    reads_need_a_lease = ExpiredLease;
    /// §M6: votes that the leader still has to propose again are kept.
    votes_below_the_barrier_stay = DropBelowBarrier;
}

/// How many replicas make a quorum: a majority.
pub(super) fn quorum(cx: &Context) -> usize {
    let majority = cx.quorums().slow();
    if cx.rules.quorums_meet() { majority } else { (majority - 1).max(1) }
}
