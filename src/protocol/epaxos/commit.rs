//! Commit: a decision, valid at any ballot (PROTOCOL.md §4.5, §4.6). Every instance ends here. The
//! owner counts fast votes, any replica counts AcceptOk, or a replica that knows the decision sends
//! it.
//!
//! The caller handles what follows for the other parts; it gets a [`Decided`].

use std::time::Duration;

use super::early_commit::EarlyCommit;
use super::instances::Instance;
use super::step::Step;
use super::{CommitValue, Message, Path, Phase, Record};
use crate::types::{Ballot, Decision, Deps, InstanceId, ReplicaId, Slot, Value, Written};

/// The most decisions that one Fetch may request.
pub(super) const FETCH_AT_MOST: Slot = 512;

/// One Fetch is answered with about this many payload bytes.
const FETCH_BYTES: usize = 1 << 20;

/// A decision that this replica has just learned.
#[derive(Debug)]
pub(super) struct Decided {
    pub(super) decision: Decision,
    /// What has to be durable before the decision is executed.
    pub(super) after: Written,
    /// Whether the decision took one round trip.
    pub(super) fast: bool,
}

/// The owner counted a fast quorum. No other replica knows, so nothing that reveals the decision,
/// not even its execution here, may leave before the record is durable (PROTOCOL.md §7). With early
/// commit it may: then this replica does not answer for the instance after a restart (see
/// `early_commit`).
pub(super) fn commit_fast(s: &mut Step<'_>, id: InstanceId) -> Decided {
    let instance = s.store.instances.entry(id);
    let value = instance.value.clone().expect("a pre-accepted instance has a value");
    let deps = instance.deps.clone();
    let recorded = record_decision(s, id, &value, &deps);
    let after = if EarlyCommit::is_on(s.cx) {
        // The proposal is durable: otherwise the owner's own vote would not have been counted.
        s.fx.hit(Path::CommitUnflushed);
        Written::default()
    } else {
        s.store.instances.entry(id).written = recorded;
        recorded
    };
    let commit = Message::Commit { id, value: CommitValue::OwnersBatch, deps: deps.clone() };
    s.fx.send(after, s.cx.others(), commit);
    Decided { decision: Decision::owned(id, value, deps), after, fast: true }
}

/// §4.5: a replica that counts `n - f` votes at one ballot has learned the decision. The sender of
/// Accept counts as a vote.
pub(super) fn on_accept_ok(
    s: &mut Step<'_>,
    from: ReplicaId,
    id: InstanceId,
    ballot: Ballot,
) -> Option<Decided> {
    let leader = ballot.leader(id.replica);
    let instance = s.store.instances.entry(id);
    if instance.is_committed() {
        return None;
    }
    instance.vote(from, ballot);
    if leader != s.cx.me() {
        // A leader sends Accept only after its own vote is durable.
        instance.vote(leader, ballot);
    }
    let (highest, voters) = instance.votes;
    let accepted = instance.phase == Phase::Accepted && instance.accepted == highest;
    if !accepted || voters.len() < s.cx.quorums().slow() {
        return None;
    }
    s.fx.hit(Path::AcceptCommit);
    let value = instance.value.clone().expect("an accepted instance has a value");
    let deps = instance.deps.clone();
    // A quorum stores the decision, so announcing it need not wait for our log.
    record_decision(s, id, &value, &deps);
    Some(told(Decision::owned(id, value, deps)))
}

/// §4.6: another replica says that it is decided. `recovering`: this replica leads a recovery of
/// it.
pub(super) fn on_commit(
    s: &mut Step<'_>,
    from: ReplicaId,
    id: InstanceId,
    value: CommitValue,
    deps: Deps,
    recovering: bool,
) -> Option<Decided> {
    s.store.see(id.replica, id.slot);
    let value = match value {
        CommitValue::Nop => Value::Nop,
        CommitValue::Batch(batch) => {
            s.store.learn_payload(id, &batch, s.fx);
            Value::Batch(batch)
        }
        // The owner's commands, never the value accepted here: that may be a Nop.
        CommitValue::OwnersBatch => {
            let instance = s.store.instances.entry(id);
            let payload = instance.payload.clone().map(Value::Batch);
            let Some(value) = s.cx.rules.owners_value(payload, instance) else {
                wait_for_payload(s, from, id, deps);
                return None;
            };
            value
        }
    };
    let instance = s.store.instances.entry(id);
    if let Some((decided, covered)) = instance.decision() {
        assert!(*decided == value && *covered == deps, "one decision an instance: {id}");
        return None;
    }
    s.fx.hit(Path::LearnedCommit);
    instance.value = Some(value.clone());
    instance.deps = deps.clone();
    record_decision(s, id, &value, &deps);
    if recovering {
        // §5.3.1: a recovery found it committed, so it tells all.
        s.fx.hit(Path::RecoverCommitted);
        let commit = s.store.full_commit(id).expect("it was committed above");
        s.fx.send(Written::default(), s.cx.others(), commit);
    }
    Some(told(Decision::owned(id, value, deps)))
}

