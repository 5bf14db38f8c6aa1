//! Bugs on purpose: each breaks one rule that protocol.md marks as needed, so that the simulator's
//! checks can be seen to notice. Compiled for tests only.

use super::instances::Instance;
use super::{EPaxos, Fx, Message, Phase, Report};
use crate::protocol::View;
use crate::types::{Ballot, Decision, Deps, Footprint, InstanceId, ReplicaId, Value};

/// A rule to break.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Plant {
    /// The 2013 protocol: one ballot an instance, so that joining a ballot looks like accepting.
    SingleBallot,
    /// A payload learned by Validate does not count as a conflict.
    NoIndexAtValidate,
    /// One vote too few for the fast path.
    SmallFastQuorum,
    /// A recovery proposes the fast value without asking what speaks against it.
    NoValidate,
    /// `k' >= n - f - e` where `>` is needed.
    YieldTooEarly,
    /// A command decided `Nop` no longer counts as a conflict.
    ForgetNop,
    /// A command accepted as `Nop` no longer counts as a conflict.
    NopHidesPayload,
    /// What every member has executed is forgotten while something may have to be told of it.
    ForgetEarly,
    /// A vote that comes after the slow path was taken still adds to the dependencies.
    LateVote,
    /// A Commit of "the owner's batch" commits what was accepted here.
    CommitTakesAccepted,
    /// A slot that nobody here has heard of is not recovered.
    GapsStay,
    /// PreAccept leaves before the owner's record is durable.
    EarlyPreAccept,
    /// PreAcceptOk and AcceptOk leave before the vote is durable.
    EarlyVote,
    /// Accept leaves before its sender's own vote is durable.
    EarlyAccept,
    /// Recover leaves before the joined ballot is durable.
    EarlyRecover,
    /// RecoverOk leaves before the promise is durable.
    EarlyPromise,
    /// ValidateOk leaves before the validated payload is durable.
    EarlyValidateOk,
    /// A fast commit is told and executed before it is durable.
    EarlyCommit,
    /// The owner's own vote counts before it is durable.
    EarlyOwnVote,
    /// An orphan's owner answers Recover.
    OrphanAnswers,
    /// An orphan's owner counts itself when it leads the recovery.
    OrphanCountsItself,
    /// An orphan's owner counts votes at ballot 0 again.
    OrphanResumed,
    /// An orphan that somebody has recovered is none any more.
    OrphanOnlyAtOwnersBallot,
    /// A life that is not silent itself forgets that an earlier one was.
    SilenceForgotten,
    /// Silent orphans where `f` is 0.
    SilentWithoutFailures,
    /// A reserved slot without a record conflicts with nothing.
    LostNotInConf,
    /// Reserved slots without a record conflict with nothing once they are decided.
    LostNopForgotten,
    /// What others have lost is not covered: no rule of safety, but commands go the slow path.
    LostNotCovered,
    /// What others know that all have executed is not covered: no rule of safety, but commands go
    /// the slow path where not everybody has heard the dead.
    KeptToOneself,
    /// A recovery yields to an instance of unknown payload as if it were known to conflict.
    YieldToUnknown,
    /// A recovery yields to a lost proposal that covers its instance.
    YieldToCovering,
    /// `Truncated` counts as a promise of somebody who knows nothing.
    TruncatedVote,
    /// What is dropped is forgotten once it is in the cut, not only when every member has it.
    ForgetAtCut,
    /// A cut is agreed to by who has not executed all of it.
    CutUnchecked,
    /// An agreement to a cut is told before it is durable.
    EarlyAgreement,
    /// Who installs a snapshot forgets what it promised and voted outside of it.
    InstallForgets,
}

impl Plant {
    /// Those that matter only to replicas that come back: the table of protocol.md §7.
    pub(crate) const EARLY: [Plant; 7] = [
        Plant::EarlyPreAccept,
        Plant::EarlyVote,
        Plant::EarlyAccept,
        Plant::EarlyRecover,
        Plant::EarlyPromise,
        Plant::EarlyValidateOk,
        Plant::EarlyCommit,
    ];

