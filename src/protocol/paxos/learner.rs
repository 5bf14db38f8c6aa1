//! The learner: counts votes. A value is decided once a majority has voted for it in one ballot
//! (§P4).

use std::collections::BTreeMap;

use super::{Step, rules};
use crate::protocol::log::Choice;
use crate::types::{Ballot, ReplicaId, ReplicaSet, Slot};

/// The votes in open slots; in each, only those of the highest ballot seen.
#[derive(Debug, Default)]
pub(super) struct Learner {
    slots: BTreeMap<Slot, Tally>,
}

#[derive(Debug, Default)]
struct Tally {
    ballot: Ballot,
    voters: ReplicaSet,
    /// The choice they voted for, once the proposer's message has shown it.
    choice: Option<Choice>,
}

impl Learner {
    /// The tally of `ballot`; `None` if a higher ballot was seen.
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

    /// The highest ballot seen in a slot.
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

    /// A vote arrived. With a majority of votes at one ballot, returns the decision, if its value
    /// is known.
    pub(super) fn on_accepted(
        &mut self,
        s: &mut Step<'_>,
        from: ReplicaId,
        slot: Slot,
        ballot: Ballot,
    ) -> Option<Choice> {
        if ballot.is_owner() || !s.log.is_open(slot) {
            return None;
        }
        s.log.see(slot);
        let tally = self.tally(slot, ballot)?;
        tally.voters.insert(from);
        // A replica that has not heard the value fetches the decision.
        let choice = tally.choice.clone()?;
        (tally.voters.len() >= rules::quorum(s)).then_some(choice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::View;
    use crate::protocol::log::Core;
    use crate::protocol::log::tests::stage::{batch, replica, settings};
    use crate::protocol::paxos::Fx;
    use crate::types::{InstanceId, Retention, Value};

    #[test]
    fn votes_count_at_the_highest_ballot_alone_and_once_it_is_known_what_they_are_for() {
        let mut core = Core::<rules::Rules>::new(settings(1, 3, Retention::default()));
        let (view, mut fx) = (View::new(3), Fx::default());
        let s = &mut core.step(&view, &mut fx);
        let mut learner = Learner::default();
        let low = Ballot::OWNER.next_for(replica(1));
        let high = low.next_for(replica(2));
        let proposal = InstanceId::new(replica(2), 1);
        let choice = Choice { proposal, value: Value::Batch(batch(1)) };
        learner.offered(1, low, &Choice { proposal, value: Value::Nop });
        assert_eq!(learner.on_accepted(s, replica(1), 1, low), None);
        assert_eq!(learner.on_accepted(s, replica(2), 1, high), None);
        assert_eq!(learner.on_accepted(s, replica(3), 1, low), None, "that ballot is over");
        assert_eq!(learner.on_accepted(s, replica(3), 1, high), None, "two votes, for what?");
        learner.offered(1, high, &choice);
        assert_eq!(learner.on_accepted(s, replica(3), 1, high), Some(choice));
        assert_eq!(learner.on_accepted(s, replica(3), 1, Ballot::OWNER), None, "nobody's ballot");
    }
}
