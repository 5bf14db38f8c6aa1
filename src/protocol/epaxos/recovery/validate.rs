//! Validate, at the leader: before a recovery proposes the value that the fast path may have
//! decided, it asks its quorum what speaks against that (PROTOCOL.md §5.4, §5.5). After the
//! promises, before `waiting` or the proposal. The other side is in `acceptor::validate`.

use std::collections::BTreeMap;

use super::decide::{Candidate, Verdict, decide_validation, speaks_against};
use crate::protocol::epaxos::step::Step;
use crate::protocol::epaxos::{Interfering, Message, Path, Standing};
use crate::types::{Ballot, Batch, InstanceId, ReplicaId, ReplicaSet};

/// A question to the quorum that is under way.
#[derive(Debug)]
pub(super) struct Validating {
    pub(super) candidate: Candidate,
    answered: ReplicaSet,
    interfering: BTreeMap<InstanceId, Standing>,
}

impl Validating {
    pub(super) fn new(candidate: Candidate) -> Validating {
        Validating { candidate, answered: ReplicaSet::EMPTY, interfering: BTreeMap::new() }
    }

    /// §5.4: the question.
    pub(super) fn question(&self, id: InstanceId, ballot: Ballot) -> Message {
        let Candidate { batch, deps, .. } = self.candidate.clone();
        Message::Validate { id, ballot, batch, deps }
    }

    /// The members of the quorum that have not answered.
    pub(super) fn missing(&self) -> ReplicaSet {
        self.candidate.quorum.iter().filter(|r| !self.answered.contains(*r)).collect()
    }

    /// §5.5: counts an answer. The last one decides, with all that interferes.
    pub(super) fn count(
        &mut self,
        s: &mut Step<'_>,
        id: InstanceId,
        from: ReplicaId,
        reported: &[Interfering],
    ) -> Option<(Verdict, BTreeMap<InstanceId, Standing>)> {
        let Validating { candidate, answered, interfering } = self;
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
        let mut interfering = std::mem::take(interfering);
        judge_dropped(s, &candidate.batch, &mut interfering);
        judge_unknown(s, id, &candidate.batch, &mut interfering);
        let Candidate { quorum, fast_votes, .. } = *candidate;
        let verdict = decide_validation(s.cx.quorums(), quorum, fast_votes, &interfering);
        Some((verdict, interfering))
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
