//! Validate, at the leader: before a recovery proposes the value that the fast path may have
//! decided, it asks its quorum what speaks against that (PROTOCOL.md §5.4, §5.5). After the
//! promises, before `waiting` or the proposal. The other side is in `acceptor::validate`.

use std::collections::BTreeMap;

use super::decide::{Verdict, decide_validation, speaks_against};
use super::{Candidate, Recoveries, Stage};
use crate::protocol::epaxos::instances::Proposal;
use crate::protocol::epaxos::step::Step;
use crate::protocol::epaxos::{Interfering, Message, Path, Standing};
use crate::types::{Ballot, Batch, InstanceId, ReplicaId, ReplicaSet, Value};

impl Recoveries {
    /// §5.4: asks the quorum.
    pub(super) fn start_validate(
        &mut self,
        s: &mut Step<'_>,
        id: InstanceId,
        candidate: Candidate,
    ) -> Option<Proposal> {
        if !s.cx.rules.fast_value_is_validated() {
            return self.propose(s, id, Value::Batch(candidate.batch), candidate.deps);
        }
        let recovery = self.led.get_mut(&id)?;
        let ballot = recovery.ballot;
        recovery.send_again = s.view.now + s.cx.resend_after(s.view, 0);
        let Candidate { batch, deps, quorum, .. } = candidate.clone();
        recovery.stage = Stage::Validating {
            candidate,
            answered: ReplicaSet::EMPTY,
            interfering: BTreeMap::new(),
        };
        let written = s.store.instances.entry(id).written;
        s.fx.send(written, quorum, Message::Validate { id, ballot, batch, deps });
        None
    }

    /// §5.5: counts answers; every member of the quorum has to answer.
    pub(crate) fn on_validate_ok(
        &mut self,
        s: &mut Step<'_>,
        from: ReplicaId,
        id: InstanceId,
        ballot: Ballot,
        reported: &[Interfering],
    ) -> Option<Proposal> {
        let recovery = self.led.get_mut(&id)?;
        if recovery.ballot != ballot {
            return None;
        }
        let Stage::Validating { candidate, answered, interfering } = &mut recovery.stage else {
            return None;
        };
        if !candidate.quorum.contains(from) || !answered.insert(from) {
            return None;
        }
        for one in reported.iter().filter(|one| one.id != id) {
            let standing = interfering.entry(one.id).or_insert(one.standing);
            *standing = one.standing.max(*standing);
        }
        if answered.len() < candidate.quorum.len() {
            return None;
        }
        let (candidate, mut interfering) = (candidate.clone(), std::mem::take(interfering));
        judge_dropped(s, &candidate.batch, &mut interfering);
        judge_unknown(s, id, &candidate.batch, &mut interfering);
        let Candidate { quorum, fast_votes, .. } = candidate;
        match decide_validation(s.cx.quorums(), quorum, fast_votes, &interfering) {
            Verdict::Clean => {
                s.fx.hit(Path::ValidateClean);
                self.propose(s, id, Value::Batch(candidate.batch), candidate.deps)
            }
            Verdict::Committed => {
                s.fx.hit(Path::ValidateCommitted);
                self.propose_nop(s, id)
            }
            Verdict::OwnerOutside => {
                s.fx.hit(Path::ValidateOwnerOutside);
                self.propose_nop(s, id)
            }
            Verdict::Wait => {
                s.fx.hit(Path::Waiting);
                self.start_waiting(s, id, candidate, &interfering)
            }
        }
    }
}

/// A reported instance that is dropped here either speaks against `batch` or is harmless (§8a).
fn judge_dropped(
    s: &mut Step<'_>,
    batch: &Batch,
    interfering: &mut BTreeMap<InstanceId, Standing>,
) {
    interfering.retain(|id, standing| {
        match s.store.dropped_conflict(*id, batch.footprint()) {
            Some(false) => {
                s.fx.hit(Path::DroppedHarmless);
                return false;
            }
            Some(true) => {
                s.fx.hit(Path::DroppedInterferes);
                *standing = Standing::Committed;
            }
            None => {}
        }
        true
    });
}

/// An instance reported as of unknown payload may be known here. Then it either speaks against `id`
/// with `batch` like any other, or is harmless.
fn judge_unknown(
    s: &mut Step<'_>,
    id: InstanceId,
    batch: &Batch,
    interfering: &mut BTreeMap<InstanceId, Standing>,
) {
    interfering.retain(|other, standing| {
        if *standing != Standing::Unknown {
            return true;
        }
        s.fx.hit(Path::UnknownReported);
        let instance = s.store.instances.get(*other);
        match s.cx.rules.unknown_speaks(speaks_against(id, batch, instance), batch, instance) {
            Some(false) => {
                s.fx.hit(Path::UnknownHarmless);
                return false;
            }
            Some(true) => *standing = Standing::Open,
            None => {}
        }
        true
    });
}