/// A decision that others store: nothing has to be durable here.
fn told(decision: Decision) -> Decided {
    Decided { decision, after: Written::default(), fast: false }
}

fn record_decision(s: &mut Step<'_>, id: InstanceId, value: &Value, deps: &Deps) -> Written {
    let instance = s.store.instances.entry(id);
    assert!(!instance.is_committed(), "decided once: {id}");
    instance.phase = Phase::Committed;
    // A quorum stores the decision. So announcing or executing it waits neither for this record nor
    // for that of an earlier vote. `commit_fast`, where only the owner knows, waits for more.
    instance.written = Written::default();
    // Dropped to save memory: neither is read after a decision.
    instance.tally = None;
    instance.announced = None;
    s.fx.append(Record::Committed { id, value: value.clone(), deps: deps.clone() })
}

/// The decision is the owner's commands, which are not here. If the owner says so, they may be on
/// their way: on most networks a small Commit overtakes a large PreAccept. Requesting them at once
/// would send every large payload twice. If the gap in the known decisions lasts, `watch` requests
/// them.
fn wait_for_payload(s: &mut Step<'_>, from: ReplicaId, id: InstanceId, deps: Deps) {
    s.fx.hit(Path::CommitWithoutPayload);
    if from == id.replica {
        let instance = s.store.instances.entry(id);
        instance.announced.get_or_insert_with(|| Box::new((deps, s.view.now)));
        return;
    }
    // The sender answered an owner, which lost its payload in a restart: nothing is on its way.
    let fetch = Message::Fetch { owner: id.replica, from: id.slot, to: id.slot };
    s.fx.answer(Written::default(), from, fetch);
}

/// An announced decision whose payload has now arrived.
#[derive(Debug)]
pub(super) struct Fulfilled {
    pub(super) id: InstanceId,
    pub(super) value: CommitValue,
    pub(super) deps: Deps,
    /// How long after the announcement the payload came.
    pub(super) lag: Duration,
}

/// If a message shows the payload of an instance already announced as decided, returns the
/// decision.
pub(super) fn fulfil_announced(s: &mut Step<'_>, message: &Message) -> Option<Fulfilled> {
    let (id, batch) = match message {
        Message::PreAccept { id, batch, .. } | Message::Validate { id, batch, .. } => (*id, batch),
        Message::Accept { id, value: Value::Batch(batch), .. } => (*id, batch),
        _ => return None,
    };
    let announced = |instance: &mut Instance| instance.announced.take();
    let (deps, since) = *s.store.instances.get_mut(id).and_then(announced)?;
    let (value, lag) = (CommitValue::Batch(batch.clone()), s.view.now.since(since));
    Some(Fulfilled { id, value, deps, lag })
}

/// Answers with the known decisions of the range; for the others there is no answer.
pub(super) fn on_fetch(
    s: &mut Step<'_>,
    from: ReplicaId,
    owner: ReplicaId,
    first: Slot,
    last: Slot,
) {
    if owner.index() >= s.cx.n() {
        return;
    }
    let last = last.min(first.saturating_add(FETCH_AT_MOST - 1));
    if s.store.instances.is_trimmed(InstanceId::new(owner, first)) {
        // The sender lacks the first slot: it requests only what it lacks.
        s.store.answer_truncated(from, InstanceId::new(owner, first), s.fx);
    }
    let wanted = s.store.instances.above(owner, first.saturating_sub(1));
    let known = wanted
        .take_while(|(id, _)| id.slot <= last)
        .filter(|(_, instance)| instance.is_committed());
    let mut bytes = 0;
    for (id, instance) in known {
        bytes += instance.payload.as_ref().map_or(0, |batch| batch.bytes());
        if bytes > FETCH_BYTES && id.slot > first {
            break;
        }
        let commit = s.store.full_commit(id).expect("only decisions were collected");
        s.fx.hit(Path::FetchAnswered);
        s.fx.answer(instance.written, from, commit);
    }
}
