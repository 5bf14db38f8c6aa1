//! Bugs on purpose: each breaks one rule that protocol.md marks as needed, so that the simulator's
//! checks can be seen to notice. Compiled for tests only.

use super::instance::Instance;
use super::{EPaxos, Phase};
use crate::types::{Ballot, Decision};

/// A rule to break.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Plant {
    /// The 2013 protocol: one ballot an instance, so that joining a ballot looks like accepting.
    SingleBallot,
    /// A payload learned by Validate does not count as a conflict.
    NoIndexAtValidate,
    /// One vote too few for the fast path.
    SmallFastQuorum,
    /// A recovery proposes the fast value without asking what speaks against it.
    NoValidate,
    /// `k' >= n - f - e` where `>` is needed.
    YieldTooEarly,
    /// A command decided `Nop` no longer counts as a conflict.
    ForgetNop,
}

impl Plant {
    /// All of them.
    pub(crate) const ALL: [Plant; 6] = [
        Plant::SingleBallot,
        Plant::NoIndexAtValidate,
        Plant::SmallFastQuorum,
        Plant::NoValidate,
        Plant::YieldTooEarly,
        Plant::ForgetNop,
    ];
}

/// Moves the second ballot where only the first may move.
pub(super) fn single_ballot(plant: Option<Plant>, instance: &mut Instance, ballot: Ballot) {
    if plant == Some(Plant::SingleBallot) && instance.phase == Phase::Accepted {
        instance.accepted = ballot;
    }
}

impl EPaxos {
    /// Drops a `Nop`'s payload from the conflict index.
    pub(super) fn forget_nop_if_planted(&mut self, decision: &Decision) {
        if self.planted(Plant::ForgetNop) && decision.value.is_nop() {
            self.index.forget_one(decision.id);
        }
    }
}
