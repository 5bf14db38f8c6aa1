//! The learner: counts votes, and knows what a majority has voted for in one ballot as decided
//! (§P4).

use std::collections::BTreeMap;

use super::{Fx, Paxos};
use crate::protocol::log::Choice;
use crate::protocol::{Path, View};
use crate::types::{Ballot, ReplicaId, ReplicaSet, Slot};

/// The votes of open slots, of the highest ballot that was heard of in each.
#[derive(Debug, Default)]
pub(super) struct Learner {
    slots: BTreeMap<Slot, Tally>,
}

#[derive(Debug, Default)]
struct Tally {
    ballot: Ballot,
    voters: ReplicaSet,
    /// What they have voted for, once the proposer has said so here.
    choice: Option<Choice>,
}

impl Learner {
    /// The tally of `ballot`, unless that is over.
    fn tally(&mut self, slot: Slot, ballot: Ballot) -> Option<&mut Tally> {
        let tally = self.slots.entry(slot).or_default();
        if tally.ballot < ballot {
            *tally = Tally { ballot, ..Tally::default() };
        }
        (tally.ballot == ballot).then_some(tally)
    }

    /// A proposer has named the choice of its ballot.
    pub(super) fn offered(&mut self, slot: Slot, ballot: Ballot, choice: &Choice) {
        if let Some(tally) = self.tally(slot, ballot) {
            tally.choice.get_or_insert_with(|| choice.clone());
        }
    }

    /// The ballot that was last heard of in a slot.
    pub(super) fn ballot(&self, slot: Slot) -> Option<Ballot> {
        self.slots.get(&slot).map(|tally| tally.ballot)
    }

    pub(super) fn forget(&mut self, slot: Slot) {
        self.slots.remove(&slot);
    }

    /// Everything up to `slot` is decided.
    pub(super) fn forget_to(&mut self, slot: Slot) {
        self.slots = self.slots.split_off(&(slot + 1));
    }
}

impl Paxos {
    /// A vote arrived.
    pub(super) fn on_accepted(
        &mut self,
        view: &View,
        from: ReplicaId,
        slot: Slot,
        ballot: Ballot,
        fx: &mut Fx,
    ) {
        if ballot.is_owner() || !self.log.is_open(slot) {
            return;
        }
        self.log.see(slot);
        let quorum = self.quorum();
        let Some(tally) = self.learner.tally(slot, ballot) else { return };
        tally.voters.insert(from);
        // Whoever has not heard what the votes are for gets the decision from somebody who has.
        let Some(choice) = tally.choice.clone() else { return };
        if tally.voters.len() >= quorum {
            fx.hit(Path::PaxosChosen);
            self.learn(view, slot, &choice, fx);
        }
    }

    /// A decision, however it became known.
    pub(super) fn learn(&mut self, view: &View, slot: Slot, choice: &Choice, fx: &mut Fx) {
        let voted = self.acceptor.vote(slot);
        let is_voted = voted.is_some_and(|voted| voted.proposal == choice.proposal);
        if !self.log.learn(slot, choice, is_voted, fx) {
            return;
        }
        self.acceptor.forget(slot);
        self.learner.forget(slot);
        self.note_decided(slot, choice, fx);
        self.log.fetch_on(view, fx);
        self.start_proposals(view, fx);
    }
}
