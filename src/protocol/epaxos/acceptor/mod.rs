//! The acceptor: answers PreAccept and Accept with votes, Recover with promises, and in `validate`
//! reports what speaks against a fast path (PROTOCOL.md §4.2, §4.4, §5.2, §5.4).
//!
//! It has no state of its own: promises and votes are stored in the instances.

mod validate;

use std::sync::Arc;

use super::Context;
use super::early_commit::EarlyCommit;
use super::instances::Proposal;
use super::reservation::Reservation;
use super::step::Step;
use super::store::Store;

use super::{Fx, Message, Phase, Record};
use crate::protocol::epaxos::Path;
use crate::types::{Ballot, Batch, Deps, InstanceId, ReplicaId, Value, Written};

pub(super) use validate::{Question, on_validate};

/// §4.2: a vote at the owner's ballot.
pub(super) fn on_pre_accept(
    s: &mut Step<'_>,
    reservation: &Reservation,
    from: ReplicaId,
    id: InstanceId,
    batch: &Arc<Batch>,
    initial: Deps,
) {
    if from != id.replica || from == s.cx.me() {
        return;
    }
    s.store.see(id.replica, id.slot);
    if s.store.instances.get(id).is_some_and(|i| i.is_committed()) {
        s.store.answer_commit(from, id, s.fx);
        return;
    }
    let instance = s.store.instances.entry(id);
    if !instance.ballot.is_owner() {
        return;
    }
    match instance.phase {
        Phase::Initial => {}
        Phase::PreAccepted => {
            let vote = Message::PreAcceptOk { id, deps: instance.deps.clone() };
            s.fx.answer(instance.written, from, vote);
            return;
        }
        Phase::Accepted | Phase::Committed => return,
    }
    // `Dq`: the owner's dependencies and everything else that conflicts here.
    let mut deps = reservation.conflicts(s.cx, s.store, batch.footprint());
    // The owner's own component stays: the owner knows its earlier instances best, and its later
    // ones will cover this one.
    deps.set(id.replica, 0);
    deps.merge(&initial);
    let written = pre_accept(s.store, id, batch, initial, deps.clone(), s.fx);
    s.fx.answer(written, from, Message::PreAcceptOk { id, deps });
}

/// Votes at the owner's ballot; at the owner, proposes.
pub(super) fn pre_accept(
    store: &mut Store,
    id: InstanceId,
    batch: &Arc<Batch>,
    initial: Deps,
    deps: Deps,
    fx: &mut Fx,
) -> Written {
    store.learn_payload(id, batch, fx);
    let written = fx.append(Record::PreAccepted {
        id,
        batch: batch.clone(),
        initial: initial.clone(),
        deps: deps.clone(),
    });
    let instance = store.instances.entry(id);
    instance.phase = Phase::PreAccepted;
    instance.value = Some(Value::Batch(batch.clone()));
    instance.deps = deps;
    instance.initial = Some((batch.clone(), initial));
    instance.written = written;
    written
}

/// Proposes a value at this replica's own ballot. It accepts the value here first, and sends Accept
/// once that is durable.
pub(super) fn start_accept(s: &mut Step<'_>, id: InstanceId, proposal: Proposal) {
    let written = accept(s, id, &proposal);
    let Proposal { ballot, value, deps } = proposal;
    s.fx.answer(written, s.cx.me(), Message::AcceptOk { id, ballot });
    s.fx.send(written, s.cx.others(), Message::Accept { id, ballot, value, deps });
}

/// §4.4: votes for a value. Returns whether it belongs to another replica's recovery; a recovery
/// led here then yields.
pub(super) fn on_accept(
    s: &mut Step<'_>,
    from: ReplicaId,
    id: InstanceId,
    proposal: &Proposal,
) -> bool {
    let ballot = proposal.ballot;
    if from != ballot.leader(id.replica) || from == s.cx.me() {
        return false;
    }
    if is_too_late(s, from, id, ballot) {
        return false;
    }
    let instance = s.store.instances.entry(id);
    let again = instance.phase == Phase::Accepted && instance.accepted == ballot;
    if again {
        // The others already received this vote, or will learn the decision by gossip.
        s.fx.answer(instance.written, from, Message::AcceptOk { id, ballot });
        return false;
    }
    let written = accept(s, id, proposal);
    s.fx.send(written, s.cx.all(), Message::AcceptOk { id, ballot });
    !ballot.is_owner()
}

fn accept(s: &mut Step<'_>, id: InstanceId, proposal: &Proposal) -> Written {
    note_accepted(s.cx, s.store, id, proposal, s.fx);
    let Proposal { ballot, value, deps } = proposal.clone();
    let written = s.fx.append(Record::Accepted { id, ballot, value, deps });
    s.store.instances.entry(id).written = written;
    written
}

/// From now on the value counts as accepted, and as a conflict.
pub(super) fn note_accepted(
    cx: &Context,
    store: &mut Store,
    id: InstanceId,
    proposal: &Proposal,
    fx: &mut Fx,
) {
    match &proposal.value {
        Value::Batch(batch) => store.learn_payload(id, batch, fx),
        Value::Nop => {
            cx.rules.nop_accepted(store, id);
            if store.instances.entry(id).payload.is_none() {
                fx.hit(Path::Wildcard);
                store.note_wildcard(id);
            }
        }
    }
    let instance = store.instances.entry(id);
    assert!(!instance.is_committed(), "a decision is not voted on again: {id}");
    instance.join(proposal.ballot);
    instance.accepted = proposal.ballot;
    instance.phase = Phase::Accepted;
    instance.value = Some(proposal.value.clone());
    instance.deps = proposal.deps.clone();
    instance.tally = None;
}

