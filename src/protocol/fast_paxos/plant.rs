//! Planted bugs, to show that the tests notice. Compiled for tests only.

use super::{FastPaxos, Fx, Message};

/// A rule to break.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Plant {
    /// A fast quorum is only a majority.
    SmallFastQuorum,
    /// A coordinator that recovers from a collision ignores the value that may have been chosen.
    IgnoreForced,
    /// A new coordinator ignores the votes that phase 1 found.
    IgnoreFound,
    /// A promise is sent before it is durable.
    EarlyPromise,
    /// A vote is sent before it is durable.
    EarlyVote,
    /// A ballot or a name is used before its reservation is durable.
    EarlyBallot,
}

impl Plant {
    /// Those that random schedules find. `EarlyBallot` needs a crash between two specific messages.
    pub(crate) const ALL: [Plant; 5] = [
        Plant::SmallFastQuorum,
        Plant::IgnoreForced,
        Plant::IgnoreFound,
        Plant::EarlyPromise,
        Plant::EarlyVote,
    ];
}

impl FastPaxos {
    /// Breaks one rule.
    pub(crate) fn plant(&mut self, plant: Plant) {
        self.core.cx.rules.broken = Some(plant);
    }

    /// Releases messages that should be held back.
    pub(super) fn after_step(&self, fx: &mut Fx) {
        let Some(plant) = self.core.cx.rules.broken else { return };
        for held in &mut fx.messages {
            held.forget_if(|outgoing| match outgoing.message {
                Message::Promise { .. } | Message::Report { .. } => plant == Plant::EarlyPromise,
                Message::Voted { .. } => plant == Plant::EarlyVote,
                Message::Prepare { .. }
                | Message::Propose { .. }
                | Message::Accept { .. }
                | Message::Open { .. } => plant == Plant::EarlyBallot,
                _ => false,
            });
        }
    }
}
