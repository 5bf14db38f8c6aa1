//! The promised ballot, and what its leader has said (§M1).

use super::{Fx, Message, Record};
use crate::types::{Ballot, MAX_SLOT, ReplicaId, Slot, Written};

/// The promised ballot.
///
/// Invariants:
///
/// 1. `ballot` never moves back; this replica votes for and promises nothing at a lower one.
/// 2. `leader` is the replica heard as the leader of `ballot`, or this one once it leads; `told` is
///    how far that leader said that all is decided.
#[derive(Debug, Default)]
pub(super) struct Promised {
    ballot: Ballot,
    /// The record that holds `ballot`.
    written: Written,
    leader: Option<ReplicaId>,
    told: Slot,
}

impl Promised {
    pub(super) fn ballot(&self) -> Ballot {
        self.ballot
    }

    /// The record that a message about the promise waits for.
    pub(super) fn written(&self) -> Written {
        self.written
    }

    /// The leader of the ballot, if known; may be this replica.
    pub(super) fn leader(&self) -> Option<ReplicaId> {
        self.leader
    }

    /// How far the leader said that all is decided.
    pub(super) fn told(&self) -> Slot {
        self.told
    }

    /// Promises a higher ballot; its leader is not yet known.
    pub(super) fn join(&mut self, ballot: Ballot, fx: &mut Fx) {
        assert!(ballot > self.ballot, "a promise never moves back");
        self.ballot = ballot;
        self.written = fx.append(Record::Promised { ballot });
        self.follow_nobody();
    }

    /// The leader was heard, and says how far all is decided. Returns whether it was unknown
    /// before.
    pub(super) fn follow(&mut self, leader: ReplicaId, commit: Slot) -> bool {
        self.told = self.told.max(commit.min(MAX_SLOT));
        self.leader.replace(leader).is_none()
    }

    /// This replica leads the ballot.
    pub(super) fn lead(&mut self, me: ReplicaId) {
        self.leader = Some(me);
    }

    /// Its leader has been silent for too long.
    pub(super) fn lose_leader(&mut self) {
        self.leader = None;
    }

    /// No longer leads, and knows no leader.
    pub(super) fn follow_nobody(&mut self) {
        self.leader = None;
        self.told = 0;
    }

    /// Answers a message at a lower ballot.
    pub(super) fn reject(&self, to: ReplicaId, fx: &mut Fx) {
        fx.answer(self.written, to, Message::Reject { ballot: self.ballot });
    }

    /// An earlier life has promised this ballot.
    pub(super) fn restore(&mut self, ballot: Ballot) {
        self.ballot = self.ballot.max(ballot);
    }
}