    /// Those that matter only with the optimisations of protocol.md §7.
    pub(crate) const OPTIMISED: [Plant; 10] = [
        Plant::EarlyOwnVote,
        Plant::OrphanAnswers,
        Plant::OrphanCountsItself,
        Plant::OrphanResumed,
        Plant::OrphanOnlyAtOwnersBallot,
        Plant::SilentWithoutFailures,
        Plant::LostNotInConf,
        Plant::LostNopForgotten,
        Plant::YieldToUnknown,
        Plant::YieldToCovering,
    ];

    /// Those that matter only where members stay away and come back (protocol.md §8a).
    pub(crate) const TRUNCATING: [Plant; 5] = [
        Plant::TruncatedVote,
        Plant::ForgetAtCut,
        Plant::CutUnchecked,
        Plant::EarlyAgreement,
        Plant::InstallForgets,
    ];

    /// The others.
    pub(crate) const ALL: [Plant; 11] = [
        Plant::SingleBallot,
        Plant::NoIndexAtValidate,
        Plant::SmallFastQuorum,
        Plant::NoValidate,
        Plant::YieldTooEarly,
        Plant::ForgetNop,
        Plant::NopHidesPayload,
        Plant::ForgetEarly,
        Plant::LateVote,
        Plant::CommitTakesAccepted,
        Plant::GapsStay,
    ];
}

/// Moves the second ballot where only the first may move.
pub(super) fn single_ballot(plant: Option<Plant>, instance: &mut Instance, ballot: Ballot) {
    if plant == Some(Plant::SingleBallot) && instance.phase == Phase::Accepted {
        instance.accepted = ballot;
    }
}

impl EPaxos {
    /// Begins a recovery that nothing asked for.
    pub(crate) fn recover_unasked(&mut self, view: &View, id: InstanceId, fx: &mut Fx) {
        self.start_recovery(view, id, fx);
        self.release_early_if_planted(fx);
    }

    /// Proposes a cut that nothing asked for, if it may be agreed to here.
    pub(crate) fn cut_unasked(&mut self, view: &View, cut: Deps, fx: &mut Fx) {
        if self.may_agree(&cut) {
            self.start_cut(view, cut, fx);
        }
    }

    /// What conflicts with what, to compare.
    pub(crate) fn conflict_index(&self) -> &super::ConflictIndex {
        &self.store.index
    }

    /// Drops a `Nop`'s payload from the conflict index.
    pub(super) fn forget_nop_if_planted(&mut self, decision: &Decision) {
        if self.planted(Plant::ForgetNop) && decision.value.is_nop() {
            self.forget_as_conflict(decision.id, |other| {
                !other.decision().is_some_and(|(value, _)| value.is_nop())
            });
        }
    }

    /// Drops the payload of what is being accepted as a `Nop` from the conflict index.
    pub(super) fn hide_payload_if_planted(&mut self, id: InstanceId) {
        if self.planted(Plant::NopHidesPayload) {
            self.forget_as_conflict(id, |other| !other.value.as_ref().is_some_and(Value::is_nop));
        }
    }

    /// Leaves in the index what the owner's other instances put there, as far as `counts` says.
    fn forget_as_conflict(&mut self, id: InstanceId, counts: impl Fn(&Instance) -> bool) {
        if self.store.instances.get(id).is_none_or(|instance| instance.payload.is_none()) {
            return;
        }
        let others = self.store.instances.above(id.replica, 0);
        let others = others.filter(|(other, instance)| *other != id && counts(instance));
        let payload =
            |(other, instance): (InstanceId, &Instance)| Some((other, instance.payload.clone()?));
        let others: Vec<_> = others.filter_map(payload).collect();
        self.store.index.forget_one(id);
        others.iter().for_each(|(other, batch)| self.store.index.insert(*other, batch.footprint()));
    }

