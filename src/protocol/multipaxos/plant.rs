//! Bugs on purpose: each breaks one rule, so that the checks can be seen to notice. Compiled for
//! tests only.

use super::{Fx, Message, MultiPaxos};

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
    /// A new leader answers reads before it has decided what it found.
    NoBarrier,
}

impl MultiPaxos {
    /// Lets go of what the planted bug does not wait for.
    pub(super) fn release_early_if_planted(&self, fx: &mut Fx) {
        let Some(plant) = self.plant else { return };
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
