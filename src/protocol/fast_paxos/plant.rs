//! Bugs on purpose, to see whether the tests notice. Compiled for tests only.

use super::{FastPaxos, Fx, Message};

/// A rule to break.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Plant {
    /// A majority makes a fast quorum.
    SmallFastQuorum,
    /// A coordinator that recovers from a collision overlooks what may have been chosen.
    IgnoreForced,
    /// A new coordinator overlooks the votes that phase 1 has found.
    IgnoreFound,
    /// A promise is told before it is durable.
    EarlyPromise,
    /// A vote is told before it is durable.
    EarlyVote,
    /// A ballot or a name is used before it is on record that it may have been.
    EarlyBallot,
}

impl Plant {
    /// Those that random schedules show. `EarlyBallot` takes a crash between two certain messages.
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

    /// Lets go what should be held back.
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
