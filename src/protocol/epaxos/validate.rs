//! Validate: before a recovery proposes what the fast path may have decided, its quorum says what
//! speaks against that (protocol.md §5.4, §5.5). After `recover`, before `waiting` or `accept`.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::decide::{Verdict, decide_validation};
use super::recover::{Candidate, Stage};
use super::{EPaxos, Fx, Interfering, Message, Phase, Record, Standing};
use crate::protocol::{Path, View};
use crate::types::{Ballot, Batch, Deps, InstanceId, ReplicaId, ReplicaSet, Value};

/// A replica that has more lost slots to report than this says nothing until there are fewer.
const MOST_LOST: usize = 4096;

impl EPaxos {
    /// §5.4, the leader's side.
    pub(super) fn start_validate(
        &mut self,
        view: &View,
        id: InstanceId,
        candidate: Candidate,
        fx: &mut Fx,
    ) {
        #[cfg(test)]
        if self.planted(super::Plant::NoValidate) {
            let value = Value::Batch(candidate.batch);
            self.propose_recovered(view, id, value, candidate.deps, fx);
            return;
        }
        let resend = view.now + self.cx.resend_after(view, 0);
        let Some(recovery) = self.recoveries.get_mut(&id) else { return };
        let ballot = recovery.ballot;
        recovery.send_again = resend;
        let Candidate { batch, deps, quorum, .. } = candidate.clone();
        recovery.stage = Stage::Validating {
            candidate,
            answered: ReplicaSet::EMPTY,
            interfering: BTreeMap::new(),
        };
        let written = self.store.instances.entry(id).written;
        fx.send(written, quorum, Message::Validate { id, ballot, batch, deps });
    }

    /// §5.4, the quorum's side.
    pub(super) fn on_validate(
        &mut self,
        from: ReplicaId,
        id: InstanceId,
        ballot: Ballot,
        batch: &Arc<Batch>,
        deps: Deps,
        fx: &mut Fx,
    ) {
        if ballot.is_owner() || from != ballot.leader(id.replica) {
            return;
        }
        if self.is_orphan(id) {
            // Who did not promise is in no quorum that is asked.
            return;
        }
        if self.is_too_late(from, id, ballot, fx) {
            return;
        }
        let instance = self.store.instances.entry(id);
        // Below: a promise that this replica never gave. Accepted: a late duplicate.
        if instance.ballot < ballot || instance.phase >= Phase::Accepted {
            return;
        }
        if self.lost_without_trace(&deps).nth(MOST_LOST).is_some() {
            // Too many for one message, and to leave one out is unsafe. They are being recovered,
            // and this is asked again.
            return;
        }
        self.note_validated(id, ballot, batch, &deps, fx);
        let interfering = match self.dropped_interfering(batch, &deps) {
            Some(dropped) => {
                fx.hit(Path::DroppedReported);
                vec![dropped]
            }
            None => self.interfering(id, batch, &deps),
        };
        // It may show a fast-path commit of this replica's own, so it waits for everything. A
        // silent owner need not wait for that (see `orphans`), but it does for its proposals: what
        // it shows as one must stay the one of that slot.
        let after = fx.everything();
        fx.answer(after, from, Message::ValidateOk { id, ballot, interfering });
    }

    /// The owner's value is known from here on, and counts as a conflict.
    fn note_validated(
        &mut self,
        id: InstanceId,
        ballot: Ballot,
        batch: &Arc<Batch>,
        deps: &Deps,
        fx: &mut Fx,
    ) {
        let instance = self.store.instances.entry(id);
        if instance.initial.as_ref().is_some_and(|(_, initial)| initial == deps) {
            return;
        }
        instance.initial = Some((batch.clone(), deps.clone()));
        let (batch_again, initial) = (batch.clone(), deps.clone());
        instance.written = fx.append(Record::Validated { id, ballot, batch: batch_again, initial });
        #[cfg(test)]
        if self.planted(super::Plant::NoIndexAtValidate) {
            return;
        }
        self.store.learn_payload(id, batch, fx);
    }

