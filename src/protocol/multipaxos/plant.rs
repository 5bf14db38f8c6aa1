//! Bugs on purpose: each breaks one rule, so that the checks can be seen to notice. Compiled for
//! tests only.

use super::{Fx, Message, MultiPaxos};
use crate::protocol::View;

/// A rule to break.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Plant {
    /// AcceptOk leaves before the vote is durable.
    EarlyVote,
    /// Promise leaves before it is durable.
    EarlyPromise,
    /// Prepare leaves before the candidate's own promise is durable: a ballot is taken twice.
    EarlyPrepare,
    /// Phase 1 does not look at what others voted for.
    IgnoreAccepted,
    /// What was voted for at any ballot counts as decided when the leader says that the slot is.
    CommitAnyBallot,
    /// The lease counts from the receipt of its grant.
    LeaseFromReceipt,
    /// A restarted replica does not wait out what it granted.
    ForgetGrants,
    /// Records after a snapshot that was installed and lost again count as if it were there.
    NoHole,
    /// A new leader answers reads before it has decided what it found.
    NoBarrier,
    /// One less than a majority makes a quorum.
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

    /// Begins phase 1 without asking anybody whether it would find votes.
    pub(super) fn prepare_unasked(&mut self, view: &View, fx: &mut Fx) {
        self.start_phase_1(view, fx);
        self.after_step(fx);
    }

    /// Lets go of what the planted bug does not wait for.
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