    /// An owner answers for its orphan: to anybody, or to itself.
    pub(super) fn speaks_for_orphan_if_planted(&self, to: ReplicaId) -> bool {
        let itself = self.planted(Plant::OrphanCountsItself) && to == self.cx.me();
        itself || self.planted(Plant::OrphanAnswers) && to != self.cx.me()
    }

    /// Lost slots don't count as conflicts: none, or none any more.
    pub(super) fn counts_no_lost_if_planted(&self) -> bool {
        let decided = self.store.known_of(self.cx.me()) >= self.reserve.earlier;
        self.planted(Plant::LostNotInConf) || self.planted(Plant::LostNopForgotten) && decided
    }

    /// A lost proposal speaks against whatever it conflicts with, covered or not.
    pub(super) fn speaks_though_covering_if_planted(
        &self,
        lost: InstanceId,
        footprint: &Footprint,
    ) -> bool {
        let payload = self.store.instances.get(lost).and_then(|instance| instance.payload.as_ref());
        let conflicts = payload.is_some_and(|batch| batch.footprint().conflicts(footprint));
        self.planted(Plant::YieldToCovering) && conflicts
    }

    /// What the planted bug forgets to hold back.
    fn is_early(&self, message: &Message) -> bool {
        let Some(plant) = self.cx.rules.broken else { return false };
        match message {
            Message::PreAccept { .. } => plant == Plant::EarlyPreAccept,
            Message::PreAcceptOk { id, .. } if plant == Plant::EarlyOwnVote => {
                id.replica == self.cx.me()
            }
            Message::PreAcceptOk { .. } | Message::AcceptOk { .. } => plant == Plant::EarlyVote,
            Message::Accept { .. } => plant == Plant::EarlyAccept,
            Message::Recover { .. } => plant == Plant::EarlyRecover,
            Message::RecoverOk { .. } => plant == Plant::EarlyPromise,
            Message::ValidateOk { .. } => plant == Plant::EarlyValidateOk,
            Message::Commit { .. } => plant == Plant::EarlyCommit,
            Message::CutOk { .. } => plant == Plant::EarlyAgreement,
            _ => false,
        }
    }

    /// Takes `Truncated` for the promise of somebody who knows nothing, or its vote.
    pub(super) fn count_truncated_if_planted(
        &mut self,
        view: &View,
        from: ReplicaId,
        message: &Message,
        fx: &mut Fx,
    ) {
        let Message::Truncated { id } = message else { return };
        let Some(ballot) = self.recoveries.get(id).map(|recovery| recovery.ballot) else { return };
        if !self.planted(Plant::TruncatedVote) {
            return;
        }
        if self.store.instances.get(*id).is_some_and(|i| i.phase == Phase::Accepted) {
            self.on_accept_ok(view, from, *id, ballot, fx);
        } else {
            let accepted = Ballot::OWNER;
            let report = Report { phase: Phase::Initial, accepted, value: None, initial: None };
            self.on_recover_ok(view, from, *id, ballot, report, fx);
        }
    }

    /// Forgets all that is not decided.
    pub(super) fn drop_promises_if_planted(&mut self) {
        if self.planted(Plant::InstallForgets) {
            let open = self.store.instances.iter().filter(|(_, instance)| !instance.is_committed());
            let open: Vec<_> = open.map(|(id, _)| id).collect();
            open.into_iter().for_each(|id| self.store.instances.remove(id));
        }
    }

    /// Lets go what should be held back.
    pub(super) fn release_early_if_planted(&self, fx: &mut Fx) {
        for held in &mut fx.messages {
            held.forget_if(|outgoing| self.is_early(&outgoing.message));
        }
        for held in &mut fx.decisions {
            held.forget_if(|_| self.planted(Plant::EarlyCommit));
        }
    }

    /// A late vote changes what was proposed.
    pub(super) fn count_late_if_planted(&mut self, id: InstanceId, deps: &Deps) {
        let planted = self.planted(Plant::LateVote);
        let Some(instance) = self.store.instances.get_mut(id) else { return };
        if planted && instance.phase == Phase::Accepted && instance.ballot.is_owner() {
            instance.deps.merge(deps);
        }
    }
}
