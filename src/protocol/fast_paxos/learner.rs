//! The learner: counts votes. A value is decided once a quorum has voted for it in one round.

use std::collections::BTreeMap;

use super::round::Sizes;
use super::{Round, Step};
use crate::types::{InstanceId, ReplicaId, Slot};

/// Per open slot, the last vote known of each acceptor.
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

    /// A vote arrived. Returns whether a quorum has voted the same; `None` if the vote is not new.
    pub(super) fn on_voted(
        &mut self,
        s: &mut Step<'_>,
        from: ReplicaId,
        (slot, round): (Slot, Round),
        name: InstanceId,
    ) -> Option<bool> {
        if round.ballot.is_owner() || !s.log.is_open(slot) {
            return None;
        }
        s.log.see(slot);
        let votes = self.slots.entry(slot).or_default();
        let last = votes.entry(from).or_insert((round, name));
        if last.0 > round {
            return None;
        }
        *last = (round, name);
        let same = votes.values().filter(|vote| **vote == (round, name)).count();
        Some(same >= quorum(s, round))
    }
}

fn quorum(s: &Step<'_>, round: Round) -> usize {
    let sizes = Sizes::new(s.cx.n());
    if s.cx.rules.fast_rounds_take_a_fast_quorum() { sizes.of(round) } else { sizes.classic }
}
