//! Accept: a value is proposed at a ballot and decided by `n - f` votes (protocol.md §4.4, §4.5).
//! After `propose` or `recover`, before `commit`.

use super::{EPaxos, Fx, Message, Phase, Record};
use crate::protocol::{Path, View};
use crate::types::{Ballot, Deps, InstanceId, ReplicaId, Value};

/// A value proposed at a ballot.
#[derive(Clone, Debug)]
pub(super) struct Proposal {
    pub(super) ballot: Ballot,
    pub(super) value: Value,
    pub(super) deps: Deps,
}

impl EPaxos {
    /// Proposes a value at one's own ballot: accepted here first, durable, and only then sent.
    pub(super) fn start_accept(&mut self, id: InstanceId, proposal: Proposal, fx: &mut Fx) {
        self.accept_here(id, &proposal, fx);
        let Proposal { ballot, value, deps } = proposal;
        let written = self.store.instances.entry(id).written;
        fx.answer(written, self.cx.me(), Message::AcceptOk { id, ballot });
        fx.send(written, self.cx.others(), Message::Accept { id, ballot, value, deps });
    }

    /// §4.4: a vote for a value.
    pub(super) fn on_accept(
        &mut self,
        view: &View,
        from: ReplicaId,
        id: InstanceId,
        proposal: Proposal,
        fx: &mut Fx,
    ) {
        let ballot = proposal.ballot;
        if from != ballot.leader(id.replica) || from == self.cx.me() {
            return;
        }
        if self.is_too_late(from, id, ballot, fx) {
            return;
        }
        let instance = self.store.instances.entry(id);
        let again = instance.phase == Phase::Accepted && instance.accepted == ballot;
        if again {
            // The others had this vote already, or will learn the decision by gossip.
            fx.answer(instance.written, from, Message::AcceptOk { id, ballot });
            return;
        }
        self.accept_here(id, &proposal, fx);
        if !ballot.is_owner() {
            self.yield_to(view, id, ballot);
        }
        let written = self.store.instances.entry(id).written;
        fx.send(written, self.cx.all(), Message::AcceptOk { id, ballot });
    }

    fn accept_here(&mut self, id: InstanceId, proposal: &Proposal, fx: &mut Fx) {
        self.note_accepted(id, proposal, fx);
        let Proposal { ballot, value, deps } = proposal.clone();
        self.store.instances.entry(id).written =
            fx.append(Record::Accepted { id, ballot, value, deps });
    }

    /// The value counts as accepted, and as a conflict, from here on.
    pub(super) fn note_accepted(&mut self, id: InstanceId, proposal: &Proposal, fx: &mut Fx) {
        match &proposal.value {
            Value::Batch(batch) => self.store.learn_payload(id, batch, fx),
            Value::Nop => {
                #[cfg(test)]
                self.hide_payload_if_planted(id);
                if self.store.instances.entry(id).payload.is_none() {
                    fx.hit(Path::Wildcard);
                    self.store.index.insert_wildcard(id);
                }
            }
        }
        let instance = self.store.instances.entry(id);
        assert!(!instance.is_committed(), "a decision is not voted on again: {id}");
        instance.join(proposal.ballot);
        instance.accepted = proposal.ballot;
        instance.phase = Phase::Accepted;
        instance.value = Some(proposal.value.clone());
        instance.deps = proposal.deps.clone();
        instance.tally = None;
    }

    /// Whether a message at `ballot` comes too late: the instance is decided here, or promised to
    /// a higher ballot. The sender is told.
    pub(super) fn is_too_late(
        &mut self,
        from: ReplicaId,
        id: InstanceId,
        ballot: Ballot,
        fx: &mut Fx,
    ) -> bool {
        self.store.see(id.replica, id.slot);
        let instance = self.store.instances.entry(id);
        if instance.is_committed() {
            self.store.answer_commit(from, id, fx);
            return true;
        }
        let joined = instance.ballot;
        if joined > ballot {
            fx.answer(instance.written, from, Message::Reject { id, ballot: joined });
        }
        joined > ballot
    }

    /// §4.5: whoever counts `n - f` votes at one ballot has learned the decision, the sender of
    /// Accept counting as one.
    pub(super) fn on_accept_ok(
        &mut self,
        view: &View,
        from: ReplicaId,
        id: InstanceId,
        ballot: Ballot,
        fx: &mut Fx,
    ) {
        self.store.see(id.replica, id.slot);
        let slow = self.cx.settings.quorums.slow();
        let leader = ballot.leader(id.replica);
        let me = self.cx.settings.me;
        let instance = self.store.instances.entry(id);
        if instance.is_committed() {
            return;
        }
        if instance.ballot < ballot {
            // As good as a Reject: whatever is led here below this ballot is over.
            self.on_reject(view, id, ballot, fx);
        }
        let instance = self.store.instances.entry(id);
        instance.vote(from, ballot);
        if leader != me {
            // Its Accept left only when its own vote was durable.
            instance.vote(leader, ballot);
        }
        self.learn_by_votes(view, id, slow, fx);
    }

    fn learn_by_votes(&mut self, view: &View, id: InstanceId, slow: usize, fx: &mut Fx) {
        let instance = self.store.instances.entry(id);
        let (ballot, voters) = instance.votes;
        let accepted = instance.phase == Phase::Accepted && instance.accepted == ballot;
        if accepted && voters.len() >= slow {
            fx.hit(Path::AcceptCommit);
            self.commit_accepted(view, id, fx);
        }
    }
}
