//! The decisions of recovery, as pure functions (PROTOCOL.md §5.3, §5.5). Called by `recovery` and
//! its stages.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::types::{Batch, Deps, InstanceId, Quorums, ReplicaId, ReplicaSet, Value};

use crate::protocol::epaxos::instances::Instance;
use crate::protocol::epaxos::{Phase, Report, Standing};

/// What a recovery does after `n - f` promises.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Choice {
    /// A value was accepted, so it may have been decided: propose it again (§5.3.2).
    Adopt(Value, Deps),
    /// The owner has promised and had not committed, so nothing was decided (§5.3.3).
    OwnerNop,
    /// The fast path may have succeeded: ask what speaks against it (§5.3.4).
    Validate { batch: Arc<Batch>, deps: Deps, fast_votes: usize },
    /// Too few voted for the owner's dependencies unchanged (§5.3.5).
    Nop,
}

/// The value that the fast path may have decided, and the quorum that was asked.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) batch: Arc<Batch>,
    pub(super) deps: Deps,
    pub(super) fast_votes: usize,
    pub(super) quorum: ReplicaSet,
}

/// Chooses from the promises of at least `n - f` replicas, none of which has committed.
///
/// # Panics
/// If there are fewer than `n - f` promises, or one reports Committed. A committed replica answers
/// Commit, which ends the recovery.
pub(super) fn decide_recovery(
    quorums: Quorums,
    owner: ReplicaId,
    replies: &BTreeMap<ReplicaId, Report>,
) -> Choice {
    assert!(replies.len() >= quorums.slow(), "a recovery decides with n - f promises");
    assert!(replies.values().all(|r| r.phase < Phase::Committed), "a decision needs no recovery");
    let accepted = replies.values().filter(|report| report.phase == Phase::Accepted);
    if let Some(highest) = accepted.max_by_key(|report| report.accepted) {
        let (value, deps) = highest.value.clone().expect("what is accepted has a value");
        return Choice::Adopt(value, deps);
    }
    if replies.contains_key(&owner) {
        return Choice::OwnerNop;
    }
    let fast = replies.values().filter_map(fast_vote);
    let fast_votes = fast.clone().count();
    match fast.into_iter().next() {
        Some((batch, deps)) if fast_votes + quorums.e >= replies.len() => {
            Choice::Validate { batch: batch.clone(), deps: deps.clone(), fast_votes }
        }
        _ => Choice::Nop,
    }
}

/// A vote at the owner's ballot for the owner's dependencies unchanged: a member of `Rmax`.
fn fast_vote(report: &Report) -> Option<&(Arc<Batch>, Deps)> {
    let initial = report.initial.as_ref()?;
    let (_, deps) = report.value.as_ref()?;
    (report.phase == Phase::PreAccepted && *deps == initial.1).then_some(initial)
}

/// What a recovery does once all of its quorum has answered Validate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// Nothing interferes: propose the owner's value.
    Clean,
    /// Something interfering is committed: the fast path did not happen.
    Committed,
    /// An interfering instance has its owner outside the quorum, and there is no vote to spare.
    OwnerOutside,
    /// The outcome depends on how the interfering instances end.
    Wait,
}

/// Chooses from what the quorum reported (§5.5).
pub(super) fn decide_validation(
    quorums: Quorums,
    quorum: ReplicaSet,
    fast_votes: usize,
    interfering: &BTreeMap<InstanceId, Standing>,
) -> Verdict {
    if interfering.is_empty() {
        return Verdict::Clean;
    }
    if interfering.values().any(|standing| *standing == Standing::Committed) {
        return Verdict::Committed;
    }
    // Only the owner reports an instance as of unknown payload, so that owner is in the quorum.
    let known = interfering.iter().filter(|(_, standing)| **standing > Standing::Unknown);
    let outside = known.into_iter().any(|(id, _)| !quorum.contains(id.replica));
    if fast_votes + quorums.e == quorum.len() && outside {
        return Verdict::OwnerOutside;
    }
    Verdict::Wait
}

/// Whether another recovery's count of fast votes proves that this instance was not decided on the
/// fast path (§5.5): more than `n - f - e` prove it.
pub(super) fn must_yield(quorums: Quorums, others_fast_votes: usize) -> bool {
    others_fast_votes + quorums.f + quorums.e > quorums.n
}

/// Whether an instance reported as of unknown payload conflicts with `batch` and was proposed
/// without covering `id`. That is the reason for which any other instance is reported (§5.4).
/// `None` while this replica does not know.
pub(super) fn speaks_against(
    id: InstanceId,
    batch: &Batch,
    instance: Option<&Instance>,
) -> Option<bool> {
    let instance = instance?;
    if !instance.payload.as_ref()?.footprint().conflicts(batch.footprint()) {
        return Some(false);
    }
    // Its owner may have voted for `id` first and covered it in its own proposal. Then another
    // recovery's votes for it do not speak against `id`.
    let (_, covered) = instance.initial.as_ref()?;
    Some(!covered.covers(id))
}
