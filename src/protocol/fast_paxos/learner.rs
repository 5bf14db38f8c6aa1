//! The learner: counts votes, and knows what a quorum has voted for in one round as decided.

use std::collections::BTreeMap;

use super::{FastPaxos, Fx, Round};
use crate::protocol::log::Choice;
use crate::protocol::{Path, View};
use crate::types::{InstanceId, ReplicaId, Slot, Value};

/// By open slot, the last vote of each acceptor that told.
#[derive(Debug, Default)]
pub(super) struct Learner {
    slots: BTreeMap<Slot, BTreeMap<ReplicaId, (Round, InstanceId)>>,
}

impl Learner {
    /// The votes of one round.
    pub(super) fn votes(
        &self,
        slot: Slot,
        round: Round,
    ) -> impl Iterator<Item = (ReplicaId, InstanceId)> + '_ {
        let votes = self.slots.get(&slot).into_iter().flatten();
        let votes = votes.filter(move |(_, (voted, _))| *voted == round);
        votes.map(|(who, (_, name))| (*who, *name))
    }

    pub(super) fn forget(&mut self, slot: Slot) {
        self.slots.remove(&slot);
    }

    /// Everything up to `slot` is decided.
    pub(super) fn forget_to(&mut self, slot: Slot) {
        self.slots = self.slots.split_off(&(slot + 1));
    }
}

impl FastPaxos {
    /// A vote arrived.
    pub(super) fn on_voted(
        &mut self,
        view: &View,
        from: ReplicaId,
        (slot, round): (Slot, Round),
        name: InstanceId,
        fx: &mut Fx,
    ) {
        if round.ballot.is_owner() || !self.log.is_open(slot) {
            return;
        }
        self.log.see(slot);
        let votes = self.learner.slots.entry(slot).or_default();
        let last = votes.entry(from).or_insert((round, name));
        if last.0 > round {
            return;
        }
        *last = (round, name);
        let same = votes.values().filter(|vote| **vote == (round, name)).count();
        self.see_own(slot, round, name);
        if same >= self.quorum(round) {
            // Whoever does not know what the name stands for asks for the decision later.
            if let Some(choice) = self.choice_of(slot, name) {
                let is_fast = !round.is_coordinated;
                fx.hit(if is_fast { Path::FastChosen } else { Path::FastCoordinated });
                self.learn(view, slot, &choice, is_fast, fx);
            }
            return;
        }
        if self.votes.open.is_some_and(|(open, first)| {
            Round::anybodys(open) == round && first <= slot && self.votes.is_free(slot)
        }) {
            self.votes.hint(slot, name);
        }
        self.look_for_collision(view, slot, round, fx);
    }

    fn quorum(&self, round: Round) -> usize {
        #[cfg(test)]
        if self.plant == Some(super::Plant::SmallFastQuorum) && !round.is_coordinated {
            return self.sizes.classic;
        }
        self.sizes.of(round)
    }

    /// What a name stands for, as far as that is known here.
    pub(super) fn choice_of(&self, slot: Slot, name: InstanceId) -> Option<Choice> {
        let is_it = |choice: &&Choice| choice.proposal == name;
        let voted = self.votes.vote(slot).map(|vote| &vote.choice).filter(is_it);
        let voted = voted.or_else(|| self.votes.vote_for(name).map(|(_, vote)| &vote.choice));
        let own = || {
            let batch = self.own_batch(name)?;
            Some(Choice { proposal: name, value: Value::Batch(batch) })
        };
        voted.cloned().or_else(own)
    }

    /// A decision, however it became known; `is_fast` if by the votes of a fast round.
    pub(super) fn learn(
        &mut self,
        view: &View,
        slot: Slot,
        choice: &Choice,
        is_fast: bool,
        fx: &mut Fx,
    ) {
        let voted = self.votes.vote(slot);
        let is_voted = voted.is_some_and(|vote| vote.choice.proposal == choice.proposal);
        if !self.log.learn(slot, choice, is_voted, fx) {
            return;
        }
        self.votes.forget(slot);
        self.learner.forget(slot);
        self.note_lead_decided(slot, is_fast);
        self.note_own_decided(view, slot, choice, is_fast, fx);
        self.log.fetch_on(view, fx);
    }
}
