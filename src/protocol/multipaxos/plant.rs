//! Planted bugs: each breaks one rule, to show that the checks notice. Compiled for tests only.

use super::{Fx, Message, MultiPaxos};
use crate::protocol::View;

/// A rule to break.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Plant {
    /// AcceptOk leaves before the vote is durable.
    EarlyVote,
    /// Promise leaves before it is durable.
    EarlyPromise,
    /// Prepare leaves before the candidate's own promise is durable, so a ballot is taken twice.
    EarlyPrepare,
    /// Phase 1 ignores the votes of others.
    IgnoreAccepted,
    /// A vote at any ballot counts as decided once the leader says that the slot is.
    CommitAnyBallot,
    /// The lease counts from the receipt of its grant.
    LeaseFromReceipt,
    /// A restarted replica does not wait for the end of a lease it granted.
    ForgetGrants,
    /// Records that rest on a lost snapshot count as if it were there.
    NoHole,
    /// A new leader answers reads before it has decided what phase 1 found.
    NoBarrier,
    /// A quorum is one less than a majority.
    SmallQuorum,
    /// A leader answers reads after its lease has run out.
    ExpiredLease,
    /// A follower drops votes at lower ballots that its leader still has to propose again.
    DropBelowBarrier,
}

impl MultiPaxos {
    /// Breaks one rule, to see whether the checks notice.
    pub(crate) fn plant(&mut self, plant: Plant) {
        self.core.cx.rules.broken = Some(plant);
    }

    /// Begins phase 1 without a pre-vote.
    pub(super) fn prepare_unasked(&mut self, view: &View, fx: &mut Fx) {
        self.start_phase_1(view, fx);
        self.after_step(fx);
    }

    /// Releases the messages that the planted bug does not hold back.
    pub(super) fn after_step(&self, fx: &mut Fx) {
        let Some(plant) = self.core.cx.rules.broken else { return };
        for held in &mut fx.messages {
            held.forget_if(|outgoing| match plant {
                Plant::EarlyVote => matches!(outgoing.message, Message::AcceptOk { .. }),
                Plant::EarlyPromise => matches!(outgoing.message, Message::Promise { .. }),
                Plant::EarlyPrepare => {
                    matches!(outgoing.message, Message::Prepare { .. } | Message::Promise { .. })
                }
                _ => false,
            });
        }
    }
}
