//! A recovery that is led here, at one ballot: its stage, and what it resends. In one of the stages
//! it asks its quorum what speaks against the value that the fast path may have decided
//! (PROTOCOL.md §5.4, §5.5): the leader's side of Validate. The other is in `acceptor::validate`.

use std::collections::BTreeMap;

use super::decide::{Candidate, Verdict, decide_validation, speaks_against};
use super::waiting::Waiting;
use crate::protocol::View;
use crate::protocol::epaxos::step::Step;
use crate::protocol::epaxos::{Interfering, Message, Path, Report, Standing};
use crate::types::{Ballot, Batch, Deps, InstanceId, ReplicaId, ReplicaSet, Time, Value, Written};

/// A recovery led here, at one ballot.
#[derive(Debug)]
pub(super) struct Recovery {
    pub(super) ballot: Ballot,
    pub(super) stage: Stage,
    /// When to resend what was not answered.
    pub(super) send_again: Time,
    /// When to give this ballot up and start again.
    pub(super) give_up: Time,
    /// Until this time, wait for more than `n - f` promises.
    pub(super) hope_until: Time,
}

/// How far a recovery is.
#[derive(Debug)]
pub(super) enum Stage {
    /// Counting promises.
    Collecting { replies: BTreeMap<ReplicaId, Report> },
    /// Asking what speaks against the fast path.
    Validating(Validating),
    /// Waiting for the interfering instances to end.
    Waiting(Waiting),
    /// A value was proposed; its votes are counted in the instance.
    Accepting { value: Value, deps: Deps },
}

impl Recovery {
    /// Whether it may need action now.
    pub(super) fn is_due(&self, view: &View) -> bool {
        let now = view.now;
        let due = self.send_again <= now || self.give_up <= now || self.hope_until <= now;
        due || self.waits_for_any(view.suspected)
    }

    /// Whether it needs an answer from one of these. All members of a quorum have to answer
    /// Validate, so if one fails, another quorum has to be found.
    pub(super) fn waits_for_any(&self, suspected: ReplicaSet) -> bool {
        let Stage::Validating(validating) = &self.stage else { return false };
        validating.missing().iter().any(|r| suspected.contains(r))
    }

    /// Resends what was not answered.
    pub(super) fn resend(&mut self, s: &mut Step<'_>, id: InstanceId) {
        if self.send_again > s.view.now {
            return;
        }
        s.fx.hit(Path::Retransmit);
        self.send_again = s.view.now + s.cx.resend_after(s.view, 1);
        let (all, ballot) = (s.cx.all(), self.ballot);
        let Some(instance) = s.store.instances.get(id) else { return };
        let written = instance.written;
        let missing = |answered: ReplicaSet| {
            all.iter().filter(|r| !answered.contains(*r)).collect::<ReplicaSet>()
        };
        match &self.stage {
            Stage::Collecting { replies } => {
                let answered = replies.keys().copied().collect();
                s.fx.send(written, missing(answered), Message::Recover { id, ballot });
            }
            Stage::Validating(validating) => {
                s.fx.send(written, validating.missing(), validating.question(id, ballot));
            }
            Stage::Waiting(waiting) => {
                s.fx.send(Written::default(), all, waiting.announcement(id));
                let to = missing(waiting.candidate.quorum);
                s.fx.send(written, to, Message::Recover { id, ballot });
            }
            Stage::Accepting { value, deps } => {
                let mut to = missing(instance.votes.1);
                to.remove(s.cx.me());
                let (value, deps) = (value.clone(), deps.clone());
                s.fx.send(written, to, Message::Accept { id, ballot, value, deps });
            }
        }
    }
}

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