/// §5.2: a promise. Returns whether it is a new one; recoveries led here then yield to its ballot.
pub(super) fn on_recover(
    s: &mut Step<'_>,
    early: &EarlyCommit,
    from: ReplicaId,
    id: InstanceId,
    ballot: Ballot,
) -> bool {
    if ballot.is_owner() || from != ballot.leader(id.replica) {
        return false;
    }
    if is_too_late(s, from, id, ballot) {
        return false;
    }
    let instance = s.store.instances.entry(id);
    let new = instance.ballot < ballot;
    if new {
        instance.join(ballot);
        instance.written = s.fx.append(Record::Joined { id, ballot });
    }
    if !early.is_silent(s.cx, s.store, id, from) {
        let instance = s.store.instances.entry(id);
        let promise = Message::RecoverOk { id, ballot, report: instance.report() };
        s.fx.answer(instance.written, from, promise);
    }
    new
}

/// Another replica has joined a higher ballot. Returns whether that is new; recoveries led here
/// then yield to it.
pub(super) fn on_higher_ballot(s: &mut Step<'_>, id: InstanceId, ballot: Ballot) -> bool {
    let Some(instance) = s.store.instances.get_mut(id) else { return false };
    if instance.is_committed() || instance.ballot >= ballot {
        return false;
    }
    s.fx.hit(Path::Rejected);
    // A replica that knows of a ballot joins it: its own next ballot must be higher.
    instance.join(ballot);
    instance.written = s.fx.append(Record::Joined { id, ballot });
    true
}

/// Whether a message at `ballot` comes too late: the instance is decided here, or this replica has
/// promised a higher ballot. The sender is told.
fn is_too_late(s: &mut Step<'_>, from: ReplicaId, id: InstanceId, ballot: Ballot) -> bool {
    s.store.see(id.replica, id.slot);
    let instance = s.store.instances.entry(id);
    if instance.is_committed() {
        s.store.answer_commit(from, id, s.fx);
        return true;
    }
    let joined = instance.ballot;
    if joined > ballot {
        s.fx.answer(instance.written, from, Message::Reject { id, ballot: joined });
    }
    joined > ballot
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::protocol::epaxos::step::Alone;
    use crate::types::{ClientId, Command, Footprint, Optimisations, RequestId};

    fn replica(number: u8) -> ReplicaId {
        ReplicaId::new(number).expect("a number")
    }

    fn batch(sequence: u64) -> Arc<Batch> {
        Batch::new(vec![Command {
            request: RequestId::new(ClientId(1), sequence),
            floor: 0,
            origin: replica(2),
            footprint: Footprint::write(b"k"),
            payload: Bytes::new(),
        }])
    }

    fn pre_accept(alone: &mut Alone, id: InstanceId, sequence: u64) -> Vec<(Vec<u8>, Message)> {
        let reservation = Reservation::default();
        let (batch, deps) = (batch(sequence), Deps::none(3));
        on_pre_accept(&mut alone.step(), &reservation, id.replica, id, &batch, deps);
        alone.said()
    }

    #[test]
    fn a_vote_adds_what_conflicts_here_and_stays_the_same_when_asked_again() {
        let mut alone = Alone::new(3, Optimisations::NONE);
        let (first, second) = (InstanceId::new(replica(2), 1), InstanceId::new(replica(3), 1));
        let vote = |id, deps| vec![(vec![2], Message::PreAcceptOk { id, deps })];
        assert_eq!(pre_accept(&mut alone, first, 1), vote(first, Deps::none(3)));
        let deps = Deps::from_slots([0, 1, 0]);
        let said = pre_accept(&mut alone, second, 2);
        assert_eq!(said, [(vec![3], Message::PreAcceptOk { id: second, deps })]);
        assert_eq!(pre_accept(&mut alone, first, 1), vote(first, Deps::none(3)), "not the second");
        assert_eq!(alone.fx.records.len(), 2, "one record a vote");
    }

    #[test]
    fn a_promise_keeps_out_every_lower_ballot() {
        let mut alone = Alone::new(3, Optimisations::NONE);
        let id = InstanceId::new(replica(2), 1);
        let ballot = Ballot::OWNER.next_for(replica(3));
        let early = EarlyCommit::new();
        assert!(!on_recover(&mut alone.step(), &early, replica(2), id, ballot), "not its leader");
        assert!(on_recover(&mut alone.step(), &early, replica(3), id, ballot));
        assert!(!on_recover(&mut alone.step(), &early, replica(3), id, ballot), "no new promise");
        let promises = alone.said();
        assert!(promises.iter().all(|(_, said)| matches!(said, Message::RecoverOk { .. })));
        assert_eq!((promises.len(), alone.fx.records.len()), (2, 1));
        assert_eq!(pre_accept(&mut alone, id, 1), [], "the owner's ballot is below");
        let proposal = Proposal { ballot: Ballot::OWNER, value: Value::Nop, deps: Deps::none(3) };
        assert!(!on_accept(&mut alone.step(), replica(2), id, &proposal));
        assert_eq!(alone.said(), [(vec![2], Message::Reject { id, ballot })]);
        let proposal = Proposal { ballot, ..proposal };
        assert!(on_accept(&mut alone.step(), replica(3), id, &proposal));
        assert_eq!(alone.said(), [(vec![1, 2, 3], Message::AcceptOk { id, ballot })]);
    }
}
