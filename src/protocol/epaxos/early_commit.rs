//! Early commit: a fast-path commit is announced before it is durable (PROTOCOL.md §7). Used by
//! `commit`, which then waits for nothing, and by `restore` and `acceptor`, which pay for it.
//!
//! An owner that has announced a fast-path commit and lost its Committed record knows no more than
//! that it proposed. So whatever its records show as proposed and no further when it comes back is
//! its *orphan*: it may be committed, for all the owner knows. Where the protocol trusts an owner
//! to know (§5.3.3), the owner of an orphan is silent, as if it had not come back. Then the others
//! decide as they do for any owner that crashed: that is one of the `f` failures.
//!
//! Only records of an earlier life make an orphan. A later life may add a promise to them (it led
//! the recovery, or was told of a ballot), which shows nothing about how the first one ended; so an
//! instance is an orphan at whatever ballot. Only Accepted and Committed end it: from then on its
//! owner knows as much as any other voter.
//!
//! Whether a life was ready to commit early is in its records, before the first proposal that it
//! may have announced: the owner's own vote is counted once it is durable, and so is all before it.
//! So it may be given up: a later life that never does so proposes without having to be silent, and
//! is silent only about what is older. One that begins to do so is silent about all that it finds.

use super::Context;
use super::store::Store;
use super::{Fx, Phase, Record};
use crate::types::{InstanceId, MAX_SLOT, ReplicaId, Slot};

/// What may have been announced before it was durable.
#[derive(Debug)]
pub(super) struct EarlyCommit {
    /// The first slot of this life: what lies below was proposed in an earlier one.
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
        // Where nobody may fail, nothing can be decided without the owner.
        wanted && (cx.quorums().f > 0 || !cx.rules.early_commit_needs_failures())
    }

    /// A record of an earlier life. The last one counts.
    pub(super) fn restore(&mut self, up_to: Slot) {
        self.announced = up_to;
    }

    /// The record of it, if there is anything to remember.
    pub(super) fn record(&self) -> Option<Record> {
        (self.announced > 0).then_some(Record::EarlyCommit { up_to: self.announced })
    }

    /// Something is about to be proposed that may be announced before it is durable.
    pub(super) fn note_proposal(&mut self, cx: &Context, fx: &mut Fx) {
        if EarlyCommit::is_on(cx) && self.announced < MAX_SLOT {
            self.announced = MAX_SLOT;
            fx.append(Record::EarlyCommit { up_to: MAX_SLOT });
        }
    }

    /// This life begins, and proposes from `born` on. Should the record be lost, so is all that it
    /// proposed.
    pub(super) fn begin_life(&mut self, cx: &Context, born: Slot, fx: &mut Fx) {
        self.born = born;
        if !EarlyCommit::is_on(cx) && self.announced >= born {
            self.announced = born - 1;
            fx.append(Record::EarlyCommit { up_to: self.announced });
        }
    }

    /// Whether this replica proposed it in an earlier life, announced its commit or not, and knows
    /// no more about it. It counts no votes for an orphan at the owner's ballot, and neither
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

    /// Whether `to` gets no promise for it: what the owner of an orphan says would be believed. It
    /// keeps the promise, though.
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

    /// Whether an earlier life may have announced it before it was durable. In a life that commits
    /// early itself, that is said of all: it may have counted votes for what an earlier one
    /// proposed.
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

    /// Own slots up to 4 and one of another owner, voted for and no further.
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