    /// A command that conflicts, was executed here and is dropped, and is not covered: it was
    /// executed without waiting for the recovered instance, so it cannot cover that.
    fn dropped_interfering(&self, batch: &Batch, deps: &Deps) -> Option<Interfering> {
        let executed = self.store.dropped.commands.conflicts(batch.footprint());
        let (owner, slot) = executed.iter().find(|(owner, slot)| *slot > deps.slot(*owner))?;
        let id = InstanceId::new(owner, slot);
        Some(Interfering { id, standing: Standing::Committed })
    }

    /// What was reported and is dropped here speaks against `batch`, or is harmless (§8a).
    fn settle_dropped(
        &self,
        batch: &Batch,
        interfering: &mut BTreeMap<InstanceId, Standing>,
        fx: &mut Fx,
    ) {
        interfering.retain(|id, standing| {
            match self.store.dropped_conflict(*id, batch.footprint()) {
                Some(false) => {
                    fx.hit(Path::DroppedHarmless);
                    return false;
                }
                Some(true) => {
                    fx.hit(Path::DroppedInterferes);
                    *standing = Standing::Committed;
                }
                None => {}
            }
            true
        });
    }

    /// The instances known here that conflict with `batch`, are not covered by `deps`, and do not
    /// cover `id`: had `id` been fast with these dependencies, each would cover it.
    ///
    /// Deviation: of those only one if it is committed. That settles it whatever else is reported
    /// (§5.5), and keeps the answer short where a busy key went on without `id` for long.
    fn interfering(&self, id: InstanceId, batch: &Batch, deps: &Deps) -> Vec<Interfering> {
        let mut found = Vec::new();
        // Above these slots nothing conflicts.
        let last = self.conflicts(batch.footprint());
        for (owner, slot) in deps.iter() {
            for (other, instance) in self.store.instances.above(owner, slot) {
                if other.slot > last.slot(owner) {
                    break;
                }
                if other == id {
                    continue;
                }
                let conflicts = |other: &Batch| other.footprint().conflicts(batch.footprint());
                if !instance.is_committed() && self.is_unknown(other, instance) {
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
        let lost = self.lost_without_trace(deps);
        found.extend(lost.map(|id| Interfering { id, standing: Standing::Unknown }));
        found
    }

    /// §5.5: the leader counts answers; it needs every one of its quorum.
    pub(super) fn on_validate_ok(
        &mut self,
        view: &View,
        from: ReplicaId,
        id: InstanceId,
        ballot: Ballot,
        reported: &[Interfering],
        fx: &mut Fx,
    ) {
        let quorums = self.cx.settings.quorums;
        let Some(recovery) = self.recoveries.get_mut(&id) else { return };
        if recovery.ballot != ballot {
            return;
        }
        let Stage::Validating { candidate, answered, interfering } = &mut recovery.stage else {
            return;
        };
        if !candidate.quorum.contains(from) || !answered.insert(from) {
            return;
        }
        for one in reported.iter().filter(|one| one.id != id) {
            let standing = interfering.entry(one.id).or_insert(one.standing);
            *standing = one.standing.max(*standing);
        }
        if answered.len() < candidate.quorum.len() {
            return;
        }
        let (candidate, mut interfering) = (candidate.clone(), std::mem::take(interfering));
        self.settle_dropped(&candidate.batch, &mut interfering, fx);
        self.sift(id, &candidate.batch, &mut interfering, fx);
        let Candidate { quorum, fast_votes, .. } = candidate;
        match decide_validation(quorums, quorum, fast_votes, &interfering) {
            Verdict::Clean => {
                fx.hit(Path::ValidateClean);
                let value = Value::Batch(candidate.batch);
                self.propose_recovered(view, id, value, candidate.deps, fx);
            }
            Verdict::Committed => {
                fx.hit(Path::ValidateCommitted);
                self.propose_nop(view, id, fx);
            }
            Verdict::OwnerOutside => {
                fx.hit(Path::ValidateOwnerOutside);
                self.propose_nop(view, id, fx);
            }
            Verdict::Wait => {
                fx.hit(Path::Waiting);
                self.start_waiting(view, id, candidate, &interfering, fx);
            }
        }
    }
}
