//! Commit: a decision, valid at any ballot (protocol.md §4.6). Where every road ends.

use super::{CommitValue, EPaxos, Fx, Message, Phase, Record};
use crate::protocol::{Path, View};
use crate::types::{Decision, Deps, InstanceId, ReplicaId, Value, Written};

impl EPaxos {
    /// The owner counted a fast quorum. It alone knows, so nothing that shows it, not even its
    /// execution here, may leave before it is durable (protocol.md §7); unless this replica is
    /// ready not to be asked about it after a restart (see `orphans`).
    pub(super) fn commit_fast(&mut self, view: &View, id: InstanceId, fx: &mut Fx) {
        let instance = self.store.instances.entry(id);
        let value = instance.value.clone().expect("a pre-accepted instance has a value");
        let deps = instance.deps.clone();
        let recorded = self.record_decision(id, &value, &deps, fx);
        let written = if self.is_silent() {
            // The proposal is durable, since the owner's own vote was counted.
            fx.hit(Path::CommitUnflushed);
            Written::default()
        } else {
            self.store.instances.entry(id).written = recorded;
            recorded
        };
        let commit = Message::Commit { id, value: CommitValue::OwnersBatch, deps: deps.clone() };
        fx.send(written, self.cx.others(), commit);
        self.settle(view, Decision::owned(id, value, deps), written, true, fx);
    }

    /// `n - f` accepted it: a quorum holds it, so it may be told at once.
    pub(super) fn commit_accepted(&mut self, view: &View, id: InstanceId, fx: &mut Fx) {
        let instance = self.store.instances.entry(id);
        let value = instance.value.clone().expect("an accepted instance has a value");
        let deps = instance.deps.clone();
        self.record_decision(id, &value, &deps, fx);
        self.settle(view, Decision::owned(id, value, deps), Written::default(), false, fx);
    }

    /// §4.6: somebody says it is decided.
    pub(super) fn on_commit(
        &mut self,
        view: &View,
        from: ReplicaId,
        id: InstanceId,
        value: CommitValue,
        deps: Deps,
        fx: &mut Fx,
    ) {
        self.store.see(id.replica, id.slot);
        let value = match value {
            CommitValue::Nop => Value::Nop,
            CommitValue::Batch(batch) => {
                self.store.learn_payload(id, &batch, fx);
                Value::Batch(batch)
            }
            // The owner's commands, never what was accepted here: that may be a Nop.
            #[cfg(test)]
            CommitValue::OwnersBatch
                if self.planted(super::Plant::CommitTakesAccepted)
                    && self.store.instances.entry(id).value.is_some() =>
            {
                self.store.instances.entry(id).value.clone().expect("it was looked at just now")
            }
            CommitValue::OwnersBatch => match self.store.instances.entry(id).payload.clone() {
                Some(batch) => Value::Batch(batch),
                None => return self.wait_for_payload(view, from, id, deps, fx),
            },
        };
        let instance = self.store.instances.entry(id);
        if let Some((decided, covered)) = instance.decision() {
            assert!(*decided == value && *covered == deps, "one decision an instance: {id}");
            return;
        }
        fx.hit(Path::LearnedCommit);
        instance.value = Some(value.clone());
        instance.deps = deps.clone();
        self.record_decision(id, &value, &deps, fx);
        if self.recoveries.contains_key(&id) {
            // §5.3.1: a recovery found it committed, so tell everybody.
            fx.hit(Path::RecoverCommitted);
            let commit = self.store.full_commit(id).expect("it was committed above");
            fx.send(Written::default(), self.cx.others(), commit);
        }
        self.settle(view, Decision::owned(id, value, deps), Written::default(), false, fx);
    }

