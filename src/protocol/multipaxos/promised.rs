//! What this replica has promised, and what it has heard at that ballot (§M1).

use super::{Fx, Message, Record};
use crate::types::{Ballot, MAX_SLOT, ReplicaId, Slot, Written};

/// The promised ballot.
///
/// Invariants:
///
/// 1. `ballot` never moves back, and nothing at a lower one is voted for or promised.
/// 2. `leader` is whom it has heard at `ballot`, or itself once it leads it; `told` is what that
///    one said is decided.
#[derive(Debug, Default)]
pub(super) struct Promised {
    ballot: Ballot,
    /// Of the record that holds `ballot`.
    written: Written,
    leader: Option<ReplicaId>,
    told: Slot,
}

impl Promised {
    pub(super) fn ballot(&self) -> Ballot {
        self.ballot
    }

    /// What a message that tells of the promise waits for.
    pub(super) fn written(&self) -> Written {
        self.written
    }

    /// Who leads the ballot, if that is known; possibly this replica.
    pub(super) fn leader(&self) -> Option<ReplicaId> {
        self.leader
    }

    /// Up to where the leader said that all is decided.
    pub(super) fn told(&self) -> Slot {
        self.told
    }

    /// Promises a higher ballot; who leads it is not known yet.
    pub(super) fn join(&mut self, ballot: Ballot, fx: &mut Fx) {
        assert!(ballot > self.ballot, "a promise never moves back");
        self.ballot = ballot;
        self.written = fx.append(Record::Promised { ballot });
        self.follow_nobody();
    }

    /// Its leader was heard, and says what is decided; whether it is one that was not known.
    pub(super) fn follow(&mut self, leader: ReplicaId, commit: Slot) -> bool {
        self.told = self.told.max(commit.min(MAX_SLOT));
        self.leader.replace(leader).is_none()
    }

    /// This replica leads it.
    pub(super) fn lead(&mut self, me: ReplicaId) {
        self.leader = Some(me);
    }

    /// Its leader has been silent for too long.
    pub(super) fn lose_leader(&mut self) {
        self.leader = None;
    }

    /// Leads no more, and knows of no leader.
    pub(super) fn follow_nobody(&mut self) {
        self.leader = None;
        self.told = 0;
    }

    /// A lower ballot comes too late.
    pub(super) fn reject(&self, to: ReplicaId, fx: &mut Fx) {
        fx.answer(self.written, to, Message::Reject { ballot: self.ballot });
    }

    /// An earlier life has promised it.
    pub(super) fn restore(&mut self, ballot: Ballot) {
        self.ballot = self.ballot.max(ballot);
    }
}
