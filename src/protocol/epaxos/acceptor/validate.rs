//! Validate, at the members of the quorum: which instances known here speak against the fast path
//! of an instance under recovery (PROTOCOL.md §5.4). The leader's side is in `recovery::stages`.

use std::sync::Arc;

use super::is_too_late;
use crate::protocol::epaxos::early_commit::EarlyCommit;
use crate::protocol::epaxos::reservation::Reservation;
use crate::protocol::epaxos::step::Step;
use crate::protocol::epaxos::{Interfering, Message, Path, Phase, Record, Standing};
use crate::types::{Ballot, Batch, Deps, InstanceId, ReplicaId, Value};

/// A replica with more lost slots to report than this does not answer until there are fewer.
const MOST_LOST: usize = 4096;

/// The question: may the owner's commands `batch` have been decided on the fast path with `deps`?
pub(crate) struct Question<'a> {
    pub(crate) id: InstanceId,
    pub(crate) ballot: Ballot,
    pub(crate) batch: &'a Arc<Batch>,
    pub(crate) deps: Deps,
}

/// §5.4: reports the instances that speak against it.
pub(crate) fn on_validate(
    s: &mut Step<'_>,
    early: &EarlyCommit,
    reservation: &Reservation,
    from: ReplicaId,
    question: &Question<'_>,
) {
    let Question { id, ballot, batch, deps } = question;
    let (id, ballot) = (*id, *ballot);
    if ballot.is_owner() || from != ballot.leader(id.replica) {
        return;
    }
    if early.is_orphan(s.cx, s.store, id) {
        // The owner of an orphan gave no promise, so it is in no quorum that is asked.
        return;
    }
    if is_too_late(s, from, id, ballot) {
        return;
    }
    let instance = s.store.instances.entry(id);
    // Lower ballot: this replica never gave that promise. Accepted: a late duplicate.
    if instance.ballot < ballot || instance.phase >= Phase::Accepted {
        return;
    }
    if reservation.lost_without_trace(s.cx, s.store, deps).nth(MOST_LOST).is_some() {
        // Too many for one message, and leaving one out is unsafe. Their recoveries are running,
        // and the leader asks again.
        return;
    }
    note_validated(s, question);
    let interfering = match dropped_interfering(s, batch, deps) {
        Some(dropped) => {
            s.fx.hit(Path::DroppedReported);
            vec![dropped]
        }
        None => interfering(s, reservation, id, batch, deps),
    };
    // The answer may reveal a fast-path commit of this replica, so it waits for all records. With
    // early commit it need not wait for the commit, but it must for the proposals: a reported
    // proposal has to stay the only one of its slot.
    let after = s.fx.everything();
    s.fx.answer(after, from, Message::ValidateOk { id, ballot, interfering });
}

/// From now on the owner's value is known, and counts as a conflict.
fn note_validated(s: &mut Step<'_>, question: &Question<'_>) {
    let Question { id, ballot, batch, deps } = question;
    let (id, ballot) = (*id, *ballot);
    let instance = s.store.instances.entry(id);
    if instance.initial.as_ref().is_some_and(|(_, initial)| initial == deps) {
        return;
    }
    let (payload, initial) = (Arc::clone(batch), deps.clone());
    instance.initial = Some((payload.clone(), initial.clone()));
    instance.written = s.fx.append(Record::Validated { id, ballot, batch: payload, initial });
    if s.cx.rules.validated_payload_is_a_conflict() {
        s.store.learn_payload(id, batch, s.fx);
    }
}

/// A conflicting command that was executed and dropped here and that `deps` do not cover. It was
/// executed without waiting for the recovered instance, so it cannot cover that instance.
fn dropped_interfering(s: &Step<'_>, batch: &Batch, deps: &Deps) -> Option<Interfering> {
    let executed = s.store.dropped_conflicts(batch.footprint());
    let (owner, slot) = executed.iter().find(|(owner, slot)| *slot > deps.slot(*owner))?;
    let id = InstanceId::new(owner, slot);
    Some(Interfering { id, standing: Standing::Committed })
}

/// The instances known here that conflict with `batch`, are not covered by `deps`, and do not cover
/// `id`. If `id` had been decided on the fast path with `deps`, each of them would cover it.
///
/// Deviation: if one of them is committed, only that one is reported. It settles the recovery
/// whatever else is reported (§5.5). So the answer stays short even if a busy key went on for long
/// without `id`.
/// (§5.5), and keeps the answer short where a busy key went on without `id` for long.
fn interfering(
    s: &Step<'_>,
    reservation: &Reservation,
    id: InstanceId,
    batch: &Batch,
    deps: &Deps,
) -> Vec<Interfering> {
    let mut found = Vec::new();
    // No instance above these slots conflicts.
    let last = reservation.conflicts(s.cx, s.store, batch.footprint());
    for (owner, slot) in deps.iter() {
        for (other, instance) in s.store.instances.above(owner, slot) {
            if other.slot > last.slot(owner) {
                break;
            }
            if other == id {
                continue;
            }
            let conflicts = |other: &Batch| other.footprint().conflicts(batch.footprint());
            if !instance.is_committed() && reservation.is_unknown(s.cx, s.store, other, instance) {
                found.push(Interfering { id: other, standing: Standing::Unknown });
                continue;
            }
            let interferes = match (instance.decision(), &instance.initial) {
                (Some((Value::Nop, _)), _) => false,
                (Some((Value::Batch(decided), covered)), _) => {
                    !covered.covers(id) && conflicts(decided)
                }
                (None, Some((initial, covered))) => !covered.covers(id) && conflicts(initial),
                (None, None) => false,
            };
            if interferes && instance.is_committed() {
                return vec![Interfering { id: other, standing: Standing::Committed }];
            }
            if interferes {
                found.push(Interfering { id: other, standing: Standing::Open });
            }
        }
    }
    let lost = reservation.lost_without_trace(s.cx, s.store, deps);
    found.extend(lost.map(|id| Interfering { id, standing: Standing::Unknown }));
    found
}
