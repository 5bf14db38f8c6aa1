//! PreAccept: the owner proposes, the others vote with what they know, the owner decides between
//! the fast path and the slow one (protocol.md §4.1–§4.3). Before `accept`.

use std::sync::Arc;

use super::accept::Proposal;
use super::instances::Tally;
use super::{EPaxos, Fx, Message, Phase, Record};
use crate::protocol::{Path, View};
use crate::types::{Ballot, Batch, Deps, InstanceId, ReplicaId, ReplicaSet, Value};

impl EPaxos {
    /// §4.1: the owner proposes in a new slot.
    pub(super) fn start_pre_accept(
        &mut self,
        view: &View,
        batch: Arc<Batch>,
        fx: &mut Fx,
    ) -> InstanceId {
        // A slot of one's own that somebody else made up is left to be recovered.
        while self.store.instances.get(InstanceId::new(self.cx.me(), self.next_slot)).is_some() {
            self.next_slot += 1;
        }
        let id = InstanceId::new(self.cx.me(), self.next_slot);
        self.next_slot += 1;
        let mut deps = self.conflicts(batch.footprint());
        // It spares the slow path with those who have forgotten it already.
        deps.merge(self.marks.free_to_cover());
        deps.merge(&self.store.lost_by_others(&self.cx));
        self.note_silence(fx);
        let reserving = self.cx.settings.optimisations.reserved_slots > 0;
        let reserved = reserving.then(|| self.reserve_for(id.slot, fx));
        let tally = Tally { voters: ReplicaSet::EMPTY, same: 0, union: deps.clone() };
        self.store.learn_payload(id, &batch, fx);
        let written = fx.append(Record::PreAccepted {
            id,
            batch: batch.clone(),
            initial: deps.clone(),
            deps: deps.clone(),
        });
        let instance = self.store.instances.entry(id);
        instance.phase = Phase::PreAccepted;
        instance.value = Some(Value::Batch(batch.clone()));
        instance.deps = deps.clone();
        instance.initial = Some((batch.clone(), deps.clone()));
        instance.tally = Some(Box::new(tally));
        instance.written = written;
        // The slot must never be used again; that it is used now, only this replica's own vote has
        // to know.
        fx.answer(written, self.cx.me(), Message::PreAcceptOk { id, deps: deps.clone() });
        let used = reserved.unwrap_or(written);
        fx.send(used, self.cx.others(), Message::PreAccept { id, batch, deps });
        self.look_again(view, id, 0);
        id
    }

    /// §4.2: a vote at the owner's ballot.
    pub(super) fn on_pre_accept(
        &mut self,
        from: ReplicaId,
        id: InstanceId,
        batch: &Arc<Batch>,
        initial: Deps,
        fx: &mut Fx,
    ) {
        if from != id.replica || from == self.cx.me() {
            return;
        }
        self.store.see(id.replica, id.slot);
        if self.store.instances.get(id).is_some_and(|i| i.is_committed()) {
            self.store.answer_commit(from, id, fx);
            return;
        }
        let instance = self.store.instances.entry(id);
        if !instance.ballot.is_owner() {
            return;
        }
        match instance.phase {
            Phase::Initial => {}
            Phase::PreAccepted => {
                let vote = Message::PreAcceptOk { id, deps: instance.deps.clone() };
                fx.answer(instance.written, from, vote);
                return;
            }
            Phase::Accepted | Phase::Committed => return,
        }
        let deps = self.vote_deps(id, batch, &initial);
        self.store.learn_payload(id, batch, fx);
        let written = fx.append(Record::PreAccepted {
            id,
            batch: batch.clone(),
            initial: initial.clone(),
            deps: deps.clone(),
        });
        let instance = self.store.instances.entry(id);
        instance.phase = Phase::PreAccepted;
        instance.value = Some(Value::Batch(batch.clone()));
        instance.deps = deps.clone();
        instance.initial = Some((batch.clone(), initial));
        instance.written = written;
        fx.answer(written, from, Message::PreAcceptOk { id, deps });
    }

    /// `Dq`: the owner's dependencies and whatever else conflicts here.
    fn vote_deps(&self, id: InstanceId, batch: &Batch, initial: &Deps) -> Deps {
        let mut deps = self.conflicts(batch.footprint());
        // The owner knows its own earlier instances better than anybody, and later ones will cover
        // this one themselves; so its own component stands.
        deps.set(id.replica, 0);
        deps.merge(initial);
        deps
    }

    /// §4.3: the owner counts.
    pub(super) fn on_pre_accept_ok(
        &mut self,
        view: &View,
        from: ReplicaId,
        id: InstanceId,
        deps: &Deps,
        fx: &mut Fx,
    ) {
        if id.replica != self.cx.me() {
            return;
        }
        #[cfg(test)]
        self.count_late_if_planted(id, deps);
        let Some(instance) = self.store.instances.get_mut(id) else { return };
        if instance.phase != Phase::PreAccepted || !instance.ballot.is_owner() {
            return;
        }
        let Some(tally) = instance.tally.as_mut() else { return };
        if !tally.voters.insert(from) {
            return;
        }
        tally.same += usize::from(*deps == instance.deps);
        tally.union.merge(deps);
        self.decide_path(view, id, false, fx);
    }

    /// Fast, slow, or still waiting. `timed_out`: the fast path has had its time.
    pub(super) fn decide_path(
        &mut self,
        view: &View,
        id: InstanceId,
        timed_out: bool,
        fx: &mut Fx,
    ) {
        let (me, quorums) = (self.cx.me(), self.cx.settings.quorums);
        #[cfg(test)]
        let fast = quorums.fast() - usize::from(self.planted(super::Plant::SmallFastQuorum));
        #[cfg(not(test))]
        let fast = quorums.fast();
        let Some(instance) = self.store.instances.get_mut(id) else { return };
        let Some(tally) = instance.tally.as_ref() else { return };
        // The owner's own vote counts once it is durable, and no path goes without it.
        if instance.phase != Phase::PreAccepted || !tally.voters.contains(me) {
            return;
        }
        if tally.same >= fast {
            fx.hit(Path::FastCommit);
            self.commit_fast(view, id, fx);
            return;
        }
        let votes = tally.voters.len();
        let out_of_reach = votes - tally.same > quorums.e || votes >= fast;
        if votes >= quorums.slow() && (out_of_reach || timed_out) {
            fx.hit(if out_of_reach { Path::SlowPath } else { Path::FastTimeout });
            let union = tally.union.clone();
            let value = instance.value.clone().expect("a pre-accepted instance has a value");
            // Once per ballot: from here on the phase is Accepted, and late votes change nothing.
            let proposal = Proposal { ballot: Ballot::OWNER, value, deps: union };
            self.start_accept(id, proposal, fx);
        }
    }
}
