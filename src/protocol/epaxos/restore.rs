//! Restore: a replica that comes back is what its records make it (protocol.md §7).
//!
//! It may have known more before it stopped, but nothing that it said: what is said waits for its
//! records. What it led at ballots of recoveries is over; a fresh ballot is taken if need be. Its
//! own proposals it takes up where their records end: the votes are counted anew, and those who
//! have voted vote the same again. Those of which it may have said more (`orphans`, `reserve`) are
//! recovered instead.

use super::accept::Proposal;
use super::instances::Tally;
use super::{EPaxos, Fx, Message, Phase, Record};
use crate::protocol::{Path, View};
use crate::types::{Ballot, Decision, InstanceId, ReplicaId, ReplicaSet, Value, Written};

impl EPaxos {
    /// Takes in one record, in the order in which they were appended.
    pub(super) fn restore_record(&mut self, record: Record, fx: &mut Fx) {
        match record {
            Record::PreAccepted { id, batch, initial, deps } => {
                self.store.learn_payload(id, &batch, fx);
                let instance = self.store.instances.entry(id);
                instance.phase = Phase::PreAccepted;
                instance.value = Some(Value::Batch(batch.clone()));
                instance.deps = deps;
                instance.initial = Some((batch, initial));
            }
            Record::Accepted { id, ballot, value, deps } => {
                self.note_accepted(id, &Proposal { ballot, value, deps }, fx);
            }
            Record::Reserved { up_to } => self.reserve.restore(up_to),
            Record::Silent { up_to } => self.silent = up_to,
            Record::Agreed { cut } => self.cuts.restore(&cut),
            Record::Learned { id, batch } => self.store.learn_payload(id, &batch, fx),
            Record::Joined { id, ballot } => self.store.instances.entry(id).join(ballot),
            Record::Validated { id, batch, initial, .. } => {
                self.store.learn_payload(id, &batch, fx);
                self.store.instances.entry(id).initial = Some((batch, initial));
            }
            Record::Committed { id, value, deps } => {
                self.restore_decision(Decision::owned(id, value, deps), fx);
            }
        }
    }

    fn restore_decision(&mut self, decision: Decision, fx: &mut Fx) {
        let Decision { id, value, deps, .. } = decision.clone();
        match &value {
            Value::Batch(batch) => self.store.learn_payload(id, batch, fx),
            Value::Nop if self.store.instances.entry(id).payload.is_none() => {
                self.store.note_unseen(id);
            }
            Value::Nop => {}
        }
        for (owner, slot) in deps.iter() {
            self.store.see(owner, slot);
        }
        let instance = self.store.instances.entry(id);
        instance.phase = Phase::Committed;
        instance.value = Some(value);
        instance.deps = deps;
        fx.decide(Written::default(), decision);
        self.store.advance_known(id.replica);
    }

    /// All records are in: slots in use are not used again, and own proposals are taken up.
    pub(super) fn resume(&mut self, view: &View, fx: &mut Fx) {
        let me = self.cx.me();
        for owner in ReplicaId::all(self.cx.n()) {
            let last = self.store.instances.above(owner, 0).last().map_or(0, |(id, _)| id.slot);
            self.store.see(owner, last);
        }
        self.store.see(me, self.reserve.earlier);
        self.next_slot = self.store.highest_of(me) + 1;
        self.born = self.next_slot;
        self.end_silence(fx);
        let known = self.store.known_of(me);
        let open =
            self.store.instances.above(me, known).filter(|(_, instance)| !instance.is_committed());
        let open: Vec<InstanceId> = open.map(|(id, _)| id).collect();
        for id in open {
            // What is lost has its turn below, like the lost slots that left no trace.
            if self.is_lost(id) {
                continue;
            }
            if self.is_left_behind(id) {
                fx.hit(Path::Orphan);
                self.start_recovery(view, id, fx);
            } else if self.store.instances.get(id).is_some_and(|i| i.ballot.is_owner()) {
                self.resume_own(view, id, fx);
            }
        }
        self.recover_lost(view, fx);
    }

    /// Whether nobody can finish an own instance but by a recovery, which need not wait.
    fn is_left_behind(&self, id: InstanceId) -> bool {
        #[cfg(test)]
        if self.planted(super::Plant::OrphanResumed) {
            return false;
        }
        self.is_orphan(id)
    }

    /// An own proposal at the owner's ballot: nobody was told more of it than its records say.
    fn resume_own(&mut self, view: &View, id: InstanceId, fx: &mut Fx) {
        let me = self.cx.me();
        let instance = self.store.instances.entry(id);
        let own_vote = match instance.phase {
            Phase::PreAccepted => {
                let deps = instance.deps.clone();
                let (voters, union) = (ReplicaSet::EMPTY, deps.clone());
                instance.tally = Some(Box::new(Tally { voters, same: 0, union }));
                Message::PreAcceptOk { id, deps }
            }
            Phase::Accepted => Message::AcceptOk { id, ballot: Ballot::OWNER },
            Phase::Initial | Phase::Committed => return,
        };
        fx.answer(Written::default(), me, own_vote);
        self.send_again(id, fx);
        self.look_again(view, id, 0);
    }
}
