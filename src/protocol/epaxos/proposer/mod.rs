//! The owner's side: proposes in a slot of its own, counts PreAcceptOk, and decides between the
//! fast path and the slow path (PROTOCOL.md §4.1, §4.3). AcceptOk is counted by every replica, in
//! `commit`. `resend` repeats what goes unanswered.

mod resend;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use super::acceptor;
use super::early_commit::EarlyCommit;
use super::instances::{Proposal, Tally};
use super::reservation::Reservation;
use super::step::Step;
use super::{Message, Phase};
use crate::protocol::epaxos::Path;
use crate::types::{Ballot, Batch, Deps, InstanceId, ReplicaId, ReplicaSet, Slot, Value, Written};

use resend::Timer;

/// This replica's own instances, from their owner's side.
///
/// Invariant: `next_slot` is above every slot this replica has proposed in.
#[derive(Debug)]
pub(super) struct Proposer {
    next_slot: Slot,
    timers: BinaryHeap<Reverse<Timer>>,
}

/// The path of an instance of this replica.
#[derive(Debug)]
pub(super) enum Way {
    /// A fast quorum voted for the owner's dependencies unchanged.
    Fast,
    /// The union of the votes has to be accepted.
    Slow(Proposal),
}

impl Proposer {
    pub(super) fn new() -> Proposer {
        Proposer { next_slot: 1, timers: BinaryHeap::new() }
    }

    /// The last slot proposed in.
    pub(super) fn proposed(&self) -> Slot {
        self.next_slot - 1
    }

    /// The first slot never proposed in.
    pub(super) fn next_slot(&self) -> Slot {
        self.next_slot
    }

    /// The replica starts: an earlier life may have proposed in slots up to `last`.
    pub(super) fn restart_after(&mut self, last: Slot) {
        self.next_slot = last + 1;
    }

    /// Never proposes in slots up to `last`.
    pub(super) fn skip_to(&mut self, last: Slot) {
        self.next_slot = self.next_slot.max(last + 1);
    }

    /// §4.1: proposes in a new slot. `free`: slots that a proposal may depend on at no cost,
    /// because every member has executed them.
    pub(super) fn propose(
        &mut self,
        s: &mut Step<'_>,
        early: &mut EarlyCommit,
        reservation: &mut Reservation,
        free: &Deps,
        batch: &Arc<Batch>,
    ) -> InstanceId {
        // Another replica's message may already name this slot; it is left to recovery.
        while s.store.instances.get(InstanceId::new(s.cx.me(), self.next_slot)).is_some() {
            self.next_slot += 1;
        }
        let id = InstanceId::new(s.cx.me(), self.next_slot);
        self.next_slot += 1;
        let mut deps = reservation.conflicts(s.cx, s.store, batch.footprint());
        // Peers that have forgotten these slots include them in their votes. Including them here
        // keeps the fast path.
        deps.merge(free);
        if s.cx.rules.covers_what_others_lost() {
            deps.merge(&s.store.lost_by_others());
        }
        early.note_proposal(s.cx, s.fx);
        let reserved = reservation.reserve(s.cx, id.slot, s.fx);
        let tally = Tally { voters: ReplicaSet::EMPTY, same: 0, union: deps.clone() };
        let written = acceptor::pre_accept(s.store, id, batch, deps.clone(), deps.clone(), s.fx);
        s.store.instances.entry(id).tally = Some(Box::new(tally));
        // Only our own vote waits for this record; the reservation already prevents slot reuse.
        s.fx.answer(written, s.cx.me(), Message::PreAcceptOk { id, deps: deps.clone() });
        let used = reserved.unwrap_or(written);
        let batch = Arc::clone(batch);
        s.fx.send(used, s.cx.others(), Message::PreAccept { id, batch, deps });
        self.look_again(s, id, 0);
        id
    }

    /// §4.3: counts a vote.
    pub(super) fn on_pre_accept_ok(
        &self,
        s: &mut Step<'_>,
        from: ReplicaId,
        id: InstanceId,
        deps: &Deps,
    ) -> Option<Way> {
        if id.replica != s.cx.me() {
            return None;
        }
        let instance = s.store.instances.get_mut(id)?;
        if instance.phase != Phase::PreAccepted || !instance.ballot.is_owner() {
            return None;
        }
        let tally = instance.tally.as_mut()?;
        if !tally.voters.insert(from) {
            return None;
        }
        tally.same += usize::from(*deps == instance.deps);
        tally.union.merge(deps);
        decide_way(s, id, false)
    }

    /// Resumes a proposal of an earlier life at the owner's ballot. No replica was told more about
    /// it than its records say.
    pub(super) fn resume(&mut self, s: &mut Step<'_>, id: InstanceId) {
        let instance = s.store.instances.entry(id);
        let own_vote = match instance.phase {
            Phase::PreAccepted => {
                let deps = instance.deps.clone();
                let (voters, union) = (ReplicaSet::EMPTY, deps.clone());
                instance.tally = Some(Box::new(Tally { voters, same: 0, union }));
                Message::PreAcceptOk { id, deps }
            }
            Phase::Accepted => Message::AcceptOk { id, ballot: Ballot::OWNER },
            Phase::Initial | Phase::Committed => return,
        };
        s.fx.answer(Written::default(), s.cx.me(), own_vote);
        resend::send_again(s, id);
        self.look_again(s, id, 0);
    }
}

