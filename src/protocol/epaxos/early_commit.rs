//! Early commit: a fast-path commit is announced before it is durable (PROTOCOL.md §7). `commit`
//! uses this to wait for nothing. `restore` and `acceptor` handle the orphans after a restart.
//!
//! An owner that announces a fast-path commit and then loses its Committed record knows only that
//! it proposed. After a restart, every own instance that the records show as proposed and no
//! further is an *orphan*: it may be committed without the owner knowing. Where the protocol trusts
//! the owner to know (§5.3.3), the owner of an orphan stays silent, as if it were still down. The
//! others then decide as they do for any crashed owner: it counts as one of the `f` failures.
//!
//! Only records from before the restart make an orphan. A later life may add a promise to them,
//! which says nothing about how the first one ended. So an instance is an orphan at whatever
//! ballot. Only Accepted or Committed ends it: then its owner knows as much as any other voter.
//!
//! The records of a life show whether it commits early, before the first proposal that it may have
//! announced: the owner's own vote counts once it is durable, and so is every record before it. So
//! early commit can be switched off. A later life without it is silent only about older proposals.
//! A life that switches it on is silent about all proposals that it finds.

use super::Context;
use super::store::Store;
use super::{Fx, Phase, Record};
use crate::types::{InstanceId, MAX_SLOT, ReplicaId, Slot};

/// This replica's instances that may have been announced before they were durable.
#[derive(Debug)]
pub(super) struct EarlyCommit {
    /// The first slot of this life: the slots below were proposed in earlier ones.
    born: Slot,
    /// The highest own slot whose commit may have been announced before it was durable.
    announced: Slot,
}

impl EarlyCommit {
    pub(super) fn new() -> EarlyCommit {
        EarlyCommit { born: 1, announced: 0 }
    }

    /// Whether fast-path commits are announced before they are durable.
    pub(super) fn is_on(cx: &Context) -> bool {
        let wanted = cx.settings.optimisations.silent_orphans;
        // If `f` is 0, nothing can be decided without the owner.
        wanted && (cx.quorums().f > 0 || !cx.rules.early_commit_needs_failures())
    }

    /// A record of an earlier life. The last one counts.
    pub(super) fn restore(&mut self, up_to: Slot) {
        self.announced = up_to;
    }

    /// The record, if there is something to remember.
    pub(super) fn record(&self) -> Option<Record> {
        (self.announced > 0).then_some(Record::EarlyCommit { up_to: self.announced })
    }

    /// A proposal follows that may be announced before it is durable.
    pub(super) fn note_proposal(&mut self, cx: &Context, fx: &mut Fx) {
        if EarlyCommit::is_on(cx) && self.announced < MAX_SLOT {
            self.announced = MAX_SLOT;
            fx.append(Record::EarlyCommit { up_to: MAX_SLOT });
        }
    }

    /// This life begins, and proposes from `born` on. If the record is lost, so are all proposals
    /// of this life.
    pub(super) fn begin_life(&mut self, cx: &Context, born: Slot, fx: &mut Fx) {
        self.born = born;
        if !EarlyCommit::is_on(cx) && self.announced >= born {
            self.announced = born - 1;
            fx.append(Record::EarlyCommit { up_to: self.announced });
        }
    }

    /// Whether an earlier life of this replica proposed it, may have announced its commit, and left
    /// no further record. At the owner's ballot the owner counts no votes for an orphan. It neither
    /// promises nor validates; it may accept.
    pub(super) fn is_orphan(&self, cx: &Context, store: &Store, id: InstanceId) -> bool {
        let inherited = id.replica == cx.me() && id.slot < self.born;
        inherited
            && self.may_be_announced(cx, id)
            && store.instances.get(id).is_some_and(|instance| {
                let kept = instance.ballot.is_owner() || cx.rules.orphan_at_every_ballot();
                instance.phase == Phase::PreAccepted && kept
            })
    }

