//! Planted bugs, to show that the tests notice. Compiled for tests only.

use super::{Fx, Message, Paxos};

/// A rule to break.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Plant {
    /// A proposer proposes its own value although it has found another.
    IgnoreFound,
    /// A promise is sent before it is durable.
    EarlyPromise,
    /// A vote is sent before it is durable.
    EarlyVote,
    /// A ballot or a name is used before its reservation is durable.
    EarlyBallot,
    /// A quorum is one less than a majority.
    SmallQuorum,
}

impl Plant {
    /// Those that random schedules find. `EarlyBallot` needs a crash between two specific messages.
    pub(crate) const ALL: [Plant; 4] =
        [Plant::IgnoreFound, Plant::EarlyPromise, Plant::EarlyVote, Plant::SmallQuorum];
}

impl Paxos {
    /// Breaks one rule.
    pub(crate) fn plant(&mut self, plant: Plant) {
        self.core.cx.rules.broken = Some(plant);
    }

    /// Releases messages that should be held back.
    pub(super) fn after_step(&self, fx: &mut Fx) {
        let Some(plant) = self.core.cx.rules.broken else { return };
        for held in &mut fx.messages {
            held.forget_if(|outgoing| match outgoing.message {
                Message::Promise { .. } => plant == Plant::EarlyPromise,
                Message::Accepted { .. } => plant == Plant::EarlyVote,
                Message::Prepare { .. } | Message::Accept { .. } => plant == Plant::EarlyBallot,
                _ => false,
            });
        }
    }
}