    fn record_decision(
        &mut self,
        id: InstanceId,
        value: &Value,
        deps: &Deps,
        fx: &mut Fx,
    ) -> Written {
        let instance = self.store.instances.entry(id);
        assert!(!instance.is_committed(), "decided once: {id}");
        instance.phase = Phase::Committed;
        // Others hold it: it waits neither for its own record here nor for that of a vote before
        // it, now or when it is told or executed again. What the owner alone knows waits for more.
        instance.written = Written::default();
        // Dropped to spare memory: none of it is looked at behind a decision.
        instance.tally = None;
        instance.announced = None;
        fx.append(Record::Committed { id, value: value.clone(), deps: deps.clone() })
    }

    /// The decision is the owner's commands, and those are not here. If the owner says so, they are
    /// under way, or were lost: a large PreAccept is overtaken by a small Commit on most networks.
    /// To ask for them at once would have every large payload sent twice. The gap in what is known
    /// to be decided is asked about, if it lasts (`watch`).
    fn wait_for_payload(
        &mut self,
        view: &View,
        from: ReplicaId,
        id: InstanceId,
        deps: Deps,
        fx: &mut Fx,
    ) {
        fx.hit(Path::CommitWithoutPayload);
        if from == id.replica {
            let instance = self.store.instances.entry(id);
            instance.announced.get_or_insert_with(|| Box::new((deps, view.now)));
            return;
        }
        // Told to the owner, which lost it in a restart: nothing is under way.
        let fetch = Message::Fetch { owner: id.replica, from: id.slot, to: id.slot };
        fx.answer(Written::default(), from, fetch);
    }

    /// A message that may show the payload of an instance already announced as decided: then it
    /// is decided here now. Whether nothing is left to be done about the message.
    pub(super) fn fulfil_announced(&mut self, view: &View, message: &Message, fx: &mut Fx) -> bool {
        let (id, batch) = match message {
            Message::PreAccept { id, batch, .. } | Message::Validate { id, batch, .. } => {
                (*id, batch)
            }
            Message::Accept { id, value: Value::Batch(batch), .. } => (*id, batch),
            _ => return false,
        };
        let announced =
            self.store.instances.get_mut(id).and_then(|instance| instance.announced.take());
        let Some((deps, since)) = announced.map(|announced| *announced) else { return false };
        self.frontiers[id.replica.index()].note_lag(view.now.since(since));
        let value = CommitValue::Batch(batch.clone());
        self.on_commit(view, id.replica, id, value, deps, fx);
        // Who proposed it has decided it; who recovers it has not.
        matches!(message, Message::PreAccept { .. })
    }

    /// What follows from every decision, however it was learned.
    fn settle(&mut self, view: &View, decision: Decision, after: Written, fast: bool, fx: &mut Fx) {
        let id = decision.id;
        for (owner, slot) in decision.deps.iter() {
            self.store.see(owner, slot);
        }
        self.store.see(id.replica, id.slot);
        if !decision.value.is_nop() {
            self.frontiers[id.replica.index()].hasty = 0;
        }
        if decision.value.is_nop() && self.store.instances.entry(id).payload.is_none() {
            self.store.note_unseen(id);
        }
        #[cfg(test)]
        self.forget_nop_if_planted(&decision);
        if id.replica == self.cx.me() {
            self.settle_own(&decision, fast, fx);
        }
        if self.recoveries.remove(&id).is_some() {
            self.waiters.stop(id);
        }
        fx.decide(after, decision);
        self.store.advance_known(id.replica);
        self.fetch_on(view, id.replica, fx);
        self.wake_waiters(view, id, fx);
        if id.replica == self.cx.me() {
            self.settle_lost(view, id.slot, fx);
        }
    }

    /// An own instance is decided: its commands were agreed on, or have to be proposed again.
    fn settle_own(&mut self, decision: &Decision, fast: bool, fx: &mut Fx) {
        match &decision.value {
            Value::Batch(_) => fx.own_commits.push((decision.id, fast)),
            Value::Nop => {
                let lost = self.store.instances.entry(decision.id).payload.clone();
                if let Some(batch) = lost {
                    fx.hit(Path::Resubmitted);
                    fx.returned.extend_from_slice(batch.commands());
                }
            }
        }
    }
}
