//! Planted bugs: each breaks one rule that PROTOCOL.md marks as needed, to show that the
//! simulator's checks notice. Compiled for tests only.

use super::instances::Instance;
use super::rules::Rules;
use super::store::Store;
use super::{ConflictIndex, EPaxos, Fx, Message, Phase, Report};
use crate::protocol::View;
use crate::types::{Ballot, Batch, Decision, Deps, InstanceId, ReplicaId, Value};

/// A rule to break.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Plant {
    /// The 2013 protocol: one ballot an instance, so joining a ballot looks like accepting.
    SingleBallot,
    /// A payload learned by Validate does not count as a conflict.
    NoIndexAtValidate,
    /// The fast path takes one vote too few.
    SmallFastQuorum,
    /// A recovery proposes the fast value without asking what speaks against it.
    NoValidate,
    /// `k' >= n - f - e` where `>` is needed.
    YieldTooEarly,
    /// A command decided `Nop` no longer counts as a conflict.
    ForgetNop,
    /// A command accepted as `Nop` no longer counts as a conflict.
    NopHidesPayload,
    /// An instance that every member executed is forgotten while it may still be needed as a
    /// conflict.
    ForgetEarly,
    /// A vote after the slow path was chosen still adds to the dependencies.
    LateVote,
    /// A Commit of "the owner's batch" commits the value accepted here.
    CommitTakesAccepted,
    /// A slot without state here is not recovered.
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
    /// A fast commit is announced and executed before it is durable.
    EarlyCommit,
    /// The owner's own vote counts before it is durable.
    EarlyOwnVote,
    /// An orphan's owner answers Recover.
    OrphanAnswers,
    /// An orphan's owner counts itself when it leads the recovery.
    OrphanCountsItself,
    /// An orphan's owner counts votes at ballot 0 again.
    OrphanResumed,
    /// An orphan that was recovered once no longer counts as one.
    OrphanOnlyAtOwnersBallot,
    /// A life without silent orphans forgets that an earlier one had them.
    SilenceForgotten,
    /// Silent orphans where `f` is 0.
    SilentWithoutFailures,
    /// A reserved slot without a record conflicts with nothing.
    LostNotInConf,
    /// Reserved slots without a record conflict with nothing once they are decided.
    LostNopForgotten,
    /// Proposals do not cover what others have lost. Safe, but commands take the slow path.
    LostNotCovered,
    /// Proposals do not cover what others know to be executed by all. Safe, but commands take the
    /// slow path if not every replica heard the failed one's last report.
    KeptToOneself,
    /// A recovery yields to an instance of unknown payload as if it were known to conflict.
    YieldToUnknown,
    /// A recovery yields to a lost proposal that covers its instance.
    YieldToCovering,
    /// `Truncated` counts as the promise of a replica that knows nothing.
    TruncatedVote,
    /// A dropped instance is forgotten when the cut holds it, not when every member has executed
    /// it.
    ForgetAtCut,
    /// A member agrees to a cut that it has not executed completely.
    CutUnchecked,
    /// An agreement to a cut is announced before it is durable.
    EarlyAgreement,
    /// An install forgets the promises and votes outside of the snapshot.
    InstallForgets,
}

impl Plant {
    /// Those that matter only if replicas restart: the table of PROTOCOL.md §7.
    pub(crate) const EARLY: [Plant; 7] = [
        Plant::EarlyPreAccept,
        Plant::EarlyVote,
        Plant::EarlyAccept,
        Plant::EarlyRecover,
        Plant::EarlyPromise,
        Plant::EarlyValidateOk,
        Plant::EarlyCommit,
    ];

    /// Those that matter only with the optimisations of PROTOCOL.md §7.
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

    /// Those that matter only if members stay away and come back (PROTOCOL.md §8a).
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

impl Rules {
    fn is_broken(self, plant: Plant) -> bool {
        self.broken == Some(plant)
    }
}

/// Removes the payload from the conflict index when the instance is accepted as a `Nop`.
pub(super) fn nop_accepted(rules: Rules, store: &mut Store, id: InstanceId) {
    if rules.is_broken(Plant::NopHidesPayload) {
        forget_as_conflict(store, id, |other| !other.value.as_ref().is_some_and(Value::is_nop));
    }
}

/// Removes a `Nop`'s payload from the conflict index.
pub(super) fn decided(rules: Rules, store: &mut Store, decision: &Decision) {
    if rules.is_broken(Plant::ForgetNop) && decision.value.is_nop() {
        forget_as_conflict(store, decision.id, |other| {
            !other.decision().is_some_and(|(value, _)| value.is_nop())
        });
    }
}

/// Removes the instance from the index; keeps the owner's other instances for which `counts` holds.
fn forget_as_conflict(store: &mut Store, id: InstanceId, counts: impl Fn(&Instance) -> bool) {
    if store.instances.get(id).is_none_or(|instance| instance.payload.is_none()) {
        return;
    }
    let others = store.instances.above(id.replica, 0);
    let others = others.filter(|(other, instance)| *other != id && counts(instance));
    let payload =
        |(other, instance): (InstanceId, &Instance)| Some((other, instance.payload.clone()?));
    let others: Vec<_> = others.filter_map(payload).collect();
    let (index, _) = store.indexes();
    index.forget_one(id);
    others.iter().for_each(|(other, batch)| index.insert(*other, batch.footprint()));
}

/// Takes the accepted value as the owner's batch.
pub(super) fn owners_value(
    rules: Rules,
    payload: Option<Value>,
    instance: &Instance,
) -> Option<Value> {
    let accepted = instance.value.clone().filter(|_| rules.is_broken(Plant::CommitTakesAccepted));
    accepted.or(payload)
}

/// A lost proposal speaks against everything it conflicts with, even if it covers it.
pub(super) fn unknown_speaks(
    rules: Rules,
    speaks: Option<bool>,
    batch: &Batch,
    other: Option<&Instance>,
) -> Option<bool> {
    let payload = other.and_then(|instance| instance.payload.as_ref());
    let conflicts = payload.is_some_and(|other| other.footprint().conflicts(batch.footprint()));
    speaks.map(|speaks| speaks || rules.is_broken(Plant::YieldToCovering) && conflicts)
}

/// Forgets what is dropped.
pub(super) fn dropped(rules: Rules, store: &mut Store) {
    if rules.is_broken(Plant::ForgetAtCut) {
        store.indexes().1.commands.clear();
    }
}

/// Forgets all undecided instances.
pub(super) fn installing(rules: Rules, store: &mut Store) {
    if rules.is_broken(Plant::InstallForgets) {
        let open = store.instances.iter().filter(|(_, instance)| !instance.is_committed());
        let open: Vec<_> = open.map(|(id, _)| id).collect();
        open.into_iter().for_each(|id| store.instances.remove(id));
    }
}

impl EPaxos {
    /// Breaks one rule, to see whether the simulator notices.
    pub(crate) fn plant(&mut self, plant: Plant) {
        self.core.cx.rules.broken = Some(plant);
    }