/// Returns the path, or `None` to wait on. `timed_out`: the fast-path time-out has passed.
fn decide_way(s: &mut Step<'_>, id: InstanceId, timed_out: bool) -> Option<Way> {
    let quorums = s.cx.quorums();
    let fast = quorums.fast() - usize::from(!s.cx.rules.fast_path_takes_a_fast_quorum());
    let instance = s.store.instances.get(id)?;
    let tally = instance.tally.as_ref()?;
    // The owner's own vote counts once it is durable; both paths require it.
    if instance.phase != Phase::PreAccepted || !tally.voters.contains(s.cx.me()) {
        return None;
    }
    if tally.same >= fast {
        s.fx.hit(Path::FastCommit);
        return Some(Way::Fast);
    }
    let votes = tally.voters.len();
    let out_of_reach = votes - tally.same > quorums.e || votes >= fast;
    if votes < quorums.slow() || !(out_of_reach || timed_out) {
        return None;
    }
    s.fx.hit(if out_of_reach { Path::SlowPath } else { Path::FastTimeout });
    let value: Value = instance.value.clone().expect("a pre-accepted instance has a value");
    // Once per ballot: from here on the phase is Accepted, so late votes change nothing.
    Some(Way::Slow(Proposal { ballot: Ballot::OWNER, value, deps: tally.union.clone() }))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::protocol::epaxos::step::Alone;
    use crate::types::{ClientId, Command, Footprint, Optimisations, RequestId, Time};

    fn batch() -> Arc<Batch> {
        Batch::new(vec![Command {
            request: RequestId::new(ClientId(1), 1),
            floor: 0,
            origin: ReplicaId::from_index(0),
            footprint: Footprint::write(b"k"),
            payload: Bytes::new(),
        }])
    }

    /// Replica 1 of five has proposed: fast and slow quorums are three.
    fn proposed() -> (Alone, Proposer, InstanceId) {
        let (mut alone, mut proposer) = (Alone::new(5, Optimisations::NONE), Proposer::new());
        let (mut early, mut reservation) = (EarlyCommit::new(), Reservation::default());
        let (s, free) = (&mut alone.step(), Deps::none(5));
        let id = proposer.propose(s, &mut early, &mut reservation, &free, &batch());
        (alone, proposer, id)
    }

    fn vote(
        alone: &mut Alone,
        proposer: &Proposer,
        id: InstanceId,
        from: u8,
        deps: [Slot; 5],
    ) -> Option<Way> {
        let from = ReplicaId::new(from).expect("a number");
        proposer.on_pre_accept_ok(&mut alone.step(), from, id, &Deps::from_slots(deps))
    }

    #[test]
    fn a_fast_quorum_that_agrees_takes_the_fast_path_once_the_owner_is_in_it() {
        let (mut alone, proposer, id) = proposed();
        for from in [2, 3, 3, 4] {
            assert!(vote(&mut alone, &proposer, id, from, [0; 5]).is_none(), "vote of {from}");
        }
        let way = vote(&mut alone, &proposer, id, 1, [0; 5]);
        assert!(matches!(way, Some(Way::Fast)), "{way:?}");
    }

    #[test]
    fn a_vote_for_more_takes_the_slow_path_with_the_union() {
        let (mut alone, proposer, id) = proposed();
        assert!(vote(&mut alone, &proposer, id, 1, [0; 5]).is_none());
        assert!(vote(&mut alone, &proposer, id, 2, [0, 7, 0, 0, 0]).is_none());
        assert!(vote(&mut alone, &proposer, id, 2, [0, 9, 0, 0, 0]).is_none(), "counted once");
        let way = vote(&mut alone, &proposer, id, 3, [0, 0, 4, 0, 0]);
        let Some(Way::Slow(Proposal { ballot, deps, .. })) = way else { panic!("{way:?}") };
        assert_eq!((ballot, deps), (Ballot::OWNER, Deps::from_slots([0, 7, 4, 0, 0])));
    }

    #[test]
    fn an_unanswered_proposal_goes_again_to_those_who_have_not_voted() {
        let (mut alone, mut proposer, id) = proposed();
        vote(&mut alone, &proposer, id, 1, [0; 5]);
        vote(&mut alone, &proposer, id, 4, [0; 5]);
        alone.said();
        assert!(proposer.next_overdue(&mut alone.step()).is_none(), "it is not overdue yet");
        assert!(alone.said().is_empty());
        alone.view.now = Time::ZERO + alone.core.cx.resend_after(&alone.view, 0);
        assert!(proposer.next_overdue(&mut alone.step()).is_none(), "nothing to decide");
        let said = alone.said();
        assert!(matches!(&said[..], [(to, Message::PreAccept { .. })] if *to == [2, 3, 5]));
        assert!(proposer.next_overdue(&mut alone.step()).is_none());
        assert!(alone.said().is_empty(), "once a round");
    }
}