    /// Whether `to` gets no promise for it. Recovery would trust the answer of an orphan's owner.
    /// The promise itself is still kept.
    pub(super) fn is_silent(
        &self,
        cx: &Context,
        store: &Store,
        id: InstanceId,
        to: ReplicaId,
    ) -> bool {
        let rule = match to == cx.me() {
            true => cx.rules.orphan_is_silent_to_itself(),
            false => cx.rules.orphan_is_silent_to_others(),
        };
        rule && self.is_orphan(cx, store, id)
    }

    /// Whether an earlier life may have announced it before it was durable. With early commit on,
    /// this holds for all instances: this life may count votes for an earlier life's proposals.
    fn may_be_announced(&self, cx: &Context, id: InstanceId) -> bool {
        let earlier = id.slot <= self.announced && cx.rules.early_commits_are_remembered();
        EarlyCommit::is_on(cx) || earlier
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::epaxos::step::Alone;
    use crate::types::Optimisations;

    fn own(slot: Slot) -> InstanceId {
        InstanceId::new(ReplicaId::from_index(0), slot)
    }

    /// Own slots 1 to 4 and one of another owner, all PreAccepted.
    fn voted(optimisations: Optimisations) -> Alone {
        let mut alone = Alone::new(3, optimisations);
        let other = InstanceId::new(ReplicaId::from_index(1), 2);
        for id in [own(1), own(2), own(3), own(4), other] {
            alone.core.store.instances.entry(id).phase = Phase::PreAccepted;
        }
        alone
    }

    fn orphans(early: &EarlyCommit, alone: &Alone) -> Vec<Slot> {
        let is_orphan =
            |slot: &Slot| early.is_orphan(&alone.core.cx, &alone.core.store, own(*slot));
        (1..=4).filter(is_orphan).collect()
    }

    #[test]
    fn what_an_earlier_life_proposed_and_left_open_is_an_orphan() {
        let mut alone = voted(Optimisations::ALL);
        let mut early = EarlyCommit::new();
        early.note_proposal(&alone.core.cx, &mut alone.fx);
        early.note_proposal(&alone.core.cx, &mut alone.fx);
        assert_eq!(alone.fx.records, [Record::EarlyCommit { up_to: MAX_SLOT }], "said once");
        assert_eq!(orphans(&early, &alone), [0; 0], "nothing of this life is");
        early.begin_life(&alone.core.cx, 4, &mut alone.fx);
        assert_eq!(alone.fx.records.len(), 1, "a life that goes on with it gives nothing up");
        alone.core.store.instances.entry(own(2)).phase = Phase::Accepted;
        assert_eq!(orphans(&early, &alone), [1, 3]);
        let other = InstanceId::new(ReplicaId::from_index(1), 2);
        assert!(!early.is_orphan(&alone.core.cx, &alone.core.store, other));
    }

    #[test]
    fn a_life_that_waits_for_its_records_is_silent_only_about_earlier_ones() {
        let mut alone = voted(Optimisations::NONE);
        let mut early = EarlyCommit::new();
        early.note_proposal(&alone.core.cx, &mut alone.fx);
        assert!(alone.fx.records.is_empty(), "it announces nothing early");
        early.restore(MAX_SLOT);
        early.begin_life(&alone.core.cx, 3, &mut alone.fx);
        assert_eq!(alone.fx.records, [Record::EarlyCommit { up_to: 2 }]);
        early.begin_life(&alone.core.cx, 5, &mut alone.fx);
        assert_eq!(alone.fx.records.len(), 1, "it is said already");
        let mut exactly = EarlyCommit::new();
        exactly.restore(3);
        exactly.begin_life(&alone.core.cx, 3, &mut alone.fx);
        assert_eq!(
            exactly.record(),
            Some(Record::EarlyCommit { up_to: 2 }),
            "its first slot is its own"
        );
        assert_eq!(orphans(&early, &alone), [1, 2], "what the second life proposed is none");
    }
}