    fn planted(&self, plant: Plant) -> bool {
        self.core.cx.rules.is_broken(plant)
    }

    /// Starts a recovery without a need.
    pub(crate) fn recover_unasked(&mut self, view: &View, id: InstanceId, fx: &mut Fx) {
        self.recovery.start(&mut self.core.step(view, fx), id);
        self.after_step(fx);
    }

    /// Proposes a cut without a need, if this replica may agree to it.
    pub(crate) fn cut_unasked(&mut self, view: &View, cut: Deps, fx: &mut Fx) {
        self.reclaim.cut_unasked(&mut self.core.step(view, fx), cut);
    }

    /// The conflict index, for comparison.
    pub(crate) fn conflict_index(&self) -> &ConflictIndex {
        self.core.store.index()
    }

    /// Runs before a message is handled. Returns whether the message needs no further handling.
    pub(super) fn before_message(
        &mut self,
        view: &View,
        from: ReplicaId,
        message: &Message,
        fx: &mut Fx,
    ) -> bool {
        match message {
            Message::PreAcceptOk { id, deps } => self.count_late(*id, deps),
            Message::Recover { id, ballot } => self.accept_with_promise(from, *id, *ballot),
            Message::Truncated { id } if self.planted(Plant::TruncatedVote) => {
                self.count_truncated(view, from, *id, fx);
                return true;
            }
            _ => {}
        }
        false
    }

    /// Lets a late vote change the proposal.
    fn count_late(&mut self, id: InstanceId, deps: &Deps) {
        let planted = self.planted(Plant::LateVote) && id.replica == self.core.cx.me();
        let Some(instance) = self.core.store.instances.get_mut(id) else { return };
        if planted && instance.phase == Phase::Accepted && instance.ballot.is_owner() {
            instance.deps.merge(deps);
        }
    }

    /// Moves the second ballot where only the first may move.
    fn accept_with_promise(&mut self, from: ReplicaId, id: InstanceId, ballot: Ballot) {
        let planted = self.planted(Plant::SingleBallot) && from == ballot.leader(id.replica);
        let Some(instance) = self.core.store.instances.get_mut(id) else { return };
        if planted && instance.phase == Phase::Accepted && instance.ballot < ballot {
            instance.accepted = ballot;
        }
    }

    /// Counts `Truncated` as the promise or the vote of a replica that knows nothing.
    fn count_truncated(&mut self, view: &View, from: ReplicaId, id: InstanceId, fx: &mut Fx) {
        let Some(ballot) = self.recovery.ballot_of(id) else { return };
        let phase = self.core.store.instances.get(id).map(|instance| instance.phase);
        if phase == Some(Phase::Accepted) {
            self.on_accept_ok(view, from, id, ballot, fx);
        } else {
            let accepted = Ballot::OWNER;
            let report = Report { phase: Phase::Initial, accepted, value: None, initial: None };
            let s = &mut self.core.step(view, fx);
            if let Some(proposal) =
                self.recovery.on_recover_ok(s, &self.early, from, id, ballot, report)
            {
                super::acceptor::start_accept(s, id, proposal);
            }
        }
    }

    /// Runs after a step: releases messages that should be held back.
    pub(super) fn after_step(&self, fx: &mut Fx) {
        for held in &mut fx.messages {
            held.forget_if(|outgoing| self.is_early(&outgoing.message));
        }
        for held in &mut fx.decisions {
            held.forget_if(|_| self.planted(Plant::EarlyCommit));
        }
    }

    /// The messages that the planted bug does not hold back.
    fn is_early(&self, message: &Message) -> bool {
        let Some(plant) = self.core.cx.rules.broken else { return false };
        match message {
            Message::PreAccept { .. } => plant == Plant::EarlyPreAccept,
            Message::PreAcceptOk { id, .. } if plant == Plant::EarlyOwnVote => {
                id.replica == self.core.cx.me()
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
}
