//! Bugs on purpose: each breaks one rule that PROTOCOL.md marks as needed, so that the simulator's
//! checks can be seen to notice. Compiled for tests only.

use super::instances::Instance;
use super::rules::Rules;
use super::store::Store;
use super::{ConflictIndex, EPaxos, Fx, Message, Phase, Report};
use crate::protocol::View;
use crate::types::{Ballot, Batch, Decision, Deps, InstanceId, ReplicaId, Value};

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
    /// Those that matter only to replicas that come back: the table of PROTOCOL.md §7.
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

    /// Those that matter only where members stay away and come back (PROTOCOL.md §8a).
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

/// Drops the payload of what is being accepted as a `Nop` from the conflict index.
pub(super) fn nop_accepted(rules: Rules, store: &mut Store, id: InstanceId) {
    if rules.is_broken(Plant::NopHidesPayload) {
        forget_as_conflict(store, id, |other| !other.value.as_ref().is_some_and(Value::is_nop));
    }
}

/// Drops a `Nop`'s payload from the conflict index.
pub(super) fn decided(rules: Rules, store: &mut Store, decision: &Decision) {
    if rules.is_broken(Plant::ForgetNop) && decision.value.is_nop() {
        forget_as_conflict(store, decision.id, |other| {
            !other.decision().is_some_and(|(value, _)| value.is_nop())
        });
    }
}

/// Leaves in the index what the owner's other instances put there, as far as `counts` says.
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

/// Takes what was accepted for the owner's batch.
pub(super) fn owners_value(
    rules: Rules,
    payload: Option<Value>,
    instance: &Instance,
) -> Option<Value> {
    let accepted = instance.value.clone().filter(|_| rules.is_broken(Plant::CommitTakesAccepted));
    accepted.or(payload)
}

/// A lost proposal speaks against whatever it conflicts with, covered or not.
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

/// Forgets all that is not decided.
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

    /// Begins a recovery that nothing asked for.
    pub(crate) fn recover_unasked(&mut self, view: &View, id: InstanceId, fx: &mut Fx) {
        self.recovery.start(&mut self.core.step(view, fx), id);
        self.after_step(fx);
    }

    /// Proposes a cut that nothing asked for, if it may be agreed to here.
    pub(crate) fn cut_unasked(&mut self, view: &View, cut: Deps, fx: &mut Fx) {
        self.reclaim.cut_unasked(&mut self.core.step(view, fx), cut);
    }

    /// What conflicts with what, to compare.
    pub(crate) fn conflict_index(&self) -> &ConflictIndex {
        self.core.store.index()
    }

    /// A message is about to be handled. Whether nothing is left to be done about it.
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

    /// A late vote changes what was proposed.
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

    /// Takes `Truncated` for the promise of a replica that knows nothing, or its vote.
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

    /// A step is over: lets go what should be held back.
    pub(super) fn after_step(&self, fx: &mut Fx) {
        for held in &mut fx.messages {
            held.forget_if(|outgoing| self.is_early(&outgoing.message));
        }
        for held in &mut fx.decisions {
            held.forget_if(|_| self.planted(Plant::EarlyCommit));
        }
    }

    /// What the planted bug forgets to hold back.
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
